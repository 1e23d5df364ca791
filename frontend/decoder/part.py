"""A model of which some layers run: cut where one layer hands one tensor to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frontend.decoder.embedding import SHOWN_IDS, answering
from frontend.decoder.probing import Decoder
from frontend.errors import CaptureError
from frontend.surroundings import inference_mode

HIDDEN = "hidden"
"""The input of a part that takes what the part before it hands on, (1, tokens, width)."""


@dataclass(frozen=True)
class DecoderLayers:
    """The layers of a decoder, in order.

    Attributes:
        names: paths of their modules.
        answers: how many values each returns, the first of which it hands on; 0 for the bare one.
        width: of what is handed on.
    """

    names: tuple[str, ...]
    answers: int
    width: int

    def wrapped(self, hidden: Tensor) -> object:
        """``hidden`` as a layer returns it."""
        return (hidden, *[None] * (self.answers - 1)) if self.answers else hidden


@dataclass(frozen=True)
class DecoderPart:
    """Some layers of a decoder and, at its ends, what stands before and behind them.

    Attributes:
        layers: all of the decoder.
        begin, end: those that run; none of them in a part that is the head alone.
        has_head: whether it says the logits; else it returns what its last layer hands on.
    """

    layers: DecoderLayers
    begin: int
    end: int
    has_head: bool

    @property
    def is_first(self) -> bool:
        """Whether it reads the tokens."""
        return self.begin == 0


def layers_of(model: nn.Module, decoder: Decoder) -> DecoderLayers:
    """The run of modules that hand one tensor from each to the next, one for each cached layer.

    Raises:
        CaptureError: there is none, or the model has an encoder.
    """
    if decoder.source is not None:
        raise _cannot_be_cut(model, "a model with an encoder, whose layers all read what it said")
    ids = torch.tensor([SHOWN_IDS]).remainder(decoder.vocabulary)
    found: list[tuple[str, object]] = []

    def recorder(name: str) -> Callable[..., None]:
        return lambda module, args, answer: found.append((name, answer))

    lists = {
        name: [f"{name}.{child}" for child, _ in module.named_children()]
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == len(decoder.layers)
    }
    with ExitStack() as hooks, inference_mode(model), torch.no_grad():
        for names in lists.values():
            for name in names:
                module = model.get_submodule(name)
                hooks.enter_context(module.register_forward_hook(recorder(name)))
        model(input_ids=ids, use_cache=False)
    for names in lists.values():
        called = [(name, answer) for name, answer in found if name in set(names)]
        first = [_handed_on(answer) for _, answer in called]
        if [name for name, _ in called] != names or any(one is None for one in first):
            continue
        hidden = [one for one in first if one is not None]
        if {one.shape for one in hidden} == {(*ids.shape, hidden[0].shape[-1])}:
            sizes = {len(a) if isinstance(a, tuple) else 0 for _, a in called}
            if len(sizes) == 1:
                return DecoderLayers(tuple(names), sizes.pop(), hidden[0].shape[-1])
    raise _cannot_be_cut(model, "no list of layers that are called in order and return one tensor")


@contextmanager
def running(model: nn.Module, part: DecoderPart, hidden: Tensor | None) -> Iterator[list[Tensor]]:
    """While the block runs, only the layers of ``part`` compute; the others hand on.

    Args:
        model: whose layers they are.
        part: which run.
        hidden: what its first layer is given; ``None`` for the first part.

    Yields:
        A list to which a call of the model adds what the part's last layer hands on.
    """
    taken: list[Tensor] = [] if hidden is None else [hidden]

    def skipped(*_: object, **__: object) -> object:
        return part.layers.wrapped(taken[-1])

    def recorded(forward: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **options: object) -> object:
            answer = forward(*args, **options)
            handed_on = _handed_on(answer)
            assert handed_on is not None
            taken.append(handed_on)
            return answer

        return run

    with ExitStack() as swapped:
        for index, name in enumerate(part.layers.names):
            module = model.get_submodule(name)
            if not part.begin <= index < part.end:
                swapped.enter_context(answering(module, skipped))
            elif index == part.end - 1:
                swapped.enter_context(answering(module, recorded(module.forward)))
        yield taken


@contextmanager
def listened(model: nn.Module, layers: DecoderLayers) -> Iterator[list[Tensor]]:
    """While the block runs, what each layer of ``model`` hands on is added to a list."""
    heard: list[Tensor] = []

    def hook(_: nn.Module, args: object, answer: object) -> None:
        handed_on = _handed_on(answer)
        assert handed_on is not None
        heard.append(handed_on)

    with ExitStack() as hooks:
        for name in layers.names:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(hook))
        yield heard


def _handed_on(answer: object) -> Tensor | None:
    """The one tensor in what a layer returns."""
    if isinstance(answer, tuple) and answer and all(other is None for other in answer[1:]):
        answer = answer[0]
    return answer if isinstance(answer, Tensor) else None


def _cannot_be_cut(model: nn.Module, found: str) -> CaptureError:
    return CaptureError(
        "the model cannot be cut into parts",
        op=type(model).__name__,
        expected="a list of layers, one for each that keeps something, each handing one tensor "
        "to the next",
        found=found,
        hint="export it as one package, without chunk_bytes",
    )
