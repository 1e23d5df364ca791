"""Sums of squares from norms, without a tensor of squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from passes.base import Pass
from passes.patterns.nodes import aten, dtype, input_of
from passes.patterns.powers import norm_of, power_of
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class SquaresToNorm(Pass):
    """Takes a sum, or a mean, of squares as the square of a norm.

    Before: ``mean(x * x)``; after: ``(vector_norm(x) * n ** -0.5) ** 2``. MIL has the norm as one
    reduction, priced as any other (*measured*: a third of a product of the same tensor, M4
    dispatcher, 751K study), so the squares, as large as ``x``, are never written; and none of
    them can overflow float16, or fall to zero, where their mean does not. Squares that something
    else reads as well stay.

    Bound: float32 within rtol 1e-5 / atol 1e-6.
    """

    name: ClassVar[str] = "squares_to_norm"
    by_site: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "fuse_rms_norm": "norms are recognised by their squares",
        "fuse_layer_norm": "norms are recognised by their squares",
        "rms_norm_form": "it writes means of squares",
        "assign_layout": "it places sums and means, and no norms",
        "limit_rank": "it takes axes from sums and means, and no norms",
        "stable_roots": "the root of a sum of squares is the norm alone",
    }

    def apply(self, rw: Rewriter) -> None:
        """Every sum and mean of squares that serve nothing else."""
        for node in rw.find(aten.sum.dim_IntList, aten.mean.dim, aten.mean.default):
            power = power_of(rw, node)
            if power is None or rw.is_constant(node) or not dtype(power.x).is_floating_point:
                continue
            if len(input_of(node).users) > 1:
                rw.decline(node, "its squares serve something else as well")
                continue
            with rw.at(node):
                root = norm_of(rw, power)
                rw.replace(node, rw.emit(aten.mul.Tensor, root, root))
