"""Compressed weights of a package, decoded one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from lowering.package.blocks import walk
from lowering.package.dtypes import DType
from lowering.package.open import Package
from lowering.package.proto import MIL_pb2
from lowering.package.weights import tensor_type
from lowering.reference.binding import Constant, Reference, bind
from lowering.reference.constants import Constants
from lowering.reference.precision import Precision, rounded_weight
from lowering.reference.semantics import SEMANTICS

DECODES = "constexpr_"


@dataclass(frozen=True)
class StoredWeight:
    """A weight that a package holds in fewer bits.

    Attributes:
        name: of the value that the decoders make.
        kinds: types of the decoders, in order.
        dtype: of the value.
        operands: what they decode, by parameter; not what one of them makes for the next.
        value: what they make, in float32.
    """

    name: str
    kinds: tuple[str, ...]
    dtype: DType
    operands: Mapping[str, torch.Tensor]
    value: torch.Tensor


def is_compressed(block: MIL_pb2.Block) -> bool:
    """Whether a function holds any compressed weight; one of another width alone is none."""
    return any(_is_decoder(op) and op.type != "constexpr_cast" for op in walk(block))


def stored_weights(package: Package, function: str = "main") -> Iterator[StoredWeight]:
    """Every weight that decoders of a function make for other operators, in program order.

    Only one is in memory at a time.

    Raises:
        PackageError: a decoder is damaged.
    """
    _, block = package.function(package.function_name(function))
    makers = {output.name: op for op in walk(block) for output in op.outputs}
    inner = {
        item.name
        for op in walk(block)
        if _is_decoder(op)
        for argument in op.inputs.values()
        for item in argument.arguments
    }
    for op in walk(block):
        if _is_decoder(op) and not any(output.name in inner for output in op.outputs):
            yield _Decoding(package, makers).of(op)


class _Decoding:
    """One weight, with the decoders before its last one."""

    def __init__(self, package: Package, makers: Mapping[str, MIL_pb2.Operation]) -> None:
        self._constants = Constants(package.weights)  # anew, so that they can go
        self._makers = makers
        self._kinds: list[str] = []
        self._operands: dict[str, torch.Tensor] = {}
        self._made: dict[str, torch.Tensor] = {}

    def of(self, op: MIL_pb2.Operation) -> StoredWeight:
        self._make(op)
        name = op.outputs[-1].name
        dtype, _ = tensor_type(op.outputs[-1].type)
        return StoredWeight(name, tuple(self._kinds), dtype, self._operands, self._made[name])

    def _make(self, op: MIL_pb2.Operation) -> None:
        given = self._constants.attributes(op)
        for key, argument in op.inputs.items():
            given[key] = self._operand(argument.arguments[0])
        made_before = {k for k, item in op.inputs.items() if item.arguments[0].name in self._made}
        self._kinds.append(op.type)
        tensors = {key: value for key, value in given.items() if isinstance(value, torch.Tensor)}
        self._operands |= {key: value for key, value in tensors.items() if key not in made_before}
        arguments: dict[str, list[Reference]] = {
            key: [Constant(value)] for key, value in given.items()
        }
        call = bind(SEMANTICS[op.type], arguments, op.type, op.outputs[-1].name)
        made = call.function(**call.constants)
        made = made if isinstance(made, tuple) else (made,)
        for output, result in zip(op.outputs, made, strict=True):
            dtype, _ = tensor_type(output.type)
            value = rounded_weight(result, op.type, dtype, Precision.FP16)
            assert isinstance(value, torch.Tensor), "decoders make tensors"
            self._made[output.name] = value

    def _operand(self, item: MIL_pb2.Argument.Binding) -> object:
        if not item.HasField("name"):
            return self._constants.carried(item.value)
        maker = self._makers[item.name]
        if maker.type == "const":
            inputs = maker.inputs["val"].arguments if "val" in maker.inputs else ()
            return self._constants.carried(inputs[0].value if inputs else maker.attributes["val"])
        if item.name not in self._made:
            self._make(maker)
        return self._made[item.name]


def _is_decoder(op: MIL_pb2.Operation) -> bool:
    return str(op.type).startswith(DECODES)
