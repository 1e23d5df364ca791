"""The passes as the verbs run them."""

from __future__ import annotations

import functools
from typing import Any

import click

from lowering.cli.common import Command, step
from lowering.cli.load_composites import composites_digest, load_composites
from lowering.cli.load_model import Target


def attention_option(function: Command) -> Command:
    """``--attention``: the form that attention takes."""
    return click.option(
        "--attention",
        type=click.Choice(("split", "batched", "native")),
        help="Form of attention: one softmax per head (split), all heads in 4-D ops (batched), or "
        "Core ML's own operator (native, iOS18). Default: that of the default pipeline.",
    )(function)


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


def optimized(target: Target, attention: str | None) -> Any:
    """The OptimizedModel of ``target`` under the default pipeline."""
    with step("Optimizing for the Neural Engine"):
        import passes

        options: dict[str, Any] = {} if attention is None else {"attention": attention}
        return passes.optimize_for_ane(
            target.model,
            target.args,
            kwargs=target.kwargs,
            pipeline=passes.default_pipeline(**options),
        )
