"""Two texts held against each other, word by word."""

from __future__ import annotations

from collections.abc import Sequence


def edits(found: Sequence[str], expected: Sequence[str]) -> int:
    """The fewest words to put in, take out or change (Levenshtein's distance)."""
    row = list(range(len(expected) + 1))
    for count, ours in enumerate(found, 1):
        last, row[0] = row[0], count
        for place, theirs in enumerate(expected, 1):
            change = last + (ours != theirs)
            last = row[place]
            row[place] = min(change, last + 1, row[place - 1] + 1)
    return row[-1]


def agreement(found: str, expected: str) -> float:
    """One less the word error rate, and not below 0; 1.0 where neither side says anything."""
    ours, theirs = found.split(), expected.split()
    if not theirs:
        return float(not ours)
    return max(0.0, 1.0 - edits(ours, theirs) / len(theirs))
