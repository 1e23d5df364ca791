"""Stateful packages over many calls, and the originals that a verification can be given."""

import json

import coremltools as ct
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import passes
from lowering import convert, save, verify
from lowering.cli import main
from lowering.verification import Original, VerificationError
from lowering.verification.steps import step_inputs

IOS18 = {"minimum_deployment_target": ct.target.iOS18, "skip_model_load": True}
pytestmark = pytest.mark.filterwarnings(
    "ignore::lowering.conversion.stored_states.StateStartWarning"
)


class Average(nn.Module):
    def __init__(self, start=1.0):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mean", torch.full((1, 4), start))

    def forward(self, x):
        self.mean.mul_(0.75).add_(self.linear(x), alpha=0.25)
        return self.mean.tanh()


class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, 6, 4))
        self.register_buffer("length", torch.tensor(-1))

    def forward(self, x, position):
        self.length.add_(1)
        self.keys[:, position] = x
        return (self.keys * x[:, None]).sum(-1), self.length


class Forgets(Average):
    """Starts a sum anew in its third call, which a package made of ``Average`` does not."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.calls.add_(1)
        self.mean.mul_(torch.where(self.calls == 3, 0.0, 0.75)).add_(self.linear(x), alpha=0.25)
        return self.mean.tanh()


def made(model, inputs, **options):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    optimized = passes.optimize_for_ane(model.eval(), inputs)
    return convert(optimized, **IOS18, **options)


@pytest.mark.parametrize("precision", [ct.precision.FLOAT16, ct.precision.FLOAT32])
def test_many_steps(precision):
    model, inputs = Average(), (torch.randn(1, 4),)
    package = made(model, inputs, compute_precision=precision)
    found = verify(package, model, inputs, steps=6)
    assert found, found
    assert (found.step, found.steps) == (6, 6)
    assert [item.name for item in found.outputs] == ["output", "state mean"]
    assert torch.equal(model.mean, torch.ones(1, 4))
    given = verify(package, model, inputs, steps=[(torch.ones(1, 4),), {"x": torch.zeros(1, 4)}])
    assert given and given.steps == 2


def test_a_dropped_start_is_found():
    inputs = (torch.randn(1, 4),)
    zero = made(Average(0.0), inputs)
    model = Average()
    made(model, inputs)
    found = verify(zero, model, inputs, locate=False)
    assert not found and found.step == 1


def test_positions_count_up_as_long_as_the_original_takes_them():
    model = Cache()
    inputs = (torch.randn(1, 4), torch.tensor(3))
    package = made(model, inputs)
    found = verify(package, model, inputs, steps=5)
    assert found, found
    assert "state length" in [item.name for item in found.outputs]
    positions = [
        int(step.inputs()["position"]) for step in step_inputs(Original.of(model, inputs), 5)
    ]
    assert positions == [3, 4, 5, 3, 3]


def test_the_step_that_fails_is_named():
    inputs = (torch.randn(1, 4),)
    package = made(Average(), inputs)
    model = Forgets()
    made(model, inputs)
    found = verify(package, model, inputs, steps=5)
    assert not found
    assert (found.step, found.steps) == (3, 5)
    assert found.to_json()["step"] == 3
    assert any("step 3 of 5 differs" in line for line in found._sentences())


def test_steps_that_are_none():
    model, inputs = Average(), (torch.randn(1, 4),)
    package = made(model, inputs)
    for steps in (0, -1, []):
        with pytest.raises(VerificationError, match="one step or more"):
            verify(package, model, inputs, steps=steps)


class Anchors(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("anchors", torch.arange(8.0).reshape(2, 4) / 3)
        self.scale = nn.Parameter(torch.full((1, 4), 0.3))
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        grid = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij"))
        return {
            "boxes": self.linear(x),
            "anchors": self.anchors,
            "grid": grid,
            "priors": torch.ones(2) / 3,
            "scale": self.scale,
            "half": self.anchors * 0.5,
        }


@pytest.mark.parametrize("precision", [ct.precision.FLOAT16, ct.precision.FLOAT32])
def test_outputs_that_are_constants(precision):
    model, inputs = Anchors(), (torch.randn(1, 4),)
    package = made(model, inputs, compute_precision=precision)
    found = verify(package, model, inputs)
    assert found, found
    assert len(found.outputs) == 6
    other = Anchors()
    other.load_state_dict(model.state_dict())
    other.anchors[1, 2] += 1
    wrong = verify(package, other, inputs)
    assert [item.name for item in wrong.outputs if not item.passed] == ["anchors", "half"]
    assert wrong.divergence is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_and_inputs_of_other_precisions(dtype):
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).to(dtype).eval()
    inputs = (torch.randn(2, 4).to(dtype),)
    package = convert(passes.optimize_for_ane(model, inputs), skip_model_load=True)
    assert verify(package, model, inputs)
    assert verify(package, passes.optimize_for_ane(model, inputs), inputs)


def test_inputs_that_want_gradients():
    model = nn.Linear(4, 3).eval()
    x = torch.randn(2, 4, requires_grad=True)
    for inputs in ((x,), (x * 2,)):
        package = convert(passes.optimize_for_ane(model, inputs), skip_model_load=True)
        assert verify(package, model, inputs)
        assert verify(package, torch.export.export(model, inputs), inputs)


def test_inputs_that_are_written_to():
    class Writes(nn.Module):
        def forward(self, x):
            x.add_(1)
            return x * 2

    x = torch.ones(2, 3)
    with pytest.warns(UserWarning, match="writes to its inputs"):
        package = convert(Writes(), (x.clone(),), skip_model_load=True)
    assert verify(package, Writes(), (x,))
    assert torch.equal(x, torch.ones(2, 3))


def test_a_model_without_outputs_is_not_verified():
    class Nothing(nn.Module):
        def forward(self, x):
            return None

    package = convert(nn.ReLU(), (torch.ones(2),), skip_model_load=True)
    with pytest.raises(VerificationError, match="nothing to compare"):
        verify(package, Nothing(), (torch.ones(2),))


MODEL = """
import torch
from tests.lowering.verification.test_steps import Average, made

def average():
    model, inputs = Average(), (torch.linspace(-1, 1, 4)[None],)
    made(model, inputs)
    return model, inputs
"""


def test_command(tmp_path, monkeypatch):
    model, inputs = Average(), (torch.linspace(-1, 1, 4)[None],)
    save(made(model, inputs), tmp_path / "average.mlpackage")
    (tmp_path / "averaged.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    arguments = ["verify", "average.mlpackage", "averaged.py:average", "--steps", "4"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "4 steps, each starting where the one before ended" in result.output
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert json.loads(result.stdout)["steps"] == 4
    assert CliRunner().invoke(main, [*arguments[:-1], "0"]).exit_code == 2
