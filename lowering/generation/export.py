"""A decoder of transformers, unmodified, as one package with a function for each kind of step."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from frontend.decoder.embedding import embedding_of
from frontend.decoder.hf_cache import is_available
from frontend.decoder.probing import probe
from frontend.decoder.step import CacheForm, rooms
from lowering.compression.rungs import Rung, rung_of
from lowering.generation.chunks import Asked, check_chain_path, chunk_limit, export_chain
from lowering.generation.contract import (
    CONTRACT_KEY,
    ENCODE,
    Contract,
    SourceContract,
)
from lowering.generation.errors import GenerationError
from lowering.generation.overflows import Overflow, warn
from lowering.generation.recipe import Recipe
from lowering.generation.settings import (
    check_best,
    check_context,
    check_embeddings,
    check_form,
    check_memory,
    check_model,
    check_path,
    functions,
)
from lowering.generation.stepping import Stepper
from lowering.generation.table import placed, table_path, write_table
from lowering.package.folder import stored_bytes
from passes.base import Pass
from passes.default_pipeline import default_pipeline
from passes.drop_leading_axes import DropLeadingAxes
from passes.fold_constants import FoldConstants
from passes.fold_rotation_sign import FoldRotationSign
from passes.join_heads import JoinHeads
from passes.reshape_before_split import ReshapeBeforeSplit
from passes.select_early import SelectEarly
from passes.simplify_views import SimplifyViews
from passes.swap_last_axes import SwapLastAxes
from passes.tabulate_positions import TabulatePositions
from passes.tile_linear import TileLinear


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: of the package.
        contract: how it is driven.
        size: bytes of the package.
        seconds: wall time.
        overflows: values of the checked steps that float16 has no room for, by function.
    """

    path: Path
    contract: Contract
    size: int
    seconds: float
    overflows: tuple[Overflow, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


def export_decoder(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    context: int | Sequence[int],
    prefill: int | Sequence[int] | None = None,
    decode: int | Sequence[int] = 1,
    cache: CacheForm = "state",
    window: Literal["ring", "full"] = "ring",
    source: int | torch.Tensor | None = None,
    embeddings: Literal["inside", "apart"] = "inside",
    logits: str = "needed",
    head: int | None = None,
    precision: Literal["fp16", "fp32", "safe"] = "fp16",
    compress: str | Rung | None = None,
    chunk_bytes: int | str | None = None,
    pipeline: Sequence[Pass] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Exports a decoder as one iOS 18 package for ``Generator``, Core ML and swift.

    The model is called as it is: a cache of ours speaks transformers' ``Cache`` protocol to it,
    and what it keeps is found by calling it. Every function is compared with the model without a
    cache before it is converted.

    Each function takes ``input_ids`` (1, tokens) and ``position`` (1,), the number of tokens in
    the cache, both int32, and returns ``logits``. ``decode`` returns those of all its tokens, (1,
    tokens, vocabulary); ``prefill`` takes ``last`` (1,), int32, as well, and returns (1, 1,
    vocabulary) for the token at that place; tokens behind it are junk that later steps write over.

    Args:
        model: a causal decoder in evaluation mode with float32 weights; left as it is.
        path: of the package.
        context: tokens that fit in the cache; several numbers give each function once for each,
            all on the largest's cache: a step over a short context is cheaper.
        prefill: tokens of a prompt taken at once; several give a function each, 0 none. By default
            64, or the context where that is less.
        decode: tokens of a step whose logits are all returned, 1 among them.
        cache: ``state`` keeps it in two Core ML states ``key_cache`` and ``value_cache`` (more
            for recurrent layers), written at the position; ``state-blend`` writes with a mask,
            for systems that refuse places which depend on data (*reported*:
            apple/coreai-torch#6); ``io`` passes it in and out.
        source: of a model with an encoder, how many tokens that reads, or an example of its input
            (1, ...). A function ``encode`` takes it as ``source`` and leaves the keys and values
            of every cross-attention in the cache, once for a source; sources of text are padded,
            and all functions take their ``source_length`` (1,), int32.
        window: ``ring`` keeps no more tokens than a layer's window can see; ``full`` all.
        embeddings: ``apart`` keeps the table of token embeddings out of the package, in a file
            ``NAME.embeddings.npy`` beside it, (vocabulary, width) in the precision of the weights;
            functions then take the rows of their tokens, ``inputs_embeds`` (1, tokens, width), in
            the place of ``input_ids``. A head that shares the table stays in the package.
        logits: whose the functions return: ``needed`` as above, ``all`` of every token in
            ``prefill`` as well, ``last`` of one token always; ``argmax`` gives the likeliest
            token, ``topk:N`` the N likeliest and their logits, chosen inside the program, in the
            place of all (``tokens``, int32).
        head: outputs of a tile, where the head, and any other layer as wide, is to be computed in
            tiles, see ``passes.tile_linear``; by default it is whole.
        precision: of weights and arithmetic. States are float16 in any case. Where float16 has no
            room for a value, a ``PrecisionWarning`` says which; ``safe`` keeps the operators in
            float32 that float16 spoils, as ``lowering.convert(precision="safe")``.
        compress: how weights are stored, a rung of ``lowering.compress`` such as ``int8``; all
            functions share them still. What it costs, ``verify`` does not say: compare with the
            package without.
        chunk_bytes: the largest package, in bytes: the decoder is then cut between layers into
            packages ``part_1`` and so on, in a folder that ends with ``.chunks`` in the place of
            ``.mlpackage``. Each hands ``hidden`` (1, tokens, width) to the next, which say the same
            bits as one package would. ``iOS`` and ``macOS`` stand for their limits, see
            ``LIMITS``. A table that embedding and head share lies in the last part, which makes the
            rows of the tokens in functions of its own.
        pipeline: passes for every function; by default those that suit one token.
        overwrite: whether a package at ``path`` may be replaced.
        progress: called with a sentence for each step done.

    Returns:
        What was exported.

    Raises:
        GenerationError: something asked for does not fit the model or the machine, or a function
            says something else than the model.
        InputError: there is no such rung, or no weight that it can store.
        CaptureError: the model is no such decoder, or cannot be captured.
        LoweringError: a function cannot be converted.
        SaveError: the package cannot be written. Nothing half-written is left in any case.
    """
    begun = time.monotonic()
    limit = None if chunk_bytes is None else chunk_limit(chunk_bytes)
    target = check_path(path, overwrite) if limit is None else check_chain_path(path, overwrite)
    rung = None if compress is None else rung_of(compress)
    check_form(cache)
    check_embeddings(embeddings)
    wanted = functions(context, prefill, decode, logits)
    if not is_available():
        raise GenerationError(
            "transformers is not installed, whose decoders are exported",
            hint='pip install "ane-passes[generation]"',
        )
    check_model(model)
    check_memory(model)
    decoder = probe(model, source)
    largest = max(function.context for function in wanted)
    check_context(decoder, largest)
    check_best(decoder, wanted)
    longest = max(function.tokens for function in wanted)
    place = rooms(decoder, largest, longest, ring=window == "ring")
    passes = pipeline or decode_pipeline(largest, head)
    apart = embedding_of(model, decoder) if embeddings == "apart" else None
    recipe = Recipe(cache, passes, precision, rung, progress)
    if limit is not None:
        ask = Asked(model, decoder, place, wanted, window == "ring", apart is not None)
        contract, overflows = export_chain(ask, recipe, target, limit)
        return _report(target, contract, begun, precision, overflows)
    beside = None if apart is None else table_path(target, overwrite)
    stepper = Stepper(
        model,
        decoder,
        rooms=place,
        form=cache,
        pipeline=passes,
        context=largest,
        longest=longest,
        embedding=apart,
    )
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        made, steps, overflows = recipe.functions(stepper, wanted, Path(folder))
        read = None
        if decoder.source is not None:
            made[ENCODE] = recipe.function(stepper.encoder(), Path(folder) / ENCODE)
            read = SourceContract(ENCODE, decoder.source.shape, decoder.source.is_text)
        table = None
        if apart is not None and beside is not None:
            table = write_table(apart, Path(folder) / beside.name, recipe.dtype)
        contract = Contract(
            context=largest,
            vocabulary=decoder.vocabulary,
            form=cache,
            rings=tuple(sorted(place.rings)),
            states=place.shapes,
            steps=steps,
            source=read,
            table=table,
        )
        metadata = {CONTRACT_KEY: contract.to_metadata()}
        with nullcontext() if beside is None else placed(Path(folder) / beside.name, beside):
            recipe.package(made, target, metadata)
    return _report(target, contract, begun, precision, overflows)


def decode_pipeline(positions: int, head: int | None = None) -> tuple[Pass, ...]:
    """The passes for steps of one or few tokens at positions below ``positions``.

    ``head`` are the outputs of a tile of the head, ``None`` leaves it whole.

    The default ones, whose attention stays whole and whose norms are the shortest, and before them
    those that make a table of all that follows from the position.
    """
    passes = list(default_pipeline(attention="native", rms_norm="layer_norm"))
    names = [step.name for step in passes]
    at = 1 + names.index("eliminate_common")
    linear = 1 + names.index("canonical_linear")
    # Behind the pass that takes packed projections apart, or it would undo what is joined.
    unpacked = 1 + names.index("unpack_projections")
    return (
        *passes[:at],
        SelectEarly(),
        FoldRotationSign(),
        FoldConstants(),
        TabulatePositions(positions=positions),
        SimplifyViews(),
        *passes[at:linear],
        *(() if head is None else (TileLinear(head),)),
        *passes[linear:unpacked],
        JoinHeads(),
        SimplifyViews(),
        *passes[unpacked:],
        SelectEarly(),
        SimplifyViews(),
        ReshapeBeforeSplit(),
        SwapLastAxes(),
        DropLeadingAxes(),
        FoldConstants(),
    )


def _report(
    target: Path, contract: Contract, begun: float, precision: str, overflows: Sequence[Overflow]
) -> ExportReport:
    if precision == "fp16":
        warn(overflows)
    seconds = time.monotonic() - begun
    return ExportReport(target, contract, stored_bytes(target), seconds, tuple(overflows))
