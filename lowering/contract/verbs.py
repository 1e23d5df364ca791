"""``convert``, ``verify``, ``predict``, ``plan``, ``compress`` and ``ladder``: of models, packages
and contracts' folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

if TYPE_CHECKING:
    import coremltools as ct
    from torch import nn
    from torch.export import ExportedProgram

    from lowering.compression.ladder_result import Ladder
    from lowering.compression.result import Compression
    from lowering.compression.rungs import Rung
    from lowering.contract.folder import ModelFolder
    from lowering.package.open import ModelLike
    from lowering.planner.result import Plan
    from lowering.reference import LoadedModel, Precision, State
    from lowering.verification.original import Original
    from lowering.verification.result import Verification

from frontend.errors import InputError
from lowering.contract.names import CONTRACT, CONTRACT_KEY
from lowering.core_ai.asset import CoreAIModel, is_aimodel
from lowering.errors import LoweringError
from lowering.package.folder import SUFFIX

FORMATS = ("mlpackage", "aimodel")
# What each verb needs is imported where it is called: predict and plan start without a converter.


@overload
def convert(
    model: nn.Module | ExportedProgram | str | os.PathLike[str],
    example_inputs: object = None,
    *,
    format: Literal["mlpackage"] = "mlpackage",
    precision: str | None = None,
    calibration: Sequence[object] = (),
    **options: object,
) -> ct.models.MLModel: ...


@overload
def convert(
    model: nn.Module | ExportedProgram | str | os.PathLike[str],
    example_inputs: object = None,
    *,
    format: Literal["aimodel"],
    precision: str | None = None,
    calibration: Sequence[object] = (),
    **options: object,
) -> CoreAIModel: ...


def convert(
    model: nn.Module | ExportedProgram | str | os.PathLike[str],
    example_inputs: object = None,
    *,
    format: str = "mlpackage",
    precision: str | None = None,
    calibration: Sequence[object] = (),
    **options: object,
) -> ct.models.MLModel | CoreAIModel:
    """Convert a program, or the folder that :func:`lowering.export` wrote, to an ML Program.

    Args:
        model: as for :func:`lowering.conversion.converter.convert`, or a folder, whose contract
            says inputs, labels, target and precision; its model is rewritten by the passes.
        example_inputs: positional inputs for capturing an ``nn.Module``.
        format: ``mlpackage`` for Core ML, ``aimodel`` for Core AI; the latter with the options of
            :func:`lowering.core_ai.converter.convert_to_core_ai`, and not for a folder.
        precision: ``float16`` (the default), ``float32``, or ``safe``: float16 but for the fewest
            operators that it would spoil, see :func:`lowering.precision.safe.convert_safely`. Of
            a folder the contract says it.
        calibration: for ``safe``, calls to judge the package on beside the example inputs; its
            ``input_ranges`` are among the options.
        options: as there, and for a folder ``pipeline``.

    Raises:
        ContractError: the folder cannot be used.
        CoreAIError: Core AI is not installed.
        LoweringError: the program cannot be a Core ML model, or there is no such format.
        UnsupportedOpsError: operators without a lowering, all of them at once.
    """
    if format not in FORMATS:
        raise LoweringError(
            "a model is converted to one of two formats",
            expected=" or ".join(FORMATS),
            found=format,
        )
    if precision is not None:
        options["precision"] = precision
    if calibration:
        options["calibration"] = calibration
    if format == "aimodel":
        from lowering.core_ai.converter import convert_to_core_ai

        if isinstance(model, str | os.PathLike):
            raise LoweringError(
                "the contract of a folder describes a Core ML package",
                expected="format='mlpackage'",
                found=f"format='aimodel' for {os.fspath(model)}",
                hint="convert the model itself, without its folder, to Core AI",
            )
        if calibration:
            raise LoweringError(
                "Core AI packages are made in one precision throughout",
                expected="no calibration=",
                found="calibration inputs",
            )
        other: Callable[..., CoreAIModel] = convert_to_core_ai
        return other(model, example_inputs, **options)
    if isinstance(model, str | os.PathLike):
        from lowering.contract.converting import convert_folder

        make: Callable[..., ct.models.MLModel] = convert_folder
        return make(model, **options)
    from lowering.precision.safe import convert_in

    call: Callable[..., ct.models.MLModel] = convert_in
    return call(model, example_inputs, **options)


def verify(
    package: ModelLike,
    against: nn.Module | ExportedProgram | Original | str | os.PathLike[str],
    inputs: object = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: object,
) -> Verification:
    """Run a package on any OS and hold it against its original, or its contract's folder.

    Args:
        package: an MLModel, the path of a ``.mlpackage``, a MIL program, or a Core AI model or
            the path of its ``.aimodel``, which runs in Apple's own runtime.
        against: as for :func:`lowering.verification.verifier.verify`, or a folder.
        inputs: positional inputs; of a folder a mapping by name.
        kwargs: keyword inputs.
        options: as there; for a folder those of
            :func:`lowering.contract.verifying.verify_folder`, ``pictures`` among them; for a
            decoder's package those of :func:`lowering.generation.verifying.verify_decoder`, which
            has inputs of its own.

    Raises:
        ContractError: the folder cannot be used, or is not the package's.
        VerificationError: package and original do not belong together.
    """
    if isinstance(package, CoreAIModel) or is_aimodel(package):
        from lowering.core_ai.verifier import verify_core_ai

        through: Callable[..., Verification] = verify_core_ai
        return through(package, against, inputs, kwargs, **options)
    from lowering.verification import verifier

    if isinstance(against, str | os.PathLike):
        from lowering.contract.verifying import verify_folder

        hold: Callable[..., Verification] = verify_folder
        return hold(package, against, inputs=inputs, **options)
    from lowering.generation.contract import is_decoder

    if inputs is None and not kwargs and is_decoder(package, against):
        from lowering.generation.verifying import verify_decoder

        generate: Callable[..., Verification] = verify_decoder
        return generate(package, against, **options)
    call: Callable[..., Verification] = verifier.verify
    return call(package, against, inputs, kwargs, **options)


def predict(
    model: ModelLike | LoadedModel,
    inputs: Mapping[str, Any],
    *,
    state: State | None = None,
    function: str = "main",
    precision: str | Precision = "fp16",
) -> dict[str, Any]:
    """Run a package, or a contract's folder, once; a picture may be given as its file.

    Args:
        model: a package, as for :func:`lowering.reference.predict`, a folder, or a Core AI model
            or the path of its ``.aimodel``, which runs in Apple's own runtime.
        inputs: by name; a file of a picture or of a sound is brought into the form that the
            contract says.
        state: from ``make_state``.
        function: the function to run.
        precision: how it is computed.

    Raises:
        ContractError: the folder cannot be used.
        PictureError, SoundError: a picture or a sound cannot be read.
        InputError: inputs do not fit.
    """
    if isinstance(model, CoreAIModel) or is_aimodel(model):
        from lowering.core_ai.runtime import run_calls

        if state is not None or (function, precision) != ("main", "fp16"):
            raise InputError(
                "Apple's runtime runs an asset as it is",
                expected="inputs alone; lowering.core_ai.runtime.run_calls keeps states",
                found=f"state, function or precision for {model}",
            )
        asset = model if isinstance(model, CoreAIModel) else Path(cast(str, model))
        return run_calls(asset, [inputs]).outputs[0]
    from lowering.reference import LoadedModel, load

    if isinstance(model, LoadedModel):
        loaded = model
    else:
        loaded = load(_package_of(model), function=function, precision=precision)
    return loaded.run(with_files(loaded, inputs), state)


def with_files(model: LoadedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """``inputs`` with pictures and sounds in the form that the contract in the package says."""
    contract = None
    if CONTRACT_KEY in model.metadata:
        from lowering.contract.reading import package_contract

        contract = package_contract(model.metadata, model.label)
    found = dict(inputs)
    for name, value in inputs.items():
        if contract is not None and name in contract.images:
            from lowering.contract.pictures import prepared

            found[name] = prepared(contract.images[name], value)
        elif contract is not None and name in contract.sounds and _is_file(value):
            from lowering.contract.sounds import of_input, samples_of

            sound = contract.sounds[name]
            found[name] = of_input(sound, samples_of(sound.form, value)).numpy()
        elif isinstance(value, os.PathLike) and _takes_image(model, name):
            from lowering.contract.pictures import opened

            found[name] = opened(value)
        elif isinstance(value, os.PathLike):
            raise InputError(
                f"input {name!r} takes numbers, and nothing says how a file becomes them",
                expected="an array, or a package from a contract with a sound",
                found=os.fspath(value),
                hint="export the model with --sound, and convert its folder",
            )
    return found


def _takes_image(model: LoadedModel, name: str) -> bool:
    return name in model.inputs and model.inputs[name].image is not None


def _is_file(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def plan(model: ModelLike, **options: object) -> Plan:
    """Where each operator of a package, or of a folder's package, would run; *predicted*.

    Args:
        model: as for :func:`lowering.planner.placement.plan`, or a folder.
        options: as there.

    Raises:
        ContractError: the folder cannot be used.
        PackageError: there is no ML Program.
    """
    from lowering.planner import placement

    call: Callable[..., Plan] = placement.plan
    return call(_package_of(model), **options)


def compress(
    package: ModelFolder | str | os.PathLike[str],
    rung: str | Rung,
    out: str | os.PathLike[str] | None = None,
    **options: object,
) -> Compression:
    """Write a package whose large weights are stored as ``rung`` says.

    Args:
        package: path of a ``.mlpackage``, or a folder, which is converted first.
        rung: see :func:`lowering.compression.compressing.compress`.
        out: where the package goes; beside ``package`` by default, as ``NAME-RUNG.mlpackage``.
        options: as there.

    Raises:
        ContractError: the folder cannot be used.
        InputError: the weights cannot be stored so.
        PackageError: there is no ML Program at the path.
        SaveError: it cannot be written.
        CompressionError: a weight does not decode to what it was.
    """
    from lowering.compression import compressing

    write: Callable[..., Compression] = compressing.compress
    folder = _folder_of(package)
    if folder is None:
        return write(package, rung, out, **options)
    from lowering.contract.packaged import packaged

    name = rung if isinstance(rung, str) else rung.name
    target = out or folder.path.with_name(f"{folder.path.name}-{name}{SUFFIX}")
    with packaged(folder) as path:
        return write(path, rung, target, **options)


def ladder(
    package: ModelFolder | str | os.PathLike[str],
    model: nn.Module | ExportedProgram | Original | ModelFolder | str | os.PathLike[str] | None = (
        None
    ),
    inputs: object = None,
    kwargs: Mapping[str, object] | None = None,
    **options: object,
) -> Ladder:
    """Compress a package to every rung, and compare what they cost.

    Args:
        package: path of a ``.mlpackage``, or a folder, which is converted first.
        model: what the package was made from, as for :func:`lowering.compression.ladder.ladder`,
            or its folder; of a folder its own model by default.
        inputs: positional inputs; of a folder a mapping by name.
        kwargs: keyword inputs.
        options: as there.

    Raises:
        ContractError: the folder cannot be used.
        InputError: a rung or budget is unknown, no rung is within the budget, or the package
            cannot be compressed.
        SaveError: a package cannot be written.
        VerificationError: package and model do not belong together.
    """
    from lowering.compression import ladder as ladders

    climb: Callable[..., Ladder] = ladders.ladder
    folder = _folder_of(package)
    if folder is not None:
        from lowering.contract.packaged import packaged

        with packaged(folder) as path:
            found = ladder(path, folder if model is None else model, inputs, kwargs, **options)
        return replace(found, package=str(folder.path))
    own = _folder_of(model)
    if own is not None:
        from lowering.contract.originals import original_of
        from lowering.package.open import open_package

        given = cast("Mapping[str, Any]", inputs or {})
        model = original_of(own, open_package(cast(str, package)).metadata).with_inputs(given)
        inputs = None
    elif model is None or isinstance(model, str | os.PathLike):
        raise InputError(
            "rungs are compared with the model that the package was made from",
            expected="a module, an exported program, or a folder that `ane-passes export` wrote",
            found="no model" if model is None else os.fspath(model),
        )
    return climb(package, model, inputs, kwargs, **options)


def _folder_of(model: object) -> ModelFolder | None:
    """The folder that ``model`` is or names, ``None`` where it is something else."""
    from lowering.contract.folder import ModelFolder, is_model_folder, open_folder

    if isinstance(model, ModelFolder):
        return model
    return open_folder(cast(str, model)) if is_model_folder(model) else None


def _package_of(model: ModelLike) -> ModelLike:
    """``model``, or the package of the folder that it names."""
    if not isinstance(model, str | os.PathLike) or not (Path(model) / CONTRACT).is_file():
        return model
    from lowering.contract.converting import convert_folder

    return convert_folder(model, skip_model_load=True)
