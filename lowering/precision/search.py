"""The fewest operators that must stay in float32, found by halving."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

# How often the error that an operator may have of its own is halved, where those that spoil the
# result alone do not explain it.
_ROUNDS = 5
# Runs of the program that a search may take; after them groups are no longer taken apart.
MAX_RUNS = 600
# The same where what is to be mended is chance: few operators settle it, or none are worth it.
RUNS_FOR_CHANCE = 60


@dataclass
class Search:
    """Looks for operators without which the rest may compute in float16.

    Args:
        names: the operators that may, in program order.
        share: the error as a share of what is aimed at, when only the given ones do.
        max_runs: calls of ``share``; a larger set is found where they do not suffice.

    Attributes:
        runs: calls of ``share`` made.
    """

    names: Sequence[str]
    share: Callable[[Collection[str]], float]
    max_runs: int = MAX_RUNS
    runs: int = field(default=0, init=False)

    def pins(self) -> tuple[str, ...]:
        """A set from which no single operator can be left out, in program order.

        Where even float32 throughout misses the aim, the error of float32 is the aim.
        """
        aim = max(1.0, 1.1 * self._share(()))
        pinned: set[str] = set()
        limit = aim
        for _ in range(_ROUNDS):
            pinned.update(self._guilty(self._without(pinned), limit))
            if self._share(self._without(pinned)) <= aim:
                break
            limit /= 2
        else:
            pinned = set(self.names)
        return self._fewest(pinned, aim)

    @property
    def is_cut_short(self) -> bool:
        """Whether runs were used up, so that fewer operators might do."""
        return self.runs >= self.max_runs

    def _share(self, halves: Collection[str]) -> float:
        self.runs += 1
        return self.share(halves)

    def _without(self, pinned: Collection[str]) -> list[str]:
        return [name for name in self.names if name not in pinned]

    def _guilty(self, group: Sequence[str], limit: float) -> list[str]:
        """Those of ``group`` that miss ``limit`` alone; others are cleared many at a time."""
        if not group or self._share(group) <= limit:
            return []
        if len(group) == 1 or self.is_cut_short:
            return list(group)
        half = len(group) // 2
        return [*self._guilty(group[:half], limit), *self._guilty(group[half:], limit)]

    def _fewest(self, pinned: set[str], aim: float) -> tuple[str, ...]:
        """``pinned`` without what the aim is reached without: large parts first, single ones last.

        Once a single one has gone, all others are tried again: one may have stood for another.
        """
        size = max(len(pinned) // 2, 1)
        kept = [name for name in self.names if name in pinned]
        while kept and not self.is_cut_short:
            dropped = False
            for part in [kept[start : start + size] for start in range(0, len(kept), size)]:
                fewer = [name for name in kept if name not in part]
                if self._share(self._without(fewer)) <= aim:
                    kept, dropped = fewer, True
            if size > 1:
                size //= 2
            elif not dropped:
                break
        return tuple(kept)
