"""Gives each output of a package a value and a name of its own, whatever coremltools merged.

Two outputs that are provably equal (one value returned twice, a cast that changes nothing, the
same operator on the same input) become one value in several of coremltools' passes. The package
then names one output twice, and the runtime returns one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import coremltools as ct
from coremltools.converters.mil.mil import Block, Builder, Function, Program, Var
from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer

from lowering.conversion.mil_passes import around
from lowering.errors import LoweringError

# The last of coremltools' passes that renames values; none after it merges any.
_LAST = "mil_backend::sanitize_name_strings"


@contextmanager
def distinct_outputs(
    names: Sequence[str], classifier: ct.ClassifierConfig | None = None
) -> Iterator[None]:
    """Settle the outputs of every program that is converted inside.

    The caller holds the conversion lock.

    Args:
        names: public names of the outputs, in order.
        classifier: names the output that coremltools will replace by a label and a dictionary.
    """

    def separate(program: Program, sanitize: Callable[[], None]) -> None:
        sanitize()
        function = program.functions[program.default_function_name]
        separate_outputs(function, names)
        if classifier is not None:
            _make_room(function, classifier.predicted_probabilities_output)

    with around(_LAST, separate):
        yield


def package_name(name: str) -> str:
    """``name`` as a package can have it: coremltools replaces characters and reserved words."""
    return str(NameSanitizer(prefix="var_").sanitize_name(name))


def separate_outputs(function: Function, names: Sequence[str]) -> None:
    """Make the outputs of ``function`` different values with these ``names``, in order.

    A value that is an input or another output already is copied by an ``identity``.

    Raises:
        LoweringError: there is another number of outputs.
    """
    if len(function.outputs) != len(names):
        raise LoweringError(
            "coremltools changed the number of outputs",
            expected=", ".join(names),
            found=", ".join(output.name for output in function.outputs),
            hint="this is a defect of the conversion; please report it",
        )
    names = [package_name(name) for name in names]
    separate: list[Var] = []
    with function:
        for output in function.outputs:
            if output.op is None or output in separate:
                copy = Builder.identity(x=output)
                Block._copy_scope_info(output, copy)
                output = copy
            separate.append(output)
    function.set_outputs(separate)
    _free(function, dict(zip(names, separate, strict=True)))
    for name, var in zip(names, separate, strict=True):
        var.set_name(name)


def _free(function: Function, wanted: dict[str, Var]) -> None:
    """Rename the values that have a name which is ``wanted`` for another value."""
    taken = {var.name for op in function.operations for var in op.outputs} | set(wanted)
    for op in function.operations:
        for var in op.outputs:
            if wanted.get(var.name, var) is var:
                continue
            count, name = 1, f"{var.name}_inner"
            while name in taken:
                count, name = count + 1, f"{var.name}_inner_{count}"
            taken.add(name)
            var.set_name(name)


def _make_room(function: Function, probabilities: str | None) -> None:
    """Align the output types with the outputs of a classifier.

    coremltools puts the label and the dictionary in front, drops the probabilities, and then reads
    the types by position.
    """
    if not function.output_types:
        return
    others = [
        kind
        for kind, output in zip(function.output_types, function.outputs, strict=True)
        if output.name != probabilities
    ]
    function.set_output_types([ct.TensorType(), ct.TensorType(), *others])
