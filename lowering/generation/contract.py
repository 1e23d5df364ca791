"""What a package says about how it is driven: written by the export, read by the generator."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from frontend.decoder.step import NEW, CacheForm
from frontend.errors import about
from frontend.json_text import parse
from lowering.generation.errors import GenerationError
from lowering.package.metadata_entry import reading
from lowering.package.open import ModelLike, open_package

CONTRACT_KEY = "com.ane-passes.generation"
_VERSION = 1

DECODE = "decode"
PREFILL = "prefill"
ENCODE = "encode"
KEYS_AND_VALUES = ("key_cache", "value_cache")
"""States of attention; those of other names carry on what follows from all tokens fed."""

__all__ = [
    "CONTRACT_KEY",
    "DECODE",
    "ENCODE",
    "KEYS_AND_VALUES",
    "NEW",
    "PREFILL",
    "Contract",
    "PartContract",
    "SourceContract",
    "StepContract",
    "TableContract",
]


@dataclass(frozen=True)
class StepContract:
    """One function of the package.

    Attributes:
        tokens: how many it takes at once.
        context: tokens that it sees, at most the package's.
        last: whether it takes the place of the token whose logits are wanted, and returns these
            alone; else it returns the logits of all.
        best: how many of the likeliest tokens it returns in the place of all logits, ``None`` for
            all. ``tokens`` (1, tokens, best), int32, are their ids, the likeliest first; their
            ``logits`` come beside, unless there is one.
        padded: whether tokens behind ``last`` may be junk. A recurrent state would remember it.
        from_start: whether it may follow on nothing but an empty cache.
    """

    tokens: int
    context: int
    last: bool
    padded: bool
    from_start: bool
    best: int | None = None

    def fits(self, position: int, pending: int, rings: Collection[int]) -> bool:
        """Whether it can be called with ``position`` tokens in the cache.

        Args:
            position: how many tokens are in the cache.
            pending: how many are to come.
            rings: lengths of the rings whose end no step may cross.
        """
        return (
            position + self.tokens <= self.context
            and (self.tokens <= pending or self.padded)
            and not (self.from_start and position)
            and not any(position % ring + self.tokens > ring for ring in rings)
        )


@dataclass(frozen=True)
class SourceContract:
    """What an encoder reads, once before the first token.

    Attributes:
        function: that takes it as ``source`` and fills the cache for the others.
        shape: of ``source``, batch first.
        is_text: whether it holds token ids (int32), padded behind; every function then takes
            ``source_length`` (1,), int32, how many are none of the padding.
    """

    function: str
    shape: tuple[int, ...]
    is_text: bool


@dataclass(frozen=True)
class TableContract:
    """Rows of embeddings that are kept beside the package.

    Attributes:
        file: name of the ``.npy`` file (vocabulary, width), in the folder of the package.
        width: of a row.
        dtype: of the numbers, ``float16`` or ``float32``.
        digest: of some rows, by which a file of another package is told.
    """

    file: str
    width: int
    dtype: str
    digest: str


@dataclass(frozen=True)
class PartContract:
    """One of several packages that a decoder was cut into.

    Attributes:
        file: name of the package, in the folder of all.
        states: shapes of its packed tensors by name.
        layers: the first of the decoder's layers that it holds, and the one behind its last.
    """

    file: str
    states: Mapping[str, tuple[int, ...]]
    layers: tuple[int, int]


@dataclass(frozen=True)
class Contract:
    """How a package is driven.

    Attributes:
        context: tokens that fit in the cache.
        vocabulary: how many token ids there are.
        form: where the cache is.
        rings: lengths of those parts of the cache in which tokens go round: a step must not
            cross their ends.
        states: shapes of the packed tensors by name.
        steps: function name to step.
        source: what the encoder reads, ``None`` for a decoder alone.
        table: where the rows of ``inputs_embeds`` come from, which the functions then take in the
            place of ``input_ids``; ``None`` where the embedding is in the package.
        parts: packages that run one after the other, each on the ``hidden`` of the one before;
            empty where one package is all.
        embedder: what the names of the last part's functions begin with that make rows of tokens,
            as ``embed_1`` for a step of one; ``None`` where no table is shared by both ends.
    """

    context: int
    vocabulary: int
    form: CacheForm
    rings: tuple[int, ...]
    states: Mapping[str, tuple[int, ...]]
    steps: Mapping[str, StepContract]
    source: SourceContract | None = None
    table: TableContract | None = None
    parts: tuple[PartContract, ...] = ()
    embedder: str | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest step."""
        return max(step.tokens for step in self.steps.values())

    def to_metadata(self) -> str:
        """JSON, to be stored under ``CONTRACT_KEY``."""
        return json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], label: str) -> Contract:
        """What is stored in a package's user-defined metadata.

        Raises:
            GenerationError: nothing is, or by a version that is not known.
        """
        if CONTRACT_KEY not in metadata:
            raise GenerationError(
                "the package does not say how it is driven",
                expected=f"metadata {CONTRACT_KEY}, as export_decoder writes it",
                found=label,
                hint="export the model with export_decoder or ane-passes export-llm",
            )
        form = "JSON, as export_decoder writes it"
        with about(label), reading(CONTRACT_KEY, "description of its functions", form):
            raw = parse(metadata[CONTRACT_KEY])
            if raw.pop("version") != _VERSION:
                raise GenerationError(
                    "the package was exported by another version",
                    found=label,
                    hint="export it again",
                )
            source, table = raw.get("source"), raw.get("table")
            return cls(
                context=raw["context"],
                vocabulary=raw["vocabulary"],
                form=raw["form"],
                rings=tuple(raw["rings"]),
                states={name: tuple(shape) for name, shape in raw["states"].items()},
                steps={name: StepContract(**step) for name, step in raw["steps"].items()},
                source=None
                if source is None
                else SourceContract(source["function"], tuple(source["shape"]), source["is_text"]),
                table=None if table is None else TableContract(**table),
                parts=tuple(
                    PartContract(
                        part["file"],
                        {k: tuple(shape) for k, shape in part["states"].items()},
                        tuple(part["layers"]),
                    )
                    for part in raw.get("parts", ())
                ),
                embedder=raw.get("embedder"),
            )


CHAIN = "chain.json"
"""The file that says how packages of one folder are driven one after the other."""


def is_chain(package: str | os.PathLike[str]) -> bool:
    """Whether a folder holds the parts of one decoder."""
    return (Path(package).expanduser() / CHAIN).is_file()


def contract_of(package: str | os.PathLike[str]) -> Contract:
    """What a package, or a folder of parts, says about how it is driven.

    Raises:
        GenerationError: it does not.
        PackageError: there is no package.
    """
    if is_chain(package):
        text = (Path(package).expanduser() / CHAIN).read_text(encoding="utf-8")
        return Contract.from_metadata({CONTRACT_KEY: text}, os.fspath(package))
    opened = open_package(os.fspath(package))
    return Contract.from_metadata(opened.metadata, opened.label)


def is_decoder(package: ModelLike, against: object) -> bool:
    """Whether both are a whole decoder: a package of ``export_decoder``, and a module.

    A program, or the program's module, is that of one function, and has its own inputs.
    """
    if not isinstance(package, str | Path) or not isinstance(against, nn.Module):
        return False
    is_step = isinstance(getattr(against, "program", None), ExportedProgram)
    if is_chain(package):
        return not is_step
    return not is_step and CONTRACT_KEY in open_package(package).metadata
