"""The report of a Core AI asset: what Apple's own runtime computes, and nothing predicted."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lowering
import passes
from lowering.cli import main
from lowering.reporting.asset import AssetReport
from lowering.reporting.write import written

pytest.importorskip("coreai_torch", reason="needs ane-passes[coreai]")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):  # (1, 5, 8)
        return x + self.down(torch.relu(self.up(self.norm(x))))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    model, x = Block().eval(), torch.randn(1, 5, 8)
    asset = lowering.convert(passes.optimize_for_ane(model, (x,)), format="aimodel")
    return lowering.save(asset, tmp_path_factory.mktemp("asset") / "block"), model, x


@pytest.fixture(scope="module")
def found(made):
    path, model, x = made
    return lowering.report(path, model, (x,))


def test_it_says_what_the_asset_takes_and_what_it_is_made_of(found):
    assert isinstance(found, AssetReport)
    assert [port.name for port in found.interface.inputs] == ["x"]
    assert found.interface.inputs[0].shape == (1, 5, 8)
    assert "coreai.conv2d" in found.operators.values()
    assert {"linear_to_conv1x1", "assign_layout"} <= {p.name for p in found.package.passes}


def test_values_along_the_program_are_beside_the_originals_lines(found):
    assert found.outputs is not None and found.outputs.passed
    places = [point.op for point in found.growth]
    assert places == sorted(set(places)) and set(places) <= set(found.operators)
    assert {"norm", "up", "down"} <= {point.source.module for point in found.growth}
    assert 0 < max(point.rel_l2 for point in found.growth) < 1e-2


def test_an_asset_of_another_model_is_said_to_differ(made):
    path, _, x = made
    other = Block().eval()
    with torch.no_grad():
        other.up.weight.mul_(1.5)
    found = lowering.report(path, other, (x,))
    assert not found.outputs.passed
    assert "beyond what is allowed" in written(found, "md")
    assert "first operator to go wrong" in written(found, "md")


def test_without_the_model_nothing_is_run(made):
    found = lowering.report(made[0])
    assert found.outputs is None and found.growth == () and found.operators
    text = written(found, "md")
    assert "need the original" in text and "relative L2, " not in text


def test_every_format_says_that_nothing_is_predicted(found):
    for name in ("html", "md"):
        assert "Placement and cost are not predicted" in written(found, name)
    rows = written(found, "csv").splitlines()
    assert len(rows) == 1 + len(found.operators)
    document = json.loads(written(found, "json"))
    assert document["format"] == "aimodel" and len(document["operators"]) == len(found.operators)
    with pytest.raises(lowering.ReportError, match="no such format"):
        written(found, "graph-json")


def test_what_an_asset_has_not_is_refused(made, tmp_path):
    with pytest.raises(lowering.ReportError, match="cannot show this") as caught:
        lowering.report(made[0], made[1], (made[2],), pictures=["cat.png"])
    assert "pictures" in str(caught.value)


def test_on_the_command_line(made, tmp_path):
    page = tmp_path / "block.html"
    result = CliRunner().invoke(main, ["report", str(made[0]), "-o", str(page)])
    assert result.exit_code == 0, result.output
    assert "Operators by kind" in page.read_text()
    assert "<script" in page.read_text() and "http://" not in page.read_text().split("<script")[0]
