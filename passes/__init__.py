"""Rewrites that shape a captured program for the Apple Neural Engine."""

from typing import Any

from frontend.deprecated import warn_renamed
from frontend.errors import InputError
from passes.api import optimize_for_ane
from passes.at_sites import AtSites
from passes.base import Choice, Forms, Pass
from passes.branches_to_where import BranchesToWhere
from passes.canonical_linear import CanonicalLinear
from passes.complex_to_real.complex_to_real import ComplexToReal
from passes.conv1d_to_conv2d import Conv1dToConv2d
from passes.default_pipeline import CAREFUL_PASSES, DEFAULT_PIPELINE, default_pipeline
from passes.eliminate_common import EliminateCommon
from passes.errors import InvariantError, LayoutError, OrderError, PassError
from passes.exact_eps import ExactEps
from passes.fold_batch_norm import FoldBatchNorm
from passes.fold_constants import FoldConstants
from passes.fuse_activations import FuseActivations
from passes.fuse_attention import FuseAttention
from passes.fuse_layer_norm import FuseLayerNorm
from passes.fuse_rms_norm import FuseRmsNorm
from passes.keep_images import KeepImages
from passes.layout.assign_layout import AssignLayout
from passes.limit_rank.limit_rank import LimitRank
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.optimized_model import OptimizedModel
from passes.pipeline import PassReport
from passes.renamed import CLASSES as _RENAMED
from passes.rewriter import Declined, Rewriter
from passes.rms_norm_form import RmsNormForm
from passes.simplify_algebra import SimplifyAlgebra
from passes.simplify_index import SimplifyIndex
from passes.simplify_views import SimplifyViews
from passes.split_attention import SplitAttention
from passes.squares_to_norm import SquaresToNorm
from passes.stable_logs import StableLogs
from passes.stable_roots import StableRoots
from passes.to_inference import ToInference
from passes.topk_of_logits import TopkOfLogits
from passes.unpack_projections import UnpackProjections

__all__ = [
    "CAREFUL_PASSES",
    "DEFAULT_PIPELINE",
    "AssignLayout",
    "AtSites",
    "BranchesToWhere",
    "CanonicalLinear",
    "Choice",
    "ComplexToReal",
    "Conv1dToConv2d",
    "Declined",
    "EliminateCommon",
    "ExactEps",
    "FoldBatchNorm",
    "FoldConstants",
    "Forms",
    "FuseActivations",
    "FuseAttention",
    "FuseLayerNorm",
    "FuseRmsNorm",
    "InputError",
    "InvariantError",
    "KeepImages",
    "LayoutError",
    "LimitRank",
    "LinearToConv1x1",
    "OptimizedModel",
    "OrderError",
    "Pass",
    "PassError",
    "PassReport",
    "Rewriter",
    "RmsNormForm",
    "SimplifyAlgebra",
    "SimplifyIndex",
    "SimplifyViews",
    "SplitAttention",
    "SquaresToNorm",
    "StableLogs",
    "StableRoots",
    "ToInference",
    "TopkOfLogits",
    "UnpackProjections",
    "default_pipeline",
    "optimize_for_ane",
]


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"passes.{name}", f"passes.{_RENAMED[name]}")
    return globals()[_RENAMED[name]]
