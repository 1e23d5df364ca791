"""From what a user calls a value to its name in the program."""

from __future__ import annotations

from frontend.errors import InputError
from lowering.package.source_table import SourceTable
from lowering.reference.model import LoadedModel


def value_name(model: LoadedModel, word: str) -> str:
    """Name of the MIL value that ``word`` stands for.

    Args:
        model: a loaded model.
        word: a value's or op's own name, a node of the converted program, or a module path; the
            last value with that origin is meant.

    Raises:
        InputError: nothing in the program has that name.
    """
    table = SourceTable.from_metadata(model.metadata)
    found = None
    for op in model.ops:
        names = [output.name for output in op.outputs]
        if word in names:
            return word
        if names and word in (op.name, table.key_of(op.name), table.lookup(op.name).module):
            found = names[-1]
    if found is None:
        raise InputError(
            f"nothing in the program is called {word!r}",
            expected="a MIL value or op, a node of the converted program, or a module path",
            hint="LoadedModel.ops lists the ops and their values",
        )
    return found
