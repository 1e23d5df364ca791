"""The passes as the verbs run them."""

from __future__ import annotations

from typing import Any

import click

from lowering.cli.common import Command, step
from lowering.cli.load_model import Target


def attention_option(function: Command) -> Command:
    """``--attention``: the form that attention takes."""
    return click.option(
        "--attention",
        type=click.Choice(("split", "batched", "native")),
        help="Form of attention: one softmax per head (split), all heads in 4-D ops (batched), or "
        "Core ML's own operator (native, iOS18). Default: that of the default pipeline.",
    )(function)


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
