"""Operations and bytes that the dispatcher counts for one operator.

*Measured*: the rules reproduce 127 prices read with 17 digits from dumps of an M4's dispatcher
(751K/Apple-Neural-Engine-Microarchitecture-Study-M6, MIT). They are the compiler's counts, which
differ from textbook ones in places; the comments say where.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lowering.planner.facts import OpFacts

MIB = 2.0**20

POOLS = ("avg_pool", "max_pool", "l2_pool")
# Operators whose scalar operands are not counted as bytes.
_TENSORS_ONLY = ("matmul", "scaled_dot_product_attention")
# Operators of which only the first input and the output are counted as bytes.
_IN_AND_OUT = ("layer_norm", "batch_norm")
# Operators with a list of tensors of which only the first is counted as bytes.
_FIRST_OF_LIST = ("stack",)
# A pool's window costs an int32 for each of its elements.
_POOL_WINDOW_BYTES = 4
# Operations of one exponential, logarithm or tangent, and of a normalisation, per element.
_TRANSCENDENTAL = 37
# Matrix products and nonlinearities per time step of recurrent layers.
_GATES = {"lstm": (4, 5), "gru": (3, 3), "rnn": (1, 1)}


def moved_bytes(facts: OpFacts) -> float:
    """Bytes the operator is charged for: its operands and its first output."""
    op_type, output = facts.op_type, facts.output.bytes
    if op_type in _TENSORS_ONLY:
        tensors = [tensor for tensor in facts.operands if tensor.shape]
        return sum(tensor.bytes for tensor in tensors) + output
    if op_type in _IN_AND_OUT:
        return facts.inputs[0].bytes + output
    if op_type in _FIRST_OF_LIST:
        return facts.inputs[0].bytes + sum(t.bytes for t in facts.constants) + output
    if op_type in POOLS:
        return facts.inputs[0].bytes + _POOL_WINDOW_BYTES * math.prod(facts.kernel) + output
    return sum(tensor.bytes for tensor in facts.operands) + output


def operations(facts: OpFacts) -> float:
    """Arithmetic operations the operator is charged for."""
    rule = _OPERATIONS.get(facts.op_type)
    return rule(facts) if rule else 2.0 * sum(tensor.elements for tensor in facts.operands)


def intensity(facts: OpFacts) -> float:
    """Millions of operations per MiB of input, output and kernel; what convolutions split on."""
    weight = facts.weight
    total = facts.inputs[0].bytes + facts.output.bytes
    if weight is not None:
        total += weight.bytes
    return operations(facts) / 1e6 / (total / MIB)


def _conv(facts: OpFacts) -> float:
    weight = facts.weight
    if weight is None:
        return 2.0 * sum(tensor.elements for tensor in facts.operands)
    # The compiler divides by the dilations, as if the holes shrank the kernel.
    holes = math.prod(facts.attributes.get("dilations") or (1,))
    return 2.0 * facts.output.elements * math.prod(weight.shape[1:]) / holes


def _conv_transpose(facts: OpFacts) -> float:
    weight = facts.weight
    if weight is None:
        return 2.0 * sum(tensor.elements for tensor in facts.operands)
    # Every output element is charged the whole kernel, strides notwithstanding.
    return 2.0 * facts.output.elements * weight.shape[0] * math.prod(weight.shape[2:])


def _linear(facts: OpFacts) -> float:
    weight = facts.weight
    if weight is None or len(weight.shape) != 2:
        return 2.0 * sum(tensor.elements for tensor in facts.operands)
    width_out, width_in = weight.shape
    # Charged as if the matrix were square in its input width; one point with N ≠ K shows it.
    return 2.0 * facts.inputs[0].elements * width_in + width_out


def _matmul(facts: OpFacts) -> float:
    return 2.0 * facts.output.elements * contraction(facts)


def contraction(facts: OpFacts) -> int:
    """Length of the axis that a ``matmul`` or ``linear`` sums over."""
    x = facts.inputs[0].shape
    if facts.op_type == "linear" and facts.weight is not None:
        return facts.weight.shape[-1]
    return x[-2] if facts.attributes.get("transpose_x") and len(x) > 1 else x[-1]


def _recurrent(facts: OpFacts) -> float:
    gates, nonlinear = _GATES[facts.op_type]
    x = facts.inputs[0]
    hidden = int(facts.attributes.get("hidden") or facts.output.shape[-1])
    per_gate = hidden * x.shape[-1] + hidden * hidden + 2 * hidden
    # gru's one extra operation is the complement of its update gate.
    extra = 1 if facts.op_type == "gru" else 0
    return float(x.elements * (gates * per_gate + _TRANSCENDENTAL * nonlinear + extra))


_OPERATIONS: dict[str, Callable[[OpFacts], float]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
    "relu": lambda facts: 2.0 * facts.output.elements,
    "cast": lambda facts: 2.0 * facts.output.elements,
    "concat": lambda facts: 2.0 * sum(tensor.elements for tensor in facts.inputs),
    "layer_norm": lambda facts: float(_TRANSCENDENTAL * facts.output.elements),
    **dict.fromkeys(POOLS, lambda facts: float(math.prod(facts.kernel) * facts.output.elements)),
}
