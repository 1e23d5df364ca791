"""What an export is asked for, checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import psutil
import torch
from torch import nn

from frontend.decoder.probing import Decoder
from frontend.decoder.step import CacheForm
from lowering.generation.contract import DECODE, PREFILL
from lowering.generation.errors import GenerationError
from lowering.package.saving import package_path

# Tokens of a prompt taken at once where nothing is said: ports take 8 to 128.
_PREFILL = 64
# Memory that an export needs at its peak beside the model's weights, in sizes of these: the largest
# function in float16, and coremltools' copies of it (*measured* by benchmarks.decoder_large).
_BESIDE_WEIGHTS = 1.9
LOGITS = ("needed", "all", "last", "argmax")
"""What functions return: ``needed`` the logits of all tokens of a decode step, and of the last of
a prompt; ``all`` of all, ``last`` of the last, always; ``argmax`` the likeliest token alone, of the
same tokens as ``needed``."""


@dataclass(frozen=True)
class WantedFunction:
    """One function that is asked for.

    Attributes:
        name: of the function.
        tokens: how many it takes at once.
        context: tokens that it sees.
        last: whether it returns the logits of one token alone.
        pads: whether it is to take fewer tokens than fit, with junk behind.
        best: how many of the likeliest tokens it returns in the place of logits, ``None`` for all.
    """

    name: str
    tokens: int
    context: int
    last: bool
    pads: bool = False
    best: int | None = None


def functions(
    context: int | Sequence[int],
    prefill: int | Sequence[int] | None,
    decode: int | Sequence[int],
    logits: str = "needed",
) -> tuple[WantedFunction, ...]:
    """The functions of a package: those for single tokens first, as the default.

    One length is named ``decode`` or ``prefill``; further ones get their length as an ending
    (``decode_4``, ``prefill_64``), and contexts but the largest theirs (``decode_of_512``).

    Raises:
        GenerationError: a number is out of range, or one token at a time is left out.
    """
    contexts = _numbers("context", context)
    if prefill is None:
        prefill = min(_PREFILL, max(contexts))
    prefills = _numbers("prefill", prefill, or_none=True)
    decodes = _numbers("decode", decode)
    kind, best = _logits(logits)
    if 1 not in decodes:
        raise GenerationError(
            "generation needs a function for one token",
            expected="decode=1, or 1 among several",
            found=f"decode={decode}",
        )
    longest = max([*prefills, *decodes])
    if longest > max(contexts):
        raise GenerationError(
            "a step is longer than the context",
            expected=f"at most {max(contexts)} tokens, the context",
            found=f"{longest}",
            hint="raise context, or lower prefill and decode",
        )
    found = []
    for size in sorted(contexts, reverse=True):
        ending = "" if size == max(contexts) else f"_of_{size}"
        for base, lengths in ((DECODE, decodes), (PREFILL, prefills)):
            for tokens in sorted(lengths):
                if tokens > size:
                    continue
                plain = tokens == 1 if base == DECODE else len(prefills) == 1
                name = base if plain else f"{base}_{tokens}"
                pads = base == PREFILL
                last = (pads and kind != "all") or (kind == "last" and tokens > 1)
                found.append(WantedFunction(name + ending, tokens, size, last, pads, best))
    return tuple(found)


def _logits(given: str) -> tuple[str, int | None]:
    """Whose logits are wanted, and how many of the best in the place of all."""
    kind, colon, number = given.partition(":")
    if kind in LOGITS and not colon:
        return kind, 1 if kind == "argmax" else None
    if kind == "topk" and number.isdecimal() and int(number) >= 1:
        return kind, int(number)
    raise GenerationError(
        "there is no such form of the logits",
        expected=f"{', '.join(LOGITS)} or topk:N, as topk:64",
        found=given,
    )


def _numbers(name: str, given: int | Sequence[int], *, or_none: bool = False) -> tuple[int, ...]:
    numbers = (given,) if isinstance(given, int) else tuple(given)
    if or_none and numbers == (0,):
        return ()
    if (not numbers and not or_none) or any(n < 1 for n in numbers):
        raise GenerationError(
            f"{name} is out of range", expected="numbers of tokens, 1 or more", found=str(given)
        )
    return tuple(dict.fromkeys(numbers))


def check_model(model: nn.Module) -> None:
    """Refuses what would be exported as something else than it is.

    Raises:
        GenerationError: a module in training mode, or weights that are not float32.
    """
    training = [name or type(model).__name__ for name, m in model.named_modules() if m.training]
    if training:
        raise GenerationError(
            "the model is in training mode",
            module=training[0],
            expected="every module in evaluation mode",
            found=f"{len(training)} modules that train",
            hint="call model.eval() first",
        )
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            raise GenerationError(
                "the model's weights are not float32",
                module=name,
                expected="torch.float32; the package is float16 all the same",
                found=str(tensor.dtype),
                hint="call model.float() first",
            )


def check_best(decoder: Decoder, functions: Sequence[WantedFunction]) -> None:
    """Raises ``GenerationError`` for more of the best tokens than there are."""
    best = max(function.best or 0 for function in functions)
    if best > decoder.vocabulary:
        raise GenerationError(
            "more of the likeliest tokens are asked for than there are",
            expected=f"at most {decoder.vocabulary}, the vocabulary",
            found=str(best),
        )


def check_context(decoder: Decoder, context: int) -> None:
    """Raises ``GenerationError`` for more positions than the model was made for."""
    if decoder.positions is not None and context > decoder.positions:
        raise GenerationError(
            "the context is longer than the positions that the model was made for",
            expected=f"at most {decoder.positions}, its max_position_embeddings",
            found=str(context),
            hint="lower context",
        )


def check_form(form: str) -> None:
    """Raises ``GenerationError`` for a form of the cache that there is not."""
    if form not in get_args(CacheForm):
        raise GenerationError(
            "there is no such form of the cache",
            expected=", ".join(get_args(CacheForm)),
            found=form,
        )


def check_embeddings(place: str) -> None:
    """Raises ``GenerationError`` for a place of the embeddings that there is not."""
    if place not in ("inside", "apart"):
        raise GenerationError(
            "there is no such place for the embeddings", expected="inside, apart", found=str(place)
        )


def check_path(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Where the package goes.

    Raises:
        GenerationError: something stands there, and it is not to be replaced.
        SaveError: the folder is missing, or something that is no package stands there.
    """
    target = package_path(path)
    if target.exists() and not overwrite:
        raise GenerationError(
            "a package stands at the output path",
            found=str(target),
            hint="choose another path, or pass overwrite=True (--overwrite)",
        )
    return target


def check_memory(model: nn.Module) -> None:
    """Raises ``GenerationError`` where too little memory is free for an export.

    The weights are in memory already; what comes on top is *measured* by benchmarks.decoder_large.
    """
    weights = sum(t.numel() * t.element_size() for t in model.parameters())
    needed, free = int(_BESIDE_WEIGHTS * weights), psutil.virtual_memory().available
    if needed > free:
        raise GenerationError(
            "too little memory is free for this export",
            expected=f"{needed / 2**30:.1f} GiB, {_BESIDE_WEIGHTS} times the model's weights",
            found=f"{free / 2**30:.1f} GiB",
            hint="end other programs, or export on a larger machine",
        )
