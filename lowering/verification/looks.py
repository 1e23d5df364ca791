"""What both sides make of a picture, as people look at it: lines of text, boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from lowering.verification.parity import rel_l2

if TYPE_CHECKING:
    import PIL.Image

# x and y of the centre, width and height, as shares of the picture.
Box: TypeAlias = tuple[float, float, float, float]

# So many lines are printed of each side; a page shows all.
_PRINTED = 8
# Of numbers without a task the first few are shown, and what is further apart than this, as a share
# of the whole output, is marked.
_NUMBERS, _APART = 5, 0.01


@dataclass(frozen=True)
class LookLine:
    """One thing that a side says of a picture.

    Attributes:
        text: in words.
        share: a number from 0 to 1 that belongs to it, such as its probability.
        differs: whether the other side does not say the same.
        box: where it is.
        number: of its class in a mask.
    """

    text: str
    share: float | None = None
    differs: bool = False
    box: Box | None = None
    number: int | None = None

    def shown(self) -> str:
        """Text and share."""
        return self.text if self.share is None else f"{self.text}  {self.share:.4f}"


@dataclass(frozen=True)
class Look:
    """What one side makes of a picture.

    Attributes:
        lines: best first.
        mask: the class of every pixel (height, width).
        wrong: the pixels whose class is another than the other side's, likewise.
        picture: as this side takes it; ``None`` where it takes numbers.
    """

    lines: tuple[LookLine, ...] = ()
    mask: Tensor | None = None
    wrong: Tensor | None = None
    picture: PIL.Image.Image | None = None

    @property
    def differs(self) -> bool:
        """Whether anything is marked."""
        return any(line.differs for line in self.lines) or bool(
            self.wrong is not None and self.wrong.any()
        )


@dataclass(frozen=True)
class PictureLook:
    """A picture through torch and through the package.

    Attributes:
        name: of the picture.
        torch: what torch makes of it.
        package: what the package makes of it, in the interpreter.
    """

    name: str
    torch: Look
    package: Look

    @property
    def differs(self) -> bool:
        """Whether both can be told apart by looking."""
        return self.torch.differs or self.package.differs

    def to_json(self) -> dict[str, object]:
        """As plain values; without pictures and masks."""
        sides = {"torch": self.torch, "package": self.package}
        return {
            "name": self.name,
            "differs": self.differs,
            **{side: [vars(line) for line in look.lines] for side, look in sides.items()},
        }

    def __rich__(self) -> Table:
        """Both sides beside each other, what differs marked."""
        table = Table("torch", "package", "", title=escape(self.name), title_justify="left")
        rows = paired(self)
        for ours, theirs in rows[:_PRINTED]:
            mark = "[red]differs[/]" if any(s and s.differs for s in (ours, theirs)) else ""
            cells = (escape(line.shown()) if line else "–" for line in (ours, theirs))
            table.add_row(*cells, mark)
        if len(rows) > _PRINTED:
            rest = rows[_PRINTED:]
            wrong = sum(any(s and s.differs for s in row) for row in rest)
            table.add_row(f"and {len(rest)} more", "", f"[red]{wrong} differ[/]" if wrong else "")
        if self.package.wrong is not None and self.package.wrong.any():
            share = float(self.package.wrong.double().mean())
            table.add_row("", f"{share:.2%} of the pixels have another class", "[red]differs[/]")
        return table


def paired(look: PictureLook) -> list[tuple[LookLine | None, LookLine | None]]:
    """Lines of torch and of the package, place by place; ``None`` where a side has fewer."""
    ours, theirs = look.torch.lines, look.package.lines
    return [
        (
            ours[place] if place < len(ours) else None,
            theirs[place] if place < len(theirs) else None,
        )
        for place in range(max(len(ours), len(theirs)))
    ]


def of_numbers(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[Look, Look]:
    """Torch's and the package's outputs as numbers: the first few of each."""
    apart = [
        found[name].numel() != want.numel()
        or not rel_l2(found[name].reshape(want.shape), want) <= _APART
        for name, want in expected.items()
    ]
    return _numbers(expected, apart), _numbers(found, apart)


def _numbers(outputs: Mapping[str, Tensor], apart: Sequence[bool]) -> Look:
    lines = []
    for (name, value), differs in zip(outputs.items(), apart, strict=True):
        first = value.detach().flatten()[:_NUMBERS].to(torch.float64).tolist()
        more = ", ..." if value.numel() > _NUMBERS else ""
        numbers = ", ".join(f"{number:.4g}" for number in first)
        lines.append(LookLine(f"{name} {list(value.shape)}: {numbers}{more}", None, differs))
    return Look(tuple(lines))
