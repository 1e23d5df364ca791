"""Rungs of the ladder of sizes: how weights can be stored, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from frontend.errors import InputError

Kind: TypeAlias = Literal["linear", "palette", "sparse", "joint"]

# Channels that share a palette (*documented*: coremltools' guide to palettization names 8 to 32,
# and 16 as a start).
GROUP = 16
# Weights of one output channel that share a scale (*documented*: coremltools' default).
BLOCK = 32
# Share of the weights that become zero where no other is named (*assumed*: what pruning without
# training often stands; the ladder shows what it costs).
SPARSITY = 0.5
# Sizes of palettes (*documented*: coremltools 9.0, OpPalettizerConfig).
PALETTE_BITS = (1, 2, 3, 4, 6, 8)
# *Documented*: the iOS 16 form of a palette has no index of three bits.
_IOS16_PALETTE_BITS = (1, 2, 4, 6, 8)


@dataclass(frozen=True)
class Rung:
    """One way to store the weights of a package.

    Attributes:
        name: such as ``pal6``.
        kind: ``linear``: integers times a scale; ``palette``: places in a table of numbers;
            ``sparse``: the small ones are zero and not stored; ``joint``: sparse, and the rest in a
            palette.
        bits: of a stored weight; 16 where only zeros are left out.
        group: output channels that share a palette; 0 where the whole weight has one.
        block: weights of one output channel that share a scale; 0 where all of them do.
        sparsity: share of the weights that become zero.
    """

    name: str
    kind: Kind
    bits: int
    group: int = 0
    block: int = 0
    sparsity: float = 0.0

    @property
    def needs_ios18(self) -> bool:
        """Whether packages for iOS 16 and 17 have no form for it (*documented*: coremltools)."""
        old = (self.kind == "palette" and self.bits in _IOS16_PALETTE_BITS) or (
            self.kind in ("linear", "sparse") and self.bits >= 8
        )
        return not old or self.group > 0 or self.block > 0

    @property
    def warning(self) -> str:
        """What is known against it, a sentence; ``""`` where nothing is."""
        if self.block:
            return (
                "convolutions and products whose weights have a scale for each block are predicted "
                "to leave the Neural Engine"
            )
        return ""


_NAMED: dict[str, Rung] = {
    rung.name: rung
    for rung in (
        Rung("int8", "linear", 8),
        *(Rung(f"pal{bits}", "palette", bits) for bits in reversed(PALETTE_BITS)),
        Rung("pal6-grouped", "palette", 6, group=GROUP),
        Rung("pal4-grouped", "palette", 4, group=GROUP),
        Rung("int4-block", "linear", 4, block=BLOCK),
        Rung("sparse", "sparse", 16, sparsity=SPARSITY),
        Rung("joint", "joint", 4, sparsity=SPARSITY),
    )
}
# These look at more than one weight, or at activations: see ``mixed`` and ``activations``.
MIXED, W8A8 = "mixed", "w8a8"
# What `ane-passes compress --help` and messages list; others follow the same forms.
NAMES = tuple(_NAMED)
_PALETTE = re.compile(r"pal([1-8])-grouped([1-9]\d*)")
_SPARSE = re.compile(r"(sparse|joint)([1-9]\d?)")
_BLOCK = re.compile(r"int4-block([1-9]\d*)")


def rung_of(rung: str | Rung) -> Rung:
    """The rung of this name.

    Beside :data:`NAMES` there are ``pal4-grouped8`` (channels that share a palette),
    ``int4-block64`` (weights that share a scale), ``sparse75`` and ``joint75`` (percent that become
    zero).

    Raises:
        InputError: there is none.
    """
    if isinstance(rung, Rung):
        return rung
    if rung in _NAMED:
        return _NAMED[rung]
    if (found := _PALETTE.fullmatch(rung)) and int(found[1]) in PALETTE_BITS:
        return Rung(rung, "palette", int(found[1]), group=int(found[2]))
    if found := _BLOCK.fullmatch(rung):
        return replace(_NAMED["int4-block"], name=rung, block=int(found[1]))
    if found := _SPARSE.fullmatch(rung):
        return replace(_NAMED[found[1]], name=rung, sparsity=int(found[2]) / 100)
    raise InputError(
        f"there is no rung {rung!r}",
        expected=f"{', '.join((*NAMES, MIXED, W8A8))}, "
        "or one such as pal4-grouped8, int4-block64, sparse75",
        hint="name one of these; `ane-passes compress --help` says what each stores",
    )
