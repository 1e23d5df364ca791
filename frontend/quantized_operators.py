"""Activations that were quantised in training: one spelling for the operators on them."""

from __future__ import annotations

import torch
from torch import fx

from frontend.fake_calls import fake_call
from frontend.program import Draft

_aten = torch.ops.aten
# Integers of torch's quantised tensors, and the numbers that hold them.
_STORED = {torch.quint8: torch.uint8, torch.qint8: torch.int8}


def settle_quantized(draft: Draft) -> None:
    """Writes ``quantize_per_tensor`` and ``dequantize`` on integers of 8 bits.

    Torch's quantised tensors, which no later stage knows, become plain integers. Pairs whose scale
    is computed, and other operators on quantised tensors, stay.
    """
    for node in list(draft.graph.nodes):
        if node.target in (
            _aten.quantize_per_tensor.default,
            _aten.quantize_per_tensor.tensor_qparams,
        ):
            _settle(draft, node)


def _settle(draft: Draft, node: fx.Node) -> None:
    x, scale, point, kind = node.args
    numbers = [_number(draft, argument) for argument in (scale, point)]
    readers = list(node.users)
    stored = _STORED.get(kind)  # type: ignore[arg-type]
    if None in numbers or stored is None:
        return
    if any(reader.target is not _aten.dequantize.self for reader in readers):
        return
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  # defines the operators

    limits = torch.iinfo(stored)
    shared = (numbers[0], int(numbers[1] or 0), limits.min, limits.max, stored)
    operators = torch.ops.quantized_decomposed
    quantized = _emit(draft, node, operators.quantize_per_tensor.default, (x, *shared))
    for reader in readers:
        plain = _emit(draft, reader, operators.dequantize_per_tensor.default, (quantized, *shared))
        reader.replace_all_uses_with(plain)


def _number(draft: Draft, argument: object) -> float | None:
    if isinstance(argument, int | float):
        return float(argument)
    if not isinstance(argument, fx.Node):
        return None
    tensor = draft.constant(argument)
    return None if tensor is None or tensor.numel() != 1 else float(tensor)


def _emit(draft: Draft, place: fx.Node, target: object, args: tuple[object, ...]) -> fx.Node:
    assert callable(target)
    with draft.graph.inserting_before(place):
        node = draft.graph.call_function(target, args)  # type: ignore[arg-type]
    node.meta = {**place.meta, "val": fake_call(target, args, {}, draft.fake_mode)}
    return node
