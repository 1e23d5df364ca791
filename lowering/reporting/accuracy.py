"""How the error of a package grows along its program, against the original in float32 torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from lowering.reference import LoadedModel
from lowering.verification import Original, Verification, fx_values, package_values
from lowering.verification.image_inputs import with_nearest_images
from lowering.verification.package_values import in_form_of
from lowering.verification.parity import rel_l2

# A value this far off, in a program whose end is as good as this, is not wrong: it is not the value
# that its name says.
_OTHER_VALUE, _GOOD_END = 0.5, 0.1


@dataclass(frozen=True)
class Point:
    """The value of one operator that package and original both compute.

    Attributes:
        op: index into the plan's operators.
        value: the MIL name; of several results, that of the worst.
        target: the torch operator behind it.
        rel_l2: relative L2 error against the original, its inherited error included.
    """

    op: int
    value: str
    target: str
    rel_l2: float


@dataclass(frozen=True)
class Accuracy:
    """How far the package is from its original, *measured* in the interpreter.

    Attributes:
        outputs: the verification of outputs and states.
        growth: values along the program, in its order.
        left_out: values that carry a name of the original's but hold something else, so that
            nothing after them is off: axes that coremltools swapped and swapped back, or the
            lowest float where the other side has an infinity.
    """

    outputs: Verification
    growth: tuple[Point, ...]
    left_out: int

    @property
    def worst(self) -> float:
        """The largest relative L2 error of an output or state."""
        return max((output.rel_l2 for output in self.outputs.outputs), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": "measured in the interpreter",
            "outputs": self.outputs.to_json(),
            "growth": [dict(vars(point)) for point in self.growth],
            "left_out": self.left_out,
        }


def error_growth(
    model: LoadedModel, original: Original, positions: dict[str, int]
) -> tuple[tuple[Point, ...], int]:
    """The error of every value that both sides compute, in the order of the program.

    Args:
        model: the loaded package.
        original: what it is held against.
        positions: MIL value name to the index of the operator that makes it.

    Returns:
        The points, and how many values were left out (see :class:`Accuracy`).
    """
    original = with_nearest_images(model, original)
    feed = package_values.feed_of(model, original)
    run = package_values.run(model, feed)
    matched = package_values.matches(model, original.program)
    points: list[Point] = []

    def visit(node: fx.Node, value: object) -> object:
        name = matched.get(node.name, "")
        found = run.values.get(name)
        if isinstance(value, Tensor) and value.is_floating_point() and found is not None:
            shaped = in_form_of(found, value)
            error = math.inf if shaped is None else rel_l2(shaped, value)
            points.append(Point(positions[name], name, str(node.target), error))
        return value

    fx_values.run(original.program, original.leaves, visit=visit)
    kept = [point for point in points if not _leaves_no_trace(point, points[-1])]
    by_op: dict[int, Point] = {}
    for point in kept:
        if point.op not in by_op or point.rel_l2 > by_op[point.op].rel_l2:
            by_op[point.op] = point
    return tuple(by_op[op] for op in sorted(by_op)), len(points) - len(kept)


def _leaves_no_trace(point: Point, last: Point) -> bool:
    return point.rel_l2 > _OTHER_VALUE and last.rel_l2 < _GOOD_END
