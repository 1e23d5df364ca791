"""Reading spellings: scalars in any disguise, operands in either order, sizes that may be symbols.

Passes that recognise a composite operator from its parts ask these questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument

from frontend.random_calls import draws_random
from frontend.sizes import Size
from passes.patterns.nodes import argument, aten, axes, input_of, is_call, is_tensor, shape
from passes.rewriter import Rewriter

_MUL = (aten.mul.Tensor, aten.mul.Scalar)
_ADD = (aten.add.Tensor, aten.add.Scalar)
_SUB = (aten.sub.Tensor, aten.sub.Scalar)
_DIV = (aten.div.Tensor, aten.div.Scalar)


def scalar(rw: Rewriter, value: Argument) -> float | None:
    """The number that ``value`` is: a literal, or a constant tensor of equal elements."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if is_call(value, aten.full_like.default, aten.full.default):
        return scalar(rw, value.args[1])
    if not is_tensor(value) or not rw.is_constant(value):
        return None
    if value.meta["val"].dtype is torch.bool:
        return None
    tensor = rw.value(value).detach()
    if tensor.numel() == 0:
        return None
    flat = tensor.reshape(-1)
    first = flat[0]
    # Weights are told apart by their second element, without a look at the rest.
    if flat[-1] != first or not bool((flat == first).all()):
        return None
    return float(first)


def mul_sides(node: Argument) -> Iterator[tuple[Argument, Argument]]:
    """The factors of a product, in both orders."""
    if is_call(node, *_MUL):
        yield node.args[0], node.args[1]
        yield node.args[1], node.args[0]


def add_sides(node: Argument) -> Iterator[tuple[Argument, Argument]]:
    """The terms of a plain sum (``alpha`` 1), in both orders."""
    if is_call(node, *_ADD) and argument(node, "alpha") == 1:
        yield node.args[0], node.args[1]
        yield node.args[1], node.args[0]


def difference(node: Argument) -> tuple[Argument, Argument] | None:
    """``(a, b)`` of ``a - b``."""
    if is_call(node, *_SUB) and argument(node, "alpha") == 1:
        return node.args[0], node.args[1]
    return None


def quotient(node: Argument) -> tuple[Argument, Argument] | None:
    """``(a, b)`` of ``a / b``, true division."""
    if is_call(node, *_DIV):
        return node.args[0], node.args[1]
    return None


def times_scalar(rw: Rewriter, node: Argument) -> tuple[fx.Node, float] | None:
    """``(x, c)`` of ``x * c``, ``c * x`` or ``x / (1/c)``."""
    for x, c in mul_sides(node):
        number = scalar(rw, c)
        if number is not None and is_tensor(x):
            return x, number
    parts = quotient(node)
    if parts is not None and is_tensor(parts[0]):
        number = scalar(rw, parts[1])
        if number:
            return parts[0], 1.0 / number
    return None


def plus_scalar(rw: Rewriter, node: Argument) -> tuple[fx.Node, float] | None:
    """``(x, c)`` of ``x + c``, ``c + x`` or ``x - (-c)``."""
    for x, c in add_sides(node):
        number = scalar(rw, c)
        if number is not None and is_tensor(x):
            return x, number
    parts = difference(node)
    if parts is not None and is_tensor(parts[0]):
        number = scalar(rw, parts[1])
        if number is not None:
            return parts[0], -number
    return None


def powered(rw: Rewriter, node: Argument) -> tuple[fx.Node, float] | None:
    """``(x, exponent)`` of a power, a square, a product with itself, a root or a reciprocal."""
    if is_call(node, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor):
        exponent = scalar(rw, node.args[1])
        return None if exponent is None else (input_of(node), exponent)
    if is_call(node, aten.square.default):
        return input_of(node), 2.0
    if is_call(node, aten.sqrt.default):
        return input_of(node), 0.5
    if is_call(node, aten.rsqrt.default):
        return input_of(node), -0.5
    if is_call(node, aten.mul.Tensor) and node.args[0] is node.args[1]:
        return input_of(node), 2.0
    return None


def reduced_axes(node: fx.Node, rank: int) -> tuple[int, ...]:
    """Axes of a reduction, non-negative and ascending."""
    named = axes(node, "dim", rank)
    return tuple(range(rank) if named is None else sorted(named))


def reshape_to(rw: Rewriter, x: fx.Node, sizes: Sequence[Size | Axis]) -> fx.Node:
    """``x`` reshaped; an entry is a number, or an axis of ``x`` wrapped in ``Axis``."""
    spelled: list[Any] = []
    for size in sizes:
        if isinstance(size, Axis):
            known = shape(x)[size.index]
            fixed = isinstance(known, int)
            spelled.append(known if fixed else rw.emit(aten.sym_size.int, x, size.index))
        else:
            spelled.append(size)
    symbols = [place for place, size in enumerate(spelled) if isinstance(size, fx.Node)]
    if len(symbols) == 1 and -1 not in spelled:
        spelled[symbols[0]] = -1
    return rw.emit(aten.reshape.default, x, spelled)


class Axis:
    """Stands for the size of an axis in ``reshape_to``."""

    def __init__(self, index: int) -> None:
        self.index = index


def same_value(one: Argument, other: Argument, depth: int = 4) -> bool:
    """True if two arguments are known to be equal: one node, or equal calls down to ``depth``."""
    if one is other:
        return True
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_value, one, other, [depth] * len(one)))
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
        return type(one) is type(other) and one == other
    if depth == 0 or one.op != "call_function" or one.target is not other.target:
        return False
    if one.kwargs != other.kwargs or not same_value(one.args, other.args, depth - 1):
        return False
    return not draws_random(one)
