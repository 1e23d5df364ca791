"""Names in a program that Python code can spell: torch writes its graphs as code and runs that."""

from __future__ import annotations

import copy
import dataclasses
import keyword
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature
from torch.fx.graph import _custom_builtins

# Where a variable of this name would hide what the code of every graph uses.
_USED_BY_CODE = frozenset({"self", "getattr", "slice", *_custom_builtins})
# A name that is no identifier is written as a text in double quotes.
# Each part of it that is no identifier opens a parenthesis, of which Python reads 200 (*measured*,
# CPython 3.11: "too many nested parentheses").
_DEEPEST_NAME = 100
_QUOTING = str.maketrans(dict.fromkeys('"\\\n\r', "_"))


def is_free_in_code(name: str) -> bool:
    """Whether a value of the graph can be called ``name`` in its code."""
    return not keyword.iskeyword(name) and name not in _USED_BY_CODE


def with_spellable_names(program: ExportedProgram) -> ExportedProgram:
    """The same program; parts of weights' names that are keywords end in an underscore.

    A submodule may be named ``class`` (``add_module``, ``ModuleDict``): torch writes
    ``self.class.weight``, which is no Python. Very deep names are joined by underscores. Module
    paths in the nodes' metadata stay.
    """
    names = [*program.state_dict, *program.constants]
    renamed = {name: new for name in names if (new := _spellable(name, names)) != name}
    if not renamed:
        return program
    old = program.graph_signature
    signature = ExportGraphSignature(
        input_specs=_renamed_targets(old.input_specs, renamed),
        output_specs=_renamed_targets(old.output_specs, renamed),
    )
    twin = copy.copy(program)
    twin._graph_signature = signature
    twin._state_dict = _renamed_keys(program.state_dict, renamed)
    twin._constants = _renamed_keys(program.constants, renamed)
    # Their other entries name submodules, which no longer exist under those names.
    twin._module_call_graph = program.module_call_graph[:1]
    return twin


def _spellable(name: str, taken: Iterable[str]) -> str:
    parts = [_spellable_part(part) for part in name.split(".")]
    new = (".", "_")[len(parts) > _DEEPEST_NAME].join(parts)
    while new != name and new in taken:
        new += "_"
    return new


def _spellable_part(part: str) -> str:
    return f"{part}_" if keyword.iskeyword(part) else part.translate(_QUOTING)


def _renamed_targets(specs: Sequence[Any], renamed: Mapping[str, str]) -> list[Any]:
    return [
        dataclasses.replace(spec, target=renamed[spec.target]) if spec.target in renamed else spec
        for spec in specs
    ]


def _renamed_keys(table: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    return {renamed.get(name, name): value for name, value in table.items()}
