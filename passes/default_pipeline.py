"""The passes that run by default, in the order they run."""

from __future__ import annotations

from typing import Literal

from passes.assign_layout import AssignLayout
from passes.eliminate_common import EliminateCommon
from passes.fold_constants import FoldConstants
from passes.fuse_attention import FuseAttention
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.pipeline import Pass
from passes.split_attention import SplitAttention


def default_pipeline(
    *, attention: Literal["split", "batched", "native"] = "split"
) -> tuple[Pass, ...]:
    """The default passes; a plain tuple, to be sliced, extended and reordered at will."""
    return (
        FoldConstants(),
        EliminateCommon(),
        FuseAttention(),
        SplitAttention(form=attention),
        LinearToConv1x1(),
        AssignLayout(),
        FoldConstants(),
        EliminateCommon(),
    )


DEFAULT_PIPELINE: tuple[Pass, ...] = default_pipeline()
