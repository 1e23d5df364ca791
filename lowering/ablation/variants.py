"""The ways to run the passes that an ablation compares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from frontend.errors import AnePassesError
from lowering.ablation.result import Kind
from passes.pipeline import Pass
from passes.rms_norm_form import RmsNormForm
from passes.split_attention import SplitAttention

DEFAULT = "default"
# Name of a choice to the options of its pass. ``query_chunk`` is that of the hand-written ports.
_ATTENTION: dict[str, dict[str, Any]] = {
    "split": {"form": "split"},
    "chunked": {"form": "split", "query_chunk": 256, "chunk_above": 0},
    "batched": {"form": "batched"},
    "native": {"form": "native"},
}
_NORMS: dict[str, dict[str, Any]] = {
    name: {"form": name} for name in ("scaled", "layer_norm", "native")
}
# The form that MIL has from this system on only.
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
            "The pipeline has no such pass", expected=", ".join(names), found=", ".join(unknown)
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
    """Every combination of the forms of attention and RMS norm but the pipeline's own."""
    found: list[Variant] = []
    for attention, of_attention in _ATTENTION.items():
        if attention == "native" and system_number(deployment_target) < _NATIVE_SINCE:
            continue
        for norm, of_norm in _NORMS.items():
            changed: list[Pass] = []
            settings: dict[str, str] = {}
            for step in pipeline:
                wanted: Pass = step
                if isinstance(step, SplitAttention):
                    wanted = replace(step, **of_attention)
                    settings |= {"attention": attention} if wanted != step else {}
                elif isinstance(step, RmsNormForm):
                    wanted = replace(step, **of_norm)
                    settings |= {"rms_norm": norm} if wanted != step else {}
                changed.append(wanted)
            name = ", ".join(f"{option}={choice}" for option, choice in settings.items())
            if settings and name not in [variant.name for variant in found]:
                found.append(Variant(name, "form", tuple(changed), settings))
    return found


def system_number(deployment_target: str) -> int:
    """``18`` for ``iOS18``."""
    return int("".join(filter(str.isdigit, deployment_target)))
