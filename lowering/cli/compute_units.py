"""``--compute-units``: what Core ML may use, spelled alike by every verb."""

from __future__ import annotations

from collections.abc import Callable

import click

from lowering.cli.common import Command

UNITS = ("all", "cpu-and-ne", "cpu-and-gpu", "cpu-only")


class _Units(click.Choice[str]):
    """Takes coremltools' spelling, ``CPU_AND_NE``, as well."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(str(value).lower().replace("_", "-"), param, ctx)


def compute_units_option(help_text: str) -> Callable[[Command], Command]:
    """The option, by default ``cpu-and-ne``."""
    return click.option(
        "--compute-units", type=_Units(UNITS), default="cpu-and-ne", show_default=True,
        help=help_text,
    )  # fmt: skip


def constant_name(units: str) -> str:
    """The name of coremltools' constant, such as ``CPU_AND_NE``."""
    return units.upper().replace("-", "_")
