"""Two lists of boxes held against each other, whatever their order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Boxes that share less of their union are around different things.
_SAME_THING = 0.5
# Those that share this are the same box.
SAME_BOX = 0.95
# Confidences so near to what a box must reach, as a share of it, may fall on either side of it in
# float16.
_NEAR = 0.02


def overlaps(ours: Tensor, theirs: Tensor) -> Tensor:
    """What each pair of boxes (n, 4) and (m, 4), centre and size, shares of its union: (n, m)."""
    low = [boxes[:, :2] - boxes[:, 2:] / 2 for boxes in (ours, theirs)]
    high = [boxes[:, :2] + boxes[:, 2:] / 2 for boxes in (ours, theirs)]
    sides = torch.minimum(high[0][:, None], high[1]) - torch.maximum(low[0][:, None], low[1])
    shared = sides.clamp(min=0).prod(-1)
    areas = [boxes[:, 2:].prod(-1) for boxes in (ours, theirs)]
    whole = areas[0][:, None] + areas[1] - shared
    return torch.where(whole > 0, shared / whole, 0.0)


def pairs(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], at_least: float
) -> list[tuple[int, int]]:
    """Rows of both sides that are of one class and overlap by ``at_least``; each row once."""
    ours, theirs = (int(side["count"].sum()) for side in (found, expected))
    if not ours or not theirs:
        return []
    shared = overlaps(found["boxes"][0, :ours].double(), expected["boxes"][0, :theirs].double())
    same = found["classes"][0, :ours, None] == expected["classes"][0, :theirs]
    shared = torch.where(same, shared, 0.0)
    made = []
    for _ in range(min(ours, theirs)):
        best = int(shared.argmax())
        row, column = divmod(best, theirs)
        if shared[row, column] < at_least:
            break
        made.append((row, column))
        shared[row], shared[:, column] = 0.0, 0.0
    return made


def matched(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The share of boxes that the other side has too: the same class, 95 % of their union."""
    most = max(int(side["count"].sum()) for side in (found, expected))
    return len(pairs(found, expected, SAME_BOX)) / most if most else 1.0


def aligned(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], confidence: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """Both sides with what is around one thing in one place, and zeros where a side has nothing.

    What is only just confident enough, or stands at the end of a full list, and has no partner, is
    left out on either side.
    """
    made = pairs(found, expected, _SAME_THING)
    rows: list[tuple[int | None, int | None]] = list(made)
    for place, side in enumerate((found, expected)):
        taken = {pair[place] for pair in made}
        scores = side["confidence"][0]
        count = int(side["count"].sum())
        # A full list ends where the next best would have been as good as its last.
        last = float(scores[-1]) if count == len(scores) else -1.0
        for row in range(count):
            score = float(scores[row])
            near = any(abs(score - edge) <= _NEAR * edge for edge in (confidence, last))
            if row not in taken and not near:
                rows.append((row, None) if place == 0 else (None, row))
    order = sorted(rows, key=lambda row: (row[1] is None, row[1] or 0, row[0] or 0))
    both = {}
    for name in ("boxes", "confidence", "classes"):
        sides = []
        for place, side in enumerate((found, expected)):
            values = side[name][0].double()
            nothing = torch.zeros_like(values[0])
            lines = [nothing if row[place] is None else values[row[place]] for row in order]
            sides.append(torch.stack(lines) if lines else values[:0])
        both[name] = sides[0], sides[1]
    sums = [sum(row[place] is not None for row in order) for place in (0, 1)]
    both["count"] = torch.tensor([float(sums[0])]), torch.tensor([float(sums[1])])
    return both
