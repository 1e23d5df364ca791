"""What every verb shares: errors, JSON, progress, the console."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from rich.console import Console

from frontend.errors import AnePassesError
from lowering.support.quiet import quiet_third_parties

EXIT_CHECK_FAILED = 1
EXIT_USER_ERROR = 2
# What `lowering.package.open` takes for the default function; imported, it would load protobuf.
MAIN = "main"

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(function: Command) -> Command:
    """``--json``: one JSON document on stdout and nothing else there."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON on stdout, for scripts."
    )(function)


def function_option(function: Command) -> Command:
    """``--function``: of a package with several."""
    return click.option(
        "--function",
        default=MAIN,
        help="Of a package with several; the default one where none is named.",
    )(function)


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an :class:`AnePassesError` into a message (or JSON) and exit code 2.

    The command takes ``as_json``, see :func:`json_option`.
    """

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> Any:
        quiet_third_parties()
        try:
            return function(*args, **kwargs)
        except AnePassesError as error:
            _complete(error, kwargs)
            if kwargs.get("as_json"):
                print_json(error.to_json())
            else:
                # Plain text: a message may hold brackets that rich would read as markup.
                click.echo(f"Error: {error}", err=True)
            sys.exit(EXIT_USER_ERROR)

    return run


def refuse_given(options: Sequence[str], why: str) -> None:
    """End the command if one of these parameters was given on the command line.

    Args:
        options: names of parameters, such as ``deployment_target``.
        why: a sentence without full stop; what to leave out is added.
    """
    context = click.get_current_context()
    for option in context.command.params:
        if option.name not in options:
            continue
        source = context.get_parameter_source(option.name)
        if source is not None and source is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{why}: leave out {option.opts[0]}.")


# Arguments of verbs that name what a command is about.
_SUBJECTS = ("package", "model_spec", "first", "second")


def _complete(error: AnePassesError, arguments: Mapping[str, object]) -> None:
    """Let ``error`` say what the command was given and where to read on, where it does not."""
    text = str(error)
    given = [str(arguments[name]) for name in _SUBJECTS if arguments.get(name)]
    if not any(PurePath(one.partition(":")[0]).name in text for one in given):
        error.details["file"] = ", ".join(given) or None
    if "next step:" not in text:
        command = click.get_current_context().command_path
        error.details["next step"] = f"`{command} --help` says what it takes"


def print_json(value: object) -> None:
    """``value`` on stdout; what JSON does not know is written as text."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def stdout_console() -> Console:
    """For tables. Written to a pipe, lines are not cut to a terminal's width."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


@contextmanager
def step(description: str) -> Iterator[None]:
    """A spinner on stderr while the block runs; silent where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(description):
        yield
