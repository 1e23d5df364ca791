"""Holds what a lowering produced against the shape and dtype that torch computed."""

from __future__ import annotations

from typing import Any

import torch
from coremltools.converters.mil.frontend.torch.converter import TranscriptionContext
from coremltools.converters.mil.mil import Builder, Var, types
from torch import fx

from frontend.source import source_of
from lowering.conversion.integers import wrapped
from lowering.errors import LoweringError

# MIL has no 64-bit types and no bfloat16; wider torch types narrow to these.
MIL_DTYPE: dict[torch.dtype, str] = {
    torch.float16: "fp16",
    torch.bfloat16: "fp32",
    torch.float32: "fp32",
    torch.float64: "fp32",
    torch.int8: "int32",
    torch.uint8: "int32",
    torch.int16: "int32",
    torch.int32: "int32",
    torch.int64: "int32",
    torch.bool: "bool",
}


def conform(context: TranscriptionContext, node: fx.Node) -> None:
    """Cast ``node``'s results to torch's dtype where coremltools chose another one.

    coremltools promotes dtypes by its own rules (a sum of booleans, an integer times a
    boolean, an average of integers ...); the fake results of export are the truth.

    Raises:
        LoweringError: the shape of a result differs from torch's.
    """
    expected = node.meta.get("val")
    if node.name not in context:
        return
    found = context[node.name]
    if isinstance(expected, torch.Tensor):
        context.add(_conformed(found, expected, node), torch_name=node.name, override=True)
    elif isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        pairs = zip(found, expected, strict=False)
        fixed = [_conformed(var, fake, node) for var, fake in pairs]
        context.add((*fixed, *found[len(fixed) :]), torch_name=node.name, override=True)


def _conformed(var: Any, expected: object, node: fx.Node) -> object:
    if not isinstance(var, Var) or not isinstance(expected, torch.Tensor):
        return var
    if not types.is_tensor(var.sym_type) and not types.is_scalar(var.sym_type):
        return var
    _check_shape(var, expected, node)
    var = wrapped(var, expected, node)
    wanted = MIL_DTYPE.get(expected.dtype)
    found = types.builtin_to_string(var.dtype)
    if wanted is None or found == wanted or (wanted == "int32" and types.is_int(var.dtype)):
        return var
    return Builder.cast(x=var, dtype=wanted, name=f"{node.name}_{wanted}")


def _check_shape(var: Var, expected: torch.Tensor, node: fx.Node) -> None:
    shape = tuple(var.shape)
    same = len(shape) == expected.ndim and all(
        not isinstance(a, int) or not isinstance(b, int) or a == b
        for a, b in zip(shape, expected.shape, strict=False)
    )
    if same:
        return
    origin = source_of(node)
    raise LoweringError(
        f"the lowering of {node.target} gives another shape than torch",
        op=f"{node.target} ({node.name})",
        module=origin.module,
        source=origin.line,
        expected=str(tuple(expected.shape)),
        found=str(shape),
        hint="this is a defect of the lowering; please report it",
    )
