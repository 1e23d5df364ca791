"""Two packages side by side."""

from __future__ import annotations

import json

import pytest

import passes
from lowering import convert, save
from lowering.ablation.compare import compare
from lowering.errors import PackageError
from tests.lowering.ablation.ablation_models import mlp


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    model = mlp()
    plain = convert(model.model, model.args, skip_model_load=True)
    optimized = convert(passes.optimize_for_ane(model.model, model.args), skip_model_load=True)
    return save(plain, folder / "plain"), save(optimized, folder / "optimized")


def test_figures_and_outputs(packages):
    found = compare(*packages, chips=("M4", "M1"))
    rows = {label: values for label, *values in found.rows()}
    assert rows["  linear"] == ["2", "0"] and rows["  conv"] == ["0", "2"]
    assert rows["ops"] == [str(found.first.mil.ops), str(found.second.mil.ops)]
    assert {"M1: price, ms", "M4: latency, ms", "M4: switches"} <= set(rows)
    assert float(rows["weights, MB"][0]) > 0
    (difference,) = found.output_difference.values()
    assert difference < 1e-2
    json.dumps(found.to_json())


def test_a_package_beside_itself(packages):
    found = compare(packages[0], packages[0])
    assert all(one == other for _, one, other in found.rows())
    assert list(found.output_difference.values()) == [0.0]


def test_other_weights_show_in_the_outputs(packages, tmp_path):
    model = mlp()
    model.model.second.weight.data *= 2
    other = save(convert(model.model, model.args, skip_model_load=True), tmp_path / "other")
    (difference,) = compare(packages[0], other).output_difference.values()
    assert difference > 0.1


def test_other_inputs_are_not_run(packages, tmp_path):
    model = mlp()
    longer = save(
        convert(model.model, (model.args[0].repeat(1, 2, 1),), skip_model_load=True),
        tmp_path / "longer",
    )
    assert compare(packages[0], longer).output_difference is None


def test_no_package(tmp_path, packages):
    with pytest.raises(PackageError):
        compare(packages[0], tmp_path / "missing.mlpackage")
