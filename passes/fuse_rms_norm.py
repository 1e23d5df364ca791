"""Root-mean-square norms become ``ane.rms_norm``, whatever their spelling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from frontend.ops import rms_norm
from frontend.schema import arguments
from passes.base import Pass
from passes.patterns.nodes import aten, dtype, shape
from passes.patterns.norm import absorb_affine, read_norm
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class FuseRmsNorm(Pass):
    """Recognises RMSNorm; ``rms_norm_form`` then chooses how it is computed.

    Before: ``w * (x * rsqrt(mean(x², axis) + eps))`` as language models write it (``pow(2)``,
    ``square`` or ``x * x``; ``rsqrt``, ``1 / sqrt``, a power or a division; the weight on either
    side, ``1 + w``, or absent; casts to float32 are gone after capture), or ``aten.rms_norm``.
    After: ``ane.rms_norm(x, axes, w, eps)``. A weight computed from an input stays outside.

    Bound: float32 within rtol 1e-5 / atol 1e-6.
    """

    name: ClassVar[str] = "fuse_rms_norm"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Composite operators first, then norms that are written out."""
        for node in rw.find(aten.rms_norm.default):
            _composite(rw, node)
        for node in rw.find(aten.mul.Tensor, aten.div.Tensor):
            _written(rw, node)


def _composite(rw: Rewriter, node: fx.Node) -> None:
    x, normalised, weight, eps = arguments(node).values()
    rank = len(shape(x))
    axes = list(range(rank - len(normalised), rank))
    if eps is None:
        eps = torch.finfo(dtype(x)).eps
    constant = weight is None or rw.is_constant(weight)
    with rw.at(node):
        new = rw.emit(rms_norm, x, axes, weight if constant else None, float(eps))
        rw.replace(node, new if constant else rw.emit(aten.mul.Tensor, new, weight))


def _written(rw: Rewriter, node: fx.Node) -> None:
    norm = read_norm(rw, node)
    if norm is None or isinstance(norm, str) or norm.centred:
        return  # near misses are layer norms
    reason = norm.refusal()
    if reason:
        rw.decline(node, reason)
        return
    affine = absorb_affine(rw, node, norm.axes, bias_allowed=False)
    with rw.at(affine.end):
        new = rw.emit(rms_norm, norm.x, list(norm.axes), affine.weight, norm.eps)
        rw.replace(affine.end, new)
