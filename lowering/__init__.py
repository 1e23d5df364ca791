"""Core ML packages: conversion, execution on any OS, verification, placement."""

from typing import TYPE_CHECKING

from frontend.lazy import lazily
from lowering.support.quiet import hide_import_warnings

if TYPE_CHECKING:
    from lowering.checking import preflight as preflight
    from lowering.conversion.composites import Composite as Composite
    from lowering.conversion.composites import composite as composite
    from lowering.conversion.converter import convert as convert
    from lowering.errors import LoweringError as LoweringError
    from lowering.package.saving import save as save
    from lowering.planner.placement import plan as plan
    from lowering.reference import load as load
    from lowering.reference import make_state as make_state
    from lowering.reference import predict as predict
    from lowering.verification import probe as probe
    from lowering.verification import verify as verify
    from lowering.verification.check_composite import check_composite as check_composite

hide_import_warnings()

__all__ = lazily(
    __name__,
    {
        "Composite": "lowering.conversion.composites",
        "LoweringError": "lowering.errors",
        "check_composite": "lowering.verification.check_composite",
        "composite": "lowering.conversion.composites",
        "convert": "lowering.conversion.converter",
        "load": "lowering.reference",
        "make_state": "lowering.reference",
        "plan": "lowering.planner.placement",
        "predict": "lowering.reference",
        "preflight": "lowering.checking",
        "probe": "lowering.verification",
        "save": "lowering.package.saving",
        "verify": "lowering.verification",
    },
)
