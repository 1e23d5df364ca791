"""Norms keep an eps that float16 cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from frontend import fp16
from frontend.ops import layer_norm
from frontend.schema import arguments
from passes.base import Pass
from passes.patterns.nodes import aten
from passes.rewriter import Rewriter

# The second eps: a power of two, which float16 holds exactly, and small beside a variance of one.
_SECOND = 2.0**-17
# The same where the first would be no normal number of float16 otherwise.
_SMALLER_SECOND = 2.0**-20
# By operator: the arguments that scale and shift the result.
_AFFINE: Mapping[Any, tuple[str, ...]] = {
    layer_norm: ("weight", "bias"),
    aten.layer_norm.default: ("weight", "bias"),
    aten.group_norm.default: ("weight", "bias"),
    aten.instance_norm.default: ("weight", "bias"),
}


@dataclass(frozen=True)
class ExactEps(Pass):
    """Norms twice where float16 would change the eps: ``norm(norm(x, a), b)``.

    The first result has a variance of ``v / (v + a)``, so that the second divides by
    ``sqrt(v (1 + b) + a b)`` in all: with ``a = eps (1 + b) / b`` it is the norm with ``eps``, but
    for a factor of ``1 / sqrt(1 + b)``. In float16 an eps of 1e-6 is 1.3% off, and that of BERT,
    1e-12, becomes 6e-8, which is 3% of the result where activations are about 1e-3; a and b it
    holds. Any layer, group or instance norm; root-mean-square norms keep theirs by their form.

    One more operator for each norm: not among the default passes, since it is needed only where
    variances are small.

    Attributes:
        tolerance: relative; an eps that float16 holds as well as this stays.

    Bound: float32 within rtol 1e-5 / atol 1e-6; the factor is 3.8e-6 at most. An eps below 4.7e-10
    is held to 3%, which shows where activations are below 1e-5, subnormal in float16 themselves.
    """

    name: ClassVar[str] = "exact_eps"
    by_site: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "fuse_layer_norm": "a norm that is written out is one operator first",
    }
    tolerance: float = 0.005

    def apply(self, rw: Rewriter) -> None:
        """Every norm, in program order."""
        for node in rw.find(*_AFFINE):
            eps = float(arguments(node)["eps"])
            if not 0 < eps < fp16.NORMAL or self._is_held(eps):
                continue
            if not arguments(node).get("use_input_stats", True):
                rw.decline(node, "it norms by stored statistics")
                continue
            with rw.at(node):
                rw.replace(node, _twice(rw, node, eps))

    def _is_held(self, eps: float) -> bool:
        held = float(torch.tensor(eps, dtype=torch.float16))
        return abs(held - eps) <= self.tolerance * eps


def _twice(rw: Rewriter, node: fx.Node, eps: float) -> fx.Node:
    second = _SECOND if eps >= _SECOND * fp16.NORMAL else _SMALLER_SECOND
    given = arguments(node)
    plain = dict.fromkeys(_AFFINE[node.target], None)
    first = {**given, **plain, "eps": eps * (1 + second) / second}
    inner = rw.emit(node.target, *first.values())
    x = next(iter(given))
    return rw.emit(node.target, *{**given, x: inner, "eps": second}.values())
