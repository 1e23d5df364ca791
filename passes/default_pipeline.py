"""The passes that run by default, in the order they run."""

from __future__ import annotations

from typing import Literal

from passes.at_sites import AtSites
from passes.base import Pass
from passes.branches_to_where import BranchesToWhere
from passes.canonical_linear import CanonicalLinear
from passes.complex_to_real.complex_to_real import ComplexToReal
from passes.conv1d_to_conv2d import Conv1dToConv2d
from passes.drop_leading_axes import DropLeadingAxes
from passes.eliminate_common import EliminateCommon
from passes.exact_eps import ExactEps
from passes.fold_batch_norm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.fold_rotation_sign import FoldRotationSign
from passes.fuse_activations import FuseActivations
from passes.fuse_attention import FuseAttention
from passes.fuse_layer_norm import FuseLayerNorm
from passes.fuse_rms_norm import FuseRmsNorm
from passes.join_heads import JoinHeads
from passes.keep_images import KeepImages
from passes.layout.assign_layout import AssignLayout
from passes.limit_rank.limit_rank import LimitRank
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.reshape_before_split import ReshapeBeforeSplit
from passes.rms_norm_form import RmsNormForm
from passes.select_early import SelectEarly
from passes.simplify_algebra import SimplifyAlgebra
from passes.simplify_index import SimplifyIndex
from passes.simplify_views import SimplifyViews
from passes.split_attention import SplitAttention
from passes.squares_to_norm import SquaresToNorm
from passes.stable_logs import StableLogs
from passes.stable_roots import StableRoots
from passes.swap_last_axes import SwapLastAxes
from passes.tabulate_positions import TabulatePositions
from passes.tile_linear import TileLinear
from passes.to_inference import ToInference
from passes.topk_of_logits import TopkOfLogits
from passes.unpack_projections import UnpackProjections


def default_pipeline(
    *,
    attention: Literal["split", "batched", "native"] = "split",
    rms_norm: Literal["scaled", "layer_norm", "native"] = "scaled",
    image_outputs: bool = False,
) -> tuple[Pass, ...]:
    """The default passes; a plain tuple, to be sliced, extended and reordered at will.

    Args:
        attention: see ``SplitAttention``.
        rms_norm: see ``RmsNormForm``.
        image_outputs: see ``AssignLayout``; changes the shapes of results.
    """
    return (
        BranchesToWhere(),
        ToInference(),
        FoldConstants(),
        ComplexToReal(),
        SimplifyAlgebra(),
        SimplifyIndex(),
        SimplifyViews(),
        EliminateCommon(),
        FuseActivations(),
        StableLogs(),
        TopkOfLogits(),
        CanonicalLinear(),
        UnpackProjections(),
        FoldBatchNorm(),
        FuseRmsNorm(),
        FuseAttention(),
        SplitAttention(form=attention),
        KeepImages(),
        LinearToConv1x1(),
        Conv1dToConv2d(),
        FuseLayerNorm(),
        RmsNormForm(form=rms_norm),
        AssignLayout(image_outputs=image_outputs),
        LimitRank(),
        StableRoots(),
        SquaresToNorm(),
        SimplifyViews(),
        EliminateCommon(),
        FoldConstants(),
    )


DEFAULT_PIPELINE: tuple[Pass, ...] = default_pipeline()

# Exact as well, at the price of an operator or more each: for programs of small or large numbers,
# behind the default passes.
CAREFUL_PASSES: tuple[Pass, ...] = (ExactEps(), StableRoots(thorough=True))

# Every pass of this package: what a text may name without more.
ALL_PASSES: tuple[type[Pass], ...] = (
    AtSites,
    AssignLayout,
    BranchesToWhere,
    CanonicalLinear,
    FuseLayerNorm,
    ComplexToReal,
    Conv1dToConv2d,
    DropLeadingAxes,
    EliminateCommon,
    ExactEps,
    FoldBatchNorm,
    FoldConstants,
    FoldRotationSign,
    FuseActivations,
    FuseAttention,
    FuseRmsNorm,
    JoinHeads,
    KeepImages,
    LimitRank,
    LinearToConv1x1,
    TopkOfLogits,
    ToInference,
    ReshapeBeforeSplit,
    RmsNormForm,
    SelectEarly,
    SimplifyAlgebra,
    SimplifyIndex,
    SimplifyViews,
    SplitAttention,
    StableLogs,
    SquaresToNorm,
    StableRoots,
    SwapLastAxes,
    TabulatePositions,
    TileLinear,
    UnpackProjections,
)
