"""The table of embeddings beside a package: written once, mapped into memory by the generator."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from frontend.decoder.embedding import Embedding
from lowering.generation.contract import Contract, TableContract
from lowering.generation.errors import GenerationError

_SUFFIX = ".embeddings.npy"
# Rows that are computed and written at once: some MB of the widest tables.
_BLOCK = 1024
# Rows that the digest is of, spread over the table: a file of gigabytes is told without reading it.
_DIGESTED = 64


def table_path(package: Path, overwrite: bool) -> Path:
    """Where the table of ``package`` goes.

    Raises:
        GenerationError: a file stands there, and it is not to be replaced.
    """
    path = package.with_name(package.stem + _SUFFIX)
    if path.exists() and not overwrite:
        raise GenerationError(
            "a file stands where the table of embeddings goes",
            found=str(path),
            hint="choose another path, or pass overwrite=True (--overwrite)",
        )
    return path


def write_table(embedding: Embedding, path: Path, dtype: str) -> TableContract:
    """Writes what the module answers for each token, (vocabulary, width) of ``dtype``.

    Raises:
        GenerationError: a number does not fit ``dtype``.
    """
    shape = (embedding.vocabulary, embedding.width)
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    for first in range(0, embedding.vocabulary, _BLOCK):
        ids = torch.arange(first, min(first + _BLOCK, embedding.vocabulary))
        rows = embedding.rows(ids.unsqueeze(0))[0].numpy()
        with np.errstate(over="ignore"):
            table[first : first + len(ids)] = rows
        if not np.isfinite(table[first : first + len(ids)]).all():
            raise GenerationError(
                f"the table of embeddings holds a number that is none in {dtype}",
                module=embedding.name,
                expected=f"at most {np.finfo(dtype).max:g}",
                found=f"{np.abs(rows).max():g} among tokens {first} to {first + len(ids) - 1}",
                hint="export with precision='fp32'",
            )
    table.flush()
    return TableContract(path.name, embedding.width, dtype, _digest(table))


def open_table(package: Path, contract: Contract) -> NDArray[np.floating]:
    """The table that belongs to ``package``, mapped into memory: (vocabulary, width).

    Raises:
        GenerationError: it does not lie beside the package, or is another one's.
    """
    own = contract.table
    assert own is not None
    path = package.expanduser().resolve().with_name(own.file)
    expected = f"{path}, {own.dtype} {contract.vocabulary} × {own.width}"
    try:
        table: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise GenerationError(
            "the table of embeddings does not lie beside the package",
            expected=expected,
            found=str(error),
            hint="copy the file that the export wrote into the folder of the package",
        ) from error
    is_own = table.dtype == np.dtype(own.dtype) and table.shape == (contract.vocabulary, own.width)
    if not is_own or _digest(table) != own.digest:
        raise GenerationError(
            "the table of embeddings is another package's",
            expected=expected,
            found=f"{table.dtype} {' × '.join(map(str, table.shape))}"
            + (", with other rows" if is_own else ""),
            hint="copy the file that the export wrote into the folder of the package",
        )
    return table


@contextmanager
def placed(made: Path, target: Path) -> Iterator[None]:
    """``made`` moved to ``target``; if the block fails, what was there before is there again."""
    before = made.with_name(f"{made.name}.before")
    if target.exists():
        os.replace(target, before)
    os.replace(made, target)
    try:
        yield
    except BaseException:
        target.unlink()
        if before.exists():
            os.replace(before, target)
        raise


def _digest(table: NDArray[np.floating]) -> str:
    places = np.unique(np.linspace(0, len(table) - 1, _DIGESTED).astype(int))
    return hashlib.sha256(np.ascontiguousarray(table[places]).tobytes()).hexdigest()
