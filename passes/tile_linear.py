"""Linear layers with very many outputs, such as the head of a language model, in tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from torch import fx

from passes.base import Pass
from passes.errors import PassError
from passes.patterns.nodes import argument, aten, is_static, shape
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class TileLinear(Pass):
    """Writes a ``linear`` of more than ``most_outputs`` as several side by side, and joins them.

    Tiles are as equal as they can be. A chip's compiler takes so many channels: 16,384 on A13 to
    A15, 65,536 from A16 on (*reported*: ANEForge#240, whose head of 152 thousand took 8.2 in place
    of 30 ms on an M2 Pro in tiles); on an A19 one convolution of 262 thousand was 5 % faster than
    16 (*reported*: john-rocky/CoreML-LLM). Exact. A weight that an embedding shares is stored
    twice then.

    Attributes:
        most_outputs: of one tile.

    Raises:
        PassError: tiles of less than one output.
    """

    name: ClassVar[str] = "tile_linear"
    by_site: ClassVar[bool] = True
    most_outputs: int = 16_384

    def __post_init__(self) -> None:
        if self.most_outputs < 1:
            raise PassError(
                "tiles need at least one output", expected="1 or more", found=str(self.most_outputs)
            )

    def apply(self, rw: Rewriter) -> None:
        """Takes every linear layer with a constant weight apart that is too wide."""
        for node in rw.find(aten.linear.default):
            outputs = shape(node)[-1]
            weight = cast(fx.Node, node.args[1])
            if not is_static(node) or outputs <= self.most_outputs:
                continue
            if not rw.is_constant(weight):
                rw.decline(node, "its weight is computed")
                continue
            with rw.at(node):
                rw.replace(node, self._tiled(rw, node, weight, outputs))

    def _tiled(self, rw: Rewriter, node: fx.Node, weight: fx.Node, outputs: int) -> fx.Node:
        count = -(-outputs // self.most_outputs)
        ends = [outputs * (at + 1) // count for at in range(count)]
        bias = argument(node, "bias")
        tiles = []
        for begin, end in zip([0, *ends], ends, strict=False):
            rows = rw.emit(aten.slice.Tensor, weight, 0, begin, end)
            own = None if bias is None else rw.emit(aten.slice.Tensor, bias, 0, begin, end)
            tiles.append(rw.emit(aten.linear.default, node.args[0], rows, own))
        return rw.emit(aten.cat.default, tiles, -1)
