"""Tensors of more than five axes, which Core ML refuses, get by with five."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from frontend.deprecated import renamed_fields
from passes.base import Pass
from passes.limit_rank.rules import rule_for
from passes.limit_rank.stand_ins import StandIns, UnknownSizeError, Value
from passes.patterns.nodes import input_of, is_call, is_tensor
from passes.renamed import OPTIONS
from passes.rewriter import Rewriter


@renamed_fields(**OPTIONS["LimitRank"])
@dataclass(frozen=True)
class LimitRank(Pass):
    """Runs every operator of a tensor with too many axes on one with its axes merged.

    Before (window partition): ``reshape (B, H, h, W, w, C)``, ``permute (0, 1, 3, 2, 4, 5)``,
    ``reshape (N, h·w, C)``; after: ``reshape (B·H, h, W, w·C)``, ``permute (0, 2, 1, 3)``,
    ``reshape``. A permutation that still has too many axes goes in several steps. Exact, apart
    from the order of summation in reductions over axes that are no neighbours and in einsums.

    *Documented*: Core ML has no tensors of rank above 5 (apple/coremltools#1723).

    Attributes:
        max_rank: the most axes that a tensor may have.
    """

    name: ClassVar[str] = "limit_rank"
    max_rank: int = 5

    def apply(self, rw: Rewriter) -> None:
        """One walk in program order; results with few axes again replace the originals."""
        low = StandIns(rw, self.max_rank)
        for node in rw.nodes():
            if not _concerns(low, node):
                continue
            with rw.at(node):
                value = _value(low, node)
                if value is None:
                    continue
                low.values[node] = value
                if is_tensor(node) and not low.exceeds(node.meta["val"]):
                    assert isinstance(value, fx.Node)
                    rw.replace(node, low.view(value, low.shape(node)))


def _concerns(low: StandIns, node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return node.args[0] in low.values
    values = [node.meta.get("val"), *(n.meta.get("val") for n in node.all_input_nodes)]
    return any(
        low.exceeds(part)
        for value in values
        for part in (value if isinstance(value, list | tuple) else [value])
    )


def _value(low: StandIns, node: fx.Node) -> Value | None:
    if is_call(node, operator.getitem):
        parts: Any = low.values[input_of(node)]
        return parts[node.args[1]]
    rank = max(n.meta["val"].ndim for n in (node, *node.all_input_nodes) if is_tensor(n))
    rule = rule_for(node)
    try:
        value = rule(low, node) if rule is not None else None
    except UnknownSizeError as unknown:
        low.rw.decline(node, f"{unknown}; Core ML refuses its {rank} axes")
        return None
    if value is None:
        low.rw.decline(
            node, f"no form of it with {low.max_rank} axes is known; Core ML refuses {rank}"
        )
    return value
