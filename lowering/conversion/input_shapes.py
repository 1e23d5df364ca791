"""Shapes of a package's inputs: fixed, a range for each dynamic size, or a list of sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import coremltools as ct
import torch
from coremltools.converters.mil.mil import get_new_symbol
from torch.export import ExportedProgram

from frontend.dynamic_shapes import DIM_SYMBOLS
from lowering.errors import LoweringError, UnboundedSizeError

# The package format has no unbounded dimension; beyond this an "upper bound" is torch's infinity.
_LARGEST_DIM = 2**31 - 2
# Core ML takes no more (*documented*: coremltools guide, flexible input shapes).
MAX_SHAPES = 128

Sizes = Mapping[str, Sequence[int]]


class InputShapes:
    """The shape of each input, as coremltools takes it.

    Sizes that torch knows to be one are one in the package too.

    Args:
        program: the program, with the ranges of its sizes.
        sizes: the legal values of every dynamic size, by the name of its ``Dim``; ``None`` for
            ranges.

    Raises:
        LoweringError: ``sizes`` names no size, leaves one out, or has values out of range.
    """

    def __init__(self, program: ExportedProgram, sizes: Sizes | None) -> None:
        self._bounds = program.range_constraints
        self._ranges: dict[str, ct.RangeDim] = {}
        self._symbols: dict[str, Any] = {}
        self._cases = None if sizes is None else _cases(program, sizes)

    def of(self, name: str, value: torch.Tensor) -> Any:
        """The shape of input ``name``; a scalar becomes ``(1,)``.

        Raises:
            LoweringError: a size is unbounded, or a function of others that has no range.
        """
        if all(isinstance(size, int) for size in value.shape):
            return tuple(value.shape) or (1,)
        if self._cases is not None:
            return self._listed(value)
        return tuple(
            size if isinstance(size, int) else self._range(name, axis, size)
            for axis, size in enumerate(value.shape)
        )

    def _listed(self, value: torch.Tensor) -> object:
        assert self._cases is not None
        shapes = [
            tuple(n if isinstance(n, int) else _evaluated(n, case) for n in value.shape)
            for case in self._cases
        ]
        if len(shapes) == 1:
            return shapes[0]
        example = tuple(n if isinstance(n, int) else n.node.hint for n in value.shape)
        listed = ct.EnumeratedShapes(shapes, default=example if example in shapes else shapes[0])
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int) and len({shape[axis] for shape in shapes}) > 1:
                symbol = self._symbols.setdefault(str(size), get_new_symbol())
                listed.symbolic_shape[axis] = symbol
        return listed

    def _range(self, name: str, axis: int, size: torch.SymInt) -> ct.RangeDim:
        expression = size.node.expr
        if expression not in self._bounds:
            raise LoweringError(
                f"axis {axis} of input {name!r} is {expression}, a function of another size",
                hint="give its shapes in inputs=[ct.TensorType(name, shape)], or capture with "
                "dynamic_shapes where this axis is a torch.export.Dim of its own",
            )
        bounds = self._bounds[expression]
        if bounds.upper > _LARGEST_DIM:
            raise UnboundedSizeError(
                f"axis {axis} of input {name!r} has no upper bound, and Core ML needs one",
                hint="capture with dynamic_shapes=... torch.export.Dim(name, min=..., max=...), "
                "or list the sizes: sizes={name: [64, 128]}",
            )
        key = str(expression)
        if key not in self._ranges:
            lower, upper = max(int(bounds.lower), 1), int(bounds.upper)  # no tensor is empty
            hint = size.node.hint
            default = hint if isinstance(hint, int) and lower <= hint <= upper else upper
            self._ranges[key] = ct.RangeDim(lower_bound=lower, upper_bound=upper, default=default)
        return self._ranges[key]


def _cases(program: ExportedProgram, sizes: Sizes) -> list[dict[str, int]]:
    """Every combination of the listed sizes, each by the symbol it is a value of."""
    symbols = {str(symbol): bounds for symbol, bounds in program.range_constraints.items()}
    names = program.graph_module.meta.get(DIM_SYMBOLS, {})
    free = _free_symbols(program)
    by_symbol: dict[str, list[int]] = {}
    for name, values in sizes.items():
        symbol = names.get(name, name)
        if symbol not in free:
            raise LoweringError(
                f"sizes= names {name!r}, which is no dynamic size of the program",
                expected=", ".join(names) or "a program captured with dynamic_shapes",
                found=name,
            )
        listed = sorted(dict.fromkeys(values))
        bounds = symbols.get(symbol)
        wrong = [n for n in listed if bounds is not None and not bounds.lower <= n <= bounds.upper]
        if not listed or wrong:
            raise LoweringError(
                f"sizes= gives {name!r} no legal sizes",
                expected="one size or more"
                if bounds is None
                else f"sizes from {bounds.lower} to {bounds.upper}",
                found=", ".join(map(str, wrong)) or "none",
            )
        by_symbol[symbol] = listed
    missing = free - by_symbol.keys()
    if missing:
        known = {symbol: name for name, symbol in names.items()}
        raise LoweringError(
            "sizes= must list every dynamic size, or none",
            expected=", ".join(sorted(known.get(symbol, symbol) for symbol in free)),
            found=", ".join(sizes) or "nothing",
        )
    count = math.prod(len(values) for values in by_symbol.values())
    if count > MAX_SHAPES:
        raise LoweringError(
            "sizes= makes more shapes than Core ML takes",
            expected=f"at most {MAX_SHAPES} combinations",
            found=str(count),
        )
    return [
        dict(zip(by_symbol, values, strict=True))
        for values in itertools.product(*by_symbol.values())
    ]


def _free_symbols(program: ExportedProgram) -> set[str]:
    inputs = set(program.graph_signature.user_inputs)
    return {
        str(symbol)
        for node in program.graph.find_nodes(op="placeholder")
        if node.name in inputs and isinstance(node.meta.get("val"), torch.Tensor)
        for size in node.meta["val"].shape
        if not isinstance(size, int)
        for symbol in size.node.expr.free_symbols
    }


def _evaluated(size: torch.SymInt, case: Mapping[str, int]) -> int:
    expression = size.node.expr
    return int(expression.subs({s: case[str(s)] for s in expression.free_symbols}))


def check_enumerated(types: Sequence[ct.TensorType | ct.ImageType], target: ct.target) -> None:
    """Refuses several inputs with listed sizes below iOS18, which takes one.

    Raises:
        LoweringError: names the inputs.
    """
    listed = [entry.name for entry in types if isinstance(entry.shape, ct.EnumeratedShapes)]
    if len(listed) > 1 and target < ct.target.iOS18:
        raise LoweringError(
            f"inputs {', '.join(map(repr, listed))} have listed sizes, and Core ML takes one such "
            "input below iOS18",
            expected="minimum_deployment_target=ct.target.iOS18 or later",
            found=target.name,
            hint="raise the target, or make the other inputs from the first inside the model",
        )
