"""What the planner knows of one operator: shapes, dtypes, attributes. Nothing of MIL is left."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from frontend.errors import AnePassesError
from lowering.planner.targets import load_data

# Bits per element. Sub-byte types exist as packed weights only.
_BITS = {
    **dict.fromkeys(("fp64", "int64", "uint64"), 64),
    **dict.fromkeys(("fp32", "int32", "uint32"), 32),
    **dict.fromkeys(("fp16", "bf16", "int16", "uint16"), 16),
    **dict.fromkeys(("int8", "uint8", "bool"), 8),
    **{f"{sign}int{bits}": bits for bits in (1, 2, 3, 4, 6) for sign in ("", "u")},
}
_WEIGHTED = ("conv", "conv_transpose", "linear")
# A dimension unknown before the program runs.
UNKNOWN_DIM = -1


class FactsError(AnePassesError):
    """An operator row lacks what the planner needs."""


@dataclass(frozen=True)
class TensorFacts:
    """Shape and dtype of one tensor.

    Attributes:
        shape: sizes in elements, ``UNKNOWN_DIM`` where they are not static.
        dtype: MIL's name: ``fp16``, ``fp32``, ``int32``, ``bool``, ...
        name: the operand's name in MIL (``x``, ``weight``, ``axes``), ``""`` when not known.
        const: fixed at compile time.
    """

    shape: tuple[int, ...]
    dtype: str
    name: str = ""
    const: bool = False

    @property
    def is_static(self) -> bool:
        """Every size is known."""
        return UNKNOWN_DIM not in self.shape

    @property
    def elements(self) -> int:
        """Number of elements; unknown sizes count as one."""
        return math.prod(max(size, 1) if size == UNKNOWN_DIM else size for size in self.shape)

    @property
    def bytes(self) -> float:
        """Size in bytes without padding; 0 for strings."""
        return self.elements * _BITS.get(self.dtype, 0) / 8


_NOTHING = TensorFacts((0,), "bool")


@dataclass(frozen=True)
class OpFacts:
    """One operator as the dispatcher sees it.

    Attributes:
        op_type: MIL operator type.
        inputs: tensors that exist while the program runs, and large constants that the row or the
            operator lists as tensors (``x``, the ``y`` of a ``matmul``).
        constants: operands fixed at compile time: weights, axes, sizes, flags.
        outputs: result tensors.
        attributes: MIL attribute name to plain value (``strides``, ``axes``, ``perm``, ...).
        name: the operator's name in its program, ``""`` when there is none.
    """

    op_type: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    constants: tuple[TensorFacts, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def output(self) -> TensorFacts:
        """The first result; what is stored by an operator without any, such as a state's write."""
        return (*self.outputs, *reversed(self.inputs), _NOTHING)[0]

    @property
    def runtime(self) -> tuple[TensorFacts, ...]:
        """Inputs that are not fixed at compile time."""
        return tuple(tensor for tensor in self.inputs if not tensor.const)

    @property
    def operands(self) -> tuple[TensorFacts, ...]:
        """All inputs, constants included."""
        return (*self.inputs, *self.constants)

    def operand(self, name: str) -> TensorFacts | None:
        """The operand called ``name``."""
        return next((tensor for tensor in self.operands if tensor.name == name), None)

    @property
    def weight(self) -> TensorFacts | None:
        """Filter of a convolution, matrix of a linear; also when it is a runtime tensor."""
        named = self.operand("weight")
        if named is None and self.op_type in _WEIGHTED and len(self.inputs) > 1:
            return self.inputs[1]
        return named

    @property
    def kernel(self) -> tuple[int, ...]:
        """Spatial kernel of a convolution or pool, ``()`` for other operators."""
        if "kernel_sizes" in self.attributes:
            return tuple(self.attributes["kernel_sizes"])
        if self.op_type in ("conv", "conv_transpose") and self.weight is not None:
            return self.weight.shape[2:]
        return ()

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> OpFacts:
        """Facts of a row of the dispatcher dumps (``cost.json``, ``segments.json``'s ``ops``).

        Such rows list tensors, and of constants only the shape of a weight; the scalar operands
        that stock conversion writes for the operator are added from ``operands.json``.

        Args:
            row: keys ``op``, ``inputs`` and ``output`` (each ``{"shape", "dtype"}``), ``attrs``.

        Raises:
            FactsError: a key is missing.
        """
        try:
            op_type = row["op"]
            inputs = tuple(_tensor(entry) for entry in row["inputs"])
            output = _tensor(row["output"])
        except (KeyError, TypeError) as error:
            raise FactsError(
                "this row does not describe an operator",
                expected='{"op": str, "inputs": [{"shape", "dtype"}], "output": {...}, "attrs"}',
                found=f"no {error}" if isinstance(error, KeyError) else str(row)[:80],
            ) from error
        raw = dict(row.get("attrs") or {})
        attributes = {_mil_name(op_type, name): value for name, value in raw.items()}
        for name in _PER_AXIS & attributes.keys():
            if isinstance(attributes[name], int):
                attributes[name] = [attributes[name]] * max(len(output.shape) - 2, 1)
        constants = _weights(raw, inputs, output) + _scalars(op_type, attributes, inputs, output)
        return cls(op_type, inputs, (output,), constants, attributes, row.get("name", ""))


# The dumps' generator abbreviates some attribute names.
_MIL_NAMES = {
    "stride": "strides",
    "dil": "dilations",
    "dilation": "dilations",
    "kernel": "kernel_sizes",
}
# One number for each spatial axis; a row may give a single one for all.
_PER_AXIS = {"strides", "dilations", "kernel_sizes"}


def _mil_name(op_type: str, name: str) -> str:
    # `k` is a pool's window, and the number of values of a topk.
    if name == "k" and op_type.endswith("_pool"):
        return "kernel_sizes"
    return _MIL_NAMES.get(name, name)


def _tensor(entry: Mapping[str, Any]) -> TensorFacts:
    return TensorFacts(
        tuple(entry["shape"]), entry["dtype"], entry.get("name", ""), bool(entry.get("const"))
    )


def _weights(
    raw: Mapping[str, Any], inputs: Sequence[TensorFacts], output: TensorFacts
) -> tuple[TensorFacts, ...]:
    shape = raw.get("weight_shape")
    if not shape:
        return ()
    dtype = inputs[0].dtype if inputs else output.dtype
    weights = [TensorFacts(tuple(shape), dtype, "weight", True)]
    if raw.get("bias"):
        weights.append(TensorFacts((shape[0],), dtype, "bias", True))
    return tuple(weights)


@functools.cache
def _operand_table() -> dict[str, list[list[Any]]]:
    table: dict[str, list[list[Any]]] = load_data("operands.json")["operands"]
    return table


def _scalars(
    op_type: str,
    attributes: Mapping[str, Any],
    inputs: Sequence[TensorFacts],
    output: TensorFacts,
) -> tuple[TensorFacts, ...]:
    """The constant operands that a row leaves out: axes, sizes, flags, scalar seconds."""
    if not inputs:
        tensor_dtype, shape = output.dtype, output.shape
    else:
        tensor_dtype, shape = inputs[0].dtype, inputs[0].shape
    lengths = {
        "rank": len(shape),
        "out_rank": len(output.shape),
        "spatial": max(len(shape) - 2, 0),
        "channels": shape[1] if len(shape) > 1 else 1,
        "missing_second": max(2 - len(inputs), 0),
    }
    scalars = []
    for name, dtype, length in _operand_table().get(op_type, ()):
        given = attributes.get(name)
        if isinstance(given, list | tuple):
            count = len(given)
        elif length == "static_indices":
            count = int(attributes.get("static_indices", 0))
        else:
            count = lengths[length] if isinstance(length, str) else length
        if count:
            scalars.append(
                TensorFacts((count,), tensor_dtype if dtype == "T" else dtype, name, True)
            )
    return tuple(scalars)
