"""Samples for quotients and bounds of integers, computed as floats by coremltools; logarithms."""

import torch

from tests.lowering.conversion.torch_op_samples import rand, whole

aten = torch.ops.aten

LARGE = whole(3, 4, low=-(2**31) + 1, high=2**31)
DIVISORS = whole(3, 4, low=1, high=70_000) * (2 * whole(3, 4, low=0, high=2) - 1)
N, X = whole(3, 4), rand(3, 4)

SAMPLES: dict[torch._ops.OpOverload, list[tuple[object, ...]]] = {
    aten.floor_divide.default: [(LARGE, DIVISORS), (X * 5, X.abs() + 0.5)],
    aten.floor_divide.Scalar: [(LARGE, -7), (X * 5, 2.0)],
    aten.div.Tensor_mode: [
        (LARGE, DIVISORS, {"rounding_mode": "floor"}),
        (LARGE, DIVISORS, {"rounding_mode": "trunc"}),
        (N, X.abs() + 0.5, {"rounding_mode": "floor"}),
    ],
    aten.div.Scalar_mode: [
        (LARGE, 3, {"rounding_mode": "trunc"}),
        (LARGE, -3, {"rounding_mode": "floor"}),
        (X * 5, 2.0, {"rounding_mode": "trunc"}),
    ],
    aten.remainder.Scalar_Tensor: [(1_000_003, DIVISORS), (7.5, X.abs() + 0.5)],
    aten.clamp.default: [(LARGE, -16_777_217, 16_777_217), (X, -0.5, None), (N, 0.5, 3.0)],
    aten.clamp.Tensor: [(LARGE, DIVISORS, None), (X, None, X.abs() - 0.5)],
    aten.clamp_min.default: [(LARGE, 33_554_433), (X, 0.2)],
    aten.clamp_min.Tensor: [(LARGE, DIVISORS), (X, X.flip(0))],
    aten.clamp_max.default: [(LARGE, 33_554_433), (X, 0.2)],
    aten.clamp_max.Tensor: [(LARGE, DIVISORS), (X, X.flip(0))],
    aten.relu.default: [(LARGE,), (X,)],
    aten.log_softmax.int: [(X * 50, -1), (X * 50, 0), (N, 1, torch.float32)],
    aten._log_softmax.default: [(X * 50, -1, False)],
    aten.floor.default: [(LARGE,), (X * 3,)],
    aten.ceil.default: [(LARGE,), (X * 3,)],
    aten.round.default: [(LARGE,), (X * 3,)],
}
