"""Opens what the caller has, an MLModel, a ``.mlpackage`` or a MIL program, as one thing."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import coremltools as ct
from coremltools import proto
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Program
from google.protobuf.message import DecodeError

from lowering.package.weights import Weights
from lowering.reference.errors import PackageError

# What `load`, `predict` and `make_state` accept.
ModelLike: TypeAlias = "ct.models.MLModel | Program | str | Path"

_WEIGHTS_DIRECTORY = "weights"
_MANIFEST = "Manifest.json"


@dataclass(frozen=True)
class Package:
    """An ML Program with what is needed to run it.

    Attributes:
        program: the MIL program, a ``MIL_pb2.Program``.
        description: the model description, ``None`` for a bare program.
        weights: the program's constants.
        metadata: user-defined metadata of the package.
        label: how errors name the package.
    """

    program: Any
    description: Any | None
    weights: Weights
    metadata: dict[str, str]
    label: str


def open_package(model: ModelLike) -> Package:
    """The ML Program in ``model``.

    Raises:
        PackageError: there is none, or it is corrupt.
    """
    if isinstance(model, Program):
        return _from_program(model)
    if isinstance(model, ct.models.MLModel):
        directory = model.weights_dir
        return _from_spec(model._spec, Path(directory) if directory else None, "the model")
    if isinstance(model, str | Path):
        return _from_path(Path(model).expanduser())
    raise PackageError(
        "This cannot be run",
        expected="an MLModel, the path of a .mlpackage, or a MIL program",
        found=type(model).__name__,
    )


def _from_program(program: Program) -> Package:
    # Serialized as coremltools' own backend does it: one path for programs and packages, and what
    # runs is what would ship.
    with tempfile.TemporaryDirectory() as directory:
        version = max(
            [function.opset_version or ct.target.iOS15 for function in program.functions.values()]
        )
        exporter = MILProtoExporter(program, directory, version)
        exported = exporter.export()
        exporter.blob_writers.clear()  # closes the files
        weights = Weights(Path(directory))
        weights.open_all()  # mapped files outlive their directory entries
    return Package(exported, None, weights, {}, "the program")


def _from_path(path: Path) -> Package:
    if not path.exists():
        raise PackageError("The package does not exist", found=str(path))
    if not path.is_dir():
        raise PackageError(
            "This is not a package",
            expected="a .mlpackage directory",
            found=str(path),
            hint="an ML Program is saved as a .mlpackage",
        )
    model_file = _model_file(path)
    spec = proto.Model_pb2.Model()
    try:
        spec.ParseFromString(model_file.read_bytes())
    except DecodeError as error:
        raise PackageError(
            "The package's model file is corrupt or truncated", found=str(model_file)
        ) from error
    return _from_spec(spec, model_file.parent / _WEIGHTS_DIRECTORY, str(path))


def _model_file(path: Path) -> Path:
    manifest_file = path / _MANIFEST
    if not manifest_file.is_file():
        raise PackageError("The package has no manifest", expected=str(manifest_file))
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        model_file = path / "Data" / entry["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise PackageError(
            "The package's manifest is corrupt", found=f"{manifest_file}: {error!r}"
        ) from error
    if not model_file.is_file():
        raise PackageError("The package's model file is missing", expected=str(model_file))
    return model_file


def _from_spec(spec: Any, weights_directory: Path | None, label: str) -> Package:
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise PackageError(
            "The model is not an ML Program",
            expected="mlProgram",
            found=str(kind),
            hint='convert with convert_to="mlprogram"',
        )
    metadata = dict(spec.description.metadata.userDefined)
    return Package(spec.mlProgram, spec.description, Weights(weights_directory), metadata, label)
