"""Layout rule of products of two activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import fx

from passes.layout.placement import Form
from passes.layout.plan import Forms, LayoutPlan, plain_form
from passes.patterns.nodes import aten, is_call, shape
from passes.rewriter import Rewriter


def matmul(node: fx.Node, forms: Forms, wanted: Form | None) -> LayoutPlan | None:
    """Products of two activations: MIL's matmul takes either operand with its last axes swapped."""
    left, right = node.args
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    rank = len(shape(node))
    if any(len(shape(x)) != rank for x in (left, right)) or rank < 3:
        return None
    if left not in forms and right not in forms:
        return None
    swapped = [_lies_swapped(x, forms.get(x)) and not _is_flag(x, forms) for x in (left, right)]
    if not any(swapped) and wanted in (None, plain_form(node)):
        return None
    taken = tuple(
        (x, _swapped_form(x) if swap else plain_form(x))
        for x, swap in zip((left, right), swapped, strict=True)
    )
    # (L R)^T = R^T L^T: the product comes out transposed for free where that is asked for.
    turned = wanted == _swapped_form(node) != plain_form(node)
    output = _swapped_form(node) if turned else plain_form(node)

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        # What lies swapped is swapped back on the way in, and the other way round if turned.
        one, other = (
            _swap(rw, x) if swap != turned else x for x, swap in zip(inputs, swapped, strict=True)
        )
        return rw.emit(node.target, other, one) if turned else rw.emit(node.target, one, other)

    return LayoutPlan(taken, output, emit)


def _lies_swapped(x: fx.Node, form: Form | None) -> bool:
    return form is not None and form.order == _swapped_form(x).order != plain_form(x).order


def _is_flag(x: fx.Node, forms: Forms) -> bool:
    """True for a swap of a plain tensor: the product takes it as it is spelled."""
    if not is_call(x, aten.permute.default):
        return False
    source = cast(fx.Node, x.args[0])
    return source not in forms or forms[source] == plain_form(source)


def _swapped_form(x: fx.Node) -> Form:
    groups = plain_form(x).groups
    return Form((*groups[:-2], groups[-1], groups[-2]))


def _swap(rw: Rewriter, x: fx.Node) -> fx.Node:
    """The last two axes swapped: a flag of MIL's matmul, not a transposition."""
    rank = len(shape(x))
    return rw.emit(aten.permute.default, x, [*range(rank - 2), rank - 1, rank - 2])
