"""The ``ane-passes`` command: one file per verb."""

from __future__ import annotations

import click

from lowering.cli.ablate import ablate
from lowering.cli.check import check
from lowering.cli.compare import compare
from lowering.cli.convert import convert
from lowering.cli.explain import explain
from lowering.cli.optimize import optimize
from lowering.cli.plan import plan
from lowering.cli.predict import predict
from lowering.cli.report import report
from lowering.cli.tune import tune
from lowering.cli.verify import verify

# Each verb is a click command in a file of its own, named here in the order `--help` shows.
COMMANDS: tuple[click.Command, ...] = (
    check,
    optimize,
    convert,
    predict,
    verify,
    plan,
    ablate,
    tune,
    compare,
    report,
    explain,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ane-passes")
def main() -> None:
    """Turn PyTorch models into Core ML packages shaped for the Apple Neural Engine."""


for _command in COMMANDS:
    main.add_command(_command)
