"""The acceptance table notices what is missed, and where."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import passes
from benchmarks import acceptance, hand_port, ports
from benchmarks.ports import Port


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        for block in self.layer:
            x = block(x)
        return (x,)


def build() -> ports.Built:
    return Net().eval(), lambda: {"x": torch.randn(1, 4, 8)}


OURS = Port(
    "nobody",
    build,
    at_most={"transpose": 2},
    exactly={"layer_norm": 0},
    block="layer.",
    banned=("linear", "reshape"),
)
PLAIN = Port("nobody", build, (), at_most={"ops": 3}, block="layer.", banned=("linear", "reshape"))


@pytest.fixture
def own_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(ports.PORTS):
        monkeypatch.delitem(ports.PORTS, name)
    monkeypatch.setitem(ports.PORTS, "ours", OURS)
    monkeypatch.setitem(ports.PORTS, "plain", PLAIN)


def by_metric(result: dict[str, Any]) -> dict[str, Any]:
    return {count.metric: count for count in result["counts"]}


@pytest.mark.usefixtures("own_ports")
def test_kept():
    result = acceptance.measure("ours")
    assert result["kept"] and result["allclose"]
    assert 0 < result["package_relative_l2"] < acceptance.PACKAGE_BOUND
    found = by_metric(result)
    assert found["linear in blocks"].found == 0 and found["linear in blocks"].limit == "=0"
    assert found["transpose"].limit == "≤2" and found["linear"].limit == ""


@pytest.mark.usefixtures("own_ports")
def test_missed():
    result = acceptance.measure("plain")
    assert not result["kept"]
    found = by_metric(result)
    assert found["linear in blocks"].found == 4 and not found["linear in blocks"].kept
    assert not found["ops"].kept
    assert found["reshape in blocks"].kept


def test_blocks_that_are_not_there():
    model, inputs = build()
    from lowering.conversion.converter import convert

    mlmodel = convert(passes.optimize_for_ane(model, (), kwargs=inputs()), skip_model_load=True)
    with pytest.raises(ValueError, match="encoder"):
        acceptance._ops_in_blocks(mlmodel, "encoder.")


def test_as_near_to_float64_as_the_original():
    torch.manual_seed(0)
    model, inputs = Net().eval(), {"x": torch.randn(1, 4, 8)}
    with torch.no_grad():
        want = model(**inputs)[0]
        assert acceptance._as_near(model, inputs, want, want)
        assert not acceptance._as_near(model, inputs, want, want + 1e-5)


@pytest.mark.usefixtures("own_ports")
@pytest.mark.parametrize(("name", "code"), [("ours", 0), ("plain", 1), ("other", 2)])
def test_command(name: str, code: int):
    result = CliRunner().invoke(acceptance.main, ["--only", name, "--json", "--threads", "1"])
    assert result.exit_code == code
    if code < 2:
        (entry,) = json.loads(result.stdout)
        assert entry["kept"] is (code == 0)
        assert {"metric", "found", "limit", "kept"} == set(entry["counts"][0])


@pytest.mark.usefixtures("own_ports")
def test_table():
    result = CliRunner().invoke(acceptance.main, ["--threads", "1"])
    assert result.exit_code == 1
    assert "✗ 4 linear" in result.stdout and "clean" in result.stdout


def test_chunks_reach_the_pass():
    (split,) = (p for p in ports.PORTS["whisper-split-256"].pipeline if p.name == "split_attention")
    assert split.query_chunk == 256 and split.chunk_above == 0


@pytest.mark.parametrize(("layers", "width", "heads"), [(1, 16, 2), (2, 32, 4), (3, 24, 1)])
def test_the_hand_port_computes_the_encoder(layers, width, heads):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True)
    encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(1, 5, width)
    with torch.no_grad():
        found = hand_port.Encoder(encoder)(x.transpose(1, 2).unsqueeze(2))
        expected = encoder(x)
    torch.testing.assert_close(found.squeeze(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """More work than ``Net``: it runs it twice."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.net(x)[0])[0]


@pytest.mark.usefixtures("own_ports")
@pytest.mark.parametrize(
    ("by_hand", "kept"), [(Twice, True), (lambda net: nn.Identity(), False), (None, True)]
)
def test_the_price_of_the_hand_port_is_the_limit(by_hand, kept, monkeypatch):
    monkeypatch.setitem(ports.PORTS, "ours", replace(OURS, by_hand=by_hand))
    result = acceptance.measure("ours")
    price = by_metric(result)[acceptance.PRICE]
    assert price.found > 0 and price.kept is kept and result["kept"] is kept
    assert price.limit.startswith("≤") is (by_hand is not None)
