"""What an ablation found: plain values that tables, JSON and reports read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lowering.planner.mil_stats import MilStats
from lowering.planner.result import Plan
from lowering.support.finite import finite

Kind = Literal["default", "original", "without", "alone", "prefix", "form"]
VERDICTS = ("faster", "slower", "no measurable difference", "same program", "unknown")


@dataclass(frozen=True)
class Predicted:
    """What the planner *predicts* for one program on one chip; nothing here was timed.

    Attributes:
        target: chip.
        ane_ops: share of operators on the ANE, 0 to 1.
        ane_cost: share of the dispatcher's price on the ANE, 0 to 1.
        segments: runs of operators on one device.
        switches: changes of device, entry from and return to the host included.
        dispatch_ms: the dispatcher's price of the placement, milliseconds: the estimate that
            Core ML decides by, not a run time.
        latency_ms: time on the device, milliseconds; ``None`` when unknown.
        low, high: its interval, milliseconds.
        latency_note: what the latency rests on, or why it is unknown.
    """

    target: str
    ane_ops: float
    ane_cost: float
    segments: int
    switches: int
    dispatch_ms: float
    latency_ms: float | None
    low: float | None
    high: float | None
    latency_note: str

    @classmethod
    def of(cls, plan: Plan) -> Predicted:
        """The figures of a plan."""
        share, latency = plan.ane_share, plan.latency_ms
        return cls(
            plan.target,
            share.ops,
            share.cost,
            len(plan.segments),
            plan.switches,
            plan.dispatch_ms,
            None if latency is None else latency.ms,
            None if latency is None else latency.low,
            None if latency is None else latency.high,
            plan.latency_note,
        )

    @property
    def latency_text(self) -> str:
        """``2.3 (1.4–3.9)``, or a dash where none is known."""
        if self.latency_ms is None:
            return "–"
        return f"{self.latency_ms:.2g} ({self.low:.2g}–{self.high:.2g})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": "predicted", **vars(self)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Predicted:
        """What ``to_json`` wrote."""
        return cls(**{name: value for name, value in raw.items() if name != "kind"})


@dataclass(frozen=True)
class Observed:
    """Times and memory of making and running the variant here; they vary from run to run.

    Attributes:
        convert_seconds: conversion to MIL.
        cpu_ms: median call of the rewritten module in torch, milliseconds, one thread.
        peak_bytes: what measuring added to the process at its peak.
    """

    convert_seconds: float
    cpu_ms: float
    peak_bytes: int


@dataclass(frozen=True)
class Figures:
    """Everything about one rewritten program.

    Attributes:
        mil: operator counts and bytes of the package.
        weight_bytes: the package's weights as stored.
        rel_l2: fp16 error: the package in the interpreter against the original in float32,
            relative L2 norm of its worst output.
        max_abs: largest absolute difference of any output.
        predicted: one entry for each chip.
        observed: times and memory on the machine that measured.
        agreement: what the metric that was asked for says, from 0 to 1; ``None`` without one.
    """

    mil: MilStats
    weight_bytes: int
    rel_l2: float
    max_abs: float
    predicted: tuple[Predicted, ...]
    observed: Observed
    agreement: float | None = None

    def on(self, target: str) -> Predicted:
        """The prediction for one chip."""
        return next(entry for entry in self.predicted if entry.target == target)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "mil": self.mil.to_json(),
            "transposes": self.mil.count("transpose"),
            "reshapes": self.mil.count("reshape"),
            "weight_bytes": self.weight_bytes,
            "rel_l2": finite(self.rel_l2),
            "max_abs": finite(self.max_abs),
            "agreement": self.agreement,
            "predicted": [entry.to_json() for entry in self.predicted],
            "observed": {"kind": "observed", **vars(self.observed)},
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Figures:
        """What ``to_json`` wrote."""
        observed = {name: value for name, value in raw["observed"].items() if name != "kind"}
        return cls(
            MilStats.from_json(raw["mil"]),
            raw["weight_bytes"],
            float(raw["rel_l2"]),
            float(raw["max_abs"]),
            tuple(Predicted.from_json(entry) for entry in raw["predicted"]),
            Observed(**observed),
            raw.get("agreement"),
        )


@dataclass(frozen=True)
class VariantResult:
    """One way to run the passes, and what came of it.

    Attributes:
        name: such as ``without split_attention``; unique in its ablation.
        kind: ``default`` (the whole pipeline), ``original`` (captured, no pass, converted by us),
            ``without`` (one pass left out), ``alone`` (one pass), ``prefix`` (the first passes up
            to and including the named one) or ``form`` (a pass with other options).
        passes: the pipeline, each pass as text.
        settings: options that differ from the default's: ``{"attention": "batched"}``.
        rewrites: places that the passes rewrote.
        declined: places that they left alone.
        optimize_seconds: time of the passes, *observed*; without capturing.
        same_as: an earlier variant whose rewritten program is the same; its figures are shared.
        figures: ``None`` when it could not be measured.
        failure: why it could not be, ``""`` when it was.
    """

    name: str
    kind: Kind
    passes: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    rewrites: int = 0
    declined: int = 0
    optimize_seconds: float = 0.0
    same_as: str | None = None
    figures: Figures | None = None
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **vars(self),
            "passes": list(self.passes),
            "settings": dict(self.settings),
            "figures": None if self.figures is None else self.figures.to_json(),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> VariantResult:
        """What ``to_json`` wrote, and what ``Ablation.to_json`` adds to it left out."""
        figures = raw["figures"]
        return cls(
            raw["name"],
            raw["kind"],
            tuple(raw["passes"]),
            dict(raw["settings"]),
            raw["rewrites"],
            raw["declined"],
            raw["optimize_seconds"],
            raw["same_as"],
            None if figures is None else Figures.from_json(figures),
            raw["failure"],
        )


@dataclass(frozen=True)
class Difference:
    """A variant beside the default, on one chip; *predicted*.

    Attributes:
        verdict: one of ``VERDICTS``. ``no measurable difference``: the variant's latency lies
            within the interval of the default's. ``unknown``: one of them has no latency.
        latency_ratio: the variant's latency over the default's, ``None`` when unknown.
        price_ratio: the same of the dispatcher's prices, ``None`` when there are none.
    """

    verdict: str
    latency_ratio: float | None
    price_ratio: float | None


@dataclass(frozen=True)
class Ablation:
    """What each variant of the passes does to one model.

    Attributes:
        model: its name.
        targets: chips of the predictions.
        deployment_target: oldest system of the packages, such as ``iOS17``.
        baseline: name of the variant that others are compared with.
        half_error: relative L2 error of the original itself when torch runs it in half
            precision, ``None`` where torch cannot; the yardstick of ``rel_l2``.
        variants: the default first.
    """

    model: str
    targets: tuple[str, ...]
    deployment_target: str
    baseline: str
    half_error: float | None
    variants: tuple[VariantResult, ...]

    def variant(self, name: str) -> VariantResult:
        """The variant called ``name``."""
        return next(variant for variant in self.variants if variant.name == name)

    def difference(self, variant: VariantResult, target: str) -> Difference:
        """``variant`` beside the default on ``target``."""
        base = self.variant(self.baseline)
        if variant.figures is None or base.figures is None:
            return Difference("unknown", None, None)
        ours, theirs = variant.figures.on(target), base.figures.on(target)
        price = ours.dispatch_ms / theirs.dispatch_ms if theirs.dispatch_ms else None
        if ours.latency_ms is None or theirs.latency_ms is None:
            return Difference("unknown", None, price)
        ratio = ours.latency_ms / theirs.latency_ms
        assert theirs.low is not None and theirs.high is not None  # they come with the latency
        if self.baseline in (variant.name, variant.same_as):
            verdict = "same program"
        elif theirs.low <= ours.latency_ms <= theirs.high:
            verdict = "no measurable difference"
        else:
            verdict = "faster" if ratio < 1 else "slower"
        return Difference(verdict, ratio, price)

    def to_json(self) -> dict[str, Any]:
        """Plain values; each variant with its difference from the default by chip."""
        variants = [
            {
                **variant.to_json(),
                "difference": {t: vars(self.difference(variant, t)) for t in self.targets},
            }
            for variant in self.variants
        ]
        return {**vars(self), "targets": list(self.targets), "variants": variants}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Ablation:
        """What ``to_json`` wrote."""
        return cls(
            raw["model"],
            tuple(raw["targets"]),
            raw["deployment_target"],
            raw["baseline"],
            raw["half_error"],
            tuple(VariantResult.from_json(entry) for entry in raw["variants"]),
        )
