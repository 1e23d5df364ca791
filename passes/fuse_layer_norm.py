"""Layer norms become ``ane.layer_norm``: one MIL operator over any axes, affine included."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from frontend import fp16
from frontend.ops import layer_norm
from frontend.schema import arguments
from passes.base import Pass
from passes.patterns.nodes import aten, is_call, shape
from passes.patterns.norm import absorb_affine, read_norm
from passes.rewriter import Rewriter

_MULTIPLIERS = (aten.mul.Tensor, aten.div.Tensor)

# coremltools 9.0 rounds a layer norm's eps to float16, and stores the smallest number of
# float16 for one that would become zero (*documented*: its add_fp16_cast pass).


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """Every layer norm that can stand as one MIL operator.

    Before: ``aten.layer_norm``, ``native_layer_norm`` of which only the result is used, or a
    norm written out over any axes: ``(x - mean) * rsqrt(var + eps) * w + b``, in the usual
    spellings, ``(x̂ + b) * w`` among them. After: ``ane.layer_norm(x, axes, w, b, eps)``.
    coremltools fuses written-out norms for some spellings only, and loses the affine of others.
    A weight or bias that is computed from an input stays outside, since MIL wants constants.

    Attributes:
        min_eps: eps is raised to this. 0 keeps the model's value, which is right in float32;
            float16 cannot hold 1e-12 (BERT), and ``min_eps=1e-7``, Apple's choice for
            DistilBERT, makes the same number explicit at every precision. It changes results
            by a share of about ``min_eps / (2 * variance)``.

    Bound: float32 within rtol 1e-5 / atol 1e-6 for ``min_eps`` 0.
    """

    name: ClassVar[str] = "fuse_layer_norm"
    by_site: ClassVar[bool] = True
    chooses_form: ClassVar[bool] = True
    min_eps: float = 0.0

    def apply(self, rw: Rewriter) -> None:
        """Composite operators first, then norms that are written out."""
        for node in rw.find(aten.layer_norm.default):
            self._composite(rw, node, node)
        for node in rw.find(aten.native_layer_norm.default):
            self._native(rw, node)
        for node in rw.find(*_MULTIPLIERS):
            self._written(rw, node)

    def _native(self, rw: Rewriter, node: fx.Node) -> None:
        parts = {user.args[1]: user for user in node.users if is_call(user, operator.getitem)}
        if any(place != 0 and part.users for place, part in parts.items()):
            rw.decline(node, "its mean or inverse deviation is used as well")
        elif 0 in parts:
            self._composite(rw, node, parts[0])

    def _composite(self, rw: Rewriter, node: fx.Node, result: fx.Node) -> None:
        x, normalised, weight, bias, eps = list(arguments(node).values())[:5]
        rank = len(shape(x))
        axes = list(range(rank - len(normalised), rank))
        with rw.at(result):
            inner = [p if p is None or rw.is_constant(p) else None for p in (weight, bias)]
            if weight is not inner[0]:
                inner[1] = None  # the bias comes after the weight
            eps = self._eps(rw, eps)
            new = rw.emit(layer_norm, x, axes, *inner, eps)
            if weight is not inner[0]:
                new = rw.emit(aten.mul.Tensor, new, weight)
            if bias is not inner[1]:
                new = rw.emit(aten.add.Tensor, new, bias)
            rw.replace(result, new)

    def _written(self, rw: Rewriter, node: fx.Node) -> None:
        norm = read_norm(rw, node)
        if norm is None:
            return
        if isinstance(norm, str):
            rw.decline(node, norm)
            return
        if not norm.centred:
            return  # a root-mean-square norm
        reason = norm.refusal()
        if reason:
            rw.decline(node, reason)
            return
        affine = absorb_affine(rw, node, norm.axes, bias_allowed=True)
        with rw.at(affine.end):
            eps = self._eps(rw, norm.eps)
            new = rw.emit(layer_norm, norm.x, list(norm.axes), affine.weight, affine.bias, eps)
            rw.replace(affine.end, new)

    def _eps(self, rw: Rewriter, eps: float) -> float:
        eps = max(float(eps), self.min_eps)
        if 0 < eps < fp16.SMALLEST:
            rw.note(
                f"a layer norm's eps of {eps:g} is zero in float16; coremltools stores "
                f"{fp16.SMALLEST:.1e} for it (exact_eps keeps it, min_eps makes it explicit)"
            )
        return eps
