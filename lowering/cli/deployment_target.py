"""``--target`` of every verb that converts: the oldest system that must run the package."""

from __future__ import annotations

from collections.abc import Callable

import click

from lowering.cli.common import Command

TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26")


def deployment_target_option(remark: str = "") -> Callable[[Command], Command]:
    """The option; ``remark`` continues its help."""
    return click.option(
        "--target",
        "deployment_target",
        type=click.Choice(TARGETS, case_sensitive=False),
        default="iOS17",
        show_default=True,
        help=f"Oldest system that must run the package{remark}.",
    )
