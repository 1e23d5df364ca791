"""``_embedding_bag``: rows of a table, gathered and reduced bag by bag."""

from __future__ import annotations

import numpy as np
import torch
from coremltools.converters.mil.mil import Var

from lowering.conversion.builder import MilBuilder
from lowering.conversion.torch_ops.common import cast
from lowering.errors import LoweringError

_SUM, _MEAN, _MAX = range(3)


def _embedding_bag(
    mb: MilBuilder,
    weight: Var,
    indices: Var,
    offsets: Var,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: Var | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Var, None, None, None]:
    """(N, D) from a table (V, D), indices (L,) and the start of each of N bags."""
    bag, bags = _bags(mb, indices, offsets, include_last_offset, padding_idx)
    rows = mb.gather(x=weight, indices=indices, axis=0, validate_indices=False)
    if per_sample_weights is not None:
        weights = cast(mb, per_sample_weights, torch.float32)
        rows = mb.mul(x=rows, y=mb.expand_dims(x=weights, axes=[1]))
    sizes = np.bincount(bag, minlength=bags)
    if (sizes == sizes[0]).all() and sizes[0] > 0:
        grouped = mb.reshape(x=rows, shape=[bags, int(sizes[0]), -1])
        reduce = (mb.reduce_sum, mb.reduce_mean, mb.reduce_max)[mode]
        result = reduce(x=grouped, axes=[1])
    elif mode == _MAX:
        raise _refused(mb, "bags of one size where the mode is max", f"sizes {sizes.tolist()}")
    else:
        member = (bag[None] == np.arange(bags)[:, None]).astype(np.float32)
        if mode == _MEAN:
            member /= np.maximum(sizes, 1)[:, None]
        result = mb.matmul(x=member, y=rows)
    return result, None, None, None  # the others are for the backward pass


def _bags(
    mb: MilBuilder, indices: Var, offsets: Var, include_last_offset: bool, padding_idx: int
) -> tuple[np.ndarray, int]:
    """The bag of each index, and how many bags there are."""
    starts, length = offsets.val, indices.shape[0]
    if starts is None or not isinstance(length, int):
        raise _refused(mb, "bags of fixed sizes", "offsets that depend on data")
    if padding_idx >= 0:
        raise _refused(mb, "no padding_idx", f"padding_idx={padding_idx}")
    if include_last_offset:
        starts = starts[:-1]
    return np.searchsorted(starts, np.arange(length), side="right") - 1, len(starts)


def _refused(mb: MilBuilder, expected: str, found: str) -> LoweringError:
    return LoweringError(
        "this embedding bag cannot be lowered",
        op=str(mb.node.target),
        expected=expected,
        found=found,
        hint="pass indices (bags, length) without padding, or use nn.Embedding and a sum",
    )


# torch writes the second where no gradient is asked for.
TABLE = {
    torch.ops.aten._embedding_bag.default: _embedding_bag,
    torch.ops.aten._embedding_bag_forward_only.default: _embedding_bag,
}
