"""The state of a stateful model: what stays between calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from frontend.errors import InputError
from lowering.package.dtypes import DType
from lowering.reference.io import carried, stored


class StateCell:
    """One state variable: a tensor that ``read_state`` gives and ``write_state`` replaces."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: DType) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.value: Tensor = torch.zeros(shape, dtype=dtype.carrier)


class State:
    """State variables of one model by name, zero at first.

    Pass it to each call that shall continue from the call before. ``state[name]`` reads and
    ``state[name] = array`` writes one variable as numpy.
    """

    def __init__(self, cells: Mapping[str, StateCell]) -> None:
        self.cells = dict(cells)

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells)

    def __getitem__(self, name: str) -> np.ndarray:
        cell = self._cell(name)
        return stored(cell.value, cell.dtype)

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        cell = self._cell(name)
        array = np.asarray(array)
        if array.shape != cell.shape:
            raise InputError(
                f"state {name!r} has the wrong shape",
                expected=str(cell.shape),
                found=str(array.shape),
            )
        cell.value = carried(array, cell.dtype)

    def _cell(self, name: str) -> StateCell:
        if name not in self.cells:
            raise InputError(
                f"there is no state {name!r}", expected=f"one of {', '.join(self.cells)}"
            )
        return self.cells[name]
