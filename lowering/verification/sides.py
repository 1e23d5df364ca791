"""The outputs of one call on both sides, and how near they can be asked to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lowering.verification.original import Judge
from lowering.verification.parity import rel_l2


class Sides:
    """The outputs of one step by their public names.

    Args:
        names: in the order of the outputs.
        expected: of the original.
        half: of the original in half precision, where it has them.
        judges: see ``Original``.
    """

    def __init__(
        self,
        names: Sequence[str],
        expected: Sequence[Tensor],
        half: Sequence[Tensor] | None,
        judges: Mapping[str, Judge],
    ) -> None:
        self.expected = dict(zip(names, expected, strict=True))
        self.half = None if half is None else dict(zip(names, half, strict=True))
        self._judges = judges

    def named(self, values: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """The package's outputs as far as it got, in the shapes of the original's."""
        return {
            name: value.reshape(want.shape) if value.numel() == want.numel() else value
            for (name, want), value in zip(self.expected.items(), values, strict=True)
            if value is not None
        }

    def judged(self, name: str, found: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """What is to be compared of an output."""
        judge = self._judges.get(name)
        if judge is None or len(found) != len(self.expected):
            return found.get(name), self.expected[name]
        return judge(found, self.expected)

    def yardsticks(self) -> list[float | None]:
        """The error of the original itself in half precision, of each output."""
        if self.half is None:
            return [None] * len(self.expected)
        pairs = [self.judged(name, self.half) for name in self.expected]
        return [None if ours is None else rel_l2(ours, theirs) for ours, theirs in pairs]
