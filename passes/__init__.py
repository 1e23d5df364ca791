"""Rewrites that shape a captured program for the Apple Neural Engine."""

from passes.api import optimize_for_ane
from passes.at_sites import AtSites
from passes.base import Choice, Forms, Pass
from passes.default_pipeline import DEFAULT_PIPELINE, default_pipeline
from passes.errors import InvariantError, LayoutError, OrderError, PassError
from passes.optimized_model import InputError, OptimizedModel
from passes.pipeline import PassReport
from passes.rewriter import Declined, Rewriter

__all__ = [
    "DEFAULT_PIPELINE",
    "AtSites",
    "Choice",
    "Declined",
    "Forms",
    "InputError",
    "InvariantError",
    "LayoutError",
    "OptimizedModel",
    "OrderError",
    "Pass",
    "PassError",
    "PassReport",
    "Rewriter",
    "default_pipeline",
    "optimize_for_ane",
]
