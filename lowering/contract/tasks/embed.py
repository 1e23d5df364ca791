"""Vectors that stand for a picture or a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowering.contract.tasks.base import (
    Named,
    OutputTask,
    Wanted,
    chosen_output,
    shapes_of,
    shown,
)

# What a vector's largest number is taken for at least: the smallest normal float16.
_TINY = 2.0**-14
_POOLS = ("none", "mean", "first")


@dataclass(frozen=True)
class Embed(OutputTask):
    """One vector, of length one where it is asked for: ``embedding`` (1, width).

    The length is taken of numbers near one, so that in float16 no square overflows or vanishes.

    Attributes:
        normalize: divide the vector by its length.
        pool: of an output (1, tokens, width): the ``mean`` of its tokens or the ``first``.
        mask: the input (1, tokens) that is 0 for tokens that the mean leaves out.
        output: the model's output; by default the only one of two axes, or three with ``pool``.
    """

    kind: ClassVar[str] = "embed"

    normalize: bool = True
    pool: Literal["none", "mean", "first"] = "none"
    mask: str | None = None
    output: str | None = None

    def problems(self, model: Wanted) -> Sequence[str]:
        """What keeps the task from fitting ``model``."""
        found: list[str] = []
        if not isinstance(self.normalize, bool):
            found.append(f"normalize is {self.normalize!r}, not true or false")
        if self.pool not in _POOLS:
            return [*found, f"pool is {self.pool!r}, not one of {', '.join(_POOLS)}"]
        name = self._name(model.outputs)
        if name is None:
            found.append(
                f"no single output has {self._rank} axes; name one with output: "
                f"{shown(model.outputs)}"
            )
            return found
        if model.outputs[name][0] != 1:
            found.append(f"output {name!r} is of {model.outputs[name][0]} examples, not one")
        if self.mask is None:
            return found
        if self.pool != "mean":
            found.append(f"mask is of pool 'mean', and pool is {self.pool!r}")
        elif model.inputs.get(self.mask) != model.outputs[name][:2]:
            found.append(
                f"mask {self.mask!r} is no input of shape {list(model.outputs[name][:2])}: "
                f"{shown(model.inputs)}"
            )
        return found

    def __call__(self, outputs: Named, inputs: Named) -> dict[str, Tensor]:
        """The vector."""
        name = self._name(shapes_of(outputs))
        assert name is not None
        value = outputs[name]
        if self.pool == "first":
            value = value[:, 0]
        elif self.pool == "mean" and self.mask is None:
            value = value.mean(1)
        elif self.pool == "mean":
            assert self.mask is not None
            kept = inputs[self.mask].to(value.dtype)[..., None]
            value = (value * (kept / kept.sum(1, keepdim=True).clamp(min=1.0))).sum(1)
        if self.normalize:
            value = value / value.abs().amax(-1, keepdim=True).clamp(min=_TINY)
            length = torch.sqrt((value * value).sum(-1, keepdim=True))
            value = value / length.clamp(min=_TINY)
        return {"embedding": value}

    def meanings(self) -> dict[str, str]:
        """What each output of the package is."""
        length = "of length one" if self.normalize else "as the model makes it"
        return {"embedding": f"the vector of the input, {length}"}

    @property
    def _rank(self) -> int:
        return 2 if self.pool == "none" else 3

    def _name(self, outputs: Mapping[str, tuple[int, ...]]) -> str | None:
        return chosen_output(outputs, self.output, (self._rank,))
