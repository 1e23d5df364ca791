"""Operators on complex numbers, written with their real and imaginary parts."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument

from frontend.schema import arguments
from passes.complex_to_real import dft
from passes.complex_to_real.dft import Pair
from passes.patterns.nodes import Target, aten, shape
from passes.rewriter import Rewriter

# A magnitude is computed from parts divided by this: their squares would leave the range of fp16
# from 256 on, which spectra of audio reach. A power of two changes no digit of a float32 result.
_MAGNITUDE_SCALE = 16.0


class Parts:
    """Real and imaginary parts of the complex values of one program.

    ``of`` gives those of a value, real values and numbers included: their imaginary part is
    ``None``.
    """

    def __init__(self, rw: Rewriter) -> None:
        self.rw = rw
        self.pairs: dict[fx.Node, Pair] = {}

    def of(self, value: Argument) -> tuple[Any, Any]:
        """Both parts; the second is ``None`` for what is real."""
        if isinstance(value, complex):
            return value.real, value.imag
        return self.pairs.get(value, (value, None)) if isinstance(value, fx.Node) else (value, None)

    def emit(self, target: Target, *args: object, **kwargs: object) -> fx.Node:
        """A real operator."""
        return self.rw.emit(target, *args, **kwargs)

    def add(self, one: Argument, other: Argument, target: Target = aten.add.Tensor) -> Any:
        """A sum or difference in which ``None`` is zero and a number may stand."""
        if other is None:
            return one
        if one is None:
            return self.mul(other, -1.0) if target is aten.sub.Tensor else other
        if not isinstance(one, fx.Node):
            one = self.emit(aten.full_like.default, other, one)
        return self.emit(target, one, other)

    def mul(self, one: Argument, other: Argument) -> Any:
        """A product in which ``None`` is zero and a number may stand."""
        if one is None or other is None:
            return None
        if not isinstance(one, fx.Node):
            one, other = other, one
        return self.emit(aten.mul.Tensor, one, other)

    def zeros(self, like: fx.Node) -> fx.Node:
        """Zeros in the shape of ``like``."""
        return self.emit(aten.full.default, list(shape(like)), 0.0, dtype=torch.float32)

    def fitted(self, part: Argument, node: fx.Node) -> fx.Node:
        """``part`` in the shape of ``node``, which it may have been broadcast to."""
        if not isinstance(part, fx.Node):
            size = list(shape(node))
            return self.emit(aten.full.default, size, part or 0.0, dtype=torch.float32)
        if shape(part) == shape(node):
            return part
        return self.emit(aten.expand.default, part, list(shape(node)))


Rule = Callable[[Parts, fx.Node], "Pair | fx.Node | str"]
"""Parts of a complex result, a real result, or why there is neither."""


def _partwise(parts: Parts, node: fx.Node) -> Pair:
    """Views, slices, joins, sums: the operator on each part alone."""
    joins = node.target in _JOINS

    def part(i: int) -> fx.Node:
        args = fx.node.map_arg(node.args, lambda n: _part(parts, n, i, joins))
        kwargs = {k: v for k, v in node.kwargs.items() if k != "dtype"}
        return parts.emit(node.target, *args, **kwargs)

    return part(0), part(1)


def _part(parts: Parts, node: fx.Node, i: int, joins: bool) -> fx.Node:
    """One part of an operand; a real one is joined with zeros, or is an index for both."""
    if node in parts.pairs:
        return parts.pairs[node][i]
    return parts.zeros(node) if joins and i == 1 else node


def _where(parts: Parts, node: fx.Node) -> Pair:
    condition, *sides = arguments(node).values()

    def chosen(i: int) -> fx.Node:
        both = (_part(parts, side, i, joins=True) for side in sides)
        return parts.emit(aten.where.self, condition, *both)

    return chosen(0), chosen(1)


def _filled(parts: Parts, node: fx.Node) -> Pair | str:
    size, value = node.args[:2]
    both = parts.of(value)
    if any(isinstance(part, fx.Node) for part in both):
        return "it is filled with a number that is computed"
    re, im = (
        parts.emit(aten.full.default, size, part or 0.0, dtype=torch.float32) for part in both
    )
    return re, im


def _joined(parts: Parts, node: fx.Node) -> Pair:
    re, im = node.args
    return parts.fitted(re, node), parts.fitted(im, node)


def _polar(parts: Parts, node: fx.Node) -> Pair:
    size, angle = node.args
    return (
        parts.mul(size, parts.emit(aten.cos.default, angle)),
        parts.mul(size, parts.emit(aten.sin.default, angle)),
    )


def _exp(parts: Parts, node: fx.Node) -> Pair:
    re, im = parts.of(node.args[0])
    size = parts.emit(aten.exp.default, re)
    return (
        parts.mul(size, parts.emit(aten.cos.default, im)),
        parts.mul(size, parts.emit(aten.sin.default, im)),
    )


def _sum(parts: Parts, node: fx.Node) -> Pair | str:
    if node.kwargs.get("alpha", 1) != 1:
        return "it adds a multiple"
    (a, b), (c, d) = (parts.of(argument) for argument in node.args[:2])
    re, im = parts.add(a, c, node.target), parts.add(b, d, node.target)
    return parts.fitted(re, node), parts.fitted(im, node)


def _product(parts: Parts, node: fx.Node) -> Pair:
    (a, b), (c, d) = (parts.of(argument) for argument in node.args[:2])
    return _multiplied(parts, a, b, c, d, parts.mul)


def _power(parts: Parts, node: fx.Node) -> Pair | str:
    a, b = parts.of(node.args[0])
    return _multiplied(parts, a, b, a, b, parts.mul) if node.args[1] == 2 else "it is no square"


def _reciprocal(parts: Parts, node: fx.Node) -> Pair:
    return _divided(parts, 1.0, None, *parts.of(node.args[0]))


def _multiplied(
    parts: Parts, a: Argument, b: Argument, c: Argument, d: Argument, mul: Callable[[Any, Any], Any]
) -> Pair:
    """(a + ib)(c + id) for any bilinear ``mul`` that gives ``None`` for ``None``."""
    re = parts.add(mul(a, c), mul(b, d), aten.sub.Tensor)
    im = parts.add(mul(a, d), mul(b, c))
    return re, im


def _matmul(parts: Parts, node: fx.Node) -> Pair:
    (a, b), (c, d) = (parts.of(argument) for argument in node.args[:2])

    def mul(one: Argument, other: Argument) -> Any:
        return None if one is None or other is None else parts.emit(node.target, one, other)

    return _multiplied(parts, a, b, c, d, mul)


def _einsum(parts: Parts, node: fx.Node) -> Pair | str:
    equation, operands = node.args[:2]
    assert isinstance(operands, list | tuple)
    if len(operands) != 2:
        return f"it multiplies {len(operands)} tensors at once"
    (a, b), (c, d) = (parts.of(operand) for operand in operands)

    def mul(one: Argument, other: Argument) -> Any:
        none = one is None or other is None
        return None if none else parts.emit(node.target, equation, [one, other])

    return _multiplied(parts, a, b, c, d, mul)


def _quotient(parts: Parts, node: fx.Node) -> Pair:
    (a, b), (c, d) = (parts.of(argument) for argument in node.args[:2])
    return _divided(parts, a, b, c, d)


def _divided(parts: Parts, a: Argument, b: Argument, c: Argument, d: Argument) -> Pair:
    if d is None:
        return (parts.emit(aten.div.Tensor, a, c), parts.emit(aten.div.Tensor, b, c))
    norm = parts.add(parts.mul(c, c), parts.mul(d, d))
    re, im = _multiplied(parts, a, b, c, parts.emit(aten.neg.default, d), parts.mul)
    return (parts.emit(aten.div.Tensor, re, norm), parts.emit(aten.div.Tensor, im, norm))


def _conjugate(parts: Parts, node: fx.Node) -> Pair:
    re, im = parts.of(node.args[0])
    return re, parts.emit(aten.neg.default, im)


def _from_real(parts: Parts, node: fx.Node) -> Pair:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    return (
        parts.emit(aten.select.int, x, -1, 0),
        parts.emit(aten.select.int, x, -1, 1),
    )


def _cast(parts: Parts, node: fx.Node) -> Pair | fx.Node:
    re, im = parts.of(node.args[0])
    dtype = node.kwargs.get("dtype")
    if isinstance(dtype, torch.dtype) and not dtype.is_complex:
        return re
    if re.meta["val"].dtype is not torch.float32:
        re = parts.emit(aten._to_copy.default, re, dtype=torch.float32)
    return re, (parts.zeros(re) if im is None else im)


def _to_real(parts: Parts, node: fx.Node) -> fx.Node:
    both = [parts.emit(aten.unsqueeze.default, part, -1) for part in parts.of(node.args[0])]
    return parts.emit(aten.cat.default, both, -1)


def _magnitude(parts: Parts, node: fx.Node) -> fx.Node:
    squares = []
    for part in parts.of(node.args[0]):
        small = parts.emit(aten.mul.Tensor, part, 1.0 / _MAGNITUDE_SCALE)
        squares.append(parts.emit(aten.mul.Tensor, small, small))
    root = parts.emit(aten.sqrt.default, parts.add(squares[0], squares[1]))
    return parts.emit(aten.mul.Tensor, root, _MAGNITUDE_SCALE)


def _angle(parts: Parts, node: fx.Node) -> fx.Node:
    re, im = parts.of(node.args[0])
    return parts.emit(aten.atan2.default, im, re)


def _r2c(parts: Parts, node: fx.Node) -> Pair | str:
    x, axes, normalization, onesided = arguments(node).values()
    found = dft.refusal(x, axes)
    return found or dft.real_to_complex(parts.rw, x, axes, normalization, onesided)


def _c2c(parts: Parts, node: fx.Node) -> Pair | str:
    x, axes, normalization, forward = arguments(node).values()
    found = dft.refusal(x, axes)
    return found or dft.complex_to_complex(
        parts.rw,
        parts.pairs[x],
        axes,
        normalization,
        forward=bool(forward),
    )


def _c2r(parts: Parts, node: fx.Node) -> fx.Node | str:
    x, axes, normalization, length = arguments(node).values()
    found = dft.refusal(x, axes, length)
    return found or dft.complex_to_real(parts.rw, parts.pairs[x], axes, normalization, length)


# Their operands are joined to one result, real ones with an imaginary part of zero.
_JOINS = (
    aten.cat.default,
    aten.stack.default,
    aten.slice_scatter.default,
    aten.select_scatter.default,
)
_PARTWISE = (
    *_JOINS,
    aten.reshape.default,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.expand.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.flip.default,
    aten.roll.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.clone.default,
    aten.neg.default,
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.diagonal.default,
    aten.gather.default,
    aten.squeeze.dim,
    aten.squeeze.default,
    aten.repeat.default,
    aten.tile.default,
    aten.constant_pad_nd.default,
    aten.pad.default,
    aten.unfold.default,
    aten.cumsum.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
    operator.getitem,
    aten.sum.default,
    aten.mean.default,
)

RULES: dict[Any, Rule] = {
    **dict.fromkeys(_PARTWISE, _partwise),
    aten.full.default: _filled,
    aten.where.self: _where,
    aten.complex.default: _joined,
    aten.polar.default: _polar,
    aten.exp.default: _exp,
    aten.add.Tensor: _sum,
    aten.sub.Tensor: _sum,
    aten.mul.Tensor: _product,
    aten.div.Tensor: _quotient,
    aten.pow.Tensor_Scalar: _power,
    aten.reciprocal.default: _reciprocal,
    aten.matmul.default: _matmul,
    aten.bmm.default: _matmul,
    aten.mm.default: _matmul,
    aten.einsum.default: _einsum,
    aten._conj.default: _conjugate,
    aten.conj_physical.default: _conjugate,
    aten.view_as_complex.default: _from_real,
    aten._to_copy.default: _cast,
    aten.view_as_real.default: _to_real,
    aten.abs.default: _magnitude,
    aten.angle.default: _angle,
    aten._fft_r2c.default: _r2c,
    aten._fft_c2c.default: _c2c,
    aten._fft_c2r.default: _c2r,
}
