"""Parts of a split that are all viewed as heads are split after one view."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from passes.base import Pass
from passes.patterns.nodes import argument, aten, axis, is_call, is_static, only_user, shape
from passes.patterns.operators import RESHAPES
from passes.rewriter import Rewriter

# (batch, head, width, token)
_HEADS, _WIDTH, _TOKEN = 1, 2, 3


@dataclass(frozen=True)
class ReshapeBeforeSplit(Pass):
    """Writes reshapes of all parts of a split of channels as one reshape, and splits the heads.

    Before: ``split(x, [h_i * d, ...], 1)`` of (B, C, 1, T), each part made (B, h_i, d, T); after:
    ``split(x.reshape(B, C / d, d, T), [h_i, ...], 1)``. Of one token, a part may become (B, h_i, 1,
    d) as well; it does so by a reshape of its own behind the split. Exact.
    """

    name: ClassVar[str] = "reshape_before_split"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Looks at each split once."""
        for node in rw.find(aten.split_with_sizes.default):
            views = _views(node)
            width = None if views is None else _width(node, views)
            if views is None or width is None:
                continue
            batch, channels, _, tokens = shape(node.all_input_nodes[0])
            with rw.at(node):
                sizes = [batch, channels // width, width, tokens]
                viewed = rw.emit(aten.reshape.default, node.all_input_nodes[0], sizes)
                heads = [shape(view)[_HEADS] for view in views]
                split = rw.emit(aten.split_with_sizes.default, viewed, heads, _HEADS)
                for index, view in enumerate(views):
                    part = rw.emit(operator.getitem, split, index)
                    same = shape(part) == shape(view)
                    rw.replace(
                        view,
                        part if same else rw.emit(aten.reshape.default, part, list(shape(view))),
                    )


def _views(node: fx.Node) -> list[fx.Node] | None:
    """The reshapes of all parts, in order; ``None`` where a part is used otherwise."""
    source = node.all_input_nodes[0]
    if not is_static(source) or len(shape(source)) != _TOKEN + 1 or shape(source)[_WIDTH] != 1:
        return None
    if axis(argument(node, "dim"), _TOKEN + 1) != _HEADS:
        return None
    found: dict[int, fx.Node] = {}
    for part in node.users:
        view = only_user(part)
        if view is None or not is_call(view, *RESHAPES) or len(shape(view)) != _TOKEN + 1:
            return None
        found[int(str(part.args[1]))] = view
    ordered = [found[index] for index in sorted(found)]
    return ordered if len(ordered) == len(argument(node, "split_sizes")) else None


def _width(node: fx.Node, views: Sequence[fx.Node]) -> int | None:
    """How wide a head is, if all parts agree on it."""
    batch, _, _, tokens = shape(node.all_input_nodes[0])
    widths = {shape(view)[_WIDTH] for view in views if shape(view)[_TOKEN] == tokens}
    if tokens == 1:
        widths = {max(shape(view)[_WIDTH:]) for view in views}
    if len(widths) != 1:
        return None
    width: int = widths.pop()
    forms = [(width, tokens), *([(1, width)] if tokens == 1 else [])]
    fits = all(shape(v)[0] == batch and shape(v)[_WIDTH:] in forms for v in views)
    return width if fits else None
