"""Invariants that hold after every pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram

from frontend.program import FakeCalls
from passes.base import Pass
from passes.errors import InvariantError


def check_signature(before: ExportedProgram, after: ExportedProgram, step: Pass) -> None:
    """User inputs and outputs keep names, order, shapes and dtypes.

    A pass whose ``changes_outputs`` is true may change the shapes of outputs.

    Raises:
        InvariantError: one of them differs.
    """
    for kind in ("inputs", "outputs"):
        expected: Any = _described(before, kind)
        found: Any = _described(after, kind)
        if step.changes_outputs and kind == "outputs":
            expected, found = ([entry[::2] for entry in d] for d in (expected, found))
        if expected != found:
            raise InvariantError(
                f"pass {step.name} changed the program's {kind}",
                expected=str(expected),
                found=str(found),
                hint=step.advice,
            )


def check_fakes(emitted: list[fx.Node], step: Pass, mode: FakeTensorMode | None) -> None:
    """Stored shapes and dtypes of the nodes that a pass emitted are what they compute now.

    Raises:
        InvariantError: one of them is stale.
    """
    fake_call = FakeCalls(mode)
    for node in emitted:
        if not node.users:
            continue
        stored, again = node.meta["val"], fake_call(node.target, node.args, node.kwargs)
        if not isinstance(stored, torch.Tensor):
            continue
        if tuple(stored.shape) != tuple(again.shape) or stored.dtype is not again.dtype:
            raise InvariantError(
                f"pass {step.name} left a stale shape or dtype",
                op=str(node.target),
                expected=f"{again.dtype} {tuple(again.shape)}",
                found=f"{stored.dtype} {tuple(stored.shape)}",
                hint=step.advice,
            )


def _described(program: ExportedProgram, kind: str) -> list[tuple[str, Any, Any]]:
    signature = program.graph_signature
    names = signature.user_inputs if kind == "inputs" else signature.user_outputs
    nodes = {node.name: node for node in program.graph.nodes}
    found = []
    for name in names:
        node = nodes.get(name) if isinstance(name, str) else None
        value = node.meta.get("val") if node is not None else name
        tensor = isinstance(value, torch.Tensor)
        found.append(
            (str(name), tuple(value.shape) if tensor else None, value.dtype if tensor else None)
        )
    return found
