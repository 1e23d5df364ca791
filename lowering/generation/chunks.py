"""A decoder in several packages, none larger than asked, each going on behind the one before."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from frontend.decoder.embedding import ROWS, Embedding, embedding_of
from frontend.decoder.part import DecoderLayers, DecoderPart, layers_of
from frontend.decoder.probing import Decoder
from frontend.decoder.step import Rooms, rooms
from lowering.generation.contract import CHAIN, Contract, PartContract, StepContract, is_chain
from lowering.generation.errors import GenerationError
from lowering.generation.overflows import Overflow
from lowering.generation.recipe import Recipe
from lowering.generation.settings import WantedFunction
from lowering.generation.stepping import Stepper
from lowering.generation.table import write_table
from lowering.package.folder import SUFFIX, stored_bytes
from lowering.support.destination import Destination
from passes.api import optimize_for_ane
from passes.optimized_model import OptimizedModel

_FOLDER = Destination(".chunks", "a folder of parts", "a decoder in parts", is_chain)
LIMITS = {"iOS": 1 << 30, "macOS": 2 << 30}
"""Bytes above which a program leaves the ANE: 1 GiB on phones and from macOS 27 on, 2 GiB on macOS
up to 26.6.2 (*reported*: john-rocky/CoreML-LLM names 1.0 to 1.4 GB; eeane 1.04 GiB wholly off the
ANE on macOS 27, and all of it on in two parts). The planner's rules ``prog.size`` say the same."""

_EMBED = "embed"
# Bytes of one function's program beside its weights: what the decoders of the tests come to, and as
# much again. A part that turns out larger is cut shorter.
_PROGRAM = 100_000


@dataclass(frozen=True)
class Asked:
    """What is to be exported.

    Attributes:
        model, decoder: the decoder and what it keeps.
        place: where the whole of it would keep that.
        wanted: functions of the whole.
        ring: whether layers with a window go round.
        apart: whether the table of embeddings goes into a file.
    """

    model: nn.Module
    decoder: Decoder
    place: Rooms
    wanted: Sequence[WantedFunction]
    ring: bool
    apart: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest step."""
        return max(function.tokens for function in self.wanted)


def chunk_limit(given: int | str) -> int:
    """Bytes of the largest part.

    Raises:
        GenerationError: it is neither a number of bytes nor a system whose limit is known.
    """
    if isinstance(given, str) and given in LIMITS:
        return LIMITS[given]
    if not isinstance(given, int) or given < 1:
        raise GenerationError(
            "chunk_bytes is no size of a package",
            expected=f"a number of bytes, or {' or '.join(LIMITS)}",
            found=str(given),
        )
    return given


def check_chain_path(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The folder of the parts; ``.chunks`` stands in the place of ``.mlpackage``.

    Raises:
        GenerationError: something stands there, and it is not to be replaced.
        SaveError: the folder around is missing, or something else stands there.
    """
    given = Path(path)
    target = _FOLDER.target(given.with_suffix("") if given.suffix == SUFFIX else given)
    if target.exists() and not overwrite:
        raise GenerationError(
            "a folder of parts stands at the output path",
            found=str(target),
            hint="choose another path, or pass overwrite=True (--overwrite)",
        )
    return target


def export_chain(
    asked: Asked, recipe: Recipe, target: Path, limit: int
) -> tuple[Contract, Sequence[Overflow]]:
    """Writes the folder ``target`` with parts of at most ``limit`` bytes.

    Returns:
        How they are driven, and what float16 has no room for.

    Raises:
        CaptureError: the model cannot be cut, or a part of it not captured.
        GenerationError: no part can be so small, or one says something else than the model.
        SaveError: the folder cannot be written; nothing is left in any case.
    """
    chain = _Chain(asked, recipe, limit)
    chain.check()
    _FOLDER.write(target, chain.write)
    return chain.contract, chain.overflows


class _Chain:
    def __init__(self, asked: Asked, recipe: Recipe, limit: int) -> None:
        self._asked, self._recipe, self._limit = asked, recipe, limit
        self.overflows: list[Overflow] = []
        self._layers = layers_of(asked.model, asked.decoder)
        self._embedding = embedding_of(asked.model, asked.decoder)
        self._weights = _Weights(asked, recipe, self._layers, self._embedding)

    def check(self) -> None:
        """Raises ``GenerationError`` where one layer, or the head, is too large by itself."""
        if self._weights.largest_alone > self._limit:
            self._refuse(0)

    def write(self, folder: Path) -> None:
        """Writes all parts."""
        folder.mkdir()
        begin = 0
        parts: list[PartContract] = []
        self._steps: dict[str, StepContract] = {}
        while begin < self._weights.count:
            end = self._weights.count
            while end > begin + 1 and self._weights.estimate(begin, end) > self._limit:
                end -= 1
            package = folder / f"part_{len(parts) + 1}{SUFFIX}"
            while (size := self._write_part(begin, end, package)) > self._limit:
                if end == begin + 1:
                    self._refuse(size - self._weights.estimate(begin, end))
                shutil.rmtree(package)
                end -= 1
            layers = (begin, min(end, len(self._layers.names)))
            parts.append(PartContract(package.name, dict(self._place(begin, end).shapes), layers))
            begin = end
        table = None
        if self._asked.apart:
            table = write_table(self._embedding, folder / "embeddings.npy", self._recipe.dtype)
        place = self._asked.place
        self.contract = Contract(
            context=place.context,
            vocabulary=self._asked.decoder.vocabulary,
            form=self._recipe.cache,
            rings=tuple(sorted(place.rings)),
            states=place.shapes,
            steps=self._steps,
            source=None,
            table=table,
            parts=tuple(parts),
            embedder=_EMBED if self._is_embedded_last and len(parts) > 1 else None,
        )
        (folder / CHAIN).write_text(self.contract.to_metadata() + "\n", encoding="utf-8")

    @property
    def _is_embedded_last(self) -> bool:
        return self._weights.is_tied and not self._asked.apart

    def _refuse(self, beside: int) -> NoReturn:
        """``beside`` are bytes that a part took more than was estimated."""
        ends = range(1, self._weights.count + 1)
        smallest = max(self._weights.estimate(end - 1, end) for end in ends) + max(beside, 0)
        raise GenerationError(
            "no part of the model can be as small as chunk_bytes",
            expected=f"at least {smallest} bytes: a part holds a whole layer, or the whole head",
            found=str(self._limit),
            hint="raise chunk_bytes, compress the weights (compress=), or keep the table of "
            "embeddings apart (embeddings='apart')",
        )

    def _place(self, begin: int, end: int) -> Rooms:
        asked = self._asked
        held = range(begin, min(end, len(self._layers.names)))
        context, longest = asked.place.context, asked.longest
        return rooms(asked.decoder, context, longest, ring=asked.ring, held=held)

    def _write_part(self, begin: int, end: int, package: Path) -> int:
        """Writes one part; how many bytes it takes."""
        asked, recipe = self._asked, self._recipe
        layers = len(self._layers.names)
        part = DecoderPart(self._layers, begin, min(end, layers), end > layers)
        # Behind the first part the embedding is read by nothing, and left out with this.
        is_given = begin > 0 or asked.apart or (self._is_embedded_last and not part.has_head)
        stepper = Stepper(
            asked.model,
            asked.decoder,
            rooms=self._place(begin, end),
            form=recipe.cache,
            pipeline=recipe.passes,
            context=asked.place.context,
            longest=asked.longest,
            embedding=self._embedding if is_given else None,
            part=part,
        )
        wanted = [
            function if part.has_head else replace(function, last=False, best=None)
            for function in asked.wanted
        ]
        with tempfile.TemporaryDirectory(dir=package.parent) as folder:
            made, steps, overflows = recipe.functions(stepper, wanted, Path(folder))
            if part.has_head and begin and self._is_embedded_last:
                for tokens in sorted({function.tokens for function in asked.wanted}):
                    name = f"{_EMBED}_{tokens}"
                    made[name] = recipe.function(self._rows_of(tokens), Path(folder) / name)
            recipe.package(made, package, {})
        self.overflows += overflows
        for function in asked.wanted:
            one = steps[function.name]
            before = self._steps.get(function.name, one)
            self._steps[function.name] = replace(
                one,
                last=function.last,
                best=function.best,
                padded=one.padded and before.padded,
                from_start=one.from_start or before.from_start,
            )
        return stored_bytes(package)

    def _rows_of(self, tokens: int) -> OptimizedModel:
        ids = torch.arange(tokens).remainder(self._embedding.vocabulary).int().unsqueeze(0)
        step = _EmbedStep(self._embedding.module).eval()
        return optimize_for_ane(step, kwargs={"input_ids": ids}, pipeline=self._recipe.passes)


class _EmbedStep(nn.Module):
    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {ROWS: self.embedding(input_ids)}


class _Weights:
    """Bytes of what a part holds: layers one by one, and last the head.

    Attributes:
        count: of layers and head.
        is_tied: whether the head reads the table of embeddings.
    """

    def __init__(
        self, asked: Asked, recipe: Recipe, layers: DecoderLayers, embedding: Embedding
    ) -> None:
        bits = 16 if recipe.precision == "fp16" else 32
        if recipe.rung is not None:
            block = recipe.rung.block
            bits = recipe.rung.bits + (16 // block + 1 if block else 0)
        self._bits, self._functions = bits, len(asked.wanted)
        model = asked.model
        tables = {id(p) for p in embedding.module.parameters()}
        held: dict[str, dict[int, int]] = {name: {} for name in (*layers.names, "")}
        self.is_tied = False
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name.startswith(f"{embedding.name}."):
                continue
            self.is_tied |= id(parameter) in tables
            layer = next((one for one in layers.names if name.startswith(f"{one}.")), "")
            held[layer][id(parameter)] = parameter.numel()
        self._numbers = [sum(numbers.values()) for numbers in held.values()]
        if not asked.apart and not self.is_tied:
            self._numbers[0] += sum(p.numel() for p in embedding.module.parameters())
        self.count = len(self._numbers)

    @property
    def largest_alone(self) -> int:
        """Bytes of the weights that the largest layer, or the head, has at least."""
        return max(self._numbers) * self._bits // 8

    def estimate(self, begin: int, end: int) -> int:
        """Bytes of the package of these."""
        numbers = sum(self._numbers[begin:end])
        return numbers * self._bits // 8 + self._functions * _PROGRAM
