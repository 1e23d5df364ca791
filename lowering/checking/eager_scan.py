"""Findings of one plain run: what a program does not show, and all there is where none exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from frontend.eager import EagerOp, run_eagerly
from frontend.errors import kind_and_line
from frontend.export_errors import user_line
from frontend.random_calls import draws
from frontend.source import Source
from lowering.checking.result import Findings
from lowering.checking.values import is_beyond, problem_of, tensors
from lowering.conversion.tiny_constants import tiny_guard
from lowering.conversion.unsupported import missing_lowering

_aten = torch.ops.aten
_TRUTH = (_aten.is_nonzero.default, _aten.equal.default, _aten.allclose.default)
_NUMBERS = (_aten.item.default, _aten._local_scalar_dense.default)
_TRAINS = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class EagerFindings:
    """What one run showed.

    Attributes:
        always: what the captured program would not show.
        uncaptured: what it would show, for models that cannot be captured.
    """

    always: Findings = field(default_factory=Findings)
    uncaptured: Findings = field(default_factory=Findings)

    @property
    def ran(self) -> bool:
        """The model ran to its end."""
        return not self.always.has("does-not-run")


def scan_module(model: nn.Module, findings: Findings) -> None:
    """What the module itself says: its mode, the dtypes of its weights."""
    for name, module in model.named_modules():
        acts = isinstance(module, _TRAINS) and (getattr(module, "p", 1.0) or 0.0) > 0
        if module.training and acts:
            findings.add("training-mode", "it is in training mode", op=_kind(module),
                         place=Source(name))  # fmt: skip
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for dtype, rule in _NARROWED.items():
        held = [name for name, tensor in tensors if tensor.dtype is dtype]
        for name in held:
            place = Source(name.rpartition(".")[0])
            findings.add(rule, f"weights are {_short(dtype)}", place=place)


_NARROWED = {torch.float64: "float64-narrowed", torch.bfloat16: "bfloat16-narrowed"}


def scan_run(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    lowered: Collection[Any],
) -> EagerFindings:
    """Runs ``model`` once in torch and says what was seen.

    Args:
        model: the module.
        args: positional inputs.
        kwargs: keyword inputs.
        lowered: operators that our tables lower.
    """
    found = EagerFindings()
    weights = {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]}

    def see(op: EagerOp) -> None:
        place = Source(op.module, op.line)
        _data(op, place, found)
        before = weights | {tensor.dtype for tensor in tensors((op.args, dict(op.kwargs)))}
        for dtype in {result.dtype for result in op.results} & _NARROWED.keys():
            if dtype not in before:
                found.always.add(_NARROWED[dtype], f"it makes {_short(dtype)} values",
                                 op=str(op.target), place=place)  # fmt: skip
        _structure(op, place, found.uncaptured, lowered)
        _values(op, place, found.uncaptured)

    try:
        run_eagerly(model, args, kwargs, see)
    except (Exception, SystemExit) as error:  # whatever the user's model raises
        message = kind_and_line(error)
        line = user_line(error.__traceback__) or ""
        found.always.add("does-not-run", message, place=Source(line=line))
    return found


def _data(op: EagerOp, place: Source, found: EagerFindings) -> None:
    """Questions about values, and writes to inputs."""
    name = str(op.target)
    if op.writes_input:
        found.always.add("input-written", "it writes to an input in place", op=name, place=place)
    if not op.on_data:
        return
    truth = op.target in _NUMBERS and op.args[0].dtype is torch.bool
    if op.target in _TRUTH or truth:
        found.uncaptured.add(
            "branch-on-data", "Python asks for a truth value", op=name, place=place
        )
    elif op.target in _NUMBERS:
        # What capture lets pass, it computed from constants.
        found.uncaptured.add("value-in-python", "Python takes a number", op=name, place=place)


def _structure(op: EagerOp, place: Source, findings: Findings, lowered: Collection[Any]) -> None:
    name = str(op.target)
    if draws(op.target, op.args, op.kwargs) and "dropout" not in name:
        findings.add("random-op", "it draws random numbers", op=name, place=place)
    mask = op.target is _aten.index.Tensor and any(
        isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
        for index in op.args[1]
    )
    sized = torch.Tag.dynamic_output_shape in op.target.tags
    sized_by_data = sized and op.target is not _aten.index.Tensor
    if op.on_data and (mask or sized_by_data):
        findings.add("data-dependent-shape", "the size of its result depends on values",
                     op=name, place=place)  # fmt: skip
    if any(result.ndim > 5 for result in op.results):
        rank = max(result.ndim for result in op.results)
        findings.add("rank-above-5", f"a result has {rank} axes", op=name, place=place)
    # What capture takes apart is judged by its parts, unless complex numbers come out of it.
    is_complex = any(result.dtype.is_complex for result in op.results)
    if (op.decomposes and not is_complex) or op.target in (*_NUMBERS, *_TRUTH):
        return
    missing = missing_lowering(op.target, (*op.results, *op.args), lowered)
    if missing is not None:
        findings.add(missing.rule, missing.reason, op=name, place=place)


def _values(op: EagerOp, place: Source, findings: Findings) -> None:
    beyond = any(is_beyond(tensor) for tensor in tensors((op.args, dict(op.kwargs))))
    problem = problem_of(op.target, op.args, op.results, beyond)
    if problem is not None:
        rule, sentence, severity = problem
        findings.add(rule, sentence, op=str(op.target), place=place, severity=severity)
    guard = tiny_guard(op.target, op.args, op.kwargs)
    if guard is not None:
        findings.add("fp16-tiny-constant", guard, op=str(op.target), place=place)


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
