"""The checklist: a clean folder fails nothing, and one that is spoiled fails in that line."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lowering
from lowering.cli import main
from lowering.contract.names import CONTRACT, CONTRACT_KEY, DIGEST_KEY
from lowering.contract.swift import swift_text
from tests.lowering.contract.shipping_models import LABELS, MEAN, STD, classifier, picture

# What only a device, or a decision, can decide.
SKIPS = {
    "metric",
    "compression",
    "compute plan",
    "latency",
    "instruments",
    "power",
    "memory",
    "breakpoints",
}


class Draws(nn.Module):
    def forward(self, x):
        return (x + torch.rand_like(x)).mean((2, 3)).repeat(1, 2)[:, :5]


class Constant(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)).repeat(1, 2)[:, :5] * 0


class Overflows(nn.Module):
    def forward(self, x):
        return torch.atan(x.mean((2, 3)).repeat(1, 2)[:, :5] * 1e3 * 1e3)


def written(path, model=None, labels=LABELS, mean=MEAN, **options):
    given, x = classifier()
    return lowering.export(
        model or given,
        (x,),
        path,
        inputs={next(iter(["input" if model is None else "x"])): lowering.Image((8, 8), mean, STD)},
        task=lowering.Classify(labels),
        **options,
    )


def packaged(folder, path, like=None):
    """The package of ``folder``, which says that it is that of ``like``."""
    package = lowering.convert(folder, skip_model_load=True, pipeline=())
    if like is not None:
        contract = lowering.open_folder(like).contract
        package.user_defined_metadata[CONTRACT_KEY] = contract.to_text()
        package.user_defined_metadata[DIGEST_KEY] = contract.digest()
    return lowering.save(package, path)


def test_a_clean_folder(tmp_path):
    folder = written(tmp_path / "net")
    packaged(folder, tmp_path / "net.mlpackage")
    picture().save(tmp_path / "a.png")
    swift = tmp_path / "Net.swift"
    words = [folder, "--ship", "--pictures", tmp_path / "a.png", "--swift", swift, "--json"]
    result = CliRunner().invoke(main, ["check", *map(str, words)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    skips = {row["name"] for row in found["rows"] if row["status"] == "skip"}
    assert skips == SKIPS and found["counts"]["fail"] == 0
    assert all(row["command"] for row in found["rows"] if row["status"] == "skip")
    assert all(row["evidence"] for row in found["rows"])
    assert "a.png" in result.output and "class Net" in swift.read_text()


def wrong_numbers(tmp_path, folder):
    wrong = written(tmp_path / "wrong", mean=tuple(m * 1.05 for m in MEAN))
    return packaged(wrong, tmp_path / "p.mlpackage", folder)


def wrong_weights(tmp_path, folder):
    model, _ = classifier()
    with torch.no_grad():
        model[-1].bias[2] += 2
    return packaged(written_as_input(tmp_path, model), tmp_path / "p.mlpackage", folder)


def written_as_input(tmp_path, model):
    return lowering.export(
        model,
        (torch.randn(1, 3, 8, 8),),
        tmp_path / "other",
        inputs={"input": lowering.Image((8, 8), MEAN, STD)},
        task=lowering.Classify(LABELS),
    )


def wrong_labels(tmp_path, folder):
    other = written(tmp_path / "other", labels=LABELS[::-1])
    return packaged(other, tmp_path / "p.mlpackage", folder)


def other_contract(tmp_path, folder):
    return packaged(written(tmp_path / "other", precision="float16", name="x"), tmp_path / "p")


def other_size(tmp_path, folder):
    model, x = classifier((16, 16))
    image = lowering.Image((16, 16), MEAN, STD)
    other = lowering.export(model, (x,), tmp_path / "other", inputs={"input": image})
    return packaged(other, tmp_path / "p.mlpackage", folder)


def other_resizing(tmp_path, folder):
    """A package that brings pictures to their size in another way, under the right digest."""
    contract = json.loads((folder / CONTRACT).read_text())
    contract["inputs"][0]["image"]["resize"] = "nearest"
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / CONTRACT).write_text(json.dumps(contract))
    package = lowering.convert(tmp_path / "other", skip_model_load=True)
    package.user_defined_metadata[DIGEST_KEY] = lowering.open_folder(folder).contract.digest()
    return lowering.save(package, tmp_path / "p.mlpackage")


def cut_off(tmp_path, folder):
    package = packaged(folder, tmp_path / "p.mlpackage")
    next(package.rglob("weight.bin")).write_bytes(b"")
    return package


class InTraining(nn.Module):
    """A batch norm that is left in training mode: it cannot be converted, either."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x).mean((2, 3)).repeat(1, 2)[:, :5]


def in_training():
    """A program: of a module, export takes what it is after training."""
    return torch.export.export(InTraining().train(), (torch.randn(1, 3, 8, 8),))


@pytest.mark.parametrize(
    ("line", "options", "package"),
    [
        ("preprocessing", {}, wrong_numbers),
        ("accuracy", {}, wrong_weights),
        ("labels", {}, wrong_labels),
        ("contract", {}, other_contract),
        ("precision", {"precision": "float32"}, None),
        ("varied inputs", {"model": Constant()}, None),
        ("pure forward", {"model": Draws()}, None),
        ("contract", {}, other_size),
        ("preprocessing", {}, other_resizing),
        ("package", {}, cut_off),
        ("inference mode", {"model": in_training()}, None),
        ("finite", {"model": Overflows()}, None),
        # The share of numbers that are the same: none of them is in float16.
        ("metric", {"accept": lowering.Acceptance("mask", 1.0)}, None),
    ],
)
def test_a_spoiled_folder_fails_in_that_line(line, options, package, tmp_path):
    folder = written(tmp_path / "net", **options)
    path = None if package is None else package(tmp_path, folder)
    found = lowering.ship(folder, package=path)
    assert [row.name for row in found.of("fail")] == [line], found.rows
    assert not found and found.of("fail")[0].command
    assert all(row.command for row in found.of("skip"))


def test_a_broken_folder_is_a_line_and_no_error(tmp_path):
    folder = written(tmp_path / "net")
    (folder / CONTRACT).write_text("{}")
    found = lowering.ship(folder)
    assert [row.name for row in found.of("fail")] == ["folder"]
    assert {row.status for row in found.rows} == {"fail", "skip"}


def test_swift_names_inputs_and_labels(tmp_path):
    labels = ('a "quoted" one', "b\\c", "d", "e", "f")
    text = swift_text(lowering.open_folder(written(tmp_path / "my-net.2", labels=labels)).contract)
    assert "final class MyNet2" in text and "func predict(input: CGImage)" in text
    assert r'"a \"quoted\" one", "b\\c"' in text
    assert text.count("{") == text.count("}")
    assert '"label"' in text and '"probabilities"' not in text
