"""A Python number that depends on data, while an export records: ``tensor.item()``.

It computes as a tensor of shape (), so that ``x * scale.item()`` needs no value; a comparison is a
decision like any other (``assert lengths.max().item() <= n``). Where Python or torch wants the
number itself, as a size, an index or a ``range``, it is refused.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Refuse = Callable[[str], BaseException]


class DataNumber:
    """The value of a tensor of one element, held as a tensor of shape ().

    Args:
        tensor: of shape (); nobody else may write to it.
        refuse: makes the error for a use that needs the value, from what was asked.
    """

    def __init__(self, tensor: Tensor, refuse: Refuse) -> None:
        self.tensor = tensor
        self._refuse = refuse

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """A torch function of this and other things computes with the tensor."""
        return func(*_tensors(args), **_tensors(kwargs or {}))

    def _compute(self, function: Callable[..., Any], *operands: object) -> object:
        if any(isinstance(x, Tensor) for x in operands):
            return function(*_tensors(operands))
        return DataNumber(function(*_tensors(operands)), self._refuse)

    def _compare(self, function: Callable[..., Any], other: object) -> object:
        if not isinstance(other, Tensor | DataNumber | bool | int | float):
            return NotImplemented
        found = function(*_tensors((self, other)))
        return found if isinstance(other, Tensor) else bool(found)

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return "<a number that depends on data>"

    # Numbers of equal value are found by asking; as a key only the object itself is meant.
    __hash__ = object.__hash__

    def __lt__(self, other: object) -> object:
        return self._compare(operator.lt, other)

    def __le__(self, other: object) -> object:
        return self._compare(operator.le, other)

    def __gt__(self, other: object) -> object:
        return self._compare(operator.gt, other)

    def __ge__(self, other: object) -> object:
        return self._compare(operator.ge, other)

    def __eq__(self, other: object) -> Any:
        return self._compare(operator.eq, other)

    def __ne__(self, other: object) -> Any:
        return self._compare(operator.ne, other)

    def __round__(self, digits: int = 0) -> object:
        if not self.tensor.is_floating_point():
            return self
        return DataNumber(torch.round(self.tensor, decimals=digits), self._refuse)

    def item(self) -> DataNumber:
        """Itself, as of numpy's numbers."""
        return self


def _binary(function: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    def method(self: DataNumber, other: object) -> object:
        if not isinstance(other, Tensor | DataNumber | bool | int | float):
            return NotImplemented
        pair = (other, self) if reflected else (self, other)
        return self._compute(function, *pair)

    return method


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: self._compute(function, self)


def _refused(name: str) -> Callable[..., Any]:
    def method(self: DataNumber, *args: object) -> object:
        raise self._refuse(name)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    _function = getattr(operator, f"__{_name}__")
    setattr(DataNumber, f"__{_name}__", _binary(_function, reflected=False))
    setattr(DataNumber, f"__r{_name}__", _binary(_function, reflected=True))
_UNARY: dict[str, Callable[..., Any]] = {
    "neg": operator.neg,
    "pos": operator.pos,
    "abs": operator.abs,
    "invert": operator.invert,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
}
for _name, _compute in _UNARY.items():
    setattr(DataNumber, f"__{_name}__", _unary(_compute))
for _name, _what in {
    "int": "int()",
    "float": "float()",
    "complex": "complex()",
    "index": "using item() as an index, a size or a range()",
}.items():
    setattr(DataNumber, f"__{_name}__", _refused(_what))


def making_tensors(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` and ``torch.as_tensor`` of such numbers, or of lists with some."""

    @functools.wraps(original)
    def make(
        data: object, *args: object, dtype: torch.dtype | None = None, **kwargs: object
    ) -> Tensor:
        if not any(isinstance(leaf, DataNumber) for leaf in pytree.tree_leaves(data)):
            return original(data, *args, dtype=dtype, **kwargs)
        made = _stacked(_tensors(data), original)
        return made.clone() if dtype is None else made.to(dtype)

    return make


def _stacked(data: object, make: Callable[..., Tensor]) -> Tensor:
    if isinstance(data, list | tuple):
        parts = [_stacked(part, make) for part in data]
        common = functools.reduce(torch.promote_types, (part.dtype for part in parts))
        return torch.stack([part.to(common) for part in parts])
    return data if isinstance(data, Tensor) else make(data)


def _tensors(value: object) -> Any:
    """``value`` with tensors in the place of these numbers."""
    return pytree.tree_map(lambda x: x.tensor if isinstance(x, DataNumber) else x, value)
