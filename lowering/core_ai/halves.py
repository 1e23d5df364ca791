"""A program whose float32 is float16 throughout, as Core AI has no pass of its own for it."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from frontend.program import Draft


def in_float16(program: ExportedProgram) -> ExportedProgram:
    """``program`` with weights, inputs and arithmetic in float16.

    Args:
        program: ATen operators; it stays as it is. Numbers beyond float16's range become infinite.
    """
    draft = Draft(program)
    for node, tensor in draft.lifted():
        if tensor.dtype == torch.float32:
            draft.set_constant(node, tensor.to(torch.float16))
    for node in draft.graph.nodes:
        if node.op != "output":
            node.args = fx.node.map_aggregate(node.args, _half)
            node.kwargs = fx.node.map_aggregate(node.kwargs, _half)
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map(_narrow, node.meta["val"])
    return draft.close()


def _half(argument: fx.node.Argument) -> fx.node.Argument:
    return torch.float16 if argument is torch.float32 else argument


def _narrow(value: object) -> object:
    is_float = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.to(torch.float16) if isinstance(value, torch.Tensor) and is_float else value
