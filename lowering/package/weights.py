"""Constants of a program: immediate values and the weights file.

Layout of a weights file, version 2 (little endian, every record aligned to 64 bytes; *seen* in
files written by coremltools 9.0): a 64-byte header with the blob count and the version, then per
blob a 64-byte record (sentinel, type code, byte size, byte offset of the data, padding in bits)
that the program's ``BlobFileValue.offset`` points at, and its data.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path, PurePosixPath

import numpy as np
from google.protobuf.message import Message

from lowering.errors import PackageError
from lowering.package import proto
from lowering.package.dtypes import BY_PROTO, STRING, DType
from lowering.package.folder import inside, stored_bytes
from lowering.package.kinds import damaged, git_lfs_pointer

_HEADER = struct.Struct("<II")
_RECORD = struct.Struct("<IIQQQ")
_SENTINEL = 0xDEADBEEF
_VERSION = 2

# Fields of MIL.proto's TensorValue.
_FIELD_DTYPE = {
    "floats": np.float32,
    "doubles": np.float64,
    "ints": np.int64,
    "longInts": np.int64,
    "bools": np.bool_,
}


# Programs compute with sizes, and MIL's own integers are int32.
_LARGEST_SIZE = (1 << 31) - 1

# Sub-byte elements that are taken out of, or put into, bytes at a time: they stay in the cache.
_UNPACKED = 1 << 18

_COPY_AGAIN = "copy the package again as a whole folder, or save the model again"


def release_pages(mapped: mmap.mmap, offset: int, size: int) -> None:
    """Lets pages of a mapped file go, where the system can; they are read again if needed."""
    if hasattr(mapped, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = offset + size - start
        if length > 0:
            mapped.madvise(mmap.MADV_DONTNEED, start, length)


class BlobFile:
    """A memory-mapped weights file.

    Raises:
        PackageError: the file is missing, truncated, or not a weights file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise PackageError(
                "the package's weights file is missing", expected=str(path), hint=_COPY_AGAIN
            )
        pointer = git_lfs_pointer(path, "the package's weights file")
        if pointer is not None:
            raise pointer
        if path.stat().st_size < _HEADER.size:
            raise PackageError(
                "the weights file is truncated",
                expected=f"a header of {_HEADER.size} bytes",
                found=f"{path}: {path.stat().st_size} bytes",
                hint=_COPY_AGAIN,
            )
        with path.open("rb") as file:
            # Copy-on-write: torch wants writable memory, the file must never change.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        _, version = _HEADER.unpack(self._bytes[: _HEADER.size].tobytes())
        if version != _VERSION:
            raise PackageError(
                "the weights file is corrupt or of an unknown version",
                expected=f"version {_VERSION}",
                found=f"version {version} in {path.name}",
                hint=_COPY_AGAIN,
            )

    def read(self, offset: int, dtype: DType, count: int) -> np.ndarray:
        """``count`` elements of the blob whose record is at ``offset``, as ``dtype.storage``.

        Types of a byte or more are views on the file; sub-byte types are unpacked.
        """
        data = self.packed(offset, dtype, count)
        if dtype.is_sub_byte:
            return unpack_bits(data, dtype, count)
        return data.view(dtype.storage)

    def packed(self, offset: int, dtype: DType, count: int) -> np.ndarray:
        """The bytes of a blob, as they lie in the file."""
        return self._bytes[self.place(offset, dtype, count)]

    def place(self, offset: int, dtype: DType, count: int) -> slice:
        """Where in the file the elements of a blob are, checked against its record."""
        if offset + _RECORD.size > len(self._bytes):
            raise self._corrupt(offset, "its record lies beyond the end of the file")
        record = self._bytes[offset : offset + _RECORD.size].tobytes()
        sentinel, code, size, start, _ = _RECORD.unpack(record)
        if sentinel != _SENTINEL:
            raise self._corrupt(offset, "its record does not start with the sentinel")
        if code != dtype.blob_code:
            raise self._corrupt(offset, f"type code {code} where {dtype.name} is declared")
        if start + size > len(self._bytes):
            raise self._corrupt(offset, "its data ends beyond the end of the file")
        if size != (count * dtype.bits + 7) // 8:
            raise self._corrupt(offset, f"{size} bytes do not hold {count} x {dtype.name}")
        return slice(start, start + size)

    def release(self, offset: int, size: int) -> None:
        """Lets the pages of a blob go that has been decoded; they are read again if needed."""
        release_pages(self._map, offset, size)

    def _corrupt(self, offset: int, why: str) -> PackageError:
        return PackageError(
            "the weights file is corrupt or truncated",
            found=f"{self.path.name}, blob at byte {offset}: {why}",
            hint="convert and save the model again",
        )


class Weights:
    """The weights files below one directory, opened on first use.

    Args:
        directory: the package's weights directory, ``None`` when it has none.
        package: the package, which no weights file may lie outside of; ``None`` for a model that
            was opened by coremltools.
    """

    def __init__(self, directory: Path | None, package: Path | None = None) -> None:
        self._directory = directory
        self._package = package
        self._files: dict[str, BlobFile] = {}

    def open_all(self) -> None:
        """Maps every weights file now, so that the directory may go away."""
        if self._directory is not None:
            for path in self._directory.glob("*.bin"):
                self._file(f"@model_path/weights/{path.name}")

    def stored_bytes(self) -> int:
        """Bytes of the weights files; 0 for a program without large constants."""
        return 0 if self._directory is None else stored_bytes(self._directory)

    def check(self, value: proto.MIL_pb2.Value) -> None:
        """That the blob of a ``Value``, if it is kept in one, is there; its data is not read.

        Raises:
            PackageError: its file or its record is missing or corrupt.
        """
        if value.WhichOneof("value") == "blobFileValue":
            dtype, shape = tensor_type(value.type)
            blob = value.blobFileValue
            self._file(blob.fileName).place(blob.offset, dtype, math.prod(shape))

    def stored(self, value: Message) -> np.ndarray:
        """A MIL tensor ``Value`` as a numpy array in its storage dtype."""
        dtype, shape = tensor_type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            count = math.prod(shape)
            return self._file(blob.fileName).read(blob.offset, dtype, count).reshape(shape)
        return _immediate(value.immediateValue.tensor, dtype, shape)

    def packed(self, value: proto.MIL_pb2.Value) -> np.ndarray:
        """The bytes of a MIL tensor ``Value`` that is kept in a weights file; a view on it."""
        dtype, shape = tensor_type(value.type)
        blob = value.blobFileValue
        return self._file(blob.fileName).packed(blob.offset, dtype, math.prod(shape))

    def plain(self, value: Message) -> object:
        """A MIL ``Value`` as Python's own: ``str``, numbers, lists of them."""
        kind = value.type.WhichOneof("type")
        if kind == "listType":
            return [self.plain(item) for item in value.immediateValue.list.values]
        if kind != "tensorType":
            raise damaged("a tensor or a list as a constant", str(kind or "no type"))
        dtype, shape = tensor_type(value.type)
        if dtype is not STRING:
            return self.stored(value).tolist()
        strings = value.immediateValue.tensor.strings.values
        return str(strings[0]) if shape == () else [str(item) for item in strings]

    def release(self, value: Message) -> None:
        """Lets the pages go of a constant in a weights file that has been decoded."""
        if value.WhichOneof("value") == "blobFileValue":
            dtype, shape = tensor_type(value.type)
            blob = value.blobFileValue
            file = self._file(blob.fileName)
            place = file.place(blob.offset, dtype, math.prod(shape))
            file.release(blob.offset, place.stop - place.start)

    def _file(self, name: str) -> BlobFile:
        if name not in self._files:
            self._files[name] = BlobFile(self._path(name))
        return self._files[name]

    def _path(self, name: str) -> Path:
        """The file that the program spells ``@model_path/weights/weight.bin``."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
            raise PackageError(
                "the program takes weights from outside of the package; they are not read",
                expected="a name such as @model_path/weights/weight.bin",
                found=repr(name),
                hint="save the model again, with a tool that you trust",
            )
        if self._directory is None:
            raise PackageError(
                "the program refers to a weights file that the package lacks",
                expected=path.name,
                hint=_COPY_AGAIN,
            )
        file = self._directory / path.name
        return file if self._package is None else inside(self._package, file)


def tensor_type(value_type: Message) -> tuple[DType, tuple[int, ...]]:
    """Element type and constant shape of a MIL tensor type; unknown sizes are -1."""
    tensor = value_type.tensorType
    if tensor.dataType not in BY_PROTO:
        raise PackageError(
            "the program uses an element type that is not known here",
            expected=", ".join(dtype.name for dtype in BY_PROTO.values()),
            found=_type_name(tensor.dataType),
            hint="convert the model with other element types",
        )
    shape = tuple(
        dim.constant.size if dim.WhichOneof("dimension") == "constant" else -1
        for dim in tensor.dimensions
    )
    if max(shape, default=0) > _LARGEST_SIZE:
        raise damaged("sizes that an int32 holds", f"a shape of {shape}")
    return BY_PROTO[tensor.dataType], shape


def _type_name(code: int) -> str:
    names = proto.MIL_pb2.DataType
    return names.Name(code) if code in names.values() else f"type {code}"


def unpack_bits(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """``count`` sub-byte elements from packed bytes, the first in the least significant bits."""
    # After so many elements, in so many bytes, elements begin with a byte again.
    period, width = (n // math.gcd(dtype.bits, 8) for n in (8, dtype.bits))
    periods = -(-count // period)
    packed = data[: periods * width]
    if packed.size < periods * width:
        packed = np.pad(packed, (0, periods * width - packed.size))
    values = np.empty((periods, period), np.uint8)
    for start in range(0, periods, _UNPACKED // period):
        rows = slice(start, start + _UNPACKED // period)
        parts = packed.reshape(periods, width)[rows]
        for index in range(period):
            byte, shift = divmod(index * dtype.bits, 8)
            found = parts[:, byte] >> shift
            if shift + dtype.bits > 8:
                found |= parts[:, byte + 1] << (8 - shift)
            np.bitwise_and(found, (1 << dtype.bits) - 1, out=values[rows, index])
    values = values.reshape(-1)[:count]
    if dtype.is_signed:
        shift = 8 - dtype.bits
        return (values << shift).view(np.int8) >> shift
    return values.astype(dtype.storage, copy=False)


def pack_bits(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Packed bytes of sub-byte elements, as :func:`unpack_bits` reads them."""
    flat = values.reshape(-1).view(np.uint8)
    packed = np.empty((flat.size * dtype.bits + 7) // 8, np.uint8)
    for start in range(0, flat.size, _UNPACKED):
        part = flat[start : start + _UNPACKED]
        bits = np.unpackbits(part[:, None], axis=1, bitorder="little", count=dtype.bits)
        found = np.packbits(bits, bitorder="little")
        first = start * dtype.bits // 8
        packed[first : first + found.size] = found
    return packed


def _immediate(tensor: Message, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    field = tensor.WhichOneof("value")
    count = math.prod(shape)
    check_stored(tensor, dtype, count)
    if field == "bytes":
        raw = np.frombuffer(bytearray(tensor.bytes.values), dtype=np.uint8)
        array = unpack_bits(raw, dtype, count) if dtype.is_sub_byte else raw.view(dtype.storage)
    elif field in _FIELD_DTYPE:
        values = getattr(tensor, field).values
        array = np.array(values, dtype=_FIELD_DTYPE[field]).astype(dtype.storage)
    else:
        array = np.empty(0, dtype=dtype.storage)
    return array.reshape(shape)


def check_stored(
    tensor: proto.MIL_pb2.TensorValue, dtype: DType, count: int, op: str | None = None
) -> None:
    """That a value that the program spells out has as many elements as its type says.

    Raises:
        PackageError: it has more or fewer, or elements of another kind.
    """
    field = tensor.WhichOneof("value")
    stored = getattr(tensor, field).values if field else ()
    expected, unit = count, "values"
    if field == "bytes":
        expected, unit = (count * dtype.bits + 7) // 8, "bytes"
    if len(stored) != expected or (field == "strings") != (dtype is STRING and count > 0):
        found = f"{len(stored)} {unit} of {field or 'nothing'}"
        raise damaged(f"a constant of {count} x {dtype.name}", found, op)
