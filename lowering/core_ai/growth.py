"""How the error of an asset grows along its operators, in Apple's own runtime."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from frontend.source import Source, source_of
from lowering.core_ai.child import printed_by
from lowering.core_ai.locating import AssetCall, AssetSearch
from lowering.errors import CoreAIError
from lowering.verification.parity import Thresholds

_CHILD = "lowering.core_ai.contents_child"


@dataclass(frozen=True)
class AssetPoint:
    """The value of one operator that asset and original both compute.

    Attributes:
        op: the operator's place in the program of the asset.
        value: the operator's name there.
        op_type: Core AI's name of the operator.
        target: the torch operator behind it.
        source: the user's module and line.
        rel_l2: relative L2 error against the original, its inherited error included.
    """

    op: int
    value: str
    op_type: str
    target: str
    source: Source
    rel_l2: float


def operators_of(asset: Path) -> dict[int, str]:
    """Core AI's names of an asset's operators by their place in its program, constants aside.

    Raises:
        CoreAIError: Core AI is not installed, or it cannot read the asset.
    """
    return dict(printed_by(_CHILD, asset))


def error_growth(call: AssetCall) -> tuple[AssetPoint, ...]:
    """Errors along the program in one call; empty where they cannot be told.

    They cannot where the asset is of another program, or the runtime ends on it.
    """
    with tempfile.TemporaryDirectory(prefix="ane-passes-") as folder:
        search = AssetSearch(call, Thresholds.fp32, Path(folder))
        probes = search.probes()
        if not probes:
            return ()
        try:
            walk = search.walk(probes, rounded=False)
        except CoreAIError:
            return ()
    by_name = {probe.name: probe for probe in probes}
    nodes = {node.name: node for node in walk.original.program.graph.nodes}
    worst: dict[int, AssetPoint] = {}
    for name, error in walk.errors().items():
        probe = by_name.get(walk.matched[name])
        if probe is None:
            continue
        at, node = probe.position, nodes[name]
        if at not in worst or error > worst[at].rel_l2:
            worst[at] = AssetPoint(
                op=at,
                value=probe.name,
                op_type=probe.op_type,
                target=str(node.target),
                source=source_of(node),
                rel_l2=error,
            )
    return tuple(worst[at] for at in sorted(worst))
