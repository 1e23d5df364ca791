"""Runs an ATen program node by node, with a say in every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

# Sees each value of the program as it is computed; what it returns takes the value's place.
Visit = Callable[[fx.Node, Any], Any]


class _Visitor(fx.Interpreter):
    def __init__(self, program: ExportedProgram, visit: Visit) -> None:
        super().__init__(program.graph_module, graph=program.graph)
        self._visit = visit

    def run_node(self, n: fx.Node) -> object:
        """Runs ``n``; its value is what ``visit`` makes of it."""
        value = super().run_node(n)
        return value if n.op in ("output", "get_attr") else self._visit(n, value)


def run(
    program: ExportedProgram,
    leaves: Sequence[Any],
    *,
    visit: Visit = lambda node, value: value,
    weights: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    buffers: Mapping[str, Tensor] | None = None,
) -> tuple[Any, ...]:
    """All results of ``program``, written buffers first, for the flattened inputs ``leaves``.

    Args:
        program: a functional ATen program; nothing of it is changed.
        leaves: user inputs in order, constants included.
        visit: called with each node and its value.
        buffers: values of written buffers before the call, by name, where they are others than
            the program starts with.
        weights: makes of each parameter, buffer and constant what is used in its place.
    """
    given = iter(leaves)
    arguments = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            arguments.append(next(given))
            continue
        assert spec.target is not None
        found = (buffers or {}).get(spec.target, program.state_dict.get(spec.target))
        tensor = program.constants[spec.target] if found is None else found
        arguments.append(weights(tensor.detach()) if isinstance(tensor, Tensor) else tensor)
    with torch.no_grad():
        results = _Visitor(program, visit).run(*arguments, enable_io_processing=False)
    return tuple(results)


def halved(tensor: Tensor) -> Tensor:
    """``tensor`` as fp16 stores it, in its own dtype; integers as they are."""
    return tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor


def returned(program: ExportedProgram) -> tuple[dict[str, fx.Node], list[fx.Node]]:
    """Nodes behind the written buffers, by buffer name, and behind the tensor outputs."""
    states: dict[str, fx.Node] = {}
    outputs: list[fx.Node] = []
    results: Any = program.graph.output_node().args[0]
    for spec, node in zip(program.graph_signature.output_specs, results, strict=True):
        if spec.kind is OutputKind.BUFFER_MUTATION and spec.target is not None:
            states[spec.target] = node
        elif spec.kind is OutputKind.USER_OUTPUT and is_tensor(node):
            outputs.append(node)
    return states, outputs


def is_tensor(node: object) -> bool:
    """Whether ``node`` is a node whose value is a tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)
