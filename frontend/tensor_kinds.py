"""The tensors that a program can be made of: dense ones with data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from frontend.errors import CaptureError
from frontend.source import module_path, source_line

_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout)
_GENERATION = "for token by token generation with a cache, see `ane-passes export-llm`"


def check_weights(model: nn.Module) -> None:
    """Refuses what holds no source, or weights that are not dense numbers.

    Raises:
        CaptureError: a TorchScript module, or a parameter or buffer without data or of another
            kind than dense.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            "a TorchScript module has lost the source that capture needs",
            expected="the nn.Module it was scripted or traced from",
            found=type(model).__name__,
            hint="pass the original module",
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise CaptureError(
                "the model has no weights yet",
                op=name,
                expected="a tensor with data",
                found="a parameter whose shape the first call decides",
                hint="call the model once on the example inputs",
            )
        if tensor.is_meta:
            raise CaptureError(
                "the model has no weights yet",
                op=name,
                expected="a tensor with data",
                found="a tensor on the meta device",
                hint="load the weights first, for example with model.to_empty and load_state_dict",
            )
        kind = _other_kind(tensor)
        if kind:
            raise CaptureError(
                "a weight of the model is no dense tensor",
                op=name,
                expected="a dense tensor",
                found=f"a {kind} of shape {_shape(tensor)}",
                hint=f"replace it by its dense form, {_dense(kind)}, and multiply by that",
            )


def check_inputs(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuses inputs that no package can be given.

    Raises:
        CaptureError: an input is sparse, nested or quantised, has no data, or is an object that
            holds tensors in a way that only its class knows; names the argument.
    """
    for path, value in _named(forward, args, kwargs):
        if _is_cache(value):
            raise CaptureError(
                "a cache object cannot be an input of a package",
                op=path,
                expected="tensors, in tuples, lists and dictionaries",
                found=type(value).__qualname__,
                hint=f"leave it out for a model without a cache; {_GENERATION}",
            )
        for key, leaf in pytree.tree_leaves_with_path(value):
            _check_input(path + pytree.keystr(key), leaf)


def check_program(program: ExportedProgram) -> None:
    """Refuses values within a program that are not dense tensors, and constants without data.

    Raises:
        CaptureError: names the operator and its source line, or the constant.
    """
    for name, constant in program.constants.items():
        if isinstance(constant, FakeTensor):
            raise CaptureError(
                "a constant of the program has no data",
                op=name,
                expected="a tensor with data",
                found="what an earlier trace left in an object of the model, such as a cache",
                hint=f"export a model that was not traced before; {_GENERATION}",
            )
    for node in program.graph.nodes:
        for value in _tensors(node.meta.get("val")):
            kind = _other_kind(value)
            if kind:
                raise CaptureError(
                    f"the model computes with a {kind}, and Core ML has dense ones alone",
                    op=str(node.target),
                    module=module_path(node) or None,
                    source=source_line(node) or None,
                    expected="dense tensors",
                    found=f"a {kind} of shape {_shape(value)}",
                    hint=f"compute with the dense form, {_dense(kind)}",
                )


def _check_input(path: str, leaf: object) -> None:
    if isinstance(leaf, Tensor):
        kind = "tensor on the meta device" if leaf.is_meta else _other_kind(leaf)
        if kind:
            raise CaptureError(
                "an example input is no dense tensor with data",
                op=path,
                expected="a dense tensor",
                found=f"a {kind} of shape {_shape(leaf)}",
                hint=f"give the dense form, {_dense(kind)}, which a package is given as well",
            )
    elif not isinstance(leaf, _PLAIN) and not pytree.is_constant_class(type(leaf)):
        raise CaptureError(
            "an example input is an object that capture cannot look into",
            op=path,
            expected="tensors and numbers, in tuples, lists and dictionaries",
            found=type(leaf).__qualname__,
            hint="pass its tensors, and make the object inside forward",
        )


def _named(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterable[tuple[str, Any]]:
    names = list(inspect.signature(forward).parameters)
    return [
        *((names[i] if i < len(names) else f"input {i}", value) for i, value in enumerate(args)),
        *kwargs.items(),
    ]


def _is_cache(value: object) -> bool:
    """Whether it speaks the protocol of transformers' caches."""
    return not isinstance(value, Tensor | nn.Module) and all(
        callable(getattr(type(value), name, None)) for name in ("update", "get_seq_length")
    )


def _other_kind(tensor: Tensor) -> str:
    """What kind of tensor this is, ``""`` for a dense one."""
    if tensor.is_nested:
        return "nested tensor"
    if tensor.layout is not torch.strided:
        return f"{str(tensor.layout).removeprefix('torch._').removeprefix('torch.')} tensor"
    return "quantised tensor" if tensor.is_quantized else ""


def _dense(kind: str) -> str:
    if kind.startswith("nested"):
        return "torch.nested.to_padded_tensor(tensor, 0.0) with a mask"
    if kind.startswith("quantised"):
        return "tensor.dequantize()"
    return "torch.zeros_like on the cpu" if "meta" in kind else "tensor.to_dense()"


def _shape(tensor: Tensor) -> str:
    return "varying lengths" if tensor.is_nested else str(list(tensor.shape))


def _tensors(value: object) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
