"""What an exact rewrite saves is no longer pinned in a safe package."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lowering
import passes
from lowering.precision.careful import rewritten_carefully
from lowering.precision.pins import PinReport
from tests.passes.util import Function, seeded

SPOILED = {
    "eps of a norm": (lambda m, x: F.layer_norm(x, (24,), eps=1e-12), 1e-3),
    "magnitude": (lambda m, x: (x**2 + x.flip(-1) ** 2 + 1e-9).sqrt(), 1e3),
    "eps of a length": (lambda m, x: x * (x.square().sum(-1, True) + 1e-8).rsqrt(), 1e3),
}


@pytest.mark.parametrize("name", SPOILED)
def test_rewrites_come_before_pins(name, tmp_path):
    function, size = SPOILED[name]
    model, x = Function(function), (seeded(4, 24) * size).half().float()
    optimized = passes.optimize_for_ane(model, (x,))
    package = lowering.convert(optimized, precision="safe", skip_model_load=True)
    report = PinReport.from_metadata(package.user_defined_metadata)
    assert report is not None and not report.pins and not report.ends
    assert not report.before <= 1 and report.after <= 1 and "rewritten" in report.summary()
    path = lowering.save(package, tmp_path / "safe.mlpackage")
    assert lowering.verify(path, model, (x,))


def test_ordinary_numbers_are_left_alone():
    model, x = nn.LayerNorm(24, eps=1e-12).eval(), seeded(4, 24)
    package = lowering.convert(model, (x,), precision="safe", skip_model_load=True)
    operations = package._mil_program.functions["main"].operations
    assert [op.op_type for op in operations if op.op_type != "const"] == ["layer_norm"]


def test_a_program_without_such_places():
    program = passes.optimize_for_ane(nn.Linear(24, 4), (seeded(4, 24),))
    assert rewritten_carefully(program) is None
    careful = rewritten_carefully(
        passes.optimize_for_ane(nn.LayerNorm(24, 1e-12), (seeded(4, 24),))
    )
    assert careful is not None and careful.pipeline[-2:] == passes.CAREFUL_PASSES
    assert torch.allclose(careful(seeded(4, 24)), F.layer_norm(seeded(4, 24), (24,)), atol=1e-4)
