"""What operators give for fake tensors: shapes and dtypes without numbers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode


def fake_call(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], mode: FakeTensorMode | None
) -> Any:
    """The fake value of one call whose node arguments carry ``meta["val"]``."""
    args, kwargs = fx.map_arg((args, kwargs), lambda node: node.meta["val"])
    if mode is None:
        return target(*args, **kwargs)
    with ExitStack() as stack:
        stack.enter_context(mode)
        if not _is_static((args, kwargs)):
            # Else torch's compiled decompositions, as of a padding, make sizes numbers, unsaid.
            stack.enter_context(enable_python_dispatcher())
        return target(*args, **kwargs)


def fake_constant(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """The fake value that stands for a constant: its sizes, which are fixed, strides and dtype.

    Torch's own conversion also makes the tensor that it is a view of: ten times the seconds.
    """
    is_plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided
    if not is_plain or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        return mode.from_tensor(tensor, static_shapes=True)
    with mode:
        return torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )


class FakeCalls:
    """Fake calls that remember: equal operators on equal static shapes are computed once.

    A head split repeats the same few operators hundreds of times, and a fake einsum costs
    milliseconds.
    """

    def __init__(self, mode: FakeTensorMode | None) -> None:
        self._mode = mode
        self._known: dict[Hashable, Any] = {}

    def __call__(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """As ``fake_call``."""
        try:
            key = (target, _signature(args), _signature(kwargs))
        except _SymbolicError:
            return fake_call(target, args, kwargs, self._mode)
        if key not in self._known:
            self._known[key] = fake_call(target, args, kwargs, self._mode)
        return self._known[key]


def _is_static(value: object) -> bool:
    try:
        _signature(value)
    except _SymbolicError:
        return False
    return True


class _SymbolicError(Exception):
    """A size is no number."""


def _signature(value: object) -> Hashable:
    """What decides the fake value of a call: types, numbers, shapes, strides and dtypes.

    Raises:
        _SymbolicError: a size is a symbol.
    """
    if isinstance(value, fx.Node):
        return _signature(value.meta["val"])
    if isinstance(value, torch.Tensor):
        if any(not isinstance(size, int) for size in (*value.shape, *value.stride())):
            raise _SymbolicError
        return (tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(_signature(part) for part in value)
    if isinstance(value, dict):
        return tuple((name, _signature(part)) for name, part in sorted(value.items()))
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        raise _SymbolicError
    return (type(value), value)
