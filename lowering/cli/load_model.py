"""MODEL on the command line: where a model comes from."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path, PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from frontend.errors import kind_and_line
from frontend.model_call import ModelCall
from lowering.contract.names import CONTRACT, PROGRAM
from lowering.errors import ModelLoadError
from lowering.support.model_files import described

if TYPE_CHECKING:
    pass

Result = TypeVar("Result")

MODEL_HELP = """\
MODEL names a function that returns the model and what to call it with, or a saved program:

\b
  mypackage.models:tiny    function in a module on the Python path (or in this folder)
  model.py:tiny            function in a file
  model.pt2                what torch.export.save wrote
  model.keras, model.h5    what Keras' model.save wrote (Keras 3, on torch)
  folder                   what `ane-passes export` wrote

A function is code: its module is imported and run. A .pt2 file is read and runs nothing; one that
asks for code is refused, unless it is your own and you say --trust.

The function takes no arguments and returns (model, example_inputs) or (model, args, kwargs);
a model alone will do where example inputs can be inferred. A fourth part is dynamic_shapes, as
torch.export takes it:

\b
  def tiny():
      return MyModel(), (torch.randn(1, 3, 224, 224),)
"""

trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Run the code that a .pt2 MODEL asks for. For files of your own only.",
)

# Files of Keras, which is imported where one is named.
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
_FORMS = "module:function, path/to/file.py:function or program.pt2"
_RETURNS = "(model, example_inputs), (model, args, kwargs[, dynamic_shapes]) or a model"


def load_model_call(text: str, trust: bool = False) -> ModelCall:
    """Load what ``text`` names, see ``MODEL_HELP``.

    Args:
        text: the MODEL.
        trust: run the code that a saved program asks for.

    Raises:
        ModelLoadError: it names nothing, or the function fails or returns something else.
        ProgramFileError: it is a saved program that cannot be loaded, or asks for code.
    """
    if text.endswith(".pt2"):
        from frontend.program_file import load_program

        return ModelCall(PurePath(text).stem, load_program(text, trust=trust))
    if text.endswith(KERAS_SUFFIXES):
        from frontend.keras_models import load_keras

        model, example = load_keras(text, trust=trust)
        return ModelCall(PurePath(text).stem, model, None, example)
    if is_folder(text):
        from lowering.contract.folder import open_folder

        folder = open_folder(text, trust=trust)
        return ModelCall(
            folder.contract.name,
            folder.composed(),
            None,
            dict(folder.example()),
            folder.dynamic_shapes(),
        )
    location, colon, function_name = text.rpartition(":")
    if not location and Path(text).exists():
        what, hint = described(Path(text))
        if (Path(text) / PROGRAM).is_file():
            what = f"a folder with {PROGRAM} and without {CONTRACT}"
            hint = "write it again with `ane-passes export`, or give the program in it"
        raise ModelLoadError(
            f"MODEL is {what}, which cannot be captured", expected=_FORMS, found=text, hint=hint
        )
    if not colon or not location or not function_name.isidentifier():
        raise ModelLoadError("MODEL cannot be read", expected=_FORMS, found=text)
    module = load_module(location)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelLoadError(
            f"{location} has no function {function_name!r}",
            expected=_names(module) or "a function that returns a model",
            found=text,
        )
    return _unpacked(function_name, _called(function, text), text)


def load_decoder(text: str, trust: bool = False) -> ModelCall:
    """As :func:`load_model_call`; ``text`` may be a folder that transformers reads, too.

    Raises:
        GenerationError: transformers cannot read the folder.
    """
    if not (Path(text) / "config.json").is_file():
        return load_model_call(text, trust)
    from lowering.generation.checkpoint import load_checkpoint

    return ModelCall(PurePath(text).name, load_checkpoint(Path(text)))


def is_folder(text: str) -> bool:
    """Whether MODEL is a folder that ``ane-passes export`` wrote."""
    return (Path(text) / CONTRACT).is_file()


def load_module(location: str) -> ModuleType:
    """The file or module that ``location`` names, imported once.

    Raises:
        ModelLoadError: there is none, or it fails.
    """
    return _file(Path(location)) if location.endswith(".py") else _module(location)


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelLoadError("there is no such file", found=str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    known = sys.modules.get(path.stem)
    if known is not None and known.__file__ == spec.origin:
        return known  # a second run would define its operators a second time
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.absolute()))  # as `python path/to/file.py` does
    sys.modules[path.stem] = module
    _guarded(lambda: spec.loader.exec_module(module), f"{path} could not be imported")  # type: ignore[union-attr]
    return module


def _module(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise ModelLoadError(
            f"there is no module {name!r}",
            expected=_FORMS,
            hint="run the command in the module's folder, or name the file: file.py:function",
        )
    return _guarded(lambda: importlib.import_module(name), f"Module {name} could not be imported")


def _called(function: Callable[[], Any], text: str) -> object:
    required = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise ModelLoadError(
            "the function of MODEL must take no arguments",
            expected=_RETURNS,
            found=f"{text} needs {', '.join(required)}",
        )
    return _guarded(function, f"{text} failed")


def _unpacked(name: str, value: object, text: str) -> ModelCall:
    from torch import nn
    from torch.export import ExportedProgram

    if isinstance(value, (nn.Module, ExportedProgram)):
        return ModelCall(name, value)
    if isinstance(value, tuple) and len(value) in (2, 3, 4):
        model, args, *rest = value
        kwargs = rest[0] if rest else {}
        if isinstance(model, (nn.Module, ExportedProgram)) and isinstance(kwargs, dict):
            return ModelCall(name, model, args, kwargs, *rest[1:])
    kinds = (
        "(" + ", ".join(type(part).__name__ for part in value) + ")"
        if isinstance(value, tuple)
        else type(value).__name__
    )
    raise ModelLoadError(
        "the function of MODEL returned something else",
        expected=_RETURNS,
        found=f"{text} returned {kinds}",
    )


def _guarded(action: Callable[[], Result], message: str) -> Result:
    """Run the user's code; whatever it raises becomes one message with the user's own line."""
    try:
        return action()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit as well: the command is ours to end
        from frontend.source import raising_line

        raise ModelLoadError(
            f"{message}: {kind_and_line(error)}",
            source=raising_line(error.__traceback__),
            hint="put right what fails there; the same code fails by itself in Python",
        ) from error


def _names(module: ModuleType) -> str:
    functions = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    return ", ".join(name for name in functions if not name.startswith("_"))
