"""Spares coremltools 9.0 what it finds out again and again about a program that it builds.

Shares of the seconds that converting DistilBERT with 24 narrow layers took (*measured*):

* 12 %: an operator tells its type, its operands and its results by calls of Python, a hundred
  times each, and makes a dictionary for the operands.
* 11 %: each question whether a type is a tensor, a number or text builds a description of the type
  with all its sizes.
* 7 %: all users of a value are compared in pairs, constants by numpy, to find equal ones.
* 4 %: each new variable joins the sets of compressed weights that its operands come from, which
  are empty in programs without.
* 3 %: what a variable says of its origin is copied deeply, and is lists of texts.
* 3 %: all types and values are inferred anew to cancel transposes, where none can be cancelled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any
from unittest import mock

import numpy as np
from coremltools.converters.mil import input_types as _input_types  # noqa: F401  # loads them all
from coremltools.converters.mil.mil import Operation, Var, input_type
from coremltools.converters.mil.mil.passes.defs.cleanup.remove_redundant_ops import (
    remove_redundant_ops as RemoveRedundantOps,
)
from coremltools.converters.mil.mil.passes.defs.optimize_repeat_ops import _TransposeOptimization
from coremltools.converters.mil.mil.types import (
    type_dict,
    type_list,
    type_mapping,
    type_state,
    type_tensor,
    type_tuple,
)
from coremltools.converters.mil.mil.var import InternalVar

Replacement = tuple[Any, str, Any]

# Modules that hold the function by name.
_ASKING = (input_type, type_dict, type_list, type_mapping, type_state, type_tensor, type_tuple)
# Properties that say what an attribute holds.
_HELD = (
    (Operation, "op_type", "__class__.__name__"),
    (Operation, "outputs", "_output_vars"),
    (Var, "op", "_op"),
    (Var, "child_ops", "_child_ops"),
    (Var, "sym_type", "_sym_type"),
)


def repeated_questions() -> list[Replacement]:
    """What to put in the place of coremltools' own, for one conversion."""
    describe = _remembering(type_mapping.get_type_info)
    return [
        *((module, "get_type_info", describe) for module in _ASKING),
        (RemoveRedundantOps, "_are_ops_identical", staticmethod(_are_identical)),
        (Var, "scopes", Var.scopes.setter(_set_scopes)),
        *((owner, name, property(attrgetter(held))) for owner, name, held in _HELD),
        (Operation, "get_flattened_inputs", _flattened_inputs),
        (_TransposeOptimization, "apply_transform", _cancel_transposes),
    ]


def _remembering(describe: Callable[[object], object]) -> Callable[[object], object]:
    """``describe`` asked once for each class; coremltools keeps its classes for ever itself."""
    known: dict[type, object] = {}

    def described(kind: object) -> object:
        if not isinstance(kind, type):
            return describe(kind)
        found = known.get(kind)
        if found is None:
            found = known[kind] = describe(kind)
        return found

    return described


_are_ops_identical: Callable[[Operation, Operation], bool] = RemoveRedundantOps._are_ops_identical


def _are_identical(one: Operation, other: Operation) -> bool:
    """coremltools' comparison, where it is not plain that two operands differ."""
    theirs = other._input_vars
    for name, ours in one._input_vars.items():
        if ours is not theirs.get(name) and _differ(ours, theirs.get(name)):
            return False
    return _are_ops_identical(one, other)


def _differ(ours: object, theirs: object) -> bool:
    """Whether two variables are plainly not the same value: both computed, or other integers."""
    if not isinstance(ours, Var) or not isinstance(theirs, Var):
        return False
    if ours._sym_val is None or theirs._sym_val is None:
        return True  # one is computed, and the other is not that very variable
    first, second = ours._sym_val.val, theirs._sym_val.val
    return (
        isinstance(first, np.ndarray | np.generic)
        and isinstance(second, np.ndarray | np.generic)
        and first.dtype.kind in "iub"
        and second.dtype == first.dtype
        and first.shape == second.shape
        and first.tobytes() != second.tobytes()
    )


def _flattened_inputs(self: Operation) -> list[Var]:
    flat: list[Var] = []
    for given in self._input_vars.values():
        if isinstance(given, list | tuple):
            flat.extend(given)
        elif given is not None and not isinstance(given, InternalVar):
            flat.append(given)
    return flat


def _set_scopes(var: Var, scopes: Mapping[object, list[object]]) -> None:
    if var.op is None:
        raise ValueError(f"Cannot set scopes to a function input var {var}.")
    copied: Any = copy.copy(scopes)
    for source, data in scopes.items():
        copied[source] = [copy.deepcopy(item) if type(item) is list else item for item in data]
    var.op.scopes = copied


_apply_transform: Callable[[_TransposeOptimization], None] = _TransposeOptimization.apply_transform


def _cancel_transposes(self: _TransposeOptimization) -> None:
    """Infers nothing anew where no operator is taken out."""
    found = copy.copy(self.transpose_op_to_cancel_ops)
    self._verify_cancellable_transposes()  # it takes out those that cannot be
    if self.transpose_op_to_cancel_ops:
        self.transpose_op_to_cancel_ops = found
        _apply_transform(self)
        return
    with mock.patch.object(Operation, "type_value_inference", _infer_nothing):
        _apply_transform(self)


def _infer_nothing(self: Operation, overwrite_output: bool = False) -> None:
    """In the place of an inference that would find what is there."""
