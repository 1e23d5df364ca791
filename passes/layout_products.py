"""Layout rule of products of two activations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from passes.form import Form
from passes.layout_plan import Forms, Plan, plain_form
from passes.match import aten, shape
from passes.rewriter import Rewriter


def matmul(node: fx.Node, forms: Forms, wanted: Form | None) -> Plan | None:
    """Products of two activations: MIL's matmul takes either operand with its last axes swapped."""
    left, right = node.args
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    rank = len(shape(node))
    if any(len(shape(x)) != rank for x in (left, right)) or rank < 3:
        return None
    if left not in forms and right not in forms:
        return None
    swapped = [_lies_swapped(x, forms.get(x)) for x in (left, right)]
    if not any(swapped):
        return None
    taken = tuple(
        (x, _swapped_form(x) if swap else plain_form(x))
        for x, swap in zip((left, right), swapped, strict=True)
    )
    # (L R)^T = R^T L^T: where R lies transposed the product comes out transposed for free.
    output = _swapped_form(node) if swapped[1] else plain_form(node)

    def emit(rw: Rewriter, inputs: Sequence[fx.Node]) -> fx.Node:
        one, other = inputs
        if swapped[1]:
            first = one if swapped[0] else _swap(rw, one)
            return rw.emit(node.target, other, first)
        return rw.emit(node.target, _swap(rw, one), other)

    return Plan(taken, output, emit)


def _lies_swapped(x: fx.Node, form: Form | None) -> bool:
    return form is not None and form.order == _swapped_form(x).order != plain_form(x).order


def _swapped_form(x: fx.Node) -> Form:
    groups = plain_form(x).groups
    return Form((*groups[:-2], groups[-1], groups[-2]))


def _swap(rw: Rewriter, x: fx.Node) -> fx.Node:
    """The last two axes swapped: a flag of MIL's matmul, not a transposition."""
    rank = len(shape(x))
    return rw.emit(aten.permute.default, x, [*range(rank - 2), rank - 1, rank - 2])
