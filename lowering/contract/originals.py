"""What a package of a contract's folder is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from frontend.capturing import capture
from frontend.legalize import to_cpu_float32
from lowering.contract.composed import PlainTruth
from lowering.contract.folder import ModelFolder
from lowering.conversion.metadata import PIPELINE_KEY
from lowering.verification.original import Original
from passes.base import Pass
from passes.pipeline import run as run_passes
from passes.pipeline_text import from_json


def original_of(
    folder: ModelFolder, metadata: Mapping[str, str], known_passes: Sequence[type[Pass]] = ()
) -> Original:
    """What a package of ``folder`` is held against; its passes are those that ``metadata`` names.

    The program is the composed one after these passes; results are expected from plain torch.
    """
    example = folder.example()
    captured = capture(folder.composed(), kwargs=example, dynamic_shapes=folder.dynamic_shapes())
    steps = from_json(metadata.get(PIPELINE_KEY, "[]"), known_passes)
    program, reports = run_passes(captured, steps) if steps else (captured, ())
    return Original(
        to_cpu_float32(program),
        captured,
        PlainTruth(folder.program, folder.contract),
        steps,
        tuple(example.values()),
        reports,
        judges={} if folder.contract.task is None else folder.contract.task.judges(),
    )
