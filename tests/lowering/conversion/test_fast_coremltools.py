"""What is spared of coremltools' work leaves the package as it is, and coremltools too."""

import gc
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from torch import nn

from lowering import convert, save
from lowering.conversion import converter
from lowering.conversion.mil_passes import around
from lowering.errors import LoweringError
from lowering.support.halves import to_float16


class Attention(nn.Module):
    """A layer with a mask of infinities and a constant beyond fp16."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.mask = nn.Buffer(torch.full((5, 5), -torch.inf).triu(1))
        self.far = nn.Buffer(torch.linspace(-1e6, 1e6, 16))

    def forward(self, x):
        return torch.minimum(self.layer(x, src_mask=self.mask), self.far)


class Recurrent(nn.Module):
    """Unrolled or looped: control flow has blocks of its own."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 16, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


class Subnormal(nn.Module):
    """Weights that are subnormal in fp16, vanish there, or are no number."""

    def __init__(self):
        super().__init__()
        weight = torch.linspace(-1e-4, 1e-4, 32 * 8).reshape(32, 8)
        weight[0, :3] = torch.tensor([torch.nan, torch.inf, 1e-9])
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return x @ self.weight.T


class Alike(nn.Module):
    """Equal operators on one value, unequal ones, and constants that differ in a sign or not."""

    def forward(self, x):
        halves = [x[:, :2] * 2.0, x[:, 2:] * 2.0, x[:, :2] * 2.0, x[..., :4], x[..., 4:]]
        signs = x + torch.tensor([0.0, -0.0] * 4), x + torch.zeros(8)
        shapes = x.reshape(2, 16), x.reshape(2, 16), x.reshape(16, 2)
        return *(part.sum() for part in (*halves, *shapes)), *signs


class Transposed(nn.Module):
    """Transposes of which some cancel, one is returned and one must stay."""

    def forward(self, x):
        turned = x.transpose(1, 2)
        back = (turned.relu() + 1.0).transpose(1, 2)
        return back, turned.softmax(-1), back.transpose(0, 1).reshape(5, 16).sum(-1)


class Small(nn.Module):
    """Zeros of both signs and numbers that vanish in fp16, few enough to be looked at."""

    def __init__(self):
        super().__init__()
        self.few = nn.Buffer(torch.tensor([0.0, -0.0, 1e-9, -1e-9, 6e-8, 1e-6, 3.0, -3.0]))

    def forward(self, x):
        return (x * self.few + 1e-12).log(), x / (x.abs() + 1e-10)


class Mixed(nn.Module):
    """Results that are returned and read on, read in float32 and float16, listed, or boolean."""

    def __init__(self):
        super().__init__()
        self.far = nn.Buffer(torch.tensor([1e5, 2.0] * 4))

    def forward(self, x):
        first = x.tanh()
        far = first * self.far  # stays in float32
        best, places = (first + x).topk(2)
        chosen = torch.where(far > first, first, x + first)
        angles = torch.arange(8.0) * 1e3 + first.mean()
        both = torch.cat([first, chosen, first], -1).softmax(-1)
        return first, far, best * 2.0, places, both, angles.sin(), chosen


CASES = {
    "mixed": (Mixed, (1, 3, 8), {}),
    "mixed, iOS18": (Mixed, (1, 3, 8), {"minimum_deployment_target": ct.target.iOS18}),
    "chosen": (
        Mixed,
        (1, 3, 8),
        {"compute_precision": ct.transform.FP16ComputePrecision(lambda op: op.op_type != "tanh")},
    ),
    "transposed": (Transposed, (1, 5, 16), {}),
    "small": (Small, (1, 3, 8), {}),
    "attention": (Attention, (1, 5, 16), {}),
    "float32": (Attention, (1, 5, 16), {"compute_precision": ct.precision.FLOAT32}),
    "iOS18": (Attention, (1, 5, 16), {"minimum_deployment_target": ct.target.iOS18}),
    "recurrent": (Recurrent, (1, 6, 8), {}),
    "subnormal": (Subnormal, (1, 3, 8), {}),
    "alike": (Alike, (1, 4, 8), {}),
    "palettized": (
        lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)),
        (1, 4, 64),
        {"pass_pipeline": "DEFAULT_PALETTIZATION"},
    ),
}


def files(package: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(package)): file.read_bytes()
        for file in package.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_package_has_the_same_bytes(name, monkeypatch, tmp_path):
    make, shape, options = CASES[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(shape)
    if "pass_pipeline" in options:
        options = {"pass_pipeline": getattr(ct.PassPipeline, options["pass_pipeline"])}
    fast = save(convert(model, [x], skip_model_load=True, **options), tmp_path / "fast.mlpackage")
    monkeypatch.setattr(converter, "fast_coremltools", nullcontext)
    slow = save(convert(model, [x], skip_model_load=True, **options), tmp_path / "slow.mlpackage")
    found, expected = files(fast), files(slow)
    assert found.keys() == expected.keys() and len(found) >= 2
    assert all(found[name] == expected[name] for name in found)


@pytest.mark.parametrize("name", ["mixed", "attention", "small", "transposed"])
def test_no_result_is_cast_back_and_forth(name):
    make, shape, options = CASES[name]
    pairs = []

    def look(prog, cast_all):
        (main,) = prog.functions.values()
        there = set(main.operations)  # outputs are cast for the package already
        cast_all()
        pairs.extend(
            (first.name, second.name)
            for first in main.find_ops(op_type="cast")
            for second in first.outputs[0].child_ops
            if second.op_type == "cast" and first not in there and second not in there
        )

    with around("common::add_fp16_cast", look):
        convert(make().eval(), [torch.randn(shape)], skip_model_load=True, **options)
    assert pairs == []


@pytest.fixture
def own(monkeypatch):
    """What stands in the place of everything that was patched."""
    patched = {}
    patch = mock.patch.object

    def remembered(owner, name, *args):
        patched.setdefault((id(owner), name), (owner, name, owner.__dict__[name]))
        return patch(owner, name, *args)

    monkeypatch.setattr(mock.patch, "object", remembered)
    return patched


def put_back(patched) -> bool:
    return all(owner.__dict__[name] is before for owner, name, before in patched.values())


def test_everything_is_put_back(own):
    convert(Recurrent().eval(), [torch.randn(1, 6, 8)], skip_model_load=True)
    assert {"validate", "get_type_info", "get_cast_value"} < {name for _, name in own}
    assert put_back(own)
    assert gc.get_freeze_count() == 0 and gc.isenabled()


def test_everything_is_put_back_after_a_failure(own):
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.set_options("common::const_elimination", {"no_such_option": "1"})
    with pytest.raises(LoweringError):
        convert(nn.ReLU(), [torch.randn(2, 3)], skip_model_load=True, pass_pipeline=pipeline)
    assert len(own) > 10 and put_back(own)
    assert gc.get_freeze_count() == 0 and gc.isenabled()


def test_a_heap_that_the_caller_froze_stays_frozen():
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        convert(nn.ReLU(), [torch.randn(2, 3)], skip_model_load=True)
        assert gc.get_freeze_count() > count // 2  # some of them were freed meanwhile
    finally:
        gc.unfreeze()


def test_a_pass_that_breaks_the_program_is_still_found(monkeypatch):
    def claim_a_user(self, prog):
        for op in prog.functions["main"].operations:
            if op.op_type == "relu":
                op.outputs[0].child_ops.append(op)

    reorder = PASS_REGISTRY.passes["common::topological_reorder"]
    monkeypatch.setattr(reorder, "apply", claim_a_user)
    with pytest.raises(LoweringError, match="should be consumed by op"):
        convert(nn.ReLU(), [torch.randn(2, 3)], skip_model_load=True)


@pytest.mark.parametrize("layout", ["rows", "columns", "reversed", "read-only", "scalar"])
def test_float16_is_numpys(layout):
    bits = np.arange(0, 2**32, 65521, dtype=np.uint32)  # floats of every size, NaN and infinity
    values = bits.view(np.float32)[:65536].reshape(256, 256)
    if layout == "columns":
        values = values.T
    elif layout == "reversed":
        values = values[::-1]
    elif layout == "read-only":
        values = values.copy()
        values.flags.writeable = False
    elif layout == "scalar":
        values = np.array(1e-7, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    found = to_float16(values)
    assert found.strides == expected.strides
    nan = np.isnan(expected)
    assert (np.isnan(found) == nan).all()
    assert (found.view(np.uint16) == expected.view(np.uint16))[~nan].all()
