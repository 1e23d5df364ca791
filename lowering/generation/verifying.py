"""Holds an exported package against its decoder: known tokens, function after function."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from frontend.decoder.probing import Decoder, logits_of, probe
from frontend.decoder.step import Rooms, rooms
from frontend.surroundings import inference_mode
from lowering.generation.contract import Contract, SourceContract
from lowering.generation.functions import Functions
from lowering.generation.held import HeldDecoder, stepper_of
from lowering.generation.reference import Reference
from lowering.generation.settings import WantedFunction
from lowering.generation.stepping import Stepper
from lowering.package.open import MAIN
from lowering.reference import Precision
from lowering.verification import package_values
from lowering.verification.decoded import Compressed, Lost
from lowering.verification.locating import Before, located
from lowering.verification.original import (
    HALF_ERRORS,
    Original,
    VerificationError,
    halved,
    passes_of,
    private_copy,
)
from lowering.verification.package_values import declares_fp16
from lowering.verification.parity import Parity, Thresholds, parity, rel_l2
from lowering.verification.result import Verification
from passes.base import Pass

# Every function is called so often where nothing else is asked for: on an empty cache, and on what
# others left.
_ROUNDS = 3


@dataclass(frozen=True)
class _Call:
    """One call of a text.

    Attributes:
        function: its name.
        text: which text it is of; each starts with an empty cache.
        position: how many tokens are in the cache.
        count: how many it adds.
    """

    function: str
    text: int
    position: int
    count: int


def verify_decoder(
    package: str | os.PathLike[str],
    model: nn.Module,
    *,
    steps: int | None = None,
    function: str = MAIN,
    precision: str | Precision = "fp16",
    thresholds: Thresholds | None = None,
    known_passes: Sequence[type[Pass]] = (),
    locate: bool = True,
) -> Verification:
    """Runs a package on known tokens and holds its logits against the model's, call after call.

    The functions take turns, each going on from the cache that the others left; where no token
    fits any more, another text starts. A function that takes tokens behind which there may be junk
    gets some at its first call.

    A package with compressed weights is held against the model's programs with the weights that it
    decodes, each of which must be one of the model's within the bound of its form.

    Args:
        package: what ``export_decoder`` wrote.
        model: the decoder that it was made from; left as it is.
        steps: how many calls; by default three for each function.
        function: this one alone, all of them by default.
        precision: how the package is computed, see ``lowering.load``.
        thresholds: what is close enough; at fp16 the yardstick is the model in half precision.
        known_passes: classes of your own passes that the package may name.
        locate: on failure, look for the operator and the pass at fault.

    Returns:
        The worst error of each function's logits; on failure that of the first call that failed.

    Raises:
        GenerationError: the package was not made by ``export_decoder``.
        VerificationError: model and package do not belong together, or there is no such function.
        CaptureError: the model is no decoder.
    """
    functions = Functions(package, precision)
    contract = functions.contract
    names = _chosen(contract, function)
    if steps is not None and steps < 1:
        raise VerificationError(
            "a verification takes one step or more", expected="steps=N from 1 on", found=str(steps)
        )
    decoder, place = _decoder(contract, model)
    calls = list(_schedule(functions, names, steps or _ROUNDS * len(names)))
    sides = _Sides(model, decoder, calls, declares_fp16(functions.loaded(names[0])))
    thresholds = thresholds or Thresholds()
    held = None
    if functions.loaded(names[0]).is_compressed:
        passes = passes_of(None, functions.loaded(names[0]).metadata, known_passes)
        path = Path(os.fspath(package)).expanduser()
        held = HeldDecoder(path, contract, model, decoder, place, passes, names)
    worst: dict[str, Parity] = {}
    lost: dict[str, Lost] = {}
    found = Verification((), Precision.of(precision).value)
    for number, call in enumerate(calls, start=1):
        if call.position == 0:
            _start(functions, decoder, held)
        before = functions.states()
        ids = sides.ids[call.position : call.position + call.count]
        inputs = functions.inputs(call.function, ids, call.position)
        logits = torch.from_numpy(functions.step(call.function, ids, call.position))
        best = contract.steps[call.function].best
        wanted = sides.exact(call, len(logits))
        if held is not None:
            own, wanted = wanted, held.logits(call.function, inputs)[: len(logits)]
            if best is None:
                lost.setdefault(call.function, _lost(call.function, logits, wanted, own))
        item = sides.parity(call, logits, wanted, best, thresholds)
        last = worst.get(call.function)
        if last is None or not item.rel_l2 / item.threshold <= last.rel_l2 / last.threshold:
            worst[call.function] = item
        found = replace(
            found,
            outputs=tuple(worst.values()),
            step=number,
            steps=len(calls),
            functions=tuple(call.function for call in calls),
            compression=None
            if held is None
            else Compressed(tuple(held.weights.values()), tuple(lost.values())),
        )
        if not found.passed:
            # The parts of a chain are looked into one by one, with predict.
            if not locate or held is not None or contract.parts:
                return found
            passes = passes_of(None, functions.loaded(call.function).metadata, known_passes)
            stepper = stepper_of(contract, model, decoder, place, passes)
            return _located(found, package, functions, stepper, call, before, inputs)
    return found


def _chosen(contract: Contract, function: str) -> list[str]:
    if function == MAIN:
        return list(contract.steps)
    if function not in contract.steps:
        raise VerificationError(
            "the package has no such function for tokens",
            expected=f"one of {', '.join(contract.steps)}",
            found=function,
            hint="an encoder is run before each of them",
        )
    return [function]


def _decoder(contract: Contract, model: nn.Module) -> tuple[Decoder, Rooms]:
    """What the model keeps, and where in the package."""
    decoder = probe(model, _example(contract.source))
    place = rooms(decoder, contract.context, contract.longest, ring=bool(contract.rings))
    mine = {"vocabulary": decoder.vocabulary, **place.shapes}
    theirs = {"vocabulary": contract.vocabulary, **contract.states}
    if mine != theirs:
        raise VerificationError(
            "the package was made from another model",
            expected=", ".join(f"{name} {value}" for name, value in theirs.items()),
            found=", ".join(f"{name} {value}" for name, value in mine.items()),
            hint="give the model that was exported",
        )
    return decoder, place


def _example(source: SourceContract | None) -> int | torch.Tensor | None:
    if source is None:
        return None
    return source.shape[1] if source.is_text else torch.zeros(source.shape)


def _schedule(functions: Functions, names: Sequence[str], steps: int) -> Iterator[_Call]:
    """The calls: of the functions that fit the one called least, the longest of these."""
    contract = functions.contract
    made = dict.fromkeys(names, 0)
    text = position = 0
    for _ in range(steps):
        fitting = _fitting(functions, names, position)
        if not fitting:
            text, position = text + 1, 0
            fitting = _fitting(functions, names, position)
        if not fitting:
            raise VerificationError(
                "the function cannot start a text, so there is nothing to hold it against",
                found=", ".join(names),
                hint="verify all functions together",
            )
        name = min(fitting, key=lambda one: (made[one], -contract.steps[one].tokens))
        step = contract.steps[name]
        count = step.tokens
        if step.padded and not made[name] and count > 1:
            count -= 1
        yield _Call(name, text, position, count)
        made[name] += 1
        position += count


def _fitting(functions: Functions, names: Sequence[str], position: int) -> list[str]:
    steps = functions.contract.steps
    return [name for name in names if functions.fits(name, position, steps[name].tokens)]


def _start(functions: Functions, decoder: Decoder, held: HeldDecoder | None) -> None:
    calls = dict(functions.calls)
    functions.reset()
    read: dict[str, np.ndarray] = {}
    if (source := decoder.source) is not None:
        example = source.example()
        given = example[0, : int(source.example_length())] if source.is_text else example
        functions.encode(given.numpy())
        read = functions.source_inputs(given.numpy())
    functions.calls = calls
    if held is not None:
        held.start(read)


def _lost(function: str, package: torch.Tensor, held: torch.Tensor, model: torch.Tensor) -> Lost:
    """What compression costs the logits of one call."""
    return Lost(
        f"{function}: logits",
        total=rel_l2(package, model),
        weights=rel_l2(held, model),
        activations=0.0,
        rounding=rel_l2(package, held),
    )


class _Sides:
    """The model's own logits, in float32 and in half precision, without a cache.

    Args:
        model: as the user gave it.
        decoder: what it keeps.
        calls: all there will be; a longest text is computed, and each starts like it.
        half: whether the model in half precision is a yardstick.
    """

    def __init__(
        self, model: nn.Module, decoder: Decoder, calls: Sequence[_Call], half: bool
    ) -> None:
        tokens = max(call.position + call.count for call in calls)
        reference = Reference(model, decoder, tokens)
        self.ids: list[int] = reference.ids[0].tolist()
        self._exact = reference.logits
        self._is_fp16 = half
        self._half = _in_half(model, reference.given) if half else None

    def exact(self, call: _Call, count: int) -> torch.Tensor:
        """The model's logits of the last ``count`` tokens of one call."""
        end = call.position + call.count
        return self._exact[end - count : end]

    def parity(
        self,
        call: _Call,
        found: torch.Tensor,
        expected: torch.Tensor,
        best: int | None,
        thresholds: Thresholds,
    ) -> Parity:
        """How far the logits of one call, or of its ``best`` tokens, are from those expected."""
        end = call.position + call.count
        rows = slice(end - len(found), end)
        exact = self._exact[rows]
        half = None if self._half is None else self._half[rows]
        if best is not None:  # they are as good as their logits
            values, tokens = found.topk(best)
            found = expected.gather(1, tokens) if best == 1 else values
            expected = expected.topk(best).values
            half = None if half is None else half.topk(best).values
            exact = exact.topk(best).values
        yardstick = None if half is None else rel_l2(half, exact)
        allowed = thresholds.allowed(self._is_fp16, yardstick)
        name = f"{call.function}: logits"
        compared = parity(name, found, expected, allowed, yardstick)
        loose = thresholds.looseness(yardstick) if self._is_fp16 else ""
        return replace(compared, loose=loose)


def _in_half(model: nn.Module, given: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    copy = private_copy(model, half=True)
    try:
        with inference_mode(copy), torch.no_grad():
            inputs = {name: halved(tensor) for name, tensor in given.items()}
            return logits_of(copy(**inputs, use_cache=False))[0].float()
    except HALF_ERRORS:
        return None


def _located(
    found: Verification,
    package: str | os.PathLike[str],
    functions: Functions,
    stepper: Stepper,
    call: _Call,
    states: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
) -> Verification:
    """``found`` with the operator at which the failing call parts from the model's program."""
    step = functions.contract.steps[call.function]
    wanted = WantedFunction(
        call.function, step.tokens, step.context, step.last, step.padded, step.best
    )
    optimized = stepper.program(wanted).model
    original = Original.of(optimized).with_inputs(inputs)
    kept = {name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in states.items()}
    model = functions.loaded(call.function)
    state = model.make_state()
    for name in state:
        if name in states:
            state[name] = states[name]
    run = package_values.run(model, inputs, state)
    buffers = {
        name: kept[name] for name in optimized.program.graph_signature.buffers if name in kept
    }
    fresh = {name: np.zeros_like(state[name]) for name in state}
    before = Before(replace(original, buffers=buffers), {**fresh, **states})
    return located(found, os.fspath(package), model, before, run)
