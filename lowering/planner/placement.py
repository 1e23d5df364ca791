"""``lowering.plan``: where every operator of a Core ML program is predicted to run, and why."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from frontend.deprecated import renamed_arguments
from frontend.errors import AnePassesError, about
from lowering.package.kinds import operands_fit
from lowering.package.open import MAIN, ModelLike
from lowering.package.source_table import SourceTable
from lowering.planner.capabilities import Capability, Reason, capability, gpu_refuses
from lowering.planner.doubts import doubts_of
from lowering.planner.facts import OpFacts
from lowering.planner.figures import figures_of
from lowering.planner.latency import evidence_notes, predict_latency
from lowering.planner.mil import ReadProgram, read_program
from lowering.planner.prices import PriceBook, price, price_book, price_caveats, switch_ms
from lowering.planner.result import DeviceRun, OpPlan, Plan
from lowering.planner.segmentation import cpu_price, path_cost, segment
from lowering.planner.targets import chip_of, chips, platform_of
from lowering.planner.what_if import advise, count_switches

COMPUTE_UNITS = ("CPU_AND_NE", "ALL", "CPU_ONLY")
# Below this the mapping of a chip to a compiler platform, or the platform's prices, are assumed.
_SURE = 0.9


class ComputeUnitsError(AnePassesError):
    """Placement for these compute units cannot be predicted."""


@renamed_arguments(target="chip")
def plan(
    model_or_path: ModelLike | ReadProgram,
    *,
    chip: str = "M4",
    compute_units: object = "CPU_AND_NE",
    sources: SourceTable | None = None,
    function: str = MAIN,
) -> Plan:
    """Predict where each operator runs, why, and what it costs; works on any machine.

    The dispatcher's capability rules, prices and segmentation are *measured* on an M4 (macOS 27);
    other chips reuse them as far as ``Plan.notes`` says. Nothing is run.

    Args:
        model_or_path: an ``MLModel``, the path of a ``.mlpackage``, a MIL ``Program``, or
            what ``read_program`` made of one of them.
        chip: such as ``"M4"`` or ``"A17 Pro"``.
        compute_units: ``"CPU_AND_NE"``, ``"ALL"`` or ``"CPU_ONLY"``, or coremltools' constant.
        sources: where operators come from; read from the package's metadata by default.
        function: of a package with several; the default one where none is named.

    Raises:
        UnknownChipError: the chip is not known.
        ComputeUnitsError: GPU placement is asked for; no GPU price is known.
        PackageError: there is no ML Program in ``model_or_path``.
    """
    units = _compute_units(compute_units)
    platform = platform_of(chip)
    book = price_book(platform)
    program = read_program(model_or_path, sources, function)
    with about(program.label):
        judged = [_judged(op.facts, platform) for op in program.ops]
    able = [_in_context(able, program) for able, _ in judged]
    prices = [price for _, price in judged]
    if units == "CPU_ONLY":
        able = [Capability(False, _CPU_ONLY)] * len(able)
    devices = segment(prices, able)
    segments = _segments(devices, prices)
    costs = [_device_costs(entry) for entry in prices]
    ops = tuple(
        OpPlan(
            name=op.facts.name,
            op_type=op.facts.op_type,
            device=device,
            supported=_supported(op.facts, possible),
            reason=reason,
            cost_ms=cost,
            source=program.sources.lookup(op.facts.name),
            figures=figures_of(op.facts),
            outputs=op.writes,
        )
        for op, device, possible, reason, cost in zip(
            program.ops, devices, able, _reasons(devices, able, prices), costs, strict=True
        )
    )
    latency, latency_note = predict_latency(
        [op.facts for op in program.ops], devices, chip_of(chip)
    )
    advice = () if units == "CPU_ONLY" else advise(program, prices, able, devices, book)
    return Plan(
        label=program.label,
        target=chip_of(chip) or platform,
        platform=platform,
        compute_units=units,
        ops=ops,
        segments=segments,
        switches=count_switches(devices),
        dispatch_ms=path_cost(devices, prices),
        latency_ms=latency,
        latency_note=latency_note,
        advice=advice,
        notes=(*_notes(chip, book, units, program), *_reading(able, devices, prices)),
        doubts=() if units == "CPU_ONLY" else doubts_of(program, platform),
    )


def _judged(facts: OpFacts, platform: str) -> tuple[Capability, dict[str, float | None]]:
    """Whether the ANE can run an operator, and its price.

    Raises:
        PackageError: its operands are not those of such an operator.
    """
    with operands_fit(f"{facts.op_type} {facts.name}"):
        return capability(facts, platform), price(facts, platform)


_CPU_ONLY = Reason("compute_units", "the compute units asked for leave the ANE out")


def _in_context(able: Capability, program: ReadProgram) -> Capability:
    """``able`` with a hint that fits the program, where the rule's own does not."""
    reason = able.reason
    if reason is None or reason.rule != _FP32 or not _computes_in_fp16(program):
        return able
    return replace(able, reason=replace(reason, hint=_FP32_AMONG_FP16))


_FP32 = "dtype.fp32_compute"
_FP32_AMONG_FP16 = (
    "the program is float16 but for this: it reads a float32 input or an image, or was kept in "
    "float32; declare that input as float16, or scale the image before the call"
)


def _computes_in_fp16(program: ReadProgram) -> bool:
    return any(
        op.facts.op_type != "cast" and op.facts.outputs and op.facts.output.dtype == "fp16"
        for op in program.ops
    )


def _compute_units(units: object) -> str:
    name = str(getattr(units, "name", units)).upper()
    if name in COMPUTE_UNITS:
        return name
    raise ComputeUnitsError(
        f"placement for {name} cannot be predicted",
        expected=", ".join(COMPUTE_UNITS),
        found=name,
        hint="no prices of GPU placement are known; import a compute plan made on a Mac instead",
    )


def _supported(facts: OpFacts, able: Capability) -> frozenset[str]:
    devices = {"cpu"}
    if able.ane:
        devices.add("ane")
    if not gpu_refuses(facts):
        devices.add("gpu")
    return frozenset(devices)


def _device_costs(prices: dict[str, float | None]) -> dict[str, float]:
    costs = {"cpu": cpu_price(prices)}
    if prices["ane"] is not None:
        costs["ane"] = prices["ane"]
    return costs


def _segments(
    devices: Sequence[str], prices: Sequence[dict[str, float | None]]
) -> tuple[DeviceRun, ...]:
    segments, start = [], 0
    for device, group in itertools.groupby(devices):
        stop = start + len(list(group))
        cost = sum(_device_costs(entry)[device] for entry in prices[start:stop])
        segments.append(DeviceRun(device, start, stop, cost))
        start = stop
    return tuple(segments)


def _reasons(
    devices: Sequence[str],
    able: Sequence[Capability],
    prices: Sequence[dict[str, float | None]],
) -> list[Reason | None]:
    """Why each operator is not on the ANE: refused, or not worth its switches."""
    reasons: list[Reason | None] = []
    keys = [(device, possible.ane) for device, possible in zip(devices, able, strict=True)]
    start = 0
    for (device, possible), group in itertools.groupby(keys):
        stop = start + len(list(group))
        if device == "ane":
            reasons += [None] * (stop - start)
        elif not possible:
            reasons += [entry.reason for entry in able[start:stop]]
        else:
            saved = sum(cpu_price(entry) - (entry["ane"] or 0.0) for entry in prices[start:stop])
            reasons += [_not_worth(saved, _added_switches(devices, start, stop), stop - start)] * (
                stop - start
            )
        start = stop
    return reasons


def _added_switches(devices: Sequence[str], start: int, stop: int) -> int:
    """Switches that moving ``start`` to ``stop`` to the ANE would add."""
    moved = [*devices[:start][-1:], *["ane"] * (stop - start), *devices[stop:][:1]]
    now = [*devices[:start][-1:], *["cpu"] * (stop - start), *devices[stop:][:1]]
    return count_switches(moved) - count_switches(now)


def _not_worth(saved: float, switches: int, count: int) -> Reason:
    stretch = "it" if count == 1 else f"this stretch of {count} operators"
    fee = max(switches, 0) * switch_ms()
    gain = (
        f"would save {saved:.3f} ms of the dispatcher's price and cost {fee:.3f} ms of switches"
        if saved > 0
        else "is not cheaper there by the dispatcher's price"
    )
    return Reason(
        "segment.price",
        f"the ANE can run {stretch}, which {gain}",
        "more work next to it would carry it over" if saved > 0 else "",
        0.9,
        "the segmentation reproduces 294 dumped programs of an M4",
    )


def _notes(asked: str, book: PriceBook, units: str, program: ReadProgram) -> tuple[str, ...]:
    notes = []
    chip = chip_of(asked)
    if chip is not None and chips()[chip]["platform_confidence"] < _SURE:
        notes.append(f"assumed: {chip} dispatches as compiler platform {book.platform}")
    if book.confidence < _SURE:
        notes.append(f"assumed: prices of {book.platform}: {book.note}")
    if units == "ALL":
        notes.append("the GPU is left out: no GPU price is known; planned as CPU_AND_NE")
    if any(not op.facts.output.is_static for op in program.ops):
        notes.append("sizes not known before the program runs are counted as 1 in every figure")
    op_types = {op.facts.op_type for op in program.ops}
    notes += [*price_caveats(op_types), *evidence_notes(op_types)]
    if not program.ops:
        notes.append("the program has no operators")
    return tuple(notes)


def _reading(
    able: Sequence[Capability], devices: Sequence[str], prices: Sequence[dict[str, float | None]]
) -> Iterator[str]:
    """How to read a plan that leaves the ANE out although it could run operators."""
    possible = sum(entry.ane for entry in able)
    if possible and "ane" not in devices:
        whole = sum(cpu_price(entry) for entry in prices)
        yield (
            f"the ANE could run {possible} of {len(able)} operators; they stay on the CPU because "
            f"the whole program costs {whole:.3f} ms there, and going to the ANE and back "
            f"{2 * switch_ms():.3f} ms: for a program this small that is no loss"
            if whole <= 2 * switch_ms()
            else f"the ANE could run {possible} of {len(able)} operators; what that would save is "
            "less than the switches cost"
        )
