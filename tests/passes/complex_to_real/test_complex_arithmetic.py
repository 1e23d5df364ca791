"""Every spelling of complex arithmetic, without the package: test_complex_to_real.py has it."""

import pytest
import torch

from passes.complex_to_real.complex_to_real import ComplexToReal
from tests.passes.util import Function, assert_same, reasons, run_pass, seeded

X = seeded(2, 6, 8)
WINDOW = torch.hann_window(8)
FREQUENCIES = torch.polar(torch.ones(6, 4), seeded(6, 4, seed=1))
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def paired(x):
    return torch.view_as_complex(x.unflatten(-1, (4, 2)))


def stft(x, **options):
    return torch.stft(x.flatten(1), 8, 3, window=WINDOW, return_complex=True, **options)


def apart(z):
    return torch.view_as_real(z)


MODELS = {
    "rotary_embedding": lambda m, x: apart(paired(x) * m.frequencies).flatten(2),
    "rotary_angles": lambda m, x: apart(paired(x) * torch.polar(m.ones, m.angles)).flatten(2),
    "real_and_imaginary": lambda m, x: (paired(x).real, paired(x).imag),
    "conjugate": lambda m, x: ((paired(x) * paired(x).conj()).real, paired(x).conj().imag),
    "products": lambda m, x: apart((paired(x) * 2j + 1 - 3j) * (1 + x[..., :4])),
    "quotients": lambda m, x: apart(
        paired(x) / (paired(x.flip(0)) + 3) + 2 / (paired(x) + 4) - paired(x) / x[..., :4].exp()
    ),
    "sums": lambda m, x: apart(
        (paired(x) + x[0, 0, :4] - paired(x)[:1]).sum(-1) - paired(x).mean()
    ),
    "broadcast_imaginary": lambda m, x: apart(x[..., :4] + paired(x)[:, :1]),
    "imaginary_number": lambda m, x: apart(x + 2j),
    "exponential": lambda m, x: apart(torch.exp(paired(x) / 4) + torch.exp(x[..., :4] * 1j)),
    "size_and_angle": lambda m, x: (paired(x).abs(), (paired(x) + 3).angle(), m.zeros.abs() + x),
    "square": lambda m, x: apart(paired(x) ** 2),
    "matmul": lambda m, x: apart(paired(x) @ paired(x).mT),
    "einsum": lambda m, x: apart(torch.einsum("bij,bkj->bik", paired(x), paired(x))),
    "where": lambda m, x: apart(torch.where(x[..., :4] > 0, paired(x), paired(x) * 1j)),
    "moves": lambda m, x: apart(
        torch.cat([paired(x).mT.flip(1), torch.stack(paired(x).mT.split(3, -1), 1)[:, 0]], -1)
    ),
    "stft": lambda m, x: (apart(stft(x)), stft(x, center=False, normalized=True).abs()),
    "stft_both_sides": lambda m, x: stft(x, onesided=False).real,
    "split": lambda m, x: apart(torch.cat(paired(x).split([1, 3], -1)[::-1], -1)),
    "istft": lambda m, x: torch.istft(stft(x) * 2, 8, 3, window=WINDOW, length=48),
    "fft": lambda m, x: torch.fft.fft(torch.fft.fft(x), dim=1).real,
    "rfft2": lambda m, x: apart(torch.fft.rfft2(x, norm="ortho")),
    "fftn_of_complex": lambda m, x: apart(torch.fft.ifftn(paired(x), norm="ortho")),
    "fftshift": lambda m, x: torch.fft.fftshift(torch.fft.fft2(x)).abs(),
    "convolution": lambda m, x: torch.fft.irfft(
        torch.fft.rfft(x, n=16) * torch.fft.rfft(x[0, 0], n=16), n=16
    ),
    "odd_count": lambda m, x: torch.fft.irfft(torch.fft.rfft(x[..., :7]) * (1 + 1j), n=7),
    "irfft2": lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=(6, 8)),
}


def real_only(function, **options):
    model = Function(
        function,
        frequencies=FREQUENCIES,
        angles=seeded(6, 4),
        ones=torch.ones(6, 4),
        zeros=torch.zeros(8, dtype=torch.complex64),
    ).eval()
    _, after, (report,) = run_pass(model, X, ComplexToReal(), **options)
    return model, after, report


@pytest.mark.parametrize("name", MODELS)
def test_same_without_complex_numbers(name):
    model, after, report = real_only(MODELS[name])
    assert report.rewrites and not report.declined
    complex_nodes = [n for n in after.graph.nodes if n.op == "call_function" and _is_complex(n)]
    assert not complex_nodes
    assert_same(model, after, X, **CLOSE)
    with pytest.raises(AssertionError):
        assert_same(Function(lambda m, x: MODELS[name](model, x + 0.01)), after, X, **CLOSE)


def _is_complex(node):
    return any(
        value.is_complex()
        for value in torch.utils._pytree.tree_leaves(node.meta.get("val"))
        if isinstance(value, torch.Tensor)
    )


def test_any_batch():
    batch = torch.export.Dim("batch", min=2, max=16)
    model, after, report = real_only(MODELS["rotary_embedding"], dynamic_shapes={"x": {0: batch}})
    assert not report.declined
    assert_same(model, after, seeded(5, 6, 8), **CLOSE)


def test_complex_results_are_refused():
    _, _, report = real_only(lambda m, x: paired(x) * 2)
    assert reasons(report) == ["it is a result, and a package gives real numbers only"]


def test_an_operator_without_a_form_says_so():
    _, _, report = real_only(lambda m, x: paired(x).atan().real)
    assert reasons(report) == ["no rule writes it with real numbers"]
