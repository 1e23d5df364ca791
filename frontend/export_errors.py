"""Turns what torch.export raises into one clear error with the user's source line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from frontend.decompositions import copy
from frontend.errors import AnePassesError, CaptureError, DataDependentError, SizeError, message_of
from frontend.source import quoted_lines, raising_line, spelled
from frontend.taking_apart import taken_apart

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent)
# The first lines of a torch error say what happened; the rest is advice for torch developers.
_LINES_KEPT = 3
# For a size that Python took as a number.
KEEP_SYMBOLIC = (
    "where the line makes a number of the size (float(n), math.sqrt(n)), write "
    "torch.sym_float(n), n ** 0.5 or a tensor"
)
# Some of them are dumps of whole descriptors.
_LONGEST = 600


def explain_export_error(
    error: BaseException,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    fixing_line: str | None = None,
) -> CaptureError:
    """A CaptureError for ``error``, with the innermost line of the user's own code.

    ``fixing_line`` is the line that made a dynamic size one number, where one is known.
    """
    text = message_of(error)
    source = user_line(error.__traceback__) or _quoted_line(text)
    shown = _shorten(text) or type(error).__name__
    if "Constraints violated" in text or "user-specified ranges" in text:
        return _cannot_vary(text, source or fixing_line)
    if isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in text:
        return DataDependentError(
            "the model's control flow or shapes depend on the values of its inputs",
            source=source,
            expected="shapes and Python numbers that follow from the inputs' shapes",
            found=shown,
            hint="compute it outside the model, or keep it a tensor (torch.where, masks)",
        )
    return CaptureError(
        f"the model could not be run on the example inputs ({type(error).__name__})",
        op=f"{type(model).__name__}.forward",
        source=source,
        expected="a forward pass that torch.export can follow",
        found=f"{shown} (inputs: {describe(args, kwargs)})",
        hint="check that model(*example_inputs, **kwargs) runs; torch's text is the cause above",
    )


def decomposed(
    program: ExportedProgram, table: Mapping[torch._ops.OperatorBase, Callable[..., Any]]
) -> ExportedProgram:
    """``program`` with the operators in ``table`` taken apart.

    Raises:
        CaptureError: torch cannot take it apart; names the source line where torch's text does.
    """
    whole = {torch.ops.aten.copy.default: copy, **table}
    try:
        return taken_apart(program, lambda part: part.run_decompositions(whole), whole)
    except AnePassesError:
        raise
    except Exception as error:
        raise CaptureError(
            f"the exported program could not be taken apart ({type(error).__name__})",
            source=_quoted_line(str(error)),
            expected="a program that torch can make functional: its writes reach buffers alone",
            found=_shorten(str(error)) or type(error).__name__,
            hint="keep what forward writes in place in buffers (register_buffer); torch's text "
            "is the cause above",
        ) from error


def _cannot_vary(text: str, source: str | None) -> SizeError:
    """torch lists each constraint after a dash, and what would hold after its headline."""
    reasons = text.partition("Suggested fixes:")[0]
    broken = re.findall(r"^\s*- (.*)", reasons, flags=re.MULTILINE)
    return SizeError(
        "a size that was to be dynamic cannot vary as dynamic_shapes asks",
        source=source,
        expected="a model that runs for every size in the range",
        found=" ".join(reason.partition(" If you're using")[0] for reason in broken),
        hint=suggested(text) + f"{KEEP_SYMBOLIC}, or give the size no range",
    )


def suggested(text: str) -> str:
    """``torch suggests ...; or`` from a message of torch's, ``""`` where it suggests nothing."""
    rest = text.partition("Suggested fixes:")[2].partition("The error above")[0]
    advice = "; ".join(line.strip() for line in rest.splitlines() if line.strip())
    return f"torch suggests {advice}; or " if advice else ""


def describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Inputs as one short text: dtype and shape of each tensor, type of anything else."""

    def one(value: object) -> str:
        if isinstance(value, torch.Tensor):
            return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        return type(value).__name__

    return ", ".join([*map(one, args), *(f"{k}={one(v)}" for k, v in kwargs.items())])


def user_line(trace: TracebackType | None) -> str | None:
    """``file.py:41 code`` of the innermost frame outside torch and this package."""
    return raising_line(trace, (_TORCH, _OURS))


def _quoted_line(text: str) -> str | None:
    outside = [f for f in quoted_lines(text) if not f[0].startswith((_TORCH, _OURS))]
    return spelled(*outside[-1]) if outside else None


def _shorten(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = " ".join(lines[:_LINES_KEPT])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
