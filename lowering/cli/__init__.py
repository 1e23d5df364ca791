"""The ``ane-passes`` command: one file per verb."""

from __future__ import annotations

import signal

import click

from lowering.cli.ablate import ablate
from lowering.cli.check import check
from lowering.cli.compare import compare
from lowering.cli.completion import completion
from lowering.cli.compress import compress
from lowering.cli.convert import convert
from lowering.cli.explain import explain
from lowering.cli.export import export
from lowering.cli.export_llm import export_llm
from lowering.cli.generate import generate
from lowering.cli.optimize import optimize
from lowering.cli.plan import plan
from lowering.cli.predict import predict
from lowering.cli.ranges import ranges
from lowering.cli.report import report
from lowering.cli.tune import tune
from lowering.cli.verify import verify

# Each verb is a click command in a file of its own, named here in the order `--help` shows.
COMMANDS: tuple[click.Command, ...] = (
    check,
    ranges,
    optimize,
    convert,
    predict,
    verify,
    plan,
    ablate,
    tune,
    compare,
    compress,
    report,
    export,
    export_llm,
    generate,
    explain,
    completion,
)


# What a shell reports of a command that was interrupted: 128 and the number of the signal.
EXIT_INTERRUPTED = 128 + signal.SIGINT


class _InOrder(click.Group):
    """Lists its commands as they were added; click sorts them by name. Ctrl-C ends with 130."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ane-passes")
def main() -> None:
    """Turn PyTorch models into Core ML packages shaped for the Apple Neural Engine.

    Every verb has --help, and --json for scripts. What concerns the Neural Engine is predicted;
    the rest is measured here.

    \b
    Exit codes:
      0  done
      1  a check failed: the package differs, an obstacle was found, a value overflowed
      2  the model, a file or the call needs attention; the message says what
      130  interrupted

    For completion on the Tab key see `ane-passes completion --help`.
    """


for _command in COMMANDS:
    main.add_command(_command)
