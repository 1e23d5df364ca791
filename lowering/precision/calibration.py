"""Inputs that a package is judged on while it is made, and how wrong it may be on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from frontend.errors import InputError, first_line
from lowering.conversion.metadata import stored_in
from lowering.precision.ends import check_stated, end_calls, spans
from lowering.reference import ExecutionError, LoadedModel
from lowering.reference.model import Observer
from lowering.verification.image_inputs import with_nearest_images
from lowering.verification.original import HALF_ERRORS, Original, VerificationError
from lowering.verification.package_values import feed_of, output_values, returned
from lowering.verification.parity import Thresholds, rel_l2
from lowering.verification.sides import Sides
from lowering.verification.yardstick import overflows

# What is aimed at where something must stay in float32, as a share of what verify allows: other
# inputs than these are to be within it too.
_AIM = 0.5


@dataclass(frozen=True)
class Bound:
    """How wrong one output may be.

    Attributes:
        allowed: the relative L2 error that ``verify`` allows; where torch has no float16 result
            to compare with, what it always allows.
        aim: the error that pins are to reach.
    """

    allowed: float
    aim: float


# States have no yardstick, as in ``verify``.
_STATE = Bound(Thresholds.fp16_alone, Thresholds.fp16_alone * _AIM)


@dataclass(frozen=True)
class Sample:
    """One call, what it returns in float32, and how near a package must come.

    Attributes:
        words: which call it is.
        original: the program with these inputs.
        sides: its outputs by the package's names.
        states: the buffers that it writes, after the call.
        bounds: of each output, by name.
        is_given: the user has named these numbers; else they are the ends of what may come.
    """

    words: str
    original: Original
    sides: Sides
    states: Mapping[str, Tensor]
    bounds: Mapping[str, Bound]
    is_given: bool = True

    @classmethod
    def of(
        cls, words: str, original: Original, model: LoadedModel, *, is_given: bool = True
    ) -> Sample:
        """The call of ``original``, run in float32 and in half precision by torch.

        Args:
            words: which call it is.
            original: the program with the inputs of the call.
            model: any package of it; where it takes pictures, the inputs are what pictures become.
            is_given: see the class.
        """
        original = with_nearest_images(model, original)
        states, outputs = original.expected()
        names = [name for name, _ in output_values(model, original.program)]
        sides = Sides(names, outputs, original.in_half(), original.judges)
        return cls(words, original, sides, states, _bounds(original, sides), is_given)

    def shares(self, model: LoadedModel, *, aimed: bool = False) -> dict[str, float]:
        """Errors of outputs and states as shares of what is allowed, or of what is aimed at."""
        found = {}
        for name, error in self._errors(model).items():
            bound = self.bounds.get(name, _STATE)
            found[name] = error / (bound.aim if aimed else bound.allowed)
        return found

    def _errors(self, model: LoadedModel) -> dict[str, float]:
        try:
            found, states = self.returned(model)
        except ExecutionError:
            return dict.fromkeys(self.sides.expected, math.inf)
        errors = {}
        for name in found:
            have, want = self.sides.judged(name, found)
            errors[name] = math.inf if have is None else rel_l2(have, want)
        for buffer, value in states.items():
            errors[f"state {buffer}"] = rel_l2(value, self.states[buffer])
        return errors

    def returned(
        self, model: LoadedModel, observer: Observer | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What ``model`` makes of the call: outputs by name, and written buffers by theirs.

        Raises:
            ExecutionError: it cannot be run.
        """
        state = model.make_state()
        for stored in stored_in(model.metadata, self.original.buffers):
            if stored.name in state:
                state[stored.name] = self.original.buffers[stored.buffer].numpy()
        results = model.run(feed_of(model, self.original), state, observer)
        found = self.sides.named(returned(model, self.original.program, results))
        kept = {name: torch.as_tensor(state[name]) for name in state}
        states = {
            stored.buffer: stored.value(kept, self.states[stored.buffer])
            for stored in stored_in(model.metadata, self.states)
            if stored.name in kept
        }
        return found, states

    def expecting(self, model: LoadedModel) -> Sample:
        """The same call, whose results are to be those of ``model``.

        Raises:
            ExecutionError: it cannot be run.
        """
        found, states = self.returned(model)
        sides = Sides(tuple(found), tuple(found.values()), None, self.original.judges)
        return replace(self, sides=sides, states=states)


def samples_of(
    first: Original,
    model: LoadedModel,
    calibration: Sequence[object] = (),
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[Sample, ...]:
    """The calls that a package is judged on.

    They are the example, ``calibration``, and the example with its whole numbers at the ends of
    what they may be. An end that is only assumed and that the program refuses is left out.

    Args:
        first: the program with the example inputs.
        model: any package of it.
        calibration: the inputs of further calls: positional ones, or a mapping by name; or an
            ``Original`` of ``first``'s program, for a call on other states than it starts with.
        input_ranges: smallest and largest value of inputs, by name.

    Raises:
        VerificationError: calibration inputs do not fit.
        InputError: a range is of no input or the wrong way round, or the model refuses its end.
    """
    calls = [("the example", first)]
    calls += [
        (f"call {number}", given if isinstance(given, Original) else first.called(given))
        for number, given in enumerate(calibration, 2)
    ]
    found = [_call(words, original, model) for words, original in calls]
    example = first.inputs()
    stated = check_stated(dict(input_ranges or {}), example)
    for call in end_calls(example, spans(first.program, example, stated)):
        try:
            end = first.with_inputs(call.inputs)
            found.append(Sample.of(call.words, end, model, is_given=bool(stated)))
        except (*HALF_ERRORS, IndexError) as error:
            if "(assumed)" not in call.words:
                raise InputError(
                    "the model cannot be run at the end of an input's range",
                    found=f"{call.words}: {first_line(error)}",
                ) from error
    return tuple(found)


def _call(words: str, original: Original, model: LoadedModel) -> Sample:
    """The sample of a call that the user gave."""
    try:
        return Sample.of(words, original, model)
    except (*HALF_ERRORS, IndexError) as error:
        sizes = ", ".join(f"{name} {list(item.shape)}" for name, item in original.inputs().items())
        raise VerificationError(
            f"the model cannot be run on {words}, which tells what float16 would spoil",
            expected="inputs that the model takes",
            found=f"{sizes}: {first_line(error)}",
            hint="give calibration inputs of the sizes and dtypes of the example",
        ) from error


def worst(samples: Sequence[Sample], model: LoadedModel, *, aimed: bool = False) -> float:
    """The largest share that any output takes on any of the calls."""
    return max(max(sample.shares(model, aimed=aimed).values()) for sample in samples)


def _bounds(original: Original, sides: Sides) -> dict[str, Bound]:
    thresholds = Thresholds()
    yardsticks = sides.yardsticks()
    overflowed = False
    if not all(map(thresholds.is_tight, yardsticks)):
        overflowed = overflows(original)
    return {
        name: _bound(yardstick, overflowed)
        for name, yardstick in zip(sides.expected, yardsticks, strict=True)
    }


def _bound(yardstick: float | None, overflowed: bool) -> Bound:
    thresholds = Thresholds()
    allowed = thresholds.allowed(True, yardstick, overflowed)
    if yardstick is None or not math.isfinite(yardstick) or overflowed:
        allowed = min(allowed, thresholds.fp16_floor)
    loose = bool(thresholds.looseness(yardstick, overflowed))
    return Bound(allowed, min(allowed * _AIM, thresholds.fp16_floor if loose else math.inf))
