"""The sign of a half rotation moves into the factor that it meets next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import fx
from torch.fx.node import Argument

from passes.base import Pass
from passes.patterns.nodes import (
    argument,
    aten,
    axis,
    is_call,
    is_static,
    is_tensor,
    only_user,
    shape,
)
from passes.patterns.operands import mul_sides
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class FoldRotationSign(Pass):
    """Writes ``cat([-b, a]) * s`` as ``cat([b, a]) * (s with its first part negated)``.

    Rotary positions negate half of every query and key; the sines that they are multiplied with
    are smaller and serve all heads and layers, and are a table or a constant in the end. Exact.
    """

    name: ClassVar[str] = "fold_rotation_sign"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Rewrites products of a concatenation with a smaller tensor."""
        signed: dict[tuple[fx.Node, tuple[int, ...], int], fx.Node] = {}
        for node in rw.find(aten.mul.Tensor):
            for joined, factor in mul_sides(node):
                found = _signs(joined, factor)
                if found is None:
                    continue
                assert isinstance(joined, fx.Node) and isinstance(factor, fx.Node)
                parts, signs, along = found
                key = (factor, signs, along)
                if key not in signed:
                    with rw.after(factor):
                        numbers = _numbers(shape(joined), parts, signs, along)
                        constant = rw.constant(f"{factor.name}_signs", numbers)
                        signed[key] = rw.emit(aten.mul.Tensor, factor, constant)
                with rw.at(node):
                    plain = rw.emit(aten.cat.default, parts, along)
                    rw.replace(node, rw.emit(aten.mul.Tensor, plain, signed[key]))
                break


def _signs(joined: Argument, factor: Argument) -> tuple[list[fx.Node], tuple[int, ...], int] | None:
    """The parts without their signs, the signs, and the axis; ``None`` where nothing is won."""
    if not is_call(joined, aten.cat.default) or only_user(joined) is None:
        return None
    if not is_tensor(factor) or not is_static(joined) or not is_static(factor):
        return None
    parts = cast(list[fx.Node], joined.args[0])
    along = axis(argument(joined, "dim"), len(shape(joined)))
    signs = tuple(-1 if is_call(part, aten.neg.default) else 1 for part in parts)
    behind = len(shape(joined)) - along
    spans = len(shape(factor)) >= behind and shape(factor)[-behind] == shape(joined)[along]
    smaller = factor.meta["val"].numel() < joined.meta["val"].numel()
    if -1 not in signs or not spans or not smaller:
        return None
    plain = [cast(fx.Node, p.args[0]) if s < 0 else p for p, s in zip(parts, signs, strict=True)]
    return plain, signs, along


def _numbers(
    sizes: tuple[int, ...], parts: list[fx.Node], signs: tuple[int, ...], along: int
) -> torch.Tensor:
    numbers = [torch.full((shape(p)[along],), float(s)) for p, s in zip(parts, signs, strict=True)]
    return torch.cat(numbers).reshape(-1, *[1] * (len(sizes) - along - 1))
