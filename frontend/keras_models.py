"""Keras 3 models on its torch backend: read from files, and called as for inference.

Such a model is a ``torch.nn.Module``, so that it is captured like any other; TensorFlow has no part
in it. Its layers take a mode with each call, and some, such as RandomFlip, train by default.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor, nn

from frontend.errors import ProgramFileError, first_line
from frontend.keras_recurrent import gru_as_one, lstm_as_one

if TYPE_CHECKING:
    import keras

SUFFIXES = (".keras", ".h5", ".hdf5")
_BACKEND = "KERAS_BACKEND"
# What Keras raises for files that it cannot read, and for layers that it does not know.
_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError)
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int32": torch.int32}


class KerasInference(nn.Module):
    """A Keras model as it is called after training."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Tensor, **kwargs: Tensor) -> object:
        """The model's result; arguments in the order of its inputs, by position or by name."""
        given = [*args, *kwargs.values()]
        with _recurrent_layers_whole():
            return self.model(given[0] if len(given) == 1 else given, training=False)


def for_inference(model: nn.Module) -> nn.Module:
    """``model``, or what calls it for inference where it is one of Keras."""
    bases = type(model).__mro__
    is_keras = any(base.__module__.partition(".")[0] == "keras" for base in bases)
    return KerasInference(model) if is_keras else model


def load_keras(
    path: str | os.PathLike[str], *, trust: bool = False
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model in a ``.keras`` or ``.h5`` file, and example inputs by name, one example each.

    Args:
        path: what Keras' ``model.save`` wrote; Keras 3, or an older HDF5 file that it reads.
        trust: run the code in the file, such as that of Lambda layers. For files of your own only.

    Raises:
        ProgramFileError: Keras is not installed, or runs on another backend already; or the file
            cannot be read, or its sizes are open.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ProgramFileError("there is no such file", found=str(path), hint="check the path")
    module = _keras()
    try:
        model = module.saving.load_model(str(path), compile=False, safe_mode=not trust)
    except _ERRORS as error:
        text = first_line(error)
        hint = "save the model again with Keras 3"
        if "safe_mode" in str(error) or "unsafe" in str(error):
            hint = "if the file is your own, add --trust (in Python trust=True)"
        raise ProgramFileError(
            f"Keras cannot read the file: {text}",
            expected="what model.save wrote",
            found=str(path),
            hint=hint,
        ) from error
    return model, _examples(model, path)


def _keras() -> Any:
    if importlib.util.find_spec("keras") is None:
        raise ProgramFileError(
            "Keras is not installed, which reads this file", hint='pip install "ane-passes[keras]"'
        )
    if "keras" not in sys.modules:
        # Keras reads it once, when it is imported.
        with mock.patch.dict(os.environ, {_BACKEND: "torch"}):
            import keras
    else:
        import keras
    if keras.backend.backend() != "torch":
        raise ProgramFileError(
            "Keras runs on another backend in this process",
            expected="torch",
            found=keras.backend.backend(),
            hint=f"start Python with {_BACKEND}=torch",
        )
    return keras


def _examples(model: keras.Model, path: Path) -> dict[str, Tensor]:
    found = {}
    for number, entry in enumerate(model.inputs):
        batch, *sizes = entry.shape
        dtype = _DTYPES.get(str(entry.dtype))
        if None in sizes or dtype is None:
            raise ProgramFileError(
                f"input {entry.name!r} of the model leaves open what it takes",
                expected="fixed sizes beside the batch, of float32 or int32",
                found=f"{path}: {tuple(entry.shape)} {entry.dtype}",
                hint="give a function that returns model and inputs: file.py:function",
            )
        name = re.sub(r"\W", "_", entry.name)
        name = name if name.isidentifier() and name not in found else f"input_{number}"
        shape = (batch or 1, *sizes)
        is_float = dtype.is_floating_point
        found[name] = (
            torch.rand(shape, dtype=dtype) if is_float else torch.zeros(shape, dtype=dtype)
        )
    return found


@contextmanager
def _recurrent_layers_whole() -> Iterator[None]:
    """While a model is exported, Keras' LSTM and GRU are torch's, which stay one operator."""
    if not torch.compiler.is_exporting():
        yield
        return
    from keras.src import backend

    with (
        mock.patch.object(backend, "lstm", lstm_as_one(backend.lstm)),
        mock.patch.object(backend, "gru", gru_as_one(backend.gru)),
    ):
        yield
