"""One plain run of a model with every operator seen: for models that cannot be captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frontend import schema
from frontend.branches.ask import find_site
from frontend.branches.trace import storage_id
from frontend.preserve import decomposition_table
from frontend.surroundings import inference_mode


@dataclass(frozen=True)
class EagerOp:
    """One operator call of the run, as `torch.export` would record it.

    Attributes:
        target: the operator.
        args: its positional arguments.
        kwargs: its keyword arguments.
        results: the tensors among its results.
        on_data: an argument depends on the inputs of the model.
        writes_input: it writes to one of the model's inputs in place.
        decomposes: capture takes it apart into other operators.
        module: module path, ``""`` for the top module.
        line: ``file.py:41 code`` of the user's code.
    """

    target: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Tensor, ...]
    on_data: bool
    writes_input: bool
    decomposes: bool
    module: str
    line: str


def run_eagerly(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    see: Callable[[EagerOp], None],
) -> None:
    """Calls ``model`` for inference on copies of the inputs; ``see`` is told each operator.

    Buffers are as they were afterwards. Whatever the model raises is raised.
    """
    args, keywords = torch.utils._pytree.tree_map_only(
        Tensor, lambda tensor: tensor.detach().clone(), (tuple(args), dict(kwargs))
    )
    kept = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    try:
        with inference_mode(model), torch.inference_mode(), _Watch(model, (args, keywords), see):
            model(*args, **keywords)
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in kept and buffer.shape == kept[name].shape and not buffer.is_meta:
                    buffer.copy_(kept[name])


class _Watch(TorchDispatchMode):
    def __init__(self, model: nn.Module, inputs: object, see: Callable[[EagerOp], None]) -> None:
        super().__init__()
        self._model = model
        self._see = see
        self._inputs = {storage_id(tensor) for tensor in _tensors(inputs)}
        self._on_data = set(self._inputs)  # storages whose content depends on the inputs
        self._decomposed = decomposition_table()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Runs ``func`` as it is and tells about it."""
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        given = [storage_id(tensor) for tensor in _tensors((args, kwargs))]
        on_data = not self._on_data.isdisjoint(given)
        for tensor in (made := tuple(_tensors(results))):
            storage = storage_id(tensor)
            if on_data:
                self._on_data.add(storage)
            elif storage not in given:
                self._on_data.discard(storage)  # its memory belonged to another tensor before
        if isinstance(func, torch._ops.OpOverload):
            site = find_site(self._model)
            targets = list(schema.written(func, args, kwargs))
            written = {storage_id(tensor) for tensor in _tensors(targets)}
            self._on_data |= written if on_data else set()
            self._see(
                EagerOp(
                    target=func,
                    args=args,
                    kwargs=kwargs,
                    results=made,
                    on_data=on_data,
                    writes_input=not self._inputs.isdisjoint(written),
                    decomposes=func in self._decomposed or func._can_decompose(),
                    module=site.module,
                    line=site.line,
                )
            )
        return results


def _tensors(values: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
