"""Packages that take images are verified on the images nearest to the inputs."""

import copy

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from lowering import convert, probe, verify

BIAS = [-0.4, -0.5, -0.3]
FORMS = {
    "plain": (3, {}),
    "scaled": (3, {"scale": 1 / 255.0, "bias": [0, 0, 0]}),
    "shifted": (3, {"scale": 2 / 255.0, "bias": BIAS}),
    "bgr": (3, {"scale": 1 / 255.0, "bias": BIAS, "color_layout": ct.colorlayout.BGR}),
    "gray": (1, {"scale": 1 / 255.0, "bias": 0.1, "color_layout": ct.colorlayout.GRAYSCALE}),
}


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4, 3)

    def forward(self, picture, factor):
        return self.conv(picture).relu() * factor


@pytest.mark.parametrize("form", FORMS)
def test_images(form):
    channels, options = FORMS[form]
    model = Model(channels).eval()
    brightest = 1.0 if options else 255.0
    inputs = (torch.rand(1, channels, 12, 16) * brightest, torch.rand(1))
    image = ct.ImageType(name="picture", **options)
    package = convert(model, inputs, inputs=[image], skip_model_load=True)
    found = verify(package, model, inputs)
    assert found, found.to_json()
    assert max(output.max_abs for output in found.outputs) > 0
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv.weight[0, 0] += 0.1
    assert not verify(package, other, inputs, locate=False)
    (value, *_) = probe(package, inputs, at=["conv"], against=model)
    np.testing.assert_allclose(value.package, value.original, rtol=2e-2, atol=2e-2 * brightest)
