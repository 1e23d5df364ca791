"""Gathers what a report says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frontend.json_text import parse
from frontend.model_call import ModelCall
from lowering.ablation.result import Ablation
from lowering.compression.ladder_result import Ladder
from lowering.contract.folder import ModelFolder, is_model_folder, open_folder
from lowering.contract.packaged import packaged
from lowering.contract.pictures import Picture
from lowering.contract.verifying import original_of, verify_folder
from lowering.package.folder import stored_bytes
from lowering.package.metadata_entry import PREFIX, reading
from lowering.package.open import MAIN
from lowering.planner.mil import ProgramOp, read_program
from lowering.planner.placement import plan
from lowering.reference import load
from lowering.reporting.accuracy import Accuracy, error_growth
from lowering.reporting.block import repeated_block
from lowering.reporting.result import PackageFacts, PassCount, Report, ReportError
from lowering.verification import Original, Verification, verify
from passes.base import Pass
from passes.pipeline import PassReport


def collect(
    package: str | Path | ModelFolder,
    call: ModelCall | ModelFolder | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    known_passes: Sequence[type[Pass]] = (),
    chip: str = "M4",
    ablation: Ablation | None = None,
    ladder: Ladder | None = None,
    pictures: Sequence[Picture] = (),
    function: str = MAIN,
) -> Report:
    """Everything there is to say of a package. Works on any OS.

    Args:
        package: path of a ``.mlpackage``, or a contract's folder, which is converted first.
        call: the model it was made from, or its contract's folder; of a folder its own by
            default; without it nothing is run, and the report says nothing of errors.
        inputs, known_passes, chip, ablation, ladder, pictures, function: as for
            :func:`lowering.report`.

    Raises:
        PackageError: there is no ML Program in ``package``.
        UnknownChipError: the chip is not known.
        VerificationError, CaptureError: ``call`` is not what the package was made from.
        ContractError, PictureError: nor the folder, or a picture cannot be used.
    """
    if not isinstance(package, ModelFolder) and is_model_folder(package):
        package = open_folder(package)
    if isinstance(package, ModelFolder):
        with packaged(package) as made_path:
            return collect(
                made_path,
                package if call is None else call,
                inputs=inputs,
                known_passes=known_passes,
                chip=chip,
                ablation=ablation,
                ladder=ladder,
                pictures=pictures,
                function=function,
            )
    path = Path(package).expanduser()
    program = read_program(path, function_name=function)
    made = plan(program, chip=chip)
    original = accuracy = None
    if pictures and not isinstance(call, ModelFolder):
        raise ReportError(
            "pictures need the model's contract, which says what is made of them",
            expected="a folder that `ane-passes export` wrote",
            found="no model" if call is None else call.name,
            hint="export the model, and give its folder",
        )
    if call is not None:
        original = original_for(call, program.metadata, known_passes, inputs)
        found = (
            verify_folder(path, call, pictures=pictures, known_passes=known_passes, inputs=inputs)
            if isinstance(call, ModelFolder)
            else verify(path, original, function=function)
        )
        accuracy = _accuracy(path, original, program.ops, found, function)
    return Report(
        package=PackageFacts(
            path.name,
            stored_bytes(path),
            _versions(program.metadata),
            passes_of_package(program.metadata, () if original is None else original.reports),
        ),
        plan=made,
        edges=_edges(program.ops),
        input_shapes=tuple(
            tuple(tensor.shape for tensor in op.facts.runtime) for op in program.ops
        ),
        block=repeated_block(made, program.ops, original),
        accuracy=accuracy,
        ablation=ablation,
        ladder=ladder,
    )


def original_for(
    call: ModelCall | ModelFolder,
    metadata: Mapping[str, str],
    known_passes: Sequence[type[Pass]],
    inputs: Mapping[str, Any] | None,
) -> Original:
    """What a package with this ``metadata`` is held against, ``inputs`` in their place."""
    if isinstance(call, ModelFolder):
        original = original_of(call, metadata, known_passes)
    else:
        original = Original.of(
            call.model,
            call.args,
            call.kwargs,
            metadata=metadata,
            known_passes=known_passes,
            dynamic_shapes=call.dynamic_shapes,
        )
    return original.with_inputs(inputs or {})


def _accuracy(
    path: Path, original: Original, ops: Sequence[ProgramOp], outputs: Verification, function: str
) -> Accuracy:
    if outputs.error is not None:
        return Accuracy(outputs, (), 0)
    positions = {name: index for index, op in enumerate(ops) for name in op.writes}
    return Accuracy(outputs, *error_growth(load(path, function=function), original, positions))


def _versions(metadata: Mapping[str, str]) -> dict[str, str]:
    keys = {"ane-passes": "version", "torch": "torch", "coremltools": "coremltools"}
    return {name: metadata[PREFIX + key] for name, key in keys.items() if PREFIX + key in metadata}


def passes_of_package(
    metadata: Mapping[str, str], reports: Sequence[PassReport]
) -> tuple[PassCount, ...]:
    """From repeated passes where there are any, else as the package counts them."""
    if reports:
        return tuple(
            PassCount(
                report.name,
                report.rewrites,
                len(report.declined),
                tuple(Counter(declined.reason for declined in report.declined).most_common()),
                report.notes,
            )
            for report in reports
        )
    key = PREFIX + "passes"
    with reading(key, "list of passes", 'JSON [{"name", "rewrites", "declined"}]'):
        counts = parse(metadata.get(key, "[]"))
        return tuple(PassCount(c["name"], c["rewrites"], c["declined"]) for c in counts)


def _edges(ops: Sequence[ProgramOp]) -> tuple[tuple[int, int], ...]:
    made_by = {name: index for index, op in enumerate(ops) for name in op.writes}
    found = {(made_by[r], i) for i, op in enumerate(ops) for r in op.reads if r in made_by}
    return tuple(sorted(found))
