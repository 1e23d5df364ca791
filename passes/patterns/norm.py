"""Reads a norm that is written out: data times the inverse root of its power."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx
from torch.fx.node import Argument

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
from passes.patterns.operands import (
    add_sides,
    difference,
    mul_sides,
    plus_scalar,
    powered,
    quotient,
    reduced_axes,
    same_value,
    times_scalar,
)
from passes.rewriter import Rewriter

_FLOAT_RELATIVE = 1e-6  # 1/n in float32 is as near as this to 1/n


@dataclass(frozen=True)
class WrittenNorm:
    """``data * rsqrt(power(x) + eps)``, one node per step.

    Attributes:
        end: the node that holds the result.
        data: what is scaled: x itself, or x less its mean.
        x: the tensor that is normalised.
        axes: axes of the mean, non-negative and ascending.
        eps: what is added to the power.
        inside: the nodes between ``x`` and ``end`` that only the norm should need.
    """

    end: fx.Node
    data: fx.Node
    x: fx.Node
    axes: tuple[int, ...]
    eps: float
    inside: frozenset[fx.Node]

    @property
    def centred(self) -> bool:
        """True for a layer norm, False for a root-mean-square norm."""
        return self.data is not self.x

    def refusal(self) -> str | None:
        """Why fusing it would compute something twice."""
        for node in self.inside:
            if any(user not in self.inside and user is not self.end for user in node.users):
                return f"{node.name}, a step of its norm, is used elsewhere as well"
        return None


def read_norm(rw: Rewriter, end: fx.Node) -> WrittenNorm | str | None:
    """The norm that ends at ``end``; a sentence for a near miss; ``None`` for anything else."""
    for data, inverse, steps in _scaled(end):
        if not is_tensor(data) or shape(data) != shape(end):
            continue
        shifted = plus_scalar(rw, inverse)
        if shifted is None:
            continue
        power, eps = shifted
        found = _read_power(rw, data, power)
        if isinstance(found, str):
            return found
        if found is not None:
            x, axes, inside = found
            inside |= {*steps, inverse, power}
            return WrittenNorm(end, data, x, axes, eps, frozenset(inside))
    return None


def _scaled(node: fx.Node) -> list[tuple[Argument, fx.Node, list[fx.Node]]]:
    """``(data, variance + eps, steps between)`` wherever ``node`` may be data over a root."""
    found = []
    for data, factor in mul_sides(node):
        root = _power_of(factor)
        if root is not None and root[1] == -0.5:
            found.append((data, root[0], [root[2]]))
        inner: Argument = factor
        steps: list[fx.Node] = []
        while is_tensor(inner) and (below := _inverted(inner)) is not None:
            steps.append(inner)
            inner = below
        root = _power_of(inner)
        if root is not None and root[1] == 0.5 and steps:
            found.append((data, root[0], [*steps, root[2]]))
    parts = quotient(node)
    if parts is not None:
        root = _power_of(parts[1])
        if root is not None and root[1] == 0.5:
            found.append((parts[0], root[0], [root[2]]))
    return found


def _power_of(node: Argument) -> tuple[fx.Node, float, fx.Node] | None:
    """As ``powered``, for literal exponents; ``node`` itself at the end."""
    if is_call(node, aten.sqrt.default):
        return input_of(node), 0.5, node
    if is_call(node, aten.rsqrt.default):
        return input_of(node), -0.5, node
    if is_call(node, aten.pow.Tensor_Scalar):
        return input_of(node), float(argument(node, "exponent")), node
    return None


def _inverted(node: Argument) -> Argument:
    """``x`` of ``1 / x``; of ``1 * (1 / x)``, as ``1 / x`` is captured, the second factor."""
    if is_call(node, aten.reciprocal.default):
        return node.args[0]
    if is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == -1:
        return node.args[0]
    if is_call(node, aten.mul.Tensor) and node.args[1] == 1:
        return node.args[0] if _inverted(node.args[0]) is not None else None
    parts = quotient(node)
    return parts[1] if parts is not None and parts[0] == 1 else None


def _read_power(
    rw: Rewriter, data: fx.Node, power: fx.Node
) -> tuple[fx.Node, tuple[int, ...], set[fx.Node]] | str | None:
    """``(x, axes, nodes inside)`` if ``power`` is the mean square of ``data``."""
    rank = len(shape(data))
    variance = _variance(power, rank)
    if variance is not None:
        x, axes, correction, inside = variance
        centre = _mean_removed(rw, data, rank)
        if centre is None or not same_value(centre[0], x):
            return None
        if correction != 0:
            return "its variance divides by n - 1, a layer norm's by n"
        return _agreeing(centre[0], axes, centre[1], inside | centre[2] | {data})
    mean = _mean(rw, power, rank)
    square = powered(rw, mean[0]) if mean is not None else None
    if mean is None or square is None or square[1] != 2.0 or not same_value(square[0], data):
        return None
    inside = mean[2] | {mean[0]}
    centre = _mean_removed(rw, data, rank)
    if centre is None:
        return data, mean[1], inside
    twin = square[0]
    for part in (data, twin):
        found = _mean_removed(rw, part, rank)
        assert found is not None
        inside |= found[2] | {part}
    return _agreeing(centre[0], mean[1], centre[1], inside)


def _agreeing(
    x: fx.Node, one: tuple[int, ...], other: tuple[int, ...], inside: set[fx.Node]
) -> tuple[fx.Node, tuple[int, ...], set[fx.Node]] | str:
    if one != other:
        return f"its mean is taken over axes {list(other)} and its variance over {list(one)}"
    return x, one, inside


def _mean_removed(
    rw: Rewriter, node: fx.Node, rank: int
) -> tuple[fx.Node, tuple[int, ...], set[fx.Node]] | None:
    """``(x, axes, nodes)`` of ``x - mean(x)``."""
    parts = difference(node)
    if parts is None:
        return None
    x, centre = parts
    if not is_tensor(x) or not is_tensor(centre):
        return None
    mean = _mean(rw, centre, rank)
    if mean is None:
        both = _var_mean(centre, 1, rank)
        if both is None or not same_value(both[0], x):
            return None
        return x, both[1], {centre, *both[3]}
    return (x, mean[1], mean[2] | {centre}) if same_value(mean[0], x) else None


def _mean(
    rw: Rewriter, node: Argument, rank: int
) -> tuple[fx.Node, tuple[int, ...], set[fx.Node]] | None:
    """``(x, axes, nodes besides node)`` of a mean, or of a sum over n, with axes kept."""
    if is_call(node, aten.mean.dim) and _keeps(node):
        return input_of(node), reduced_axes(node, rank), {node}
    scaled = times_scalar(rw, node)
    if scaled is None or not is_tensor(node):
        return None
    total, factor = scaled
    if not is_call(total, aten.sum.dim_IntList) or not _keeps(total):
        return None
    x, axes = input_of(total), reduced_axes(total, rank)
    sizes = [shape(x)[axis] for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        return None
    if not math.isclose(factor * math.prod(sizes), 1.0, rel_tol=_FLOAT_RELATIVE):
        return None
    return x, axes, {total, node}


def _variance(
    node: Argument, rank: int
) -> tuple[fx.Node, tuple[int, ...], float, set[fx.Node]] | None:
    """``(x, axes, correction, nodes)`` of a variance with axes kept."""
    if is_call(node, aten.var.correction) and _keeps(node):
        return input_of(node), reduced_axes(node, rank), _correction(node), {node}
    return _var_mean(node, 0, rank)


def _var_mean(
    node: Argument, part: int, rank: int
) -> tuple[fx.Node, tuple[int, ...], float, set[fx.Node]] | None:
    if not is_call(node, operator.getitem) or node.args[1] != part:
        return None
    both = node.args[0]
    if not is_call(both, aten.var_mean.correction) or not _keeps(both):
        return None
    return input_of(both), reduced_axes(both, rank), _correction(both), {both, node}


def _correction(node: fx.Node) -> float:
    value = argument(node, "correction")
    return 1.0 if value is None else float(value)


def _keeps(node: fx.Node) -> bool:
    return bool(argument(node, "keepdim"))


@dataclass(frozen=True)
class Affine:
    """The constant scale and shift behind a norm.

    Attributes:
        end: the node that holds the result.
        weight: of the shape of the norm's axes, or ``None``.
        bias: the same.
    """

    end: fx.Node
    weight: fx.Node | None
    bias: fx.Node | None


def absorb_affine(
    rw: Rewriter, norm: fx.Node, axes: tuple[int, ...], *, bias_allowed: bool
) -> Affine:
    """The scale and shift behind ``norm``, reshaped to its axes by nodes before the last of them.

    ``(norm + b) * w`` is read as ``norm * w + b * w``.
    """
    end, weight, bias = norm, None, None
    bias_first = False
    while (user := only_user(end)) is not None:
        factor = _parameter(rw, mul_sides(user), end, norm, axes) if weight is None else None
        if factor is not None:
            end, weight, bias_first = user, factor, bias is not None
            if bias_first:
                break
            continue
        wanted = bias_allowed and bias is None
        term = _parameter(rw, add_sides(user), end, norm, axes) if wanted else None
        if term is None:
            break
        end, bias = user, term
    with rw.at(end):
        weight = None if weight is None else _over_axes(rw, weight, norm, axes)
        bias = None if bias is None else _over_axes(rw, bias, norm, axes)
        if bias_first:
            bias = rw.emit(aten.mul.Tensor, bias, weight)
    return Affine(end, weight, bias)


def _parameter(
    rw: Rewriter,
    sides: Iterable[tuple[Argument, Argument]],
    operand: fx.Node,
    norm: fx.Node,
    axes: tuple[int, ...],
) -> fx.Node | None:
    """The constant beside ``operand``, if it varies along the axes of the norm alone."""
    for one, other in sides:
        if one is not operand or not is_tensor(other) or other is operand:
            continue
        wanted, found = shape(norm), shape(other)
        if not rw.is_constant(other) or len(found) > len(wanted) or not found:
            return None
        aligned = _aligned(other, norm)
        along = [wanted[axis] for axis in axes]
        beside = [size for axis, size in enumerate(aligned) if axis not in axes]
        fits = all(isinstance(size, int) for size in along) and all(size == 1 for size in beside)
        return other if fits and dtype(other) is dtype(norm) else None
    return None


def _aligned(parameter: fx.Node, x: fx.Node) -> list[int]:
    sizes = shape(parameter)
    return [1] * (len(shape(x)) - len(sizes)) + list(sizes)


def _over_axes(rw: Rewriter, parameter: fx.Node, x: fx.Node, axes: tuple[int, ...]) -> fx.Node:
    mine = [_aligned(parameter, x)[axis] for axis in axes]
    wanted = [shape(x)[axis] for axis in axes]
    if mine != list(shape(parameter)):
        parameter = rw.emit(aten.reshape.default, parameter, mine)
    return parameter if mine == wanted else rw.emit(aten.expand.default, parameter, wanted)
