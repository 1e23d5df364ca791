"""Operands are not reshaped for leading axes of size one, which broadcasting adds by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from passes.base import Pass
from passes.patterns.nodes import is_call, is_static, is_tensor, replaced, shape
from passes.patterns.operators import RESHAPES
from passes.patterns.pointwise import is_pointwise_call
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class DropLeadingAxes(Pass):
    """Lets operators that broadcast read ``x`` in the place of ``x.reshape(1, ..., *x.shape)``.

    A single element is read as it is whatever its axes. Other operands must give the result its
    shape without that one's leading axes. Exact.
    """

    name: ClassVar[str] = "drop_leading_axes"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Looks at every operand of every operator that treats elements alone."""
        for node in rw.nodes():
            if not is_pointwise_call(node) or not is_static(node):
                continue
            instead = {
                operand: source
                for operand in node.all_input_nodes
                if (source := _without(operand)) is not None
            }
            if not instead or _result(node, instead) != shape(node):
                continue
            with rw.at(node):
                args, kwargs = replaced(node, instead)
                rw.replace(node, rw.emit(node.target, *args, **kwargs))


def _without(operand: fx.Node) -> fx.Node | None:
    """What ``operand`` is a view of, if that broadcasts alike."""
    if not is_call(operand, *RESHAPES) or not is_static(operand):
        return None
    source = operand.all_input_nodes[0]
    sizes, have = shape(operand), shape(source)
    leading = len(sizes) - len(have)
    is_one = operand.meta["val"].numel() == 1 and leading >= 0
    return source if is_one or (leading > 0 and sizes == (1,) * leading + have) else None


def _result(node: fx.Node, instead: Mapping[fx.Node, fx.Node]) -> tuple[int, ...]:
    read = [instead.get(n, n) for n in node.all_input_nodes]
    return tuple(torch.broadcast_shapes(*(shape(n) for n in read if is_tensor(n))))
