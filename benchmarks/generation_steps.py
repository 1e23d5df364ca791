"""A tiny decoder's steps as torch runs them, before any is converted: seconds, not minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from benchmarks.generation_configs import Tiny
from frontend.decoder.encode_step import EncodeStep
from frontend.decoder.probing import probe
from frontend.decoder.source import LENGTH
from frontend.decoder.step import CallForm, DecoderStep, rooms
from frontend.errors import AnePassesError
from lowering.generation.contract import StepContract
from lowering.generation.settings import WantedFunction, functions
from lowering.generation.stepping import Stepper, call_forms


class FirstOfEquals(TorchFunctionMode):
    """Of equal values ``topk`` takes the first, as the interpreter does.

    torch takes any, others in a longer tensor than in a shorter one; a model that looks at the
    tokens of the best scores alone, many of which are 0, would part from itself.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls ``func``; sorts in the place of ``topk``."""
        given = dict(kwargs or {})
        if func not in (torch.topk, torch.Tensor.topk):
            return func(*args, **given)
        names = dict(zip(("input", "k", "dim", "largest"), args, strict=False)) | given
        dim = names.get("dim", -1)
        order = torch.sort(
            names["input"], dim=dim, descending=names.get("largest", True), stable=True
        )
        values, places = (rows.narrow(dim, 0, names["k"]) for rows in order)
        return torch.return_types.topk((values, places))


class TorchGenerator:
    """As ``Generator``, greedily, with the steps that ``export_decoder`` would convert.

    Args:
        tiny: whose steps.
        prefill: tokens of the longest step.

    Raises:
        AnePassesError: the export would refuse the model.
    """

    def __init__(self, tiny: Tiny, prefill: int) -> None:
        self._decoder = probe(tiny.model, tiny.source)
        self._rooms = rooms(self._decoder, tiny.context, prefill)
        wanted = functions(tiny.context, prefill, 1)
        stepper = Stepper(
            tiny.model,
            self._decoder,
            rooms=self._rooms,
            form="state",
            pipeline=(),
            context=tiny.context,
            longest=prefill,
        )
        self._states = {name: torch.zeros(shape) for name, shape in self._rooms.shapes.items()}
        self._steps = [self._checked(stepper, function, tiny) for function in wanted]
        self._encoder = None
        if self._decoder.source is not None:
            self._encoder = EncodeStep(tiny.model, self._decoder, self._rooms, "state").eval()
            self._share(self._encoder)
        self.reset()

    def reset(self) -> None:
        """Forgets all tokens."""
        for state in self._states.values():
            state.zero_()
        self._position = 0
        self._unfed: list[int] = []
        self._given: dict[str, torch.Tensor] = {}

    def encode(self, source: torch.Tensor) -> None:
        """Forgets all tokens and reads ``source`` (1, ...)."""
        self.reset()
        assert self._encoder is not None and self._decoder.source is not None
        if self._decoder.source.is_text:
            room, count = self._decoder.source.shape[1], source.shape[1]
            source = torch.nn.functional.pad(source, (0, room - count)).int()
            self._given = {LENGTH: torch.tensor([count]).int()}
        with torch.no_grad():
            self._encoder(source=source, **self._given)

    def generate(self, ids: Sequence[int], new: int) -> list[int]:
        """The ``new`` tokens behind ``ids``."""
        found: list[int] = []
        while len(found) < new:
            logits = self._fed([*self._unfed, *(ids if not found else ())])
            found.append(int(logits.argmax()))
            self._unfed = found[-1:]
        return found

    def _checked(
        self, stepper: Stepper, function: WantedFunction, tiny: Tiny
    ) -> tuple[StepContract, DecoderStep]:
        """A step, and when it may be called."""
        failures: list[AnePassesError] = []
        for form in call_forms(self._decoder):
            try:
                padded, from_start = stepper.check(function, form)
            except AnePassesError as error:
                failures.append(error)
                continue
            tokens, context, last = function.tokens, function.context, function.last
            contract = StepContract(tokens, context, last, padded, from_start)
            return contract, self._step(tiny, function, form)
        raise failures[0]

    def _step(self, tiny: Tiny, function: WantedFunction, form: CallForm) -> DecoderStep:
        step = DecoderStep(
            tiny.model,
            self._decoder,
            rooms=self._rooms,
            tokens=function.tokens,
            form="state",
            call=form,
        ).eval()
        self._share(step)
        return step

    def _share(self, step: DecoderStep | EncodeStep) -> None:
        for name, state in self._states.items():
            step.register_buffer(name, state)

    def _fed(self, pending: list[int]) -> torch.Tensor:
        """(vocabulary,) behind the last of ``pending``."""
        logits = torch.empty(0)
        while pending:
            contract, step = max(
                self._fitting(len(pending)), key=lambda fit: min(fit[0].tokens, len(pending))
            )
            count = min(contract.tokens, len(pending))
            ids = torch.tensor([[*pending[:count], *pending[-1:] * (contract.tokens - count)]])
            last = {"last": torch.tensor([count - 1])} if contract.last else {}
            place = torch.tensor([self._position]).int()
            with torch.no_grad(), FirstOfEquals():
                said = step(input_ids=ids.int(), position=place, **last, **self._given)
            logits = said["logits"][0, 0 if contract.last else count - 1]
            self._position += count
            pending = pending[count:]
        return logits

    def _fitting(self, pending: int) -> list[tuple[StepContract, DecoderStep]]:
        """Steps that can be the next, single tokens first."""
        rings = self._rooms.rings
        return [fit for fit in self._steps if fit[0].fits(self._position, pending, rings)]
