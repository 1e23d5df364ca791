"""``ane-passes completion``: verbs and options on the Tab key."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

HELP = """Print the script that completes verbs and options in a shell.

\b
Examples:
  eval "$(ane-passes completion bash)"                    # in ~/.bashrc
  eval "$(ane-passes completion zsh)"                     # in ~/.zshrc, after compinit
  ane-passes completion fish > ~/.config/fish/completions/ane-passes.fish

Exit codes: 0 printed, 2 there is no such shell.
"""
_PROGRAM = "ane-passes"
# How click knows that a shell is asking; the script sets it.
_VARIABLE = "_ANE_PASSES_COMPLETE"


@click.command("completion", help=HELP, short_help="Print the script for a shell's Tab key.")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """See ``HELP``."""
    found = get_completion_class(shell)
    assert found is not None  # the three that click has
    script = found(context.find_root().command, {}, _PROGRAM, _VARIABLE)
    # `source_vars` and the template are what click's own way prints; that one first asks bash for
    # its version, and fails where no bash is installed.
    click.echo(script.source_template % script.source_vars())
