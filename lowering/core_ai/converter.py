"""From a captured or optimised program to a Core AI program."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from lowering.conversion.converter import program_of
from lowering.conversion.prepare import Prepared, prepare
from lowering.conversion.wide_integers import check_integers
from lowering.core_ai.asset import PREFIX, CoreAIModel, Port
from lowering.core_ai.decompose import to_core_ai_operators
from lowering.core_ai.halves import in_float16
from lowering.errors import CoreAIError, LoweringError
from passes.pipeline_text import to_json

if TYPE_CHECKING:
    from coreai.authoring import AIProgram

EXTRA = "coreai"
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
    torch_side = _coreai_torch()
    program = program_of(model, example_inputs, kwargs, dynamic_shapes)
    if not allow_wide_integers:
        check_integers(program)
    prepared = prepare(program, fp16=precision == "float16")
    known = frozenset(torch_side._aten_to_core._aten_to_core_resolver)
    plain = to_core_ai_operators(prepared.program, known)
    if precision == "float16":
        plain = in_float16(plain)
    ports = _Ports(plain, prepared)
    return CoreAIModel(
        _lowered(torch_side, plain, ports),
        ports.inputs,
        ports.outputs,
        ports.states,
        _metadata(model, precision),
    )


class _Ports:
    """Inputs, outputs and states of ``program`` by their public names, in order."""

    def __init__(self, program: ExportedProgram, prepared: Prepared) -> None:
        nodes = {node.name: node for node in program.graph.nodes}
        signature = program.graph_signature
        self.inputs = tuple(
            _port(name, nodes[spec.arg.name])
            for name, spec in zip(
                prepared.inputs,
                (s for s in signature.input_specs if s.kind is InputKind.USER_INPUT),
                strict=True,
            )
        )
        self.outputs = tuple(
            _port(name, nodes[spec.arg.name])
            for name, spec in zip(
                prepared.outputs,
                (s for s in signature.output_specs if s.kind is OutputKind.USER_OUTPUT),
                strict=True,
            )
        )
        written = set(signature.buffers_to_mutate.values())
        names = {stored.buffer: stored.name for stored in prepared.stored}
        self.states = tuple(
            _port(
                names.get(str(spec.target), str(spec.target).replace(".", "_")),
                nodes[spec.arg.name],
            )
            for spec in signature.input_specs
            if spec.kind is InputKind.BUFFER and spec.target in written
        )


def _port(name: str, node: fx.Node) -> Port:
    value = node.meta["val"]
    sizes = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    dtype = _NARROWED.get(value.dtype, str(value.dtype).removeprefix("torch."))
    return Port(name, sizes, dtype)


def _lowered(torch_side: ModuleType, program: ExportedProgram, ports: _Ports) -> AIProgram:
    # The other mode writes the paths of source files into the asset (*measured*).
    maker = torch_side.TorchConverter(mode=torch_side.TorchConverter.Mode.RELEASE)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            maker.add_exported_program(
                program,
                input_names=[port.name for port in ports.inputs],
                output_names=[port.name for port in ports.outputs],
                state_names=[port.name for port in ports.states] or None,
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
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
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
        raise CoreAIError(
            "Core AI is not installed",
            found=f"no module {error.name}",
            hint=f'pip install "ane-passes[{EXTRA}]"',
        ) from error
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
