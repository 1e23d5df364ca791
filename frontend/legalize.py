"""Brings a captured program to the dtypes and the device that the passes work in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx
from torch.export import ExportedProgram

from frontend.fake_calls import fake_call
from frontend.program import Draft

# Core ML stores no bfloat16 or float64, and rewrites are compared in float32; half precision
# is chosen at conversion, by the package's compute precision.
_TO_FLOAT32 = (torch.float16, torch.bfloat16, torch.float64)


def to_cpu_float32(program: ExportedProgram) -> ExportedProgram:
    """The same program on the CPU in float32; its inputs and outputs keep their dtypes.

    float16, bfloat16 and float64 parameters, buffers and operators become float32. Inputs of
    those dtypes are cast on entry and outputs cast back, so the call signature stays.
    """
    if not _needs_work(program):
        return program
    draft = Draft(program)
    returned = [
        (position, node.meta["val"].dtype)
        for position, node in enumerate(cast(Sequence[Any], draft.output_node().args[0]))
        if isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    for node, tensor in draft.lifted():
        moved = tensor.detach().to("cpu", _legal(tensor.dtype))
        if moved.dtype is not tensor.dtype or moved.device != tensor.device:
            draft.set_constant(node, moved)
    lifted = {node for node, _ in draft.lifted()}
    for node in list(draft.graph.nodes):
        if node.op == "placeholder" and node not in lifted:
            _cast_input(draft, node)
        elif node.op == "call_function":
            node.args, node.kwargs = _legal_arguments(node.args), _legal_arguments(node.kwargs)
            if node.meta.get("val") is not None:
                node.meta["val"] = fake_call(node.target, node.args, node.kwargs, draft.fake_mode)
    mutated = len(program.graph_signature.buffers_to_mutate)
    _cast_outputs(draft, [(p, dtype) for p, dtype in returned if p >= mutated])
    return draft.close()


def _needs_work(program: ExportedProgram) -> bool:
    for node in program.graph.nodes:
        values = node.meta.get("val")
        for value in values if isinstance(values, tuple | list) else (values,):
            if isinstance(value, torch.Tensor) and (
                value.dtype in _TO_FLOAT32 or value.device.type != "cpu"
            ):
                return True
    return False


def _legal(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _TO_FLOAT32 else dtype


def _legal_arguments(arguments: object) -> object:
    def legal(value: object) -> object:
        if isinstance(value, torch.dtype):
            return _legal(value)
        return torch.device("cpu") if isinstance(value, torch.device) else value

    return torch.utils._pytree.tree_map_only((torch.dtype, torch.device), legal, arguments)


def _cast_input(draft: Draft, node: fx.Node) -> None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return
    if value.device.type != "cpu":
        with draft.fake_mode:  # type: ignore[union-attr]
            node.meta["val"] = value = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype
            )
    if value.dtype in _TO_FLOAT32:
        users = list(node.users)
        with draft.graph.inserting_after(_last_placeholder(draft.graph)):
            cast = _emit_cast(draft, node, torch.float32)
        for user in users:
            user.replace_input_with(node, cast)


def _cast_outputs(draft: Draft, returned: list[tuple[int, torch.dtype]]) -> None:
    output = draft.output_node()
    results: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    for position, dtype in returned:
        if results[position].meta["val"].dtype is not dtype:
            with draft.graph.inserting_before(output):
                results[position] = _emit_cast(draft, results[position], dtype)
    output.args = (tuple(results),)


def _emit_cast(draft: Draft, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    target = torch.ops.aten._to_copy.default
    cast = draft.graph.call_function(target, (node,), {"dtype": dtype})
    cast.meta = {**node.meta, "val": fake_call(target, (node,), {"dtype": dtype}, draft.fake_mode)}
    return cast


def _last_placeholder(graph: fx.Graph) -> fx.Node:
    return [node for node in graph.nodes if node.op == "placeholder"][-1]
