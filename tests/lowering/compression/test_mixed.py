"""As many bits as each weight needs, and integers for activations."""

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from frontend.errors import InputError
from lowering import compress, convert, load, multifunction, predict, save
from lowering.compression.activations import value_ranges
from lowering.compression.rungs import rung_of
from lowering.compression.weight_bits import WeightForm, _hull
from lowering.package.folder import stored_bytes


class Uneven(nn.Module):
    """One product matters, the other is a thousand times smaller."""

    def __init__(self):
        super().__init__()
        self.loud = nn.Conv2d(16, 64, 3, padding=1)
        self.quiet = nn.Conv2d(16, 64, 3, padding=1)

    def forward(self, x):
        return self.loud(x) + 0.01 * self.quiet(torch.tanh(x))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.manual_seed(0)
    x = torch.randn(1, 16, 8, 8)
    folder = tmp_path_factory.mktemp("mixed")
    model = Uneven().eval()
    packages = {
        name: save(convert(model, (x,), minimum_deployment_target=target), folder / name)
        for name, target in (("new", ct.target.iOS18), ("old", ct.target.iOS16))
    }
    return {"x": x.numpy()}, packages


def error(package, source, inputs):
    a, b = (next(iter(predict(one, inputs).values())).astype(float) for one in (package, source))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("limit", [0.003, 0.01, 0.06])
@pytest.mark.parametrize("form", ["new", "old"])
def test_an_error_is_kept_with_the_fewest_bytes(made, tmp_path, limit, form):
    inputs, packages = made
    source = packages[form]
    found = compress(
        source, "mixed", tmp_path / "small.mlpackage", budget=f"error={limit}", inputs=[inputs]
    )
    assert error(found.package, source, inputs) <= limit
    bits = {weight.name: weight.after for weight in found.weights}
    (loud,) = (bits.pop(name) for name in list(bits) if "loud" in name)
    (quiet,) = bits.values()
    assert quiet < loud
    # No single rung is as small and as exact.
    for rung in ("int8", "pal6", "pal4", "pal2"):
        other = compress(source, rung, tmp_path / "other.mlpackage")
        if error(other.package, source, inputs) <= limit:
            assert found.bytes_after <= other.bytes_after


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_bytes_are_kept_with_the_least_error(made, tmp_path, share):
    inputs, packages = made
    source = packages["new"]
    budget = int(stored_bytes(source) * share)
    found = compress(source, "mixed", tmp_path / "small.mlpackage", budget=budget, inputs=[inputs])
    assert stored_bytes(found.package) == found.bytes_after <= budget
    for rung in ("int8", "pal6", "pal4", "pal2"):
        other = compress(source, rung, tmp_path / "other.mlpackage")
        if other.bytes_after <= found.bytes_after:
            ours, theirs = (error(one.package, source, inputs) for one in (found, other))
            assert ours <= theirs


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (100, ["smaller than any mixture", "smallest that can be reached", "MB"]),
        ("error=1e-9", ["leaves every weight"]),
        ("metric=0.9", ["metric", "belong together"]),
        (None, ["need a budget"]),
        ("few", ["no budget"]),
    ],
)
def test_impossible_budgets(made, tmp_path, budget, words):
    inputs, packages = made
    with pytest.raises(InputError) as caught:
        compress(packages["new"], "mixed", tmp_path / "s.mlpackage", budget=budget, inputs=[inputs])
    for word in words:
        assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_packages_of_several_functions_are_refused(made, tmp_path):
    _, packages = made
    both = multifunction.merge({"one": packages["new"], "two": packages["new"]}, tmp_path / "both")
    for rung, budget in (("mixed", 10_000), ("w8a8", None)):
        with pytest.raises(InputError, match="packages of one function"):
            compress(both, rung, tmp_path / "small.mlpackage", budget=budget)
    with pytest.raises(InputError, match="a budget is of the rung mixed"):
        compress(packages["new"], "int8", tmp_path / "small.mlpackage", budget=10_000)
    assert [file.name for file in tmp_path.iterdir()] == ["both.mlpackage"]


@pytest.mark.parametrize(
    ("figures", "kept"),
    [
        ([(100, 0.0), (50, 0.1), (25, 0.2)], [100, 50, 25]),
        ([(100, 0.0), (50, 0.5), (25, 0.5)], [100, 25]),
        ([(100, 0.0), (100, 0.2), (60, 0.1)], [100, 60]),
    ],
)
def test_what_saves_less_for_its_error_is_left_out(figures, kept):
    choices = [WeightForm(rung_of("pal4"), size, distance) for size, distance in figures]
    assert [choice.bytes for choice in _hull(choices)] == kept


def test_ranges_are_of_all_samples(made):
    inputs, packages = made
    small = {"x": inputs["x"] / 10}
    once = value_ranges(packages["new"], [inputs])
    for order in ([inputs, small], [small, inputs]):
        both = value_ranges(packages["new"], order)
        assert both.keys() == once.keys()
        for name, known in once.items():
            assert both[name]["rmin"] <= known["rmin"]
            assert both[name]["rmax"] >= known["rmax"]
    assert once["x"]["rmax"] == pytest.approx(float(inputs["x"].max()), rel=1e-3)


def test_activations_become_integers(made, tmp_path):
    inputs, packages = made
    found = compress(packages["new"], "w8a8", tmp_path / "small.mlpackage", inputs=[inputs])
    model = load(found.package)
    assert {"quantize", "dequantize"} <= {op.type for op in model.ops}
    assert model.is_compressed
    assert model.metadata.keys() >= load(packages["new"]).metadata.keys()
    assert error(found.package, packages["new"], inputs) < 0.03
    # Calibrated on inputs a tenth as large, the same ones saturate.
    small = [{"x": inputs["x"] / 10}]
    wrong = compress(packages["new"], "w8a8", tmp_path / "wrong.mlpackage", inputs=small)
    assert error(wrong.package, packages["new"], inputs) > 0.3
    guessed = compress(packages["new"], "w8a8", tmp_path / "guessed.mlpackage")
    assert "random inputs" in guessed.warnings[0]


def test_activations_need_ios17(made, tmp_path):
    inputs, packages = made
    with pytest.raises(InputError, match="iOS 17"):
        compress(packages["old"], "w8a8", tmp_path / "small.mlpackage", inputs=[inputs])
    assert not list(tmp_path.iterdir())


def agreement(found, wanted):
    """Falls with the error, fast enough to tell rungs apart."""
    one, other = next(iter(found.values())), next(iter(wanted.values()))
    return 1 - float((one - other).norm() / other.norm())


@pytest.mark.parametrize(
    ("least", "metric"), [(0.999, "cosine"), (0.97, agreement), (0.3, agreement)]
)
def test_a_metric_is_kept_with_few_bytes(made, tmp_path, least, metric):
    inputs, packages = made
    source = packages["new"]
    out = tmp_path / "small.mlpackage"
    found = compress(source, "mixed", out, budget=f"metric={least}", inputs=[inputs], metric=metric)
    if metric is agreement:
        assert 1 - error(found.package, source, inputs) >= least - 1e-3
    smallest = compress(source, "pal2", tmp_path / "pal2.mlpackage")
    assert found.ratio > 1.9 and list(tmp_path.glob("small*")) == [out]
    if least < 0.5:
        assert found.bytes_after == pytest.approx(smallest.bytes_after, rel=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": "metric=0.99"}, "belong together"),
        ({"budget": "error=0.1", "metric": "cosine"}, "belong together"),
        ({"budget": "metric=0.999999", "metric": agreement}, "within the budget"),
    ],
)
def test_metrics_that_cannot_be_kept_are_refused(made, tmp_path, options, words):
    inputs, packages = made
    with pytest.raises(InputError, match=words):
        compress(packages["new"], "mixed", tmp_path / "s.mlpackage", inputs=[inputs], **options)
    assert not any(tmp_path.iterdir())
