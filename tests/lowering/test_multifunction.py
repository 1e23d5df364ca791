"""Several programs as functions of one package."""

from __future__ import annotations

import json
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import passes
from lowering import LoweringError, Report, compare, convert, load, report, save, verify
from lowering.cli import main
from lowering.conversion.metadata import PIPELINE_KEY
from lowering.errors import PackageError, SaveError
from lowering.multifunction import merge
from lowering.package.open import open_package, read_specification


class Counter(nn.Module):
    """Adds to what it has seen."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, size))

    def forward(self, x):
        self.seen.add_(x)
        return self.seen * 2


def _encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).eval()


def _weights(path: Path) -> int:
    return (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def test_lengths_of_an_encoder_share_its_weights(tmp_path: Path):
    encoder = _encoder()
    lengths = {f"tokens_{n}": n for n in (16, 32, 64)}
    parts = {name: convert(encoder, (torch.randn(1, n, 64),)) for name, n in lengths.items()}
    merged = merge(parts, tmp_path / "merged")
    alone = save(parts["tokens_16"], tmp_path / "alone")
    assert _weights(merged) <= _weights(alone) + 1024
    for name, n in lengths.items():
        x = torch.randn(1, n, 64)
        function = load(merged, function=name, precision="fp32")
        (found,) = function({next(iter(function.inputs)): x}).values()
        np.testing.assert_allclose(found, encoder(x).detach(), rtol=5e-2, atol=5e-3)


def test_different_weights_stay_apart(tmp_path: Path):
    torch.manual_seed(0)
    adapters = {name: nn.Linear(64, 64).eval() for name in ("plain", "formal", "brief")}
    x = torch.randn(1, 64)
    packages = {
        name: save(convert(adapter, (x,)), tmp_path / name) for name, adapter in adapters.items()
    }
    merged = merge(packages, tmp_path / "merged", default="formal")
    for name, package in packages.items():
        merged_function, alone = load(merged, function=name), load(package)
        np.testing.assert_array_equal(
            *(next(iter(f({"input": x}).values())) for f in (merged_function, alone))
        )
    default = next(iter(load(merged)({"input": x}).values()))
    formal = next(iter(load(packages["formal"])({"input": x}).values()))
    np.testing.assert_array_equal(default, formal)


def test_a_state_is_handed_on(tmp_path: Path):
    model = convert(Counter(), (torch.zeros(1, 8),), minimum_deployment_target=ct.target.iOS18)
    merged = merge({"one": model, "two": model}, tmp_path / "m")
    one, two = load(merged, function="one"), load(merged, function="two")
    state = one.make_state()
    one({"x": np.ones((1, 8))}, state)
    (found,) = two({"x": np.ones((1, 8))}, state).values()
    np.testing.assert_array_equal(found, np.full((1, 8), 4))


def test_coremltools_reads_the_package(tmp_path: Path):
    merged = merge(
        {name: convert(_encoder(), (torch.zeros(1, 4, 64),)) for name in ("a", "b")},
        tmp_path / "m",
        metadata={"note": "both"},
    )
    model = ct.models.MLModel(str(merged), skip_model_load=True, function_name="b")
    assert [f.name for f in model.get_spec().description.functions] == ["a", "b"]
    assert model.user_defined_metadata["note"] == "both"
    specification, _ = read_specification(merged)
    assert specification.description.defaultFunctionName == "a"
    assert not specification.description.input


def test_equal_parts_give_equal_bytes(tmp_path: Path):
    files = []
    for name in ("first", "second"):
        merged = merge({"f": convert(_encoder(), (torch.zeros(1, 4, 64),))}, tmp_path / name)
        files.append(
            {p.relative_to(merged): p.read_bytes() for p in merged.rglob("*") if p.is_file()}
        )
    assert list(files[0].values()) == list(files[1].values())


@pytest.mark.parametrize(
    ("names", "options", "match"),
    [
        ((), {}, "needs a function"),
        (("4 tokens",), {}, "identifier"),
        (("a",), {"default": "b"}, "none of those given"),
    ],
)
def test_names_that_cannot_be(names, options, match, tmp_path: Path):
    model = convert(nn.Linear(4, 4), (torch.zeros(1, 4),))
    with pytest.raises(SaveError, match=match):
        merge(dict.fromkeys(names, model), tmp_path / "m", **options)
    assert list(tmp_path.iterdir()) == []


def test_states_that_do_not_agree(tmp_path: Path):
    parts = {
        f"of_{n}": convert(
            Counter(n), (torch.zeros(1, n),), minimum_deployment_target=ct.target.iOS18
        )
        for n in (4, 8)
    }
    with pytest.raises(SaveError, match="state 'seen' differs"):
        merge(parts, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_package_of_several_functions_is_no_part(tmp_path: Path):
    model = convert(nn.Linear(4, 4), (torch.zeros(1, 4),))
    merged = merge({"a": model, "b": model}, tmp_path / "m")
    with pytest.raises(SaveError, match="must have one function"):
        merge({"c": merged}, tmp_path / "n")
    assert open_package(merged).description is not None
    with pytest.raises(LoweringError):
        convert(Counter(), (torch.zeros(1, 8),))  # a state needs iOS 18


class Scaled(nn.Module):
    """What differs between functions: a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.factor = nn.Linear(16, 16), factor

    def forward(self, x):
        return torch.relu(self.linear(x)) * self.factor


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x = torch.randn(1, 16)
    parts = {
        "plain": convert(Scaled(1.0), (x,)),
        "tuned": convert(passes.optimize_for_ane(Scaled(3.0), (x,))),
        "longer": convert(Scaled(2.0), (torch.randn(4, 16),)),
    }
    return merge(parts, tmp_path_factory.mktemp("functions") / "scaled")


def test_each_function_is_held_against_its_own_original(scaled: Path):
    x = torch.randn(1, 16)
    assert verify(scaled, Scaled(1.0), (x,))
    assert verify(scaled, Scaled(3.0), (x,), function="tuned")
    assert verify(scaled, Scaled(2.0), (torch.randn(4, 16),), function="longer")
    wrong = verify(scaled, Scaled(3.0), (x,), function="plain")
    assert not wrong and wrong.divergence is not None
    with pytest.raises(PackageError, match="no function 'other'"):
        verify(scaled, Scaled(1.0), (x,), function="other")


def test_functions_keep_their_own_sources_and_passes(scaled: Path):
    metadata = {name: load(scaled, function=name).metadata for name in ("plain", "tuned")}
    assert PIPELINE_KEY not in metadata["plain"]
    assert len(json.loads(metadata["tuned"][PIPELINE_KEY])) > 5
    made = report(scaled, Scaled(3.0), (torch.randn(1, 16),), function="tuned")
    assert isinstance(made, Report) and made.accuracy is not None and made.accuracy.outputs.passed
    assert len(made.package.passes) > 5 and report(scaled).package.passes == ()


def test_two_functions_of_one_package_are_compared(scaled: Path):
    found = compare(scaled, scaled, function=("plain", "tuned"))
    assert found.output_difference is not None
    (difference,) = found.output_difference.values()
    assert difference == pytest.approx(2, rel=0.01)
    assert compare(scaled, scaled, function="tuned").output_difference == {"output": 0.0}
    assert compare(scaled, scaled, function=("plain", "longer")).output_difference is None
    shown = CliRunner().invoke(
        main, ["compare", *[str(scaled)] * 2, "--function", "plain", "--function", "tuned"]
    )
    assert shown.exit_code == 0 and "tuned" in shown.output
    thrice = CliRunner().invoke(main, ["compare", *[str(scaled)] * 2, *["--function", "plain"] * 3])
    assert thrice.exit_code == 2 and "once or twice" in thrice.output
