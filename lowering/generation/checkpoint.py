"""Models and tokenizers in folders that transformers reads; nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frontend.decoder.hf_cache import is_available
from frontend.errors import first_line
from lowering.generation.errors import GenerationError

_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError)


def load_checkpoint(folder: Path) -> nn.Module:
    """The causal decoder in ``folder``, in float32 and evaluation mode.

    Raises:
        GenerationError: transformers is not installed, or cannot read the folder.
    """
    model = _loaded("AutoModelForCausalLM", folder, dtype=torch.float32)
    assert isinstance(model, nn.Module)
    return model.eval()


class Tokenizer:
    """Text to ids and back.

    Args:
        folder: with the tokenizer's files.

    Raises:
        GenerationError: transformers is not installed, or cannot read the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _loaded("AutoTokenizer", folder)

    @property
    def end(self) -> tuple[int, ...]:
        """The token that ends an answer, if there is one."""
        found = self._tokenizer.eos_token_id
        return () if found is None else (found,)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``."""
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def streamed(self, write: Callable[[str], None]) -> Callable[[int], None]:
        """Called with one token after the other, it writes the text that each adds.

        A token may hold a part of a letter; it is written with the token that completes it.
        """
        ids: list[int] = []
        written = ""

        def on_token(token: int) -> None:
            nonlocal written
            ids.append(token)
            text = self.decode(ids)
            if text.startswith(written) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                write(text[len(written) :])
                written = text

        return on_token


def _loaded(kind: str, folder: Path, **options: object) -> Any:
    if not is_available():
        raise GenerationError(
            "transformers is not installed, which reads this folder",
            found=str(folder),
            hint='pip install "ane-passes[generation]"',
        )
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(
            str(folder), local_files_only=True, **options
        )
    except _ERRORS as error:
        raise GenerationError(
            f"transformers' {kind} cannot read the folder",
            found=f"{folder}: {first_line(error)}",
            hint="check that the folder is complete",
        ) from error
