"""Every operator of a program that cannot be lowered, found before any conversion."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from frontend.source import source_of
from lowering.conversion.registry import stock_lowering
from lowering.errors import Unsupported
from passes.patterns.nodes import Target


class MissingLowering(NamedTuple):
    """Why an operator has no lowering: the rule of preflight, the reason, the next step."""

    rule: str
    reason: str
    hint: str


_COMPLEX = MissingLowering(
    "complex-numbers",
    "it works on complex numbers, and Core ML has real ones only",
    "let passes.optimize_for_ane write it with real numbers, or carry real and imaginary parts as "
    "two real tensors",
)
_COND_HINT = "capture the model with frontend.capture, which turns torch.cond into torch.where"
_SUBGRAPH = MissingLowering("control-flow-op", "a sub-graph of control flow", _COND_HINT)
_CONTROL = MissingLowering("control-flow-op", "control flow cannot be lowered", _COND_HINT)
_BIND = "bind it to MIL with lowering.composite(...) and pass composites=(...,)"
_CUSTOM = MissingLowering("custom-op", "a custom operator without a lowering", _BIND)
_NO_LOWERING = MissingLowering("unsupported-op", "no lowering exists", _BIND)
_LENGTH_OF_DATA = MissingLowering(
    "unsupported-op",
    "no lowering exists, and the length of its result depends on values",
    "write it with a fixed length, such as one_hot(x, n).sum(0) for a count or torch.where for a "
    "selection",
)


def unsupported_ops(graph: fx.Graph, ours: Collection[Any]) -> tuple[Unsupported, ...]:
    """Every operator without a lowering, one entry for each, in program order.

    Args:
        graph: the program's graph.
        ours: operator overloads that our tables lower.
    """
    found: dict[tuple[str, MissingLowering], list[str]] = {}
    for node, missing in unsupported_nodes(graph, ours):
        origin = source_of(node)
        place = " · ".join(part for part in (origin.module, origin.line) if part)
        found.setdefault((str(node.target), missing), []).append(place or node.name)
    return tuple(
        Unsupported(op, missing.reason, missing.hint, tuple(places))
        for (op, missing), places in found.items()
    )


def unsupported_nodes(
    graph: fx.Graph, ours: Collection[Any]
) -> list[tuple[fx.Node, MissingLowering]]:
    """Every node without a lowering and why, in program order."""
    found = []
    for node in graph.nodes:
        missing = None
        if node.op == "get_attr":
            missing = None if _is_tensor(node) else _SUBGRAPH
        elif node.op == "call_function":
            values = [*_results(node), *(a.meta.get("val") for a in node.all_input_nodes)]
            missing = missing_lowering(node.target, values, ours)
        if missing is not None:
            found.append((node, missing))
    return found


def missing_lowering(
    target: Target, values: Iterable[Any], ours: Collection[Any]
) -> MissingLowering | None:
    """Why ``target`` cannot be lowered, ``None`` when it can.

    Args:
        target: what a node calls.
        values: its results and arguments, fake or real.
        ours: operator overloads that our tables lower.
    """
    if target in ours or stock_lowering(target) is not None:
        return None
    values = tuple(values)
    if any(isinstance(value, torch.Tensor) and value.dtype.is_complex for value in values):
        return _COMPLEX
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _CONTROL
    if getattr(target, "namespace", "aten") not in ("aten", "prim", "ane"):
        return _CUSTOM
    return _LENGTH_OF_DATA if any(map(_has_length_of_data, values)) else _NO_LOWERING


def _has_length_of_data(value: object) -> bool:
    return isinstance(value, torch.Tensor) and bool(free_unbacked_symbols(value))


def _is_tensor(node: fx.Node) -> bool:
    owner = node.graph.owning_module
    return isinstance(getattr(owner, str(node.target), None), torch.Tensor)


def _results(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)
