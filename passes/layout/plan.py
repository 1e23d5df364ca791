"""What a layout rule returns, and what rules ask about sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from frontend.sizes import expression
from passes.layout.placement import Placement, Size, plain
from passes.patterns.nodes import shape
from passes.rewriter import Rewriter

# Core ML tensors have at most five axes (documented: Core ML's MLMultiArray and MIL's ops); the
# ANE wants four (documented: Apple, "Deploying Transformers on the Apple Neural Engine").
MAX_RANK = 5

Emit = Callable[[Rewriter, Sequence[fx.Node]], fx.Node]
Placements = Mapping[fx.Node, Placement]


@dataclass(frozen=True)
class LayoutPlan:
    """How to run one node in image layout.

    Attributes:
        inputs: the tensors it takes, each with the placement it takes it in.
        output: the placement of its result (of each part, for an operator that yields a list).
        emit: writes the operator on physical inputs; ``None`` if the result is the first input
            regrouped, which takes a reshape at most.
    """

    inputs: tuple[tuple[fx.Node, Placement], ...]
    output: Placement
    emit: Emit | None


def sizes(node: fx.Node) -> tuple[Size, ...]:
    """Logical sizes, of the first result of several; symbolic ones as expressions."""
    return tuple(map(expression, shape(node)))


def plain_placement(node: fx.Node) -> Placement:
    """The placement of ``node`` as the program spells it."""
    return plain(sizes(node))
