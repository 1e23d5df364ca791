"""What the encoder of an encoder-decoder model reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frontend.errors import CaptureError

LENGTH = "source_length"
"""Input (1,) int of all functions where sources are padded: how much is none of the padding."""


@dataclass(frozen=True)
class EncoderInput:
    """The input of an encoder.

    Attributes:
        name: of the model's parameter, such as ``input_ids`` or ``input_features``.
        shape: of the input, batch first.
        is_text: whether it holds token ids; those are padded behind, other inputs are whole.
        length: how many keys the decoder's cross-attention sees; that and
        width: of what the encoder says, (1, length, width), are known once it was called.
    """

    name: str
    shape: tuple[int, ...]
    is_text: bool
    length: int
    width: int

    def example(self) -> Tensor:
        """An input for capture."""
        draw = torch.Generator().manual_seed(0)
        if self.is_text:
            return torch.arange(self.shape[1]).remainder(7).unsqueeze(0).int()
        return torch.randn(self.shape, generator=draw)

    def example_length(self) -> Tensor:
        """(1,): a text a little shorter than there is room for, so that the mask counts."""
        return torch.tensor([max(1, self.shape[1] - 2)]).int()

    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with for a source without padding."""
        return {self.name: self.example()}

    def mask(self, length: Tensor) -> Tensor:
        """(1, length): 1 where the source is no padding."""
        return (torch.arange(self.length) < length).long().unsqueeze(0)


def source_of(model: nn.Module, given: int | Tensor | None) -> EncoderInput:
    """The source of ``model``.

    Args:
        model: with an encoder and a decoder.
        given: how many tokens the encoder reads, or an example of its input.

    Raises:
        CaptureError: it is not given, or is of another kind than the encoder reads.
    """
    name = getattr(model, "main_input_name", "input_ids")
    is_text = name == "input_ids"
    if is_text != isinstance(given, int) or given is None:
        raise CaptureError(
            f"{type(model).__name__} has an encoder, and it is not said what that reads",
            expected="source=N, a number of tokens"
            if is_text
            else f"source=TENSOR, an example of {name} with its batch of 1",
            found="nothing" if given is None else f"source of type {type(given).__name__}",
            hint="pass source= (--source)",
        )
    if isinstance(given, int) and given < 1:
        raise CaptureError("source is out of range", expected="1 token or more", found=str(given))
    shape = (1, given) if isinstance(given, int) else tuple(given.shape)
    return EncoderInput(name, shape, is_text, shape[1], 0)
