"""From a captured or optimised program to a Core ML model."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import coremltools as ct
import torch
from coremltools.converters.mil.mil import Builder, Var, types
from coremltools.converters.mil.mil.block import InvalidBlockStateError
from torch.export import ExportedProgram

from frontend.capturing import capture
from frontend.compressed import settle_weights, with_encodings
from frontend.errors import AnePassesError
from frontend.late_code import late_code
from frontend.legalize import to_cpu_float32
from frontend.program import Draft
from lowering.conversion.builder import Lowering, MilBuilder
from lowering.conversion.classifier import completed_classifier
from lowering.conversion.composites import Composite
from lowering.conversion.composites_ane import ANE_COMPOSITES
from lowering.conversion.compressed_weights import compressed_weights
from lowering.conversion.distinct_outputs import distinct_outputs
from lowering.conversion.exact_batch_norm import exact_batch_norms
from lowering.conversion.fast_coremltools import fast_coremltools
from lowering.conversion.host_order import host_work_together
from lowering.conversion.input_shapes import Sizes, check_enumerated
from lowering.conversion.interface import check_interface, check_names, warn_of_renamed
from lowering.conversion.io_types import (
    FloatType,
    check_states,
    input_types,
    output_types,
    state_types,
)
from lowering.conversion.metadata import describe
from lowering.conversion.pinned import PinnedPrecision
from lowering.conversion.prepare import Prepared, prepare
from lowering.conversion.prompt_manifest import prompt_manifest
from lowering.conversion.registry import installed
from lowering.conversion.sound_passes import GUARDS, guarded
from lowering.conversion.sound_passes.positions import Positions
from lowering.conversion.sound_passes.precision import precision_guards
from lowering.conversion.state_order import states_stored_early
from lowering.conversion.stock_failure import stock_failure
from lowering.conversion.stored_states import StateStartWarning, StoredState
from lowering.conversion.tails import ranks_boxes
from lowering.conversion.tiny_constants import warn_of_tiny_constants
from lowering.conversion.torch_ops import TORCH_OPS
from lowering.conversion.unsupported import unsupported_ops
from lowering.conversion.wide_integers import check_integers
from lowering.errors import CompositeError, LoweringError, UnsupportedOpsError
from lowering.support.quiet import quiet_coremltools
from lowering.support.temporary import not_written


class WrittenInputWarning(UserWarning):
    """The model changes its caller's tensors, and the package will not."""


# What coremltools raises for programs it cannot take, from its checks and from its passes.
_COREMLTOOLS_ERRORS = (
    ValueError,
    TypeError,
    RuntimeError,
    LookupError,
    AssertionError,
    AttributeError,
    OSError,
    InvalidBlockStateError,
)
# coremltools keeps its registry, its name counter and its block stack per process.
_CONVERSION = threading.RLock()


@late_code()
def convert(
    model: torch.nn.Module | ExportedProgram,
    example_inputs: Sequence[Any] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
    minimum_deployment_target: ct.target = ct.target.iOS17,
    compute_precision: object = ct.precision.FLOAT16,
    compute_units: ct.ComputeUnit = ct.ComputeUnit.CPU_AND_NE,
    inputs: Sequence[ct.TensorType | ct.ImageType] | None = None,
    outputs: Sequence[ct.TensorType | ct.ImageType | str] | None = None,
    sizes: Sizes | None = None,
    states: Sequence[ct.StateType] = (),
    composites: Sequence[Composite] = (),
    exact_outputs: Sequence[str] = (),
    pass_pipeline: ct.PassPipeline | None = None,
    classifier_config: ct.ClassifierConfig | None = None,
    skip_model_load: bool = False,
    allow_wide_integers: bool = False,
    progress: bool = False,
) -> ct.models.MLModel:
    """Convert a program to an ML Program; names and order of inputs and outputs are kept.

    Args:
        model: an ``OptimizedModel``, an ``ExportedProgram`` or any ``nn.Module``; the last two are
            captured as they are, without ANE passes.
        example_inputs: positional inputs for capturing an ``nn.Module``.
        kwargs: keyword inputs for capturing an ``nn.Module``.
        dynamic_shapes: as in ``torch.export.export``; each ``Dim`` becomes a ``RangeDim``.
            Entries may be left out.
        minimum_deployment_target: iOS16 or later; buffers that the model writes need iOS18.
        compute_precision: ``FLOAT16``, ``FLOAT32`` or an op selector
            (``ct.transform.FP16ComputePrecision``). Float inputs and outputs are float16 with
            ``FLOAT16``, as the first op would round them anyway, and float32 otherwise. Angles,
            positions and coordinates are computed in float32 all the same, and float inputs from
            which they are, such as a timestep, stay float32.
        compute_units: what ``predict`` on a Mac may use. Not stored in the package. The default
            keeps the GPU out: with it Core ML may prefer the GPU for parts and switch back and
            forth (*documented*: ``MLComputeUnits``).
        inputs: types that replace the program's, by name or position: ``EnumeratedShapes``,
            ``RangeDim``, ``ImageType``, a dtype. What a type leaves open comes from the program.
        outputs: types or names that replace the program's, likewise.
        sizes: the sizes that each ``Dim`` of ``dynamic_shapes`` may have, by its name, such as
            ``{"tokens": [64, 128]}``. The package then takes these and their combinations only
            (``EnumeratedShapes``), for which Core ML may use the ANE (*documented*: coremltools
            guide); with a range it does not. Several dynamic inputs need iOS18.
        states: types of the states; by default one float16 state per written buffer.
        composites: lowerings for custom operators, see :mod:`lowering.conversion.composites`.
        exact_outputs: names of outputs, such as boxes and their scores, that are float32 in a
            float16 package, and computed so from the last layers on.
        pass_pipeline: coremltools' MIL passes; its default pipeline when absent.
        classifier_config: class labels, as in ``ct.convert``.
        skip_model_load: do not compile the model on a Mac after conversion.
        allow_wide_integers: convert a program whose integers go beyond int32 on the example inputs;
            constants are then held within, and arithmetic wraps around.
        progress: show coremltools' progress bars.

    Returns:
        The model, with its making described in ``user_defined_metadata``.

    Raises:
        UnsupportedOpsError: operators without a lowering, all of them at once.
        WideIntegerError: the program computes with integers beyond int32.
        LoweringError: the program cannot be a Core ML model; says where and why.
    """
    if minimum_deployment_target < ct.target.iOS16:
        raise LoweringError(
            "packages of this kind start with iOS16",
            expected="minimum_deployment_target=ct.target.iOS16 or later",
            found=minimum_deployment_target.name,
        )
    program = program_of(model, example_inputs, kwargs, dynamic_shapes)
    check_states(program, minimum_deployment_target, states)
    _warn_of_written_inputs(program)
    table = lowering_table(composites)
    is_fp16 = _is_fp16(compute_precision)
    prepared = prepare(
        program,
        fp16=is_fp16,
        states_given=[state.name for state in states],
        boxes=minimum_deployment_target >= ct.target.iOS18,
    )
    if not allow_wide_integers:
        check_integers(program)
    _warn_of_starts(prepared.stored)
    if compute_precision == ct.precision.FLOAT16:
        warn_of_tiny_constants(prepared.program.graph)
    missing = unsupported_ops(prepared.program.graph, table)
    if missing:
        raise UnsupportedOpsError(missing)
    mlmodel = lower(
        prepared,
        table,
        inputs=inputs,
        outputs=outputs,
        sizes=sizes,
        exact_outputs=exact_outputs,
        progress=progress,
        states=state_types(prepared, states) or None,
        minimum_deployment_target=minimum_deployment_target,
        compute_precision=compute_precision,
        compute_units=compute_units,
        pass_pipeline=copy.deepcopy(pass_pipeline),  # coremltools removes passes from it
        classifier_config=classifier_config,
        skip_model_load=skip_model_load,
    )
    describe(mlmodel, prepared, getattr(model, "pipeline", ()), getattr(model, "reports", ()))
    return mlmodel


def _warn_of_written_inputs(program: ExportedProgram) -> None:
    written = sorted(program.graph_signature.user_inputs_to_mutate.values())
    if written:
        warnings.warn(
            f"the model writes to its inputs {', '.join(map(repr, written))} in place; the package "
            "computes with the new values and leaves the caller's as they are. Return them if "
            "they are wanted",
            WrittenInputWarning,
            stacklevel=3,
        )


def _warn_of_starts(states: Sequence[StoredState]) -> None:
    started = [state for state in states if state.flag]
    if started:
        warnings.warn(
            f"written buffers {', '.join(repr(state.buffer) for state in started)} do not start at "
            f"zero, as the states of Core ML do; the package has a further state "
            f"{started[0].flag!r}, zero before the first call, and starts at their values, exactly",
            StateStartWarning,
            stacklevel=3,
        )


def program_of(
    model: torch.nn.Module | ExportedProgram,
    example_inputs: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
) -> ExportedProgram:
    """The ATEN program of an OptimizedModel, an ExportedProgram or an nn.Module."""
    program = getattr(model, "program", model)
    if isinstance(program, ExportedProgram) and program.dialect == "ATEN":
        # MIL is built in float32; coremltools rounds to the compute precision at the end.
        draft = Draft(to_cpu_float32(with_encodings(program)))
        settle_weights(draft)
        return draft.close()
    return capture(program, example_inputs, kwargs=kwargs, dynamic_shapes=dynamic_shapes)


def lowering_table(composites: Sequence[Composite] = ()) -> dict[Any, Lowering]:
    """Operator overload to lowering: the user's composites win over ours."""
    ours = {**TORCH_OPS, **{composite.op: composite.lower for composite in ANE_COMPOSITES}}
    table: dict[Any, Lowering] = {}
    for composite in composites:
        if not isinstance(composite, Composite):
            raise CompositeError(
                "composites= takes what the @composite decorator returns",
                found=type(composite).__name__,
            )
        if composite.op in table:
            raise CompositeError("two composites bind the same operator", op=str(composite.op))
        table[composite.op] = composite.lower
    return {**ours, **table}


def lower(
    prepared: Prepared,
    table: Mapping[Any, Lowering],
    *,
    compute_precision: object = ct.precision.FLOAT16,
    inputs: Sequence[ct.TensorType | ct.ImageType] | None = None,
    outputs: Sequence[ct.TensorType | ct.ImageType | str] | None = None,
    sizes: Sizes | None = None,
    exact_outputs: Sequence[str] = (),
    progress: bool = False,
    classifier_config: ct.ClassifierConfig | None = None,
    minimum_deployment_target: ct.target,
    **options: object,
) -> ct.models.MLModel:
    """A prepared program as an ML Program; ``options`` are those of ``ct.convert``.

    Raises:
        LoweringError: a type does not fit, an operator has no lowering for its arguments, or
            coremltools refuses the program.
    """
    # An op selector leaves some of the weights float16.
    is_half = compute_precision != ct.precision.FLOAT32
    compute_precision = _with_exact(compute_precision, prepared, exact_outputs)
    float_type = _float_type(compute_precision)
    taken = input_types(prepared, inputs, float_type, sizes)
    check_enumerated(taken, minimum_deployment_target)
    given = output_types(prepared, outputs, float_type)
    names = [kind.name for kind in given]
    check_names([*(kind.name for kind in taken), *prepared.states()], "inputs")
    check_names(names, "outputs")
    classifier = completed_classifier(classifier_config, prepared, given)
    options = {
        **options,
        "convert_to": "mlprogram",
        "classifier_config": classifier,
        "compute_precision": compute_precision,
        "minimum_deployment_target": minimum_deployment_target,
        "inputs": copy.deepcopy(taken) or None,  # coremltools renames in what it is given
        "outputs": copy.deepcopy(given),
    }
    graph = prepared.program.graph
    returned: set[int] = set()
    by_node = dict.fromkeys(prepared.output_nodes, _output(returned))
    with _CONVERSION, quiet_coremltools(progress=progress):
        Builder.name_count.clear()  # a failed conversion leaves its counts behind
        try:
            with (
                installed(graph, table, by_node),
                guarded((*GUARDS, *precision_guards(Positions(prepared.exact, prepared.small)))),
                exact_batch_norms(),
                compressed_weights(prepared.program, minimum_deployment_target, fp16=is_half),
                fast_coremltools(),
                states_stored_early(),
                host_work_together(),
                distinct_outputs(names, classifier),
                prompt_manifest(),
            ):
                mlmodel = ct.convert(prepared.program, **options)
        except AnePassesError:
            raise
        except _COREMLTOOLS_ERRORS as error:
            raise not_written(error) or stock_failure(error, graph) from error
    check_interface(mlmodel, prepared, taken, given, classifier)
    warn_of_renamed([kind.name for kind in taken], "inputs")
    warn_of_renamed(names, "outputs")
    return mlmodel


def _is_fp16(compute_precision: object) -> bool:
    """Whether floats become float16 in general; an op selector of the user's is not asked."""
    if isinstance(compute_precision, PinnedPrecision):
        return True
    return bool(compute_precision == ct.precision.FLOAT16)


def _with_exact(compute_precision: object, prepared: Prepared, exact: Sequence[str]) -> object:
    """``compute_precision`` with what must stay in float32 in it, where it is float16."""
    unknown = [name for name in exact if name not in prepared.outputs]
    if unknown:
        raise LoweringError(
            "exact_outputs= names what the model does not return",
            expected=", ".join(prepared.outputs),
            found=", ".join(unknown),
        )
    if compute_precision == ct.precision.FLOAT16:
        if not exact and not ranks_boxes(prepared.program.graph):
            return compute_precision
        compute_precision = PinnedPrecision(())
    if isinstance(compute_precision, PinnedPrecision):
        compute_precision.keep_exact({name: prepared.outputs.index(name) for name in exact})
    return compute_precision


def _float_type(compute_precision: object) -> FloatType:
    if isinstance(compute_precision, PinnedPrecision):
        return compute_precision.float_type
    chosen: type = types.fp16 if _is_fp16(compute_precision) else types.fp32
    return lambda name: chosen


def _output(returned: set[int]) -> Lowering:
    """A lowering for outputs: a value that is an input, or returned already, gets a copy."""

    def output(mb: MilBuilder, value: Var) -> Var:
        if value.op is None or id(value) in returned:
            value = mb.identity(x=value)
        returned.add(id(value))
        return value

    return output
