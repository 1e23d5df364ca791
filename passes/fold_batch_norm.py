"""Batch norms after linears vanish into them; others become a scale and a shift."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from frontend.schema import arguments
from passes.base import Pass
from passes.carried_encoding import is_palettized
from passes.patterns.nodes import aten, input_of, is_call, shape
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Inference batch norm on values that are no images.

    A batch norm of rank 2, (N, C), behind a linear with constant weights is folded into weight
    and bias, also through a reshape that keeps the channel axis last. Other batch norms of rank
    2 and 3 become ``x * scale + shift``, as do those behind a palettized weight. Those of rank 4
    and 5 stay: coremltools folds them into the convolution before them.

    Bound: float32 within rtol 1e-5 / atol 1e-6.
    """

    name: ClassVar[str] = "fold_batch_norm"
    by_site: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "to_inference": "batch norms must be in inference form",
    }

    def apply(self, rw: Rewriter) -> None:
        """Rewrites batch norms with constant statistics."""
        for node in rw.find(aten._native_batch_norm_legit_no_training.default):
            x, weight, bias, mean, variance, _, eps = arguments(node).values()
            results = [user for user in node.users if is_call(user, operator.getitem)]
            if any(user.args[1] != 0 and user.users for user in results):
                rw.decline(node, "its statistics are used as well")
                continue
            if len(shape(x)) > 3:
                continue
            given = [n for n in (weight, bias, mean, variance) if n is not None]
            if not all(rw.is_constant(n) for n in given):
                rw.decline(node, "its statistics are computed from an input")
                continue
            result = next(user for user in results if user.args[1] == 0)
            with rw.at(node):
                scale, shift = _scale_and_shift(rw, weight, bias, mean, variance, eps)
                rw.replace(result, _apply(rw, x, scale, shift))


def _scale_and_shift(
    rw: Rewriter,
    weight: fx.Node | None,
    bias: fx.Node | None,
    mean: fx.Node,
    variance: fx.Node,
    eps: float,
) -> tuple[fx.Node, fx.Node]:
    """(C,) each: ``x * scale + shift`` is the batch norm."""
    scale = rw.emit(aten.rsqrt.default, rw.emit(aten.add.Tensor, variance, eps))
    if weight is not None:
        scale = rw.emit(aten.mul.Tensor, scale, weight)
    shift = rw.emit(aten.neg.default, rw.emit(aten.mul.Tensor, mean, scale))
    return scale, shift if bias is None else rw.emit(aten.add.Tensor, shift, bias)


def _apply(rw: Rewriter, x: fx.Node, scale: fx.Node, shift: fx.Node) -> fx.Node:
    linear = _linear_behind(rw, x) if len(shape(x)) == 2 else None
    if linear is not None:
        source, matrix, *old = linear.args
        with rw.at(linear):
            # The scale is computed at the norm; constants may be used anywhere.
            rows = rw.emit(
                aten.unsqueeze.default, rw.constant(f"{linear.name}_scale", rw.value(scale)), 1
            )
            folded = rw.emit(aten.mul.Tensor, matrix, rows)
            offset = rw.constant(f"{linear.name}_shift", rw.value(shift))
            if old and old[0] is not None:
                scaled = rw.emit(aten.mul.Tensor, old[0], rw.emit(aten.squeeze.dims, rows, [1]))
                offset = rw.emit(aten.add.Tensor, scaled, offset)
            new = rw.emit(aten.linear.default, source, folded, offset)
            rw.replace(linear, new, counted=False)
        return new if x is linear else x
    while len(shape(scale)) < len(shape(x)) - 1:
        scale, shift = (rw.emit(aten.unsqueeze.default, t, len(shape(t))) for t in (scale, shift))
    return rw.emit(aten.add.Tensor, rw.emit(aten.mul.Tensor, x, scale), shift)


def _linear_behind(rw: Rewriter, x: fx.Node) -> fx.Node | None:
    """The linear whose result only the norm reads, with its channels still last."""
    node = x
    while is_call(node, aten.reshape.default) and len(node.users) == 1:
        source = node.args[0]
        if not isinstance(source, fx.Node) or shape(source)[-1] != shape(node)[-1]:
            return None
        node = source
    if not is_call(node, aten.linear.default) or len(node.users) != 1:
        return None
    constant = all(rw.is_constant(n) for n in node.args[1:] if isinstance(n, fx.Node))
    if not constant:
        return None
    if is_palettized(rw, input_of(node, 1)):
        rw.decline(node, "its weight is a palette, and the norm would need one for each channel")
        return None
    return node
