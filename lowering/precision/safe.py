"""``convert(..., precision="safe")``: float16 but for the fewest operators that it spoils."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import coremltools as ct
from torch import nn
from torch.export import ExportedProgram

from frontend.source import Source
from lowering.conversion.converter import convert, program_of
from lowering.conversion.pinned import PinnedPrecision
from lowering.errors import LoweringError
from lowering.package.dtypes import FP16, FP32
from lowering.package.source_table import SourceTable
from lowering.planner.placement import plan
from lowering.precision.calibration import Sample, samples_of, worst
from lowering.precision.careful import rewritten_carefully
from lowering.precision.choices import chosen_by_chance
from lowering.precision.pins import PINS_KEY, Pin, PinReport
from lowering.precision.reasons import Reasons
from lowering.precision.search import MAX_RUNS, RUNS_FOR_CHANCE, Search
from lowering.reference import LoadedModel, load
from lowering.reference.mixed import MixedProgram
from lowering.verification.original import Original

SAFE = "safe"
PRECISIONS = ("float16", "float32", SAFE)
# Rewrites that leave more of the error than this do not mend what is wrong.
_WORTH_REWRITING = 0.9


class PrecisionWarning(UserWarning):
    """A package is less exact than was asked for, or takes other types to be as exact."""


def convert_in(
    model: nn.Module | ExportedProgram,
    example_inputs: Sequence[object] | None = None,
    *,
    precision: str | None = None,
    calibration: Sequence[object] = (),
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    **options: object,
) -> ct.models.MLModel:
    """Convert in a precision by its name.

    Args:
        model: as for ``convert``.
        example_inputs: as there.
        precision: one of ``PRECISIONS``; by default what ``compute_precision`` among the options
            says, and float16 without it.
        calibration: see :func:`convert_safely`, which alone has a use for it.
        input_ranges: likewise.
        options: as for ``convert``.

    Raises:
        LoweringError: there is no such precision, it is given twice, or the model cannot be
            converted.
    """
    if precision is not None and precision not in PRECISIONS:
        raise LoweringError(
            "there is no such precision", expected=" or ".join(PRECISIONS), found=repr(precision)
        )
    if precision is not None and "compute_precision" in options:
        raise LoweringError(
            "the precision is given twice",
            found=f"precision={precision!r}, compute_precision={options['compute_precision']}",
            hint="give one of the two",
        )
    if precision != SAFE and (calibration or input_ranges):
        raise LoweringError(
            "calibration inputs and ranges of inputs tell what must stay in float32",
            expected=f"precision={SAFE!r} beside them",
            found=f"precision={precision!r}",
        )
    make: Callable[..., ct.models.MLModel] = convert
    if precision == SAFE:
        make = convert_safely
        options |= {"calibration": calibration, "input_ranges": input_ranges}
    elif precision is not None:
        options["compute_precision"] = ct.precision[precision.upper()]
    return make(model, example_inputs, **options)


def convert_safely(
    model: nn.Module | ExportedProgram,
    example_inputs: Sequence[object] | None = None,
    *,
    kwargs: Mapping[str, object] | None = None,
    dynamic_shapes: object = None,
    calibration: Sequence[object] = (),
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    original: Callable[[Mapping[str, str]], Original] | None = None,
    given: Mapping[str, Sequence[str]] | None = None,
    **options: object,
) -> ct.models.MLModel:
    """Convert to float16 and keep in float32 what float16 would spoil.

    The float16 package is run by the interpreter on the example inputs, on the example with its
    whole numbers at the ends of what they may be, and on ``calibration``.
    Where an output is off by more than ``verify`` allows, ``passes.CAREFUL_PASSES`` are tried
    first. Then the program is run with parts of it in float32, which halving narrows down to
    operators none of which can be left out.
    What stays in float32 cannot run on the Neural Engine; the price is told. An input or output
    becomes float32 only where float16 has no room for its own numbers.

    Args:
        model: as for ``convert``.
        example_inputs: as there.
        kwargs: as there.
        dynamic_shapes: as there.
        calibration: further calls to judge the package on: the positional inputs of each, or a
            mapping by name.
        input_ranges: smallest and largest value of inputs, by name; see ``lowering.ranges``.
        original: what the package is judged against, from its metadata; by default the program,
            with its example inputs.
        given: names of what stays in float32, operators as ``pins``, inputs and outputs as
            ``ends``; nothing is searched then.
        options: of ``convert``; not ``compute_precision``.

    Returns:
        The model; ``com.ane-passes.pins`` in its metadata is a :class:`PinReport`.

    Raises:
        LoweringError: the model cannot be converted, or there is nothing to run it on.
        VerificationError: calibration inputs do not fit the model.
        InputError: ``input_ranges`` are none of its inputs.
    """
    if not isinstance(getattr(model, "program", None), ExportedProgram):
        model = program_of(model, example_inputs, kwargs, dynamic_shapes)
    make: Callable[..., ct.models.MLModel] = convert
    made = make(model, **options)
    halves = load(made)
    example, calls = (
        _example(model, calibration)
        if original is None
        else (original(halves.metadata), calibration)
    )
    samples = samples_of(example, halves, calls, input_ranges)
    before = worst(samples, halves)
    price = plan(made).dispatch_ms
    report = PinReport(
        (), (), before, before, price, price, tuple(sample.words for sample in samples)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first conversion has said everything
        if not before <= 1:
            careful = rewritten_carefully(model)
            trial = made if careful is None else make(careful, **options)
            after = worst(samples, load(trial))
            if careful is not None and after < before * _WORTH_REWRITING:
                model, made = careful, trial
                report = replace(report, after=after, price_after=plan(made).dispatch_ms)
        if given is not None:
            kind = PinnedPrecision(given["pins"], given["ends"])
            made = make(model, compute_precision=kind, **options)
            report = _as_given(made, kind, given, samples, report)
        elif not report.after <= 1:
            made, report = _pinned(
                lambda kind: make(model, compute_precision=kind, **options), samples, report, made
            )
    made.user_defined_metadata[PINS_KEY] = report.to_metadata()
    _warn(report)
    return made


def _example(
    model: nn.Module | ExportedProgram, calibration: Sequence[object]
) -> tuple[Original, Sequence[object]]:
    """The first call that the package is judged on, and the others.

    What passes made of a model may be less exact in float16 than the model: it is judged by what
    was captured, where that is known.
    """
    program, captured = getattr(model, "program", model), getattr(model, "captured", None)
    if program.example_inputs is None and not calibration:
        raise LoweringError(
            "the program carries no example inputs, so nothing tells what float16 would spoil",
            hint="pass calibration=[(...), ...], the positional inputs of one call or more",
        )
    first, others = None, calibration
    if program.example_inputs is None:
        first, *others = calibration
    return replace(Original.of(model, first), captured=captured), others


def _pinned(
    make: Callable[[PinnedPrecision], ct.models.MLModel],
    samples: Sequence[Sample],
    unpinned: PinReport,
    made: ct.models.MLModel,
) -> tuple[ct.models.MLModel, PinReport]:
    """The package with pins and what is to be told of it; ``made`` where pins do not help."""
    everything = PinnedPrecision(None, None)
    exact = make(everything)
    halves, mixed = load(made), MixedProgram(load(exact), everything.castable)
    sources = SourceTable.from_metadata(exact.user_defined_metadata)
    judged = [sample for sample in samples if not worst([sample], halves) <= 1]
    ends = _narrowed(halves, mixed.model)
    chance = {sample.words: chosen_by_chance(mixed, ends, sample) for sample in judged}
    unpinned = replace(unpinned, choices=_told(chance, sources))
    # An end that may never come is no reason to settle by float32 what is chance.
    judged = [sample for sample in judged if sample.is_given or not chance[sample.words]]
    if not judged:
        return made, unpinned

    def share_of_ends(chosen: Collection[str]) -> float:
        return worst(judged, mixed.with_halves((), chosen))

    # Only where no operator in float32 would help the package takes or returns float32.
    wide = Search(ends, share_of_ends).pins() if not share_of_ends(ends) <= 1 else ()
    narrow = [name for name in ends if name not in wide]

    def share(chosen: Collection[str]) -> float:
        return worst(judged, mixed.with_halves(chosen, narrow), aimed=True)

    is_chance = all(chance[sample.words] for sample in judged)
    search = Search(mixed.names, share, RUNS_FOR_CHANCE if is_chance else MAX_RUNS)
    names = search.pins()
    if is_chance and search.is_cut_short:
        return made, replace(unpinned, runs=search.runs)
    kind = PinnedPrecision(names, wide, judged=mixed.names)
    pinned = make(kind)
    after = worst(samples, load(pinned))
    if not after < unpinned.after:
        return made, unpinned
    reasons = Reasons(mixed, judged, sources)
    report = replace(
        unpinned,
        pins=_in_order(reasons, names, kind),
        ends=reasons.of_ends(wide),
        after=after,
        price_after=plan(pinned).dispatch_ms,
        runs=search.runs,
        fewest=not search.is_cut_short,
    )
    return pinned, report


def _told(chance: Mapping[str, Collection[str]], sources: SourceTable) -> tuple[str, ...]:
    """The choices of each call in words, with the user's lines."""
    return tuple(
        f"{name} on {words}{f' ({place})' if (place := str(sources.lookup(name))) else ''}"
        for words, names in chance.items()
        for name in names
    )


def _in_order(reasons: Reasons, names: Sequence[str], kind: PinnedPrecision) -> tuple[Pin, ...]:
    """What stays in float32, in program order: what was found, and what follows from that."""
    found = {pin.op: pin for pin in reasons.of_operators(names)}
    found |= {
        name: Pin(name, op_type, reasons.sources.lookup(name), "it passes on numbers in float32")
        for name, op_type in kind.followed.items()
    }
    return tuple(found[name] for name in kind.castable if name in found)


def _as_given(
    made: ct.models.MLModel,
    kind: PinnedPrecision,
    given: Mapping[str, Sequence[str]],
    samples: Sequence[Sample],
    unpinned: PinReport,
) -> PinReport:
    """What is to be told of a package whose pins were given.

    Raises:
        LoweringError: the program has nothing of these names.
    """
    loaded = load(made)
    types = dict.fromkeys(loaded.inputs, "input") | dict.fromkeys(loaded.outputs, "output")
    unknown = [name for name in given["pins"] if name not in kind.castable]
    unknown += [name for name in given["ends"] if name not in types]
    if unknown:
        raise LoweringError(
            "what is to stay in float32 is not in the program",
            expected="names of operators, inputs and outputs",
            found=", ".join(unknown),
            hint="leave pins and ends out of the contract's precision, and they are found",
        )
    ops = {op.name: op.type for op in loaded.ops}
    sources, why = SourceTable.from_metadata(made.user_defined_metadata), "as given"
    return replace(
        unpinned,
        pins=tuple(
            Pin(name, ops.get(name, "operator"), sources.lookup(name), why)
            for name in given["pins"]
        ),
        ends=tuple(Pin(name, types[name], Source(), why) for name in given["ends"]),
        after=worst(samples, loaded),
        price_after=plan(made).dispatch_ms,
    )


def _narrowed(halves: LoadedModel, exact: LoadedModel) -> list[str]:
    """Inputs and outputs that are float16 in ``halves`` and float32 in ``exact``."""
    found = []
    for ours, theirs in ((halves.inputs, exact.inputs), (halves.outputs, exact.outputs)):
        found += [
            name
            for name, feature in ours.items()
            if feature.dtype is FP16 and name in theirs and theirs[name].dtype is FP32
        ]
    return found


def _warn(report: PinReport) -> None:
    if report.ends:
        ends = "; ".join(f"{end.op_type} {end.op!r}, for {end.reason}" for end in report.ends)
        warnings.warn(
            f"the package takes or returns float32 where float16 spoils the numbers: {ends}",
            PrecisionWarning,
            stacklevel=4,
        )
    if report.after <= 1:
        return
    how = f"with {len(report.pins)} operators in float32" if report.pins else "in float16"
    how += f", where {report.chance}" if report.choices else ""
    warnings.warn(
        f"the package is off by {report.after:.3g} times what is allowed, {how}; "
        "`verify` says where it parts from the model",
        PrecisionWarning,
        stacklevel=4,
    )
