"""How a weight was compressed in torch, in a form that moves with the weight.

A program computes with the dense weight, whose values are those that torch computes. Beside it
stand a few numbers, one for each block of the weight: the scale of its integers, or which palette
its values come from. They are enough to find every code again, and to prove that it decodes to the
value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

# Of an index into a palette; Core ML has no others.
PALETTE_BITS = (1, 2, 3, 4, 6, 8)
# Of an integer, likewise.
INTEGER_BITS = (4, 8)
# Of a number of a dense weight.
HALF_BITS = 16
# A product of the same factors in another order: each rounding is half an ulp of float32.
_ROUNDING = 4 * torch.finfo(torch.float32).eps
# What separates a weight's name from that of a number beside it; no module path has it.
_MARK = "/ane_"
_FORM = "form"


# Where a tensor lies, and its shape: it is the same weight under another name.
Place = tuple[int, tuple[int, ...]]


class DenseWeightWarning(UserWarning):
    """A weight that was compressed in torch is stored as a dense one."""


class EncodingError(Exception):
    """A weight's values are not what its encoding says; the text is a sentence for the user."""


@dataclass(frozen=True)
class Palette:
    """Codes into palettes.

    Attributes:
        indices: of the weight's shape, int64; of vectors one for each.
        tables: the blocks along each axis, then 2 ** bits entries in rising order; the last one
            is repeated where a palette has fewer. Vectors have an axis of their own after it.
        axis: along which vectors lie in the weight; ``None`` where entries are numbers.
    """

    indices: Tensor
    tables: Tensor
    axis: int | None = None


@dataclass(frozen=True)
class Encoding:
    """The compressed form of one weight.

    The grids ``palettes``, ``lanes``, ``scales`` and ``zero_points`` have the weight's rank; each
    of their sizes divides the weight's, and one number holds for a block.

    Attributes:
        bits: of an index or integer; 0 for a weight that is sparse and nothing else.
        is_sparse: zeros are left out.
        is_signed: integers may be negative.
        palettes: int64, which palette holds the values of a block; ``None`` for other kinds.
        lanes: int64, which number of its vector a value is; ``None`` where palettes hold numbers.
        scales: float32, value is scale × (integer − zero point); ``None`` for other kinds.
        zero_points: int64, ``None`` where all are zero.
    """

    bits: int = 0
    is_sparse: bool = False
    is_signed: bool = False
    palettes: Tensor | None = None
    scales: Tensor | None = None
    zero_points: Tensor | None = None
    lanes: Tensor | None = None

    _grids: ClassVar[tuple[str, ...]] = ("palettes", "scales", "zero_points", "lanes")

    @property
    def spelled(self) -> str:
        """A few words for a message, such as ``sparse 4-bit palette``."""
        kind = "palette" if self.palettes is not None else "integers" if self.bits else "weight"
        kind += " of vectors" * (self.lanes is not None)
        return f"{'sparse ' * self.is_sparse}{f'{self.bits}-bit ' * bool(self.bits)}{kind}"

    def palette(self, weight: Tensor) -> Palette:
        """The codes of ``weight`` and its palettes; every code decodes to the value itself.

        Zeros of a sparse weight are in no palette, and their codes have no meaning; of vectors
        they are.

        Raises:
            EncodingError: a block has more values than its palette, there are too many of them, or
                vectors are cut apart.
        """
        assert self.palettes is not None
        if self.lanes is not None:
            palette = vectors_of(weight, self.palettes, self.lanes, self.bits)
        else:
            grid = tuple(self.palettes.shape)
            palette = palette_of(weight, grid, self.bits, skip_zeros=self.is_sparse)
        self._check_room(weight, palette.tables.numel(), palette.indices.numel())
        return palette

    def integers(self, weight: Tensor) -> Tensor:
        """The integers of ``weight``, int64.

        Raises:
            EncodingError: a value is no multiple of its scale, the multiple needs more bits, or
                there are too many scales.
        """
        assert self.scales is not None
        codes = self.codes(weight)
        if not bool(((self._decoded(codes) - weight).abs() <= _ROUNDING * weight.abs()).all()):
            raise EncodingError(f"its values are no multiples of the scales of {self.spelled}")
        lowest = -(2 ** (self.bits - 1)) if self.is_signed else 0
        ends = [codes.min(), codes.max()]
        if self.zero_points is not None:
            ends += [self.zero_points.min(), self.zero_points.max()]
        if int(min(ends)) < lowest or int(max(ends)) >= lowest + 2**self.bits:
            raise EncodingError(f"its values are outside of {self.spelled}")
        self._check_room(weight, self.scales.numel(), weight.numel())
        return codes

    def _check_room(self, weight: Tensor, numbers: int, codes: int) -> None:
        if numbers * HALF_BITS + codes * self.bits >= weight.numel() * HALF_BITS:
            raise EncodingError(
                f"{numbers} numbers that {self.spelled} need beside their codes would take more "
                f"room than its {weight.numel()} values"
            )

    def exact(self, weight: Tensor) -> Tensor:
        """``weight`` without the rounding of half precision: what its integers stand for."""
        return weight if self.scales is None else self._decoded(self.codes(weight))

    def codes(self, weight: Tensor) -> Tensor:
        """The integers that come next to ``weight``, whatever it is."""
        assert self.scales is not None
        scales = spread(self.scales, weight.shape)
        # A channel of zeros alone may have a scale of zero.
        steps = torch.where(scales == 0, 0.0, weight / scales)
        codes = torch.round(steps).to(torch.int64)
        if self.zero_points is not None:
            codes += spread(self.zero_points, weight.shape)
        return codes

    def _decoded(self, codes: Tensor) -> Tensor:
        assert self.scales is not None
        if self.zero_points is not None:
            codes = codes - spread(self.zero_points, codes.shape)
        return codes * spread(self.scales, codes.shape)

    def check(self, weight: Tensor) -> None:
        """Proves that ``weight`` has this form.

        Raises:
            EncodingError: it has not.
        """
        if self.palettes is not None:
            self.palette(weight)
        elif self.scales is not None:
            self.integers(weight)

    def entries(self, name: str) -> dict[str, Tensor]:
        """This encoding as tensors of a program's state, for the weight called ``name``."""
        found = {_FORM: torch.tensor([self.bits, self.is_sparse, self.is_signed])}
        found |= {key: grid for key in self._grids if (grid := getattr(self, key)) is not None}
        return {f"{name}{_MARK}{key}": tensor for key, tensor in found.items()}

    @classmethod
    def of(cls, state: Mapping[str, object], name: str) -> Encoding | None:
        """The encoding of the weight called ``name``, ``None`` where ``state`` has none."""
        form = state.get(f"{name}{_MARK}{_FORM}")
        if not isinstance(form, Tensor):
            return None
        bits, is_sparse, is_signed = form.tolist()
        grids = {key: state.get(f"{name}{_MARK}{key}") for key in cls._grids}
        return cls(bits, bool(is_sparse), bool(is_signed), **grids)  # type: ignore[arg-type]


def place(tensor: Tensor) -> Place:
    """Where ``tensor`` lies."""
    return tensor.data_ptr(), tuple(tensor.shape)


def integers_of(codes: Tensor, scales: Tensor, zero_points: Tensor) -> Encoding:
    """The encoding of ``scales * (codes - zero_points)``, with as few bits as Core ML has.

    Raises:
        EncodingError: 8 bits hold them neither with a sign nor without.
    """
    lowest = min(int(codes.min()), int(zero_points.min()))
    highest = max(int(codes.max()), int(zero_points.max()))
    for bits, is_signed in itertools.product(INTEGER_BITS, (True, False)):
        first = -(2 ** (bits - 1)) if is_signed else 0
        if first <= lowest and highest < first + 2**bits:
            points = zero_points if bool(zero_points.any()) else None
            scales = scales.detach().to(torch.float32)
            return Encoding(bits, False, is_signed, scales=scales, zero_points=points)
    raise EncodingError(f"its integers go from {lowest} to {highest}, and a package has 8 bits")


def owner(name: str) -> str:
    """The weight that an entry of a program's state belongs to; ``name`` itself for a weight."""
    return name.partition(_MARK)[0]


def palette_of(
    weight: Tensor, grid: Sequence[int], bits: int, *, skip_zeros: bool = False
) -> Palette:
    """``weight`` as codes into one palette for each block of ``grid``.

    Args:
        weight: the values.
        grid: how many blocks along each axis.
        bits: of a code.
        skip_zeros: they need no entry.

    Raises:
        EncodingError: a block has more values than 2 ** bits.
    """
    cells = _cells(weight + 0.0, grid)  # a negative zero is no value of its own
    if skip_zeros:
        some = cells.gather(1, cells.abs().argmax(1, keepdim=True))
        cells = torch.where(cells == 0, some, cells)
    ordered, order = cells.sort(dim=1)
    ranks = torch.zeros_like(order)
    ranks[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    count = int(ranks.max()) + 1
    if count > 2**bits:
        raise EncodingError(f"a block has {count} values, and a {bits}-bit palette {2**bits}")
    tables = ordered[:, -1:].repeat(1, 2**bits)
    tables.scatter_(1, ranks, ordered)
    indices = torch.empty_like(ranks).scatter_(1, order, ranks)
    return Palette(_uncelled(indices, grid, weight.shape), tables.reshape(*grid, 2**bits))


def vectors_of(weight: Tensor, palettes: Tensor, lanes: Tensor, bits: int) -> Palette:
    """``weight`` as codes into palettes of vectors.

    Args:
        weight: the values.
        palettes: see :class:`Encoding`.
        lanes: likewise.
        bits: of a code.

    Raises:
        EncodingError: a block has more vectors than 2 ** bits, or the vectors are no neighbours
            along one axis.
    """
    axis, size = _along(weight, lanes)

    def split(values: Tensor) -> Tensor:
        return values.movedim(axis, -1).unflatten(-1, (-1, size))

    values = split(weight + 0.0)  # a negative zero is no value of its own
    numbers, kinds = _numbered(values)
    grid = palettes
    if palettes.shape[axis] > 1:
        which, _ = _numbered(split(spread(palettes, weight.shape)))
        grid = gathered(which.movedim(-1, axis))
    found = palette_of(numbers.movedim(-1, axis).to(torch.float64), grid.shape, bits)
    return Palette(found.indices, kinds[found.tables.to(torch.int64)], axis)


def _along(weight: Tensor, lanes: Tensor) -> tuple[int, int]:
    """The axis that vectors lie along, and the length of each."""
    axes = [axis for axis, size in enumerate(lanes.shape) if size > 1]
    size = int(lanes.max()) + 1
    if len(axes) == 1 and weight.shape[axes[0]] % size == 0:
        line = lanes.flatten().repeat_interleave(weight.shape[axes[0]] // lanes.numel())
        each = line.reshape(-1, size)
        if bool((each == each[0]).all()) and each[0].sort().values.tolist() == list(range(size)):
            return axes[0], size
    raise EncodingError("the vectors of its palette are cut apart, or lie along several axes")


def _numbered(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """A number for each of ``vectors``, which lie along the last axis, and the distinct ones."""
    numbers = torch.zeros(vectors.shape[:-1], dtype=torch.int64)
    for lane in vectors.unbind(-1):
        kinds, kind = lane.unique(return_inverse=True)
        numbers = (numbers * len(kinds) + kind).unique(return_inverse=True)[1]
    flat = vectors.flatten(0, -2)
    some = torch.zeros(int(numbers.max()) + 1, dtype=torch.int64)
    some[numbers.flatten()] = torch.arange(len(flat))
    return numbers, flat[some]


def spread(grid: Tensor, shape: Sequence[int]) -> Tensor:
    """Each number of ``grid`` over its block of ``shape``; a view where blocks are whole axes."""
    for axis, (count, size) in enumerate(zip(grid.shape, shape, strict=True)):
        if count not in (1, size):
            grid = grid.repeat_interleave(size // count, axis)
    return grid.expand(*shape)


def gathered(dense: Tensor) -> Tensor:
    """The smallest grid whose ``spread`` is ``dense``."""
    for axis, size in enumerate(dense.shape):
        differs = dense.narrow(axis, 1, size - 1) != dense.narrow(axis, 0, size - 1)
        others = [other for other in range(dense.ndim) if other != axis]
        edges = (differs.any(dim=others) if others else differs).nonzero().flatten() + 1
        block = math.gcd(size, *edges.tolist())
        dense = dense.index_select(axis, torch.arange(0, size, block))
    return dense


def _cells(weight: Tensor, grid: Sequence[int]) -> Tensor:
    """(blocks, elements of each)."""
    sizes = [n for g, size in zip(grid, weight.shape, strict=True) for n in (g, size // g)]
    rank = weight.ndim
    axes = [*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)]
    return weight.reshape(sizes).permute(axes).reshape(math.prod(grid), -1)


def _uncelled(cells: Tensor, grid: Sequence[int], shape: Sequence[int]) -> Tensor:
    rank = len(shape)
    blocks = [size // g for g, size in zip(grid, shape, strict=True)]
    axes = [n for axis in range(rank) for n in (axis, rank + axis)]
    return cells.reshape(*grid, *blocks).permute(axes).reshape(tuple(shape))
