"""Integers beyond int32, the widest that MIL computes with, are refused before they wrap around."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from frontend.source import source_of
from lowering.conversion.integers import ARITHMETIC
from lowering.errors import LoweringError

_INT32 = torch.iinfo(torch.int32)


class WideIntegerError(LoweringError):
    """The model computes with, or returns, integers that a package has no numbers for."""


def check_integers(program: ExportedProgram) -> None:
    """Run what the program's 64-bit arithmetic needs on its example inputs.

    Sentinels, numbers that are only compared, selected or bounded by, may be as large as they like:
    they are held at the ends of int32, and so is what infinities become. Programs without example
    inputs are looked at for constants in the graph alone.

    Raises:
        WideIntegerError: arithmetic reads or gives an integer outside of int32, or one is returned.
    """
    for node in program.graph.nodes:
        if _computes(node):
            for value in pytree.tree_leaves((node.args, dict(node.kwargs))):
                if isinstance(value, int) and _is_beyond(value):
                    raise _error(node, f"the number {value:,}")
    wanted = _needed(program)
    if wanted and program.example_inputs is not None:
        with torch.no_grad():
            _Run(program, wanted).run(*_leaves(program))


def _computes(node: fx.Node) -> bool:
    value = node.meta.get("val")
    is_int64 = isinstance(value, torch.Tensor) and value.dtype is torch.int64
    return is_int64 and getattr(node.target, "overloadpacket", None) in ARITHMETIC


def _needed(program: ExportedProgram) -> set[fx.Node]:
    """Integer arithmetic, returned integers, and all they are computed from."""
    results = _returned(program)
    pending = [node for node in program.graph.nodes if _computes(node) or node in results]
    needed = set(pending)
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in needed:
                needed.add(source)
                pending.append(source)
    return needed


def _returned(program: ExportedProgram) -> set[fx.Node]:
    """User outputs of 64-bit integers."""
    outputs: Any = program.graph.output_node().args[0]
    found = set()
    for spec, node in zip(program.graph_signature.output_specs, outputs, strict=True):
        if spec.kind is not OutputKind.USER_OUTPUT or not isinstance(node, fx.Node):
            continue
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dtype is torch.int64:
            found.add(node)
    return found


def _leaves(program: ExportedProgram) -> Iterator[Any]:
    """Values of all placeholders, in order."""
    inputs = iter(pytree.tree_leaves(program.example_inputs))
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            yield next(inputs)
        else:
            target = spec.target or ""
            yield program.state_dict.get(target, program.constants.get(target))


class _Run(fx.Interpreter):
    def __init__(self, program: ExportedProgram, needed: set[fx.Node]) -> None:
        super().__init__(program.graph_module, graph=program.graph)
        self._needed, self._returned = needed, _returned(program)

    def run_node(self, n: fx.Node) -> Any:
        """Runs ``n`` where it is needed; its value is held against int32."""
        if n.op in ("call_function", "output") and n not in self._needed:
            return None
        value = super().run_node(n)
        if n.target is torch.ops.aten._to_copy.default and isinstance(value, torch.Tensor):
            value = _held(self.env[n.all_input_nodes[0]], value)
        read = [self.env[source] for source in n.all_input_nodes] if _computes(n) else []
        for tensor in (*read, *([value] if _computes(n) or n in self._returned else [])):
            if isinstance(tensor, torch.Tensor) and tensor.dtype is torch.int64 and tensor.numel():
                low, high = (int(end) for end in tensor.aminmax())
                if _is_beyond(low) or _is_beyond(high):
                    raise _error(n, f"values from {low:,} to {high:,} on the example inputs")
        return value


def _held(source: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value``, ``source`` as integers, infinities and NaN at the ends of int32.

    What integer they become torch leaves open, so that no result can depend on it: T5 counts the
    logarithm of 0 among its buckets, and selects another one in its place.
    """
    if value.dtype is not torch.int64 or not source.is_floating_point():
        return value
    return torch.where(source.isfinite(), value, value.clamp(_INT32.min, _INT32.max))


def _is_beyond(value: int) -> bool:
    return not _INT32.min <= value <= _INT32.max


def _error(node: fx.Node, found: str) -> WideIntegerError:
    origin = source_of(node)
    error = WideIntegerError(
        "an integer lies outside of int32, and a package has none wider",
        op=f"{node.target} ({node.name})",
        module=origin.module,
        source=origin.line,
        expected=f"integers from {_INT32.min:,} to {_INT32.max:,}",
        found=found,
        hint="keep integers below 2**31, compute the hash outside of the model, or give "
        "allow_wide_integers=True to have them wrap around and saturate",
    )
    error.node = node.name
    return error
