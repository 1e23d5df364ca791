"""Recipes from raw pictures: what passes, what fails and what is skipped."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lowering
from benchmarks import parity_full
from benchmarks.recipes import RECIPES, Recipe
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
