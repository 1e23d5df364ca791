"""Options under their old names: hidden, accepted for one release, with a warning."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.core import ParameterSource

from lowering.cli.common import Command


def renamed_option(old: str, new: str) -> Callable[[Command], Command]:
    """Accepts ``old`` for the option ``new``, whose callback must be :func:`or_old`."""

    def remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            click.echo(f"warning: {old} is called {new} now; the old name goes soon", err=True)
            ctx.meta[new] = value

    dest = "old_" + old.lstrip("-").replace("-", "_")
    return click.option(
        old, dest, hidden=True, is_eager=True, expose_value=False, callback=remember
    )


def or_old(ctx: click.Context, option: click.Parameter, value: str) -> str:
    """The value given under the old name, where one was."""
    for name in option.opts:
        if name in ctx.meta:
            if option.name is not None:
                ctx.set_parameter_source(option.name, ParameterSource.COMMANDLINE)
            found: str = option.type.convert(ctx.meta[name], option, ctx)
            return found
    return value
