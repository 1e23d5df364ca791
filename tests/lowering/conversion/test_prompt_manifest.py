import sys
from types import FrameType

import torch
from coremltools.models import utils
from torch import nn

from lowering import convert, predict


def test_a_held_frame_does_not_hold_back_the_manifest():
    """As a sampling profiler in another thread does, at the worst moment."""
    held: list[FrameType] = []

    def hold(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is utils._create_mlpackage.__code__:
            held.append(frame)

    x = torch.ones(1, 4)
    sys.setprofile(hold)
    try:
        package = convert(nn.ReLU(), (x,), skip_model_load=True)
    finally:
        sys.setprofile(None)
    assert held
    (name,) = predict(package, {"input": x})
    assert predict(package, {"input": x})[name].tolist() == [[1.0] * 4]
