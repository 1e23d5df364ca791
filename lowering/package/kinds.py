"""Names what was given where an ML Program was expected, and says what to do about it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from frontend.errors import first_line
from lowering.errors import PackageError

# A pointer file starts so (*documented*: Git LFS specification, "The Pointer").
_LFS = b"version https://git-lfs.github.com/spec/"
# Longest pointer file (*documented* there: less than 1024 bytes).
_LFS_LIMIT = 1024


# What Python, numpy and torch raise for values that a function cannot compute with.
VALUE_ERRORS = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
)


class Kind(NamedTuple):
    """What something is, and the next step for who has it."""

    what: str
    hint: str


SAVE_AGAIN = "copy the package again, or save the model again"
_AGAIN = "convert the original model again, with convert_to='mlprogram' where coremltools does it"
_ORIGINAL = "convert its original with `ane-passes convert`, and use the .mlpackage this writes"

# First words of the fields of Core ML's Model.proto, its oneof "Type".
_MODELS: dict[str, str] = {
    "neuralNetwork": "a neural network of the older kind, from before ML Programs",
    "treeEnsemble": "a tree ensemble",
    "supportVector": "a support vector machine",
    "glm": "a generalized linear model",
    "kNearestNeighbors": "a nearest-neighbours classifier",
    "bayesian": "a Bayesian probit regressor",
    "pipeline": "a pipeline of models",
    "serializedModel": "a model serialized by a framework of Apple's",
    "wordTagger": "a word tagger",
    "textClassifier": "a text classifier of Create ML",
    "linkedModel": "a link to another model",
    "customModel": "a custom model, whose code lies in an app",
    "nonMaximumSuppression": "non-maximum suppression alone",
    "soundAnalysisPreprocessing": "preprocessing of sound alone",
}
_FILES: dict[str, Kind] = {
    ".onnx": Kind("an ONNX model", _ORIGINAL),
    ".tflite": Kind("a TensorFlow Lite model", "convert the original with coremltools"),
    ".safetensors": Kind("weights without a model (safetensors)", _ORIGINAL),
    ".pt2": Kind("a program of torch.export", _ORIGINAL),
    ".py": Kind("Python source", _ORIGINAL),
}


def model_kind(field: str | None) -> str:
    """A model by its field of ``Model.proto``'s ``Type``, in words."""
    if field is None:
        return "an empty model"
    for start, words in _MODELS.items():
        if field.startswith(start):
            return words
    return f"a model of kind {field}"


def not_a_program(field: str | None, label: str) -> PackageError:
    """The error for a model that is of another kind than an ML Program."""
    return PackageError(
        f"the model is not an ML Program but {model_kind(field)}",
        expected="an ML Program (iOS 15 or later)",
        found=f"{label}: {field or 'no model in it'}",
        hint=_AGAIN,
    )


def git_lfs_pointer(file: Path, what: str) -> PackageError | None:
    """The error for a file that Git LFS has not brought yet; ``None`` where it is none."""
    if file.stat().st_size > _LFS_LIMIT:
        return None
    content = file.read_bytes()
    if not content.startswith(_LFS):
        return None
    size = re.search(rb"^size (\d+)$", content, re.MULTILINE)
    return PackageError(
        f"{what} is a Git LFS pointer, not the file itself",
        expected=f"{int(size[1]):,} bytes" if size else "the file's content",
        found=str(file),
        hint="run `git lfs install` and `git lfs pull` in the repository that it came from",
    )


def not_a_package(path: Path) -> PackageError:
    """The error for something at ``path`` that is no package."""
    what, hint = file_kind(path)
    return PackageError(
        f"this is not a package but {what}",
        expected="a .mlpackage folder with an ML Program",
        found=str(path),
        hint=hint,
    )


def file_kind(path: Path) -> Kind:
    """What the file or folder at ``path`` is that is not a package's model."""
    around = next((parent for parent in path.parents if parent.suffix == ".mlpackage"), None)
    if around is not None:
        return Kind("a part of one", f"give the package: {around}")
    return _folder_kind(path) if path.is_dir() else _file_kind(path)


def _folder_kind(path: Path) -> Kind:
    if path.suffix == ".mlpackage":
        return Kind("a Core ML package", "check the path")
    if path.suffix == ".mlmodelc" or (path / "coremldata.bin").is_file():
        return Kind(
            "a compiled Core ML model",
            "give the .mlpackage that it was compiled from; compiled models run on Apple's systems "
            "only",
        )
    if path.suffix == ".aimodel":
        return Kind(
            "a Core AI asset",
            "`predict`, `verify` and `report` take assets; where Core AI runs one and how fast is "
            "not known here: convert the model to a .mlpackage for a plan",
        )
    packages = sorted(path.glob("*.mlpackage"))
    if packages:
        return Kind("a folder that holds one", f"give the package: {packages[0]}")
    if not any(path.iterdir()):
        return Kind("an empty folder", "check the path, or save the model again")
    return Kind("some other folder", "check the path")


def _file_kind(path: Path) -> Kind:
    if not path.is_file():
        return Kind("a device, a pipe or a socket", "check the path")
    if path.suffix in _FILES:
        return _FILES[path.suffix]
    if zipfile.is_zipfile(path):
        return _archive_kind(path)
    if path.stat().st_size == 0:
        return Kind("an empty file", "check the path, or save the model again")
    return Kind("some other file", "check the path")


def _archive_kind(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return Kind("a damaged zip archive", "copy it again")
    if any(name.endswith("Manifest.json") for name in names):
        return Kind("a zip archive with a package in it", "unpack it, and give the folder")
    if any("/code/" in f"/{name}" and name.endswith(".py") for name in names):
        return Kind("a TorchScript program", _ORIGINAL)
    if any(name.endswith("data.pkl") for name in names):
        return Kind("a checkpoint of torch.save", _ORIGINAL)
    return Kind("a zip archive", "unpack it, and give the .mlpackage folder in it")


def damaged(expected: str, found: str, op: str | None = None) -> PackageError:
    """The error for a program that does not hold together."""
    message = "the program is damaged or malformed"
    return PackageError(message, op=op, expected=expected, found=found, hint=SAVE_AGAIN)


@contextmanager
def operands_fit(op: str) -> Iterator[None]:
    """What the block raises for the values it got is an error of the operator ``op``.

    Raises:
        PackageError: such an error.
    """
    try:
        yield
    except VALUE_ERRORS as error:
        raise damaged("operands that fit the operator", first_line(error), op) from error


def undefined(name: str, op: str | None = None) -> PackageError:
    """The error for a value that nothing defines."""
    return damaged(
        "values that are defined before they are used", f"{name!r} is used but not defined", op
    )


def bare_model(path: Path, field: str | None) -> PackageError:
    """The error for a ``.mlmodel`` file by itself."""
    if field != "mlProgram":
        return not_a_program(field, str(path))
    return PackageError(
        "this is an ML Program without its package: the weights are not in the file",
        expected="a .mlpackage folder with an ML Program",
        found=str(path),
        hint="give the .mlpackage folder that the file was taken from, or save the model again as "
        ".mlpackage",
    )
