"""Activations that are written out become their native operators again."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from torch import fx
from torch.fx.node import Argument

from frontend.sizes import same_sizes
from passes.base import Pass
from passes.patterns.nodes import (
    Target,
    argument,
    aten,
    dtype,
    input_of,
    is_call,
    is_tensor,
    shape,
)
from passes.patterns.operands import (
    add_sides,
    difference,
    mul_sides,
    plus_scalar,
    quotient,
    reduced_axes,
    same_value,
    scalar,
    times_scalar,
)
from passes.patterns.operators import LOG_SOFTMAXES, SOFTMAXES
from passes.patterns.polynomial import is_polynomial, polynomial
from passes.rewriter import Rewriter

_ROOT_HALF = math.sqrt(0.5)
_ROOT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715  # of the tanh approximation (Hendrycks and Gimpel, 2016)

# Constants are often written with a few digits: sqrt(2) as 1.4142 is off by 1e-5.
_TOLERANCE = 1.1e-5

_Match = tuple[Target, fx.Node, dict[str, Any]]


@dataclass(frozen=True)
class FuseActivations(Pass):
    """GELU, SiLU, hard swish, softmax and log-softmax, each back to one operator.

    Before: ``0.5 * x * (1 + tanh(0.79788 * (x + 0.044715 * x**3)))`` and its other spellings,
    ``0.5 * x * (1 + erf(x / 1.41421))``, ``x * sigmoid(x)``, ``exp(x - max) / sum``, and so on;
    after: ``gelu(x, "tanh")``, ``gelu(x)``, ``silu(x)``, ``softmax(x)``. One operator in place of
    up to nine, and stable in float16, where ``x**3`` overflows from 40 on and ``exp`` from 11 on.
    ``softmax(x - c)`` of a number ``c`` is ``softmax(x)``: float16 rounds ``x - 20`` to 2**-6.
    ``x * sigmoid(1.702 x)`` (QuickGELU) has no operator of its own and stays.

    Bound: float32 within rtol 1e-5 / atol 1e-6; constants may differ relatively by 1.1e-5.
    """

    name: ClassVar[str] = "fuse_activations"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """One walk in program order over the operators that can end an activation."""
        for node in rw.find(*SOFTMAXES, *LOG_SOFTMAXES):
            _renamed(rw, node)
        ends = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
        for node in rw.find(*ends, aten.exp.default, aten.sub.Tensor):
            if not node.users or rw.is_constant(node):
                continue
            found = _softmax(rw, node) or _gated(rw, node)
            if found is None:
                continue
            target, x, options = found
            busy = _used_elsewhere(rw, node, x)
            if busy is not None:
                rw.decline(node, f"{busy.name}, a step of its {_title(target)}, is used elsewhere")
                continue
            with rw.at(node):
                args = [options.pop("dim")] if "dim" in options else []
                rw.replace(node, rw.emit(target, x, *args, **options))
        for node in rw.find(aten.softmax.int, aten.log_softmax.int):
            _without_shift(rw, node)


def _title(target: Target) -> str:
    return str(target).split(".")[1]


def _renamed(rw: Rewriter, node: fx.Node) -> None:
    """``_softmax`` of core ATen as ``softmax``."""
    native = aten.softmax.int if is_call(node, *SOFTMAXES) else aten.log_softmax.int
    if is_call(node, native) or argument(node, "half_to_float"):
        return
    with rw.at(node):
        rw.replace(node, rw.emit(native, input_of(node), argument(node, "dim")))


def _without_shift(rw: Rewriter, node: fx.Node) -> None:
    """Softmax and log-softmax are the same whatever number all scores are raised by."""
    x = input_of(node)
    while (shifted := plus_scalar(rw, x)) is not None and math.isfinite(shifted[1]):
        x = shifted[0]
    if x is not input_of(node) and same_sizes(shape(x), shape(node)) and dtype(x) is dtype(node):
        with rw.at(node):
            rw.replace(node, rw.emit(node.target, x, *node.args[1:], **node.kwargs))


def _gated(rw: Rewriter, end: fx.Node) -> _Match | None:
    """An activation of the form ``c * x * gate(x)``."""
    for c, x, gate in _factors(rw, end):
        found = _gate(rw, c, x, gate)
        if found is not None and shape(x) == shape(end):
            return found[0], x, found[1]
    parts = quotient(end)
    if parts is not None and is_tensor(parts[0]):
        # x / (1 + exp(-x))
        for one, other in add_sides(parts[1]):
            if scalar(rw, one) != 1 or not is_call(other, aten.exp.default):
                continue
            if is_polynomial(polynomial(rw, other.args[0], parts[0]), {1: -1.0}, _TOLERANCE):
                return aten.silu.default, parts[0], {}
    return None


def _gate(
    rw: Rewriter, c: float, x: fx.Node, gate: Argument
) -> tuple[Target, dict[str, Any]] | None:
    """The activation ``c * x * gate``."""

    def is_gate(line: Argument, wanted: dict[int, float]) -> bool:
        return is_polynomial(polynomial(rw, line, x), wanted, _TOLERANCE)

    tanh = {1: _ROOT_2_OVER_PI, 3: _ROOT_2_OVER_PI * _CUBIC}
    if is_call(gate, aten.sigmoid.default) and _close(c, 1):
        if is_gate(gate.args[0], {1: 1.0}):
            return aten.silu.default, {}
        # sigmoid(2 z) = (1 + tanh(z)) / 2
        if is_gate(gate.args[0], {power: 2 * value for power, value in tanh.items()}):
            return aten.gelu.default, {"approximate": "tanh"}
    if is_call(gate, aten.erfc.default) and _close(c, 0.5):
        return (aten.gelu.default, {}) if is_gate(gate.args[0], {1: -_ROOT_HALF}) else None
    if is_call(gate, aten.hardsigmoid.default) and gate.args[0] is x and _close(c, 1):
        return aten.hardswish.default, {}
    if _clamps(gate, 0, 6) and _close(c, 1 / 6) and is_gate(gate.args[0], {0: 3.0, 1: 1.0}):
        return aten.hardswish.default, {}
    for inner in _curves(gate):
        line = polynomial(rw, gate, inner)
        if line is None or not is_polynomial(line, {0: 0.5 / c, 1: 0.5 / c}, _TOLERANCE):
            continue
        if is_call(inner, aten.erf.default) and is_gate(inner.args[0], {1: _ROOT_HALF}):
            return aten.gelu.default, {}
        if is_call(inner, aten.tanh.default) and is_gate(inner.args[0], tanh):
            return aten.gelu.default, {"approximate": "tanh"}
    return None


def _factors(rw: Rewriter, end: fx.Node) -> Iterator[tuple[float, fx.Node, Argument]]:
    """``(c, x, gate)`` for each reading of ``end`` as ``c * x * gate``."""
    for outer, product in _unscaled(rw, end):
        for left, right in mul_sides(product):
            for c, x in _unscaled(rw, left):
                for d, gate in _unscaled(rw, right):
                    if is_tensor(x) and outer * c * d != 0:
                        yield outer * c * d, x, gate


def _unscaled(rw: Rewriter, node: Argument) -> Iterator[tuple[float, Argument]]:
    """``node`` as a number times another node, in every way."""
    c = 1.0
    yield c, node
    while (scaled := times_scalar(rw, node)) is not None:
        node, c = scaled[0], c * scaled[1]
        yield c, node


def _curves(gate: Argument) -> Iterator[fx.Node]:
    """``erf`` or ``tanh`` nodes that ``gate`` may be a line of."""
    for _ in range(3):
        if not isinstance(gate, fx.Node):
            return
        if is_call(gate, aten.erf.default, aten.tanh.default):
            yield gate
            return
        gate = next((n for n in gate.all_input_nodes if n.op != "placeholder"), None)


def _clamps(node: Argument, low: float, high: float) -> TypeGuard[fx.Node]:
    if is_call(node, aten.relu6.default):
        return (low, high) == (0, 6)
    if not is_call(node, aten.clamp.default, aten.hardtanh.default):
        return False
    names = ("min_val", "max_val") if is_call(node, aten.hardtanh.default) else ("min", "max")
    return tuple(argument(node, name) for name in names) == (low, high)


def _softmax(rw: Rewriter, end: fx.Node) -> _Match | None:
    parts = quotient(end)
    if parts is not None and is_call(parts[0], aten.exp.default):
        exponent = input_of(parts[0])
        total = _reduced(parts[1], aten.sum.dim_IntList)
        if total is not None and same_value(total[0], parts[0]):
            return aten.softmax.int, _shifted(exponent, total[1]), {"dim": total[1]}
    if is_call(end, aten.exp.default):
        # x - logsumexp(x) has become one operator on the way here.
        inner = input_of(end)
        if is_call(inner, aten.log_softmax.int) and argument(inner, "dtype") is None:
            return aten.softmax.int, input_of(inner), {"dim": argument(inner, "dim")}
        return None
    return _log_softmax(end)


def _log_softmax(end: fx.Node) -> _Match | None:
    """``x - logsumexp(x)``, or ``z - log(sum(exp(z)))``."""
    x, total = difference(end) or (None, None)
    if not is_tensor(x):
        return None
    found = _reduced(total, aten.logsumexp.default)
    if found is not None and same_value(found[0], x):
        return aten.log_softmax.int, _shifted(x, found[1]), {"dim": found[1]}
    if is_call(total, aten.log.default):
        found = _reduced(input_of(total), aten.sum.dim_IntList)
        if found is None:
            return None
        exponential, axis = found
        if is_call(exponential, aten.exp.default) and same_value(exponential.args[0], x):
            return aten.log_softmax.int, _shifted(x, axis), {"dim": axis}
    return None


def _shifted(exponent: fx.Node, axis: int) -> fx.Node:
    """``x`` of ``x - max(x)``; any other exponent is itself."""
    x, shift = difference(exponent) or (None, None)
    if not is_tensor(x):
        return exponent
    largest = _reduced(shift, aten.amax.default)
    if is_call(shift, operator.getitem) and shift.args[1] == 0:
        largest = _reduced(shift.args[0], aten.max.dim)
    if largest is None or largest[1] != axis or not same_value(largest[0], x):
        return exponent
    return x


def _reduced(node: Argument, target: Target) -> tuple[fx.Node, int] | None:
    """``(x, axis)`` of a reduction over one axis that is kept."""
    if not is_call(node, target) or not argument(node, "keepdim"):
        return None
    axes = reduced_axes(node, len(shape(node)))
    return (input_of(node), axes[0]) if len(axes) == 1 else None


def _used_elsewhere(rw: Rewriter, end: fx.Node, x: fx.Node) -> fx.Node | None:
    """A node between ``x`` and ``end`` that something else uses as well."""
    inside, pending = {end}, [end]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source is not x and source not in inside and source.op == "call_function":
                inside.add(source)
                pending.append(source)
    # Constants hang on the pattern as well; they may be shared.
    steps = {node for node in inside if not rw.is_constant(node)}
    for node in steps - {end}:
        if any(user not in steps for user in node.users):
            return node
    return None


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE)
