"""Norms in float16 at magnitudes whose squares it cannot hold, on every release of torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import passes
from lowering import convert, predict

SCALES = (1e-3, 1e-2, 1.0, 30.0, 1e3)
# A norm adds two or three roundings of float16, 5e-4 each, to those of its input.
CLOSE = 2e-3


class Norms(nn.Module):
    """Norms of ``x`` (B=1, C=8, S=64), the ways in which models write them."""

    def forward(self, x):
        other = x.roll(1, 1)
        across = x.norm(dim=1, keepdim=True)
        return {
            "normalize": F.normalize(x, dim=-1),
            "normalize channels": F.normalize(x, dim=1),
            "vector_norm": torch.linalg.vector_norm(x, dim=-1),
            "vector_norm 1": torch.linalg.vector_norm(x, 1, dim=-1),
            "vector_norm inf": torch.linalg.vector_norm(x, float("inf"), dim=-1),
            "over its norm": x / x.norm(p=2, dim=-1, keepdim=True),
            "matrix_norm": torch.linalg.matrix_norm(x),
            "rms by hand": x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
            "rms_norm": F.rms_norm(x, (64,), eps=1e-6),
            "cosine": F.cosine_similarity(x, other, dim=-1),
            "distance": F.pairwise_distance(x, other),
            "response": across / (across.mean(-1, keepdim=True) + 1e-6),
        }


@pytest.fixture(scope="module")
def package():
    return convert(passes.optimize_for_ane(Norms(), (torch.randn(1, 8, 64),)))


@pytest.mark.parametrize("scale", SCALES)
def test_norms_keep_their_numbers(package, scale):
    x = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(0)) * scale
    x = x.half().float()
    expected = Norms()(x)
    found = predict(package, {"x": x})
    assert len(found) == len(expected)
    for (name, wanted), value in zip(expected.items(), found.values(), strict=True):
        error = (torch.as_tensor(value).float() - wanted).norm() / wanted.norm()
        assert error < CLOSE, name
