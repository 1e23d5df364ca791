"""``ablate``, ``tune`` and ``compare`` as a user types them."""

from __future__ import annotations

import csv
import io
import json

import pytest
from click.testing import CliRunner

from lowering.ablation.result import Ablation
from lowering.cli import main

MODEL = """
import torch
from lowering.conversion.composites import composite

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.layer(x))

def net():
    return Net(), (torch.randn(1, 4, 8),)

def another():
    return Net(), (torch.randn(1, 4, 8),)

@torch.library.custom_op("ablate_cli::swish", mutates_args=())
def swish_op(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)

swish_op.register_fake(lambda x: torch.empty_like(x))

@composite(torch.ops.ablate_cli.swish.default, samples=[(torch.ones(1, 8),)])
def swish(mb, x):
    return mb.silu(x=x)

class Swish(Net):
    def forward(self, x):
        return torch.ops.ablate_cli.swish(self.layer(x))

def custom():
    return Swish(), (torch.randn(1, 4, 8),)
"""
# One pass and one process: the least that a sweep can do.
LEAST = ("--passes", "linear_to_conv1x1", "--jobs", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate")
    (folder / "ablate_model.py").write_text(MODEL)
    return folder


def run(folder, verb, *arguments, cache=True):
    kept = ("--cache", str(folder / "cache")) if cache else ()
    return CliRunner().invoke(main, [verb, *map(str, arguments), *kept])


def target(folder, name="net"):
    return f"{folder}/ablate_model.py:{name}"


@pytest.fixture(scope="module")
def printed(folder):
    result = run(folder, "ablate", target(folder), *LEAST, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json_is_an_ablation(printed):
    found = Ablation.from_json(printed)
    assert found.model == "net" and found.targets == ("M4",)
    assert found.variant("without linear_to_conv1x1").figures.mil.count("linear") == 1
    assert found.variant("default").figures.mil.count("conv") == 1
    assert not any(variant.failure for variant in found.variants)


def test_a_second_run_prints_the_same(folder, printed):
    again = run(folder, "ablate", target(folder), *LEAST, "--json")
    assert json.loads(again.stdout) == printed


@pytest.mark.parametrize("form", ["table", "md", "csv"])
def test_other_formats(folder, printed, form):
    result = run(folder, "ablate", target(folder), *LEAST, "--format", form)
    assert result.exit_code == 0, result.output
    assert "without linear_to_conv1x1" in result.output
    assert "predicted" in result.output
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
        assert len(rows) == len(printed["variants"])
        assert {row["variant"]: row["ops"] for row in rows}["default"].isdigit()


def test_several_models_are_a_list(folder):
    both = (target(folder), target(folder, "another"))
    result = run(folder, "ablate", *both, *LEAST, "--json")
    assert result.exit_code == 0, result.output
    documents = json.loads(result.stdout)
    assert [document["model"] for document in documents] == ["net", "another"]
    # Seeded before each: the second model has the first one's weights.
    assert documents[0]["variants"] == documents[1]["variants"]


def test_composites_are_ops_like_any_other(folder):
    where = ("--composites", folder / "ablate_model.py")
    result = run(folder, "ablate", target(folder, "custom"), *LEAST, *where, "--json")
    assert result.exit_code == 0, result.output
    found = Ablation.from_json(json.loads(result.stdout))
    assert all(variant.figures.mil.count("silu") == 1 for variant in found.variants)
    assert all(variant.figures.rel_l2 < 1e-2 for variant in found.variants)

    without = run(folder, "ablate", target(folder, "custom"), *LEAST)
    assert without.exit_code == 2
    assert "ablate_cli.swish" in without.output and "--composites" in without.output


def test_composites_convert_and_verify(folder):
    package = folder / "custom.mlpackage"
    where = ("--composites", f"{folder}/ablate_model.py:swish")
    options = ("-o", package, *where, "--json")
    result = run(folder, "convert", target(folder, "custom"), *options, cache=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["mil_ops"]["silu"] == 1

    # Weights are drawn anew by each command: verify against the very program.
    program = folder / "custom.pt2"
    saved = run(folder, "optimize", target(folder, "custom"), "-o", program, cache=False)
    assert saved.exit_code == 0, saved.output
    result = run(folder, "convert", program, "-o", package, *where, cache=False)
    assert result.exit_code == 0, result.output
    result = run(folder, "verify", package, program, *where, cache=False)
    assert result.exit_code == 0, result.output


def test_tune_says_why_and_saves(folder):
    chosen = folder / "chosen.json"
    result = run(folder, "tune", target(folder), "--jobs", 1, "-o", chosen)
    assert result.exit_code == 0, result.output
    assert "chosen: " in result.output and "by price: " in result.output
    assert "by latency: " in result.output and "predicted" in result.output

    package = folder / "tuned.mlpackage"
    options = ("--pipeline", chosen, "-o", package, "--json")
    converted = run(folder, "convert", target(folder), *options, cache=False)
    assert converted.exit_code == 0, converted.output
    passes = [entry["name"] for entry in json.loads(converted.stdout)["passes"]]
    assert len(passes) == len(json.loads(chosen.read_text())["pipeline"])

    compared = run(folder, "compare", package, package, cache=False)
    assert compared.exit_code == 0, compared.output
    assert "relative L2 difference 0.0e+00" in compared.output


def test_tune_saves_a_package(folder):
    package = folder / "direct.mlpackage"
    result = run(folder, "tune", target(folder), "--jobs", 1, "-o", package, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["saved"] == str(package) and package.is_dir()


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("ablate", ("MODEL", "--passes", "nonsense"), "no such pass"),
        ("ablate", ("MODEL", "--chip", "M0"), "not a chip"),
        ("ablate", ("missing.py:net",), "no such file"),
        ("ablate", ("MODEL", "--composites", "missing.py"), "no such file"),
        ("ablate", ("MODEL", "--composites", "FOLDER/ablate_model.py:net"), "no composite"),
        ("ablate", (), "Missing argument"),
        ("tune", ("MODEL", "-o", "tuned.txt"), "cannot be saved there"),
        ("tune", ("MODEL", "-o", "missing/tuned.json"), "cannot be saved there"),
        ("tune", ("MODEL", "--bound", "0"), "Invalid value"),
    ],
)
def test_user_errors_exit_with_two(folder, verb, arguments, message):
    filled = [
        argument.replace("MODEL", target(folder)).replace("FOLDER", str(folder))
        for argument in arguments
    ]
    result = run(folder, verb, *filled)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_pipeline_files_that_cannot_be_used(folder):
    bad = folder / "bad.json"
    for text, message in (("{", "no list of passes"), ('{"pipeline": ["Magic()"]}', "not known")):
        bad.write_text(text)
        result = run(folder, "optimize", target(folder), "--pipeline", bad, cache=False)
        assert result.exit_code == 2 and message in result.output
    bad.write_text('{"pipeline": ["FoldConstants()"]}')
    both = ("--pipeline", bad, "--attention", "split")
    result = run(folder, "optimize", target(folder), *both, cache=False)
    assert result.exit_code == 2 and "leave one of them out" in result.output
