"""Products with a constant matrix become ``aten.linear``, at the rank of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import fx
from torch.fx.node import Argument

from frontend.schema import arguments
from frontend.sizes import Size, same_sizes
from passes.base import Pass
from passes.patterns.einsum import EinsumLinear, read_einsum
from passes.patterns.nodes import (
    argument,
    aten,
    dtype,
    input_of,
    is_call,
    is_tensor,
    only_user,
    shape,
)
from passes.patterns.operands import Axis, add_sides, reshape_to
from passes.patterns.operators import MATMULS
from passes.rewriter import Rewriter

_PRODUCTS = (aten.mm.default, *MATMULS)


@dataclass(frozen=True)
class CanonicalLinear(Pass):
    """``mm``, ``addmm``, ``bmm``, ``baddbmm``, ``matmul`` and ``einsum`` with a constant matrix.

    Before: ``reshape(addmm(b, reshape(x, [B*S, I]), w), [B, S, O])``, as GPT-2 writes it.
    After: ``linear(x (B, S, I), permute(w) (O, I), b)``; ``fold_constants`` then turns the
    permutation into a view of the stored weight. A constant vector that is added to a linear
    without bias becomes its bias. A constant matrix on the left, ``w @ x (B, I, S)``, is a
    linear between two permutations, which a layout with channels first needs no more.

    Exact up to the order of the additions: float32 within rtol 1e-5 / atol 1e-6.
    """

    name: ClassVar[str] = "canonical_linear"
    by_site: ClassVar[bool] = True
    chooses_form: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """Products first, then their biases, then the reshapes around them."""
        for targets, rewrite in (
            (_PRODUCTS, _product),
            ((aten.addmm.default, aten.baddbmm.default), _product_plus),
            ((aten.einsum.default,), _einsum),
        ):
            for node in rw.find(*targets):
                if dtype(node).is_floating_point:  # a linear of integers is no convolution
                    rewrite(rw, node)
        for node in rw.find(aten.linear.default):
            _absorb_bias(rw, node)
        for node in rw.find(aten.linear.default):
            _unflatten(rw, node)


def _product(rw: Rewriter, node: fx.Node) -> None:
    left, right = arguments(node).values()
    if rw.is_constant(left) == rw.is_constant(right):
        return  # attention and the like; or a constant, which folds
    on_left = rw.is_constant(left)
    with rw.at(node):
        matrix = _matrix(rw, left if on_left else right)
        if isinstance(matrix, str):
            rw.decline(node, matrix)
        elif on_left:
            rw.replace(node, _from_left(rw, matrix, right, len(shape(left)) == 1))
        else:
            rw.replace(node, _from_right(rw, left, matrix, len(shape(right)) == 1))


def _product_plus(rw: Rewriter, node: fx.Node) -> None:
    """``beta * bias + alpha * (x @ w)``."""
    bias, x, weight, beta, alpha = arguments(node).values()
    if rw.is_constant(x) == rw.is_constant(weight):
        return
    if rw.is_constant(x):
        rw.decline(node, "its constant matrix is on the left and a bias is added to its rows")
        return
    with rw.at(node):
        matrix = _matrix(rw, weight)
        if isinstance(matrix, str):
            rw.decline(node, matrix)
            return
        if alpha != 1:
            matrix = rw.emit(aten.mul.Tensor, matrix, alpha)
        if beta != 1 and beta != 0:
            bias = rw.emit(aten.mul.Tensor, bias, beta)
        vector = None if beta == 0 else _vector(rw, bias, shape(matrix)[1])
        new = rw.emit(aten.linear.default, x, _turned(rw, matrix), vector)
        if vector is None and beta != 0:
            new = rw.emit(aten.add.Tensor, new, bias)
        rw.replace(node, new)


def _matrix(rw: Rewriter, weight: fx.Node) -> fx.Node | str:
    """The one (I, O) matrix that a constant operand of any rank repeats, or why there is none."""
    rank = len(shape(weight))
    if rank <= 2:
        return weight
    value = rw.value(weight)
    if any(n != 1 and value.stride(i) != 0 for i, n in enumerate(value.shape[: rank - 2])):
        return "its constant holds a matrix of its own for each batch entry, which is no linear"
    for _ in range(rank - 2):
        weight = rw.emit(aten.select.int, weight, 0, 0)
    return weight


def _from_right(rw: Rewriter, x: fx.Node, matrix: fx.Node, is_vector: bool) -> fx.Node:
    """``x (..., I) @ matrix (I, O)``."""
    if is_vector:
        row = rw.emit(aten.unsqueeze.default, matrix, 0)
        return rw.emit(aten.squeeze.dims, rw.emit(aten.linear.default, x, row), [-1])
    return rw.emit(aten.linear.default, x, _turned(rw, matrix))


def _from_left(rw: Rewriter, matrix: fx.Node, x: fx.Node, is_vector: bool) -> fx.Node:
    """``matrix (O, I) @ x (..., I, S)``."""
    rank = len(shape(x))
    if is_vector:
        matrix = rw.emit(aten.unsqueeze.default, matrix, 0)
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    rows = rw.emit(aten.permute.default, x, swapped) if rank > 1 else x
    new = rw.emit(aten.linear.default, rows, matrix)
    if is_vector:
        return rw.emit(aten.squeeze.dims, new, [-1])
    return rw.emit(aten.permute.default, new, swapped) if rank > 1 else new


def _turned(rw: Rewriter, matrix: fx.Node) -> fx.Node:
    """The transposed matrix; one that the program turned itself is turned back."""
    if is_call(matrix, aten.permute.default) and argument(matrix, "dims") in ([1, 0], [-1, -2]):
        return input_of(matrix)
    return rw.emit(aten.permute.default, matrix, [1, 0])


def _vector(rw: Rewriter, value: Argument, size: int) -> fx.Node | None:
    """``value`` as a constant of shape (size,), ``None`` if it is anything else."""
    if not is_tensor(value) or not rw.is_constant(value):
        return None
    sizes = shape(value)
    if sizes == (size,):
        return value
    if sizes and sizes[-1] == size and all(n == 1 for n in sizes[:-1]):
        return rw.emit(aten.reshape.default, value, [size])
    return None


def _einsum(rw: Rewriter, node: fx.Node) -> None:
    equation, operands, _ = arguments(node).values()
    if len(operands) != 2 or rw.is_constant(operands[0]) == rw.is_constant(operands[1]):
        return
    place = 0 if rw.is_constant(operands[0]) else 1
    weight, x = operands[place], operands[1 - place]
    ranks = (len(shape(operands[0])), len(shape(operands[1])))
    read = read_einsum(equation, ranks, place)
    if isinstance(read, str):
        rw.decline(node, read)
        return
    summed = len(read.summed)
    x_sizes = [shape(x)[axis] for axis in read.x_order[-summed:]]
    if not same_sizes(x_sizes, [shape(weight)[axis] for axis in read.weight_order[-summed:]]):
        rw.decline(node, "its einsum broadcasts an axis of size one that it sums over")
        return
    with rw.at(node):
        rw.replace(node, _einsum_linear(rw, read, x, weight))


def _einsum_linear(rw: Rewriter, read: EinsumLinear, x: fx.Node, weight: fx.Node) -> fx.Node:
    summed, made = len(read.summed), len(read.made)
    x = _permuted(rw, x, read.x_order)
    weight = _permuted(rw, weight, read.weight_order)
    outputs = list(shape(weight)[:made])
    kept = len(shape(x)) - summed
    if summed > 1:
        x = reshape_to(rw, x, [*map(Axis, range(kept)), -1])
    inputs = shape(x)[-1]
    weight = rw.emit(aten.reshape.default, weight, [-1, inputs])
    new = rw.emit(aten.linear.default, x, weight)
    if made != 1:
        new = reshape_to(rw, new, [*map(Axis, range(kept)), *outputs])
    return _permuted(rw, new, read.out_order)


def _permuted(rw: Rewriter, x: fx.Node, order: list[int]) -> fx.Node:
    return x if order == sorted(order) else rw.emit(aten.permute.default, x, order)


def _absorb_bias(rw: Rewriter, node: fx.Node) -> None:
    """``linear(x, w) + b`` becomes ``linear(x, w, b)``."""
    if argument(node, "bias") is not None:
        return
    user = only_user(node)
    if user is None:
        return
    for term, other in add_sides(user):
        if term is not node or not is_tensor(other) or len(shape(other)) > len(shape(node)):
            continue
        with rw.at(user):
            vector = _vector(rw, other, shape(node)[-1])
            if vector is None or dtype(vector) is not dtype(node):
                continue
            rw.replace(user, rw.emit(aten.linear.default, *node.args[:2], vector))
        return


def _unflatten(rw: Rewriter, node: fx.Node) -> None:
    """``reshape(linear(reshape(x, [B*S, I])), [B, S, ...])`` without the first reshape.

    Of heads (B, S, H, D) it is left with the one to (B, S, I).
    """
    flat = input_of(node)
    if not is_call(flat, aten.reshape.default):
        return
    x, flat_sizes = arguments(flat).values()
    rows = _rows(shape(x), shape(flat)[-1])
    if rows is None or len(rows) < len(shape(flat)):
        return
    back = [
        user
        for user in node.users
        if is_call(user, aten.reshape.default) and same_sizes(shape(user)[: len(rows)], rows)
    ]
    if not back:
        return
    with rw.at(node):
        if len(rows) + 1 < len(shape(x)):
            x = rw.emit(aten.reshape.default, x, [*shape(x)[: len(rows)], shape(flat)[-1]])
        new = rw.emit(aten.linear.default, x, *node.args[1:], **node.kwargs)
    for user in back:
        with rw.at(user):
            if same_sizes(shape(user), shape(new)):
                rw.replace(user, new)
            else:
                rw.replace(user, rw.emit(aten.reshape.default, new, user.args[1]))
    if any(user not in back for user in node.users):
        with rw.at(node):
            # The rows of the flat result are spelled as they were.
            spelled = [*flat_sizes[:-1], shape(node)[-1]]
            rw.replace(node, rw.emit(aten.reshape.default, new, spelled), counted=False)


def _rows(sizes: tuple[Size, ...], channels: Size) -> tuple[Size, ...] | None:
    """The axes in front of those that hold ``channels``, several only where all is static."""
    if same_sizes(sizes[-1:], [channels]):
        return sizes[:-1]
    if not all(isinstance(n, int) for n in sizes):
        return None
    fitting = [k for k in range(len(sizes)) if math.prod(map(int, sizes[k:])) == channels]
    return sizes[: fitting[-1]] if fitting else None
