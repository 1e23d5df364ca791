"""MIL reference interpreter: executes finished ML Programs on torch CPU kernels, on any OS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from frontend.errors import InputError
from lowering.errors import PackageError
from lowering.package.open import ModelLike
from lowering.reference.errors import ExecutionError, UnknownOpsError
from lowering.reference.model import MAX_TURNS, LoadedModel
from lowering.reference.names import value_name
from lowering.reference.precision import Precision
from lowering.reference.states import State

__all__ = [
    "ExecutionError",
    "InputError",
    "LoadedModel",
    "ModelLike",
    "PackageError",
    "Precision",
    "State",
    "UnknownOpsError",
    "load",
    "make_state",
    "predict",
    "values_at",
]


def load(
    model: ModelLike,
    *,
    function: str = "main",
    precision: str | Precision = "fp16",
    max_turns: int = MAX_TURNS,
) -> LoadedModel:
    """A model that is decoded once and can be called many times.

    Args:
        model: an MLModel, the path of a ``.mlpackage``, or a MIL program.
        function: the function to run, for models with several.
        precision: ``fp16``: each op computes in fp32 and rounds once to the declared type;
            ``strict``: sums inside an op round after each addition as well; ``fp32``: declared
            fp16 is ignored.
        max_turns: of a loop; one that makes more is an error, as if it had no end.

    Raises:
        PackageError: the model cannot be read.
        UnknownOpsError: it holds ops that the interpreter does not know; all are listed.
    """
    return LoadedModel(model, function, precision, max_turns)


def predict(
    model: ModelLike | LoadedModel,
    inputs: Mapping[str, Any],
    *,
    state: State | None = None,
    function: str = "main",
    precision: str | Precision = "fp16",
) -> dict[str, Any]:
    """Outputs of ``model`` by name for ``inputs`` by name.

    Args:
        model: an MLModel, the path of a ``.mlpackage``, a MIL program, or what :func:`load` gave
            (then ``function`` and ``precision`` are those it was loaded with).
        inputs: arrays (numpy, torch or lists of numbers) in the shapes that the model declares, PIL
            images for image inputs.
        state: from :func:`make_state`, for models with state; updated by the call.
        function: the function to run, for models with several.
        precision: see :func:`load`.

    Returns:
        Numpy arrays in the declared types, PIL images for image outputs, the label and a
        dictionary of probabilities for classifiers. Scalars come as arrays of one element.

    Raises:
        PackageError: the model cannot be read.
        UnknownOpsError: it holds ops that the interpreter does not know; all are listed.
        InputError: an input is missing, unknown, or does not fit.
        ExecutionError: an op failed on the values it got.
    """
    loaded = (
        model
        if isinstance(model, LoadedModel)
        else load(model, function=function, precision=precision)
    )
    return loaded(inputs, state)


def make_state(model: ModelLike | LoadedModel, *, function: str = "main") -> State:
    """A fresh state of ``model``, all zeros, to pass to successive calls of :func:`predict`."""
    loaded = model if isinstance(model, LoadedModel) else load(model, function=function)
    return loaded.make_state()


def values_at(
    model: ModelLike | LoadedModel,
    inputs: Mapping[str, Any],
    *,
    at: Iterable[str],
    state: State | None = None,
    function: str = "main",
    precision: str | Precision = "fp16",
) -> dict[str, Any]:
    """Intermediate values of ``model``, by the words of ``at``.

    Args:
        model: as for :func:`predict`.
        inputs: as for :func:`predict`.
        at: names of MIL values or ops, names of nodes of the converted program, or module paths;
            for the last two, and for an op of several results, the last value that has the name.
        state: as for :func:`predict`; updated by the call.
        function: as for :func:`predict`.
        precision: see :func:`load`.

    Returns:
        Numpy arrays as carried: float32 for fp16, its elements fp16 numbers.

    Raises:
        InputError: a word names nothing in the program, or as for :func:`predict`.
    """
    loaded = (
        model
        if isinstance(model, LoadedModel)
        else load(model, function=function, precision=precision)
    )
    names = {word: value_name(loaded, word) for word in at}
    values = loaded.values(inputs, names.values(), state)
    return {word: values[name] for word, name in names.items()}
