import pytest
import torch
from torch import nn

from lowering.conversion.converter import convert
from lowering.errors import LoweringError, UnsupportedOpsError


@torch.library.custom_op("lowering_tests::unknown", mutates_args=())
def unknown(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@unknown.register_fake
def _(x):
    return torch.empty_like(x)


class Inner(nn.Module):
    def forward(self, x):
        return torch.linalg.qr(torch.ops.lowering_tests.unknown(x))[0]


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Inner(), Inner()

    def forward(self, x):
        return self.second(self.first(x)) + torch.fft.fft(x).real


def test_every_unsupported_operator_at_once_with_places():
    with pytest.raises(UnsupportedOpsError) as caught:
        convert(Outer(), (torch.randn(4, 4),))
    entries = {entry.op: entry for entry in caught.value.unsupported}
    assert {"lowering_tests.unknown.default", "aten.linalg_qr.default"} < set(entries)
    assert len(entries["lowering_tests.unknown.default"].places) == 2
    text = str(caught.value)
    assert "first · test_unsupported.py" in text and "second · test_unsupported.py" in text
    assert "real and imaginary parts" in text
    assert any("complex" in entry.reason for entry in entries.values())
    report = caught.value.to_json()
    assert {entry["op"] for entry in report["unsupported"]} == set(entries)


class Complex(nn.Module):
    def forward(self, x):
        return torch.complex(x, x)


def test_complex_results_are_refused():
    with pytest.raises(LoweringError, match="complex"):
        convert(Complex(), (torch.randn(2),))


class Counts(nn.Module):
    def forward(self, ids):
        return torch.bincount(ids, minlength=40)


def test_a_length_that_depends_on_values_is_said():
    with pytest.raises(UnsupportedOpsError) as caught:
        convert(Counts(), (torch.randint(0, 40, (200,)),))
    (entry,) = caught.value.unsupported
    assert entry.op == "aten.bincount.default" and "length of its result" in entry.reason
    assert "one_hot" in entry.hint and entry.places
