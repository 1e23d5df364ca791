"""Core ML packages: conversion, execution on any OS, verification, placement."""

from lowering.quiet import quiet_coremltools

# On import coremltools warns of the torch release and of what it has on macOS only.
with quiet_coremltools():
    from lowering.check_composite import check_composite
    from lowering.composites import Composite, composite
    from lowering.convert import convert
    from lowering.errors import LoweringError
    from lowering.planner.plan import plan
    from lowering.preflight import preflight
    from lowering.reference import load, make_state, predict
    from lowering.save import save
    from lowering.verification import probe, verify

__all__ = [
    "Composite",
    "LoweringError",
    "check_composite",
    "composite",
    "convert",
    "load",
    "make_state",
    "plan",
    "predict",
    "preflight",
    "probe",
    "save",
    "verify",
]
