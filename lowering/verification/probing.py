"""Values inside a package and inside its original, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from frontend.source import Source, source_of
from lowering.reference import ExecutionError, ModelLike, Precision, load
from lowering.verification import fx_values, package_values
from lowering.verification.image_inputs import with_nearest_images
from lowering.verification.original import Original, VerificationError
from lowering.verification.package_values import in_form_of
from lowering.verification.parity import Parity, parity
from passes.base import Pass

# How many names an error lists.
_LISTED = 8


@dataclass(frozen=True)
class Probe:
    """One value, as the package and as the original computed it.

    Attributes:
        node: the FX node, ``""`` for a MIL value that is none of the original's.
        value: the MIL value, ``""`` for a node that the package does not compute on its own.
        source: module path, line and passes of the node.
        original: its value in float32 torch.
        package: its value in the package, in the original's shape where there is one.
        parity: how far they are apart; ``None`` when one is missing.
    """

    node: str
    value: str
    source: Source
    original: np.ndarray | None
    package: np.ndarray | None
    parity: Parity | None


def probe(
    package: ModelLike,
    inputs: object = None,
    at: Sequence[str] = (),
    *,
    against: nn.Module | ExportedProgram | Original,
    kwargs: Mapping[str, Any] | None = None,
    precision: str | Precision = "fp16",
    pipeline: Sequence[Pass] | None = None,
    known_passes: Sequence[type[Pass]] = (),
) -> list[Probe]:
    """Intermediate values of a package and of its original on the same inputs.

    Args:
        package: an MLModel, the path of a ``.mlpackage``, or a MIL program.
        inputs: as for :func:`lowering.verify`.
        at: names of MIL values, of FX nodes of the program after the passes, or module paths; a
            path stands for every value computed in that module that both sides have.
        against: as for :func:`lowering.verify`.
        kwargs: keyword inputs.
        precision: how the package is computed, see :func:`lowering.load`.
        pipeline: the passes the package was made with, if it does not name them.
        known_passes: classes of your own passes that it may name.

    Returns:
        One entry for each value, in the order of ``at``, those of a module in program order.

    Raises:
        VerificationError: a name is none of the three.
        ExecutionError: the package cannot be run.
    """
    model = load(package, precision=precision)
    original = Original.of(
        against,
        inputs,
        kwargs,
        pipeline=pipeline,
        metadata=model.metadata,
        known_passes=known_passes,
    )
    original = with_nearest_images(model, original)
    feed = package_values.feed_of(model, original)
    run = package_values.run(model, feed)
    if isinstance(run.error, ExecutionError):
        raise run.error
    matched = package_values.matches(model, original.program)
    torch_values = _torch_values(original)
    nodes = {node.name: node for node in original.program.graph.nodes}
    by_value = {value: node for node, value in matched.items()}
    found = []
    for name in at:
        for node, value in _places(name, nodes, matched, by_value, run.values):
            found.append(
                _probe(nodes.get(node), value, torch_values.get(node), run.values.get(value))
            )
    return found


def _places(
    name: str,
    nodes: Mapping[str, fx.Node],
    matched: Mapping[str, str],
    by_value: Mapping[str, str],
    values: Mapping[str, Tensor],
) -> list[tuple[str, str]]:
    """Pairs of an FX node and a MIL value that ``name`` stands for; one of them may be ``""``."""
    if name in values:
        return [(by_value.get(name, ""), name)]
    if name in nodes:
        return [(name, matched.get(name, ""))]
    inside = [
        (node, value)
        for node, value in matched.items()
        if source_of(nodes[node]).module == name
        or source_of(nodes[node]).module.startswith(f"{name}.")
    ]
    if not inside:
        modules = sorted({source_of(nodes[node]).module for node in matched} - {""})
        raise VerificationError(
            f"{name!r} is no MIL value, FX node or module path",
            expected="such as " + ", ".join([*list(matched)[:_LISTED], *modules[:_LISTED]]),
        )
    return inside


def _torch_values(original: Original) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}

    def visit(node: fx.Node, value: object) -> object:
        if isinstance(value, Tensor):
            values[node.name] = value
        return value

    fx_values.run(original.program, original.leaves, visit=visit)
    return values


def _probe(
    node: fx.Node | None, value: str, expected: Tensor | None, found: Tensor | None
) -> Probe:
    compared = None
    if expected is not None and found is not None:
        shaped = in_form_of(found, expected)
        compared = parity(value, found, expected, threshold=float("inf"))
        found = found if shaped is None else shaped
    return Probe(
        node=node.name if node is not None else "",
        value=value,
        source=source_of(node) if node is not None else Source(),
        original=None if expected is None else _array(expected),
        package=None if found is None else _array(found),
        parity=compared,
    )


def _array(tensor: Tensor) -> np.ndarray:
    """A copy; numpy has no bfloat16."""
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy().copy()
