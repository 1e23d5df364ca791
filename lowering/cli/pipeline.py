"""The passes as the verbs run them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from frontend.errors import AnePassesError
from frontend.model_call import ModelCall
from lowering.cli.common import Command, step
from lowering.cli.load_composites import composites_digest, load_composites

if TYPE_CHECKING:
    from passes.base import Pass
    from passes.optimized_model import OptimizedModel


class PipelineFileError(AnePassesError):
    """``--pipeline`` cannot be used."""


class _Form(click.ParamType):
    """A form of one option; torch is imported only to check one that is given."""

    name = "form"

    def __init__(self, option: str) -> None:
        self.option = option

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """The form, if a default pass has it."""
        choices = self._choices()
        if value not in choices:
            self.fail(f"{value!r} is not one of {', '.join(choices)}.", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Forms that begin so."""
        return [CompletionItem(name) for name in self._choices() if name.startswith(incomplete)]

    def _choices(self) -> Sequence[str]:
        from passes.default_pipeline import DEFAULT_PIPELINE
        from passes.forms import forms_in

        return tuple(forms_in(DEFAULT_PIPELINE)[self.option].choices)


def attention_option(function: Command) -> Command:
    """``--attention``: short for ``--form attention=``."""
    return click.option(
        "--attention",
        type=_Form("attention"),
        metavar="FORM",
        help="Form of attention: one softmax per head (split), that in chunks (chunks_of_256, "
        "chunks_of_512), all heads in 4-D ops (batched), or Core ML's own operator (native, "
        "iOS18). Default: that of the default pipeline.",
    )(function)


def for_chip_option(function: Command) -> Command:
    """``--for-chip``: choose open forms by what is predicted there."""
    return click.option(
        "--for-chip",
        metavar="CHIP",
        help="Choose the form of each attention by the time that is predicted on this chip, such "
        "as M4; the report says which and why. Default: split into heads.",
    )(function)


def form_option(function: Command) -> Command:
    """``--form``: the form that a pass gives its places."""
    return click.option(
        "--form",
        "forms",
        multiple=True,
        metavar="OPTION=FORM",
        help="Form that a pass chooses, such as rms_norm=layer_norm or linear=kept; `ablate` lists "
        "them, and your own passes may declare more. May be repeated.",
    )(function)


def pipeline_option(function: Command) -> Command:
    """``--pipeline``: passes that ``tune`` chose."""
    return click.option(
        "--pipeline",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE.json",
        help="Passes to run instead of the default ones, as `tune -o FILE.json` writes them.",
    )(function)


def write_pipeline(pipeline: Sequence[Pass], path: Path) -> Path:
    """A file for ``--pipeline``: the passes as text.

    Raises:
        SaveError: it cannot be written.
    """
    from lowering.support.text_file import write_text
    from passes.pipeline_text import to_text

    return write_text(json.dumps({"pipeline": to_text(pipeline)}, indent=1) + "\n", path)


def read_pipeline(path: Path, known: Sequence[type[Pass]] = ()) -> tuple[Pass, ...]:
    """The passes that ``write_pipeline`` wrote.

    Raises:
        PipelineFileError: the file holds something else.
        PipelineTextError: it names a pass that is neither ours nor ``known``.
    """
    from frontend.json_text import parse
    from passes.pipeline_text import from_json

    try:
        spelled = parse(path.read_text(encoding="utf-8"))["pipeline"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineFileError(
            "this is no list of passes",
            expected="what `ane-passes tune -o FILE.json` writes",
            found=f"{path}: {type(error).__name__}: {error}",
        ) from error
    return from_json(json.dumps(spelled), known)


def composites_option(function: Command) -> Command:
    """``--composites``: lowerings of the model's custom operators."""
    return click.option(
        "--composites",
        metavar="WHERE",
        help="Lowerings of custom operators: file.py or module for all that are in it, "
        "file.py:name or module:name for one or a list of them.",
    )(function)


def composite_arguments(where: str | None) -> dict[str, Any]:
    """``composites`` and ``composites_digest`` as ``ablate`` takes them; nothing for ``None``."""
    if where is None:
        return {}
    load = functools.partial(load_composites, where)
    return {"composites": load, "composites_digest": composites_digest(load())}


def chosen_passes(
    attention: str | None = None,
    pipeline: Path | None = None,
    forms: Sequence[str] = (),
    own_passes: Sequence[str] = (),
    *,
    chip: str | None = None,
    system: str = "iOS17",
) -> tuple[Pass, ...]:
    """The passes of ``--pipeline`` or the default ones, with your own and in the forms asked for.

    Raises:
        PipelineFileError: options contradict each other, or the file cannot be read.
        FormsError: there is no such form.
        ModelLoadError: ``--with-pass`` names no pass.
        UnknownChipError: ``chip`` is none that is known.
    """
    from lowering.cli.load_passes import known_passes, load_passes
    from passes.default_pipeline import DEFAULT_PIPELINE
    from passes.forms import with_forms
    from passes.order import with_pass

    if pipeline is not None and attention is not None:
        raise PipelineFileError(
            "a pipeline says the form of attention already",
            found=f"--pipeline {pipeline} --attention {attention}",
            hint="leave one of them out",
        )
    settings = dict(map(_setting, forms))
    if attention is not None:
        settings["attention"] = attention
    if pipeline is None:
        steps = DEFAULT_PIPELINE
    else:
        steps = read_pipeline(pipeline, known_passes(own_passes))
    named = {step.name for step in steps}
    for own in load_passes(own_passes):
        if own.name not in named:
            steps = with_pass(steps, own)
    formed = with_forms(steps, settings)
    if chip is None:
        return formed
    from lowering.planner.targets import platform_of

    platform_of(chip)  # before minutes of work, rather than after
    return tuple(step.for_target(chip, system) for step in formed)


def _setting(text: str) -> tuple[str, str]:
    option, equals, form = text.partition("=")
    if not (option and equals and form):
        raise PipelineFileError(
            "--form cannot be read", expected="OPTION=FORM, such as attention=batched", found=text
        )
    return option, form


def optimized(call: ModelCall, pipeline: Sequence[Pass]) -> OptimizedModel:
    """What ``pipeline`` makes of a model."""
    with step("Optimizing for the Neural Engine"):
        import passes

        return passes.optimize_for_ane(
            call.model,
            call.args,
            kwargs=call.kwargs,
            dynamic_shapes=call.dynamic_shapes,
            pipeline=pipeline,
        )
