"""Latency with the default passes beside latency without, tried on small models."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from benchmarks import ablation, no_slower
from benchmarks.no_slower import Row


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(256, 4, 512, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


MADE = {
    "attention": lambda: (Attention().eval(), {"x": torch.randn(1, 64, 256)}),
    "convolution": lambda: (nn.Conv2d(256, 256, 3).eval(), {"input": torch.randn(1, 256, 32, 32)}),
    "arithmetic": lambda: (nn.ReLU(), {"input": torch.randn(1, 3, 16, 16)}),
}


@pytest.fixture
def small(monkeypatch):
    for name, made in MADE.items():
        monkeypatch.setitem(ablation.MODELS, name, made)
    return CliRunner()


@pytest.mark.parametrize("name", sorted(MADE))
def test_every_chip_and_system_has_a_row(small, name):
    chips = ["M2", "M4"]
    options = [word for chip in chips for word in ("--chip", chip)]
    result = small.invoke(no_slower.main, ["--only", name, *options, "--json"])
    found = json.loads(result.stdout)
    keys = [(row["model"], row["system"], row["chip"]) for row in found["rows"]]
    assert keys == [(name, system, chip) for system in no_slower.SYSTEMS for chip in chips]
    assert found["kind"] == "predicted"
    for row in found["rows"]:
        # One small operator is not worth the way to the ANE.
        assert (row["without_ms"] is None) == (name == "arithmetic")
        assert row["ratio"] is None or row["ratio"] == row["with_ms"] / row["without_ms"] > 0
    assert result.exit_code == bool(found["slower"])


def test_untargeted_asks_for_no_chip(monkeypatch):
    import passes

    asked: list[str | None] = []
    optimize = passes.optimize_for_ane

    def recorded(*args, **kwargs):
        asked.append(kwargs.get("target"))
        return optimize(*args, **kwargs)

    monkeypatch.setattr(passes, "optimize_for_ane", recorded)
    made = MADE["arithmetic"]()
    list(no_slower.rows_of("a", made, ("iOS17",), ("M2", "M4"), targeted=False))
    assert asked == [None] * 3
    asked.clear()
    list(no_slower.rows_of("a", made, ("iOS17",), ("M2", "M4")))
    assert asked == [None, "M2", "M4"]


class Powers(nn.Module):
    """A complex product: Core ML has none, and passes write it in real numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.fft.rfft(x) * 2j)


def test_a_model_that_only_the_passes_convert_is_told(capsys):
    made = (Powers(), {"x": torch.randn(1, 64)})
    (row,) = no_slower.rows_of("powers", made, ("iOS17",), ("M4",))
    assert "powers, iOS17: cannot be converted without passes: " in capsys.readouterr().err
    assert row.without_ms is None and not row.slower


@pytest.mark.parametrize(
    ("without", "with_passes", "slower"),
    [
        (1.0, 0.9, False),
        (1.0, 1.0, False),
        (1.0, 1.004, False),
        (1.0, 1.01, True),
        (1.0, None, True),  # off the ANE
        (None, 1.0, False),
        (None, None, False),
    ],
)
def test_slower(without, with_passes, slower):
    assert Row("m", "iOS17", "M4", without, with_passes).slower is slower


def test_a_slower_model_is_named_and_fails(small, monkeypatch):
    def slower(name, made, systems, chips, *, targeted):
        yield Row(name, "iOS17", "M2", 1.0, 0.5)
        yield Row(name, "iOS17", "M4", 1.0, 1.25)

    monkeypatch.setattr(no_slower, "rows_of", slower)
    result = small.invoke(no_slower.main, ["--only", "arithmetic"])
    assert result.exit_code == 1
    assert "1.250" in result.output and "1 of 2" in result.output and "M4" in result.output


@pytest.mark.parametrize("option", ["--only", "--chip"])
def test_unknown_names_are_refused(small, option):
    result = small.invoke(no_slower.main, [option, "nothing"])
    assert result.exit_code == 2 and "nothing" in result.output and "there are" in result.output


def test_the_largest_have_the_most_parameters(monkeypatch):
    from benchmarks.zoo.entry import Entry, floats

    sizes = {"small": 2, "largest": 64, "large": 16}
    catalog = {
        name: ("plain", Entry(name, lambda n=n: nn.Linear(n, n), floats(x=(1, n))))
        for name, n in sizes.items()
    }
    monkeypatch.setattr(no_slower, "entries", lambda: catalog)
    assert [entry.name for entry in no_slower.largest(2)] == ["largest", "large"]
    assert no_slower.defaults() == [*ablation.MODELS, "largest", "large", "small"]
