"""Several weights files as one: equal blobs are written once, a block at a time."""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import Message

from lowering.errors import PackageError
from lowering.package.blocks import walk
from lowering.package.dtypes import DType
from lowering.package.weights import pack_bits, release_pages

_Bytes: TypeAlias = mmap.mmap | memoryview

# See lowering.package.weights for the layout.
_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_ALIGNMENT = 64
_BLOCK = 1 << 24  # bytes copied at a time, so that weights are never in memory as a whole


class BlobWriter:
    """A weights file that grows by blobs of others.

    Args:
        path: of the file to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(_HEADER.pack(0, _VERSION))
        self._known: dict[tuple[int, int, int, bytes], int] = {}

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.seek(0)
        self._file.write(_HEADER.pack(len(self._known), _VERSION))
        self._file.close()

    def add(self, source: mmap.mmap, offset: int) -> int:
        """Copies the blob whose record is at ``offset`` of ``source``; where its record is now.

        Raises:
            PackageError: there is no whole blob.
        """
        end = offset + _RECORD.size
        fields = _RECORD.unpack(source[offset:end]) if end <= len(source) else (0,) * 5
        sentinel, code, size, start, padding = fields
        if sentinel != _SENTINEL or start + size > len(source):
            raise PackageError(
                "the weights file is corrupt or truncated", found=f"blob at byte {offset}"
            )
        return self._written(code, padding, source, start, size)

    def put(self, array: np.ndarray, dtype: DType) -> int:
        """Writes elements of ``dtype.storage``; where their record is.

        Raises:
            ValueError: a weights file has no code for the type.
        """
        if dtype.blob_code is None:
            raise ValueError(f"no weights file holds {dtype.name}")
        packed = pack_bits(array, dtype) if dtype.is_sub_byte else np.ascontiguousarray(array)
        data = packed.reshape(-1).view(np.uint8).data
        padding = len(data) * 8 - array.size * dtype.bits
        return self._written(dtype.blob_code, padding, data, 0, len(data))

    def _written(self, code: int, padding: int, source: _Bytes, start: int, size: int) -> int:
        digest = hashlib.sha256()
        for block in _blocks(source, start, size):
            digest.update(block)
        key = (code, size, padding, digest.digest())
        if key not in self._known:
            record = _aligned(self._file.tell())
            self._file.write(b"\0" * (record - self._file.tell()))
            data = _aligned(record + _RECORD.size)
            self._file.write(_RECORD.pack(_SENTINEL, code, size, data, padding))
            for block in _blocks(source, start, size):
                self._file.write(block)
            self._known[key] = record
        return self._known[key]


def move_blobs(
    function: Message, weights: Path, writer: BlobWriter, *, but: Collection[str] = ()
) -> None:
    """Copies every blob that a function of a MIL program names, and lets it name the copy.

    Args:
        function: a ``MIL_pb2.Function``; its offsets are changed.
        weights: folder of the weights files that they refer to now.
        writer: of the file that they refer to afterwards.
        but: values whose operations are left alone.
    """
    opened: dict[str, mmap.mmap] = {}
    try:
        for value in _stored_values(function, but):
            name = PurePosixPath(value.blobFileValue.fileName).name
            if name not in opened:
                with (weights / name).open("rb") as file:
                    opened[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            value.blobFileValue.offset = writer.add(opened[name], value.blobFileValue.offset)
    finally:
        for source in opened.values():
            source.close()


def _stored_values(function: Message, but: Collection[str]) -> Iterator[Any]:
    for block in function.block_specializations.values():
        for operation in walk(block):
            if any(output.name in but for output in operation.outputs):
                continue
            bound = [
                binding.value
                for argument in operation.inputs.values()
                for binding in argument.arguments
                if binding.HasField("value")
            ]
            for value in [*operation.attributes.values(), *bound]:
                if value.WhichOneof("value") == "blobFileValue":
                    yield value


def _blocks(source: _Bytes, start: int, size: int) -> Iterator[bytes | memoryview]:
    for at in range(start, start + size, _BLOCK):
        yield source[at : min(at + _BLOCK, start + size)]
        if isinstance(source, mmap.mmap):
            release_pages(source, at, min(_BLOCK, start + size - at))


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
