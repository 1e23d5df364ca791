"""From a captured or optimised program to a Core AI program."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from frontend.errors import kind_and_line
from lowering.conversion.converter import program_of
from lowering.conversion.prepare import Prepared, prepare
from lowering.conversion.wide_integers import check_integers
from lowering.core_ai.asset import PREFIX, CoreAIModel, Interface, Port
from lowering.core_ai.decompose import to_core_ai_operators
from lowering.core_ai.halves import in_float16
from lowering.core_ai.runtime import not_installed
from lowering.errors import LoweringError
from passes.pipeline_text import to_json

if TYPE_CHECKING:
    from coreai.authoring import AIProgram

PRECISIONS = ("float16", "float32")
# Core AI has no wider numbers (*measured*): what they become.
_NARROWED = {torch.int64: "int32", torch.float64: "float32"}


def convert_to_core_ai(
    model: nn.Module | ExportedProgram,
    example_inputs: Sequence[Any] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
    precision: str = "float16",
    allow_wide_integers: bool = False,
) -> CoreAIModel:
    """Convert a program to Core AI; names and order of inputs and outputs are kept.

    Args:
        model: an ``OptimizedModel``, an ``ExportedProgram`` or any ``nn.Module``; the last two are
            captured as they are, without ANE passes.
        example_inputs: positional inputs for capturing an ``nn.Module``.
        kwargs: keyword inputs for capturing an ``nn.Module``.
        dynamic_shapes: as in ``torch.export.export``. Core AI does not keep the bounds
            (*measured*).
        precision: ``float16`` or ``float32``, of weights, inputs, outputs and arithmetic.
        allow_wide_integers: convert a program whose integers go beyond int32.

    Raises:
        CoreAIError: coreai-torch is not installed.
        UnsupportedOpsError: operators that Core AI does not have, all of them at once.
        LoweringError: the program cannot be a Core AI program.
    """
    if precision not in PRECISIONS:
        raise LoweringError(
            "Core AI programs are made in one of two precisions",
            expected=" or ".join(PRECISIONS),
            found=str(precision),
        )
    program = program_of(model, example_inputs, kwargs, dynamic_shapes)
    if not allow_wide_integers:
        check_integers(program)
    apart = taken_apart(program, precision)
    return CoreAIModel(lowered(apart), apart.interface, _metadata(model, precision))


@dataclass(frozen=True)
class TakenApart:
    """A program in operators that Core AI has.

    Attributes:
        whole: it, in float32.
        program: it, in the precision asked for; nodes have the same names.
        interface: what it takes, returns and keeps.
    """

    whole: ExportedProgram
    program: ExportedProgram
    interface: Interface


def taken_apart(program: ExportedProgram, precision: str) -> TakenApart:
    """``program`` as coreai-torch is to convert it.

    Raises:
        CoreAIError: coreai-torch is not installed.
        UnsupportedOpsError: operators that Core AI does not have, all of them at once.
        LoweringError: the program cannot be a Core AI program.
    """
    half = precision == "float16"
    prepared = prepare(program, fp16=half)
    known = frozenset(_coreai_torch()._aten_to_core._aten_to_core_resolver)
    whole = to_core_ai_operators(prepared.program, known, half=half)
    given = in_float16(whole) if half else whole
    return TakenApart(whole, given, _interface(given, prepared))


def _interface(program: ExportedProgram, prepared: Prepared) -> Interface:
    """Inputs, outputs and states of ``program`` by their public names."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    written = set(signature.buffers_to_mutate.values())
    stored = {entry.buffer: entry.name for entry in prepared.stored}
    buffers = {
        spec.arg.name: str(spec.target)
        for spec in signature.input_specs
        if spec.kind is InputKind.BUFFER and spec.target in written
    }

    def ports(public: Sequence[str], inner: Sequence[str]) -> tuple[Port, ...]:
        return tuple(_port(name, nodes[node]) for name, node in zip(public, inner, strict=True))

    return Interface(
        ports(prepared.inputs, signature.user_inputs),
        ports(prepared.outputs, signature.user_outputs),
        ports([stored.get(b, b.replace(".", "_")) for b in buffers.values()], list(buffers)),
    )


def _port(name: str, node: fx.Node) -> Port:
    value = node.meta["val"]
    sizes = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    dtype = _NARROWED.get(value.dtype, str(value.dtype).removeprefix("torch."))
    return Port(name, sizes, dtype)


def lowered(apart: TakenApart, *, named: bool = False) -> AIProgram:
    """A Core AI program.

    Args:
        apart: what to convert.
        named: each operator keeps the names of the nodes that it comes from, and with them the
            paths of source files: not to be given away.

    Raises:
        LoweringError: coreai-torch cannot convert it.
    """
    torch_side, program, interface = _coreai_torch(), apart.program, apart.interface
    modes = torch_side.TorchConverter.Mode
    maker = torch_side.TorchConverter(mode=modes.DEBUG if named else modes.RELEASE)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            maker.add_exported_program(
                program,
                input_names=[port.name for port in interface.inputs],
                output_names=[port.name for port in interface.outputs],
                state_names=[port.name for port in interface.states] or None,
            )
            made: AIProgram = maker.to_coreai()
            return made
    except (
        ValueError,
        TypeError,
        RuntimeError,
        LookupError,
        AttributeError,
        OverflowError,
    ) as error:
        raise LoweringError(
            "coreai-torch cannot convert the program",
            found=kind_and_line(error),
            hint="convert to a .mlpackage, or write what it names in another way",
        ) from error


def _coreai_torch() -> ModuleType:
    try:
        with warnings.catch_warnings():
            # It warns of torch 2.13.0+cpu as newer than 2.13.0 (*measured*).
            warnings.simplefilter("ignore")
            import coreai_torch
            import coreai_torch._aten_to_core
    except ModuleNotFoundError as error:
        raise not_installed(str(error)) from error
    found: ModuleType = coreai_torch
    return found


def _metadata(model: object, precision: str) -> dict[str, str]:
    made = {
        PREFIX + "version": metadata.version("ane-passes"),
        PREFIX + "torch": metadata.version("torch"),
        PREFIX + "coreai-torch": metadata.version("coreai-torch"),
        PREFIX + "precision": precision,
    }
    pipeline = getattr(model, "pipeline", ())
    return {**made, PREFIX + "pipeline": to_json(pipeline)} if pipeline else made
