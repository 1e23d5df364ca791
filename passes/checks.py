"""Invariants that hold after every pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from frontend.fake_calls import FakeCalls
from frontend.program import Draft
from passes.base import Pass
from passes.errors import InvariantError

# Inputs and outputs, each as name, shape and dtype.
Interface = tuple[list[tuple[str, Any, Any]], list[tuple[str, Any, Any]]]


def interface(draft: Draft) -> Interface:
    """Names, shapes and dtypes of the call's inputs and of its results, in order."""
    nodes = {node.name: node for node in draft.graph.nodes}

    def described(name: Any) -> tuple[str, Any, Any]:
        node = nodes.get(name) if isinstance(name, str) else None
        value = node.meta.get("val") if node is not None else name
        if isinstance(value, torch.Tensor):
            return str(name), tuple(value.shape), value.dtype
        return str(name), None, None

    signature = draft.signature
    inputs, outputs = signature.user_inputs, signature.user_outputs
    return [described(name) for name in inputs], [described(name) for name in outputs]


def check_signature(before: Interface, after: Interface, step: Pass) -> None:
    """User inputs and outputs keep names, order, shapes and dtypes.

    A pass whose ``changes_outputs`` is true may change the shapes of outputs.

    Raises:
        InvariantError: one of them differs.
    """
    for kind, then, now in zip(("inputs", "outputs"), before, after, strict=True):
        expected, found = (
            ([entry[::2] for entry in side] if step.changes_outputs and kind == "outputs" else side)
            for side in (then, now)
        )
        if expected != found:
            raise InvariantError(
                f"pass {step.name} changed the program's {kind}",
                expected=str(expected),
                found=str(found),
                hint=step.advice,
            )


def check_fakes(emitted: list[fx.Node], step: Pass, fake_call: FakeCalls) -> None:
    """Stored shapes and dtypes of the nodes that a pass emitted are what they compute now.

    Args:
        emitted: the nodes.
        step: the pass.
        fake_call: may know calls of the same shapes, such as those that the pass emitted.

    Raises:
        InvariantError: one of them is stale.
    """
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
