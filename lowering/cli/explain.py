"""``ane-passes explain``: what a rule of `check` or `plan` means."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape

from lowering.cli.common import guarded, json_option, print_json, stdout_console

HELP = """Explain a rule that `ane-passes check` or `ane-passes plan` has named.

Without RULE, all rules are listed. Placement rules are predictions; each says what it rests on.

\b
Examples:
  ane-passes explain
  ane-passes explain value-in-python
  ane-passes explain dtype.int32_tensor --json

Exit codes: 0 explained, 2 there is no such rule.
"""


@click.command("explain", help=HELP, short_help="Explain a rule of check or plan.")
@click.argument("rule", required=False)
@json_option
@guarded
def explain(rule: str | None, as_json: bool) -> None:
    """See ``HELP``."""
    from lowering.checking.explain import all_rules
    from lowering.checking.explain import explain as find

    if rule is None:
        rules = all_rules()
        if as_json:
            print_json([entry.to_json() for entry in rules])
        else:
            stdout_console().print(_list(rules))
        return
    found = find(rule)
    if as_json:
        print_json(found.to_json())
        return
    console = stdout_console()
    console.print(f"[bold]{escape(found.rule.id)}[/] · {found.rule.severity.label} · {found.kind}")
    console.print(escape(found.rule.cause))
    for label, text in (
        ("Example", found.rule.example),
        ("What is done", found.rule.automatic),
        ("What you can do", found.rule.remedy),
        ("Rests on", found.rule.evidence),
    ):
        if text:
            console.print(f"\n[bold]{label}[/]\n  {escape(text)}")


def _list(rules: Any) -> object:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("rule", "severity", "cause"):
        table.add_column(heading)
    for entry in rules:
        table.add_row(entry.rule.id, entry.rule.severity.label, escape(entry.rule.cause))
    return table
