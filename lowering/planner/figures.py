"""How an operator's tensors lie in memory: rank, layout, padding of the last axis, working set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowering.planner.facts import OpFacts, TensorFacts
from lowering.planner.work import MIB

# *Documented* (Apple, "Deploying Transformers on the Apple Neural Engine", 2022): the last axis is
# stored contiguously and padded to this many bytes. No measurement on a current system is known.
ROW_BYTES = 64
# *Measured* on M4 to M6 compilers: the on-chip buffer that larger intermediates are tiled through.
ON_CHIP_BYTES = 2 * MIB
# The ANE's layouts by rank, as MIL orders axes.
_LAYOUTS = {0: "scalar", 1: "(W)", 2: "(C, W)", 3: "(C, H, W)", 4: "(N, C, H, W)"}
_RANK_5 = "(N, C, D, H, W)"


@dataclass(frozen=True)
class ShapeFigures:
    """Memory figures of one operator.

    Attributes:
        shape: of its first output.
        rank: axes of its first output.
        layout: what the ANE takes the axes for.
        last_axis: elements on the output's last axis.
        padding: bytes that padding the last axis adds, for each byte of data; 0 when aligned.
        working_set_bytes: runtime inputs, weights and outputs together, unpadded.
        fits_on_chip: the runtime tensors fit the on-chip buffer.
    """

    shape: tuple[int, ...]
    rank: int
    layout: str
    last_axis: int
    padding: float
    working_set_bytes: float
    fits_on_chip: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "shape": list(self.shape)}


def padding_of(tensor: TensorFacts) -> float:
    """Bytes of padding for each byte of data when the last axis is stored in rows of 64 bytes."""
    if not tensor.shape or not tensor.is_static or not tensor.elements:
        return 0.0
    row = tensor.bytes / (tensor.elements / tensor.shape[-1])
    stored = -(-row // ROW_BYTES) * ROW_BYTES
    return stored / row - 1 if row else 0.0


def figures_of(facts: OpFacts) -> ShapeFigures:
    """Memory figures of ``facts``."""
    output = facts.output
    live = sum(tensor.bytes for tensor in (*facts.runtime, *facts.outputs))
    weights = sum(tensor.bytes for tensor in facts.operands if tensor.const)
    return ShapeFigures(
        output.shape,
        len(output.shape),
        _LAYOUTS.get(len(output.shape), _RANK_5),
        output.shape[-1] if output.shape else 1,
        padding_of(output),
        live + weights,
        live <= ON_CHIP_BYTES,
    )
