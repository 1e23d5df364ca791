"""Which token comes next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowering.generation.errors import GenerationError


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits.

    Attributes:
        temperature: 0 takes the likeliest; otherwise logits are divided by it.
        top_k: only so many of the likeliest are drawn from; ``None`` for all.
        top_p: only the likeliest that together reach this probability; ``None`` for all.
        seed: of the draws.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = (
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1"),
        )
        for name, value, fits, expected in wrong:
            if not fits:
                raise GenerationError(
                    f"{name} is out of range", expected=expected, found=str(value)
                )


class Sampler:
    """Draws tokens one after the other."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def __call__(self, logits: NDArray[np.floating]) -> int:
        """The next token for (vocabulary,) logits."""
        chosen = self._sampling
        if chosen.temperature == 0:
            return int(logits.argmax())
        return int(self._random.choice(logits.size, p=probabilities(logits, chosen)))


def probabilities(logits: NDArray[np.floating], sampling: Sampling) -> NDArray[np.float64]:
    """What tokens are drawn with, (vocabulary,); the order is temperature, top k, top p.

    Of equally likely tokens at a limit, those with smaller ids stay.
    """
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    order = np.argsort(-weights, kind="stable")
    if sampling.top_k is not None:
        weights[order[sampling.top_k :]] = 0
    if sampling.top_p is not None:
        ranked = weights[order] / weights.sum()
        # A token stays while those before it have not reached the limit.
        before = np.cumsum(ranked) - ranked
        weights[order[before >= sampling.top_p]] = 0
    found: NDArray[np.float64] = weights / weights.sum()
    return found
