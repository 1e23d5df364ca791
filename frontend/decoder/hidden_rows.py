"""Attention without a mask, over a cache with rows that no token is in yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_SOFTMAXES = (functional.softmax, torch.softmax, Tensor.softmax)


class HiddenRows(TorchFunctionMode):
    """Lets no query of a step see rows behind its token, where scores are as long as the cache.

    Some models make no mask for a single token, since a cache that grows holds nothing but earlier
    tokens. One of fixed length does, so that the mask is put in front of the softmax here, and into
    torch's own attention where that is given none. A mask that is there already stays.

    Args:
        position: (1,), how many tokens are in the cache.
        tokens: of the step.
        lengths: tokens that layers have room for, in the order of the tokens.
    """

    def __init__(self, position: Tensor, tokens: int, lengths: Collection[int]) -> None:
        super().__init__()
        self._position, self._tokens, self._lengths = position, tokens, lengths
        self._visible: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls ``func`` with what it may see."""
        given = dict(kwargs or {})
        if func in _SOFTMAXES:
            args = (self._masked(args[0]), *args[1:])
        elif func is functional.scaled_dot_product_attention:
            query, key = args[0], args[1]
            has_mask = len(args) > 3 or given.get("attn_mask") is not None
            if not has_mask and self._fits(query.shape[-2], key.shape[-2]):
                given |= {"attn_mask": self._seen(key.shape[-2]), "is_causal": False}
        return func(*args, **given)

    def _fits(self, queries: int, keys: int) -> bool:
        return queries == self._tokens and keys in self._lengths

    def _masked(self, scores: Tensor) -> Tensor:
        if scores.dim() < 2 or not self._fits(*scores.shape[-2:]):
            return scores
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~self._seen(scores.shape[-1]), lowest)

    def _seen(self, length: int) -> Tensor:
        """(tokens, length), true where a query sees a row."""
        if length not in self._visible:
            queries = self._position + torch.arange(self._tokens)
            self._visible[length] = torch.arange(length) <= queries.unsqueeze(1)
        return self._visible[length]
