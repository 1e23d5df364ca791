"""Inverses of the error function and of the normal distribution, which MIL has no operator for."""

from __future__ import annotations

import math

import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import MilBuilder
from lowering.conversion.torch_ops.common import cast

aten = torch.ops.aten

# *Documented*: M. Giles, "Approximating the erfinv function", GPU Computing Gems 2 (2011), the
# polynomials of single precision, highest power first: in w - 2.5, and in sqrt(w) - 3.
MIDDLE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 2.1858087e-04,
    -1.25372503e-03, -4.17768164e-03, 2.46640727e-01, 1.50140941,
)  # fmt: skip
TAILS = (
    -2.00214257e-04, 1.00950558e-04, 1.34934322e-03, -3.67342844e-03, 5.73950773e-03,
    -7.6224613e-03, 9.43887047e-03, 1.00167406, 2.83297682,
)  # fmt: skip
TAILS_FROM = 5.0
# Beyond any w of a number below 1 in float32, whose largest is 16.6; of 1 itself w is infinite,
# and infinity minus infinity is no number.
LARGEST = 110.0


def _erfinv(mb: MilBuilder, x: Var) -> Var:
    x = cast(mb, x, mb.result.dtype)
    size = mb.abs(x=x)
    rest = mb.mul(x=mb.sub(x=1.0, y=size), y=mb.add(x=1.0, y=size))
    return _inverse(mb, x, rest)


def _ndtri(mb: MilBuilder, p: Var) -> Var:
    """``sqrt(2) erfinv(2 p - 1)``; ``1 - (2 p - 1)²`` is ``4 p (1 - p)``, exact for small p."""
    p = cast(mb, p, mb.result.dtype)
    rest = mb.mul(x=mb.mul(x=p, y=4.0), y=mb.sub(x=1.0, y=p))
    x = mb.sub(x=mb.mul(x=p, y=2.0), y=1.0)
    return mb.mul(x=_inverse(mb, x, rest), y=math.sqrt(2.0))


def _inverse(mb: MilBuilder, x: Var, rest: Var) -> Var:
    """The inverse error function of ``x``, ``rest`` being ``1 - x²``."""
    w = mb.sub(x=0.0, y=mb.log(x=rest, epsilon=0.0))
    held = mb.minimum(x=w, y=LARGEST)
    middle = _polynomial(mb, mb.sub(x=held, y=2.5), MIDDLE)
    tails = _polynomial(mb, mb.sub(x=mb.sqrt(x=mb.maximum(x=held, y=0.0)), y=3.0), TAILS)
    factor = mb.select(cond=mb.less(x=held, y=TAILS_FROM), a=middle, b=tails)
    found = mb.mul(x=x, y=factor)
    return mb.select(cond=mb.equal(x=rest, y=0.0), a=mb.mul(x=mb.sign(x=x), y=w), b=found)


def _polynomial(mb: MilBuilder, x: Var, coefficients: tuple[float, ...]) -> Var:
    total = mb.add(x=mb.mul(x=x, y=coefficients[0]), y=coefficients[1])
    for coefficient in coefficients[2:]:
        total = mb.add(x=mb.mul(x=total, y=x), y=coefficient)
    return total


TABLE = {
    aten.erfinv.default: _erfinv,
    aten.special_ndtri.default: _ndtri,
}
