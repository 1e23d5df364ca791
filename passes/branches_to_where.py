"""``torch.cond`` becomes both of its branches and a selection.

Before::

    cond(pred, true_graph, false_graph, (x, w))   -> (y,)

After::

    a = <nodes of true_graph on x, w>
    b = <nodes of false_graph on x, w>
    y = where(pred, a, b)
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx
from torch.fx.node import Argument

from passes.base import Pass
from passes.patterns.nodes import aten, is_call, is_tensor, shape
from passes.rewriter import Rewriter

_COND = torch.ops.higher_order.cond


@dataclass(frozen=True)
class BranchesToWhere(Pass):
    """Inlines both branches of ``torch.cond``, nested ones too, and selects with ``where``.

    coremltools 9.0 refuses ``cond`` from an exported program (*measured*: it has no lowering).
    Both branches are computed; ``where`` selects and computes nothing, so NaN or Inf in the
    branch not taken does not leak. A condition that is constant keeps one branch and no
    selection. In a module, capture has resolved Python's ``if`` and ``torch.cond`` already; this
    pass is for programs exported elsewhere.

    Exact. Declines a condition on sizes, and branches whose results differ in shape or dtype.
    """

    name: ClassVar[str] = "branches_to_where"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Rewrites every cond of the program."""
        # Not rw.find: branches of two shapes have a size that only the run knows, and are declined
        # with both shapes.
        for node in [node for node in rw.nodes() if is_call(node, _COND)]:
            try:
                with rw.at(node):
                    results = _select(rw, rw.root, *node.args)
                    _check_same(node, results)
            except _RefusalError as refusal:
                rw.decline(node, str(refusal))
                continue
            rw.replace_results(node, results)


class _RefusalError(Exception):
    """Why a cond stays; for ``Rewriter.decline``."""


def _select(
    rw: Rewriter, owner: fx.GraphModule, condition: Any, *branches_and_operands: Any
) -> list[Any]:
    """The results of a cond whose condition and operands are nodes of the program.

    Args:
        rw: emits.
        owner: the module that holds the branches.
        condition: a bool, or a node of a bool tensor of one element.
        branches_and_operands: the get_attr nodes of the true and the false branch, and the
            operands.
    """
    when_true, when_false, operands = branches_and_operands
    if isinstance(condition, fx.Node) and is_tensor(condition) and rw.is_constant(condition):
        condition = bool(rw.value(condition))
    if isinstance(condition, bool):
        taken = when_true if condition else when_false
        return _inline(rw, getattr(owner, taken.target), operands)
    if not is_tensor(condition):
        raise _RefusalError(
            "its condition depends on sizes, and only one on tensor values can be selected by"
        )
    one = _inline(rw, getattr(owner, when_true.target), operands)
    other = _inline(rw, getattr(owner, when_false.target), operands)
    if shape(condition) != ():
        condition = rw.emit(aten.reshape.default, condition, [])
    return [_where(rw, condition, a, b) for a, b in zip(one, other, strict=True)]


def _where(rw: Rewriter, condition: fx.Node, a: Argument, b: Argument) -> object:
    if a is b:
        return a
    if not (is_tensor(a) and is_tensor(b)):
        raise _RefusalError("its branches return something other than tensors")
    if _kind(a) != _kind(b):
        raise _RefusalError(f"its branches return {_text(a)} and {_text(b)}")
    return rw.emit(aten.where.self, condition, a, b)


def _inline(rw: Rewriter, branch: fx.GraphModule, operands: Sequence[Any]) -> list[Any]:
    """Emits ``branch`` on ``operands``; its results as nodes of the program."""
    # A nested cond stands for a list of nodes.
    values: dict[fx.Node, Any] = {}
    given = iter(operands)
    for node in branch.graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            held = getattr(branch, node.target)
            values[node] = rw.constant(node.name, held) if isinstance(held, torch.Tensor) else node
        elif node.op == "output":
            return list(args[0])
        elif node.target is _COND:
            values[node] = _select(rw, branch, *args)
        elif node.target is operator.getitem and isinstance(args[0], list):
            values[node] = args[0][args[1]]
        else:
            values[node] = rw.emit(node.target, *args, **kwargs)
            rw.inherit_source(values[node], node)
    raise AssertionError("a graph ends in its output")


def _check_same(node: fx.Node, results: list[Any]) -> None:
    for expected, found in zip(node.meta["val"], results, strict=True):
        if not is_tensor(found):
            raise _RefusalError("its branches return something other than tensors")
        if _kind(found) != (expected.dtype, tuple(expected.shape)):
            raise _RefusalError("the size of its result depends on the branch")


def _kind(node: fx.Node) -> tuple[torch.dtype, tuple[Any, ...]]:
    return node.meta["val"].dtype, shape(node)


def _text(node: fx.Node) -> str:
    return f"{str(node.meta['val'].dtype).removeprefix('torch.')} {shape(node)}"
