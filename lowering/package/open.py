"""The one reader of what the caller has: an MLModel, a ``.mlpackage`` or a MIL program."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.message import DecodeError

from frontend.errors import about
from lowering.errors import PackageError
from lowering.package import proto
from lowering.package.folder import WEIGHTS, inside, is_package, model_file
from lowering.package.kinds import (
    bare_model,
    damaged,
    git_lfs_pointer,
    not_a_package,
    not_a_program,
)
from lowering.package.pipeline import merged, stages_of
from lowering.package.weights import Weights
from lowering.package.well_formed import check_function
from lowering.support.temporary import not_written

if TYPE_CHECKING:
    import coremltools as ct
    from coremltools.converters.mil.mil import Program

# What every function takes that reads a package.
ModelLike: TypeAlias = "ct.models.MLModel | Program | Package | str | os.PathLike[str]"

MAIN = "main"


@dataclass(frozen=True)
class Package:
    """An ML Program with what is needed to plan or run it.

    Attributes:
        program: the MIL program.
        description: the model description, ``None`` for a bare program.
        weights: the program's constants.
        metadata: user-defined metadata of the package.
        label: how messages name it.
    """

    program: proto.MIL_pb2.Program
    description: proto.Model_pb2.ModelDescription | None
    weights: Weights
    metadata: Mapping[str, str]
    label: str

    def function_name(self, name: str = MAIN) -> str:
        """``name``; the default function's for :data:`MAIN` where none is called so."""
        if name == MAIN and name not in self.program.functions and self.description is not None:
            return self.description.defaultFunctionName or name
        return name

    def function(self, name: str) -> tuple[proto.MIL_pb2.Function, proto.MIL_pb2.Block]:
        """A function of the program and its operations.

        Raises:
            PackageError: there is no such function, or it has no operations.
        """
        functions = self.program.functions
        if name not in functions:
            raise PackageError(
                f"the program has no function {name!r}",
                expected=f"one of {', '.join(sorted(functions))}",
                found=f"{self.label}: {name!r}",
                hint="name one of these",
            )
        function = functions[name]
        if function.opset not in function.block_specializations:
            raise damaged(
                f"a block for the opset {function.opset!r} of function {name!r}",
                ", ".join(sorted(function.block_specializations)) or "no block at all",
            )
        return function, function.block_specializations[function.opset]


def open_package(model: ModelLike) -> Package:
    """The ML Program in ``model``.

    Raises:
        PackageError: there is none, or it is corrupt.
    """
    if isinstance(model, Package):
        return model
    if isinstance(model, str | os.PathLike):
        return _from_path(Path(model).expanduser())
    # A path is read without coremltools, whose import takes longer than any plan.
    import coremltools as ct
    from coremltools.converters.mil.mil import Program

    if isinstance(model, Program):
        return _from_program(model)
    if isinstance(model, ct.models.MLModel):
        directory = model.weights_dir
        return _from_spec(model._spec, Path(directory) if directory else None, "the model")
    raise PackageError(
        "this is not a package",
        expected="an MLModel, the path of a .mlpackage, or a MIL program",
        found=type(model).__name__,
        hint="convert a module first: lowering.convert(module, args)",
    )


def _from_program(program: Program) -> Package:
    # Serialized as coremltools' own backend does it: one path for programs and packages, and what
    # runs is what would ship.
    import coremltools as ct
    from coremltools.converters.mil.backend.mil.load import MILProtoExporter

    with _temporary_folder() as directory:
        version = max(
            [function.opset_version or ct.target.iOS15 for function in program.functions.values()]
        )
        exporter = MILProtoExporter(program, directory, version)
        exported = exporter.export()
        exporter.blob_writers.clear()  # closes the files
        weights = Weights(Path(directory))
        weights.open_all()  # mapped files outlive their directory entries
    return Package(exported, None, weights, {}, "the program")


@contextmanager
def _temporary_folder() -> Iterator[str]:
    try:
        with tempfile.TemporaryDirectory() as directory:
            yield directory
    except (OSError, RuntimeError) as error:
        raise not_written(error) or error from error


def _from_path(path: Path) -> Package:
    with about(str(path)):
        return _from_spec(*read_specification(path), str(path), package=path)


def read_specification(path: Path) -> tuple[proto.Model_pb2.Model, Path]:
    """The model message of the package at ``path``, and the folder of its weights.

    Raises:
        PackageError: there is no package, or it is corrupt.
    """
    try:
        if not path.exists():
            raise PackageError(
                "there is no package at this path", found=str(path), hint="check the path"
            )
        if not path.is_dir() or not (is_package(path) or path.suffix == ".mlpackage"):
            raise _not_a_package(path)
        file = model_file(path)
        return _spec(file), inside(path, file.parent / WEIGHTS)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PackageError(
            f"the package cannot be read: {reason}",
            found=str(getattr(error, "filename", None) or path),
            hint="check the path and its permissions",
        ) from error


def _not_a_package(path: Path) -> PackageError:
    """The error for something else at ``path``, named for what it is."""
    if path.is_file():
        pointer = git_lfs_pointer(path, "this")
        if pointer is not None:
            return pointer
        if path.suffix == ".mlmodel":
            return bare_model(path, _spec(path).WhichOneof("Type"))
    return not_a_package(path)


def _spec(file: Path) -> proto.Model_pb2.Model:
    spec = proto.Model_pb2.Model()
    try:
        spec.ParseFromString(file.read_bytes())
    except DecodeError as error:
        pointer = git_lfs_pointer(file, "the package's model file")
        raise pointer or PackageError(
            "the package's model file is corrupt or truncated",
            expected="a Core ML specification",
            found=str(file),
            hint="copy the package again, or save the model again",
        ) from error
    return spec


def _from_spec(
    spec: proto.Model_pb2.Model,
    weights_directory: Path | None,
    label: str,
    package: Path | None = None,
) -> Package:
    if stages_of(spec) is not None:
        spec = merged(spec, label)
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise not_a_program(kind, label)
    if not spec.mlProgram.functions:
        raise PackageError(
            "the program has no functions",
            expected="an ML Program with a function 'main'",
            found=label,
            hint="save the model again",
        )
    metadata = dict(spec.description.metadata.userDefined)
    weights = Weights(weights_directory, package)
    found = Package(spec.mlProgram, spec.description, weights, metadata, label)
    for name in spec.mlProgram.functions:
        check_function(*found.function(name), weights)
    return found
