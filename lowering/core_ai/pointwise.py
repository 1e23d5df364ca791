"""Functions of single numbers that Core AI lacks, in those that it has."""

from __future__ import annotations

from collections.abc import Callable
from types import NotImplementedType
from typing import Any

import torch
from torch import Tensor

from lowering.conversion.torch_ops.quantiles import LARGEST, MIDDLE, TAILS, TAILS_FROM

_aten = torch.ops.aten
# *Documented*: Press et al., Numerical Recipes, section 6.2, ``erfc`` with a fractional error below
# 1.2e-7 everywhere; highest power first, in 1 / (1 + |x| / 2).
_ERFC = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807,
    -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223,
)  # fmt: skip


def of_numbers() -> dict[Any, Callable[..., Any]]:
    """Operator to function."""
    return {
        _aten.isnan.default: _isnan,
        _aten.isinf.default: _isinf,
        _aten.isfinite.default: _isfinite,
        _aten.erfc.default: _erfc,
        _aten.erfinv.default: _erfinv,
        _aten.mul.Tensor: _mul,
        _aten.hypot.default: _hypot,
        _aten.logaddexp.default: logaddexp,
        _aten.copysign.Tensor: _copysign,
        _aten.fmax.default: _numbers_of(torch.maximum),
        _aten.fmin.default: _numbers_of(torch.minimum),
    }


def _isnan(x: Tensor) -> Tensor:
    return torch.ne(x, x)


def _isinf(x: Tensor) -> Tensor:
    return torch.eq(x.abs(), torch.inf)


def _isfinite(x: Tensor) -> Tensor:
    return torch.lt(x.abs(), torch.inf)


def _mul(x: Tensor, y: Tensor | float) -> Tensor | NotImplementedType:
    """Of booleans their conjunction: the runtime has no product of them (*measured*)."""
    if isinstance(y, Tensor) and x.dtype is torch.bool and y.dtype is torch.bool:
        return torch.logical_and(x, y)
    return NotImplemented


def _erfc(x: Tensor) -> Tensor:
    size = x.abs()
    share = 1 / (1 + 0.5 * size)
    far = share * torch.exp(_polynomial(share, _ERFC) - size * size)
    return torch.where(x < 0, 2 - far, far)


def _erfinv(x: Tensor) -> Tensor:
    rest = (1 - x.abs()) * (1 + x.abs())
    w = -torch.log(rest)
    held = w.clamp(max=LARGEST)
    tails = _polynomial(held.clamp(min=0).sqrt() - 3, TAILS)
    found = x * torch.where(held < TAILS_FROM, _polynomial(held - 2.5, MIDDLE), tails)
    return torch.where(rest == 0, torch.sign(x) * torch.inf, found)


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    """Of numbers of about one: squares do not overflow."""
    largest, least = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    share = least / torch.where(largest == 0, 1.0, largest)
    return largest * torch.sqrt(1 + share * share)


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """``log(exp(x) + exp(y))`` for any numbers and infinities, of shapes that go together."""
    largest, least = torch.maximum(x, y), torch.minimum(x, y)
    # Infinity minus infinity is no number.
    apart = torch.where(largest == least, 0.0, least - largest)
    return largest + torch.log(1 + torch.exp(apart))


def _copysign(x: Tensor, y: Tensor) -> Tensor:
    """Zero counts as positive, whatever its sign."""
    return torch.where(y < 0, -x.abs(), x.abs())


def _numbers_of(extreme: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The extreme of two, and the other one where one is no number."""

    def of(x: Tensor, y: Tensor) -> Tensor:
        found = torch.where(torch.ne(y, y), x, extreme(x, y))
        return torch.where(torch.ne(x, x), y, found)

    return of


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * x + coefficient
    return total
