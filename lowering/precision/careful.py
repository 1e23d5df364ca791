"""Exact rewrites that only programs of small or large numbers need."""

from __future__ import annotations

from torch import nn
from torch.export import ExportedProgram

from passes.default_pipeline import CAREFUL_PASSES
from passes.optimized_model import OptimizedModel
from passes.pipeline import run


def rewritten_carefully(model: nn.Module | ExportedProgram) -> OptimizedModel | None:
    """A program after ``CAREFUL_PASSES``, ``None`` where they find nothing.

    Args:
        model: an ``ExportedProgram``, or a module that has one as its ``program``.
    """
    program = getattr(model, "program", model)
    assert isinstance(program, ExportedProgram)
    careful, reports = run(program, CAREFUL_PASSES)
    if not any(report.rewrites for report in reports):
        return None
    return OptimizedModel(
        careful,
        (*getattr(model, "reports", ()), *reports),
        (*getattr(model, "pipeline", ()), *CAREFUL_PASSES),
        captured=getattr(model, "captured", None),
    )
