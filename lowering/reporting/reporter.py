"""``lowering.report``: what is known of a package, as data and as a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from frontend.model_call import ModelCall
from lowering.ablation.result import Ablation
from lowering.compression.ladder_result import Ladder
from lowering.contract.folder import ModelFolder, open_folder
from lowering.contract.pictures import Picture
from lowering.core_ai.asset import is_aimodel
from lowering.package.open import MAIN
from lowering.reporting.asset import AssetReport, collect_asset, refuse_for_asset
from lowering.reporting.collect import collect
from lowering.reporting.result import Report, ReportError
from lowering.reporting.write import FORMATS, format_of, written
from lowering.support.text_file import write_text
from passes.base import Pass


def report(
    package: str | Path | ModelFolder,
    model: nn.Module | ExportedProgram | ModelFolder | str | os.PathLike[str] | None = None,
    args: object = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: object = None,
    inputs: Mapping[str, Any] | None = None,
    known_passes: Sequence[type[Pass]] = (),
    chip: str = "M4",
    ablation: Ablation | None = None,
    ladder: Ladder | None = None,
    pictures: Sequence[Picture] = (),
    function: str = MAIN,
    output: str | Path | None = None,
    format: str | None = None,
) -> Report | AssetReport:
    """What there is to say of a package: placement and cost *predicted*, errors measured here.

    Args:
        package: path of a ``.mlpackage``; a contract's folder, which is converted first; or path of
            a Core AI ``.aimodel``: of that nothing is predicted, its errors are measured in
            Apple's own runtime, and neither ``chip`` nor what follows it applies.
        model: the module or program it was made from, or the folder of its contract; of a folder
            its own by default; without it nothing is run, and the report says nothing of errors.
        args: positional example inputs of ``model``.
        kwargs: keyword example inputs of ``model``.
        dynamic_shapes: of ``model``, as for ``torch.export.export``.
        inputs: arrays by the names of the model's inputs, in place of the example inputs.
        known_passes: classes of your own passes that the package may name.
        chip: to plan for, such as ``"A17 Pro"``.
        ablation: what :func:`lowering.ablate` found of the same model.
        ladder: what :func:`lowering.ladder` found of the same package.
        pictures: files, folders of them, or images of PIL, of a folder's model; the page shows
            what torch and the package make of each, side by side.
        function: of a package with several, the default one where none is named.
        output: file to write, whole or not at all.
        format: ``html``, ``md``, ``csv``, ``json`` or ``graph-json``; by default what the suffix
            of ``output`` says, else ``html``.

    Raises:
        PackageError: there is no ML Program in ``package``.
        UnknownChipError: the chip is not known.
        VerificationError, CaptureError: ``model`` is not what the package was made from.
        ContractError: nor the folder.
        PictureError: a picture cannot be read.
        CoreAIError: Core AI is not installed, or it cannot read the asset.
        ReportError: the format is not known, pictures are given without a folder, an asset is
            given what does not apply to it, or a page is asked for and its packages are missing.
        SaveError: ``output`` cannot be written.
    """
    chosen = format or format_of(output)
    if chosen not in FORMATS:
        raise ReportError(
            "a report has no such format", expected=", ".join(FORMATS), found=repr(chosen)
        )
    call: ModelCall | ModelFolder | None = None
    if isinstance(model, ModelFolder):
        call = model
    elif isinstance(model, str | os.PathLike):
        call = open_folder(model)
    elif model is not None:
        call = ModelCall(type(model).__name__, model, args, kwargs or {}, dynamic_shapes)
    made = collected(
        package,
        call,
        inputs=inputs,
        known_passes=known_passes,
        chip=chip,
        ablation=ablation,
        ladder=ladder,
        pictures=pictures,
        function=function,
    )
    if output is not None:
        write_text(written(made, chosen), Path(output))
    return made


def collected(
    package: str | Path | ModelFolder,
    call: ModelCall | ModelFolder | None,
    *,
    inputs: Mapping[str, Any] | None,
    known_passes: Sequence[type[Pass]],
    chip: str,
    ablation: Ablation | None,
    ladder: Ladder | None,
    pictures: Sequence[Picture],
    function: str,
) -> Report | AssetReport:
    """The data of a report, of a package or of a Core AI asset; see :func:`report`."""
    if not isinstance(package, ModelFolder) and is_aimodel(package):
        refuse_for_asset(ablation=ablation, ladder=ladder, pictures=pictures)
        return collect_asset(Path(package), call, inputs=inputs, known_passes=known_passes)
    return collect(
        package,
        call,
        inputs=inputs,
        known_passes=known_passes,
        chip=chip,
        ablation=ablation,
        ladder=ladder,
        pictures=pictures,
        function=function,
    )
