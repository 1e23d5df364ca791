"""Core ML packages: conversion, execution on any OS, verification, placement.

Each verb of the command line is a function here, with its result and its errors.
"""

from typing import TYPE_CHECKING

from frontend.lazy import lazily
from lowering.support.quiet import hide_import_warnings

if TYPE_CHECKING:
    from frontend.errors import AnePassesError as AnePassesError
    from frontend.errors import CaptureError as CaptureError
    from frontend.errors import InputError as InputError
    from lowering.ablation.compare import PackageComparison as PackageComparison
    from lowering.ablation.compare import PackageFigures as PackageFigures
    from lowering.ablation.compare import compare as compare
    from lowering.ablation.result import Ablation as Ablation
    from lowering.ablation.sweep import Settings as Settings
    from lowering.ablation.tune import TuneError as TuneError
    from lowering.ablation.tune import Tuning as Tuning
    from lowering.ablation.variants import VariantsError as VariantsError
    from lowering.ablation.verbs import ablate as ablate
    from lowering.ablation.verbs import tune as tune
    from lowering.checking.explain import Explained as Explained
    from lowering.checking.explain import RuleError as RuleError
    from lowering.checking.explain import explain as explain
    from lowering.checking.result import Preflight as Preflight
    from lowering.checking.rules import Severity as Severity
    from lowering.checking.scan import check as check
    from lowering.compression.ladder_result import Ladder as Ladder
    from lowering.compression.result import Compression as Compression
    from lowering.contract.contract import Acceptance as Acceptance
    from lowering.contract.contract import ModelContract as ModelContract
    from lowering.contract.errors import ContractError as ContractError
    from lowering.contract.errors import PictureError as PictureError
    from lowering.contract.errors import SoundError as SoundError
    from lowering.contract.export import export as export
    from lowering.contract.folder import open_folder as open_folder
    from lowering.contract.image import Image as Image
    from lowering.contract.ship.checklist import ship as ship
    from lowering.contract.ship.result import Checklist as Checklist
    from lowering.contract.sound import Sound as Sound
    from lowering.contract.tasks.classify import Classify as Classify
    from lowering.contract.tasks.detect import Detect as Detect
    from lowering.contract.tasks.embed import Embed as Embed
    from lowering.contract.tasks.segment import Segment as Segment
    from lowering.contract.tasks.speech import Speech as Speech
    from lowering.contract.verbs import compress as compress
    from lowering.contract.verbs import convert as convert
    from lowering.contract.verbs import ladder as ladder
    from lowering.contract.verbs import plan as plan
    from lowering.contract.verbs import predict as predict
    from lowering.contract.verbs import verify as verify
    from lowering.conversion.composites import Composite as Composite
    from lowering.conversion.composites import composite as composite
    from lowering.core_ai.asset import CoreAIModel as CoreAIModel
    from lowering.errors import CompositeError as CompositeError
    from lowering.errors import CompressionError as CompressionError
    from lowering.errors import CoreAIError as CoreAIError
    from lowering.errors import LoweringError as LoweringError
    from lowering.errors import PackageError as PackageError
    from lowering.errors import SaveError as SaveError
    from lowering.errors import UnsupportedOpsError as UnsupportedOpsError
    from lowering.package.saving import save as save
    from lowering.planner.placement import ComputeUnitsError as ComputeUnitsError
    from lowering.planner.result import Plan as Plan
    from lowering.planner.targets import UnknownChipError as UnknownChipError
    from lowering.precision.ranges import ranges as ranges
    from lowering.precision.result import Ranges as Ranges
    from lowering.reference import ExecutionError as ExecutionError
    from lowering.reference import LoadedModel as LoadedModel
    from lowering.reference import Precision as Precision
    from lowering.reference import State as State
    from lowering.reference import UnknownOpsError as UnknownOpsError
    from lowering.reference import load as load
    from lowering.reference import make_state as make_state
    from lowering.reporting.asset import AssetReport as AssetReport
    from lowering.reporting.reporter import report as report
    from lowering.reporting.result import Report as Report
    from lowering.reporting.result import ReportError as ReportError
    from lowering.verification import Parity as Parity
    from lowering.verification import Probe as Probe
    from lowering.verification import Thresholds as Thresholds
    from lowering.verification import Verification as Verification
    from lowering.verification import VerificationError as VerificationError
    from lowering.verification import probe as probe
    from lowering.verification.check_composite import check_composite as check_composite

hide_import_warnings()

__all__, __getattr__, __dir__ = lazily(
    __name__,
    {
        "Ablation": "lowering.ablation.result",
        "Acceptance": "lowering.contract.contract",
        "AnePassesError": "frontend.errors",
        "CaptureError": "frontend.errors",
        "Checklist": "lowering.contract.ship.result",
        "Classify": "lowering.contract.tasks.classify",
        "Composite": "lowering.conversion.composites",
        "CompositeError": "lowering.errors",
        "Compression": "lowering.compression.result",
        "CompressionError": "lowering.errors",
        "ComputeUnitsError": "lowering.planner.placement",
        "ContractError": "lowering.contract.errors",
        "Detect": "lowering.contract.tasks.detect",
        "Embed": "lowering.contract.tasks.embed",
        "CoreAIError": "lowering.errors",
        "CoreAIModel": "lowering.core_ai.asset",
        "ExecutionError": "lowering.reference",
        "Explained": "lowering.checking.explain",
        "Image": "lowering.contract.image",
        "InputError": "frontend.errors",
        "Ladder": "lowering.compression.ladder_result",
        "LoadedModel": "lowering.reference",
        "LoweringError": "lowering.errors",
        "ModelContract": "lowering.contract.contract",
        "PackageComparison": "lowering.ablation.compare",
        "PackageError": "lowering.errors",
        "PackageFigures": "lowering.ablation.compare",
        "Parity": "lowering.verification",
        "PictureError": "lowering.contract.errors",
        "Plan": "lowering.planner.result",
        "Precision": "lowering.reference",
        "Preflight": "lowering.checking.result",
        "Probe": "lowering.verification",
        "Ranges": "lowering.precision.result",
        "AssetReport": "lowering.reporting.asset",
        "Report": "lowering.reporting.result",
        "ReportError": "lowering.reporting.result",
        "RuleError": "lowering.checking.explain",
        "SaveError": "lowering.errors",
        "Segment": "lowering.contract.tasks.segment",
        "Settings": "lowering.ablation.sweep",
        "Severity": "lowering.checking.rules",
        "Sound": "lowering.contract.sound",
        "SoundError": "lowering.contract.errors",
        "Speech": "lowering.contract.tasks.speech",
        "State": "lowering.reference",
        "Thresholds": "lowering.verification",
        "TuneError": "lowering.ablation.tune",
        "Tuning": "lowering.ablation.tune",
        "UnknownChipError": "lowering.planner.targets",
        "UnknownOpsError": "lowering.reference",
        "UnsupportedOpsError": "lowering.errors",
        "VariantsError": "lowering.ablation.variants",
        "Verification": "lowering.verification",
        "VerificationError": "lowering.verification",
        "ablate": "lowering.ablation.verbs",
        "check": "lowering.checking.scan",
        "check_composite": "lowering.verification.check_composite",
        "compare": "lowering.ablation.compare",
        "composite": "lowering.conversion.composites",
        "compress": "lowering.contract.verbs",
        "convert": "lowering.contract.verbs",
        "explain": "lowering.checking.explain",
        "export": "lowering.contract.export",
        "ladder": "lowering.contract.verbs",
        "load": "lowering.reference",
        "make_state": "lowering.reference",
        "open_folder": "lowering.contract.folder",
        "plan": "lowering.contract.verbs",
        "predict": "lowering.contract.verbs",
        "probe": "lowering.verification",
        "ranges": "lowering.precision.ranges",
        "report": "lowering.reporting.reporter",
        "save": "lowering.package.saving",
        "ship": "lowering.contract.ship.checklist",
        "tune": "lowering.ablation.verbs",
        "verify": "lowering.contract.verbs",
    },
    renamed={"preflight": "check"},
)
