"""The command line as a whole: its help, exit codes, completion, and what users get wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lowering.cli import COMMANDS, main

NAMES = [command.name for command in COMMANDS]
PROGRAM = Path(sys.executable).with_name("ane-passes")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_lists_the_verbs_in_order_and_uncut():
    text = run("--help").output
    listed = re.findall(r"^  ([\w-]+) +(.*)$", text.split("Commands:")[1], re.MULTILINE)
    assert [name for name, _ in listed] == NAMES
    assert all(short.endswith(".") and "..." not in short for _, short in listed)
    assert "Exit codes" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_documents_its_exit_codes(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Exit codes: 0 " in result.output and "Examples:" in result.output


@pytest.mark.parametrize("name", [name for name in NAMES if name != "completion"])
def test_every_verb_has_json(name):
    assert "--json" in run(name, "--help").output


# Arguments that lead nowhere, for each verb.
WRONG = {
    "check": ["missing.py:model"],
    "ranges": ["missing.py:model"],
    "optimize": ["missing.py:model"],
    "convert": ["missing.py:model", "-o", "out.mlpackage"],
    "predict": ["missing.mlpackage"],
    "verify": ["missing.mlpackage", "missing.py:model"],
    "plan": ["missing.mlpackage"],
    "ablate": ["missing.py:model"],
    "tune": ["missing.py:model"],
    "compare": ["missing.mlpackage", "missing.mlpackage"],
    "report": ["missing.mlpackage"],
    "compress": ["missing.mlpackage", "--rung", "int8", "-o", "out.mlpackage"],
    "export": ["missing.py:model", "-o", "out"],
    "export-llm": ["missing.py:model", "-o", "out.mlpackage", "--context", "64"],
    "generate": ["missing.mlpackage", "--ids", "1"],
    "explain": ["no-such-rule"],
    "completion": ["powershell"],
}


@pytest.mark.parametrize("name", NAMES)
def test_user_errors_are_one_message(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(name, *WRONG[name])
    assert result.exit_code == 2, result.output
    assert "Error" in result.output and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("explain", "completion")])
def test_a_package_that_is_none(name, tmp_path, monkeypatch):
    """Files of the right name with the wrong content."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.mlpackage").mkdir()
    (tmp_path / "bad.pt2").write_bytes(b"no archive")
    given = [re.sub(r"missing\.mlpackage", "bad.mlpackage", text) for text in WRONG[name]]
    given = [text.replace("missing.py:model", "bad.pt2") for text in given]
    result = run(name, *given)
    assert result.exit_code == 2, result.output
    assert "Error" in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_ANE_PASSES_COMPLETE={shell}_complete" in result.output
    assert "ane-passes" in result.output and "%(" not in result.output


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [("ane-passes re", {"report"}), ("ane-passes report --fo", {"--format"})],
)
def test_bash_completes(words, expected):
    """The function that the script defines, called as bash calls it."""
    script = f"""
        eval "$(ane-passes completion bash)"
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _ane_passes_completion ane-passes
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize("verb", ["explain", "check", "plan"])
def test_an_interrupted_command_ends_as_shells_expect(verb, monkeypatch):
    from click.testing import CliRunner

    from lowering.cli import EXIT_INTERRUPTED, main

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[verb], "callback", interrupted)
    given = {"explain": (), "check": ("m.py:f",), "plan": ("a.mlpackage",)}[verb]
    result = CliRunner().invoke(main, [verb, *given])
    assert result.exit_code == EXIT_INTERRUPTED == 130
    assert "Interrupted" in result.output and "Traceback" not in result.output
