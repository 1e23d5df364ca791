"""Python branches on tensor values become ``torch.where``."""

from frontend.branches.explore import UncheckedPathWarning, run_all_paths
from frontend.branches.state import BranchError

__all__ = ["BranchError", "UncheckedPathWarning", "run_all_paths"]
