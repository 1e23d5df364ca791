"""Elementwise arithmetic, comparison, logic and casts. Tensors broadcast as in numpy."""

from __future__ import annotations

import torch
from torch import Tensor

from lowering.package.dtypes import BY_NAME
from lowering.reference.binding import Semantics


def add(x: Tensor, y: Tensor) -> Tensor:
    """``x + y``."""
    return x + y


def sub(x: Tensor, y: Tensor) -> Tensor:
    """``x - y``."""
    return x - y


def mul(x: Tensor, y: Tensor) -> Tensor:
    """``x * y``."""
    return x * y


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``; integers divide as real numbers and the result is truncated."""
    return torch.true_divide(x, y)


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """``floor(x / y)``."""
    return torch.floor_divide(x, y)


def mod(x: Tensor, y: Tensor) -> Tensor:
    """``x - y * floor(x / y)``: the sign is that of ``y``."""
    return torch.remainder(x, y)


def pow_(x: Tensor, y: Tensor) -> Tensor:
    """``x ** y``."""
    return torch.pow(x, y)


def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger of both."""
    return torch.maximum(x, y)


def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The smaller of both."""
    return torch.minimum(x, y)


def equal(x: Tensor, y: Tensor) -> Tensor:
    """``x == y``."""
    return x == y


def not_equal(x: Tensor, y: Tensor) -> Tensor:
    """``x != y``."""
    return x != y


def greater(x: Tensor, y: Tensor) -> Tensor:
    """``x > y``."""
    return x > y


def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    """``x >= y``."""
    return x >= y


def less(x: Tensor, y: Tensor) -> Tensor:
    """``x < y``."""
    return x < y


def less_equal(x: Tensor, y: Tensor) -> Tensor:
    """``x <= y``."""
    return x <= y


def logical_and(x: Tensor, y: Tensor) -> Tensor:
    """Both true."""
    return torch.logical_and(x, y)


def logical_or(x: Tensor, y: Tensor) -> Tensor:
    """Any true."""
    return torch.logical_or(x, y)


def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    """Exactly one true."""
    return torch.logical_xor(x, y)


def logical_not(x: Tensor) -> Tensor:
    """Not true."""
    return torch.logical_not(x)


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where ``cond``, else ``b``."""
    return torch.where(cond.to(torch.bool), a, b)


def abs_(x: Tensor) -> Tensor:
    """Magnitude."""
    return torch.abs(x)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return torch.sign(x)


def square(x: Tensor) -> Tensor:
    """``x * x``."""
    return x * x


def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return torch.sqrt(x)


def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """``1 / sqrt(x + epsilon)``."""
    return torch.rsqrt(x + epsilon)


def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """``1 / (x + epsilon)``."""
    return torch.reciprocal(x + epsilon)


def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """``log(x + epsilon)``."""
    return torch.log(x + epsilon)


def exp(x: Tensor) -> Tensor:
    """``e ** x``."""
    return torch.exp(x)


def exp2(x: Tensor) -> Tensor:
    """``2 ** x``."""
    return torch.exp2(x)


def erf(x: Tensor) -> Tensor:
    """Gauss error function."""
    return torch.erf(x)


def sin(x: Tensor) -> Tensor:
    """Sine."""
    return torch.sin(x)


def cos(x: Tensor) -> Tensor:
    """Cosine."""
    return torch.cos(x)


def tan(x: Tensor) -> Tensor:
    """Tangent."""
    return torch.tan(x)


def asin(x: Tensor) -> Tensor:
    """Arc sine."""
    return torch.asin(x)


def acos(x: Tensor) -> Tensor:
    """Arc cosine."""
    return torch.acos(x)


def atan(x: Tensor) -> Tensor:
    """Arc tangent."""
    return torch.atan(x)


def atanh(x: Tensor) -> Tensor:
    """Inverse hyperbolic tangent."""
    return torch.atanh(x)


def sinh(x: Tensor) -> Tensor:
    """Hyperbolic sine."""
    return torch.sinh(x)


def cosh(x: Tensor) -> Tensor:
    """Hyperbolic cosine."""
    return torch.cosh(x)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


def ceil(x: Tensor) -> Tensor:
    """Next integer towards plus infinity."""
    return torch.ceil(x)


def floor(x: Tensor) -> Tensor:
    """Next integer towards minus infinity."""
    return torch.floor(x)


def round_(x: Tensor) -> Tensor:
    """Nearest integer, ties to even."""
    return torch.round(x)


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``x`` limited to ``[alpha, beta]``."""
    return torch.clamp(x, alpha, beta)


def threshold(x: Tensor, alpha: float) -> Tensor:
    """``max(x, alpha)``."""
    return torch.clamp(x, min=alpha)


def cast(x: Tensor, dtype: str) -> Tensor:
    """``x`` as ``dtype``; floats lose their fraction on the way to integers.

    A float beyond the integer's range becomes the end of the range, and NaN zero, as the conversion
    instruction does it (*documented*: Arm Architecture Reference Manual, FCVTZS and FCVTZU).
    """
    target = BY_NAME[dtype]
    if target.name == "bool":
        return x != 0
    if x.dtype.is_floating_point and not target.is_float:
        unsigned = target.storage.kind == "u"
        low = 0 if unsigned else -(1 << (target.bits - 1))
        high = (1 << (target.bits - (0 if unsigned else 1))) - 1
        whole_numbers = _truncated(x, low, high)
        if whole_numbers is not None:
            return whole_numbers.to(target.carrier)
        whole = torch.trunc(x.to(torch.float64))
        x = torch.nan_to_num(whole, nan=0.0, posinf=high, neginf=low).clamp(low, high)
        x = x.to(torch.int64)
    if target.storage.kind == "u" and target.bits > 8:
        return torch.bitwise_and(x.to(torch.int64), (1 << target.bits) - 1)
    return x.to(target.carrier)


def _truncated(x: Tensor, low: int, high: int) -> Tensor | None:
    """``x`` without its fractions, as int32; ``None`` unless all of it is known to be in the range.

    What no int32 stands for, NaN included, becomes an end of int32, or what the end of the range
    asks for (*documented*: CVTTPS2DQ of Intel's manual, FCVTZS of Arm's). Two ends of integers are
    found in half the time that those of floats take (*measured*).
    """
    found = x.to(torch.int32)
    if found.numel() == 0:
        return found
    least, most = map(int, torch.aminmax(found))
    ends = torch.iinfo(torch.int32)
    is_known = ends.min < least and most < ends.max
    return found if is_known and low <= least and most <= high else None


TABLE: dict[str, Semantics] = {
    "abs": abs_,
    "acos": acos,
    "add": add,
    "asin": asin,
    "atan": atan,
    "atanh": atanh,
    "cast": cast,
    "ceil": ceil,
    "clip": clip,
    "cos": cos,
    "cosh": cosh,
    "equal": equal,
    "erf": erf,
    "exp": exp,
    "exp2": exp2,
    "floor": floor,
    "floor_div": floor_div,
    "greater": greater,
    "greater_equal": greater_equal,
    "inverse": inverse,
    "less": less,
    "less_equal": less_equal,
    "log": log,
    "logical_and": logical_and,
    "logical_not": logical_not,
    "logical_or": logical_or,
    "logical_xor": logical_xor,
    "maximum": maximum,
    "minimum": minimum,
    "mod": mod,
    "mul": mul,
    "not_equal": not_equal,
    "pow": pow_,
    "real_div": real_div,
    "round": round_,
    "rsqrt": rsqrt,
    "select": select,
    "sign": sign,
    "sin": sin,
    "sinh": sinh,
    "sqrt": sqrt,
    "square": square,
    "sub": sub,
    "tan": tan,
    "tanh": tanh,
    "threshold": threshold,
}
