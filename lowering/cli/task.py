"""``--task`` and what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowering.cli.common import Command

if TYPE_CHECKING:
    from lowering.contract.tasks.base import OutputTask

# The names of the kinds, so that --help needs no imports; a test holds them to the tasks.
KINDS = ("classify", "embed", "detect", "segment", "speech")


def task_options(function: Command) -> Command:
    """What is done with the model's outputs."""
    for option in reversed(
        (
            click.option("--task", "task_kind", type=click.Choice(KINDS), help="What it is for."),
            click.option(
                "--labels",
                "task_labels",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="A text file with one label a line, in the order of the scores.",
            ),
            click.option("--top-k", "task_top_k", type=int, help="How many of the best beside."),
            click.option(
                "--activation",
                "task_activation",
                type=click.Choice(("softmax", "sigmoid", "none")),
                help="What makes probabilities of the scores; softmax by default.",
            ),
            click.option("--iou", "task_iou", type=float, help="Overlap from which boxes go."),
            click.option("--confidence", "task_confidence", type=float, help="Of a box, at least."),
            click.option("--limit", "task_limit", type=int, help="Boxes at most."),
            click.option(
                "--boxes",
                "task_layout",
                type=click.Choice(("yolov8", "end2end", "detr")),
                help="How the model writes its boxes; yolov8 by default.",
            ),
            click.option(
                "--normalize/--no-normalize",
                "task_normalize",
                default=None,
                help="Whether an embedding has length one; it has by default.",
            ),
            click.option(
                "--pool",
                "task_pool",
                type=click.Choice(("none", "mean", "first")),
                help="How tokens become one embedding.",
            ),
            click.option("--mask", "task_mask", help="The input with the mask, of --pool mean."),
            click.option(
                "--speech",
                "task_speech",
                type=click.Choice(("ctc", "encoder")),
                help="Whether a speech model returns scores of letters, ctc, or vectors.",
            ),
            click.option(
                "--blank", "task_blank", type=int, help="The label for nothing, a number."
            ),
            click.option("--task-output", help="The model's output that the task is about."),
        )
    ):
        function = option(function)
    return function


def task_of(given: Mapping[str, Any]) -> OutputTask | None:
    """The task that options ask for; ``None`` without ``--task``.

    Raises:
        ContractError: the labels cannot be read.
    """
    from lowering.contract.tasks import TASKS

    values = {key.removeprefix("task_"): value for key, value in given.items() if value is not None}
    kind = values.pop("kind", None)
    if kind is None:
        alone = sorted(set(values) - {"top_k"})
        if alone:
            raise click.UsageError(f"{_option(alone[0])} is of a task: give --task too.")
        return None
    if "labels" in values:
        values["labels"] = read_labels(values["labels"])
    if kind == "speech" and "speech" in values:
        values["layout"] = values.pop("speech")
    task = TASKS[kind]
    known = {entry.name for entry in fields(task)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise click.UsageError(f"--task {kind} knows no {_option(unknown[0])}.")
    missing = "labels" in known and "labels" not in values and values.get("layout") != "encoder"
    if missing:
        raise click.UsageError(f"--task {kind} needs --labels FILE.")
    return task(**values)


def _option(name: str) -> str:
    """How a field of a task is spelled on the command line."""
    spelled = {"layout": "boxes", "output": "task-output"}.get(name, name)
    return f"--{spelled.replace('_', '-')}"


def read_labels(file: Path) -> tuple[str, ...]:
    """The lines of ``file``; empty ones at its end are no labels.

    Raises:
        ContractError: it is no text.
    """
    from lowering.contract.errors import ContractError

    try:
        return tuple(file.read_text(encoding="utf-8").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError("the labels cannot be read", found=f"{file}: {error}") from error
