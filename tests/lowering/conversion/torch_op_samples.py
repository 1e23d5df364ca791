"""Calls of every operator that we lower; coremltools alone refuses many or gets them wrong."""

import torch
from torch import nn

aten = torch.ops.aten
_G = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, generator=_G)


def whole(*shape, low=-5, high=6):
    return torch.randint(low, high, shape, generator=_G)


def flags(*shape):
    return whole(*shape, low=0, high=2).bool()


def const(tensor):
    return nn.Parameter(tensor, requires_grad=False)


X, Y, POSITIVE = rand(2, 3, 4), rand(2, 3, 4), rand(2, 3, 4).abs() + 0.5
N, J, B, C = whole(2, 3, 4), whole(2, 3, 4), flags(2, 3, 4), flags(2, 3, 4)
IMAGE, SIGNAL, SEQUENCE = rand(1, 4, 8, 10), rand(1, 4, 12), rand(2, 6, 8)
SLOTS, SMALL = whole(2, 3, 4, low=0, high=3), whole(2, 1, 2, low=0, high=3)
ROW = torch.tensor([2, 0])
LONG = {"dtype": torch.int64}
HEADS, FEW = rand(1, 4, 6, 8), rand(1, 2, 6, 8)


def cells(kind, inputs, hidden, *, layers=1, bidirectional=False, batch_first=True, **options):
    torch.manual_seed(0)
    net = getattr(nn, kind)(
        inputs, hidden, layers, bidirectional=bidirectional, batch_first=batch_first, **options
    )
    bias = options.get("bias", True)
    count = layers * (2 if bidirectional else 1)
    batch = 2 if batch_first else 6
    state = rand(count, batch, options.get("proj_size", hidden))
    state = [state, rand(count, batch, hidden)] if kind == "LSTM" else state
    weights = [const(w.detach()) for w in net.parameters()]
    return (SEQUENCE, state, weights, bias, layers, 0.0, False, bidirectional, batch_first)


BOTH_WAYS = {"layers": 2, "bidirectional": True}
COMPARED = [(X, Y), (N, X), (B, C), (B, X)]
COMPARED_NUMBER = [(X, 0.5), (N, 2), (B, True), (B, 0.5)]
INTEGERS, MORE = whole(2, 3, 4, low=-(2**31), high=2**31), whole(2, 3, 4, low=-(2**31), high=2**31)
BYTES = INTEGERS.to(torch.uint8)
BITWISE = [(B, C), (INTEGERS, MORE), (BYTES, MORE.to(torch.uint8)), (N.to(torch.int8), N[0, 0])]
BITWISE_NUMBER = [(B, True), (B, False), (INTEGERS, 0x1F0), (INTEGERS, -7), (BYTES, 63)]
NUMBER_BITWISE = [(True, B), (9, INTEGERS)]
SHIFTS = [(N, 2), (N, 0)]
SHIFTS_TENSOR = [(N, const(torch.tensor(2))), (N, J.abs()), (N[:, :1], J.abs())]
AXES = torch.tensor([[0.0, 0.0, 1.0, -1.0, 0.0, -2.0], [1.0, -1.0, 0.0, 0.0, 0.0, -1.0]])
SORTED = const(torch.tensor([-1.0, 0.0, 0.0, 0.5]))
WHOLE_SORTED = const(torch.tensor([-2, 0, 3]))
TO_SHAPES = [(rand(1), []), (rand(1, 1), []), (X, [6, 4]), (X, [-1])]
TIES = whole(2, 5, 7, low=0, high=4)
UNARY = ("exp", "exp2", "sin", "cos", "tan", "sinh", "cosh", "tanh", "atan", "erf", "sigmoid")
ORDER = ("gt", "ge", "lt", "le", "eq", "ne")
RESIZE = [(IMAGE, [13, 17], False), (IMAGE, [13, 17], True), (IMAGE, [5, 7], False)]
RESIZE_VEC = [
    (IMAGE, [5, 17], False, None),
    (IMAGE, None, False, [2.0, 2.0]),
    (IMAGE, None, False, [0.7, 0.6]),
]

SAMPLES = {
    # activations
    aten.gelu.default: [(X,), (X, {"approximate": "tanh"})],
    aten.hardtanh.default: [(X, -0.3, 0.7), (X * 4, 0, 6), (N, -2, 3)],
    aten.relu6.default: [(X * 4,)],
    aten.celu.default: [(X, 1.3)],
    aten.softplus.default: [(X * 10,), (X, 2.0), (X * 3, 1.0, 1.0)],
    aten.mish.default: [(X * 10,)],
    aten.rms_norm.default: [
        (X, [4]),
        (X, [4], const(rand(4)), 1e-5),
        (X, [3, 4], const(rand(3, 4))),
        (X * 5000, [4], const(rand(4))),
    ],
    # arithmetic
    aten.add.Tensor: [(X, Y), (X, Y, {"alpha": 0.5}), (B, N), (N, X, {"alpha": 2})],
    aten.add.Scalar: [(X, 2.0), (X, 2.0, 0.5), (N, 0.5)],
    aten.sub.Tensor: [(X, Y), (X, Y, {"alpha": 2}), (N, X)],
    aten.sub.Scalar: [(X, 2.0), (X, 2.0, 3)],
    aten.rsub.Tensor: [(X, Y), (X, Y, {"alpha": 2})],
    aten.rsub.Scalar: [(X, 2.0), (N, 2), (X, 2.0, 3)],
    aten.trunc.default: [(X * 3,)],
    aten.fix.default: [(X * 3,)],
    aten.frac.default: [(X * 3,)],
    aten.fmod.Scalar: [(X, 0.7), (N, 3), (N, -3)],
    aten.fmod.Tensor: [(X, POSITIVE), (N, J.abs() + 1)],
    aten.round.decimals: [(X, {"decimals": 1})],
    aten.reciprocal.default: [(POSITIVE,), (J.abs() + 1,)],
    aten.erfc.default: [(X,)],
    aten.erfinv.default: [(X / 5,), (1 - POSITIVE * 1e-5,), (torch.tensor([0.0, 1.0, -1.0, 2.0]),)],
    aten.special_ndtri.default: [(POSITIVE / 5,), (POSITIVE * 1e-6,), (1 - POSITIVE * 1e-3,)],
    aten.expm1.default: [(X,), (N,)],
    aten.log1p.default: [(X * 1e-3,), (POSITIVE * 100,), (N.abs(),)],
    aten.logcumsumexp.default: [(X * 20, 1), (X, -1), (rand(()), 0)],
    aten.log2.default: [(POSITIVE,)],
    aten.log10.default: [(POSITIVE,)],
    aten.acosh.default: [(POSITIVE + 1,), (1 + POSITIVE * 1e-3,), (POSITIVE * 1e3 + 1,)],
    aten.asinh.default: [(X * 20,), (X * 1e-3,), (X * 1e5,), (X * 0,)],
    aten.hypot.default: [(X, Y), (X * 1e-8, Y * 1e-8), (X * 0, Y * 0), (X, Y[0, 0])],
    aten.linalg_vector_norm.default: [(X, 3, [1]), (X, 4.5), (X * 0, 3), (X, 0.5, [-1], True)],
    aten.atan2.default: [(X, Y), (AXES[0], AXES[1])],
    aten.fmax.default: [(X, Y), (N, J)],
    aten.fmin.default: [(X, Y)],
    aten.copysign.Tensor: [(X, Y)],
    aten.copysign.Scalar: [(X, -2.0)],
    aten.signbit.default: [(X,), (N,)],
    aten.isinf.default: [(torch.tensor([1.0, float("inf"), -float("inf"), 0.0, float("nan")]),)],
    aten.sqrt.default: [(POSITIVE,), (N.abs(),)],
    aten.rsqrt.default: [(POSITIVE,), (N.abs() + 1,)],
    aten.log.default: [(POSITIVE,), (N.abs() + 1,)],
    aten.asin.default: [(X / 8,)],
    aten.acos.default: [(X / 8,)],
    aten.atanh.default: [(X / 8,)],
    **{getattr(aten, name).default: [(X,), (N,)] for name in UNARY},
    **{getattr(aten, name).Tensor: COMPARED for name in ORDER},
    **{getattr(aten, name).Scalar: COMPARED_NUMBER for name in ORDER},
    # creation
    aten.full.default: [([2, 3], 1.5), ([2, 3], 7, LONG), ([2], True, {"dtype": torch.bool})],
    aten.ones.default: [([2, 3],), ([2], LONG)],
    aten.zeros.default: [([2, 3],), ([2], {"dtype": torch.bool})],
    aten.new_full.default: [(X, [2, 3], 3.5), (X, [2], 3, LONG)],
    aten.new_ones.default: [(X, [2, 3]), (X, [2], {"dtype": torch.bool})],
    aten.new_zeros.default: [(X, [2, 3]), (N, [4])],
    aten.full_like.default: [(N, 3), (X, 3), (N, 1.5, {"dtype": torch.float32})],
    aten.ones_like.default: [(X,), (N, {"dtype": torch.float32})],
    aten.zeros_like.default: [(B,), (N, {"dtype": torch.float32})],
    aten.scalar_tensor.default: [(2.0,), (3, LONG)],
    # indexing
    aten.index_put.default: [
        (X, [None, const(ROW)], rand(2, 2, 4)),
        (X, [None, ROW], rand(2, 2, 4)),
        (X, [const(torch.tensor([0, 1])), const(ROW)], rand(2, 4)),
        (X, [const(torch.tensor([0, 1])), None, const(torch.tensor([-1, 1]))], rand(2, 3)),
        (X, [None, const(torch.tensor([[0], [2]])), const(torch.tensor([1, 3]))], rand(2, 2, 2)),
        (X, [None, const(torch.tensor([1, 1]))], rand(2, 2, 4), True),
        (X, [B], torch.tensor(9.0)),
        (B, [None, const(ROW)], flags(2, 2, 4)),
        (N, [const(ROW.clamp(max=1))], torch.tensor(3)),
    ],
    aten._unsafe_index_put.default: [(X, [None, const(ROW)], rand(2, 2, 4))],
    aten.embedding.default: [(rand(7, 4), SLOTS), (rand(7, 4), torch.tensor([6]))],
    aten.gather.default: [(X, 1, SLOTS), (X, 1, SMALL), (X, -2, SMALL)],
    aten.scatter.src: [(X, 1, torch.tensor([[[0, 1, 2, 0]], [[2, 0, 1, 1]]]), Y)],
    aten.scatter.value: [(X, 1, SLOTS, 2.5), (X, 1, SMALL, 2.5)],
    aten.scatter_add.default: [(X, 1, SLOTS, Y), (X, 1, SMALL, Y)],
    aten.scatter_reduce.two: [
        (X, 1, SLOTS, Y, reduce, {"include_self": own})
        for reduce in ("sum", "mean", "prod", "amax", "amin")
        for own in (True, False)
    ],
    aten.index_reduce.default: [
        (X, dim, const(torch.tensor([1, 0, 1])), rand(*size), reduce, {"include_self": own})
        for reduce in ("mean", "prod", "amax", "amin")
        for own, dim, size in ((True, 0, (3, 3, 4)), (False, -2, (2, 3, 4)))
    ],
    aten.put.default: [(X, ROW, rand(2)), (X, torch.tensor([[-1, 5]]), rand(1, 2), True)],
    aten.masked_scatter.default: [(X, B, Y), (X, B[0, 0], Y), (N, B, J)],
    aten.diagonal.default: [(X, 1, 1, 2), (X, -1, 0, -1), (rand(4, 3),), (B, 0, -2, -1)],
    aten.select_scatter.default: [(X, Y[:, 1], 1, -1), (X, X[0], 0, 1), (N, N[..., 0], -1, 3)],
    aten.slice_scatter.default: [
        (X, X[:, :2], 1, 1, 3),
        (X, X[..., :2], -1, -3, -1),
        (N, N[:1], 0, 1),
        (X, X[..., :2], -1, 0, None, 2),
        (X, Y, 0),
    ],
    aten.diagonal_scatter.default: [
        (X, torch.zeros(2, 3), 0, 1, 2),
        (X, rand(4, 2), -1, 1, 0),
        (X, rand(2, 3), 1, -2, -1),
    ],
    aten.unfold.default: [(IMAGE, 2, 3, 2), (SIGNAL, -1, 4, 1)],
    aten.repeat_interleave.Tensor: [(const(torch.tensor([1, 2, 3])), {"output_size": 6})],
    # logic
    aten.logical_and.default: [(B, C), (X, N), (N, J)],
    aten.logical_or.default: [(B, C), (X, N), (N, J)],
    aten.logical_xor.default: [(B, C), (X, N), (N, J)],
    aten.logical_not.default: [(B,), (N,), (X,)],
    aten.bitwise_not.default: [(B,), (N,)],
    aten.where.self: [
        (B, X, Y),
        (B, N, X),
        (B, torch.tensor(1.0), torch.tensor(2.0)),
        (B, B, C),
        (B, X[:1], Y[:, :1]),
        (B[0], B[:1, :1], C[:, :1]),
        (B, X[0, 0], X[:1, :1]),
    ],
    aten.where.ScalarSelf: [
        (B, 1.0, X),
        (B, -1, N),
        (B, 2.0, const(torch.full((1, 1, 1), 3.0))),
        (B, 2.0, X[:, :1]),
        (B[:1, :1], 2.0, X),
    ],
    aten.where.Scalar: [(B, 1.0, 0.0), (B, 2, 3)],
    aten.where.ScalarOther: [(B, X, 0.0), (B, N, 0.5), (B, N, -1)],
    aten.masked_fill.Scalar: [(X, B, -1e9), (N, B, 7), (X, B, float("-inf"))],
    aten.masked_fill.Tensor: [(X, B, torch.tensor(2.0))],
    # bits
    **{
        getattr(aten, name).Tensor: BITWISE
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__")
    },
    **{
        getattr(aten, name).Scalar: BITWISE_NUMBER
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__")
    },
    **{
        getattr(aten, name).Scalar_Tensor: NUMBER_BITWISE
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor")
    },
    **{
        getattr(aten, name).Tensor: SHIFTS_TENSOR
        for name in ("bitwise_left_shift", "bitwise_right_shift", "__lshift__", "__rshift__")
    },
    aten.bitwise_left_shift.Tensor_Scalar: SHIFTS,
    aten.bitwise_right_shift.Tensor_Scalar: SHIFTS,
    aten.bitwise_left_shift.Scalar_Tensor: [(3, J.abs())],
    aten.bitwise_right_shift.Scalar_Tensor: [(-300, J.abs())],
    aten.__lshift__.Scalar: SHIFTS,
    aten.__rshift__.Scalar: SHIFTS,
    # ordering
    aten.cumsum.default: [(X, -2), (X, 0), (N, -1), (B, 1)],
    aten.cummax.default: [(X, 1), (X, -1), (TIES, 2)],
    aten.cummin.default: [(X, 1), (TIES, 1)],
    aten.bucketize.Tensor: [(X, SORTED), (N, WHOLE_SORTED, {"right": True})],
    aten.searchsorted.Tensor: [
        (SORTED, X),
        (SORTED, X, {"right": True}),
        (WHOLE_SORTED, N, {"side": "right"}),
        (rand(2, 3, 9).sort()[0], X),
    ],
    aten.searchsorted.Scalar: [(SORTED, 0.0), (WHOLE_SORTED, 3, {"right": True})],
    aten.kthvalue.default: [(X, 2), (X, 1, 1, True)],
    aten.median.dim: [(X, 1), (X, -1, True)],
    aten.median.default: [(X,), (N,)],
    aten.histc.default: [(X, 10, -2, 2), (X, 7), (X[0, 0, :1], 4), (X, 4, 1, 1)],
    # pooling
    aten.avg_pool1d.default: [(SIGNAL, [3], [2], [1], True)],
    aten.avg_pool2d.default: [
        (IMAGE, [3, 3], [2, 2], [0, 0], True),
        (IMAGE, [3, 3], [2, 2], [1, 1], True),
        (IMAGE, [3, 3], [2, 2], [1, 1], True, False),
        (IMAGE, [2, 2], [], [0, 0], False, True, 3),
        (IMAGE, [2560, 2560], [2560, 2560], [0, 0], True),
        (IMAGE, [3, 3], [2, 2], [1, 1], False, False),
    ],
    aten.avg_pool3d.default: [(rand(1, 2, 5, 6, 7), [2, 2, 2], [2, 2, 2], [0, 0, 0], True)],
    aten.max_pool2d_with_indices.default: [
        (IMAGE, [3, 3], [2, 2], [1, 1]),
        (IMAGE.round(), [2, 3], [2, 1], [0, 1]),
        (IMAGE, [3, 2], [1, 1], [1, 0], [2, 3]),
        (IMAGE, [3, 3], [2, 2], [1, 1], [1, 1], True),
        (IMAGE[0], [2, 2]),
    ],
    aten.max_pool3d_with_indices.default: [
        (rand(1, 2, 5, 6, 7), [2, 2, 3], [2, 1, 2], [1, 1, 0], [1, 2, 1]),
        (rand(1, 2, 5, 6, 7), [2, 2, 3], [2, 2, 2], [0, 1, 0], [1, 1, 1], True),
    ],
    # products
    aten.matmul.default: [(X, rand(4)), (rand(3), X), (rand(4), rand(4)), (X, rand(4, 5))],
    aten.addmv.default: [(rand(3), X[0], rand(4), {"beta": 0.5, "alpha": 2.0})],
    aten.addbmm.default: [(rand(3, 3), X, Y.mT.contiguous(), {"beta": 0.5, "alpha": 2.0})],
    aten.einsum.default: [
        ("...ij,...kj->...ik", [X, Y]),
        ("...ij,kj->...ik", [X, Y[0]]),
        ("bij,bkj->bik", [X, Y]),
    ],
    aten.scaled_dot_product_attention.default: [
        (HEADS, FEW, FEW, None, 0.0, False, {"enable_gqa": True}),
        (HEADS, FEW, FEW, None, 0.0, True, {"enable_gqa": True, "scale": 0.3}),
        (HEADS, FEW, FEW, torch.ones(6, 6).tril().bool(), 0.0, False, {"enable_gqa": True}),
        (HEADS, HEADS, HEADS, rand(6, 6)),
    ],
    aten._cdist_forward.default: [(X, Y, 2.0, None), (X, Y, 1.0, None)],
    aten.cdist.default: [(X, Y)],
    aten._trilinear.default: [
        (rand(6, 4), const(rand(3, 4, 5)), rand(6, 5), [1, 3], [0], [1, 2], [2, 3])
    ],
    # recurrent
    aten.lstm.input: [
        cells("LSTM", 8, 5),
        cells("LSTM", 8, 5, batch_first=False, bias=False),
        cells("LSTM", 8, 5, **BOTH_WAYS),
        cells("LSTM", 8, 5, proj_size=3, **BOTH_WAYS),
        cells("LSTM", 8, 5, proj_size=2, bias=False, batch_first=False),
    ],
    aten.gru.input: [cells("GRU", 8, 5), cells("GRU", 8, 5, **BOTH_WAYS)],
    aten.rnn_tanh.input: [cells("RNN", 8, 5), cells("RNN", 8, 5, **BOTH_WAYS)],
    aten.rnn_relu.input: [(*cells("RNN", 8, 5, bias=False),)],
    # reductions
    aten.var.correction: [(X,), (X, [1], {"correction": 2, "keepdim": True}), (X, [1, 2])],
    aten.std.correction: [(X, [1]), (X, [2], {"correction": 0}), (X,), (X * 0, [1])],
    aten.var_mean.correction: [(X, [1, 2], {"keepdim": True}), (X, [1], {"correction": 0})],
    aten.std_mean.correction: [(X, [1])],
    aten.prod.default: [(X,), (N,)],
    aten.prod.dim_int: [(X, 1), (N, -1, True), (N, 1, {"dtype": torch.float32})],
    aten.argmax.default: [(X,), (X, 1), (X, -1, True), (X, None, True)],
    aten.argmin.default: [(X,), (X, 2)],
    aten.all.default: [(B,), (N,), (torch.tensor(True),)],
    aten.all.dim: [(B, 1), (N, -1, True)],
    aten.all.dims: [(B, [1, 2])],
    aten._is_all_true.default: [(B,), (torch.ones(3).bool(),)],
    aten.any.default: [(B,), (N,)],
    aten.any.dim: [(B, 1), (N, -1, True), (X, 1)],
    aten.any.dims: [(B, [1, 2])],
    aten._is_any_true.default: [(B,), (torch.zeros(3).bool(),)],
    # spatial
    aten.pad.default: [
        (IMAGE, [1, 2, 2, 1], "circular"),
        (SIGNAL, [2, 1], "circular"),
        (IMAGE, [-1, 2]),
        (IMAGE, [-1, -2, 1, 0], "constant", 3.0),
        (IMAGE, [1, 2, 2, 1], "reflect"),
    ],
    aten.upsample_bicubic2d.default: RESIZE,
    aten.upsample_bicubic2d.vec: RESIZE_VEC,
    aten._upsample_bicubic2d_aa.default: RESIZE,
    aten._upsample_bicubic2d_aa.vec: RESIZE_VEC,
    aten._upsample_bilinear2d_aa.default: RESIZE,
    aten._upsample_bilinear2d_aa.vec: RESIZE_VEC,
    # of a length that is not known: test_torch_ops.py
    aten.upsample_nearest1d.vec: [(SIGNAL, None, [2.0]), (SIGNAL, [7], None)],
    aten.upsample_linear1d.vec: [(SIGNAL, None, False, [2.0]), (SIGNAL, [7], True, None)],
    aten.grid_sampler_2d.default: [
        (IMAGE, torch.rand(1, 5, 6, 2, generator=_G) * 3 - 1.5, sampling, outside, align)
        for sampling, outside, align in [(0, 0, False), (1, 0, True), (0, 1, True), (0, 2, False)]
    ],
    aten.convolution.default: [
        (SIGNAL, const(rand(4, 6, 3)), const(rand(6)), [3], [0], [1], True, [2], 1),
        (IMAGE, const(rand(4, 3, 3, 3)), None, [2, 2], [1, 0], [1, 1], True, [1, 1], 2),
        (IMAGE, const(rand(4, 6, 3, 3)), None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1),
        (IMAGE, const(rand(6, 4, 3, 3)), const(rand(6)), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    ],
    aten.im2col.default: [
        (IMAGE, [3, 3], [1, 1], [1, 1], [1, 1]),
        (IMAGE, [2, 3], [2, 1], [0, 1], [2, 2]),
    ],
    aten.col2im.default: [
        (rand(1, 16, 20), [8, 10], [2, 2], [1, 1], [0, 0], [2, 2]),
        (rand(2, 9, 80), [8, 10], [3, 3], [1, 1], [1, 1], [1, 1]),
        (rand(1, 8, 16), [9, 8], [2, 2], [1, 1], [0, 0], [2, 2]),
    ],
    # sizes; those that are not known are tested in test_dynamic_sizes.py
    aten.expand.default: [(rand(2, 1, 4), [2, 3, 4])],
    aten.slice.Tensor: [(X, 1, 0, 2), (X, -1, 1, 4, 2)],
    # structure
    aten._to_copy.default: [
        (X * 3, LONG),
        (N, {"dtype": torch.float32}),
        (X.round(), {"dtype": torch.bool}),
    ],
    aten.reshape.default: TO_SHAPES,
    aten.view.default: TO_SHAPES,
    aten.diff.default: [(X,), (B, 1, 1), (X, 2, 1, X[:, :1]), (N, 1, 0)],
}

# Without a value to compare: uninitialised memory, and assertions, which compute nothing.
VALUELESS = {
    aten.empty.memory_format,
    aten.new_empty.default,
    aten.empty_like.default,
    aten._assert_tensor_metadata.default,
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}
# Return their input, in one way or another; export does not keep them apart.
IDENTITIES = {
    aten.alias.default,
    aten.alias_copy.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten.clone.default,
    aten.detach.default,
    aten.detach_.default,
    aten.detach_copy.default,
    aten.contiguous.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
}
