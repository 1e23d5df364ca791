"""A package from the folder of a contract."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import coremltools as ct

import passes
from lowering.contract.contract import ModelContract, PinnedNames
from lowering.contract.errors import ContractError
from lowering.contract.folder import ModelFolder, open_folder
from lowering.contract.names import CONTRACT_KEY, DIGEST_KEY
from lowering.contract.originals import original_of
from lowering.precision.pins import PinReport
from lowering.precision.safe import SAFE, convert_in
from passes.base import Pass
from passes.default_pipeline import DEFAULT_PIPELINE

_COLOURS = {
    "RGB": ct.colorlayout.RGB,
    "BGR": ct.colorlayout.BGR,
    "GRAY": ct.colorlayout.GRAYSCALE,
}


def convert_folder(
    folder: ModelFolder | str | os.PathLike[str],
    *,
    pipeline: Sequence[Pass] = DEFAULT_PIPELINE,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    **options: object,
) -> ct.models.MLModel:
    """The package that a contract asks for, rewritten by ``pipeline`` before.

    The contract and its digest stand in the package's metadata, and meanings in its description.
    Its copy of the contract names what stays in float32; written into the folder's, the same stays
    in the next conversion, without a search.

    Args:
        folder: what ``lowering.export`` wrote.
        pipeline: the passes.
        input_ranges: for a contract that says ``safe``, ranges beside the contract's own.
        options: those of ``lowering.convert`` that the contract leaves open.

    Raises:
        ContractError: the folder cannot be used, or an option is the contract's to say.
        LoweringError: the program cannot be a Core ML model.
    """
    if not isinstance(folder, ModelFolder):
        folder = open_folder(folder)
    contract = folder.contract
    said: dict[str, object] = {
        "minimum_deployment_target": ct.target[contract.target],
        "precision": contract.precision,
        "inputs": _image_types(contract) or None,
        "sizes": {s.name: s.values for s in contract.sizes if len(s.values) > 1} or None,
        "exact_outputs": () if contract.task is None else contract.task.exact(),
        "classifier_config": None if contract.task is None else contract.task.classifier(),
    }
    twice = [name for name in (*said, "compute_precision") if name in options]
    if twice:
        raise ContractError(
            "options are given that the contract says already",
            [f"{name}: {options[name]}" for name in twice],
            hint="leave them out, or export the model with others",
        )
    optimized = passes.optimize_for_ane(
        folder.composed(),
        kwargs=folder.example(),
        dynamic_shapes=folder.dynamic_shapes(),
        pipeline=pipeline,
    )
    if contract.precision == SAFE:
        options["original"] = partial(original_of, folder)
        input_ranges = {**contract.ranges, **(input_ranges or {})}
        options["given"] = None if contract.pinned is None else vars(contract.pinned)
    call: Callable[..., ct.models.MLModel] = convert_in
    mlmodel = call(optimized, input_ranges=input_ranges, **said, **options)
    _describe(mlmodel, contract)
    report = PinReport.from_metadata(mlmodel.user_defined_metadata)
    if report is not None:
        found = PinnedNames(*(tuple(pin.op for pin in part) for part in (report.pins, report.ends)))
        own = replace(contract, pinned=found)
        mlmodel.user_defined_metadata[CONTRACT_KEY] = own.to_text()
    return mlmodel


def digest_in(metadata: Mapping[str, str]) -> str | None:
    """The digest of the contract that a package was made from, where it says so."""
    return metadata.get(DIGEST_KEY)


def _image_types(contract: ModelContract) -> list[ct.TensorType | ct.ImageType]:
    found: list[ct.TensorType | ct.ImageType] = []
    for name, image in contract.images.items():
        scale, biases, _ = image.split()
        found.append(
            ct.ImageType(
                name=name,
                scale=scale,
                bias=biases[0] if image.layout == "GRAY" else list(biases),
                color_layout=_COLOURS[image.layout],
            )
        )
    return found


def _describe(mlmodel: ct.models.MLModel, contract: ModelContract) -> None:
    mlmodel.user_defined_metadata[CONTRACT_KEY] = contract.to_text()
    mlmodel.user_defined_metadata[DIGEST_KEY] = contract.digest()
    described = mlmodel.output_description
    present = set(described)
    for entry in contract.outputs:
        if entry.meaning and entry.name in present:
            described[entry.name] = entry.meaning
    for name, wave in contract.waveforms.items():
        mlmodel.input_description[name] = f"sound from -1 to 1: {wave.form.describe()}"
    for name, image in contract.images.items():
        height, width = image.size
        mlmodel.input_description[name] = (
            f"picture, {width} x {height} pixels; its numbers are scaled in the package"
        )
