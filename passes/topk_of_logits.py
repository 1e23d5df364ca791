"""The largest probabilities of a softmax are found among its logits."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from passes.base import Pass
from passes.patterns.nodes import argument, aten, axis, input_of, is_call, shape
from passes.patterns.operators import SOFTMAXES
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class TopkOfLogits(Pass):
    """``topk(softmax(x))`` takes its indices from ``topk(x)``.

    Before: the router of a mixture of experts ranks probabilities. In fp16 neighbouring
    probabilities near 1/8 are 6e-5 apart, so that experts whose logits differ by less are a tie,
    and another one may be taken than in float32. After: logits are ranked, which fp16 tells apart
    near zero, and probabilities are computed for those found:
    ``exp(top - max) / sum(exp(x - max))``.

    Bound: float32 outputs within rtol 1e-5 / atol 1e-6. Logits that differ by less than a
    rounding of the softmax are no tie any more: another one of two equal probabilities may come
    first.
    """

    name: ClassVar[str] = "topk_of_logits"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Rewrites every ``topk`` of the largest along the axis of a softmax."""
        for node in rw.find(aten.topk.default):
            softmax = input_of(node)
            if not is_call(softmax, *SOFTMAXES):
                continue
            rank = len(shape(softmax))
            along = axis(argument(softmax, "dim"), rank)
            if axis(argument(node, "dim"), rank) != along:
                rw.decline(node, "it ranks along another axis than its softmax")
            elif not argument(node, "largest"):
                rw.decline(node, "it takes the smallest probabilities")
            elif not argument(node, "sorted"):
                rw.decline(node, "its results are not sorted, so the largest logit is unknown")
            else:
                _rank(rw, node, softmax, along)


def _rank(rw: Rewriter, node: fx.Node, softmax: fx.Node, along: int) -> None:
    logits = input_of(softmax)
    with rw.at(node):
        ranked = rw.emit(aten.topk.default, logits, *node.args[1:], **node.kwargs)
        found = rw.emit(operator.getitem, ranked, 0)
        indices = rw.emit(operator.getitem, ranked, 1)
        largest = rw.emit(aten.slice.Tensor, found, along, 0, 1)
        total = _exp(rw, logits, largest)
        total = rw.emit(aten.sum.dim_IntList, total, [along], True)
        values = rw.emit(aten.div.Tensor, _exp(rw, found, largest), total)
    for user in list(node.users):
        is_values = user.args[1] == 0
        rw.replace(user, values if is_values else indices, counted=not is_values)


def _exp(rw: Rewriter, x: fx.Node, largest: fx.Node) -> fx.Node:
    return rw.emit(aten.exp.default, rw.emit(aten.sub.Tensor, x, largest))
