"""``--sizes``: the sizes that a dynamic package takes."""

from __future__ import annotations

from typing import Any

import click

from lowering.cli.common import Command

_EXAMPLE = "tokens=64,128,256"


class _Sizes(click.ParamType):
    name = "sizes"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """``NAME=N,N,...`` as ``(name, [n, ...])``."""
        name, equals, numbers = str(value).partition("=")
        try:
            sizes = [int(number) for number in numbers.split(",")]
        except ValueError:
            sizes = []
        if not name or not equals or not sizes:
            self.fail(f"{value!r} is not of the form {_EXAMPLE}", param, ctx)
        return name, sizes


def sizes_option(function: Command) -> Command:
    """``--sizes``: may be given once for each dynamic size."""
    return click.option(
        "--sizes",
        type=_Sizes(),
        multiple=True,
        metavar="NAME=N,N,...",
        help="Sizes that a torch.export.Dim may have, by its name, such as "
        f"{_EXAMPLE}; otherwise any size in its range. Repeatable.",
    )(function)
