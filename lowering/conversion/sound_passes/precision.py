"""What stays in 32 bits in a float16 package: operators whose numbers do not fit in 16.

coremltools keeps an operator whose constants lie beyond float16, but for those above 1e38, which it
makes infinite. What such an operator computes is as large as its constants, so what reads it stays
as well, up to an operator whose result is small whatever it is given. Positions and coordinates
stay too, see ``positions.py``. Of integers coremltools casts
to int16 what is squeezed or gathered, whatever its values; here only indices are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from coremltools.converters.mil.mil import Operation, Var
from coremltools.converters.mil.mil.passes.defs.quantization import (
    FP16ComputePrecision,
    add_int16_cast,
)

from lowering.conversion.sound_passes.guards import Guard
from lowering.conversion.sound_passes.positions import Positions, is_coordinate

_FP16 = np.finfo(np.float16)
# Results scale with their constants. Elsewhere a large constant is a sentinel, which as an infinity
# is as good: in a selection, a maximum or a comparison.
_ARITHMETIC = frozenset(
    {
        "add", "sub", "mul", "real_div", "pow", "linear", "matmul", "einsum", "conv",
        "conv_transpose", "batch_norm",
    }
)  # fmt: skip
# Results fit whatever the operand is.
_BOUNDED = frozenset(
    {
        "sigmoid", "tanh", "softmax", "erf", "sin", "cos", "atan", "sign", "softsign",
        "sigmoid_hard", "layer_norm", "instance_norm", "l2_norm", "clip", "relu6", "clamped_relu",
        "rsqrt", "inverse", "log", "reduce_argmax", "reduce_argmin", "equal", "not_equal",
        "greater", "greater_equal", "less", "less_equal", "logical_not", "shape", "cast",
    }
)  # fmt: skip


def precision_guards(positions: Positions) -> tuple[Guard, ...]:
    """Guards for one conversion."""
    wide: set[Var] = set()

    def overflows(_: Callable[[Operation], bool], op: Operation) -> bool:
        inputs = list(_variables(op))
        given = any(var in wide for var in inputs)
        large = any(_is_large(var) for var in inputs)
        if _scales_up(op, given, large):
            wide.update(op.outputs)
        return positions.keep(op) or given or large or _is_tiny_factor(op)

    return (
        Guard(FP16ComputePrecision, "fp16_overflow", overflows),
        Guard(FP16ComputePrecision, "should_cast_parameter", _is_no_coordinate),
        Guard(add_int16_cast, "should_cast_parameter", _is_no_data),
    )


# Whether coremltools casts an operand: a boolean, and from 9.1 on the type, or ``None``.
_Cast: TypeAlias = bool | str | None


def _is_no_coordinate(
    theirs: Callable[..., _Cast], self: object, op: Operation, name: str
) -> _Cast:
    return None if is_coordinate(op, name) else theirs(self, op, name)


def _is_no_data(theirs: Callable[..., _Cast], self: object, op: Operation, name: str) -> _Cast:
    return None if name == "x" else theirs(self, op, name)


def _scales_up(op: Operation, given: bool, large: bool) -> bool:
    if op.op_type in _BOUNDED or (op.op_type == "real_div" and _is_large(op.y)):
        return False
    return given or (large and op.op_type in _ARITHMETIC)


def _variables(op: Operation) -> Iterator[Var]:
    """What ``op`` reads, but for the bounds of a clip: beyond float16 they bound nothing."""
    for name, value in op.inputs.items():
        if op.op_type != "clip" or name == "x":
            yield from value if isinstance(value, list | tuple) else (value,)


def _is_large(var: Var) -> bool:
    """A float32 constant with a finite element that float16 has no number for."""
    if not _is_float_constant(var):
        return False
    values = np.asarray(var.val)
    # The extremes first: they need no copy of a weight, and most weights fit.
    if not values.size or (values.min() >= _FP16.min and values.max() <= _FP16.max):
        return False
    magnitude = np.abs(values)
    return bool((np.isfinite(magnitude) & (magnitude > _FP16.max)).any())


def _is_tiny_factor(op: Operation) -> bool:
    """A factor or divisor of which float16 would keep less than its eleven bits."""
    if op.op_type not in ("mul", "real_div"):
        return False
    for var in (op.x, op.y) if op.op_type == "mul" else (op.y,):
        if _is_float_constant(var):
            largest = float(np.abs(np.asarray(var.val)).max(initial=0.0))
            if 0 < largest < _FP16.tiny:
                return True
    return False


def _is_float_constant(var: object) -> bool:
    return (
        isinstance(var, Var)
        and var.op is not None
        and var.op.op_type == "const"
        and var.is_tensor_or_scalar_of(dtype="fp32")
    )
