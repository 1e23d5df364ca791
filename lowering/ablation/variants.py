"""The ways to run the passes that an ablation compares."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from frontend.errors import AnePassesError
from lowering.ablation.result import Kind
from passes.base import Forms, Pass
from passes.forms import Sites, formed, forms_in
from passes.renamed import name_now

DEFAULT = "default"


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
    only = {name if name in names else name_now(name) for name in only}
    unknown = sorted(only - set(names))
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
    """Every combination of the forms of its passes but the pipeline's own.

    A pass that one of its forms leaves out is left out anyway: its forms are not combined.
    """
    grid = [
        [(option, choice) for choice in choices_of(forms, deployment_target)]
        for option, forms in forms_in(pipeline).items()
        if all(choice.options is not None for choice in forms.choices.values())
    ]
    found: dict[str, Variant] = {}
    for settings in itertools.product(*grid):
        variant = variant_with(pipeline, dict(settings))
        found.setdefault(variant.name, variant)
    return [variant for name, variant in found.items() if name != DEFAULT]


def choices_of(forms: Forms, deployment_target: str) -> list[str]:
    """The forms that a system has."""
    system = system_number(deployment_target)
    return [name for name, choice in forms.choices.items() if choice.since <= system]


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
    for option in forms_in(pipeline):
        general = settings.get(option)
        groups = (sites or {}).get(option, {})
        at = {group: settings.get(f"{option} at {group}") for group in groups}
        everywhere = formed(changed, option, general)
        if general is not None and everywhere != changed:
            changing[option] = general
        special = {
            group: choice
            for group, choice in at.items()
            if choice is not None and formed(changed, option, choice) != everywhere
        }
        changing |= {f"{option} at {group}": choice for group, choice in special.items()}
        changed = formed(changed, option, general, special, groups)
    name = ", ".join(f"{option}={choice}" for option, choice in sorted(changing.items()))
    return Variant(name or DEFAULT, "form" if name else "default", changed, changing)


def system_number(deployment_target: str) -> int:
    """``18`` for ``iOS18``."""
    return int("".join(filter(str.isdigit, deployment_target)))
