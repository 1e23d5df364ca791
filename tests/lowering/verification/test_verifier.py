import json
from dataclasses import dataclass
from typing import ClassVar

import coremltools as ct
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lowering
import passes
from benchmarks.fault_injection import campaign, summary
from lowering.cli import main
from lowering.verification import Original, Thresholds, VerificationError
from passes.pipeline_text import PipelineTextError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x):
        y = self.first(x)
        return {"hidden": y, "out": self.second(y)}


def net():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(1, 6, 16),)


MODEL = """
from tests.lowering.verification.test_verifier import net

def same():
    return net()

def other():
    model, inputs = net()
    model.second.down.weight.data[3] += 1.0
    return model, inputs
"""


@pytest.fixture(scope="module")
def package():
    model, inputs = net()
    return lowering.convert(passes.optimize_for_ane(model, inputs), skip_model_load=True)


@pytest.mark.parametrize("precision", [ct.precision.FLOAT16, ct.precision.FLOAT32])
@pytest.mark.parametrize("optimize", [True, False])
def test_sound_packages_pass(precision, optimize):
    model, inputs = net()
    source = passes.optimize_for_ane(model, inputs) if optimize else model
    given = None if optimize else inputs
    made = lowering.convert(source, given, compute_precision=precision, skip_model_load=True)
    found = lowering.verify(made, model, inputs)
    assert found.passed
    assert [item.name for item in found.outputs] == ["hidden", "out"]
    fp16 = precision is ct.precision.FLOAT16
    assert all((item.yardstick is not None) == fp16 for item in found.outputs)
    if fp16:
        assert all(1e-5 < item.rel_l2 < 2e-3 for item in found.outputs)
    else:
        assert all(item.threshold == Thresholds.fp32 for item in found.outputs)


def test_programs_and_optimized_models(package):
    model, inputs = net()
    optimized = passes.optimize_for_ane(model, inputs)
    assert lowering.verify(package, optimized)
    exported = torch.export.export(model, inputs)
    assert lowering.verify(package, exported)
    assert lowering.verify(package, exported, {"x": torch.randn(1, 6, 16)})


def test_inputs_without_axes():
    class Row(nn.Module):
        def forward(self, x, i):
            return x[i] * 2

    x = torch.randn(4, 3)
    optimized = passes.optimize_for_ane(Row(), (x, torch.tensor(1)))
    mlmodel = lowering.convert(optimized, skip_model_load=True)
    assert lowering.verify(mlmodel, Row(), (x, torch.tensor(3)))


def test_a_changed_weight_is_found_through_its_consumer(package):
    model, inputs = net()
    with torch.no_grad():
        model.second.down.weight[3] += 1.0
    found = lowering.verify(package, model, inputs)
    assert not found
    assert [item.passed for item in found.outputs] == [True, False]
    assert found.kind == "logic"
    assert found.divergence is not None
    assert found.divergence.op_type == "conv"
    assert found.divergence.source.module == "second.down"
    assert found.divergence.source.line
    errors = [error for _, error in found.divergence.growth]
    assert errors[0] > 0.1
    assert found.pass_fault is None
    assert json.loads(json.dumps(found.to_json()))["divergence"]["module"] == "second.down"


def test_two_faults_name_the_first(package):
    model, inputs = net()
    with torch.no_grad():
        model.second.up.weight[3] += 1.0
        model.first.norm.weight[2] *= 3.0
    divergence = lowering.verify(package, model, inputs).divergence
    assert divergence.source.module == "first.norm"
    assert divergence.op_type == "layer_norm"


@dataclass(frozen=True)
class GeluToTanh(passes.Pass):
    """A pass that is wrong on purpose."""

    name: ClassVar[str] = "gelu_to_tanh"

    def apply(self, rw):
        node = rw.find(torch.ops.aten.gelu.default)[0]
        with rw.at(node):
            rw.replace(node, rw.emit(torch.ops.aten.tanh.default, node.args[0]))


def test_the_pass_at_fault_is_named():
    model, inputs = net()
    pipeline = (*passes.DEFAULT_PIPELINE[:9], GeluToTanh(), *passes.DEFAULT_PIPELINE[9:])
    optimized = passes.optimize_for_ane(model, inputs, pipeline=pipeline)
    made = lowering.convert(optimized, skip_model_load=True)
    with pytest.raises(PipelineTextError, match="not known here"):
        lowering.verify(made, model, inputs)
    found = lowering.verify(made, model, inputs, pipeline=pipeline)
    assert not found
    assert found.divergence is None
    assert found.pass_fault.name == "gelu_to_tanh"
    assert found.pass_fault.position == 9
    assert found.pass_fault.before < 1e-5 < found.pass_fault.after
    assert found.pass_fault.source.module == "first"


class Overflows(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        return torch.sigmoid(torch.relu(self.linear(x) * 3e4 * 30.0) * 1e-3 * 1e-3)


def test_overflow_is_rounding_and_is_named():
    torch.manual_seed(0)
    model, inputs = Overflows().eval(), (torch.randn(1, 6, 16),)
    made = lowering.convert(model, inputs, skip_model_load=True)
    found = lowering.verify(made, model, inputs)
    assert not found
    assert found.kind == "rounding"
    assert found.divergence.target == "aten.mul.Tensor"
    assert "finite" in found.divergence.reason


def test_what_does_not_belong_together(package):
    other = nn.Linear(16, 16).eval()
    with pytest.raises(VerificationError, match="other outputs"):
        lowering.verify(package, other, (torch.randn(1, 6, 16),))
    with pytest.raises(VerificationError, match="no such input"):
        Original.of(*net()).with_inputs({"y": np.zeros((1, 6, 16))})
    with pytest.raises(VerificationError, match="wrong shape"):
        Original.of(*net()).with_inputs({"x": np.zeros((1, 5, 16))})


def test_probe(package):
    model, inputs = net()
    inside = lowering.probe(package, inputs, ["second.norm"], against=model)
    assert inside
    assert all(item.source.module == "second.norm" for item in inside)
    assert all(item.parity.rel_l2 < 5e-3 for item in inside)
    named = inside[0]
    for name in (named.node, named.value):
        (again,) = lowering.probe(package, inputs, [name], against=model)
        assert again.original.shape == again.package.shape
        np.testing.assert_array_equal(again.package, named.package)
    with pytest.raises(VerificationError, match="no MIL value"):
        lowering.probe(package, inputs, ["third"], against=model)


def test_command(package, tmp_path, monkeypatch):
    lowering.save(package, tmp_path / "net.mlpackage")
    (tmp_path / "verifynet.py").write_text(MODEL)
    np.savez(tmp_path / "x.npz", x=np.ones((1, 6, 16)) * np.linspace(-1, 1, 16))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(main, ["verify", "net.mlpackage", *arguments])

    result = call("verifynet.py:same", "--json", "--inputs", "x.npz")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["passed"] is True
    result = call("verifynet.py:other")
    assert result.exit_code == 1, result.output
    assert "first diverging op: conv" in result.output
    assert "second.down" in result.output
    assert call("verifynet.py:same", "--threshold", "1e-9").exit_code == 1
    (tmp_path / "x.npz").write_bytes(b"nothing")
    assert call("verifynet.py:same", "--inputs", "x.npz").exit_code == 2


def test_planted_faults_are_noticed_and_named():
    outcomes = campaign(16, 3, names=("cnn",))
    found = summary(outcomes)
    assert found["above_threshold"] >= 8
    assert found["met"], outcomes
