"""The passes as the verbs run them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from frontend.errors import AnePassesError
from lowering.cli.common import Command, step
from lowering.cli.load_composites import composites_digest, load_composites
from lowering.cli.load_model import Target


class PipelineFileError(AnePassesError):
    """``--pipeline`` cannot be used."""


def attention_option(function: Command) -> Command:
    """``--attention``: the form that attention takes."""
    return click.option(
        "--attention",
        type=click.Choice(("split", "batched", "native")),
        help="Form of attention: one softmax per head (split), all heads in 4-D ops (batched), or "
        "Core ML's own operator (native, iOS18). Default: that of the default pipeline.",
    )(function)


def pipeline_option(function: Command) -> Command:
    """``--pipeline``: passes that ``tune`` chose."""
    return click.option(
        "--pipeline",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE.json",
        help="Passes to run instead of the default ones, as `tune -o FILE.json` writes them.",
    )(function)


def write_pipeline(pipeline: Sequence[Any], path: Path) -> Path:
    """A file for ``--pipeline``: the passes as text.

    Raises:
        SaveError: it cannot be written.
    """
    from lowering.support.text_file import write_text

    passes = [repr(entry) for entry in pipeline]
    return write_text(json.dumps({"pipeline": passes}, indent=1) + "\n", path)


def read_pipeline(path: Path) -> tuple[Any, ...]:
    """The passes that ``write_pipeline`` wrote.

    Raises:
        PipelineFileError: the file holds something else.
        VerificationError: it names a pass that is not known.
    """
    from lowering.conversion.metadata import PREFIX
    from lowering.verification.original import passes_named

    try:
        spelled = json.loads(path.read_text(encoding="utf-8"))["pipeline"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineFileError(
            "this is no list of passes",
            expected="what `ane-passes tune -o FILE.json` writes",
            found=f"{path}: {type(error).__name__}: {error}",
        ) from error
    return passes_named({PREFIX + "pipeline": json.dumps(spelled)})


def composites_option(function: Command) -> Command:
    """``--composites``: lowerings of the model's custom operators."""
    return click.option(
        "--composites",
        metavar="WHERE",
        help="Lowerings of custom operators: file.py or module for all that are in it, "
        "file.py:name or module:name for one or a list of them.",
    )(function)


def composite_arguments(where: str | None) -> dict[str, Any]:
    """``composites`` and ``composites_digest`` as ``ablate`` takes them; nothing for ``None``."""
    if where is None:
        return {}
    load = functools.partial(load_composites, where)
    return {"composites": load, "composites_digest": composites_digest(load())}


def chosen_passes(attention: str | None, pipeline: Path | None = None) -> tuple[Any, ...]:
    """The passes of ``--pipeline``, or the default ones with ``--attention``.

    Raises:
        PipelineFileError: both are given, or the file cannot be read.
    """
    import passes

    if pipeline is None:
        options: dict[str, Any] = {} if attention is None else {"attention": attention}
        return passes.default_pipeline(**options)
    if attention is not None:
        raise PipelineFileError(
            "A pipeline says the form of attention already",
            found=f"--pipeline {pipeline} --attention {attention}",
            hint="leave one of them out",
        )
    return read_pipeline(pipeline)


def optimized(target: Target, attention: str | None, pipeline: Path | None = None) -> Any:
    """The OptimizedModel of ``target``; see ``chosen_passes``."""
    with step("Optimizing for the Neural Engine"):
        import passes

        return passes.optimize_for_ane(
            target.model,
            target.args,
            kwargs=target.kwargs,
            dynamic_shapes=target.dynamic_shapes,
            pipeline=chosen_passes(attention, pipeline),
        )
