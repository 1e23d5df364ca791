"""What a compression did, as values, JSON and a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

# Weights that are listed on the terminal, the largest first; --json has them all.
_LISTED = 12


@dataclass(frozen=True)
class Weight:
    """One weight of a package.

    Attributes:
        name: of the value, which it keeps.
        shape: its sizes.
        readers: operators that read it.
        function: of the package.
        rung: how it is stored; ``""`` where it is as it was.
        before: bits that it took.
        after: bits that it takes.
        error: relative L2 error of what is decoded from it.
        of_bound: the largest error of an element over what the rung allows there; 1 at most.
        why_left: why it is as it was, ``""`` where it is not.
    """

    name: str
    shape: tuple[int, ...]
    readers: tuple[str, ...]
    function: str
    rung: str
    before: int
    after: int
    error: float = 0.0
    of_bound: float = 0.0
    why_left: str = ""

    def to_json(self) -> dict[str, object]:
        """As a dictionary of plain values."""
        return {**asdict(self), "shape": list(self.shape), "readers": list(self.readers)}


@dataclass(frozen=True)
class Compression:
    """A package that was written with smaller weights. It may be given where its path may.

    Attributes:
        package: its path.
        rung: name of how its weights are stored.
        bytes_before: of the package that it was made from.
        bytes_after: of the package itself.
        weights: every large constant, in the order of the program.
        warnings: what is known against the rung.
    """

    package: Path
    rung: str
    bytes_before: int
    bytes_after: int
    weights: tuple[Weight, ...]
    warnings: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.package)

    @property
    def ratio(self) -> float:
        """How many times smaller the package is."""
        return self.bytes_before / self.bytes_after

    def to_json(self) -> dict[str, object]:
        """As a dictionary of plain values."""
        return {
            "package": str(self.package),
            "rung": self.rung,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "ratio": self.ratio,
            "warnings": list(self.warnings),
            "weights": [weight.to_json() for weight in self.weights],
        }

    def __rich__(self) -> RenderableType:
        """A table of the largest weights, and the sizes."""
        table = Table(box=None, pad_edge=False)
        for title in ("weight", "shape", "stored as", "bits each", "error", "of its bound"):
            table.add_column(title, justify="left" if title in ("weight", "shape") else "right")
        largest = sorted(self.weights, key=lambda weight: -weight.before)
        for weight in largest[:_LISTED]:
            count = max(1, _count(weight.shape))
            figures = (
                (weight.rung, f"{weight.after / count:.2f}", f"{weight.error:.1e}")
                if weight.rung
                else ("as it was", f"{weight.after / count:.2f}", "0")
            )
            bound = f"{weight.of_bound:.2f}" if weight.rung else ""
            shape = "×".join(map(str, weight.shape))
            table.add_row(escape(weight.name), shape, *figures, bound)
        return Group(table, *(escape(line) for line in self._sentences()))

    def _sentences(self) -> list[str]:
        lines = []
        if len(self.weights) > _LISTED:
            lines.append(f"and {len(self.weights) - _LISTED} smaller ones; --json lists them all")
        lines += [
            f"{weight.name} is as it was: {weight.why_left}"
            for weight in self.weights
            if weight.why_left
        ][:_LISTED]
        lines += [f"note: {warning}" for warning in self.warnings]
        before, after = self.bytes_before / 1e6, self.bytes_after / 1e6
        lines.append(
            f"{self.rung}: {before:.3g} → {after:.3g} MB, {self.ratio:.2f} times smaller; every "
            "weight was decoded and is within its bound"
        )
        return lines


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
