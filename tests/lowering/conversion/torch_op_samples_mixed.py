"""Samples for operators on mixed dtypes or ties, and on sizes that other tests make dynamic."""

import torch

from tests.lowering.conversion.torch_op_samples import TIES, const, rand, whole

aten = torch.ops.aten

IMAGE = torch.linspace(-2, 2, 2 * 4 * 6 * 5).reshape(2, 4, 6, 5)
X = torch.linspace(-3, 3, 12).reshape(3, 4)
N = torch.arange(-6, 6).reshape(3, 4)
B = torch.tensor([[True, False, False, True], [False] * 4, [True] * 4])

SAMPLES: dict[torch._ops.OpOverload, list[tuple[object, ...]]] = {
    # products of integers, and slopes
    aten.mm.default: [(whole(3, 4), whole(4, 5)), (rand(3, 4), rand(4, 5))],
    aten.bmm.default: [(whole(2, 3, 4), whole(2, 4, 5))],
    aten.mv.default: [(whole(3, 4), whole(4)), (rand(3, 4), rand(4))],
    aten.addmm.default: [(whole(5), whole(3, 4), whole(4, 5)), (rand(5), rand(3, 4), rand(4, 5))],
    aten._pdist_forward.default: [(X,), (rand(5, 3), 1.0), (rand(2, 3), 2.0)],
    aten.prelu.default: [(X, const(rand(4))), (IMAGE, const(rand(4))), (X, const(rand(1)))],
    # resizes
    aten.upsample_nearest2d.vec: [
        (IMAGE, None, [1.7, 0.7]),
        (IMAGE, [5, 7], None),
        (IMAGE, None, [2.0, 2.0]),
    ],
    aten.upsample_nearest2d.default: [(IMAGE, [13, 5]), (IMAGE, [13, 5], 1.7, 0.55)],
    aten.upsample_bilinear2d.default: [(IMAGE, [13, 5], False), (IMAGE, [5, 7], True)],
    aten.stack.default: [([X, N],), ([N, X, B], -1), ([X, X], 1)],
    aten.softmax.int: [(N, -1, torch.float32), (X, 0)],
    aten.max.dim: [(B, 1), (B, 0, True), (X, -1)],
    aten.min.dim: [(B, 1), (B, -1, True), (N, 0)],
    aten.max.default: [(B,), (X,)],
    aten.min.default: [(B,), (N,)],
    aten.amax.default: [(B, [1]), (B,), (X, [0, 1], True)],
    aten.amin.default: [(B, [-1], True), (X, [1])],
    aten.expand.default: [(X[:1], [3, 4]), (X[:, :1], [2, 3, -1])],
    aten.group_norm.default: [(IMAGE, 2, torch.arange(4.0), torch.ones(4)), (IMAGE, 4)],
    aten.adaptive_avg_pool1d.default: [(IMAGE[0], [3]), (IMAGE[0], [1])],
    aten.adaptive_avg_pool2d.default: [(IMAGE, [3, 2]), (IMAGE, [1, 1])],
    aten.upsample_bilinear2d.vec: [(IMAGE, [12, 10], False, None), (IMAGE, [12, 10], True, None)],
    aten.masked_select.default: [(X, B), (X, B[:1]), (N, X > 0)],
    aten.slice.Tensor: [(X, 1, 0, 2), (X, 0, -2)],
    aten.sort.stable: [
        (TIES, {"stable": True}),
        (TIES, {"stable": True, "dim": 1, "descending": True}),
        (N, {"stable": True, "dim": 0}),
        (B, {"stable": True, "dim": -2, "descending": True}),
    ],
}

# Its other two results are empty unless asked for; test_data_sizes.py runs it. The maxima are ours
# where the batch is dynamic; test_dynamic_sizes.py runs them.
ELSEWHERE = {
    aten._unique2.default,
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
}
