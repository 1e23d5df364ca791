"""Every operator of a program that cannot be lowered, found before any conversion."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from frontend.source import source_of
from lowering.errors import Unsupported
from lowering.registry import stock_lowering

_COMPLEX_HINT = "write it with real and imaginary parts as two real tensors"
_COMPOSITE_HINT = "bind it to MIL with lowering.composite(...) and pass composites=(...,)"


def unsupported_ops(graph: fx.Graph, ours: Collection[Any]) -> tuple[Unsupported, ...]:
    """Every operator without a lowering, one entry for each, in program order.

    Args:
        graph: the program's graph.
        ours: operator overloads that our tables lower.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for node in graph.nodes:
        problem = _problem(node, ours)
        if problem is not None:
            origin = source_of(node)
            place = " · ".join(part for part in (origin.module, origin.line) if part)
            found.setdefault((str(node.target), *problem), []).append(place or node.name)
    return tuple(Unsupported(*key, tuple(places)) for key, places in found.items())


def _problem(node: fx.Node, ours: Collection[Any]) -> tuple[str, str] | None:
    """Reason and hint, or ``None`` when ``node`` can be lowered."""
    if node.op == "get_attr":
        return None if _is_tensor(node) else ("a sub-graph of control flow", _COND_HINT)
    if node.op != "call_function" or node.target in ours:
        return None
    if stock_lowering(node.target) is not None:
        return None
    values = [*_results(node), *(a.meta.get("val") for a in node.all_input_nodes)]
    if any(_is_complex(value) for value in values):
        return "it works on complex numbers, and Core ML has real ones only", _COMPLEX_HINT
    return _why_missing(node.target)


_COND_HINT = "capture the model with frontend.capture, which turns torch.cond into torch.where"


def _why_missing(target: Any) -> tuple[str, str]:
    if isinstance(target, torch._ops.HigherOrderOperator):
        return "control flow cannot be lowered", _COND_HINT
    namespace = getattr(target, "namespace", "aten")
    if namespace not in ("aten", "prim", "ane"):
        return "a custom operator without a lowering", _COMPOSITE_HINT
    return "no lowering exists", _COMPOSITE_HINT


def _is_tensor(node: fx.Node) -> bool:
    owner = node.graph.owning_module
    return isinstance(getattr(owner, str(node.target), None), torch.Tensor)


def _results(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _is_complex(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype.is_complex
