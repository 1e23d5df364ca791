"""``tune``: the variant of the passes that is predicted to suit a model best."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from frontend.errors import AnePassesError
from frontend.model_call import ModelCall
from lowering.ablation.result import Ablation, Figures, VariantResult
from lowering.ablation.sites import sites_of
from lowering.ablation.sweep import Settings, Sweep
from lowering.ablation.variants import Variant, choices_of, variant_with
from lowering.verification.metrics import AT_LEAST, metric_of
from lowering.verification.parity import Thresholds
from passes.base import Pass
from passes.default_pipeline import DEFAULT_PIPELINE
from passes.forms import Sites, forms_in
from passes.pipeline_text import to_text

By = Literal["price", "latency"]
# A variant must cost this much less than the default to be worth a departure from it.
MIN_GAIN = 0.02
_NATIVE = "scaled_dot_product_attention"
# *Measured* of the price (dispatcher dumps of an M4).
_NATIVE_CAVEAT = (
    f"caution: the price counts what {_NATIVE} reads and writes and not the scores inside it, "
    "which flatters it the more the longer the sequence is; the latency counts its parts, and "
    "nobody has published a time of it: time it on a device"
)


class TuneError(AnePassesError):
    """There is no variant to choose."""


@dataclass(frozen=True)
class Tuning:
    """A choice, and what it was chosen from.

    Attributes:
        ablation: every variant that was tried; its baseline is the default.
        target: the chip it was chosen for.
        by: what was minimised.
        bound: largest relative L2 error of the fp16 package that was allowed.
        at_least: what the metric had to reach; ``None`` where none was asked for.
        chosen: name of the variant.
        pipeline: its passes.
        reasons: why, in sentences.
    """

    ablation: Ablation
    target: str
    by: By
    bound: float
    chosen: str
    pipeline: tuple[Pass, ...]
    reasons: tuple[str, ...]
    at_least: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": "predicted",
            "chosen": self.chosen,
            "target": self.target,
            "by": self.by,
            "bound": self.bound,
            "at_least": self.at_least,
            "pipeline": to_text(self.pipeline),
            "reasons": list(self.reasons),
            "ablation": self.ablation.to_json(),
        }


@dataclass(frozen=True)
class _Rule:
    """What is minimised, on which chip, under which bounds."""

    chip: str
    by: By
    bound: float
    at_least: float | None = None

    def allows(self, figures: Figures) -> bool:
        """Whether a variant is exact enough."""
        if not figures.rel_l2 <= self.bound:
            return False
        if self.at_least is None:
            return True
        return figures.agreement is not None and figures.agreement >= self.at_least

    def cost(self, variant: VariantResult) -> float | None:
        """Milliseconds; ``None`` when unknown or when the variant is not exact enough."""
        if variant.figures is None or not self.allows(variant.figures):
            return None
        predicted = variant.figures.on(self.chip)
        return predicted.dispatch_ms if self.by == "price" else predicted.latency_ms

    def best(self, found: Ablation) -> VariantResult | None:
        """The cheapest variant, the earliest of equals; ``None`` when there is none."""
        costs = [(c, n) for n, v in enumerate(found.variants) if (c := self.cost(v)) is not None]
        return found.variants[min(costs)[1]] if costs else None

    def choice(self, found: Ablation) -> VariantResult | None:
        """The cheapest variant, or the plainest that is hardly dearer; the default is plainest."""
        best = self.best(found)
        if best is None:
            return None
        least = self.cost(best)
        assert least is not None  # it is the best
        near = [
            (len(v.settings), cost, place)
            for place, v in enumerate(found.variants)
            if (cost := self.cost(v)) is not None and cost * (1 - MIN_GAIN) <= least
        ]
        return found.variants[min(near)[2]]


def tune_model(
    model: ModelCall,
    settings: Settings | None = None,
    *,
    pipeline: Sequence[Pass] = DEFAULT_PIPELINE,
    by: By = "price",
    bound: float | None = None,
    at_least: float | None = None,
) -> Tuning:
    """Chooses the forms of the passes for one model, by what is *predicted* for one chip.

    Starts with the default, tries every choice of attention, norms, linears and layout by itself,
    goes on from the best, and ends where no single change is better. Where sites differ in size,
    it then changes those of one size at a time in the same way (see ``sites``). A departure from
    the default must save at least ``MIN_GAIN``.

    Args:
        model: what to tune.
        settings: how to measure; the first of its chips is tuned for.
        pipeline: the passes to start from, the default of the choice.
        by: minimise the dispatcher's price, or the predicted latency.
        bound: largest relative L2 error of the package; by default what ``verify`` allows.
        at_least: what the metric of ``settings`` must reach; 0.99 by default.

    Raises:
        VerificationError: there is no such metric, or it needs other outputs.
        TuneError: no variant can be measured, keeps the bounds, or has what is minimised, or there
            is no metric that could reach ``at_least``.
        CaptureError, CompositeError, UnknownChipError: see ``ablate``.
    """
    settings, steps = settings or Settings(), tuple(pipeline)
    least = _least(settings.metric, at_least)
    tried: dict[str, Variant] = {}
    best = variant_with(steps, {})
    with Sweep([model], settings) as sweep:
        everywhere = partial(_changes, steps, settings.deployment_target)
        sites = sites_of(sweep.programs[0], steps)
        at_sites = partial(_site_changes, steps, settings.deployment_target, sites)
        changes = [everywhere, at_sites] if sites else [everywhere]
        # Ends: the cost falls with each round, and there are finitely many variants.
        while True:
            for variant in (best, *changes[0](best)):
                tried.setdefault(variant.name, variant)
            (found,) = sweep.run([list(tried.values())])
            rule = _Rule(sweep.chips[0], by, _bound(found, bound), least)
            better = rule.best(found)
            if better is None:
                raise _nothing(found, rule)
            if better.name != best.name:
                best = tried[better.name]
            elif len(changes) > 1:
                del changes[0]
            else:
                break
    chosen = rule.choice(found)
    assert chosen is not None  # there is a best one
    return Tuning(
        found,
        rule.chip,
        by,
        rule.bound,
        chosen.name,
        tried[chosen.name].pipeline,
        tuple(_reasons(found, rule, chosen, sites)),
        at_least=least,
    )


def _changes(
    pipeline: tuple[Pass, ...], deployment_target: str, variant: Variant
) -> Iterator[Variant]:
    """``variant`` with one setting changed, in every way."""
    for option, forms in forms_in(pipeline).items():
        for choice in choices_of(forms, deployment_target):
            yield variant_with(pipeline, {**variant.settings, option: choice})


def _site_changes(
    pipeline: tuple[Pass, ...], deployment_target: str, sites: Sites, variant: Variant
) -> Iterator[Variant]:
    """``variant`` with one setting changed at the sites of one size, in every way."""
    known = forms_in(pipeline)
    for option, groups in sites.items():
        choices = choices_of(known[option], deployment_target)
        for group, choice in itertools.product(groups, choices):
            settings = {**variant.settings, f"{option} at {group}": choice}
            yield variant_with(pipeline, settings, sites)


def _least(metric: str | None, at_least: float | None) -> float | None:
    if metric is None:
        if at_least is not None:
            raise TuneError(
                "nothing is measured that could reach at_least",
                expected="the name of a metric beside it",
                found=f"at_least={at_least}",
            )
        return None
    metric_of(metric)
    return AT_LEAST if at_least is None else at_least


def _bound(found: Ablation, bound: float | None) -> float:
    return Thresholds().allowed(True, found.half_error) if bound is None else bound


def _nothing(found: Ablation, rule: _Rule) -> TuneError:
    figures = found.variants[0].figures
    if figures is None:
        return TuneError("no variant can be measured", found=found.variants[0].failure)
    if figures.rel_l2 > rule.bound:
        return TuneError(
            "no variant keeps the bound of the error",
            expected=f"relative L2 error of at most {rule.bound:.1e}",
            found=f"{figures.rel_l2:.1e} with the default passes",
            hint="give a larger --bound, or look for the operator at fault with `verify`",
        )
    if not rule.allows(figures):
        return TuneError(
            "no variant agrees with the model as the metric asks",
            expected=f"{rule.at_least}, of 1",
            found=f"{figures.agreement} with the default passes",
            hint="ask for less with --at-least, or look for the operator at fault with `verify`",
        )
    return TuneError(
        f"no variant has a {rule.by}",
        found=figures.on(rule.chip).latency_note,
        hint="choose by the price: --by price",
    )


def _reasons(found: Ablation, rule: _Rule, chosen: VariantResult, sites: Sites) -> Iterator[str]:
    programs = sum(variant.same_as is None for variant in found.variants)
    yield f"{len(found.variants)} variants were tried; they gave {programs} different programs"
    for option, groups in sites.items():
        count = sum(map(len, groups.values()))
        yield f"{option}: {count} sites of {len(groups)} sizes were tried size by size"
    if not sites:
        yield "no sites in modules of their own differ in size: one form for all"
    measures: tuple[By, ...] = ("price", "latency")
    for by in measures:
        yield _winner(found, replace(rule, by=by))
    bad = [v.name for v in found.variants if v.figures and not v.figures.rel_l2 <= rule.bound]
    if bad:
        yield f"left out, since their error is above {rule.bound:.1e}: {'; '.join(bad)}"
    off = [v.name for v in found.variants if v.figures and not rule.allows(v.figures)]
    if off := [name for name in off if name not in bad]:
        yield f"left out, since the metric is below {rule.at_least}: {'; '.join(off)}"
    failed = [variant.name for variant in found.variants if variant.failure]
    if failed:
        yield f"could not be measured: {'; '.join(failed)}"
    if chosen is found.variants[0]:
        yield f"the default is best by {rule.by}, or within {MIN_GAIN:.0%} of the best"
    if chosen.figures is not None and chosen.figures.mil.count(_NATIVE):
        yield _NATIVE_CAVEAT
    if chosen.figures is not None and chosen.figures.on(rule.chip).ane_ops == 0:
        yield "nothing of it runs on the ANE: the dispatcher prices the CPU lower for this model"


def _winner(found: Ablation, rule: _Rule) -> str:
    best, default = rule.best(found), found.variants[0]
    if best is None:
        return f"by {rule.by}: unknown on {rule.chip}"
    least, now = rule.cost(best), rule.cost(default)
    text = f"by {rule.by}: {best.name}, {least:.3g} ms predicted"
    if best is default:
        return text
    if now is None:
        return f"{text}; the default has no {rule.by}"
    text += f", the default {now:.3g} ms"
    verdict = found.difference(best, rule.chip).verdict
    return f"{text}: {verdict}" if rule.by == "latency" else text
