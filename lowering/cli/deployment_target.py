"""``--deployment-target``: the oldest system that must run the package."""

from __future__ import annotations

from collections.abc import Callable

import click

from lowering.cli.common import Command
from lowering.cli.renamed import or_old, renamed_option

TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26")


def deployment_target_option(remark: str = "") -> Callable[[Command], Command]:
    """The option; ``remark`` continues its help."""
    option = click.option(
        "--deployment-target",
        type=click.Choice(TARGETS, case_sensitive=False),
        default="iOS17",
        show_default=True,
        callback=or_old,
        help=f"Oldest system that must run the package{remark}.",
    )
    old = renamed_option("--target", "--deployment-target")
    return lambda command: option(old(command))
