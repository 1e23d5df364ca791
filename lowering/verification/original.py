"""The torch side of a verification: what to run, on what, and what the package was made from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from frontend.capturing import capture
from frontend.errors import AnePassesError
from frontend.keras_models import for_inference
from frontend.legalize import to_cpu_float32
from frontend.structure import flatten
from lowering.conversion.metadata import PIPELINE_KEY
from lowering.verification import fx_values
from passes.base import Pass
from passes.order import check_order
from passes.patterns.nodes import is_tensor
from passes.pipeline import PassReport
from passes.pipeline import run as run_passes
from passes.pipeline_text import from_json

# From both sides' outputs by name to two tensors that are close where the output is as good: the
# numbers of the best classes, for one, may change places where two are equally good.
Judge: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], tuple[Tensor, Tensor]]

# What torch raises for operators that have no half-precision kernel, and for mixed dtypes.
HALF_ERRORS = (RuntimeError, NotImplementedError, TypeError, ValueError)


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
        buffers: values of written buffers before the call, where they are not those the model
            starts with; by qualified name.
        images: what the package is given for inputs that it takes as pictures: images of PIL, by
            name. Without one the package gets the picture that comes nearest to the tensor.
        judges: outputs whose own numbers must not be compared, by name; see ``Judge``.
    """

    program: ExportedProgram
    captured: ExportedProgram | None
    module: nn.Module | None
    pipeline: tuple[Pass, ...]
    leaves: tuple[Any, ...]
    reports: tuple[PassReport, ...] = ()
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    images: Mapping[str, object] = field(default_factory=dict)
    judges: Mapping[str, Judge] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        against: nn.Module | ExportedProgram | Original,
        inputs: object = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        pipeline: Sequence[Pass] | None = None,
        metadata: Mapping[str, str] | None = None,
        known_passes: Sequence[type[Pass]] = (),
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
            known_passes: classes of your own passes that it may name.
            dynamic_shapes: as for ``capture``, for a package whose sizes are not all fixed.

        Raises:
            VerificationError: inputs do not fit.
            PipelineTextError: the passes cannot be told from the metadata.
        """
        if isinstance(against, Original):
            return against
        optimized = getattr(against, "program", None)
        if isinstance(optimized, ExportedProgram):
            program = to_cpu_float32(optimized)
            return cls(program, None, None, (), _leaves(program, inputs, kwargs))
        if isinstance(against, nn.Module):
            against = for_inference(against)
        captured = capture(against, inputs, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
        steps = passes_of(pipeline, metadata, known_passes)
        program, reports = run_passes(captured, steps) if steps else (captured, ())
        if isinstance(against, nn.Module):
            example = captured.example_inputs
            leaves = _detached(pytree.tree_leaves(example))
            return cls(to_cpu_float32(program), captured, against, steps, leaves, reports)
        leaves = _leaves(captured, inputs, kwargs)
        return cls(to_cpu_float32(program), captured, None, steps, leaves, reports)

    def with_inputs(self, arrays: Mapping[str, object]) -> Original:
        """The same on other inputs, by name; those not named stay.

        Raises:
            VerificationError: an input is unknown or of another shape.
        """
        images = {name: image for name, image in self.images.items() if name not in arrays}
        return replace(self, leaves=_replaced(self.program, self.leaves, arrays), images=images)

    def called(self, inputs: object) -> Original:
        """The same on other inputs: positional ones, or a mapping by name.

        Raises:
            VerificationError: they do not fit.
        """
        if isinstance(inputs, Mapping):
            return self.with_inputs(inputs)
        return replace(self, leaves=_leaves(self.first, inputs, None), images={})

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
        states, outputs = self.results()
        return states, self.called_module(self.private_module(), outputs)

    def in_half(self) -> list[Tensor] | None:
        """Outputs of the original run by torch in half precision; ``None`` where it cannot be."""
        try:
            module = self.private_module(half=True)
            if module is not None:
                return self.module_outputs(module, half=True)
            return self.results(half=True)[1]
        except HALF_ERRORS:
            return None

    def private_module(self, *, half: bool = False) -> nn.Module | None:
        """A copy of the module for inference on the CPU; calls leave the user's buffers alone."""
        return None if self.module is None else private_copy(self.module, half=half)

    def results(self, *, half: bool = False) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Written buffers by name and tensor outputs, of the program."""
        program = self.first
        leaves = [halved(leaf) for leaf in self.leaves] if half else self.leaves
        weights = halved if half else (lambda tensor: tensor)
        found = fx_values.run(program, leaves, weights=weights, buffers=self.buffers)
        nodes: Any = program.graph.output_node().args[0]
        by_node = dict(zip(nodes, found, strict=True))
        states, outputs = fx_values.returned(program)
        return {name: by_node[node] for name, node in states.items()}, [by_node[n] for n in outputs]

    def module_outputs(self, module: nn.Module, *, half: bool = False) -> list[Tensor]:
        """The tensors that a copy of the module returns; it keeps what it writes to itself."""
        return tensor_outputs(module, self.leaves, self.first.call_spec.in_spec, half=half)

    def called_module(self, module: nn.Module | None, outputs: list[Tensor]) -> list[Tensor]:
        """What a float32 copy of the module returns; ``outputs``, the program's, without one.

        A module that casts to half precision itself cannot be run in float32; its program,
        captured from it and cast as a whole, can.
        """
        if module is None:
            return outputs
        try:
            return self.module_outputs(module)
        except HALF_ERRORS:
            return outputs


def passes_of(
    pipeline: Sequence[Pass] | None,
    metadata: Mapping[str, str] | None,
    known_passes: Sequence[type[Pass]] = (),
) -> tuple[Pass, ...]:
    """The passes a package was made with: ``pipeline``, or else those that its metadata names.

    Raises:
        OrderError: they stand in an order that cannot work.
        PipelineTextError: they cannot be told from the metadata.
    """
    if pipeline is not None:
        return check_order(pipeline)
    return from_json((metadata or {}).get(PIPELINE_KEY, "[]"), known_passes)


def private_copy(module: nn.Module, *, half: bool = False) -> nn.Module:
    """A copy of ``module`` for inference on the CPU; calls leave the user's buffers alone."""
    with torch.no_grad():  # coremltools' pruner lets a module compute its weights to be copied
        copied = copy.deepcopy(module, _in_other_dtype(module, half))
        copied = (copied._apply(_halved) if half else copied.float()).cpu()
    for inner in copied.modules():
        inner.training = False  # not eval(): models override it with effects of their own
    return copied


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` in float16, by way of float32 as the weights are; integers stay."""
    is_wide = tensor.is_floating_point() and tensor.dtype is not torch.float16
    return tensor.float().half() if is_wide else tensor


def _in_other_dtype(module: nn.Module, half: bool) -> dict[int, object]:
    """Copies by identity, as deepcopy keeps them, of weights that are not copied as they are."""
    found: dict[int, object] = {}
    for weight in module.parameters():
        if type(weight) is nn.Parameter and weight.is_floating_point():
            cast = weight.detach().float()
            cast = cast.half() if half else cast
            if cast.dtype is not weight.dtype:
                found[id(weight)] = nn.Parameter(cast, weight.requires_grad)
    return found


def tensor_outputs(
    module: nn.Module, leaves: Sequence[object], spec: pytree.TreeSpec, *, half: bool = False
) -> list[Tensor]:
    """The tensors that a copy of a module returns; it keeps what it writes to itself.

    Args:
        module: from :func:`private_copy`.
        leaves: the flattened call.
        spec: of the call, positional and keyword arguments.
        half: as for the copy.
    """
    dtype = torch.half if half else torch.float32
    # Copies: a model may write to its inputs.
    args, kwargs = pytree.tree_unflatten([_cast(leaf, dtype, fresh=True) for leaf in leaves], spec)
    with torch.no_grad():
        result = module(*args, **kwargs)
    return [leaf for leaf in flatten(result).leaves if isinstance(leaf, Tensor)]


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
        example = _detached(pytree.tree_leaves(program.example_inputs))
        return _replaced(program, example, inputs or {})
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    names = tuple(program.call_spec.in_spec.child(1).context or ())
    given = dict(kwargs or {})
    inputs_of = [spec.arg.name for spec in _user_inputs(program)]
    if not set(given) <= set(names) and set(given) <= set(inputs_of):
        names = tuple(inputs_of)  # dynamic sizes make every argument a positional one
    ordered = {name: given[name] for name in names if name in given}
    leaves = _detached(pytree.tree_leaves((tuple(inputs or ()), ordered)))
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


def halved(value: object) -> Any:
    """``value`` in half precision where it is a tensor of floats, else as it is."""
    return _cast(value, torch.half)


def _detached(leaves: Sequence[object]) -> tuple[object, ...]:
    return tuple(leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves)


def _cast(value: object, dtype: torch.dtype, fresh: bool = False) -> object:
    if not isinstance(value, Tensor):
        return value
    return value.to(dtype if value.is_floating_point() else value.dtype, copy=fresh)
