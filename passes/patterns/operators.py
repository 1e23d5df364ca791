"""Which operators are of one kind; a pass that treats a kind asks here.

Operators that treat every element alone are in ``pointwise``.
"""

from __future__ import annotations

import torch

aten = torch.ops.aten

RESHAPES = (
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
"""They give their input other axes and leave its elements in order. Capture spells ``view``,
``flatten`` and the like as ``reshape``."""

MOVES = (*RESHAPES, aten.permute.default)
"""They move the elements of their input, each to one place, and compute nothing."""

PARTS = (aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int)
"""They take their input apart along one axis; ``getitem`` picks the parts."""

MATMULS = (aten.matmul.default, aten.bmm.default)
"""Products over the last axis of one operand and the last but one of the other."""

SOFTMAXES = (aten.softmax.int, aten._softmax.default)
"""Of an operator's first input along the axis that its second one names."""

LOG_SOFTMAXES = (aten.log_softmax.int, aten._log_softmax.default)
"""As ``SOFTMAXES``."""

REDUCTIONS_OF_ONE_AXIS = (
    aten.all.dim,
    aten.any.dim,
    aten.argmax.default,
    aten.argmin.default,
    aten.prod.dim_int,
)
"""Reductions whose second argument is one axis."""

REDUCTIONS = (
    aten.all.dims,
    aten.amax.default,
    aten.amin.default,
    aten.any.dims,
    aten.logsumexp.default,
    aten.mean.dim,
    aten.std.correction,
    aten.sum.dim_IntList,
    aten.var.correction,
    *REDUCTIONS_OF_ONE_AXIS,
)
"""``op(x, dim, keepdim)``: one number of all elements along some axes."""
