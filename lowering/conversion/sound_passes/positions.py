"""Positions and coordinates stay in float32 until nothing depends on their last digits.

Float16 has eleven bits: it cannot tell position 3,001 from 3,000, an angle of 1,000 radians is off
by a quarter, and a pixel of a wide picture lies between two numbers. So what is computed from
integers and constants alone is computed in float32: an angle up to its sine, a position up to where
it meets an activation. So are the coordinates at which a picture is sampled, which MIL's
``resample`` takes in float32 beside a float16 picture. All of it is little arithmetic on small
tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
from coremltools.converters.mil.mil import Operation, Var, types

from lowering.package.blocks import walk

# Integers up to here are exact in float16.
_EXACT = 2048
_ARITHMETIC = frozenset(
    {
        "abs", "add", "ceil", "clip", "cumsum", "exp", "exp2", "floor", "floor_div", "inverse",
        "log", "maximum", "minimum", "mod", "mul", "pow", "range_1d", "real_div", "reduce_max",
        "reduce_mean", "reduce_min", "reduce_sum", "round", "rsqrt", "select", "sign", "sqrt",
        "square", "sub",
    }
)  # fmt: skip
_MOVES = frozenset(
    {
        "concat", "expand_dims", "gather", "gather_along_axis", "identity", "pad", "reshape",
        "reverse", "slice_by_index", "slice_by_size", "split", "squeeze", "stack", "tile",
        "transpose",
    }
)  # fmt: skip
# Their results need no more digits than float16 has.
_ENDS = frozenset(
    {
        "atan", "cos", "equal", "erf", "greater", "greater_equal", "less", "less_equal",
        "not_equal", "sigmoid", "sin", "tan", "tanh",
    }
)  # fmt: skip
_PRODUCTS = frozenset({"conv", "linear", "matmul"})
# Coordinates are rarely made from much larger tensors: two for each of a kernel's nine places.
_WIDEST = 18
_LONGEST = 4  # a sum of so few products, such as those of a pose, belongs to coordinates


class Positions:
    """Follows positions and coordinates through one program, operator by operator, in order.

    Args:
        inputs: names of float inputs that are positions or coordinates.
        small: names of integer inputs whose type holds nothing that float16 does not.
    """

    def __init__(self, inputs: Collection[str], small: Collection[str]) -> None:
        self._inputs = inputs
        self._small = small
        self._known: set[Var] = set()
        self._counted: dict[Var, bool] = {}
        self._coordinates: set[Operation] | None = None

    def keep(self, op: Operation) -> bool:
        """Whether ``op`` stays in float32."""
        data = [var for var in _variables(op) if _is_float(var) and not _is_constant(var)]
        of_positions = bool(data) and all(self._is_position(var) for var in data)
        carries = op.op_type in _ARITHMETIC or op.op_type in _MOVES or _inner_size(op) == 1
        if of_positions and carries:
            self._known.update(op.outputs)
            return True
        if self._coordinates is None:
            self._coordinates = _before_sampling(op)
        return (of_positions and op.op_type in _ENDS) or op in self._coordinates

    def _is_position(self, var: Var) -> bool:
        if var in self._known:
            return True
        if var.op is None:
            return var.name in self._inputs
        if var.op.op_type != "cast":
            return False
        x = var.op.x
        return self._counts(x) if types.is_int(x.dtype) else x.op is None and x.name in self._inputs

    def _counts(self, var: Var) -> bool:
        """Whether the integers ``var`` may be too large for float16; those of booleans are not."""
        if var not in self._counted:
            self._counted[var] = self._may_be_large(var)
        return self._counted[var]

    def _may_be_large(self, var: Var) -> bool:
        if _is_constant(var):
            values = np.asarray(var.val)
            return bool(values.size) and int(np.abs(values.astype(np.int64)).max()) > _EXACT
        if var.op is None:
            return var.name not in self._small
        if var.op.op_type == "cast":
            x = var.op.x
            if types.is_float(x.dtype):
                return self._is_position(x)
            return types.is_int(x.dtype) and self._counts(x)
        if var.op.op_type == "one_hot":
            return False
        if var.op.op_type in ("cumsum", "reduce_sum"):
            return True
        given = [v for v in _variables(var.op) if types.is_int(v.dtype) and v.op is not var.op]
        if var.op.op_type.startswith("gather"):
            given = [var.op.x]
        sizes = [v for v in given if not _is_constant(v)]
        return any(self._counts(v) for v in sizes) if sizes else var.op.op_type in _COUNTING


# They make large integers of what is none.
_COUNTING = frozenset({"shape", "reduce_argmax", "reduce_argmin", "argsort", "topk", "non_zero"})


def _variables(op: Operation) -> Iterator[Var]:
    for value in op.inputs.values():
        yield from (
            v
            for v in (value if isinstance(value, list | tuple) else (value,))
            if isinstance(v, Var)
        )


def _is_float(var: Var) -> bool:
    return bool(var.is_tensor_or_scalar_of(dtype="fp32"))


def _is_constant(var: Var) -> bool:
    return var.val is not None


def _inner_size(op: Operation) -> int | None:
    """How many products a sum of ``op`` has, where that is known."""
    if op.op_type not in _PRODUCTS:
        return None
    if op.op_type == "matmul":
        turned = op.transpose_x is not None and op.transpose_x.val
        size = op.x.shape[-2 if turned and op.x.rank > 1 else -1]
    else:
        size = math.prod(op.weight.shape[1:])
    return size if isinstance(size, int) else None


def _before_sampling(op: Operation) -> set[Operation]:
    """The arithmetic behind the coordinates of every ``resample`` in the program of ``op``."""
    block = op.enclosing_block
    while block.outer_op is not None:
        block = block.outer_op.enclosing_block
    found: set[Operation] = set()
    for sampling in walk(block):
        if sampling.op_type != "resample":
            continue
        most = _WIDEST * _elements(sampling.coordinates)
        pending = [sampling.coordinates]
        while pending:
            maker = pending.pop().op
            if maker is None or maker in found or not _makes_coordinates(maker, most):
                continue
            found.add(maker)
            pending.extend(v for v in _variables(maker) if _is_float(v) and not _is_constant(v))
    return found


def _makes_coordinates(op: Operation, most: float) -> bool:
    inner = _inner_size(op)
    is_short = inner is not None and inner <= _LONGEST
    is_arithmetic = op.op_type in _ARITHMETIC or op.op_type in _MOVES or is_short
    return is_arithmetic and max(map(_elements, op.outputs)) <= most


def _elements(var: Var) -> float:
    """How many elements ``var`` has; a size that is not known counts as one."""
    return math.prod(size if isinstance(size, int) else 1 for size in var.shape)


def is_coordinate(op: Operation, name: str) -> bool:
    """Whether the operand ``name`` of ``op`` is coordinates, of a type of their own."""
    return bool(op.op_type == "resample" and name == "coordinates")
