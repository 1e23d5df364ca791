"""Chains of reshapes and permutations are shortened, and those that do nothing dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from frontend.sizes import same_sizes
from passes.base import Pass
from passes.layout.placement import blocks
from passes.patterns.nodes import aten, is_call, is_static, permuted_axes, shape
from passes.patterns.operators import RESHAPES
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class SimplifyViews(Pass):
    """Composes neighbouring permutations and neighbouring reshapes.

    ``permute(permute(x))`` becomes one permutation or nothing, also with a reshape between them
    that leaves whole what the second moves; a permutation that moves axes of
    size one alone becomes a reshape; a chain of ``reshape``, ``squeeze`` and ``unsqueeze``
    becomes its last shape, or nothing where that is the first. Exact.
    """

    name: ClassVar[str] = "simplify_views"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """One walk in program order; inputs are simple before their users are looked at."""
        for node in rw.find(aten.permute.default, *RESHAPES):
            with rw.at(node):
                simple = (
                    _permutation(rw, node)
                    if is_call(node, aten.permute.default)
                    else _reshape(rw, node)
                )
                if simple is not None:
                    rw.replace(node, simple)


def _permutation(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    source: Any = node.args[0]
    order = permuted_axes(node)
    if order == sorted(order):
        return source
    if is_call(source, aten.permute.default):
        inner = permuted_axes(source)
        order = [inner[a] for a in order]
        source = source.args[0]
        if order == sorted(order):
            return source
    moved = [a for a in order if shape(source)[a] != 1]
    if moved == sorted(moved) and is_static(source):
        return _to_shape(rw, source, [shape(source)[a] for a in order])
    if source is node.args[0]:
        return _in_front_of_reshape(rw, node)
    return rw.emit(aten.permute.default, source, order)


def _in_front_of_reshape(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """``permute(reshape(permute(x)))`` as ``reshape(permute(x))``.

    It is so where what the reshape joins or takes apart is moved as a whole, as in the windows of
    an image that then become channels first.
    """
    reshape: Any = node.args[0]
    if not is_call(reshape, *RESHAPES) or not is_static(node):
        return None
    inner: Any = reshape.args[0]
    if not is_call(inner, aten.permute.default) or sum(map(_is_read, inner.users)) > 1:
        return None
    pairs = blocks(shape(inner), shape(reshape))
    if pairs is None:
        return None
    sizes, first = shape(reshape), {new[0]: (old, new) for old, new in pairs}
    wanted = [a for a in permuted_axes(node) if sizes[a] != 1]
    moved: list[int] = []
    while wanted:
        old, new = first.get(wanted[0], ((), ()))
        if not new or tuple(wanted[: len(new)]) != new:
            return None
        moved.extend(old)
        wanted = wanted[len(new) :]
    ones = [a for a in range(len(shape(inner))) if a not in moved]
    before = permuted_axes(inner)
    order = [before[a] for a in (*ones, *moved)]
    source: Any = inner.args[0]
    if order == sorted(order):
        while is_call(source, *RESHAPES):
            source = source.args[0]
    else:
        source = rw.emit(aten.permute.default, source, order)
    return _to_shape(rw, source, list(shape(node)))


def _is_read(view: fx.Node) -> bool:
    """False for a view that nobody reads any more: a shorter chain has taken its place."""
    if not is_call(view, aten.permute.default, *RESHAPES):
        return True
    return any(map(_is_read, view.users))


def _reshape(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    source: Any = node.args[0]
    if same_sizes(shape(source), shape(node)):
        return source
    first = source
    while is_call(first, *RESHAPES):
        first = first.args[0]
    if first is source:
        return None
    if same_sizes(shape(first), shape(node)):
        return first
    if not is_static(node):
        return None  # its spelling may name sizes that only the last step knows
    return _to_shape(rw, first, list(shape(node)))


def _to_shape(rw: Rewriter, source: fx.Node, sizes: list[int]) -> fx.Node:
    """``source`` with ``sizes``; an axis of size one alone is squeezed or unsqueezed."""
    have = list(shape(source))
    if have == sizes:
        return source
    for place in range(len(sizes)):
        if sizes[place] == 1 and sizes[:place] + sizes[place + 1 :] == have:
            return rw.emit(aten.unsqueeze.default, source, place)
    for place in range(len(have)):
        if have[place] == 1 and have[:place] + have[place + 1 :] == sizes:
            return rw.emit(aten.squeeze.dims, source, [place])
    return rw.emit(aten.reshape.default, source, sizes)
