"""What a verification found, as values, JSON and a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from frontend.source import Source
from lowering.support.finite import finite
from lowering.verification.decoded import Compressed
from lowering.verification.looks import PictureLook
from lowering.verification.metrics import Agreement
from lowering.verification.parity import Parity
from lowering.verification.yardstick import LISTED, Loosening


@dataclass(frozen=True)
class Divergence:
    """The op at which a package leaves the torch program.

    Attributes:
        op: name of the MIL op.
        op_type: its MIL type.
        value: the MIL value that is wrong.
        node: the FX node that this value should hold.
        target: the torch operator of ``node``.
        source: module path, line and passes of ``node``.
        between: MIL ops that compute ``value`` from values that were compared, in order. With
            more than one, ``op`` is the last that computes, and the fault is in any of them.
        own_error: relative L2 error of ``value`` against torch on the package's own inputs of
            ``node``.
        effect: relative L2 error that this error alone causes in the outputs.
        growth: later MIL values and their relative L2 error against the undisturbed program.
        reason: what sets the value apart.
    """

    op: str
    op_type: str
    value: str
    node: str
    target: str
    source: Source
    between: tuple[str, ...]
    own_error: float
    effect: float
    growth: tuple[tuple[str, float], ...]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of plain values."""
        return {
            "op": self.op,
            "op_type": self.op_type,
            "value": self.value,
            "node": self.node,
            "target": self.target,
            "module": self.source.module,
            "line": self.source.line,
            "passes": list(self.source.passes),
            "between": list(self.between),
            "own_error": finite(self.own_error),
            "effect": finite(self.effect),
            "growth": [{"value": name, "rel_l2": finite(e)} for name, e in self.growth],
            "reason": self.reason,
        }


@dataclass(frozen=True)
class PassFault:
    """The pass after which the program computes something else than before it.

    Attributes:
        name: of the pass.
        position: its place in the pipeline, from 0.
        before: relative L2 error of the program before it, against the captured one.
        after: that of the program it left.
        node: the first node it wrote or changed whose value is another one; ``""`` if unknown.
        source: where that node comes from.
    """

    name: str
    position: int
    before: float
    after: float
    node: str
    source: Source

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of plain values."""
        return {
            "name": self.name,
            "position": self.position,
            "rel_l2_before": finite(self.before),
            "rel_l2_after": finite(self.after),
            "node": self.node,
            "module": self.source.module,
            "line": self.source.line,
        }


@dataclass(frozen=True)
class Verification:
    """Whether a package computes what its original computes, and if not, where they part.

    Attributes:
        outputs: one entry for each output, and for each state.
        precision: how the package was computed, see ``Precision``.
        error: why the package could not be run to its end.
        divergence: the MIL op at fault, when one was looked for and found.
        pass_fault: the pass at fault, likewise.
        step: the step that ``outputs`` are of, from 1: the first that failed, else the last. Each
            output is the worst of the steps up to it, by its share of the threshold.
        steps: how many calls one after the other were asked for.
        loosened: places at which the original is useless in half precision, where that made a
            threshold loose.
        agreement: what the metric that was asked for says.
        labels: a name for each step, such as its picture's; may be empty.
        compression: of a package with compressed weights, whose ``outputs`` are held against the
            model that holds their values: what these are, and what they cost.
        pictures: what both sides made of each picture, to look at.
        functions: the function that each step called, of a package with several; may be empty.
        unlocated: why no operator could be looked for; ``""`` otherwise.
        kind: ``logic`` when the package is wrong without any rounding too, ``rounding`` when
            only its fp16 values make it wrong, ``None`` when it passed or was not located.
    """

    outputs: tuple[Parity, ...]
    precision: str
    error: str | None = None
    divergence: Divergence | None = None
    pass_fault: PassFault | None = None
    kind: str | None = None
    step: int = 1
    steps: int = 1
    loosened: tuple[Loosening, ...] = ()
    agreement: Agreement | None = None
    labels: tuple[str, ...] = ()
    pictures: tuple[PictureLook, ...] = ()
    compression: Compressed | None = None
    functions: tuple[str, ...] = ()
    unlocated: str = ""

    @property
    def passed(self) -> bool:
        """Whether the package ran, every output is within its threshold, and the metric reached.

        Compressed weights must be the model's own, as far as their form can hold them.
        """
        agrees = self.agreement is None or self.agreement.passed
        agrees = agrees and (self.compression is None or self.compression.passed)
        return self.error is None and agrees and all(output.passed for output in self.outputs)

    def __bool__(self) -> bool:
        return self.passed

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of plain values; infinity and NaN as text."""
        return {
            "passed": self.passed,
            "precision": self.precision,
            "error": self.error,
            "outputs": [
                {key: finite(value) for key, value in output.to_json().items()}
                for output in self.outputs
            ],
            "kind": self.kind,
            "divergence": self.divergence.to_json() if self.divergence else None,
            "step": self.step,
            "steps": self.steps,
            "agreement": finite(self.agreement.to_json()) if self.agreement else None,
            "labels": list(self.labels),
            "compression": self.compression.to_json() if self.compression else None,
            "pictures": [finite(look.to_json()) for look in self.pictures],
            "functions": list(self.functions),
            "unlocated": self.unlocated,
            "loosened": [place.to_json() for place in self.loosened],
            "pass_fault": self.pass_fault.to_json() if self.pass_fault else None,
        }

    def __rich__(self) -> RenderableType:
        """A table of the outputs, what both make of pictures, and where the package goes wrong."""
        table = Table("output", "max abs", "rel L2", "cosine", "half torch", "allowed", "")
        for item in self.outputs:
            half = "" if item.yardstick is None else f"{item.yardstick:.2e}"
            verdict = "[green]ok[/]" if item.passed else "[red]differs[/]"
            numbers = (f"{item.max_abs:.2e}", f"{item.rel_l2:.2e}", f"{item.cosine:.6f}")
            table.add_row(escape(item.name), *numbers, half, f"{item.threshold:.2e}", verdict)
        sentences = (escape(line) for line in self._sentences())
        return Group(table, *self.pictures, *sentences)

    def _sentences(self) -> list[str]:
        lines = [
            f"{item.name}: allowed is {item.threshold:.0e}, since {item.loose}"
            for item in self.outputs
            if item.loose
        ]
        lines += [f"  {place}" for place in self.loosened[:LISTED]]
        if len(self.loosened) > LISTED:
            lines.append(f"  and {len(self.loosened) - LISTED} more places")
        if self.labels:
            seen = self.labels[: self.step]
            lines.append(
                f"each through torch and the package: {', '.join(seen)}"
                if self.passed
                else f"differs on {self.labels[self.step - 1]}"
            )
        elif self.steps > 1:
            kept = "each starting where the one before ended"
            counted = Counter(self.functions).items()
            called = "".join(f", {name} {count}×" for name, count in counted)
            at_fault = f" ({self.functions[self.step - 1]})" if self.functions else ""
            lines.append(
                f"{self.steps} steps{called}, {kept}"
                if self.passed
                else f"step {self.step} of {self.steps}{at_fault} differs, {kept}"
            )
        if self.agreement:
            agreed = self.agreement
            verdict = "" if agreed.passed else ", too little"
            if agreed.half:
                verdict += f"; torch itself reaches {agreed.half_mean:.4f} in half precision"
            lines.append(
                f"{agreed.metric}: {agreed.mean:.4f} over {len(agreed.values)} "
                f"(at least {agreed.at_least:g}){verdict}"
            )
        if self.compression:
            lines += self.compression.sentences()
        if self.error:
            lines.append(f"could not be run to its end: {self.error}")
        if self.pass_fault:
            fault = self.pass_fault
            lines.append(
                f"the pass {fault.name} (number {fault.position + 1}) introduced it: relative "
                f"error {fault.before:.1e} before, {fault.after:.1e} after"
            )
            if fault.node:
                lines.append(f"  first at {fault.node}: {fault.source}")
        if self.divergence:
            found = self.divergence
            lines.append(f"first diverging op: {found.op_type} {found.op} ({found.reason})")
            lines.append(f"  torch: {found.target} {found.node}")
            lines.append(f"  source: {found.source}")
            lines.append(f"  own error {found.own_error:.1e}, of the outputs {found.effect:.1e}")
            if len(found.between) > 1:
                lines.append(f"  computed by: {', '.join(found.between)}")
            if found.growth:
                steps = ", ".join(f"{name} {error:.1e}" for name, error in found.growth)
                lines.append(f"  error from there: {steps}")
        if not all(item.passed for item in self.outputs) and not (
            self.divergence or self.pass_fault
        ):
            lines.append(self.unlocated or "no single op or pass explains the difference")
        if self.kind == "rounding":
            lines.append("computed without fp16 rounding the package passes")
        return lines
