"""The large decoder is what it says, shown on a small one."""

import pytest
import torch

from benchmarks import large_model


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, size in {"LAYERS": 1, "WIDTH": 48, "INNER": 64, "VOCABULARY": 100}.items():
        monkeypatch.setattr(large_model, name, size)


def test_its_weights_are_bfloat16_and_its_order_counts():
    model = large_model.decoder()
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    ids = torch.arange(large_model.TOKENS).reshape(1, -1)
    with torch.no_grad():
        ahead, back = model(ids), model(ids.flip(1))
    assert ahead.shape == (1, 100)
    assert not torch.equal(ahead, back)


def test_a_package_is_made_of_all_weights():
    found = large_model.measured()
    assert found["parameters"] > 48 * 100
    assert found["package_gb"] * 1e9 > 2 * 48 * 100
    assert found["peak_gb"] > found["package_gb"]
    assert found["convert, seconds"] > 0
