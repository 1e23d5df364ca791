"""The torch side of a verification: what to run, on what, and what the package was made from."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from frontend.capturing import capture
from frontend.errors import AnePassesError
from frontend.legalize import to_cpu_float32
from frontend.structure import flatten
from lowering.conversion.metadata import PREFIX
from lowering.verification import fx_values
from passes.at_sites import AtSites
from passes.base import Pass
from passes.default_pipeline import DEFAULT_PIPELINE
from passes.patterns.nodes import is_tensor
from passes.pipeline import PassReport
from passes.pipeline import run as run_passes

# What torch raises for operators that have no half-precision kernel, and for mixed dtypes.
_HALF_ERRORS = (RuntimeError, NotImplementedError, TypeError, ValueError)


class VerificationError(AnePassesError):
    """The package and what it is held against do not belong together."""


@dataclass(frozen=True)
class Original:
    """What a package is held against. Made once, it serves any number of verifications.

    Attributes:
        program: what the package was converted from, after the passes.
        captured: the program before the passes; ``None`` when only the result is known.
        module: the user's module; ``None`` when there is only a program.
        pipeline: the passes between ``captured`` and ``program``.
        leaves: the flattened inputs, constants included.
        reports: what each of these passes did.
    """

    program: ExportedProgram
    captured: ExportedProgram | None
    module: nn.Module | None
    pipeline: tuple[Pass, ...]
    leaves: tuple[Any, ...]
    reports: tuple[PassReport, ...] = ()

    @classmethod
    def of(
        cls,
        against: nn.Module | ExportedProgram | Original,
        inputs: object = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        pipeline: Sequence[Pass] | None = None,
        metadata: Mapping[str, str] | None = None,
        dynamic_shapes: object = None,
    ) -> Original:
        """The original of a package.

        Args:
            against: an ``OptimizedModel``, an ``nn.Module`` or an ``ExportedProgram``; the last
                two are taken through ``pipeline``.
            inputs: positional inputs, as for ``capture``; a mapping of names to tensors fits all.
            kwargs: keyword inputs.
            pipeline: the passes the package was made with; by default those that ``metadata``
                names.
            metadata: user-defined metadata of the package.
            dynamic_shapes: as for ``capture``, for a package whose sizes are not all fixed.

        Raises:
            VerificationError: inputs do not fit, or the passes cannot be told from the metadata.
        """
        if isinstance(against, Original):
            return against
        optimized = getattr(against, "program", None)
        if isinstance(optimized, ExportedProgram):
            program = to_cpu_float32(optimized)
            return cls(program, None, None, (), _leaves(program, inputs, kwargs))
        captured = capture(against, inputs, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
        steps = tuple(pipeline) if pipeline is not None else passes_named(metadata or {})
        program, reports = run_passes(captured, steps) if steps else (captured, ())
        if isinstance(against, nn.Module):
            example = captured.example_inputs
            leaves = tuple(pytree.tree_leaves(example))
            return cls(to_cpu_float32(program), captured, against, steps, leaves, reports)
        leaves = _leaves(captured, inputs, kwargs)
        return cls(to_cpu_float32(program), captured, None, steps, leaves, reports)

    def with_inputs(self, arrays: Mapping[str, Any]) -> Original:
        """The same on other inputs, by name; those not named stay.

        Raises:
            VerificationError: an input is unknown or of another shape.
        """
        return replace(self, leaves=_replaced(self.program, self.leaves, arrays))

    @property
    def first(self) -> ExportedProgram:
        """The earliest program there is."""
        return self.captured if self.captured is not None else self.program

    def inputs(self) -> dict[str, Tensor]:
        """The tensors among the inputs, by name, in order."""
        return {
            spec.arg.name: leaf
            for spec, leaf in zip(_user_inputs(self.program), self.leaves, strict=True)
            if isinstance(leaf, Tensor) and isinstance(spec.arg, TensorArgument)
        }

    def expected(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What the original computes in float32: written buffers by name, tensor outputs."""
        states, outputs = _results(self.first, self.leaves)
        if self.module is not None:
            try:
                outputs = _called(_private_copy(self.module), self.first, self.leaves)
            except _HALF_ERRORS:
                # It casts to half precision itself and cannot be run in float32; its program,
                # captured from it and cast as a whole, can.
                return states, outputs
        return states, outputs

    def in_half(self) -> list[Tensor] | None:
        """Outputs of the original run by torch in half precision; ``None`` where it cannot be."""
        leaves = tuple(_half(leaf) for leaf in self.leaves)
        try:
            if self.module is not None:
                return _called(_private_copy(self.module).half(), self.first, leaves)
            return _results(self.first, leaves, half=True)[1]
        except _HALF_ERRORS:
            return None


def passes_named(metadata: Mapping[str, str]) -> tuple[Pass, ...]:
    """The pipeline that a package's metadata names.

    Raises:
        VerificationError: it names a pass that is not among the default ones.
    """
    known: dict[str, type[Any]] = {type(step).__name__: type(step) for step in DEFAULT_PIPELINE}
    known[AtSites.__name__] = AtSites

    def value(spelled: ast.expr) -> Any:
        if not isinstance(spelled, ast.Call):
            return ast.literal_eval(spelled)
        assert isinstance(spelled.func, ast.Name)
        return known[spelled.func.id](**{k.arg: value(k.value) for k in spelled.keywords if k.arg})

    steps = []
    for spelled in json.loads(metadata.get(PREFIX + "pipeline", "[]")):
        try:
            call = ast.parse(spelled, mode="eval").body
            assert isinstance(call, ast.Call)
            steps.append(value(call))
        except (SyntaxError, AssertionError, KeyError, ValueError, TypeError) as error:
            raise VerificationError(
                "the package was made with a pass that is not known here",
                found=spelled,
                hint="name the passes: verify(..., pipeline=...)",
            ) from error
    return tuple(steps)


def _user_inputs(program: ExportedProgram) -> list[Any]:
    specs = program.graph_signature.input_specs
    return [spec for spec in specs if spec.kind is InputKind.USER_INPUT]


def _leaves(
    program: ExportedProgram, inputs: Any, kwargs: Mapping[str, Any] | None
) -> tuple[Any, ...]:
    """The flattened call of a program; its own example inputs where none are given."""
    if isinstance(inputs, Mapping) or (inputs is None and not kwargs):
        if program.example_inputs is None:
            raise VerificationError(
                "the program carries no example inputs", hint="pass inputs=(...)"
            )
        example = tuple(pytree.tree_leaves(program.example_inputs))
        return _replaced(program, example, inputs or {})
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    names = tuple(program.call_spec.in_spec.child(1).context or ())
    given = dict(kwargs or {})
    inputs_of = [spec.arg.name for spec in _user_inputs(program)]
    if not set(given) <= set(names) and set(given) <= set(inputs_of):
        names = tuple(inputs_of)  # dynamic sizes make every argument a positional one
    ordered = {name: given[name] for name in names if name in given}
    leaves = tuple(pytree.tree_leaves((tuple(inputs or ()), ordered)))
    if len(leaves) != len(inputs_of) or set(given) - set(names):
        raise VerificationError(
            "the inputs do not fit the program",
            expected=", ".join(inputs_of),
            found=f"{len(leaves)} tensors and values, keywords {sorted(given) or 'none'}",
        )
    return leaves


def _replaced(
    program: ExportedProgram, leaves: Sequence[Any], arrays: Mapping[str, Any]
) -> tuple[Any, ...]:
    names = [spec.arg.name for spec in _user_inputs(program)]
    if set(arrays) - set(names):
        raise VerificationError(
            "there is no such input",
            expected=f"among {', '.join(names)}",
            found=", ".join(sorted(set(arrays) - set(names))),
        )
    placeholders = program.graph.find_nodes(op="placeholder")
    sizes = {node.name: node.meta["val"].shape for node in placeholders if is_tensor(node)}
    result = list(leaves)
    for position, name in enumerate(names):
        if name in arrays:
            result[position] = _like(name, arrays[name], leaves[position], sizes.get(name))
    return tuple(result)


def _like(name: str, given: object, leaf: object, sizes: Sequence[Any] | None) -> object:
    """``given`` in the dtype of ``leaf``, if it has a shape that the program takes."""
    if not isinstance(leaf, Tensor):
        raise VerificationError(f"input {name!r} is fixed", expected=repr(leaf))
    tensor = given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    wanted = tuple(leaf.shape if sizes is None else sizes)
    fits = len(wanted) == tensor.ndim and all(
        not isinstance(size, int) or size == found
        for size, found in zip(wanted, tensor.shape, strict=True)
    )
    if not fits:
        raise VerificationError(
            f"input {name!r} has the wrong shape",
            expected=str(wanted),
            found=str(tuple(tensor.shape)),
        )
    return tensor.to(leaf.dtype)


def _results(
    program: ExportedProgram, leaves: Sequence[Any], half: bool = False
) -> tuple[dict[str, Tensor], list[Tensor]]:
    results = fx_values.run(program, leaves, weights=_half if half else lambda tensor: tensor)
    nodes: Any = program.graph.output_node().args[0]
    by_node = dict(zip(nodes, results, strict=True))
    states, outputs = fx_values.returned(program)
    return {name: by_node[node] for name, node in states.items()}, [by_node[n] for n in outputs]


def _private_copy(module: nn.Module) -> nn.Module:
    """A copy for inference in float32 on the CPU; calls leave the user's buffers alone."""
    copied = copy.deepcopy(module).float().cpu()
    for inner in copied.modules():
        inner.training = False  # not eval(): models override it with effects of their own
    return copied


def _called(module: nn.Module, program: ExportedProgram, leaves: Sequence[Any]) -> list[Tensor]:
    args, kwargs = pytree.tree_unflatten(list(leaves), program.call_spec.in_spec)
    with torch.no_grad():
        result = module(*args, **kwargs)
    return [leaf for leaf in flatten(result).leaves if isinstance(leaf, Tensor)]


def _half(value: object) -> Any:
    return value.half() if isinstance(value, Tensor) and value.is_floating_point() else value
