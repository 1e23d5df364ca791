"""MIL's element types: how they are stored in a package and carried while a program runs.

A value is *carried* in a torch dtype whose kernels are complete and fast. fp16 is carried in
float32: a program's fp16 value is then a float32 tensor whose elements are all fp16 numbers, so
that nothing is decoded when the next op reads it. Integers without full torch kernels are carried
in a wider integer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lowering.package import proto

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DType:
    """One MIL element type.

    Attributes:
        name: as MIL spells it in ``cast`` and in text form, such as ``fp16``.
        bits: width of one stored element.
        storage: numpy dtype of stored elements; sub-byte types are unpacked to it.
        carried_as: name of the torch dtype that holds values of this type while a program runs.
        blob_code: the type's code in a weights file, ``None`` when it cannot be stored there.
    """

    name: str
    bits: int
    storage: np.dtype
    carried_as: str
    blob_code: int | None = None

    @functools.cached_property
    def carrier(self) -> torch.dtype:
        """The torch dtype of :attr:`carried_as`; reading a package does without torch."""
        import torch

        carrier: torch.dtype = getattr(torch, self.carried_as)
        return carrier

    @property
    def is_float(self) -> bool:
        """Whether elements are floating-point numbers."""
        return self.storage.kind == "f"

    @property
    def is_sub_byte(self) -> bool:
        """Whether several elements share a byte in storage."""
        return self.bits < 8 and self.name != "bool"

    @property
    def is_signed(self) -> bool:
        """Whether stored elements carry a sign."""
        return self.storage.kind in "if"


def _dtype(name: str, bits: int, storage: str, carrier: str, code: int | None = None) -> DType:
    return DType(name, bits, np.dtype(storage), carrier, code)


FP16 = _dtype("fp16", 16, "float16", "float32", 1)
FP32 = _dtype("fp32", 32, "float32", "float32", 2)
FP64 = _dtype("fp64", 64, "float64", "float64")
BOOL = _dtype("bool", 8, "bool", "bool")
INT4 = _dtype("int4", 4, "int8", "int8", 8)
INT8 = _dtype("int8", 8, "int8", "int8", 4)
INT16 = _dtype("int16", 16, "int16", "int16", 6)
INT32 = _dtype("int32", 32, "int32", "int32", 14)
INT64 = _dtype("int64", 64, "int64", "int64")
UINT1 = _dtype("uint1", 1, "uint8", "uint8", 9)
UINT2 = _dtype("uint2", 2, "uint8", "uint8", 10)
UINT3 = _dtype("uint3", 3, "uint8", "uint8", 12)
UINT4 = _dtype("uint4", 4, "uint8", "uint8", 11)
UINT6 = _dtype("uint6", 6, "uint8", "uint8", 13)
UINT8 = _dtype("uint8", 8, "uint8", "uint8", 3)
# torch's uint16 and uint32 lack most kernels.
UINT16 = _dtype("uint16", 16, "uint16", "int32", 7)
UINT32 = _dtype("uint32", 32, "uint32", "int64", 15)
UINT64 = _dtype("uint64", 64, "uint64", "int64")
# Strings are carried as Python str; the carrier below is never used.
STRING = _dtype("string", 8, "object", "uint8")

_MIL = proto.MIL_pb2
BY_PROTO: dict[int, DType] = {
    _MIL.BOOL: BOOL,
    _MIL.STRING: STRING,
    _MIL.FLOAT16: FP16,
    _MIL.FLOAT32: FP32,
    _MIL.FLOAT64: FP64,
    _MIL.INT4: INT4,
    _MIL.INT8: INT8,
    _MIL.INT16: INT16,
    _MIL.INT32: INT32,
    _MIL.INT64: INT64,
    _MIL.UINT1: UINT1,
    _MIL.UINT2: UINT2,
    _MIL.UINT3: UINT3,
    _MIL.UINT4: UINT4,
    _MIL.UINT6: UINT6,
    _MIL.UINT8: UINT8,
    _MIL.UINT16: UINT16,
    _MIL.UINT32: UINT32,
    _MIL.UINT64: UINT64,
}
BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in BY_PROTO.values()} | {
    "half": FP16,
    "float": FP32,
    "double": FP64,
}
