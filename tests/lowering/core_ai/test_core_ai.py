"""Core AI as a second back end; everything runs in Apple's own runtime, in a child process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn
from torch.utils import _pytree as pytree

import passes
from lowering import (
    CoreAIError,
    InputError,
    LoweringError,
    SaveError,
    UnsupportedOpsError,
    convert,
    predict,
    save,
    verify,
)
from lowering.cli import main
from lowering.core_ai import runtime
from lowering.core_ai.asset import Interface, Port, read_interface

pytest.importorskip("coreai_torch", reason="needs ane-passes[coreai]")


class Others(nn.Module):
    """What coreai-torch 0.4.3 converts to other numbers, or not at all."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False).eval()
        self.norm.running_mean.fill_(0.5)

    def forward(self, x):  # (1, 3, 7, 9)
        rows = x.mean((0, 1))
        return {
            "nearest": F.interpolate(x, scale_factor=1.7, mode="nearest"),
            "smaller": F.interpolate(x, size=(3, 4), mode="nearest"),
            "pooled": F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
            "ceiled": F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
            "ceiled alone": F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False),
            "divided": F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
            "ramp": rows + torch.arange(0, 0.9, 0.1),
            "normed": self.norm(x),
            "spread": x.var(-1),
            "least": x.argmin(-1),
            "sorted": x.sort(-1, descending=True)[0],
            "modulo": x % 0.3,
            "scaled": torch.add(x, x.exp(), alpha=0.1) - torch.sub(x, x.cos(), alpha=2),
            "product": torch.addmm(x[0, 0], x[0, 1, :, :7], x[0, 2], beta=2, alpha=3),
            "windows": F.fold(F.unfold(x, 3), (7, 9), 3),
            "counted": torch.zeros(4).index_put((x[0, 0, 0, :4].argsort(),), x[0, 0, 1, :4], True),
            "no number": torch.isnan(x.log()).float(),
            "finite": torch.isfinite(1 / x.relu()).float() - torch.isinf(x / 0).float(),
            "both": (x > 0) * (x < 1) * 1.0,
            "tail": torch.erfc(x * 3) * torch.exp(9 * x * x),
            "quantile": torch.erfinv(x.tanh()),
            "products": torch.cumprod(x, 2),
            "so far": torch.cummax(x, -1)[0],
            "so far at": torch.cummin(x, -1)[1],
            "logs": torch.logcumsumexp(x * 20, -1),
            "middle": x.median(-1)[0],
            "third": x.kthvalue(3, 2)[1],
            "classes": F.one_hot((x[0, 0] > 0).long() + (x[0, 0] > 1), 3),
            "diagonal": x.diagonal(-2, 1, 3),
            "bin": torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5]), right=True),
            "both moments": torch.stack(torch.var_mean(x, (1, 2))),
            "distances": torch.cdist(x, x + 1, 3.0),
            "apart": torch.hypot(x[0, 0], x[0, 1]) * torch.copysign(x[0, 0], x[0, 1]),
            "added": torch.logaddexp(x * 30, x.flip(-1)),
            "numbers": torch.fmax(x.log(), x) - torch.fmin(x, x.log()),
            "elu": F.elu(x),
            "again": F.elu(x),
            "given": x,
        }


class Apart(nn.Module):
    """What coreai-torch 0.4.3 has no operator for, or its runtime ends on."""

    def __init__(self):
        super().__init__()
        self.bags = {
            mode: nn.EmbeddingBag(10, 3, mode=mode, padding_idx=4)
            for mode in ("sum", "mean", "max")
        }
        self.grown = nn.ConvTranspose3d(4, 6, (3, 2, 1), (2, 1, 3), (1, 0, 0), (1, 0, 2), groups=2)

    def forward(self, x, position):  # (2, 7, 9), ()
        volume = x[:, :4, :8].reshape(1, 4, 2, 4, 2)
        ids = torch.tensor([1, 4, 4, 0, 6, 2, 2])
        y = x.clone()
        y[:, [1, 5]] = x[0, :2]
        y[..., [0, 3]] = 2.0
        y[[1], :, [4]] = x[0, :, 2]
        largest, places = F.adaptive_max_pool2d(x, (3, 4), return_indices=True)
        return {
            "written": y,
            "largest": largest,
            "places": places,
            "grown": self.grown(volume),
            "bags": [bag(ids, torch.tensor([0, 3, 3])) for bag in self.bags.values()],
            "weighted": F.embedding_bag(
                ids, x[0], torch.tensor([0, 2]), mode="sum", per_sample_weights=x[0, :, 0]
            ),
            "later": position + 1,
            "seen": torch.arange(4) <= position,
        }


def test_what_is_taken_apart_is_torchs():
    torch.manual_seed(0)
    model, x, position = Apart().eval(), torch.randn(2, 7, 9), torch.tensor(2)
    made = convert(model, (x, position), format="aimodel", precision="float32")
    found = predict(made, {"x": x, "position": position})
    expected = pytree.tree_leaves(model(x, position))
    assert len(found) == len(expected)
    for (name, value), wanted in zip(found.items(), expected, strict=True):
        assert value.shape == wanted.shape, name
        np.testing.assert_allclose(value, wanted.detach(), rtol=1e-5, atol=1e-5, err_msg=name)


def test_what_is_written_another_way_is_torchs():
    x = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    model = Others().eval()
    made = convert(passes.optimize_for_ane(model, (x,)), format="aimodel", precision="float32")
    found = predict(made, {"x": x})
    expected = model(x)
    assert len(found) == len(expected)
    for (name, value), wanted in zip(found.items(), expected.values(), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5, err_msg=name)


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        nn.init.normal_(self.norm.weight)
        self.linear = nn.Linear(64, 16)

    def forward(self, x):  # (1, 8, 64)
        return {
            "norms": self.linear(self.norm(x)),
            "length": x.norm(dim=-1),
            "all": torch.linalg.vector_norm(x, 3, keepdim=True),
            "sum": torch.linalg.vector_norm(x, 1, dim=1),
            "unit": F.normalize(x, dim=1),
            "rms": F.rms_norm(x, (64,), eps=1e-6),
        }


def test_norms_in_float16_at_scale():
    torch.manual_seed(0)
    model, x = Norms().eval(), torch.randn(1, 8, 64)
    made = convert(passes.optimize_for_ane(model, (x,)), format="aimodel")
    for scale in (1e-3, 1.0, 1e3):
        x16 = (x * scale).half()
        expected = model(x16.float())
        for (name, value), wanted in zip(
            predict(made, {"x": x16}).items(), expected.values(), strict=True
        ):
            error = (torch.from_numpy(value).float() - wanted).norm() / wanted.norm()
            assert error < 2e-3, (name, scale)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.full((2,), 5.0))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_states_go_on_and_start_where_the_buffer_did(precision):
    x = torch.tensor([1.0, 2.0])
    made = convert(passes.optimize_for_ane(Counter(), (x,)), format="aimodel", precision=precision)
    assert verify(made, Counter(), (x,), steps=3)


def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()


def test_an_encoder_in_float16_from_file(tmp_path):
    model, x = encoder(), torch.randn(1, 16, 32)
    made = convert(passes.optimize_for_ane(model, (x,)), format="aimodel")
    path = save(made, tmp_path / "e.aimodel")
    assert verify(path, model, (x,))
    with torch.no_grad():
        model.layers[0].linear1.weight.mul_(1.1)
    assert not verify(path, model, (x,))
    # Nothing of this machine is in the file.
    assert str(Path.cwd()).encode() not in (path / "main.mlirb").read_bytes()


def test_the_command_line(tmp_path):
    (tmp_path / "model.py").write_text(
        "import torch\ndef tiny():\n    return torch.nn.Linear(4, 3).eval(), (torch.ones(1, 4),)\n"
        "torch.manual_seed(0)\n"
    )
    target, asset = f"{tmp_path / 'model.py'}:tiny", str(tmp_path / "tiny.aimodel")
    run = CliRunner().invoke
    made = run(main, ["convert", target, "-o", asset, "--json", "--precision", "float32"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["format"] == "aimodel"
    ran = run(main, ["predict", asset, "--json", "--output-dir", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    (name,) = json.loads(ran.stdout)["outputs"]
    assert np.load(tmp_path / "out" / f"{name}.npy").shape == (1, 3)
    refused = run(main, ["predict", asset, "--watch"])
    assert refused.exit_code == 2 and "--watch" in refused.output


class Unknown(nn.Module):
    def forward(self, x):
        return torch.lgamma(x)


def test_every_refusal_is_one_error(tmp_path, monkeypatch):
    x = torch.ones(1, 4)
    with pytest.raises(UnsupportedOpsError, match=r"aten\.lgamma\.default.*\n.*Unknown|lgamma"):
        convert(Unknown(), (x,), format="aimodel")
    with pytest.raises(LoweringError, match="one of two formats"):
        convert(nn.ReLU(), (x,), format="onnx")
    made = convert(nn.ReLU(), (x,), format="aimodel")
    (tmp_path / "mine.aimodel").mkdir()
    (tmp_path / "mine.aimodel" / "notes.txt").write_text("mine")
    with pytest.raises(SaveError, match="left alone"):
        save(made, tmp_path / "mine.aimodel")
    assert (tmp_path / "mine.aimodel" / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="another shape"):
        predict(made, {made.interface.inputs[0].name: torch.ones(2, 4)})
    monkeypatch.setattr(runtime, "_CHILD", "lowering.core_ai.no_such_child")
    with pytest.raises(CoreAIError, match="ended without a result"):
        predict(made, {made.interface.inputs[0].name: x})


def test_what_an_asset_says_is_read_back():
    whole = Interface((Port("x", (1, -1), "int32"),), (), (Port("s", (2,), "float16"),))
    assert Interface.from_text(whole.to_text()) == whole
    with pytest.raises(Exception, match="no Core AI asset"):
        read_interface(Path("nowhere.aimodel"))


def test_a_run_that_ends_by_chance_is_made_again(monkeypatch):
    made = convert(nn.ReLU(), (torch.ones(1, 4),), format="aimodel")
    name, run, calls = made.interface.inputs[0].name, runtime.subprocess.run, []

    def ends(times):
        def ending(command, **options):
            calls.append(command)
            if len(calls) > times:
                return run(command, **options)
            return runtime.subprocess.CompletedProcess(command, -6, "", runtime._PASSING)

        calls.clear()
        monkeypatch.setattr(runtime.subprocess, "run", ending)

    ends(1)
    assert predict(made, {name: torch.ones(1, 4)}) and len(calls) == 2
    ends(100)
    with pytest.raises(CoreAIError, match="SIGABRT"):
        predict(made, {name: torch.ones(1, 4)})
    assert len(calls) == runtime._ATTEMPTS


def test_verbs_of_packages_say_what_an_asset_is(tmp_path):
    asset = save(convert(nn.ReLU(), (torch.ones(1, 4),), format="aimodel"), tmp_path / "r.aimodel")
    for verb in ("plan", "compare"):
        ran = CliRunner().invoke(main, [verb, *[str(asset)] * (2 if verb == "compare" else 1)])
        assert ran.exit_code == 2 and "a Core AI asset" in ran.output and "verify" in ran.output
