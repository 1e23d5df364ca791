"""Pipelines whose passes give their places one form or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from passes.at_sites import AtSites
from passes.base import Choice, Forms, Pass
from passes.errors import PassError

# Option to group to the module paths of its sites.
Sites = Mapping[str, Mapping[str, tuple[str, ...]]]


class FormsError(PassError):
    """A pass has no such form."""


def forms_in(pipeline: Sequence[Pass]) -> dict[str, Forms]:
    """The forms that the passes of a pipeline choose from, by option, in their order.

    Raises:
        FormsError: two passes call their option alike.
    """
    found: dict[str, Forms] = {}
    for step in pipeline:
        if step.forms is None:
            continue
        if found.setdefault(step.forms.option, step.forms) is not step.forms:
            raise FormsError(
                "two passes call their forms alike",
                expected="an option of its own for each pass with forms",
                found=f"{step.forms.option!r} of {step.name} and of a pass before it",
            )
    return found


def with_forms(pipeline: Sequence[Pass], settings: Mapping[str, str]) -> tuple[Pass, ...]:
    """``pipeline`` with other forms, such as ``{"attention": "batched"}``.

    Raises:
        FormsError: no pass has such an option, or it has no such form.
    """
    changed = tuple(pipeline)
    known = forms_in(changed)
    for option, form in settings.items():
        if option not in known:
            raise FormsError(
                f"no pass of the pipeline has forms of {option!r}",
                expected=f"one of {', '.join(known)}" if known else None,
            )
        if form not in known[option].choices:
            raise FormsError(
                f"{option} has no form {form!r}",
                expected=f"one of {', '.join(known[option].choices)}",
            )
        changed = formed(changed, option, form)
    return changed


def formed(
    pipeline: Sequence[Pass],
    option: str,
    general: str | None,
    special: Mapping[str, str] | None = None,
    groups: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Pass, ...]:
    """``pipeline`` with one form everywhere, and others at some groups of sites.

    Args:
        pipeline: the passes.
        option: see ``Forms``.
        general: the form; ``None`` keeps what the pipeline has.
        special: group to the form there.
        groups: the modules of each group.
    """
    found: list[Pass] = []
    for step in pipeline:
        if step.forms is None or step.forms.option != option:
            found.append(step)
            continue
        taken: tuple[str, ...] = ()
        for group, name in (special or {}).items():
            modules = (groups or {})[group]
            taken += modules
            if (there := _chosen(step, step.forms.choices[name])) is not None:
                found.append(AtSites(there, modules))
        rest = step if general is None else _chosen(step, step.forms.choices[general])
        if rest is not None:
            found.append(AtSites(rest, taken, elsewhere=True) if taken else rest)
    return tuple(found)


def _chosen(step: Pass, choice: Choice) -> Pass | None:
    if choice.options is None:
        return None
    options = set(step.options())
    unknown = sorted(set(choice.options) - options)
    if unknown:
        raise FormsError(
            f"a form of {step.name} sets what is no option of it",
            expected=f"among {', '.join(sorted(options))}" if options else "fields of a dataclass",
            found=", ".join(unknown),
        )
    return replace(step, **choice.options) if choice.options else step  # type: ignore[type-var]
