"""What coremltools' MIL passes would rewrite into something else stays as it is."""

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil.passes.defs.cleanup import noop_elimination
from torch import nn
from torch.nn import functional as F

from lowering import convert, load
from lowering.conversion.sound_passes import GUARDS, Guard, guarded


class Calls(nn.Module):
    """``function(module, *inputs)``, with constants and layers as attributes."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(kind, *args, **options):
    torch.manual_seed(0)
    return kind(*args, **options)


def check(function, *inputs, **parts):
    """Convert without ANE passes, run, and compare with torch; the model stays as it was."""
    model = Calls(function, **parts).eval()
    with torch.no_grad():
        wanted = model(*inputs)
        wanted = [wanted] if isinstance(wanted, torch.Tensor) else list(wanted)
    package = load(
        convert(model, inputs, compute_precision=ct.precision.FLOAT32, skip_model_load=True)
    )
    found = list(package(dict(zip(package.inputs, inputs, strict=True))).values())
    assert len(found) == len(wanted)
    for have, want in zip(found, wanted, strict=True):
        want = want.numpy() if want.ndim else want.numpy().reshape(1)
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=2e-6)
    with torch.no_grad():  # the arrays of the model are its own
        again = model(*inputs)
        again = [again] if isinstance(again, torch.Tensor) else list(again)
    assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True))


def test_a_float_divided_by_one_still_is_rounded():
    check(
        lambda s, x: (
            x % 1,
            x // 1 * 2,
            torch.remainder(x, torch.ones(1)),
            torch.div(x, torch.ones(8), rounding_mode="floor"),
            torch.div(x, torch.ones(8), rounding_mode="trunc") + 1,
            torch.fmod(x, 1.0) + 1,
            torch.frac(x) * 2,
            x**1 * 2,
        ),
        normal(3, 8) * 3,
    )


def test_integers_divided_by_one():
    check(lambda s, n: (n // 1 * 2, n % 1 + n), torch.arange(-4, 4, dtype=torch.int32).view(2, 4))


def test_a_sum_over_nearly_its_count_is_no_mean():
    check(
        lambda s, x: (
            (x - x.mean(-1, keepdim=True)).square().sum(-1) / 1999,
            x.square().sum(-1) * (1 / 2001),
            x.sum(-1) / (2000 + 4),
            x.square().sum(-1) / 2000,
            x.square().sum() * 1e-7,
        ),
        normal(2, 2000),
    )


@pytest.mark.parametrize("of", ["matrix", "image"])
def test_numbers_divided_by_a_convolution(of):
    conv = layer(nn.Conv2d, 4, 4, 1) if of == "image" else layer(nn.Conv1d, 4, 4, 1)
    x = normal(1, 4, 6, 6) if of == "image" else normal(1, 4, 6)
    k = normal(4, *[1] * (x.ndim - 2), seed=1)
    check(
        lambda s, x: (
            1 / (s.conv(x) + 9),
            (2.0 / s.conv(x)).tanh(),
            (s.k / s.conv(x)).tanh(),
            torch.reciprocal(s.conv(x)).tanh(),
            s.conv(x) / s.k,
            s.conv(x) / 3.0,
        ),
        x,
        conv=conv,
        k=k,
    )


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1,)])
def test_what_is_subtracted_from_a_convolution_keeps_its_sign_elsewhere(kind, shape):
    check(
        lambda s, x: (s.conv(x) - s.k, x * 2 + s.k, (s.k - s.conv(x)) * 2, s.conv(x) + s.k),
        normal(1, 4, 5, 5),
        conv=layer(kind, 4, 4, 1),
        k=normal(*shape, seed=1),
    )


def test_constants_that_widen_the_result_of_a_convolution_or_linear():
    check(
        lambda s, x, y: (
            s.one(x) + s.k,
            s.one(x) * s.k,
            s.conv(x) + s.k[None],
            s.conv(x).permute(1, 0, 2, 3) + s.w,
            s.linear(y) + s.b[None, None],
            y @ s.m + s.b[None, None],
            s.narrow(y) + 0.5,
            s.narrow(y) - s.b,
        ),
        normal(1, 4, 6, 4),
        normal(3, 8),
        one=layer(nn.Conv2d, 4, 1, 1),
        conv=layer(nn.Conv2d, 4, 4, 1),
        linear=layer(nn.Linear, 8, 5),
        narrow=layer(nn.Linear, 8, 1),
        k=normal(1, 4, 1, 1, seed=1),
        w=normal(4, seed=2),
        b=normal(5, seed=3),
        m=normal(8, 5, seed=4),
    )


def test_a_square_weight_on_the_left_of_a_product():
    check(
        lambda s, x: (s.w @ x + s.b, s.w @ x - s.b, s.b - x @ s.w, (p := x @ s.w, p + s.b)[1], p),
        normal(8, 8),
        w=normal(8, 8, seed=1),
        b=normal(8, seed=2),
    )


def test_one_row_through_a_kernel_of_several():
    check(
        lambda s, x: (s.conv(x[:, :, None]).squeeze(2), s.flat(x[:, :, None]).squeeze(2)),
        normal(1, 4, 9),
        conv=layer(nn.Conv2d, 4, 4, 3, padding=1),
        flat=layer(nn.Conv2d, 4, 4, (1, 3)),
    )


def test_padding_in_front_of_transposes_and_of_more_padding():
    check(
        lambda s, x: (
            s.conv(F.pad(x, (1, 1)).permute(0, 3, 1, 2)),
            s.conv(F.pad(x, (0, 2, 0, 0, 1, 0)).permute(0, 3, 1, 2)),
            F.pad(F.pad(x[0], (3, 0), mode="circular"), (1, 2)),
            F.pad(p := F.pad(x, (1, 1)), (2, 0)),
            p,
        ),
        normal(1, 6, 6, 4),
        conv=layer(nn.Conv2d, 6, 4, 1),
    )


def test_reflection_beyond_the_input_once_it_is_padded():
    check(
        lambda s, x: (
            F.pad(F.pad(x, (3, 0), mode="reflect"), (0, 5), mode="reflect"),
            F.pad(F.pad(x, (2, 0), mode="reflect"), (0, 3), mode="reflect"),
            F.pad(F.pad(x, (0, 3), mode="reflect"), (6, 0), mode="reflect"),
        ),
        normal(1, 2, 4),
    )


def test_slices_beside_their_source():
    check(
        lambda s, x: (
            torch.cat([x[..., 1:2], x, x], -1),
            torch.cat([x, x[..., 1:2], x], -1),
            torch.cat([a := x[..., 1:2], x, x[..., 4:5]], -1),
            a * 2,
            torch.cat([x[..., 1:2], x, x[..., -2:-1]], -1),
        ),
        normal(1, 4, 6, 6),
    )


def test_stacks_that_are_read_in_other_ways():
    check(
        lambda s, x, y: (
            *[v.sum(0, keepdim=True) for v in torch.stack([x, y]).split(1)],
            *[v.sum(0) for v in torch.stack([x, y]).split(1)],
            *[v * 2 for v in torch.stack([x, y]).chunk(2)],
            *[v * 2 for v in torch.stack([x, y]).unbind()],
            t := torch.stack([x, y], 1),
            t.reshape(3, 8) * 2,
        ),
        normal(3, 4),
        normal(3, 4, seed=1),
    )


def test_selections_are_no_sums():
    infinite = torch.full((1, 4), torch.inf)
    check(
        lambda s, x, y: (
            torch.where(s.mask, x / x, -s.infinite),
            torch.where(s.mask, s.infinite, 1 / (x - 1)),
            torch.where(s.every, x[:, :1], y),
            torch.where(~s.every, x, y) + x,
        ),
        torch.tensor([[0.0, 1.0, 2.0, 0.0]]),
        normal(1, 4),
        mask=torch.tensor([[False, True, True, False]]),
        every=torch.ones(3, 4, dtype=torch.bool),
        infinite=infinite,
    )


def test_scales_that_are_not_one_for_each_channel():
    check(
        lambda s, x, one: (
            one * s.scale + s.shift,
            x * s.scale + s.shift[:, :1],
            x * s.scale[0] + s.shift[:, :1],
            x * s.scale + s.shift,
        ),
        normal(1, 4, 5, 5),
        normal(1, 1, 5, 5),
        scale=normal(1, 4, 1, 1, seed=1),
        shift=normal(1, 4, 1, 1, seed=2),
    )


def test_formulas_near_those_of_known_activations():
    check(
        lambda s, x: (
            0.5 * x * (1 + torch.erf(x / 1.415)),
            0.5 * x * (1 + torch.tanh(0.7983 * (x + 0.044 * x**3))),
            F.relu(x) + F.relu(x * -1.0009) * s.slope,
            (half := 0.5 * x) * (1 + torch.erf(x * 2**-0.5)) + half,
            s.slope * F.relu(-1 * x[:, :1]) + F.relu(x[:, :1]),
        ),
        normal(1, 4, 5, 5) * 3,
        slope=normal(4, 1, 1, seed=1),
    )


def test_fractions_are_true_and_their_integers_may_not_be():
    check(
        lambda s, x, n: (
            x.int().bool().float(),
            x.long().bool().int() + 1,
            x.bool().int(),
            n.float().int() + 1,
        ),
        torch.tensor([[0.5, -0.5, 1.5, 0.0, -2.0]]),
        torch.tensor([[2**24 + 1, 5]], dtype=torch.int32),
    )


def test_quotients_that_are_rounded():
    check(
        lambda s, x: (
            *(torch.floor(x / k) for k in (41.0, 47.0, 49.0, 55.0, 61.0, 83.0, 97.0)),
            (x / 49).int(),
            torch.ceil((x + 1) / 0.3),
            (x / 55 >= 3).float(),
        ),
        torch.arange(0, 9700.0).view(1, -1),
    )


def test_reductions_of_everything_beside_transposes():
    check(
        lambda s, x: (
            x.permute(0, 2, 3, 1).relu().amax(),
            x.permute(0, 2, 3, 1).amin((0, 1, 2, 3), keepdim=True),
            (x.permute(0, 2, 3, 1) * 2).sum(),
            (x.permute(0, 2, 3, 1) * 2).amax(dim=(), keepdim=True).permute(0, 3, 1, 2) + x,
            x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2).sum(),
            x.transpose(1, 2).max() + x.transpose(1, 2).mean() + x.transpose(2, 3).min(),
            x.transpose(1, 2).prod() + x.transpose(1, 2).logsumexp((0, 1, 2, 3)),
        ),
        normal(1, 4, 3, 2),
    )


def test_powers_beside_transposes():
    check(
        lambda s, x, y: (
            torch.pow(x.permute(0, 2, 3, 1), y).permute(0, 3, 1, 2),
            torch.pow(x.permute(0, 2, 3, 1), s.k).permute(0, 3, 1, 2),
            torch.pow(2.0, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            torch.pow(x.permute(0, 2, 3, 1), 1.5).permute(0, 3, 1, 2),
        ),
        normal(1, 4, 4, 4).abs(),
        normal(1, 4, 4, 4, seed=1),
        k=normal(4, seed=2),
    )


def test_norms_over_other_axes_than_their_scales():
    def norm(x, axes, g, b, second=None):
        centred = x - x.mean(axes, keepdim=True)
        power = centred.square().mean(second or axes, keepdim=True)
        return centred / (power + 1e-5) ** 0.5 * g + b

    def by_product(x, g, b):
        centred = x - x.mean(1, keepdim=True)
        return (centred * torch.rsqrt((centred * centred).mean(1, keepdim=True) + 1e-5) + b) * g

    check(
        lambda s, x: (
            norm(x, (2, 3), s.g, s.b),
            norm(x, (1,), s.g, s.b),
            norm(x, (2, 3), s.g[:, None, None], s.b[:, None, None]),
            norm(x, (2, 3), s.g[:, None, None], s.b[:, None, None], second=(3,)),
            by_product(x, s.g, s.b),
            by_product(x, s.g[:, None, None], s.b[:, None, None]),
        ),
        normal(1, 4, 4, 4),
        g=normal(4, seed=1),
        b=normal(4, seed=2),
    )


def test_coremltools_own_passes_are_back_afterwards():
    before = [vars(guard.owner)[guard.name] for guard in GUARDS]
    check(lambda s, x: x % 1, normal(2, 3))
    assert [vars(guard.owner)[guard.name] for guard in GUARDS] == before


def test_a_guard_of_nothing_is_an_error():
    guards = (GUARDS[0], Guard(noop_elimination, "_gone", print))
    before = vars(GUARDS[0].owner)[GUARDS[0].name]
    with pytest.raises(LookupError, match=r"noop_elimination\._gone"), guarded(guards):
        pass
    assert vars(GUARDS[0].owner)[GUARDS[0].name] is before
