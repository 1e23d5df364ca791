"""From a decoder to the programs of its steps, each held against the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from frontend.decoder.probing import Decoder, logits_of
from frontend.decoder.step import NEW, CacheForm, CallForm, DecoderStep, Rooms
from frontend.errors import AnePassesError, CaptureError
from frontend.program import runnable
from frontend.surroundings import inference_mode
from lowering.generation.errors import GenerationError
from lowering.generation.settings import WantedFunction
from passes.api import optimize_for_ane
from passes.base import Pass
from passes.optimized_model import OptimizedModel

# Tokens that every function is checked on, and rings that are checked all the way round; longer
# ones would take longer to check than to export.
_CHECKED_TOKENS = 9
_CHECKED_RING = 64
# Largest error of a logit, in standard deviations of the logits: float32 sums in another order
# stay far below it, a wrong mask, position or row far above.
_TOLERANCE = 2e-3


@dataclass(frozen=True)
class CheckedStep:
    """An optimised step and how it may be used.

    Attributes:
        function: what was asked for.
        model: the step after the passes.
        padded, from_start: as in ``contract.StepContract``; found by trying.
    """

    function: WantedFunction
    model: OptimizedModel
    padded: bool
    from_start: bool


class Reference:
    """Logits of the model itself, without a cache.

    Args:
        model: as the user gave it.
        decoder: what it keeps.
        tokens: how many to compute, at most.
    """

    def __init__(self, model: nn.Module, decoder: Decoder, tokens: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(decoder.vocabulary, (1, tokens), generator=draw)
        with inference_mode(model), torch.no_grad():
            self.logits = logits_of(model(input_ids=self.ids, use_cache=False))[0]
        self._unit = float(self.logits.std()) or 1.0

    def error(self, logits: torch.Tensor, start: int) -> float:
        """Largest error of (tokens, vocabulary) from ``start``, in standard deviations."""
        expected = self.logits[start : start + len(logits)]
        difference = (logits - expected).abs().max()
        return float(difference) / self._unit


def checked_tokens(rooms: Rooms, context: int, tokens: int = 1) -> int:
    """How many tokens to check a step of ``tokens`` on: two steps, rings all the way round."""
    rings = [ring for ring in rooms.rings if ring <= _CHECKED_RING]
    return min(context, max([_CHECKED_TOKENS, 2 * tokens, *(ring + 3 for ring in rings)]))


def call_forms(decoder: Decoder) -> tuple[CallForm, ...]:
    """Ways to call the model, the usual one first."""
    positions = (True, False) if "position_ids" in decoder.takes else (False,)
    masks = (False, True) if "attention_mask" in decoder.takes else (False,)
    return tuple(CallForm(position, mask) for mask in masks for position in positions)


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
    ) -> None:
        self._model, self._decoder, self._rooms = model, decoder, rooms
        self._form, self._pipeline = form, tuple(pipeline)
        self._forms = call_forms(decoder)
        self._reference = Reference(model, decoder, checked_tokens(rooms, context, longest))

    def program(self, function: WantedFunction) -> CheckedStep:
        """The program of one function.

        Raises:
            CaptureError: no way to call the model can be captured.
            GenerationError: none says what the model says without a cache.
        """
        failures: list[AnePassesError] = []
        for form in self._forms:
            try:
                found = self._program(function, form)
            except (CaptureError, GenerationError) as error:
                failures.append(error)
                continue
            self._forms = (form,)
            return found
        raise failures[0]

    def _program(self, function: WantedFunction, form: CallForm) -> CheckedStep:
        rooms = self._rooms.limited(function.context)
        step = DecoderStep(
            self._model, self._decoder, rooms, function.tokens, self._form, form
        ).eval()
        inputs = step.example_inputs(function.last)
        optimized = optimize_for_ane(step, kwargs=inputs, pipeline=self._pipeline)
        run = _Run(optimized, function, self._rooms, self._form == "io")
        recurrent = self._decoder.is_recurrent
        padded = function.last and not recurrent
        from_start = False
        error = self._error(run, function, padded)
        if error > _TOLERANCE and recurrent and function.tokens > 1:
            # Many recurrent layers start a run of tokens from nothing, whatever came before.
            from_start = True
            error = self._error(run, function, padded, only_first=True)
        if not error <= _TOLERANCE:
            raise GenerationError(
                f"{function.name}: with its cache in the package, the model says something else "
                "than without",
                expected=f"logits within {_TOLERANCE} of their standard deviation",
                found=f"{error:.2g}",
                hint="report this model; its cache is used in a way that is not known yet",
            )
        return CheckedStep(function, optimized, padded, from_start)

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
            logits = run(ids, at, count)
            start = at + count - 1 if function.last else at
            worst = max(worst, reference.error(logits[:count], start))
            at += count
            if only_first or at + function.tokens > function.context:
                break
        return worst

    def _crosses(self, position: int, tokens: int) -> bool:
        rings = () if self._form == "state-blend" else self._rooms.rings
        return any(position % ring + tokens > ring for ring in rings)


class _Run:
    """A step's program, run in torch with a cache of its own."""

    def __init__(
        self, optimized: OptimizedModel, function: WantedFunction, rooms: Rooms, io: bool
    ) -> None:
        self._program, self._function = optimized.program, function
        self._rooms, self._io = rooms, io

    def reset(self) -> None:
        """An empty cache."""
        self._module = runnable(self._program)
        self._states = {n: torch.zeros(s) for n, s in self._rooms.shapes.items()}

    def __call__(self, ids: torch.Tensor, position: int, count: int) -> torch.Tensor:
        """(tokens, vocabulary), or (1, vocabulary) where the function returns one token's."""
        inputs = {"input_ids": ids.int(), "position": torch.tensor([position]).int()}
        if self._function.last:
            inputs["last"] = torch.tensor([count - 1]).int()
        if self._io:
            inputs |= self._states
        with torch.no_grad():
            results = self._module(**inputs)
        names = self._program.graph_signature.user_outputs
        found = dict(zip(names, results, strict=True))
        if self._io:
            self._states = {name: found[name + NEW] for name in self._states}
        logits = found["logits"][0]
        assert isinstance(logits, torch.Tensor)
        return logits
