"""Why the error that torch has in half precision is a loose measure, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from frontend.errors import first_line
from frontend.source import Source, source_of
from lowering.support.finite import finite
from lowering.verification import fx_values
from lowering.verification.original import HALF_ERRORS, Original, halved
from lowering.verification.parity import rel_l2

# Numbers of this size and larger stand for infinity, such as torch.finfo(torch.float32).min.
_INFINITE = 1e30
# How many places are named.
LISTED = 8
# An error is an operator's own where it is so many times that of all it reads.
_OWN = 4.0


@dataclass(frozen=True)
class Loosening:
    """One place at which half precision is useless in torch itself.

    Attributes:
        cause: ``overflow`` where a finite number becomes infinite or NaN, ``error`` where the
            result is off by much more than the operands, ``not run`` where torch has no
            half-precision kernel.
        node: the FX node, or the name of the weight or input.
        target: the torch operator; ``""`` for a weight or input.
        source: where it comes from.
        error: relative L2 error there, infinite for an overflow.
        reason: a sentence.
    """

    cause: str
    node: str
    target: str
    source: Source
    error: float
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of plain values."""
        return {
            "cause": self.cause,
            "node": self.node,
            "target": self.target,
            "module": self.source.module,
            "line": self.source.line,
            "error": finite(self.error),
            "reason": self.reason,
        }

    def __str__(self) -> str:
        place = f" ({self.source})" if self.source != Source() else ""
        return f"{self.reason}{place}"


def loosenings(original: Original, tolerable: float) -> tuple[Loosening, ...]:
    """Every place, in program order, at which the original is useless in half precision.

    Args:
        original: with the inputs and buffers of the call.
        tolerable: relative errors up to this one are no matter.
    """
    errors: dict[str, float] = {}
    overflowed: set[str] = set()
    found: list[Loosening] = []

    def compare(node: fx.Node, value: Tensor, want: Tensor) -> None:
        errors[node.name] = error = _error(value, want)
        read = {other.name for other in node.all_input_nodes}
        inherited = max((errors.get(name, 0.0) for name in read), default=0.0)
        if _overflows(value, want):
            overflowed.add(node.name)
            if not read & overflowed:
                found.append(_at(node, "overflow", error, _peak(want)))
        elif tolerable < error and inherited * _OWN < error:
            found.append(_at(node, "error", error, 0.0))

    refusal = _beside_half(original, compare)
    return (*found, not_run(refusal)) if refusal else tuple(found)


def overflows(original: Original) -> bool:
    """Whether a number of the original is finite in float32 and not in half precision.

    What :func:`loosenings` finds of this cause, for a fraction of its time: no error is measured.

    Args:
        original: with the inputs and buffers of the call.
    """
    found: list[str] = []

    def compare(node: fx.Node, value: Tensor, want: Tensor) -> None:
        if _overflows(value, want):
            found.append(node.name)

    _beside_half(original, compare)
    return bool(found)


def _beside_half(
    original: Original, compare: Callable[[fx.Node, Tensor, Tensor], None]
) -> str | None:
    """Shows ``compare`` each tensor of floats in half precision beside the one in float32.

    Returns:
        What torch says where it has no half precision for an operator and stops there.
    """
    exact: dict[str, Tensor] = {}

    def keep(node: fx.Node, value: object) -> object:
        if isinstance(value, Tensor) and value.is_floating_point():
            exact[node.name] = value
        return value

    def show(node: fx.Node, value: object) -> object:
        want = exact.get(node.name)
        if want is not None and isinstance(value, Tensor):
            compare(node, value, want)
        return value

    program, leaves = original.first, original.leaves
    fx_values.run(program, leaves, buffers=original.buffers, visit=keep)
    try:
        fx_values.run(
            program,
            list(map(halved, leaves)),
            buffers=original.buffers,
            visit=show,
            weights=halved,
        )
    except HALF_ERRORS as error:
        return first_line(error)
    return None


def not_run(text: str) -> Loosening:
    """That torch has no half precision for the original, in its words."""
    reason = f"torch cannot run it in half precision: {text}"
    return Loosening("not run", "", "", Source(), float("inf"), reason)


def _finite(want: Tensor) -> Tensor:
    """Where ``want`` is finite, and no mark for infinity."""
    return want.isfinite() & (want.abs() < _INFINITE)


def _overflows(value: Tensor, want: Tensor) -> bool:
    lost = ~value.isfinite()
    return bool(lost.any()) and bool((lost & _finite(want)).any())


def _error(value: Tensor, want: Tensor) -> float:
    known = _finite(want)
    return rel_l2(value[known], want[known])


def _peak(value: Tensor) -> float:
    known = value[_finite(value)]
    return float(known.abs().max()) if known.numel() else 0.0


def _at(node: fx.Node, cause: str, error: float, peak: float) -> Loosening:
    is_op = node.op == "call_function"
    target = str(node.target) if is_op else ""
    what = f"{target} {node.name}" if is_op else node.name
    reason = (
        f"{what} overflows: numbers up to {peak:.3g}, and half precision ends at 65504"
        if cause == "overflow"
        else f"{what} is off by {error:.1e} in torch itself"
    )
    return Loosening(cause, node.name, target, source_of(node), error, reason)
