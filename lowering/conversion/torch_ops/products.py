"""Matrix products and attention in the ranks and options that coremltools 9.0 leaves out.

Its attention never reads ``enable_gqa`` (apple/coremltools#2855), and writes attention out as soon
as a scale is given, though iOS18 has an operator for it (#2864).
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import numpy as np
import torch
from coremltools.converters.mil._deployment_compatibility import AvailableTarget
from coremltools.converters.mil.frontend._utils import build_einsum_mil
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with

from lowering.conversion.builder import Lowered, MilBuilder
from lowering.conversion.torch_ops.common import cast
from lowering.conversion.torch_ops.dynamic import einsum_of_any_size

aten = torch.ops.aten

# Added to the scores of masked keys: exp of it is 0 in float16, and sums of it do not overflow.
MASKED = -3e4


def _matmul(mb: MilBuilder, x: Var, y: Var) -> Lowered:
    """Vectors take part as a row on the left, as a column on the right.

    Of integers coremltools makes a linear where one is constant, which takes floats only.
    """
    whole = not mb.result.dtype.is_floating_point
    if x.rank > 1 and y.rank > 1 and not whole:
        return NotImplemented
    x, y = cast(mb, x, mb.result.dtype), cast(mb, y, mb.result.dtype)
    if x.rank > 1 and y.rank > 1:
        return mb.matmul(x=x, y=y)
    row, column = x.rank == 1, y.rank == 1
    x = mb.expand_dims(x=x, axes=[0]) if row else x
    y = mb.expand_dims(x=y, axes=[1]) if column else y
    product = mb.matmul(x=x, y=y)
    axes = [-2] * row + [-1] * column
    return mb.squeeze(x=product, axes=[axis + product.rank for axis in axes])


def _addmm(mb: MilBuilder, x: Var, a: Var, b: Var, *, beta: float = 1, alpha: float = 1) -> Lowered:
    """Of integers; coremltools takes the others."""
    if mb.result.dtype.is_floating_point:
        return NotImplemented
    product = mb.matmul(x=cast(mb, a, mb.result.dtype), y=cast(mb, b, mb.result.dtype))
    if alpha != 1:
        product = mb.mul(x=product, y=np.int32(alpha))
    if beta == 0:
        return product
    x = cast(mb, x, mb.result.dtype)
    return mb.add(x=mb.mul(x=x, y=np.int32(beta)) if beta != 1 else x, y=product)


def _einsum_of_integers(mb: MilBuilder, equation: str, operands: Sequence[Var]) -> Lowered:
    """Products of what is broadcast to all letters, summed; MIL's einsum takes floats only."""
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if any(len(set(term)) != len(term) for term in terms) or "..." in equation:
        return NotImplemented
    summed = [letter for letter in dict.fromkeys("".join(terms)) if letter not in right]
    letters = [*right, *summed]
    product: Var | None = None
    for var, term in zip(operands, terms, strict=True):
        order = sorted(range(len(term)), key=lambda axis: letters.index(term[axis]))
        x = mb.transpose(x=cast(mb, var, mb.result.dtype), perm=order) if len(order) > 1 else var
        missing = [axis for axis, letter in enumerate(letters) if letter not in term]
        x = mb.expand_dims(x=x, axes=missing) if missing else x
        product = x if product is None else mb.mul(x=product, y=x)
    if not summed:
        return product
    axes = list(range(len(right), len(letters)))
    return mb.reduce_sum(x=product, axes=axes, keep_dims=False)


def _addmv(
    mb: MilBuilder, x: Var, matrix: Var, vector: Var, *, beta: float = 1, alpha: float = 1
) -> Var:
    product = mb.squeeze(x=mb.matmul(x=matrix, y=mb.expand_dims(x=vector, axes=[1])), axes=[1])
    return _blend(mb, x, product, beta, alpha)


def _addbmm(mb: MilBuilder, x: Var, a: Var, b: Var, *, beta: float = 1, alpha: float = 1) -> Var:
    product = mb.reduce_sum(x=mb.matmul(x=a, y=b), axes=[0], keep_dims=False)
    return _blend(mb, x, product, beta, alpha)


def _blend(mb: MilBuilder, x: Var, product: Var, beta: float, alpha: float) -> Var:
    scaled = mb.mul(x=product, y=float(alpha)) if alpha != 1 else product
    return mb.add(x=mb.mul(x=x, y=float(beta)) if beta != 1 else x, y=scaled)


def _einsum(
    mb: MilBuilder, equation: str, operands: Sequence[Var], *, path: Sequence[int] | None = None
) -> Lowered:
    """Spells out ``...``, which coremltools takes for one axis."""
    equation = equation.replace(" ", "")
    if not mb.result.dtype.is_floating_point and "->" in equation:
        return _einsum_of_integers(mb, equation, operands)
    if "..." not in equation or len(operands) > 2:
        return einsum_of_any_size(mb, equation, operands)
    left, _, right = equation.partition("->")
    terms = left.split(",")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    widths = [
        var.rank - len(term.replace("...", ""))
        for var, term in zip(operands, terms, strict=True)
        if "..." in term
    ]
    shared = "".join(free[: max(widths)])
    spelled = [
        term.replace("...", shared[len(shared) - (var.rank - len(term.replace("...", ""))) :])
        if "..." in term
        else term
        for var, term in zip(operands, terms, strict=True)
    ]
    if not right:
        return NotImplemented
    equation = ",".join(spelled) + "->" + right.replace("...", shared)
    product = einsum_of_any_size(mb, equation, operands)
    if product is NotImplemented:
        product = build_einsum_mil(list(operands), equation, mb.node.name)
    return product


def _attention(
    mb: MilBuilder,
    q: Var,
    k: Var,
    v: Var,
    mask: Var | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Lowered:
    """With grouped queries each key and value head serves several query heads."""
    fused = is_current_opset_version_compatible_with(AvailableTarget.iOS18)
    groups = int(q.shape[-3]) // int(k.shape[-3]) if enable_gqa else 1
    known = all(isinstance(size, (int, np.integer)) for size in (*q.shape[-2:], *k.shape[-2:]))
    if not known or (groups == 1 and (scale is None or not fused)):
        return NotImplemented
    if groups > 1:
        k, v = _repeat_heads(mb, k, groups), _repeat_heads(mb, v, groups)
    usual = 1 / math.sqrt(int(q.shape[-1]))
    scale = usual if scale is None else scale
    if is_causal:
        visible = np.tri(int(q.shape[-2]), int(k.shape[-2]), dtype=np.float32)
        mask = mb.const(val=(1 - visible) * np.float32(MASKED))
    elif mask is not None and types.is_bool(mask.dtype):
        hidden = mb.cast(x=mb.logical_not(x=mask), dtype="fp32")
        mask = mb.mul(x=hidden, y=MASKED)
    if fused:
        # MIL's operator scales by 1/sqrt(D); the query takes what is left.
        if not math.isclose(scale, usual, rel_tol=1e-6):
            q = mb.mul(x=q, y=float(scale / usual))
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask)
    scores = mb.matmul(x=mb.mul(x=q, y=float(scale)), y=k, transpose_y=True)
    scores = scores if mask is None else mb.add(x=scores, y=mask)
    return mb.matmul(x=mb.softmax(x=scores, axis=-1), y=v)


def _repeat_heads(mb: MilBuilder, x: Var, groups: int) -> Var:
    """``(B, H, S, D) -> (B, H · groups, S, D)``, each head ``groups`` times in a row."""
    *batch, heads, tokens, width = x.shape
    repeated = mb.concat(values=[mb.expand_dims(x=x, axes=[x.rank - 2])] * groups, axis=x.rank - 2)
    return mb.reshape(x=repeated, shape=[*batch, heads * groups, tokens, width])


def _cdist(mb: MilBuilder, x: Var, y: Var, p: float = 2.0, mode: int | None = None) -> Lowered:
    if p not in (1.0, 2.0):
        return NotImplemented
    difference = mb.sub(
        x=mb.expand_dims(x=x, axes=[x.rank - 1]), y=mb.expand_dims(x=y, axes=[y.rank - 2])
    )
    if p == 1.0:
        return mb.reduce_sum(x=mb.abs(x=difference), axes=[-1], keep_dims=False)
    return mb.reduce_l2_norm(x=difference, axes=[-1], keep_dims=False)


def _pdist(mb: MilBuilder, x: Var, p: float = 2.0) -> Lowered:
    """Distances of all pairs of rows, the upper triangle of those of all to all."""
    count = x.shape[0]
    if not isinstance(count, (int, np.integer)) or count < 2:
        return NotImplemented
    distances = _cdist(mb, x, x, p)
    if distances is NotImplemented:
        return NotImplemented
    rows, columns = np.triu_indices(int(count), 1)
    flat = mb.reshape(x=distances, shape=[-1])
    return mb.gather(x=flat, indices=(rows * count + columns).astype(np.int32), axis=0)


def _trilinear(
    mb: MilBuilder,
    a: Var,
    b: Var,
    c: Var,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    summed: Sequence[int],
    unroll_dim: int = 1,
) -> Var:
    """The product of three tensors, each with axes of size 1 put in, summed over some axes."""
    product = None
    for factor, axes in ((a, expand_a), (b, expand_b), (c, expand_c)):
        factor = mb.expand_dims(x=factor, axes=list(axes)) if axes else factor
        product = factor if product is None else mb.mul(x=product, y=factor)
    return mb.reduce_sum(x=product, axes=list(summed), keep_dims=False)


TABLE = {
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.bmm.default: _matmul,
    aten.mv.default: _matmul,
    aten.addmm.default: _addmm,
    aten.addmv.default: _addmv,
    aten.addbmm.default: _addbmm,
    aten.einsum.default: _einsum,
    aten.scaled_dot_product_attention.default: _attention,
    aten._cdist_forward.default: _cdist,
    aten.cdist.default: _cdist,
    aten._pdist_forward.default: _pdist,
    aten._trilinear.default: _trilinear,
}
