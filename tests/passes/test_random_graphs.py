"""Random networks through the whole default pipeline, in every form, against eager."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import nn

from frontend.capturing import capture
from passes import default_pipeline
from passes.pipeline import run
from tests.passes.util import seeded

FORMS = ("split", "batched", "native")
WIDTH = 8
EXAMPLES = 8
# A chain of random layers may amplify roundings. Where the outputs differ by more than the
# contract, eager float32 must be off from float64 by at least this share of the difference.
AMPLIFIED = 1 / 8


@dataclass(frozen=True)
class Step:
    """One layer: a kind, two numbers that it may use, and which earlier value it may read."""

    kind: str
    one: int
    two: int
    back: int


class Random(nn.Module):
    """Runs ``steps`` on a value (..., S, C); each keeps the number of channels."""

    def __init__(self, steps, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.steps = steps
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=s.one % 2 == 0) for s in steps)
        self.wides = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in steps)
        self.narrows = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in steps)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in steps)
        self.convs = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, padding=1) for _ in steps)
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in steps)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, 0.0, 0.2)
        self.eval()

    def forward(self, x):
        values = [x]
        for i, step in enumerate(self.steps):
            earlier = values[-1 - step.back % len(values)]
            values.append(KINDS[step.kind](self, i, step, values[-1], earlier))
        extra = values[len(values) // 2]
        return values[-1], extra.sum(-1), values[-1].mean(-2)


def _heads(x, h):
    return x.unflatten(-1, (h, -1)).transpose(-2, -3)


def _attention(m, i, s, x, earlier):
    """Self- or cross-attention; of tokens that lie behind any number of leading axes."""
    h = (1, 2, 4)[s.one % 3]
    flat, memory = (t.reshape(-1, t.shape[-2], WIDTH) for t in (x, earlier))
    if flat.shape[0] != memory.shape[0]:
        memory = flat
    q, k, v = m.wides[i](flat).chunk(3, -1)
    if s.two % 2:
        _, k, v = m.wides[i](memory).chunk(3, -1)
    q, k, v = (_heads(t, h) for t in (q, k, v))
    if s.two % 3 == 0:
        found = F.scaled_dot_product_attention(q, k, v)
    elif s.two % 3 == 1:
        causal = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=causal)
    else:
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        found = scores.softmax(-1) @ v
    return found.transpose(1, 2).flatten(2).reshape(x.shape)


def _residual(m, i, s, x, earlier):
    return x + earlier if x.shape == earlier.shape else x * 2


def _gate(m, i, s, x, earlier):
    if x.shape != earlier.shape:
        return x.sigmoid()
    return x * torch.sigmoid(m.linears[i](earlier))


def _concat(m, i, s, x, earlier):
    other = earlier if x.shape == earlier.shape else x.tanh()
    if s.one % 2:
        return m.narrows[i](torch.cat([x, other], -1))
    return torch.cat([x, other], -2)[..., 1 : 1 + x.shape[-2], :]


def _split(m, i, s, x, earlier):
    if s.one % 3 == 0:
        a, b, c = m.wides[i](x).chunk(3, -1)
        return a * b.sigmoid() + c
    if s.one % 3 == 1:
        a, b = x.split([3, WIDTH - 3], -1)
        return torch.cat([b, a.relu()], -1)
    a, b = x.split([1, x.shape[-2] - 1], -2)
    return torch.cat([b, a.relu()], -2)


def _slice(m, i, s, x, earlier):
    if s.one % 2:
        return x[..., 1:, :] if x.shape[-2] > 2 else x
    return F.pad(x[..., 2:], (1, 1))


def _norm(m, i, s, x, earlier):
    if s.one % 3 == 0:
        return m.norms[i](x)
    if s.one % 3 == 1:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * m.norms[i].weight
    rows = x.reshape(-1, x.shape[-2], WIDTH).transpose(1, 2)
    return m.batch_norms[i](rows).transpose(1, 2).reshape(x.shape)


def _conv(m, i, s, x, earlier):
    rows = x.reshape(-1, x.shape[-2], WIDTH).transpose(1, 2)
    if s.one % 2:
        return m.convs[i](rows).transpose(1, 2).reshape(x.shape)
    image = rows.unsqueeze(2)
    weight = m.convs[i].weight.unsqueeze(2)
    return F.conv2d(image, weight, padding=(0, 1)).squeeze(2).transpose(1, 2).reshape(x.shape)


def _reduce(m, i, s, x, earlier):
    axis = (-1, -2)[s.one % 2]
    kind = (torch.mean, torch.sum, torch.amax)[s.two % 3]
    return x - kind(x, dim=axis, keepdim=True)


def _shuffle(m, i, s, x, earlier):
    if s.one % 4 == 0:
        return x.transpose(-1, -2).relu().transpose(-1, -2)
    if s.one % 4 == 1:
        return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    if s.one % 4 == 2:
        return x.flip(-2) + x
    return torch.stack([x, x.abs()], -1).amax(-1)


def _broadcast(m, i, s, x, earlier):
    if s.one % 3 == 0:
        return x * m.norms[i].weight
    if s.one % 3 == 1:
        return x + x[..., :1, :]
    return torch.where(x > 0, x, x[..., :1])


KINDS = {
    "linear": lambda m, i, s, x, earlier: m.linears[i](x),
    "mlp": lambda m, i, s, x, e: m.narrows[i](F.gelu(m.wides[i](x))[..., : 2 * WIDTH]),
    "activation": lambda m, i, s, x, e: (F.gelu, F.silu, torch.tanh)[s.one % 3](x),
    "attention": _attention,
    "residual": _residual,
    "gate": _gate,
    "concat": _concat,
    "split": _split,
    "slice": _slice,
    "norm": _norm,
    "conv": _conv,
    "reduce": _reduce,
    "shuffle": _shuffle,
    "broadcast": _broadcast,
    "softmax": lambda m, i, s, x, e: x.softmax((-1, -2)[s.one % 2]),
}

numbers = st.integers(0, 11)
networks = st.lists(
    st.builds(Step, st.sampled_from(sorted(KINDS)), numbers, numbers, numbers),
    min_size=2,
    max_size=10,
)
leading = st.sampled_from([(1,), (2,), (3,), (2, 3), (1, 2), (2, 1, 2)])


@pytest.mark.parametrize("form", FORMS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(steps=networks, batch=leading, tokens=st.integers(2, 6))
def test_same_as_eager(form, steps, batch, tokens):
    model = Random(steps)
    shape = (*batch, tokens, WIDTH)
    program = capture(model, (seeded(*shape),))
    rewritten, _ = run(program, default_pipeline(attention=form))
    x = seeded(*shape, seed=1)
    with torch.no_grad():
        want, have = model(x), rewritten.module()(x)
        exact = model.double()(x.double())
    for a, b, truth in zip(want, have, exact, strict=True):
        rounding = float((a - truth).abs().max())
        torch.testing.assert_close(b, a, rtol=1e-5, atol=max(1e-6, rounding / AMPLIFIED))


def test_every_kind_of_layer_stands_alone():
    """Each kind runs in eager: the sweep does not skip what it names."""
    for kind in KINDS:
        result, *_ = Random([Step(kind, 1, 1, 1), Step("linear", 0, 0, 0)])(seeded(2, 4, WIDTH))
        assert result.isfinite().all() and result.shape[-1] == WIDTH
