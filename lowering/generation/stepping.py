"""From a decoder to the programs of its steps, each held against the model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from frontend.decoder.embedding import ROWS, Embedding
from frontend.decoder.encode_step import EncodeStep
from frontend.decoder.part import HIDDEN, DecoderPart
from frontend.decoder.probing import MODEL_ERRORS, Decoder
from frontend.decoder.source import LENGTH
from frontend.decoder.step import NEW, CacheForm, CallForm, DecoderStep, Rooms
from frontend.errors import AnePassesError, CaptureError
from frontend.program import runnable
from lowering.generation.contract import ENCODE
from lowering.generation.errors import GenerationError
from lowering.generation.overflows import Overflow, Watcher
from lowering.generation.reference import Reference
from lowering.generation.settings import WantedFunction
from passes.api import optimize_for_ane
from passes.base import Pass
from passes.optimized_model import OptimizedModel

# Tokens that every function is checked on, and rings that are checked all the way round; longer
# ones would take longer to check than to export.
_CHECKED_TOKENS = 9
_CHECKED_RING = 64
_CALLS = 4  # on which a conversion may judge what float16 spoils
# Largest error of a logit, in standard deviations of the logits: float32 sums in another order
# stay far below it, a wrong mask, position or row far above.
_TOLERANCE = 2e-3


Call = tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]
"""The inputs of a call by name, and the states before it where they are not empty."""


@dataclass(frozen=True)
class CheckedStep:
    """An optimised step and how it may be used.

    Attributes:
        function: what was asked for.
        model: the step after the passes.
        padded, from_start: as in ``contract.StepContract``; found by trying.
        overflows: values that float16 has no room for.
        calls: inputs by name of a few calls on an empty cache, each with the states before it; and
            of recurrent layers the last call of all, by which their states have grown.
    """

    function: WantedFunction
    model: OptimizedModel
    padded: bool
    from_start: bool
    overflows: tuple[Overflow, ...]
    calls: tuple[Call, ...]


def checked_tokens(rooms: Rooms, context: int, tokens: int = 1) -> int:
    """How many tokens to check a step of ``tokens`` on: two steps, rings all the way round."""
    rings = [ring for ring in rooms.rings if ring <= _CHECKED_RING]
    return min(context, max([_CHECKED_TOKENS, 2 * tokens, *(ring + 3 for ring in rings)]))


def call_forms(decoder: Decoder) -> tuple[CallForm, ...]:
    """Ways to call the model, the usual one first."""
    positions = (True, False) if decoder.named("position_ids") in decoder.takes else (False,)
    masks = (False, True) if decoder.named("attention_mask") in decoder.takes else (False,)
    plain = [CallForm(position, mask) for mask in masks for position in positions]
    full = [CallForm(position, True, looks_full=True) for position in positions]
    hiding = [CallForm(position, False, hides_rows=True) for position in positions]
    return (*plain, *(full if any(masks) else ()), *hiding)


class Stepper:
    """Makes programs for one decoder; which call form works is found at the first.

    Args:
        model: as the user gave it; left alone.
        decoder: what it keeps.
        rooms: where.
        form: of the cache.
        pipeline: passes for every step.
        context: tokens that fit.
        longest: tokens of the longest step.
        embedding: the module whose rows come in from outside; ``None`` where the ids do.
        part: the layers that run, all by default; the others' work is the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: Decoder,
        rooms: Rooms,
        form: CacheForm,
        pipeline: Sequence[Pass],
        context: int,
        longest: int,
        embedding: Embedding | None = None,
        part: DecoderPart | None = None,
    ) -> None:
        self._part = part
        self._model, self._decoder, self._rooms = model, decoder, rooms
        self._form, self._pipeline, self._embedding = form, tuple(pipeline), embedding
        self._forms = call_forms(decoder)
        checked = checked_tokens(rooms, context, longest)
        layers = None if part is None else part.layers
        self._reference = Reference(model, decoder, checked, layers)
        self._start = {name: torch.zeros(shape) for name, shape in rooms.shapes.items()}
        self._given: dict[str, torch.Tensor] = {}
        if decoder.source is not None:
            step = EncodeStep(model, decoder, rooms, "state").eval()
            inputs = step.example_inputs()
            with torch.no_grad():
                step(**inputs)
            self._start = {name: step.get_buffer(name) for name in rooms.shapes}
            self._given = {LENGTH: inputs[LENGTH]} if LENGTH in inputs else {}

    def encoder(self) -> OptimizedModel:
        """The program that reads the source.

        Raises:
            CaptureError: the encoder cannot be captured.
            GenerationError: it says something else than the model's.
        """
        step = EncodeStep(self._model, self._decoder, self._rooms, self._form).eval()
        inputs = step.example_inputs()
        optimized = optimize_for_ane(step, kwargs=inputs, pipeline=self._pipeline)
        module = runnable(optimized.program)
        with torch.no_grad():
            results = module(**inputs)
        names = [str(name) for name in optimized.program.graph_signature.user_outputs]
        found = dict(zip(names, results, strict=True))
        for name, expected in self._start.items():
            got = found[name + NEW] if self._form == "io" else module.get_buffer(name)
            error = float((got - expected).abs().max() / (expected.std() or 1.0))
            if not error <= _TOLERANCE:
                raise GenerationError(
                    f"{ENCODE}: what the encoder leaves in {name} differs from the model's",
                    expected=f"within {_TOLERANCE} of its standard deviation",
                    found=f"{error:.2g}",
                    hint="report this model",
                )
        return optimized

    def program(self, function: WantedFunction) -> CheckedStep:
        """The program of one function.

        Raises:
            CaptureError: no way to call the model can be captured.
            GenerationError: none says what the model says without a cache.
        """
        failures: list[AnePassesError] = []
        for form in self._forms:
            try:
                self.check(function, form)
            except (CaptureError, GenerationError) as error:
                failures.append(error)
                continue
            try:
                found = self._program(function, form)
            except (CaptureError, GenerationError) as error:
                failures.insert(0, error)  # this call was right, so that it says more
                continue
            self._forms = (form,)
            return found
        raise failures[0]

    def check(self, function: WantedFunction, form: CallForm) -> tuple[bool, bool]:
        """Calls the model in torch as ``form`` says; much cheaper than to capture it.

        Returns:
            ``padded`` and ``from_start``, see ``contract.StepContract``.

        Raises:
            CaptureError: it cannot be called so.
            GenerationError: it says something else than without a cache.
        """
        return self._measured(self._run(lambda: self._step(function, form), function), function)

    def _program(self, function: WantedFunction, form: CallForm) -> CheckedStep:
        step = self._step(function, form)
        inputs = step.example_inputs(function.last)
        optimized = optimize_for_ane(step, kwargs=inputs, pipeline=self._pipeline)
        run = self._run(lambda: runnable(optimized.program), function)
        run.names = [str(n) for n in optimized.program.graph_signature.user_outputs]
        padded, from_start = self._measured(run, function)
        calls: list[Call] = [(inputs | fed, {}) for fed in self._texts(function.tokens)]
        if run.last is not None:
            calls.append(run.last)
        overflows = tuple(run.overflows.values())
        return CheckedStep(function, optimized, padded, from_start, overflows, tuple(calls))

    def _texts(self, tokens: int) -> list[dict[str, torch.Tensor]]:
        """What a step of some of the checked tokens reads."""
        ids = self._reference.ids
        starts = range(min(_CALLS, ids.shape[1] - tokens + 1))
        return [self._fed(ids[:, at : at + tokens], at) for at in starts]

    def _run(self, make: Callable[[], nn.Module], function: WantedFunction) -> _Run:
        return _Run(
            make,
            function,
            self._start,
            self._given,
            io=self._form == "io",
            keeps=self._decoder.is_recurrent,
            fed=self._fed,
        )

    def _fed(self, ids: torch.Tensor, position: int) -> dict[str, torch.Tensor]:
        """What a step reads of ``ids`` (1, tokens): themselves, their rows, or hidden numbers."""
        if self._part is not None and not self._part.is_first:
            rows = self._reference.hidden[self._part.begin - 1][position : position + ids.shape[1]]
            missing = ids.shape[1] - len(rows)
            return {HIDDEN: torch.nn.functional.pad(rows, (0, 0, 0, missing)).unsqueeze(0)}
        if self._embedding is not None:
            return {ROWS: self._embedding.rows(ids)}
        return {"input_ids": ids.int()}

    def _step(self, function: WantedFunction, form: CallForm) -> DecoderStep:
        rooms = self._rooms.limited(function.context)
        return DecoderStep(
            self._model,
            self._decoder,
            rooms=rooms,
            tokens=function.tokens,
            form=self._form,
            call=form,
            best=function.best,
            embedding=self._embedding,
            part=self._part,
        ).eval()

    def _measured(self, run: _Run, function: WantedFunction) -> tuple[bool, bool]:
        """Whether the step's tokens may be padded, and whether it must start a text."""
        recurrent = self._decoder.is_recurrent
        padded = function.pads and not recurrent
        from_start = False
        try:
            error = self._error(run, function, padded)
            if error > _TOLERANCE and recurrent and function.tokens > 1:
                # Many recurrent layers start a run of tokens from nothing, whatever came before.
                from_start = True
                error = self._error(run, function, padded, only_first=True)
        except MODEL_ERRORS as raised:
            raise CaptureError(
                f"{function.name}: the model cannot be called with a cache of fixed length",
                op=type(self._model).__name__,
                found=f"{type(raised).__name__}: {(str(raised) or 'no message').splitlines()[0]}",
                hint="report this model; every model of transformers' Cache protocol is meant to "
                "work",
            ) from raised
        if not error <= _TOLERANCE:
            raise GenerationError(
                f"{function.name}: with its cache in the package, the model says something else "
                "than without",
                expected=f"logits within {_TOLERANCE} of their standard deviation",
                found=f"{error:.2g}",
                hint=self._other_ways(),
            )
        return padded, from_start

    def _other_ways(self) -> str:
        """What to try where the model says something else with its cache in the package."""
        if self._embedding is not None:
            return (
                "leave the table in the package: embeddings='inside'; where that works, the "
                "model reads token ids in more places than its embedding"
            )
        if self._rooms.rings:
            return (
                "keep the whole context: window='full' (--window full); where that works, the "
                "model looks further than the window that it tells its cache"
            )
        return "report this model; its cache is used in a way that is not known yet"

    def _error(
        self, run: _Run, function: WantedFunction, padded: bool, only_first: bool = False
    ) -> float:
        """Largest error over the checked tokens, fed as the generator would."""
        reference = self._reference
        total = checked_tokens(self._rooms, function.context, function.tokens)
        run.reset()
        at, worst = 0, 0.0
        while at < total:
            count = min(function.tokens, total - at)
            if padded and at == 0 and count > 2:
                count -= 1  # a short prompt, junk behind it
            if self._crosses(at, function.tokens):
                break
            ids = reference.ids[:, at : at + count]
            if count < function.tokens:
                if not padded:
                    break
                ids = torch.nn.functional.pad(ids, (0, function.tokens - count))
            said = {name: rows[:count] for name, rows in run(ids, at, count).items()}
            start = at + count - 1 if function.last else at
            if self._part is not None and HIDDEN in said:
                error = reference.error_of_part(said[HIDDEN], start, self._part.end)
            else:
                error = reference.error_of(said, start)
            worst = max(worst, error)
            at += count
            if only_first or at + function.tokens > function.context:
                break
        return worst

    def _crosses(self, position: int, tokens: int) -> bool:
        rings = () if self._form == "state-blend" else self._rooms.rings
        return any(position % ring + tokens > ring for ring in rings)


class _Run:
    """A step, run in torch with a cache of its own.

    Args:
        make: the step, a module or a program.
        function: which it is.
        start: the cache before the first token.
        given: inputs that are the same at every step.
        io: whether the cache goes in and comes out.
        keeps: whether the newest call is kept, with the states before it.
        fed: what the step reads of (1, tokens) ids from a position on.
    """

    names: list[str] | None = None  # of a program's results, which come as a tuple

    def __init__(
        self,
        make: Callable[[], nn.Module],
        function: WantedFunction,
        start: Mapping[str, torch.Tensor],
        given: Mapping[str, torch.Tensor],
        io: bool,
        keeps: bool,
        fed: Callable[[torch.Tensor, int], dict[str, torch.Tensor]],
    ) -> None:
        self._make, self._function, self._io, self._keeps = make, function, io, keeps
        self._fed = fed
        self._start, self._given = start, given
        self.overflows: dict[str, Overflow] = {}  # of a program, by value
        self._stored: set[str] = set()
        self.last: Call | None = None  # of a program

    def reset(self) -> None:
        """A cache without tokens."""
        self._module = self._make()
        self._states = {name: start.clone() for name, start in self._start.items()}
        if not self._io:
            # A function that starts a text anew may read no state at all.
            buffers = dict(self._module.named_buffers())
            for name, start in self._states.items():
                if name in buffers:
                    buffers[name].copy_(start)

    def __call__(self, ids: torch.Tensor, position: int, count: int) -> dict[str, torch.Tensor]:
        """``logits`` (tokens, vocabulary), or (1, vocabulary) where the function returns one
        token's; of the best alone with their ``tokens``; of a part ``hidden`` (tokens, width)."""
        place = torch.tensor([position]).int()
        inputs = {**self._fed(ids, position), "position": place, **self._given}
        if self._function.last:
            inputs["last"] = torch.tensor([count - 1]).int()
        if self._io:
            inputs |= self._states
        with torch.no_grad():
            found = self._called(inputs)
        if self._io:
            self._states = {name: found[name + NEW] for name in self._states}
        said = {"logits": "logits", "tokens": "tokens", HIDDEN: HIDDEN + NEW}
        return {name: found[output][0] for name, output in said.items() if output in found}

    def _called(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Results by name; those of a program are looked at one by one."""
        if self.names is None:
            results: dict[str, torch.Tensor] = self._module(**inputs)
            return results
        assert isinstance(self._module, fx.GraphModule)
        if self._keeps:
            buffers = dict(self._module.named_buffers())
            before = {name: buffers[name].clone() for name in self._states if name in buffers}
            self.last = (inputs, before)
        watcher = Watcher(self._module, self._function.name, self.overflows, self._stored)
        return dict(zip(self.names, watcher.called(inputs), strict=True))
