"""Recipes from raw pictures: what passes, what fails and what is skipped."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lowering
from benchmarks import parity_full
from benchmarks.recipes import RECIPES, Recipe
from lowering.verification import Parity, Verification
from lowering.verification.metrics import Agreement
from lowering.verification.results_file import results_problems


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))
    image = lowering.Image((8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    kwargs = {"input": torch.rand(image.shape)}
    return Recipe(model.eval(), kwargs, {"input": image}, lowering.Classify(("a", "b", "c")))


def absent():
    raise ImportError("no package of this name")


def ill_fitting():
    recipe = small()
    return Recipe(recipe.model, recipe.kwargs, recipe.images, lowering.Classify(("a", "b")))


@pytest.mark.parametrize(
    ("recipe", "status", "code", "words"),
    [
        (small, "pass", 0, ""),
        (absent, "skip", 1, "no package of this name"),
        (ill_fitting, "fail", 1, "there are 2 labels"),
    ],
)
def test_what_comes_of_a_recipe(recipe, status, code, words, monkeypatch, tmp_path):
    monkeypatch.setitem(RECIPES, "vit", recipe)
    output = tmp_path / "results.json"
    result = CliRunner().invoke(parity_full.main, ["--only", "vit", "-o", str(output)])
    assert result.exit_code == code, result.output
    raw = json.loads(output.read_text())
    assert results_problems(raw) == []
    assert raw["totals"][status] == 2 and words in raw["results"][0]["reason"]
    assert "SKIPPED" in result.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("mean", "half", "wrong"),
    [
        (1.0, (1.0,), False),
        (0.9, (1.0,), True),  # torch itself agrees
        (0.9, (0.91,), False),
        (0.8, (0.91,), True),
        (0.9, (), True),  # in float32 nothing is chance
    ],
)
def test_boxes_are_judged_by_torch_itself(mean, half, wrong):
    agreement = Agreement("boxes", (mean,), 0.99, half)
    apart = Parity("boxes", 0.1, 0.1 if mean < 1 else 0.0, 1.0, 0.1, 0.05)
    found = Verification((apart,), "fp16", agreement=agreement)
    assert bool(list(parity_full.differences(found, ["boxes"]))) == wrong
    other = Verification((replace(apart, name="picture x"),), "fp16", agreement=agreement)
    assert bool(list(parity_full.differences(other, ["boxes"]))) == (wrong or mean < 1)
