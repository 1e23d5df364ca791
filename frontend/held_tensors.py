"""Tensors that a model holds outside of its modules' tables, while an export records.

An exporter puts stand-ins in the place of the parameters and buffers that modules have in their
tables. A cache object, a list or a closure that holds the same tensor still holds the real one,
which would be recorded as a constant: read as it was, and refused when it is written. Here every
operator that is given such a tensor gets the stand-in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from frontend.branches.trace import storage_id, written_arguments
from frontend.object_tree import held_tensors
from frontend.surroundings import without_inference

_Table = dict[str, Tensor | None]


class HeldTensors(TorchFunctionMode):
    """Inside, operators see the exporter's stand-ins for the tensors of ``model``.

    Also, what is switched on or off of gradients takes effect but is not recorded: a program for
    inference has none, and the exporter would make a subgraph of every region.

    Args:
        model: the module that is exported; its tables hold the real tensors now.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._homes: dict[int, tuple[_Table, str, Tensor]] = {}
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None and _has_memory(tensor):
                        self._homes.setdefault(storage_id(tensor), (table, name, tensor))  # type: ignore[arg-type]

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls ``func`` with the tensors that the exporter knows."""
        if func is torch._C._set_grad_enabled:
            with torch._C.DisableTorchFunction():
                return func(*args)
        return func(*self._traced(args), **self._traced(kwargs or {}))

    def stand_in(self, tensor: Tensor) -> Tensor:
        """What the exporter knows ``tensor`` as; itself where it is no tensor of the model."""
        if isinstance(tensor, FakeTensor) or not _has_memory(tensor):
            return tensor
        home = self._homes.get(storage_id(tensor))
        if home is None:
            return without_inference(tensor)
        table, name, real = home
        known = table.get(name)
        if known is None or known is real or isinstance(tensor, FakeTensor):
            return tensor
        return known if _same_place(tensor, real) else _view_like(tensor, real)(known)

    def _traced(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.stand_in(value)
        if type(value) in (tuple, list):
            return type(value)([self._traced(part) for part in value])
        if type(value) is dict:
            return {key: self._traced(part) for key, part in value.items()}
        return value


def written_constants(program: ExportedProgram, model: nn.Module) -> dict[str, Tensor]:
    """Tensors outside of any buffer that ``program`` writes in place, with a name for each.

    Args:
        program: as ``torch.export`` returned it, before decomposition.
        model: the module it came from; paths within it make the names, such as ``cache_keys``.
    """
    signature = program.graph_signature
    targets = {
        spec.arg.name: str(spec.target)
        for spec in signature.input_specs
        if spec.kind is InputKind.CONSTANT_TENSOR
    }
    homes = {
        storage_id(node.meta["val"]): targets[node.name]
        for node in program.graph.find_nodes(op="placeholder")
        if node.name in targets
    }
    written = {
        homes[storage]
        for node in program.graph.nodes
        for storage in _written_storages(node)
        if storage in homes
    }
    if not written:
        return {}
    paths = {
        storage_id(tensor): path for path, tensor in held_tensors(model) if _has_memory(tensor)
    }
    found: dict[str, Tensor] = {}
    for target in sorted(written):
        tensor = program.constants[target]
        if not isinstance(tensor, Tensor) or isinstance(tensor, FakeTensor):
            continue
        path = paths.get(storage_id(tensor), target)
        # Several views of one memory are one state.
        found[re.sub(r"\W", "_", path)] = tensor if tensor._base is None else tensor._base
    return found


def adopt(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Makes buffers of ``model`` of ``tensors``; attributes that hold them make way."""
    for name, tensor in tensors.items():
        if isinstance(held := vars(model).get(name), Tensor) and _same_memory(held, tensor):
            del vars(model)[name]
        while hasattr(model, name):
            name += "_state"
        model._buffers[name] = tensor
        model._non_persistent_buffers_set.discard(name)


def _written_storages(node: fx.Node) -> list[int]:
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    values = (argument.meta.get("val") for argument in written_arguments(node))
    return [storage_id(value) for value in values if isinstance(value, Tensor)]


def _has_memory(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not tensor.is_meta
        and not tensor.is_nested
        and not torch.utils._python_dispatch.is_traceable_wrapper_subclass(tensor)
        and not is_lazy(tensor)
    )


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return storage_id(a) == storage_id(b) and _same_place(a, b)


def _same_place(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.stride(), a.storage_offset(), a.dtype) == (
        b.shape, b.stride(), b.storage_offset(), b.dtype
    )  # fmt: skip


def _view_like(view: Tensor, base: Tensor) -> Callable[[Tensor], Tensor]:
    """What makes of ``base`` a ``view`` of its memory: selected, narrowed and permuted axes.

    Whatever is neither those nor a plain reshape is taken by its strides.
    """
    if view.dtype is not base.dtype:
        return lambda known: known.view(view.dtype)
    if view.numel() == base.numel() and view.is_contiguous() and base.is_contiguous():
        return lambda known: known.view(view.shape)
    rest = int(view.storage_offset() - base.storage_offset())
    starts = {}
    for axis in sorted(range(base.dim()), key=base.stride, reverse=True):
        step = max(1, base.stride(axis))
        starts[axis], rest = divmod(rest, step)
    axes = {base.stride(axis): axis for axis in range(base.dim()) if base.shape[axis] > 1}
    wanted = [axes.get(stride) for stride in view.stride()]
    fits = (
        rest == 0
        and None not in wanted
        and len(set(wanted)) == view.dim()
        and all(
            starts[axis] + size <= base.shape[axis]
            for axis, size in zip(wanted, view.shape, strict=True)
            if axis is not None
        )
        and all(start < base.shape[axis] for axis, start in starts.items())
    )
    if not fits:
        offset = view.storage_offset()
        return lambda known: known.as_strided(view.shape, view.stride(), offset)

    def make(known: Tensor) -> Tensor:
        kept = [axis for axis in range(base.dim()) if axis in wanted]
        for axis in reversed(range(base.dim())):
            if axis not in wanted:
                known = known.select(axis, starts[axis])
            elif (size := view.shape[wanted.index(axis)]) < base.shape[axis]:
                known = known.narrow(axis, starts[axis], size)
        return known.permute([kept.index(axis) for axis in wanted if axis is not None])

    return make
