"""What float16 spoils stays in float32, and nothing else."""

import json
import warnings
from functools import partial

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

import lowering
import passes
from frontend.errors import InputError
from lowering.cli import main
from lowering.contract.names import CONTRACT_KEY
from lowering.conversion.converter import convert as convert_plainly
from lowering.conversion.pinned import PinnedPrecision
from lowering.errors import LoweringError, PackageError
from lowering.package.dtypes import FP16
from lowering.precision.pins import PINS_KEY, PinReport
from lowering.precision.safe import PrecisionWarning, convert_safely
from lowering.reference import load
from lowering.reference.mixed import MixedProgram
from lowering.verification.original import VerificationError


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def log_sum_exp(x):
    return (x * 6.0).exp().sum(-1).log()


def running_sum(x):
    return (x.abs() * 4000.0).cumsum(-1) / (x.abs() * 4000.0).sum(-1, keepdim=True)


def cancelled(x):
    h = x + 40.0
    return h.pow(2).mean(-1) - h.mean(-1).pow(2)


def power_sum(x):
    h = x * 40.0
    return (h * h * h).sum(-1) / 1e5


def plain(x):
    return torch.softmax(x @ x.transpose(-1, -2), -1) @ x


SPOILED = [log_sum_exp, running_sum, cancelled]


def draw(seed):
    return torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(seed))


def safe(model, x, **options):
    return lowering.convert(model, (x,), precision="safe", skip_model_load=True, **options)


def report_of(package):
    found = PinReport.from_metadata(package.user_defined_metadata)
    assert found is not None
    return found


@pytest.mark.parametrize("function", SPOILED)
def test_what_float16_spoils_stays_in_float32(function):
    model = Of(function).eval()
    plainly = lowering.convert(model, (draw(0),), skip_model_load=True)
    assert not lowering.verify(plainly, model, (draw(1),), locate=False)

    package = safe(model, draw(0))
    report = report_of(package)
    assert report.before > 1 >= report.after
    assert all(pin.source.line.startswith("test_safe.py:") for pin in report.pins)
    floats = [o.dtype for op in load(package).ops if op.type != "cast" for o in op.outputs]
    assert len(report.pins) == sum(dtype is not FP16 for dtype in floats)
    ends = package.get_spec().description
    kinds = [e.type.multiArrayType.dataType for e in (*ends.input, *ends.output)]
    assert kinds == [ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT16] * 2
    assert lowering.verify(package, model, (draw(1),))


@pytest.mark.parametrize("function", [plain, torch.tanh])
def test_nothing_is_pinned_where_float16_is_good_enough(function):
    report = report_of(safe(Of(function).eval(), draw(0)))
    assert report.pins == ()
    assert report.price_after == report.price_before


def test_calibration_finds_what_the_example_does_not():
    model = Of(power_sum).eval()
    quiet = draw(0) * 1e-2
    assert report_of(safe(model, quiet)).pins == ()
    found = report_of(safe(model, quiet, calibration=[(draw(1),)]))
    assert "float16 ends at 65504" in found.pins[0].reason
    by_name = report_of(safe(model, quiet, calibration=[{"x": draw(1)}]))
    assert by_name.pins == found.pins


def test_mixed_program_is_what_the_package_computes():
    model = Of(log_sum_exp).eval()
    exact = PinnedPrecision(None)
    made = convert_plainly(model, (draw(0),), compute_precision=exact, skip_model_load=True)
    mixed = MixedProgram(load(made), exact.castable)
    feed = {"x": draw(0).half().numpy()}
    for pins in ((), mixed.names[:1], mixed.names[1:], mixed.names):
        package = convert_plainly(
            model, (draw(0),), compute_precision=PinnedPrecision(pins), skip_model_load=True
        )
        ours = mixed.with_halves([name for name in mixed.names if name not in pins])(feed)
        theirs = load(package)(feed)
        for name, value in theirs.items():
            assert (ours[name] == value).all(), pins


def beyond(x):
    return (x * 100.0).pow(2)


def near_one(x):
    return torch.log(1 - x)


@pytest.mark.parametrize(
    ("function", "x", "end"),
    [
        (beyond, draw(0), ("output", "output")),
        (near_one, 1 - 1e-4 * draw(0).abs().clamp(min=0.1), ("x", "input")),
        (torch.cumsum, 200 + 1000 * draw(0).abs(), ("output", "output")),
    ],
)
def test_ends_that_float16_cannot_hold_are_float32(function, x, end):
    model = Of(partial(function, dim=-1) if function is torch.cumsum else function).eval()
    with pytest.warns(PrecisionWarning, match=f"{end[1]} '{end[0]}'"):
        package = safe(model, x)
    report = report_of(package)
    assert [(pin.op, pin.op_type) for pin in report.ends] == [end]
    assert report.after <= 1
    assert lowering.verify(package, model, (x,))


class Sums(nn.Module):
    total: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 8, 64))

    def forward(self, x):
        self.total += x * 1e5
        return x + 1


def test_error_out_of_reach_is_told():
    """A state is float16 in any package."""
    with pytest.warns(PrecisionWarning, match="times what is allowed"):
        package = safe(Sums().eval(), draw(0), minimum_deployment_target=ct.target.iOS18)
    assert report_of(package).after > 1


def test_options_that_cannot_be_meant():
    model, x = Of(plain).eval(), draw(0)
    with pytest.raises(LoweringError, match="no such precision"):
        lowering.convert(model, (x,), precision="float8")
    with pytest.raises(LoweringError, match="given twice"):
        safe(model, x, compute_precision=ct.precision.FLOAT16)
    for options in ({"calibration": [(x,)]}, {"input_ranges": {"x": (0, 1)}}):
        with pytest.raises(LoweringError, match="tell what must stay"):
            lowering.convert(model, (x,), **options)


def test_damaged_metadata_is_one_error():
    with pytest.raises(PackageError, match="operators in float32"):
        PinReport.from_metadata({PINS_KEY: '{"pins": 3}'})


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        h = x * 40.0
        return (h * h * h).sum(-1) / 1e5

def net():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(1, 8, 64),)
"""


def test_command_line_and_folder(tmp_path, monkeypatch):
    (tmp_path / "spoiled.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)

    def run(*args):
        result = CliRunner().invoke(main, [str(arg) for arg in args])
        assert result.exit_code == 0, result.output
        return result.stdout

    one = json.loads(
        run("convert", "spoiled.py:net", "-o", "a.mlpackage", "--precision", "safe", "--json")
    )["precision"]
    assert one["pins"] and one["after"] < 1 < float(one["before"])
    assert one["pins"][0]["line"].startswith("spoiled.py:8")

    run("export", "spoiled.py:net", "-o", "folder", "--precision", "safe")
    assert json.loads((tmp_path / "folder/contract.json").read_text())["precision"] == "safe"
    np.savez(tmp_path / "more.npz", x=draw(0).numpy())
    told = run("convert", "folder", "-o", "b.mlpackage", "--calibration", "more.npz")
    assert "in float32" in told and "predicted" in told
    run("verify", "b.mlpackage", "folder")

    # The package names what stays in float32 as a folder may.
    package = ct.models.MLModel("b.mlpackage", skip_model_load=True)
    own = json.loads(package.user_defined_metadata[CONTRACT_KEY])["precision"]
    assert own == {"mode": "safe", "pins": [pin["op"] for pin in one["pins"]], "ends": []}
    file = tmp_path / "folder/contract.json"
    given = json.loads(file.read_text()) | {"precision": own}
    file.write_text(json.dumps(given))
    again = lowering.convert("folder", skip_model_load=True)
    assert [pin.op for pin in report_of(again).pins] == own["pins"]
    assert report_of(again).runs == 0 and report_of(again).after < 1
    given["precision"]["pins"] = ["nothing"]
    file.write_text(json.dumps(given))
    with pytest.raises(LoweringError, match="not in the program"):
        lowering.convert("folder")
    given["precision"]["mode"] = "float16"
    file.write_text(json.dumps(given))
    with pytest.raises(lowering.ContractError, match="names what stays in float32"):
        lowering.convert("folder")


def test_optimized_models():
    model = Of(power_sum).eval()
    optimized = passes.optimize_for_ane(model, (draw(0),))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        package = lowering.convert(optimized, precision="safe", skip_model_load=True)
    assert report_of(package).pins
    assert lowering.verify(package, model, (draw(1),))


class Rare(nn.Module):
    """A table whose last rows are large."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 16)
        with torch.no_grad():
            self.table.weight[50:] *= 60

    def forward(self, ids):
        h = self.table(ids)
        return (h * h * h).sum(-1) / 1e5


def test_whole_numbers_are_tried_at_the_ends_of_their_range():
    model, ids = Rare().eval(), torch.arange(8)[None]
    plainly = lowering.convert(model, (ids,), skip_model_load=True)
    assert not lowering.verify(plainly, model, (ids + 92,), locate=False)

    def made(**options):
        return lowering.convert(model, (ids,), precision="safe", skip_model_load=True, **options)

    package = made()
    report = report_of(package)
    assert report.pins
    assert report.calls[1] == "the example with ids up to 99 (a table of 100)"
    assert lowering.verify(package, model, (ids + 70,))
    assert report_of(made(input_ranges={"ids": (0, 9)})).pins == ()
    with pytest.raises(InputError, match="which is no input"):
        made(input_ranges={"place": (0, 7)})


def turned_norm(x):
    """The program's own passes turn the product after the layer; a later pass names it anew."""
    return F.layer_norm((x * 300.0).square().transpose(-1, -2), (x.shape[-2],))


def folded(x):
    return F.layer_norm((x * 300.0).square().reshape(-1, 4).unsqueeze(0), (4,))


def sums_of_rows(x):
    return torch.einsum("bi,bi->b", x * 300.0, x * 300.0).sqrt()


class Narrowed(nn.Module):
    """A layer whose rows float16 has no room for, before a norm."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        return F.layer_norm(self.layer((x * 300.0).square()), (4,))


@pytest.mark.parametrize("model", [*map(Of, (turned_norm, folded, sums_of_rows)), Narrowed()])
def test_what_lies_between_pinned_operators_passes_on_their_numbers(model):
    torch.manual_seed(0)
    x = 2 * torch.randn(1, 6, 8) if not isinstance(model, Of) else 2 * torch.randn(6, 8)
    optimized = passes.optimize_for_ane(model.eval(), (x,))
    package = lowering.convert(optimized, precision="safe", skip_model_load=True)
    report = report_of(package)
    assert report.after <= 1 < report.before
    assert lowering.verify(package, model, (x,), locate=False)
    names = [pin.op for pin in report.pins]
    # As a contract gives them again.
    again = convert_safely(
        optimized, given={"pins": names, "ends": [end.op for end in report.ends]},
        skip_model_load=True,
    )  # fmt: skip
    assert [op.type for op in load(again).ops] == [op.type for op in load(package).ops]


class SharpAttention(nn.Module):
    """Of unit vectors, whose scores are large."""

    def __init__(self, heads, factor):
        super().__init__()
        self.heads, self.factor = heads, factor

    def forward(self, x):
        q, k, v = x.unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.factor
        return scores.softmax(-1) @ v


@pytest.mark.parametrize(("heads", "factor"), [(2, 100.0), (1, 140.0), (3, 200.0)])
def test_passes_do_not_loosen_what_is_allowed(heads, factor):
    """In half precision the rewritten program may err more than the model; that is no excuse."""
    model, x = SharpAttention(heads, factor).eval(), draw(7).repeat(1, 1, 3)[..., : 96 * heads // 2]
    optimized = passes.optimize_for_ane(model, (x,))
    assert optimized.captured is not None
    package = lowering.convert(optimized, precision="safe", skip_model_load=True)
    report = report_of(package)
    verified = lowering.verify(package, model, (x,))
    (output,) = verified.outputs
    assert verified and report.after == pytest.approx(output.rel_l2 / output.threshold, rel=1e-3)


@pytest.mark.parametrize("wrong", [(1, 8, 7), (3, 64, 2), (8,)])
def test_calibration_inputs_that_do_not_fit_are_one_error(wrong):
    model = nn.Linear(64, 4)
    with pytest.raises(VerificationError, match=r"cannot be run on call 2") as caught:
        safe(model, draw(0), calibration=[(torch.randn(wrong),)])
    assert f"{list(wrong)}" in str(caught.value)


def test_of_many_operators_only_some_are_measured_alone(monkeypatch):
    monkeypatch.setattr("lowering.precision.reasons._ALONE", 1)
    found = [pin.reason for pin in report_of(safe(Of(cancelled).eval(), draw(3))).pins]
    others = [reason for reason in found if reason.startswith("in float16 it and others add")]
    assert len(found) > 2 and len(others) == len(found) - 1
