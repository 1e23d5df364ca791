"""``lowering.export``: a model becomes a folder with a contract."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from frontend.capturing import capture
from lowering.contract.composed import Composed, example_of
from lowering.contract.contract import (
    PRECISIONS,
    TARGETS,
    Acceptance,
    InputSpec,
    ModelContract,
    OutputSpec,
    ProgramFile,
)
from lowering.contract.errors import ContractError
from lowering.contract.folder import (
    sha256_of,
    signature_of_program,
    states_of,
)
from lowering.contract.image import Image
from lowering.contract.names import CONTRACT, PROGRAM
from lowering.contract.reading import contract_of
from lowering.contract.size_spec import sizes_of
from lowering.contract.sound import Sound
from lowering.contract.tasks.base import OutputTask, Wanted
from lowering.contract.weights import weight_problems
from lowering.errors import SaveError
from lowering.support.staging import put, reason, staged, standing


def export(
    model: nn.Module | ExportedProgram,
    example_inputs: object,
    folder: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Image | Sound] | None = None,
    task: OutputTask | None = None,
    dynamic_shapes: object = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    name: str | None = None,
    target: str = "iOS17",
    precision: str = "float16",
    accept: Acceptance | None = None,
    meanings: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a folder that says all there is to know about a model: program and contract.

    ``lowering.convert``, ``verify``, ``predict``, ``plan`` and ``report`` take the folder.

    Args:
        model: a module or an exported program.
        example_inputs: positional inputs, as for ``capture``.
        folder: where to write; its parent must be there.
        kwargs: keyword inputs.
        inputs: the inputs that take pictures or sounds, by name.
        task: what is done with the outputs.
        dynamic_shapes: sizes that vary, as for ``torch.export.export``.
        sizes: those that a package takes, by the name of each ``Dim``, such as
            ``{"tokens": [64, 128]}``; the example inputs have one of them.
        name: of the model; the folder's by default.
        target: minimum deployment target.
        precision: ``float16``, ``float32``, or ``safe``: float16 but for the fewest operators that
            it would spoil, which each conversion finds.
        accept: when a package is good enough.
        meanings: of outputs, by name, for a model without a task.
        overwrite: replace a folder of this kind that stands there.

    Returns:
        The absolute path of the folder.

    Raises:
        ContractError: what is asked for does not fit the model; all problems at once.
        CaptureError: the model cannot be captured.
        SaveError: the folder cannot be written. Nothing half-written is left in any case.
    """
    place = _place(folder, overwrite)
    program = capture(model, example_inputs, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
    varying, size_faults = sizes_of(program, sizes or {})
    taken, returned = signature_of_program(program)
    forms = dict(inputs or {})
    problems = [
        f"inputs: the model has no input {key!r}, only {', '.join(entry.name for entry in taken)}"
        for key in forms.keys() - {entry.name for entry in taken}
    ]
    taken = tuple(_formed(entry, forms.get(entry.name)) for entry in taken)
    for entry in taken:
        problems += _form_problems(entry, forms.get(entry.name))
    problems += size_faults + weight_problems(program)
    if task is not None:
        shapes = {entry.name: entry.shape for entry in returned}
        wanted = Wanted(shapes, {entry.name: entry.shape for entry in taken})
        task = task.fitted(wanted)
        problems += [f"task: {problem}" for problem in task.problems(wanted)]
    for what, given, known in (("target", target, TARGETS), ("precision", precision, PRECISIONS)):
        if given not in known:
            problems.append(f"{what}: is {given!r}, not one of {', '.join(known)}")
    if task is not None and meanings:
        problems.append("meanings: are the task's where there is one")
    unknown = set(meanings or {}) - {entry.name for entry in returned}
    if unknown and task is None:
        problems.append(f"meanings: the model has no output {', '.join(sorted(unknown))}")
    if problems:
        raise ContractError("the model cannot be exported so", problems)
    contract = ModelContract(
        name=name or re.sub(r"[^A-Za-z0-9_.-]", "_", place.name),
        program=ProgramFile(PROGRAM, "0" * 64, metadata.version("torch")),
        inputs=taken,
        outputs=tuple(
            replace(entry, meaning=(meanings or {}).get(entry.name, "")) for entry in returned
        ),
        states=states_of(program),
        task=task,
        target=target,
        precision=precision,
        accept=accept,
        made_with={name: metadata.version(name) for name in ("ane-passes", "coremltools", "torch")},
        sizes=varying,
    )
    if task is not None:
        contract = replace(contract, outputs=_task_outputs(program, contract))
    return _written(place, program, contract)


def _formed(entry: InputSpec, form: Image | Sound | None) -> InputSpec:
    """With what becomes this input."""
    if isinstance(form, Sound):
        return replace(entry, sound=form)
    return replace(entry, image=form)


def _form_problems(entry: InputSpec, form: Image | Sound | None) -> list[str]:
    if form is None:
        return []
    what = "sound" if isinstance(form, Sound) else "picture"
    found = []
    if not (entry.takes_image and entry.takes_sound):
        found.append(
            f"inputs.{entry.name}: a {what} makes {list(form.shape)}, and the model takes "
            f"{list(entry.shape)}"
        )
    if not entry.dtype.startswith("float"):
        found.append(f"inputs.{entry.name}: {what}s make floats, and it is {entry.dtype}")
    return found


def _task_outputs(program: ExportedProgram, contract: ModelContract) -> tuple[OutputSpec, ...]:
    assert contract.task is not None
    meanings = contract.task.meanings()
    with torch.no_grad():
        made = Composed(program, contract)(**example_of(program, contract))
    return tuple(
        OutputSpec(
            name, tuple(value.shape), str(value.dtype).removeprefix("torch."), meanings[name]
        )
        for name, value in made.items()
    )


def _place(folder: str | os.PathLike[str], overwrite: bool) -> Path:
    place = Path(folder).expanduser().absolute()
    if place.suffix == ".mlpackage":
        raise SaveError(
            "an export is a folder of its own, no package",
            found=str(place),
            hint="give another name, and convert the folder then",
        )
    if not place.parent.is_dir():
        raise SaveError("the output folder's parent does not exist", found=str(place.parent))
    if standing(place) and not (place / CONTRACT).is_file():
        raise SaveError("something that is no export stands there; left alone", found=str(place))
    if place.exists() and not overwrite:
        raise SaveError(
            "an export stands there already",
            found=str(place),
            hint="overwrite=True, or --overwrite",
        )
    return place


def _written(place: Path, program: ExportedProgram, contract: ModelContract) -> Path:
    try:
        with staged(place) as around:
            fresh = around / "export"
            fresh.mkdir()
            torch.export.save(program, fresh / PROGRAM)
            file = replace(contract.program, sha256=sha256_of(fresh / PROGRAM))
            text = replace(contract, program=file).to_text()
            contract_of(text, CONTRACT)  # what is written can be read
            (fresh / CONTRACT).write_text(text, encoding="utf-8")
            put(fresh, place)
    except OSError as error:
        raise SaveError(
            f"the export could not be written: {reason(error)}", found=str(place)
        ) from error
    return place
