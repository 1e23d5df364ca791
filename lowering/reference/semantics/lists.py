"""Lists of tensors, as loops use them. A list is never changed in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowering.package.dtypes import BY_NAME
from lowering.reference.binding import Semantics
from lowering.reference.errors import ExecutionError


class TensorList(list[Tensor]):
    """Elements of one shape; knows whether it may grow and what an unwritten element is."""

    def __init__(self, items: list[Tensor], blank: Tensor, dynamic: bool) -> None:
        super().__init__(items)
        self.blank = blank
        self.dynamic = dynamic

    def written(self, at: dict[int, Tensor]) -> TensorList:
        """A copy with elements replaced; a dynamic list grows to hold them."""
        copy = TensorList(list(self), self.blank, self.dynamic)
        for index, value in at.items():
            if index >= len(copy) and not self.dynamic:
                raise ExecutionError(
                    "A list of fixed length is written beyond its end",
                    expected=f"an index below {len(copy)}",
                    found=str(index),
                )
            copy += [self.blank] * (index + 1 - len(copy))
            copy[index] = value
        return copy


def make_list(
    elem_shape: list[Any], init_length: int = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> TensorList:
    """A list of zeros; a symbolic size of its elements counts as unknown until written."""
    sizes = [
        item if isinstance(item, str) else int(item)
        for element in elem_shape
        for item in (element.reshape(-1).tolist() if isinstance(element, Tensor) else [element])
    ]
    known = [0 if isinstance(size, str) else size for size in sizes]
    blank = torch.zeros(known, dtype=BY_NAME[dtype].carrier)
    return TensorList([blank] * init_length, blank, dynamic_length)


def list_length(ls: Any) -> Tensor:
    """Number of elements."""
    return torch.tensor(len(ls), dtype=torch.int32)


def list_read(ls: Any, index: int) -> Tensor:
    """Element ``index``."""
    return ls[index]


def list_write(ls: Any, index: int, value: Tensor) -> TensorList:
    """The list with element ``index`` replaced."""
    return ls.written({index: value})


def list_gather(ls: Any, indices: Tensor) -> Tensor:
    """Elements at ``indices``, stacked."""
    return torch.stack([ls[index] for index in indices.reshape(-1).tolist()])


def list_scatter(ls: Any, indices: Tensor, value: Tensor) -> TensorList:
    """The list with elements at ``indices`` replaced by the slices of ``value``."""
    return ls.written(dict(zip(indices.reshape(-1).tolist(), value, strict=True)))


TABLE: dict[str, Semantics] = {
    "list_gather": list_gather,
    "list_length": list_length,
    "list_read": list_read,
    "list_scatter": list_scatter,
    "list_write": list_write,
    "make_list": make_list,
}
