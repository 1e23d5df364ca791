"""A program's constants as torch tensors, in the form that they have while it runs."""

from __future__ import annotations

import numpy as np
import torch
from google.protobuf.message import Message

from lowering.package.dtypes import FP16, STRING, DType
from lowering.package.weights import Weights, tensor_type


class Constants:
    """The constants of a package, each decoded once.

    Args:
        weights: the package's.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._carried: dict[tuple[str, int, str], torch.Tensor] = {}

    def carried(self, value: Message) -> object:
        """A MIL ``Value`` in the form it has while a program runs.

        Tensors become torch tensors in their carrier dtype, strings ``str``, lists ``list``.
        """
        if value.type.WhichOneof("type") != "tensorType":
            return self._weights.plain(value)
        dtype, shape = tensor_type(value.type)
        if dtype is STRING:
            return self._weights.plain(value)
        if value.WhichOneof("value") != "blobFileValue":
            return carry(self._weights.stored(value), dtype)
        blob = value.blobFileValue
        key = (blob.fileName, blob.offset, dtype.name)
        if key not in self._carried:
            stored = self._weights.stored(value).reshape(-1)
            self._carried[key] = carry(stored, dtype)
            if self._carried[key].data_ptr() != stored.ctypes.data:
                self._weights.release(value)
        return self._carried[key].reshape(shape)

    def as_stored(self, value: Message) -> torch.Tensor | None:
        """fp16 numbers of a weights file as they lie there, never decoded; ``None`` for others."""
        if value.type.WhichOneof("type") != "tensorType":
            return None
        dtype, _ = tensor_type(value.type)
        if dtype is not FP16 or value.WhichOneof("value") != "blobFileValue":
            return None
        return torch.from_numpy(self._weights.stored(value))

    def attributes(self, operation: Message) -> dict[str, object]:
        """An operation's attributes besides its name, carried."""
        return {
            key: self.carried(value) for key, value in operation.attributes.items() if key != "name"
        }


def carry(array: np.ndarray, dtype: DType) -> torch.Tensor:
    """``array`` of ``dtype.storage`` as a tensor of ``dtype.carrier``; a view if it can be."""
    if dtype.storage.kind == "u" and dtype.bits > 8:
        return torch.from_numpy(array.astype(np.int64)).to(dtype.carrier)
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype.carrier).reshape(array.shape)
