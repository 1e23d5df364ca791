"""Spares coremltools 9.0 work that leaves no trace in the package.

What it does of each, of the seconds that converting DistilBERT took (*measured*):

* 36 %: the whole program is validated after each of 115 passes.
* 14 %: at the end of each ``with block`` every variable is asked anew which compressed weights it
  comes from, in programs that have none as well.
* 13 %: a weight is asked whether it overflows in fp16 with ``np.where`` over copies of it, eight to
  twelve times its memory (``sound_passes.precision`` asks instead), and rounded by numpy.
* 5 %: the whole program is printed for a log that nobody reads.
* Python's collector walks over every object of torch and of the model, again and again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
from coremltools.converters.mil.mil import Block, Function, Program, Var, types
from coremltools.converters.mil.mil.ops.defs.iOS15.elementwise_unary import cast as Cast
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline, PassPipelineManager

from lowering.support.halves import to_float16


@contextmanager
def fast_coremltools() -> Iterator[None]:
    """Make one conversion fast; everything is put back on exit.

    The caller holds the conversion lock: coremltools' classes are shared by the whole process, as
    is its stack of open blocks, so that two conversions cannot run at the same time anyway. What
    prints a program meanwhile, such as an op selector, sees its first line only.
    """
    with ExitStack() as stack:
        for owner, name, ours in (
            *_validation_at_the_ends(),
            *_no_compressed_weights_no_search(),
            (Cast, "get_cast_value", classmethod(_cast_by_torch)),
            (Program, "__str__", _first_line),
            (Function, "__str__", _first_line),
        ):
            stack.enter_context(mock.patch.object(owner, name, ours))
        stack.enter_context(_settled_heap())
        yield


Replacement = tuple[type, str, Any]


def _validation_at_the_ends() -> list[Replacement]:
    """Validate before the first pass only; coremltools does again before it writes the package."""
    validate, apply_pipeline = Program.validate, PassPipelineManager.apply_pipeline
    checked: list[Program] = []
    is_running = [False]

    def validate_outside(self: Program, check_essential_scope: bool | None = False) -> None:
        if not is_running[0]:
            validate(self, check_essential_scope)

    def apply_checked(prog: Program, pass_pipeline: PassPipeline) -> None:
        if prog not in checked:
            validate(prog)
            checked.append(prog)
        is_running[0] = True
        try:
            apply_pipeline(prog, pass_pipeline)
        finally:
            is_running[0] = False

    return [
        (Program, "validate", validate_outside),
        (PassPipelineManager, "apply_pipeline", staticmethod(apply_checked)),
    ]


def _no_compressed_weights_no_search() -> list[Replacement]:
    """Search the program for what comes from compressed weights once there are any."""
    is_nonreplaceable: Callable[[Var], bool] = Var._is_nonreplaceable_var
    propagate = Block._propagate_nonreplaceable_vars
    has_any = [False]

    def noticed(var: Var) -> bool:  # asked of every variable when it is made
        found = is_nonreplaceable(var)
        has_any[0] |= found
        return found

    def propagate_some(self: Block) -> None:
        if has_any[0]:
            propagate(self)

    return [
        (Var, "_is_nonreplaceable_var", staticmethod(noticed)),
        (Block, "_propagate_nonreplaceable_vars", propagate_some),
    ]


_cast_value: Callable[..., Any] = Cast.get_cast_value.__func__


def _cast_by_torch(cls: type[Cast], input_var: Var, dtype_val: str) -> object:
    value = input_var.val
    is_array = isinstance(value, np.ndarray) and value.dtype == np.float32
    if is_array and dtype_val == types.builtin_to_string(types.fp16):
        return to_float16(value)
    return _cast_value(cls, input_var, dtype_val)


def _first_line(self: Program | Function) -> str:
    return f"{type(self).__name__.lower()} at {id(self):#x}"


@contextmanager
def _settled_heap() -> Iterator[None]:
    """What is there already is no garbage of the conversion, and collections need not look at it.

    Where the caller has frozen objects himself, his choice stands.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
