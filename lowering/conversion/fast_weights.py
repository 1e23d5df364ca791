"""Spares coremltools 9.0 copies of weights: rounding, looking at and writing one takes none.

*Measured* for DistilBERT, whose largest weight is a quarter of it: what conversion adds to the
memory fell from 1.6 to 1.2 times the fp16 weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from coremltools.converters.mil.backend.mil import helper
from coremltools.converters.mil.mil import Operation, Var, types
from coremltools.converters.mil.mil.ops.defs.iOS15.elementwise_unary import cast as Cast
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision

from lowering.conversion.fast_queries import Replacement
from lowering.support.halves import to_float16

# coremltools looks for numbers that vanish in fp16 in constants of fewer elements.
_LOOKED_THROUGH = 400
# Far above what it takes for vanished, the smallest number of fp16: six times ten to the minus 8.
_MAY_VANISH = 1e-6


def without_copies() -> list[Replacement]:
    """What to put in the place of coremltools' own, for one conversion."""
    return [
        (Cast, "get_cast_value", classmethod(_cast_by_torch)),
        (FP16ComputePrecision, "_check_underflow_to_zero", _check_small),
        (helper, "_get_offset_by_writing_data", _write),
        (Operation, "type_value_inference", _infer),
    ]


_cast_value: Callable[..., Any] = Cast.get_cast_value.__func__
_check: Callable[..., None] = FP16ComputePrecision._check_underflow_to_zero
_write_copy: Callable[..., int] = helper._get_offset_by_writing_data
_infer_again: Callable[..., None] = Operation.type_value_inference


def _cast_by_torch(cls: type[Cast], input_var: Var, dtype_val: str) -> object:
    value = input_var.val
    is_array = isinstance(value, np.ndarray) and value.dtype == np.float32
    if is_array and dtype_val == types.builtin_to_string(types.fp16):
        return to_float16(value)
    return _cast_value(cls, input_var, dtype_val)


def _check_small(self: FP16ComputePrecision, new_var: Var, var: Var) -> None:
    """coremltools copies a constant to ask for its length, and looks at zeros one by one."""
    if np.size(var.val) >= _LOOKED_THROUGH or new_var.val is None:
        return
    is_small = np.abs(np.asarray(new_var.val)) < _MAY_VANISH
    if (is_small & (np.asarray(var.val) != 0)).any():
        _check(self, new_var, var)


class _BlobWriter(Protocol):
    """coremltools' writer of weights."""

    def write_fp16_data(self, bits: np.ndarray) -> int:
        """Where ``bits``, uint16 (N,), are in the file."""


def _write(output_var: Var, blob_writer: _BlobWriter) -> int:
    """coremltools copies an fp16 constant twice before it writes it."""
    value = output_var.val
    if isinstance(value, np.ndarray) and value.dtype == np.float16:
        bits = np.ascontiguousarray(value).reshape(-1).view(np.uint16)
        return blob_writer.write_fp16_data(bits)
    return _write_copy(output_var, blob_writer)


def _infer(self: Operation, overwrite_output: bool = False) -> None:
    """coremltools gives a constant its value anew, and then compares it with itself."""
    if not overwrite_output or self.op_type != "const" or not self._output_vars:
        _infer_again(self, overwrite_output)
        return
    (output,) = self._output_vars
    kind = self.type_inference()
    output._sym_type = kind
    (output._sym_val,) = self._auto_val((kind,))
    output._set_nonreplaceable_vars_upstream()
