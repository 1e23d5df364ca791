"""What a plan says: the plain values that tables, JSON and users read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frontend.source import Source
from lowering.planner.capabilities import Reason
from lowering.planner.doubts import Doubt
from lowering.planner.figures import ShapeFigures
from lowering.planner.latency import Latency


@dataclass(frozen=True)
class OpPlan:
    """One operator of the plan.

    Attributes:
        name: MIL name.
        op_type: MIL type.
        device: where it is *predicted* to run: ``"ane"`` or ``"cpu"``.
        supported: devices that can run it.
        reason: why it is not on the ANE, ``None`` when it is.
        cost_ms: the dispatcher's price per device, milliseconds; devices without one are left out.
            An estimate that Core ML decides by, not a run time.
        source: module path, line and passes it comes from.
        figures: layout, padding, working set.
        outputs: names of its results.
    """

    name: str
    op_type: str
    device: str
    supported: frozenset[str]
    reason: Reason | None
    cost_ms: Mapping[str, float]
    source: Source
    figures: ShapeFigures
    outputs: tuple[str, ...] = ()

    @property
    def chosen_ms(self) -> float:
        """The dispatcher's price on the device it runs on, milliseconds."""
        return self.cost_ms[self.device]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        reason = self.reason
        return {
            "name": self.name,
            "op_type": self.op_type,
            "outputs": list(self.outputs),
            "device": self.device,
            "supported": sorted(self.supported),
            "reason": None
            if reason is None
            else {
                "rule": reason.rule,
                "sentence": reason.sentence,
                "hint": reason.hint,
                "confidence": reason.confidence,
                "evidence": reason.evidence,
            },
            "cost_ms": dict(self.cost_ms),
            "source": {
                "module": self.source.module,
                "line": self.source.line,
                "passes": list(self.source.passes),
            },
            "figures": self.figures.to_json(),
        }


@dataclass(frozen=True)
class DeviceRun:
    """Operators that run one after the other on one device.

    Attributes:
        device: ``"ane"`` or ``"cpu"``.
        start: index of the first operator.
        stop: index after the last one.
        cost_ms: the dispatcher's price of them, milliseconds, without switches.
    """

    device: str
    start: int
    stop: int
    cost_ms: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Share:
    """The ANE's part of a program, each 0 to 1.

    Attributes:
        ops: of its operators.
        cost: of the dispatcher's price of all operators where they run.
    """

    ops: float
    cost: float


@dataclass(frozen=True)
class Advice:
    """What a change would do to the placement, *predicted* with the dispatcher's own prices.

    Attributes:
        ops: names of the operators to change, in program order.
        change: ``"host"`` (compute them outside the model) or ``"supported"`` (give them a form
            that the ANE has).
        switches: change of the number of switches, negative when some go.
        cost_ms: change of the dispatcher's total price, milliseconds, negative when cheaper.
        moved: number of other operators that would move to the ANE, negative when they leave it.
        sentence: the same in words.
    """

    ops: tuple[str, ...]
    change: str
    switches: int
    cost_ms: float
    moved: int
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "ops": list(self.ops)}


@dataclass(frozen=True)
class Plan:
    """Where a program is *predicted* to run, and why.

    Attributes:
        label: the model.
        target: chip.
        platform: its compiler platform.
        compute_units: as asked for.
        ops: operators in program order.
        segments: runs of operators on one device.
        switches: changes of device; entry from and return to the host are counted, so a program
            wholly on the ANE has two.
        dispatch_ms: the dispatcher's price of the whole placement with its switches, milliseconds.
        latency_ms: *predicted* time on the device with its interval, ``None`` when unknown.
        latency_note: what the latency rests on, or why it is unknown.
        advice: what would change the placement most, best first.
        notes: what was assumed.
        doubts: what published measurements say against what is predicted here.
    """

    label: str
    target: str
    platform: str
    compute_units: str
    ops: tuple[OpPlan, ...]
    segments: tuple[DeviceRun, ...]
    switches: int
    dispatch_ms: float
    latency_ms: Latency | None
    latency_note: str
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = field(default=())
    doubts: tuple[Doubt, ...] = ()

    @property
    def ane_share(self) -> Share:
        """The ANE's part of operators and of cost; zeros for an empty program."""
        on_ane = [op for op in self.ops if op.device == "ane"]
        total = sum(op.chosen_ms for op in self.ops)
        return Share(
            len(on_ane) / len(self.ops) if self.ops else 0.0,
            sum(op.chosen_ms for op in on_ane) / total if total else 0.0,
        )

    @property
    def refusals(self) -> Counter[str]:
        """Rule ids and how many operators they keep from the ANE."""
        return Counter(op.reason.rule for op in self.ops if op.reason is not None)

    def most_expensive(self, count: int = 10) -> list[OpPlan]:
        """The operators with the highest price where they run."""
        return sorted(self.ops, key=lambda op: op.chosen_ms, reverse=True)[:count]

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``latency_ms`` is ``null`` when unknown."""
        share = self.ane_share
        return {
            "kind": "predicted",
            "model": self.label,
            "target": self.target,
            "platform": self.platform,
            "compute_units": self.compute_units,
            "ane_share": {"ops": share.ops, "cost": share.cost},
            "switches": self.switches,
            "dispatch_ms": self.dispatch_ms,
            "latency_ms": None if self.latency_ms is None else self.latency_ms.to_json(),
            "latency_note": self.latency_note,
            "segments": [segment.to_json() for segment in self.segments],
            "refusals": dict(self.refusals),
            "advice": [advice.to_json() for advice in self.advice],
            "notes": list(self.notes),
            "doubts": [doubt.to_json() for doubt in self.doubts],
            "ops": [op.to_json() for op in self.ops],
        }
