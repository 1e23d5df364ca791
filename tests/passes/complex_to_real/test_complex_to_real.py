"""Complex numbers and Fourier transforms, written with real numbers."""

import pytest
import torch
from torch import nn

from lowering import convert, verify
from passes.complex_to_real.complex_to_real import ComplexToReal
from tests.passes.util import Function, reasons, run_pass, seeded

X = seeded(2, 6, 10)
SOUND = seeded(1, 320)
WINDOW = torch.hann_window(64)
TURNS = torch.polar(torch.ones(6, 5), seeded(6, 5, seed=3))
WEIGHT = torch.complex(seeded(3, 3, 4, 4), seeded(3, 3, 4, 4, seed=1))


def spectrum(m, x):
    return torch.stft(x, 64, 16, window=m.window, return_complex=True)


def fourier_operator(m, x):
    z = torch.fft.rfft2(x)
    out = torch.zeros(2, 3, 8, 5, dtype=torch.cfloat)
    out[:, :, :4, :4] = torch.einsum("bixy,ioxy->boxy", z[:, :, :4, :4], m.weight)
    return torch.fft.irfft2(out, s=(8, 8))


CASES = {
    "magnitude": (lambda m, x: spectrum(m, x).abs(), SOUND),
    # The first frames mirror themselves: their angles are on the edge of pi.
    "angle": (lambda m, x: spectrum(m, x)[:, 1:-1, 3:-3].angle(), SOUND),
    "real_view": (lambda m, x: torch.view_as_real(spectrum(m, x)).square().sum(-1), SOUND),
    "there_and_back": (
        lambda m, x: torch.istft(spectrum(m, x) * 0.5, 64, 16, window=m.window),
        SOUND,
    ),
    "rotary": (
        lambda m, x: torch.view_as_real(
            torch.view_as_complex(x.reshape(2, 6, 5, 2)) * m.turns
        ).flatten(-2),
        X,
    ),
    "fourier_operator": (fourier_operator, seeded(2, 3, 8, 8)),
    "fft_of_all": (lambda m, x: torch.fft.fftn(x, dim=(1, 2)).real, X),
    "ifft": (lambda m, x: torch.fft.ifft(torch.fft.fft(x) * (1 + 2j), norm="ortho").imag, X),
    "hfft": (lambda m, x: torch.fft.irfft(torch.fft.rfft(x, norm="forward"), 9), X),
    "arithmetic": (
        lambda m, x: (
            lambda z: (z * z + 2 - z.conj() / (z + 3)) / 2 - (0.5 + 1j) + z.exp() + 1 / (z + 4)
        )(torch.complex(x, x.flip(-1))).abs(),
        X,
    ),
    "matmul": (lambda m, x: (torch.complex(x, -2 * x) @ torch.complex(x, x).mT).imag, X),
    "views": (
        lambda m, x: (
            torch.cat([torch.fft.fft(x)[:, 1:3], torch.polar(x, x)[:, :2]], 1)
            .transpose(1, 2)
            .sum(1)
            .abs()
        ),
        X,
    ),
}


def build(name):
    return Function(CASES[name][0], window=WINDOW, turns=TURNS, weight=WEIGHT)


@pytest.mark.parametrize("name", CASES)
def test_complex_values_go(name):
    model, x = build(name), CASES[name][1]
    _, after, (report,) = run_pass(model, x, ComplexToReal())
    assert report.rewrites > 0 and not report.declined
    values = [node.meta.get("val") for node in after.graph.nodes]
    assert not any(isinstance(v, torch.Tensor) and v.is_complex() for v in values)
    for given in (x, x.flip(-1) * 2):
        (found,) = after.module()(given)
        wanted = model(given)
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * scale)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(found, model(given + 0.01), rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["magnitude", "rotary", "fourier_operator"])
def test_the_package_computes_the_same(name):
    model, x = build(name), CASES[name][1]
    _, after, _ = run_pass(model, x, ComplexToReal())
    assert verify(convert(after, skip_model_load=True), model, (x,), pipeline=(ComplexToReal(),))


def test_what_has_no_rule_is_declined():
    model = Function(lambda m, x: torch.fft.fft(x).tanh().abs())
    _, _, (report,) = run_pass(model, X, ComplexToReal())
    assert reasons(report) == ["no rule writes it with real numbers"]


def test_long_transforms_are_declined():
    model = Function(lambda m, x: torch.fft.rfft(x).abs())
    _, _, (report,) = run_pass(model, seeded(1, 8192), ComplexToReal())
    assert reasons(report) == ["its Fourier transform of 8192 points is too long for a matrix"]


def test_complex_inputs_are_declined():
    class Model(nn.Module):
        def forward(self, z):
            return z.abs()

    _, _, (report,) = run_pass(Model(), torch.complex(X, X), ComplexToReal())
    assert reasons(report) == ["it is an input, and a package takes real numbers only"]


def test_real_programs_stay():
    _, _, (report,) = run_pass(nn.Linear(10, 4), X, ComplexToReal())
    assert (report.rewrites, report.declined) == (0, ())
