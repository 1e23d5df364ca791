"""Image inputs with a scale for each channel."""

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lowering import LoweringError, convert, predict, verify
from tests.lowering.contract.shipping_models import picture

SCALE, BIAS = [0.01, 0.02, 0.04], [-0.5, -1.0, 0.25]


class Twice(nn.Module):
    def forward(self, x):
        return x * 2


def converted(size, **options):
    kind = ct.ImageType(name="x", **options)
    shape = (1, 1 if options.get("color_layout") == ct.colorlayout.GRAYSCALE else 3, *size)
    return convert(
        Twice(),
        (torch.rand(shape),),
        inputs=[kind],
        skip_model_load=True,
        compute_precision=ct.precision.FLOAT32,
    )


@pytest.mark.parametrize("size", [(3, 3), (5, 3), (3, 5), (4, 4), (1, 3)])
@pytest.mark.parametrize("form", [list, tuple, np.array])
def test_each_channel_has_its_own(size, form):
    package = converted(size, scale=form(SCALE), bias=form(BIAS))
    given = picture(size=size[::-1])
    (found,) = predict(package, {"x": given}).values()
    pixels = np.asarray(given).transpose(2, 0, 1)[None]
    want = (pixels * np.reshape(SCALE, (1, 3, 1, 1)) + np.reshape(BIAS, (1, 3, 1, 1))) * 2
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    assert verify(package, Twice(), (torch.rand(1, 3, *size),))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": [1.0, 2.0]},
        {"scale": [1.0, float("nan"), 1.0]},
        {"scale": "much"},
        {"bias": [0.0, 1.0, 2.0, 3.0]},
        {"scale": [1.0, 2.0, 3.0], "color_layout": ct.colorlayout.GRAYSCALE},
    ],
)
def test_what_does_not_fit_the_channels_is_refused(options):
    with pytest.raises(LoweringError, match="does not fit its channels"):
        converted((4, 3), **options)


def test_equal_factors_are_one():
    package = converted((4, 4), scale=[0.5, 0.5, 0.5])
    (found,) = predict(package, {"x": picture(size=(4, 4))}).values()
    np.testing.assert_allclose(found[0], np.asarray(picture(size=(4, 4))).transpose(2, 0, 1))
