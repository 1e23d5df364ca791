"""Logarithms of probabilities and of sums of exponentials, without the detour."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx
from torch.fx.node import Argument

from frontend import fp16
from passes.base import Pass
from passes.patterns.nodes import (
    Target,
    argument,
    aten,
    input_of,
    is_call,
    is_static,
    is_tensor,
    shape,
)
from passes.patterns.operands import (
    add_sides,
    difference,
    plus_scalar,
    powered,
    quotient,
    reduced_axes,
    scalar,
    times_scalar,
)
from passes.patterns.operators import MOVES
from passes.patterns.signs import Bounded, clamped, is_nonnegative
from passes.rewriter import Rewriter

# The logarithm of what they take is the same of its logarithm: they move elements or order them.
_COMMUTE = (
    *MOVES,
    aten.amax.default,
    aten.amin.default,
    aten.expand.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.select.int,
    aten.slice.Tensor,
)
_FACTOR: Mapping[Target, float] = {
    aten.log.default: 1.0,
    aten.log2.default: 1.0 / math.log(2.0),
    aten.log10.default: 1.0 / math.log(10.0),
}
# Added to a probability it is not lost in float16, and needs no care.
_VISIBLE = fp16.ROUNDING


@dataclass(frozen=True)
class _Form:
    """A value of which the logarithm is known without computing the value.

    Attributes:
        emit: emits the logarithm.
        at_most_one: the value is a probability.
    """

    emit: Callable[[], fx.Node]
    at_most_one: bool = False


@dataclass(frozen=True)
class StableLogs(Pass):
    """Takes logarithms before an exponential is computed, not after.

    Before: ``log(softmax(x))``, ``log(sigmoid(x))``, ``log(1 - sigmoid(x))``, ``log(sum(exp(x)))``
    and ``mean``, ``log(exp(a) + exp(b))``, ``log1p(exp(x))``, ``log(cosh(x))``, ``log(sum(x * x))``
    and that of a variance, and any of them through views, ``gather``, maxima, bounds, quotients and
    factors. After: ``log_softmax``, ``-softplus(-x)``, ``logsumexp``, ``softplus``, twice the
    logarithm of a root, and the same steps on logarithms.
    In float16 a probability below 6e-8 is zero, its logarithm minus infinity, and ``exp``
    overflows from 11.1 on; the logarithm itself is an ordinary number.

    Bounds below float16's smallest normal number go behind the logarithm as well:
    ``log(clamp(y, 1e-10))`` is ``max(log(max(y, 0)), log(1e-10))``, and ``log(a / clamp(b, 1e-5))``
    is a difference, since 1 / 1e-5 overflows. ``log(y + 1e-10)`` stays: it is one MIL operator.

    Bound: float32 within rtol 1e-5 / atol 1e-6 wherever the original has its digits: where its
    exponentials are normal numbers (from -87 to 88), and in ``1 - sigmoid(x)`` for x below 5.
    Beyond, the original is off or infinite, and the result is not.
    """

    name: ClassVar[str] = "stable_logs"
    by_site: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "fuse_activations": "a softmax that is written out is one operator first",
    }

    def apply(self, rw: Rewriter) -> None:
        """Every logarithm, in program order."""
        for node in rw.find(*_FACTOR, aten.log1p.default):
            if rw.is_constant(node) or not node.users:
                continue
            y = input_of(node)
            plain = not is_call(node, aten.log1p.default)
            form = (_form(rw, y) or _guarded(rw, node, y)) if plain else _one_plus(rw, y)
            if form is None:
                continue
            with rw.at(node):
                found = form.emit()
                factor = _FACTOR[node.target] if plain else 1.0
                rw.replace(node, found if factor == 1.0 else rw.emit(_MUL, found, factor))


_MUL, _ADD, _SUB = aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor


def _form(rw: Rewriter, y: Argument) -> _Form | None:
    """How the logarithm of ``y`` is known, ``None`` if there is no better way than to take it."""
    if not is_tensor(y) or rw.is_constant(y):
        return None
    if is_call(y, aten.exp.default):
        return _Form(lambda: input_of(y))
    if is_call(y, aten.softmax.int):
        return _Form(lambda: rw.emit(aten.log_softmax.int, *y.args), at_most_one=True)
    if is_call(y, aten._softmax.default) and not y.args[2]:
        return _Form(lambda: rw.emit(aten.log_softmax.int, *y.args[:2]), at_most_one=True)
    if is_call(y, aten.sigmoid.default):
        return _Form(lambda: _minus_softplus(rw, rw.emit(aten.neg.default, input_of(y))), True)
    if is_call(y, aten.cosh.default):
        return _Form(lambda: _log_cosh(rw, input_of(y)))
    if _is_power(rw, y):  # its root is a norm, see ``stable_roots``
        return _Form(
            lambda: rw.emit(_MUL, rw.emit(aten.log.default, rw.emit(aten.sqrt.default, y)), 2.0)
        )
    if is_call(y, *_COMMUTE):
        inner = _form(rw, input_of(y))
        return inner and _Form(
            lambda: rw.emit(y.target, inner.emit(), *y.args[1:], **y.kwargs), inner.at_most_one
        )
    return _of_bounds(rw, y) or _of_sum(rw, y) or _of_product(rw, y)


def _is_power(rw: Rewriter, y: fx.Node) -> bool:
    """Whether ``y`` is a variance, or a sum or mean of squares."""
    if is_call(y, aten.sum.dim_IntList, aten.mean.dim, aten.mean.default):
        square = powered(rw, input_of(y))
        return square is not None and square[1] == 2.0 and argument(y, "dtype") is None
    return is_call(y, aten.var.correction)


def _of_bounds(rw: Rewriter, y: fx.Node) -> _Form | None:
    bounds = clamped(rw, y)
    inner = _form(rw, bounds.x) if bounds is not None and bounds.high > 0 else None
    if bounds is None or inner is None:
        return None
    return _Form(lambda: _bounded(rw, inner.emit(), bounds), inner.at_most_one)


def _of_sum(rw: Rewriter, y: fx.Node) -> _Form | None:
    complement = difference(y)
    if complement is not None and scalar(rw, complement[0]) == 1.0:
        p = complement[1]
        return _one_minus(rw, p)
    if is_call(y, aten.sum.dim_IntList, aten.mean.dim) and argument(y, "dtype") is None:
        return _of_total(rw, y)
    terms = next(add_sides(y), None)
    forms = [_form(rw, term) for term in terms] if terms is not None else [None]
    if len(forms) == 2 and forms[0] is not None and forms[1] is not None:
        one, other = forms[0], forms[1]
        return _Form(lambda: _log_of_sum(rw, one.emit(), other.emit()))
    shifted = plus_scalar(rw, y)
    return None if shifted is None else _plus(rw, *shifted)


def _of_total(rw: Rewriter, y: fx.Node) -> _Form | None:
    """A sum or mean of what has a form: the logarithm of a sum of exponentials."""
    x = input_of(y)
    inner = _form(rw, x)
    axes = reduced_axes(y, len(shape(x)))
    count = [shape(x)[axis] for axis in axes]
    is_mean = is_call(y, aten.mean.dim)
    if inner is None or not axes or (is_mean and not is_static(x)):
        return None

    def emit() -> fx.Node:
        keep = bool(argument(y, "keepdim"))
        total = rw.emit(aten.logsumexp.default, inner.emit(), list(axes), keep)
        return rw.emit(_SUB, total, math.log(math.prod(count))) if is_mean else total

    return _Form(emit)


def _of_product(rw: Rewriter, y: fx.Node) -> _Form | None:
    scaled = times_scalar(rw, y)
    if scaled is not None:
        x, factor = scaled
        inner = _form(rw, x)
        if inner is None or factor <= 0:
            return None
        return _Form(lambda: rw.emit(_ADD, inner.emit(), math.log(factor)))
    parts = quotient(y)
    forms = [_form(rw, part) for part in parts] if parts is not None else [None]
    if len(forms) == 2 and forms[0] is not None and forms[1] is not None:
        above, below = forms[0], forms[1]
        return _Form(lambda: rw.emit(_SUB, above.emit(), below.emit()))
    return None


def _one_plus(rw: Rewriter, x: fx.Node) -> _Form | None:
    """``log1p(x)``."""
    if is_call(x, aten.neg.default):
        return _one_minus(rw, x.args[0])
    return _plus(rw, x, 1.0)


def _one_minus(rw: Rewriter, p: Argument) -> _Form | None:
    if not is_call(p, aten.sigmoid.default):
        return None
    return _Form(lambda: _minus_softplus(rw, input_of(p)), at_most_one=True)


def _plus(rw: Rewriter, x: fx.Node, number: float) -> _Form | None:
    """``x + number``, where ``x`` has a form."""
    inner = _form(rw, x)
    if inner is None or number <= 0 or (inner.at_most_one and number >= _VISIBLE):
        return None
    if number == 1.0:
        return _Form(lambda: rw.emit(aten.softplus.default, inner.emit()))
    return _Form(lambda: _log_of_sum(rw, inner.emit(), math.log(number)))


def _log_of_sum(rw: Rewriter, a: fx.Node, b: fx.Node | float) -> fx.Node:
    """``max(a, b) + log(1 + exp(-|a - b|))``, a and b being logarithms; a may be infinite."""
    largest = (
        rw.emit(aten.maximum.default, a, b)
        if isinstance(b, fx.Node)
        else rw.emit(aten.clamp.default, a, b)
    )
    apart = rw.emit(aten.abs.default, rw.emit(_SUB, a, b))
    small = rw.emit(aten.exp.default, rw.emit(aten.neg.default, apart))
    return rw.emit(_ADD, largest, rw.emit(aten.log.default, rw.emit(_ADD, small, 1.0)))


def _guarded(rw: Rewriter, node: fx.Node, y: fx.Node) -> _Form | None:
    """A logarithm that a number too small for float16 keeps from what is zero."""
    least = _least(rw, y)
    if least is not None:
        return least
    parts = quotient(y)
    if parts is None or not all(is_tensor(part) for part in parts):
        return None
    floors = [_least(rw, part, overflowing=True) for part in parts]
    if floors == [None, None]:
        return None
    if not all(is_nonnegative(rw, part) for part in parts):
        rw.decline(node, "the signs of its quotient's parts are not known")
        return None

    def log(part: Argument, floor: _Form | None) -> fx.Node:
        form = floor or _form(rw, part)
        return form.emit() if form is not None else rw.emit(aten.log.default, part)

    return _Form(
        lambda: rw.emit(_SUB, log(parts[0], floors[0]), log(parts[1], floors[1])),
    )


def _least(rw: Rewriter, y: Argument, overflowing: bool = False) -> _Form | None:
    """The logarithm of ``clamp(x, c)`` or ``1 - clamp(x, 0, 1 - c)``, c being tiny.

    Args:
        rw: the program.
        y: the value.
        overflowing: any c counts of which the inverse overflows float16, in ``x + c`` as well.
    """
    tiny = 1.0 / fp16.MAX if overflowing else fp16.NORMAL
    bounds = clamped(rw, y)
    if bounds is not None and 0 < bounds.low < tiny:
        return _Form(lambda: _bounded(rw, _log_of_positive(rw, bounds.x), bounds))
    complement = difference(y)
    if complement is not None and scalar(rw, complement[0]) == 1.0:
        return _least_complement(rw, complement[1], tiny)
    shifted = plus_scalar(rw, y)
    if not overflowing or shifted is None or not 0 < shifted[1] < tiny:
        return None
    return _Form(lambda: rw.emit(aten.log.default, y))


def _least_complement(rw: Rewriter, p: Argument, tiny: float) -> _Form | None:
    """``1 - clamp(x, low, 1 - c)`` is ``clamp(1 - x, c, 1 - low)``."""
    bounds = clamped(rw, p)
    if bounds is None or not 0 < 1.0 - bounds.high < tiny:
        return None
    # As float32 has it: 1 - 0.999999 is 1.01e-6 there.
    low = float(torch.tensor(1.0) - torch.tensor(bounds.high))
    turned = Bounded(bounds.x, low, 1.0 - bounds.low)

    def emit() -> fx.Node:
        rest = rw.emit(_SUB, 1, turned.x)
        return _bounded(rw, _log_of_positive(rw, rest), turned)

    return _Form(emit)


def _log_of_positive(rw: Rewriter, x: fx.Node) -> fx.Node:
    """``log(max(x, 0))``."""
    positive = x if is_nonnegative(rw, x) else rw.emit(aten.relu.default, x)
    return rw.emit(aten.log.default, positive)


def _bounded(rw: Rewriter, log: fx.Node, bounds: Bounded) -> fx.Node:
    """The logarithm of a bounded value, from that of the value."""
    low = math.log(bounds.low) if bounds.low > 0 else None
    high = math.log(bounds.high) if bounds.high < math.inf else None
    return log if low is high is None else rw.emit(aten.clamp.default, log, low, high)


def _minus_softplus(rw: Rewriter, x: fx.Node) -> fx.Node:
    return rw.emit(aten.neg.default, rw.emit(aten.softplus.default, x))


def _log_cosh(rw: Rewriter, x: fx.Node) -> fx.Node:
    """``|x| + softplus(-2|x|) - log 2``."""
    far = rw.emit(aten.abs.default, x)
    near = rw.emit(aten.softplus.default, rw.emit(_MUL, far, -2.0))
    return rw.emit(_SUB, rw.emit(_ADD, far, near), math.log(2.0))
