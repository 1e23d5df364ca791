"""From an asset that differs to the node of the program that it was made from.

The asset itself is asked what it computes: a copy of it returns the result of every operator, in
Apple's runtime. Which node of the torch program an operator comes from is told by a second
conversion of the same program, whose operators carry these names. Where the runtime ends on the
asset, shorter and shorter copies tell at which operator.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import fx

from frontend.source import Source, source_of
from lowering.core_ai.asset import Interface, read_interface
from lowering.core_ai.child import printed_by
from lowering.core_ai.converter import lowered, taken_apart
from lowering.core_ai.op_result import OpResult
from lowering.core_ai.runtime import feed, run_asset
from lowering.errors import CoreAIError
from lowering.verification import fx_values
from lowering.verification.divergence import Computed, Walk
from lowering.verification.original import Original
from lowering.verification.package_values import PackageRun, in_float32, part_of
from lowering.verification.parity import Thresholds
from lowering.verification.pass_bisect import faulty_pass
from lowering.verification.result import Divergence, Verification

_CHILD = "lowering.core_ai.probe_child"
# How ``run_asset`` names a state after the call.
_STATE = "state:"
_OF_ANOTHER = (
    "the asset has other operators than this model is converted to now: another model, other "
    "passes, or another release made it"
)


@dataclass(frozen=True)
class AssetCall:
    """One call of an asset.

    Attributes:
        asset: its file.
        original: what it is held against, with the inputs of this call.
        states: of the asset before the call.
        precision: of the asset.
    """

    asset: Path
    original: Original
    states: Mapping[str, np.ndarray]
    precision: str


def located(found: Verification, call: AssetCall) -> Verification:
    """``found`` with the operator and the pass at fault, as far as they can be told.

    Args:
        found: a verification that did not pass.
        call: the call that failed.
    """
    threshold = min((output.threshold for output in found.outputs), default=Thresholds.fp32)
    fault = faulty_pass(call.original, threshold)
    with tempfile.TemporaryDirectory(prefix="ane-passes-") as folder:
        search = AssetSearch(call, threshold, Path(folder))
        probes = search.probes()
        if not probes:
            return replace(found, pass_fault=fault, unlocated=_OF_ANOTHER)
        return replace(found, divergence=search.first(probes), pass_fault=fault)


class AssetSearch:
    """What the operators of an asset compute in one call.

    Args:
        call: the call.
        threshold: the relative error of an output that counts.
        folder: for copies of the asset.
    """

    def __init__(self, call: AssetCall, threshold: float, folder: Path) -> None:
        self._call, self._threshold, self._folder = call, threshold, folder
        self._apart = taken_apart(call.original.program, call.precision)
        self._twin = folder / "twin.aimodel"
        lowered(self._apart, named=True).save_asset(self._twin)
        interface = read_interface(call.asset)[0]
        self._interface = interface
        self._inputs = feed(interface.inputs, call.original.inputs())

    def probes(self) -> list[OpResult]:
        """What the asset computes; empty where it is of another program."""
        return self._exposed(self._folder / "whole.aimodel")

    def first(self, probes: list[OpResult]) -> Divergence | None:
        """The operator at fault, if one can be told."""
        try:
            walk = self.walk(probes, rounded=self._call.precision == "float16")
        except CoreAIError as error:
            return self._ending(probes, error)
        return walk.first() if walk.is_wrong() else None

    def walk(self, probes: Sequence[OpResult], *, rounded: bool) -> AssetWalk:
        """The values of ``probes`` beside those of the program, its weights ``rounded`` or not.

        Raises:
            CoreAIError: Apple's runtime ended without a result.
        """
        ran = run_asset(
            self._folder / "whole.aimodel", self._inputs, self._call.states, keep_states=True
        )
        values = {name: in_float32(value) for name, value in ran.items()}
        return AssetWalk(
            self._own_original(),
            PackageRun(values),
            rounded,
            self._threshold,
            probes,
            self._interface,
        )

    def _exposed(self, copy: Path, until: int | None = None) -> list[OpResult]:
        last = () if until is None else (until,)
        rows = printed_by(_CHILD, self._call.asset, self._twin, copy, *last)
        return [
            OpResult(**{**row, "shape": tuple(row["shape"]), "nodes": tuple(row["nodes"])})
            for row in rows
        ]

    def _own_original(self) -> Original:
        """The program in Core AI's operators, on the inputs and states of the call."""
        whole = self._apart.whole
        written = whole.graph_signature.buffers_to_mutate
        buffers = {}
        for target, port in zip(written.values(), self._interface.states, strict=True):
            if port.name in self._call.states:
                buffers[target] = in_float32(self._call.states[port.name])
        placeholders = {n.name: n.meta["val"] for n in whole.graph.find_nodes(op="placeholder")}
        leaves = tuple(
            torch.from_numpy(self._inputs[port.name]).to(placeholders[str(name)].dtype)
            for port, name in zip(
                self._interface.inputs, whole.graph_signature.user_inputs, strict=True
            )
        )
        return Original(whole, None, None, (), leaves, buffers=buffers)

    def _ending(self, probes: Sequence[OpResult], error: CoreAIError) -> Divergence | None:
        """The first operator with which the runtime ends."""
        positions = sorted({probe.position for probe in probes})
        low, high = 0, len(positions) - 1
        while low < high:
            middle = (low + high) // 2
            if self._ends(positions[middle]):
                high = middle
            else:
                low = middle + 1
        if not self._ends(positions[low]):
            return None
        probe = next(probe for probe in probes if probe.position == positions[low])
        nodes = {node.name: node for node in self._apart.whole.graph.nodes}
        node = next((nodes[name] for name in probe.nodes if name in nodes), None)
        return Divergence(
            op=probe.name,
            op_type=probe.op_type,
            value=probe.name,
            node=node.name if node else "",
            target=str(node.target) if node else "",
            source=source_of(node) if node else Source(),
            between=(probe.name,),
            own_error=math.inf,
            effect=math.inf,
            growth=(),
            reason=f"with it {error.message[0].lower()}{error.message[1:]}",
        )

    def _ends(self, position: int) -> bool:
        copy = self._folder / f"until_{position}.aimodel"
        self._exposed(copy, position)
        try:
            run_asset(copy, self._inputs, self._call.states)
        except CoreAIError:
            return True
        return False


@dataclass
class AssetWalk(Walk):
    """Finds the operator at fault in one run of an asset.

    Args:
        probes: what the asset's operators compute.
        interface: of the asset; the others as for :class:`Walk`.
    """

    probes: Sequence[OpResult]
    interface: Interface

    def _matches(self) -> Mapping[str, str]:
        program = self.original.program
        nodes = {node.name: node for node in program.graph.nodes if fx_values.is_tensor(node)}
        order = {name: position for position, name in enumerate(nodes)}
        parts = {
            (part[0].name, part[1]): name
            for name, node in nodes.items()
            if (part := part_of(node)) is not None
        }
        found: dict[str, str] = {}
        for probe in self.probes:
            named = [parts.get((name, probe.number), name) for name in probe.nodes]
            # What stands in one operator for several nodes is the result of the last of them.
            fitting = [name for name in named if name in nodes and _has_shape(nodes[name], probe)]
            if fitting:
                found[max(fitting, key=order.__getitem__)] = probe.name
        states, outputs = fx_values.returned(program)
        for node, port in zip(outputs, self.interface.outputs, strict=True):
            if node.op != "placeholder":
                found.setdefault(node.name, port.name)
        for node, port in zip(states.values(), self.interface.states, strict=True):
            if node.op != "placeholder":
                found.setdefault(node.name, _STATE + port.name)
        return {name: found[name] for name in order if name in found}

    def _computed(self, value: str) -> Computed:
        probe = next((p for p in self.probes if value in (p.name, p.output)), None)
        if probe is None:
            return Computed(value, "state" if value.startswith(_STATE) else "const", ())
        return Computed(probe.name, probe.op_type, (probe.name,))

    def _broken_op(self) -> Divergence:
        raise AssertionError("a run of an asset has all its values")


def _has_shape(node: fx.Node, probe: OpResult) -> bool:
    sizes = node.meta["val"].shape
    return len(sizes) == len(probe.shape) and all(
        have in (-1, size) or not isinstance(size, int)
        for size, have in zip(sizes, probe.shape, strict=True)
    )
