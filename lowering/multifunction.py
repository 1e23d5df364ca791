"""Several ML Programs as the functions of one package, equal weights stored once."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
from google.protobuf.message import Message

from lowering.errors import SaveError
from lowering.package.blobs import BlobWriter, move_blobs
from lowering.package.metadata_entry import differing
from lowering.package.open import read_specification
from lowering.package.saving import package_path, write_package

# What coremltools calls the file, and how programs spell it.
_WEIGHTS_FILE = "weight.bin"
_OWN_FUNCTION = "main"


def merge(
    functions: Mapping[str, ct.models.MLModel | str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    default: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes one package whose functions are the given models.

    Nothing is converted again: programs are taken as they are, and weights are copied a block at a
    time, each distinct one once. Use it for a prompt and a token of a decoder, for the lengths of
    an encoder, or for adapters on one model.

    A state of one name must have one shape and type in all functions that have it: callers hand
    the state that one function has written to another.

    Args:
        functions: name to a model of one function, a package or an ``MLModel``, in order.
        path: of the package; replaced as a whole or not at all, see ``save``.
        default: the function that runs when none is named; the first by default.
        metadata: added to the user-defined metadata, which is the default function's otherwise.

    Returns:
        The absolute path of the package.

    Raises:
        SaveError: a name is no identifier, a model has several functions or a dynamic input that
            another function fixes, states do not agree, or the package cannot be written.
        PackageError: a package is missing or corrupt.
    """
    target = package_path(path)
    _check_names(functions, default)
    first = default or next(iter(functions))
    parts = {name: _specification(model) for name, model in functions.items()}
    _check_parts({name: specification for name, (specification, _) in parts.items()})
    merged = _merged({name: specification for name, (specification, _) in parts.items()}, first)
    merged.description.metadata.userDefined.update(metadata or {})

    def write(fresh: Path) -> Message:
        with tempfile.TemporaryDirectory(dir=fresh.parent) as folder:
            weights = Path(folder) / _WEIGHTS_FILE
            with BlobWriter(weights) as writer:
                for name, (_, source) in parts.items():
                    if source is not None:
                        move_blobs(merged.mlProgram.functions[name], source, writer)
            ct.models.utils.save_spec(merged, str(fresh), weights_dir=folder)
        message: Message = merged
        return message

    return write_package(write, target)


def function_names(description: Message) -> tuple[str, ...]:
    """Names of a model's functions, from its ``ModelDescription``; the default one first."""
    names = [entry.name for entry in description.functions]
    return tuple(sorted(names, key=lambda name: name != description.defaultFunctionName))


def _specification(model: Any) -> tuple[Any, Path | None]:
    if isinstance(model, ct.models.MLModel):
        folder = model.weights_dir
        return model.get_spec(), Path(folder) if folder else None
    specification, folder = read_specification(Path(model).expanduser())
    return specification, folder if folder.is_dir() else None


def _check_names(functions: Mapping[str, Any], default: str | None) -> None:
    if not functions:
        raise SaveError("a package needs a function", expected="at least one model")
    for name in functions:
        if not name.isidentifier():
            raise SaveError(
                "the name of a function must be an identifier",
                expected="letters, digits and underscores, no digit first",
                found=repr(name),
            )
    if default is not None and default not in functions:
        raise SaveError(
            "the default function is none of those given",
            expected=f"one of {', '.join(functions)}",
            found=default,
        )


def _check_parts(specifications: Mapping[str, Any]) -> None:
    states: dict[str, tuple[str, str]] = {}
    for name, specification in specifications.items():
        if specification.WhichOneof("Type") != "mlProgram":
            raise SaveError("only ML Programs have functions", op=name)
        own = list(specification.mlProgram.functions)
        if own != [_OWN_FUNCTION]:
            raise SaveError(
                "a model to be merged must have one function",
                op=name,
                expected=_OWN_FUNCTION,
                found=", ".join(own),
                hint="merge the models that this package was made of",
            )
        for state in specification.description.state:
            kind = str(state.type.stateType).strip()
            other, known = states.setdefault(state.name, (name, kind))
            if kind != known:
                raise SaveError(
                    f"state {state.name!r} differs between functions {other!r} and {name!r}",
                    expected=" ".join(known.split()),
                    found=" ".join(kind.split()),
                    hint="give the states one shape, or other names",
                )


def _merged(specifications: Mapping[str, Any], default: str) -> Any:
    merged = copy.deepcopy(specifications[default])
    description = merged.description
    program = merged.mlProgram.functions
    del program[_OWN_FUNCTION]
    for field in ("input", "output", "state"):
        description.ClearField(field)
    # The default function's metadata stands for the package.
    kept = description.metadata.userDefined
    of_default = dict(kept)
    for name, specification in specifications.items():
        program[name].CopyFrom(specification.mlProgram.functions[_OWN_FUNCTION])
        entry = description.functions.add(name=name)
        entry.input.extend(specification.description.input)
        entry.output.extend(specification.description.output)
        entry.state.extend(specification.description.state)
        own = specification.description.metadata.userDefined
        kept.update(differing(own, of_default, name))
    description.defaultFunctionName = default
    merged.specificationVersion = max(
        [ct.target.iOS18.value, *(s.specificationVersion for s in specifications.values())]
    )
    return merged
