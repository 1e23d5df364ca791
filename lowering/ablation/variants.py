"""The ways to run the passes that an ablation compares."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from frontend.errors import AnePassesError
from lowering.ablation.result import Kind
from lowering.ablation.sites import Sites
from passes.at_sites import AtSites
from passes.base import Pass
from passes.layout.assign_layout import AssignLayout
from passes.linear_to_conv1x1 import LinearToConv1x1
from passes.rms_norm_form import RmsNormForm
from passes.split_attention import SplitAttention

DEFAULT = "default"


def _chunks(queries: int) -> dict[str, Any]:
    return {"form": "split", "query_chunk": queries, "chunk_above": 0}


# Option to choice to the pass it concerns and its options there; ``None`` leaves the pass out.
# 256 queries a chunk is what the hand-written ports take.
CHOICES: dict[str, dict[str, tuple[type[Any], dict[str, Any] | None]]] = {
    "attention": {
        "split": (SplitAttention, {"form": "split"}),
        "chunks_of_256": (SplitAttention, _chunks(256)),
        "chunks_of_512": (SplitAttention, _chunks(512)),
        "batched": (SplitAttention, {"form": "batched"}),
        "native": (SplitAttention, {"form": "native"}),
    },
    "rms_norm": {
        name: (RmsNormForm, {"form": name}) for name in ("scaled", "layer_norm", "native")
    },
    "linear": {
        "convolved": (LinearToConv1x1, {}),
        "tied_convolved": (LinearToConv1x1, {"tied": "convert"}),
        "kept": (LinearToConv1x1, None),
    },
    "layout": {"assigned": (AssignLayout, {}), "as_written": (AssignLayout, None)},
}
# Options that an ablation combines; the others are passes that it leaves out anyway.
_GRID = ("attention", "rms_norm")
# The first system with native attention.
_NATIVE_SINCE = 18


class VariantsError(AnePassesError):
    """There are no such variants."""


@dataclass(frozen=True)
class Variant:
    """A pipeline with a name.

    Attributes:
        name: unique among the variants of a model.
        kind: see ``VariantResult``.
        pipeline: the passes, in the order they run.
        settings: what was chosen, where it is not the default.
    """

    name: str
    kind: Kind
    pipeline: tuple[Pass, ...]
    settings: Mapping[str, str] = field(default_factory=dict)


def variants_of(
    pipeline: Sequence[Pass], *, deployment_target: str = "iOS17", only: Collection[str] = ()
) -> tuple[Variant, ...]:
    """The default first, then no pass, each left out, each alone, the prefixes, and the forms.

    A pass that stands twice is left out, or kept, in both places.

    Args:
        pipeline: the default.
        deployment_target: oldest system of the packages; native attention needs iOS18.
        only: names of passes to leave out and to try alone; all by default.

    Raises:
        VariantsError: ``only`` names a pass that is not in ``pipeline``.
    """
    pipeline = tuple(pipeline)
    names = tuple(dict.fromkeys(step.name for step in pipeline))
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise VariantsError(
            "the pipeline has no such pass", expected=", ".join(names), found=", ".join(unknown)
        )
    chosen = [name for name in names if not only or name in only]
    return (
        Variant(DEFAULT, "default", pipeline),
        Variant("original", "original", ()),
        *(
            Variant(f"without {name}", "without", _kept(pipeline, lambda n, x=name: n != x))
            for name in chosen
        ),
        *(
            Variant(f"{name} alone", "alone", _kept(pipeline, lambda n, x=name: n == x)[:1])
            for name in chosen
        ),
        *_prefixes(pipeline),
        *forms_of(pipeline, deployment_target),
    )


def _kept(pipeline: tuple[Pass, ...], keep: Any) -> tuple[Pass, ...]:
    return tuple(step for step in pipeline if keep(step.name))


def _prefixes(pipeline: tuple[Pass, ...]) -> list[Variant]:
    return [
        Variant(f"first {count}, to {pipeline[count - 1].name}", "prefix", pipeline[:count])
        for count in range(1, len(pipeline))
    ]


def forms_of(pipeline: tuple[Pass, ...], deployment_target: str) -> list[Variant]:
    """Every combination of the forms of attention and of norms but the pipeline's own."""
    grid = [
        [(option, choice) for choice in choices_of(option, deployment_target)] for option in _GRID
    ]
    found: dict[str, Variant] = {}
    for settings in itertools.product(*grid):
        variant = variant_with(pipeline, dict(settings))
        found.setdefault(variant.name, variant)
    return [variant for name, variant in found.items() if name != DEFAULT]


def choices_of(option: str, deployment_target: str) -> list[str]:
    """The choices of an option of ``CHOICES`` that a system has."""
    since = system_number(deployment_target) >= _NATIVE_SINCE
    return [
        choice for choice in CHOICES[option] if since or (option, choice) != ("attention", "native")
    ]


def variant_with(
    pipeline: tuple[Pass, ...], settings: Mapping[str, str], sites: Sites | None = None
) -> Variant:
    """``pipeline`` with these choices; named after those that change it.

    Args:
        pipeline: the default.
        settings: option to choice, and ``option at group`` to the choice there.
        sites: the modules of each group of each option.
    """
    changing: dict[str, str] = {}
    changed = pipeline
    for option in CHOICES:
        general = settings.get(option)
        at = {
            group: settings.get(f"{option} at {group}") for group in (sites or {}).get(option, {})
        }
        formed = _formed(changed, option, general, {}, sites)
        if general is not None and formed != changed:
            changing[option] = general
        special = {
            group: choice
            for group, choice in at.items()
            if choice is not None and _formed(changed, option, choice, {}, sites) != formed
        }
        changing |= {f"{option} at {group}": choice for group, choice in special.items()}
        changed = _formed(changed, option, general, special, sites)
    name = ", ".join(f"{option}={choice}" for option, choice in sorted(changing.items()))
    return Variant(name or DEFAULT, "form" if name else "default", changed, changing)


def _formed(
    pipeline: tuple[Pass, ...],
    option: str,
    general: str | None,
    special: Mapping[str, str],
    sites: Sites | None,
) -> tuple[Pass, ...]:
    """``pipeline`` with one choice everywhere, and others at some groups of sites."""
    choices = CHOICES[option]
    kind = next(iter(choices.values()))[0]
    found: list[Pass] = []
    for step in pipeline:
        if not isinstance(step, kind):
            found.append(step)
            continue
        taken: tuple[str, ...] = ()
        for group, choice in special.items():
            modules = (sites or {})[option][group]
            taken += modules
            if (options := choices[choice][1]) is not None:
                found.append(AtSites(replace(step, **options), modules))
        options = {} if general is None else choices[general][1]
        if options is not None:
            rest = replace(step, **options)
            found.append(AtSites(rest, taken, elsewhere=True) if taken else rest)
    return tuple(found)


def system_number(deployment_target: str) -> int:
    """``18`` for ``iOS18``."""
    return int("".join(filter(str.isdigit, deployment_target)))
