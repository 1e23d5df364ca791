"""Refreshes the parts of README.md that commands print.

    python -m benchmarks.readme [--only WORD] [--check]

A block stands between ``<!-- generated: COMMAND -->`` and ``<!-- end -->``; its body becomes what
COMMAND prints. COMMAND runs with this Python, or is ``ane-passes``; no shell reads it. It may also
be ``output of the block above``: the Python blocks run from the top, in one namespace.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

README = Path(__file__).parent.parent / "README.md"
# What a block's command may start with, and what is run in its place.
PROGRAMS: dict[str, list[str]] = {
    "python": [sys.executable],
    "ane-passes": [str(Path(sys.executable).with_name("ane-passes"))],
}
ABOVE = "output of the block above"
_PYTHON = re.compile(r"^```python\n(?P<code>.*?)^```$", re.S | re.M)
_BLOCK = re.compile(
    r"(?P<open><!-- generated: (?P<command>.+?) -->\n)(?P<body>.*?)(?P<close><!-- end -->)", re.S
)


@dataclass(frozen=True)
class Block:
    """One generated part of a text.

    Attributes:
        command: what prints it.
        body: what stands there now, fences included.
    """

    command: str
    body: str


def blocks(text: str) -> list[Block]:
    """The generated parts of ``text``, in order."""
    return [Block(match["command"], match["body"]) for match in _BLOCK.finditer(text)]


def without_blocks(text: str) -> str:
    """``text`` as a person wrote it."""
    return _BLOCK.sub("", text)


def refreshed(text: str, output: Callable[[str], str], only: str = "") -> str:
    """``text`` with the body of each block made anew.

    Args:
        text: the whole file.
        output: gives what a command prints.
        only: leave blocks alone whose command does not contain this.
    """
    printed: list[tuple[int, str]] = []

    def fresh(match: re.Match[str]) -> str:
        if only not in match["command"]:
            return match[0]
        if match["command"] != ABOVE:
            return match["open"] + fenced(output(match["command"])) + match["close"]
        printed[:] = printed or run_python(text)
        above = [out for end, out in printed if end <= match.start()]
        return match["open"] + fenced(above[-1]) + match["close"]

    return _BLOCK.sub(fresh, text)


def fenced(output: str) -> str:
    """The body of a block that shows ``output``."""
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    return "\n".join(["```text", *lines, "```", ""])


def run_python(text: str) -> list[tuple[int, str]]:
    """Runs the Python blocks of ``text``: where each ends, and what it printed.

    They share a namespace and run in an empty folder.

    Raises:
        Whatever a block raises.
    """
    namespace: dict[str, object] = {"__name__": "readme"}
    printed = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for match in _PYTHON.finditer(text):
            # Padding keeps the line numbers of tracebacks those of the file.
            code = "\n" * text.count("\n", 0, match.start("code")) + match["code"]
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                exec(compile(code, str(README), "exec"), namespace)
            printed.append((match.end(), stdout.getvalue()))
    return printed


def run(command: str) -> str:
    """What ``command`` prints on stdout; its stderr goes to ours.

    Raises:
        click.ClickException: the command is none of ``PROGRAMS``, or it failed.
    """
    program, *arguments = shlex.split(command)
    if program not in PROGRAMS:
        raise click.ClickException(f"{command!r} starts with none of {', '.join(PROGRAMS)}")
    click.echo(f"$ {command}", err=True)
    result = subprocess.run(
        [*PROGRAMS[program], *arguments], stdout=subprocess.PIPE, text=True, cwd=README.parent
    )
    # A missed target is a result as well, and is printed; anything else is a broken command.
    if result.returncode not in (0, 1) or not result.stdout.strip():
        raise click.ClickException(f"{command!r} ended with exit code {result.returncode}")
    return result.stdout


@click.command(help=__doc__)
@click.option("--only", default="", help="Only blocks whose command contains this.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a block is out of date.")
def main(only: str, check: bool) -> None:
    """See the module."""
    text = README.read_text()
    fresh = refreshed(text, run, only)
    if check and fresh != text:
        raise SystemExit(1)
    if not check:
        README.write_text(fresh)


if __name__ == "__main__":
    main()
