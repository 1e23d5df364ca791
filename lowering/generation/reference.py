"""What a decoder says without a cache: what its steps are held against."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import nn

from frontend.decoder.part import DecoderLayers, listened
from frontend.decoder.probing import Decoder, logits_of
from frontend.surroundings import inference_mode


class Reference:
    """Logits of the model itself, without a cache.

    Args:
        model: as the user gave it.
        decoder: what it keeps.
        tokens: how many to compute, at most.

    Attributes:
        ids: (1, tokens).
        given: all that the model is called with, by name.
        logits: (tokens, vocabulary).
        hidden: (tokens, width) that each of ``layers`` hands on.
    """

    def __init__(
        self, model: nn.Module, decoder: Decoder, tokens: int, layers: DecoderLayers | None = None
    ) -> None:
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(decoder.vocabulary, (1, tokens), generator=draw)
        # Some models number the tokens that are none of the padding.
        padding = getattr(getattr(model, "config", None), "pad_token_id", None)
        self.ids = ids if padding is None else ids.where(ids != padding, _after(ids, decoder))
        given = {decoder.named("input_ids"): self.ids}
        if (source := decoder.source) is not None:
            given |= source.inputs()
            if source.is_text:
                given["attention_mask"] = source.mask(source.example_length())
        self.given: dict[str, torch.Tensor] = given
        with ExitStack() as listening, inference_mode(model), torch.no_grad():
            heard = [] if layers is None else listening.enter_context(listened(model, layers))
            self.logits = logits_of(model(**given, use_cache=False))[0]
        self.hidden = [one[0] for one in heard]
        self._unit = float(self.logits.std()) or 1.0

    def error(self, logits: torch.Tensor, start: int) -> float:
        """Largest error of (tokens, vocabulary) from ``start``, in standard deviations."""
        expected = self.logits[start : start + len(logits)]
        difference = (logits - expected).abs().max()
        return float(difference) / self._unit

    def error_of_part(self, hidden: torch.Tensor, start: int, end: int) -> float:
        """As ``error``, of (tokens, width) that the layers up to ``end`` hand on."""
        expected = self.hidden[end - 1][start : start + len(hidden)]
        return float((hidden - expected).abs().max() / (expected.std() or 1.0))

    def error_of(self, said: Mapping[str, torch.Tensor], start: int) -> float:
        """As ``error``, of what a function returns: the best tokens are as good as their logits."""
        if "tokens" not in said:
            return self.error(said["logits"], start)
        tokens = said["tokens"].long()
        expected = self.logits[start : start + len(tokens)]
        chosen = expected.gather(1, tokens)
        worst = (expected.topk(tokens.shape[1]).values - chosen).abs().max()
        if "logits" in said:
            worst = torch.maximum(worst, (said["logits"] - chosen).abs().max())
        return float(worst) / self._unit


def _after(ids: torch.Tensor, decoder: Decoder) -> torch.Tensor:
    """The tokens that follow ``ids`` in the vocabulary."""
    return (ids + 1).remainder(decoder.vocabulary)
