"""A pass of the user: convert with it, verify, report and ablate on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lowering.cli import main

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

import passes

aten = torch.ops.aten


@dataclass(frozen=True)
class SigmoidByExp(passes.Pass):
    """Writes ``1 / (1 + exp(-x))`` as ``sigmoid(x)``."""

    name: ClassVar[str] = "sigmoid_by_exp"
    by_site: ClassVar[bool] = True

    def apply(self, rw):
        for node in rw.find(aten.reciprocal.default):
            plus = node.args[0]
            if plus.target is not aten.add.Tensor or plus.args[1] != 1:
                rw.decline(node, "no one is added before")
                continue
            power = plus.args[0]
            negative = power.args[0]
            with rw.at(node):
                rw.replace(node, rw.emit(aten.sigmoid.default, negative.args[0]))


class Swish(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(8, 8)

    def forward(self, x):
        y = self.inner(x)
        return y * (1 / (1 + torch.exp(-y)))


def swish():
    torch.manual_seed(0)
    return Swish().eval(), (torch.randn(2, 4, 8),)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ownpass.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_the_whole_way(folder: Path):
    own = ("--with-pass", "ownpass.py:SigmoidByExp")
    done = run("convert", "ownpass.py:swish", "-o", "swish.mlpackage", *own, "--json")
    assert done.exit_code == 0, done.output
    done = run("verify", "swish.mlpackage", "ownpass.py:swish", *own, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["passed"] is True
    done = run("report", "swish.mlpackage", "ownpass.py:swish", *own, "--format", "json")
    assert done.exit_code == 0, done.output
    assert "sigmoid_by_exp" in done.stdout
    done = run("ablate", "ownpass.py:swish", *own, "--passes", "sigmoid_by_exp", "--jobs", "1",
               "--cache", str(folder / "cache"), "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    names = [variant["name"] for variant in json.loads(done.stdout)["variants"]]
    assert any("sigmoid_by_exp" in name for name in names)


def test_a_package_that_names_it_says_how_to_go_on(folder: Path):
    done = run("convert", "ownpass.py:swish", "-o", "s.mlpackage", "--with-pass", "ownpass.py")
    assert done.exit_code == 0, done.output
    done = run("verify", "s.mlpackage", "ownpass.py:swish")
    assert done.exit_code == 2
    assert "SigmoidByExp is not known here" in done.output
    assert "--with-pass file.py:SigmoidByExp" in done.output


@pytest.mark.parametrize("where", ["ownpass.py:Swish", "ownpass.py:absent", "absent.py:Pass"])
def test_what_is_no_pass(folder: Path, where: str):
    done = run("convert", "ownpass.py:swish", "-o", "s.mlpackage", "--with-pass", where)
    assert done.exit_code == 2
    assert "Traceback" not in done.output and not (folder / "s.mlpackage").exists()
