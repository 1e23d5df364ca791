"""Constants that stay fp16 in memory, mapped from the weights file, and are widened where used.

Decoding every weight once is fastest, and takes twice the memory of the package. Where a weight is
used so often in one call that widening it does not count, it stays as it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from google.protobuf.message import Message
from torch import Tensor

from lowering.package.blocks import walk
from lowering.package.dtypes import FP16, DType
from lowering.package.weights import tensor_type

# A convolution spends this many multiplications on each weight, or more, where its weight is kept.
# *Measured* on one core with AVX-512, 3x3 filters of 256 and 512 channels: widening a number takes
# as long as 3 to 28 of them.
MIN_POSITIONS = 48


def kept_as_stored(body: Message) -> set[str]:
    """Names of the values of a program that only such operations read.

    They are ``gather``, of which only the rows taken are widened, and convolutions over many
    positions.

    Args:
        body: the outermost block of a function.
    """
    reads: dict[str, bool] = {}
    for name, frugal in _reads(body):
        reads[name] = reads.get(name, True) and frugal
    return {name for name, frugal in reads.items() if frugal}


def as_stored(value: object, dtype: DType | None) -> object:
    """A decoded weight of float16 numbers in their own type; anything else as it is."""
    if dtype is FP16 and isinstance(value, Tensor):
        return value.to(torch.float16)
    return value


def _reads(block: Message) -> Iterator[tuple[str, bool]]:
    """Every name that is read, and whether it may stay as stored for that."""
    for operation in walk(block):
        for key, argument in operation.inputs.items():
            frugal = _is_frugal(operation, key)
            for item in argument.arguments:
                if item.HasField("name"):
                    yield item.name, frugal
        for inner in operation.blocks:
            yield from ((name, False) for name in inner.outputs)
    for name in block.outputs:
        yield name, False


def _is_frugal(operation: Message, key: str) -> bool:
    if operation.type == "gather":
        return key == "x"
    return operation.type == "conv" and key == "weight" and _positions(operation) >= MIN_POSITIONS


def _positions(operation: Message) -> int:
    """Places that each weight is used at in one call; 0 where a size is not known."""
    _, shape = tensor_type(operation.outputs[0].type)
    places = [shape[0], *shape[2:]]
    return 0 if min(places) < 0 else math.prod(places)
