"""Spares coremltools 9.0 work that leaves no trace in the package.

What it does of each, of the seconds that converting DistilBERT took (*measured*):

* 36 %: the whole program is validated after each of 115 passes.
* 14 %: at the end of each ``with block`` every variable is asked anew which compressed weights it
  comes from, in programs that have none as well.
* 13 %: a weight is asked whether it overflows in fp16 with ``np.where`` over copies of it, eight to
  twelve times its memory (``sound_passes.precision`` asks instead), and rounded by numpy.
* A sixth: casts to float16 and back between any two operators (see ``fast_casts``).
* 5 %: the whole program is printed for a log that nobody reads.
* Python's collector walks over every object of torch and of the model, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from coremltools.converters.mil.mil import Block, Function, Program, Var
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline, PassPipelineManager

from frontend.heap import frozen_heap
from lowering.conversion.fast_casts import direct_casts
from lowering.conversion.fast_queries import Replacement, repeated_questions
from lowering.conversion.fast_weights import without_copies


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
            *repeated_questions(),
            *without_copies(),
            *direct_casts(),
            (Program, "__str__", _first_line),
            (Function, "__str__", _first_line),
        ):
            stack.enter_context(mock.patch.object(owner, name, ours))
        stack.enter_context(frozen_heap())
        yield


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
    propagate, join = Block._propagate_nonreplaceable_vars, Var._set_nonreplaceable_vars_upstream
    has_any = [False]

    def noticed(var: Var) -> bool:  # asked of every variable when it is made
        found = is_nonreplaceable(var)
        has_any[0] |= bool(found)  # coremltools says None for False
        return found

    def propagate_some(self: Block) -> None:
        if has_any[0]:
            propagate(self)

    def join_some(self: Var) -> None:
        if has_any[0] or noticed(self):
            join(self)

    return [
        (Var, "_is_nonreplaceable_var", staticmethod(noticed)),
        (Var, "_set_nonreplaceable_vars_upstream", join_some),
        (Block, "_propagate_nonreplaceable_vars", propagate_some),
    ]


def _first_line(self: Program | Function) -> str:
    return f"{type(self).__name__.lower()} at {id(self):#x}"
