"""On failure ``verify`` names the operator of the asset, and the node and line it comes from."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import passes
from lowering import convert, save, verify
from lowering.core_ai import decompose

pytest.importorskip("coreai_torch", reason="needs ane-passes[coreai]")


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.norm = nn.LayerNorm(8)
        self.last = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x):  # (1, 5, 8)
        x = x + self.first(self.norm(x))
        return self.last(x.mT).mT


def test_a_weight_that_is_another_is_named_with_its_module(tmp_path):
    model, x = Blocks().eval(), torch.randn(1, 5, 8)
    made = convert(passes.optimize_for_ane(model, (x,)), format="aimodel")
    asset = save(made, tmp_path / "b.aimodel")
    with torch.no_grad():
        model.norm.weight.mul_(1.3)
    found = verify(asset, model, (x,))
    assert not found.passed and found.divergence is not None
    assert found.divergence.source.module == "norm"
    assert "norm" in found.divergence.target and found.divergence.own_error > 1e-2
    assert "first diverging op: coreai." in " ".join(found._sentences())
    assert verify(asset, model, (x,), locate=False).divergence is None


class Sum(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x):
        self.total.add_(x)
        return (self.total * self.total.clamp(max=self.by)).tanh()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fault_of_a_later_step_is_found_on_the_states_it_meets():
    x = torch.full((3,), 0.4)
    made = convert(passes.optimize_for_ane(Sum(1.0), (x,)), format="aimodel", precision="float32")
    assert verify(made, Sum(1.0), (x,), steps=4)
    found = verify(made, Sum(0.9), (x,), steps=4)
    assert found.step > 1 and found.divergence is not None
    assert "clamp" in found.divergence.source.line


def test_an_asset_of_another_model_is_said_to_be_one(tmp_path):
    x = torch.randn(1, 5, 8)
    made = convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), (x,), format="aimodel")
    found = verify(save(made, tmp_path / "o.aimodel"), nn.Linear(8, 8), (x,))
    assert not found.passed and found.divergence is None
    assert "other operators than this model" in found._sentences()[-1]


class Written(nn.Module):
    def forward(self, x):  # (2, 7, 9)
        y = x.exp()
        y = torch.ops.aten.index_put(y, [None, torch.tensor([1, 5])], x[0, :2])
        return y + 1


def test_where_the_runtime_ends_is_found_by_halving(monkeypatch):
    x = torch.randn(2, 7, 9)
    # Without it the runtime meets values of fewer axes than they are written to.
    monkeypatch.setattr(decompose, "_index_put", lambda *args: NotImplemented)
    made = convert(Written(), (x,), format="aimodel", precision="float32")
    found = verify(made, Written(), (x,))
    assert found.error is not None and found.divergence is not None
    assert "index_put" in found.divergence.target
    assert "index_put" in found.divergence.source.line


def test_without_core_ai_one_error_says_what_to_install(tmp_path):
    made = convert(nn.ReLU(), (torch.ones(1, 4),), format="aimodel")
    asset = save(made, tmp_path / "r.aimodel")
    script = (
        "import torch, lowering\n"
        f"asset, x = {str(asset)!r}, torch.ones(1, 4)\n"
        "for run in (\n"
        "    lambda: lowering.verify(asset, torch.nn.ReLU(), (x,)),\n"
        "    lambda: lowering.report(asset),\n"
        "    lambda: lowering.predict(asset, {'input': x}),\n"
        "):\n"
        "    try:\n"
        "        run()\n"
        "    except lowering.CoreAIError as error:\n"
        "        print(error)\n"
    )
    folder = tmp_path / "coreai"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'coreai'\")")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("Core AI is not installed") == 3
    assert ran.stdout.count('pip install "ane-passes[coreai]"') == 3
