"""The table of token embeddings, found by calling the model, and a model that is given its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from frontend.decoder.probing import Decoder
from frontend.errors import CaptureError
from frontend.surroundings import inference_mode

ROWS = "inputs_embeds"
"""The input that takes the rows in the place of ``input_ids``: transformers' own name for them."""

SHOWN_IDS = (2, 0, 1, 0)
"""Ids of a call that shows what reads them: no run of positions looks like these."""


@dataclass(frozen=True)
class Embedding:
    """What turns token ids into rows, before anything else does.

    Attributes:
        name: path of the module, which may scale its rows as well.
        module: itself.
        vocabulary: how many rows there are.
        width: of a row.
    """

    name: str
    module: nn.Module
    vocabulary: int
    width: int

    def rows(self, ids: Tensor) -> Tensor:
        """(1, tokens, width) of ``ids`` (1, tokens), int."""
        with torch.no_grad():
            found: Tensor = self.module(ids.long())
        return found


def embedding_of(model: nn.Module, decoder: Decoder) -> Embedding:
    """The module that the token ids of the decoder go into.

    Raises:
        CaptureError: no module takes the ids, or its rows depend on more than the token.
    """
    ids = torch.tensor([SHOWN_IDS]).remainder(decoder.vocabulary)
    found = _reading(model, decoder, ids)
    if found is None:
        raise CaptureError(
            "no module of the model turns token ids into rows, so they cannot come in from outside",
            expected="an embedding that is called on input_ids",
            found=type(model).__name__,
            hint="leave the table in the package: embeddings='inside'",
        )
    name, module = found
    made = Embedding(name, module, decoder.vocabulary, 0)
    with inference_mode(model):
        rows = made.rows(ids)
        alone = torch.cat([made.rows(ids[:, at : at + 1]) for at in range(len(SHOWN_IDS))], 1)
    if rows.dim() != 3 or not torch.equal(rows, alone):
        raise CaptureError(
            "the rows of the embedding depend on more than the token",
            module=name,
            expected="(1, tokens, width), the same row for a token wherever it stands",
            found=f"{tuple(rows.shape)}",
            hint="leave the table in the package: embeddings='inside'",
        )
    return Embedding(name, module, decoder.vocabulary, rows.shape[2])


@contextmanager
def given_rows(model: nn.Module, name: str, rows: Tensor) -> Iterator[None]:
    """While the block runs, the module ``name`` of ``model`` answers ``rows`` whatever it reads."""
    with answering(model.get_submodule(name), lambda *_, **__: rows):
        yield


@contextmanager
def answering(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """While the block runs, ``forward`` stands in the place of the module's own."""
    own = vars(module).get("forward")
    object.__setattr__(module, "forward", forward)
    try:
        yield
    finally:
        if own is None:
            object.__delattr__(module, "forward")
        else:
            object.__setattr__(module, "forward", own)


def _reading(model: nn.Module, decoder: Decoder, ids: Tensor) -> tuple[str, nn.Module] | None:
    """The innermost module that is called on ``ids`` and answers numbers of a row for each."""
    calls: list[tuple[str, nn.Module]] = []

    def looked_at(name: str, module: nn.Module) -> RemovableHandle:
        def hook(_: nn.Module, args: tuple[object, ...], answer: object) -> None:
            read = args[0] if args else None
            if not isinstance(read, Tensor) or not isinstance(answer, Tensor) or calls:
                return
            is_row_each = answer.is_floating_point() and answer.shape[:2] == ids.shape
            if is_row_each and read.shape == ids.shape and torch.equal(read.long(), ids):
                calls.append((name, module))

        return module.register_forward_hook(hook)

    given: Mapping[str, Tensor] = {} if decoder.source is None else decoder.source.inputs()
    with ExitStack() as hooks, inference_mode(model), torch.no_grad():
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(looked_at(name, module))
        model(**given, **{decoder.named("input_ids"): ids}, use_cache=False)
    return calls[0] if calls else None
