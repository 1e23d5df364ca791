"""Placements: how the axes of a tensor lie in memory, apart from what they mean to the program.

A value has *logical* axes, those the program speaks of, such as (B, S, C). A placement places them
in a *physical* tensor: one group of logical axes per physical axis, in order. The image layout
of a (B, S, C) value is ``((0,), (2,), (), (1,))``, a physical (B, C, 1, S). Axes of size one
carry no data and stand in no group, so squeezing and permuting them is free; a group of several
axes, such as ``(h, d)`` in one channel axis, stays merged until an operator needs them apart.

Pure: knows sizes, no tensors. Sizes are ints or hashable symbols that compare equal when they
are known to be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Size = Hashable
# The ANE works on four axes (documented: Apple, "Deploying Transformers on the Apple Neural
# Engine"); placements keep to that where the data allows it.
_RANK = 4
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Placement:
    """Placement of logical axes; ``groups[i]`` are those of physical axis ``i``, outer first."""

    groups: Groups

    @property
    def rank(self) -> int:
        """Number of physical axes."""
        return len(self.groups)

    @property
    def parts(self) -> int:
        """Number of physical axes that hold data."""
        return sum(1 for group in self.groups if group)

    @property
    def order(self) -> tuple[int, ...]:
        """Logical axes in memory order; placements of equal order differ by a reshape at most."""
        return tuple(axis for group in self.groups for axis in group)

    def place(self, axis: int) -> int | None:
        """The physical axis that holds ``axis``, ``None`` for one of size one."""
        return next((i for i, group in enumerate(self.groups) if axis in group), None)

    def renamed(self, rename: Callable[[int], int | None]) -> Placement:
        """The same placement under new axis numbers; ``None`` drops an axis."""
        return Placement(
            tuple(
                tuple(new for axis in group if (new := rename(axis)) is not None)
                for group in self.groups
            )
        )


def plain(sizes: Sequence[Size]) -> Placement:
    """The placement of a tensor that is stored as the program spells it."""
    return Placement(tuple(() if size == 1 else (axis,) for axis, size in enumerate(sizes)))


def isolated(placement: Placement, axes: Sequence[int], max_rank: int) -> Placement | None:
    """``placement`` with each of ``axes`` alone in its group.

    Groups are taken apart in place; empty groups make room, nearest first, so that the rank
    stays where it was if it can.

    Returns:
        ``None`` if more than ``max_rank`` physical axes would be needed.
    """
    groups: list[tuple[int, ...]] = []
    for group in placement.groups:
        groups.extend(_apart(group, set(axes)))
    fewest = _fewest(tuple(groups))
    return Placement(fewest) if len(fewest) <= max_rank else None


def _apart(group: tuple[int, ...], axes: set[int]) -> list[tuple[int, ...]]:
    parts: list[tuple[int, ...]] = []
    for axis in group:
        if axis in axes or not parts or set(parts[-1]) & axes:
            parts.append((axis,))
        else:
            parts[-1] = (*parts[-1], axis)
    return parts or [()]


def blocks(
    old: Sequence[Size], new: Sequence[Size]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Pairs of (old axes, new axes) that a reshape maps onto each other; size one left out.

    Returns:
        ``None`` if symbolic sizes hide the correspondence.
    """
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = [left[i]], [right[j]]
        i, j = i + 1, j + 1
        if old[a[0]] == new[b[0]]:
            pairs.append((tuple(a), tuple(b)))
            continue
        product_a, product_b = old[a[0]], new[b[0]]
        while product_a != product_b:
            if not isinstance(product_a, int) or not isinstance(product_b, int):
                return None
            if product_a < product_b and i < len(left):
                size = old[left[i]]
                a.append(left[i])
                i += 1
                if not isinstance(size, int):
                    return None
                product_a *= size
            elif j < len(right):
                size = new[right[j]]
                b.append(right[j])
                j += 1
                if not isinstance(size, int):
                    return None
                product_b *= size
            else:
                return None
        pairs.append((tuple(a), tuple(b)))
    return pairs if i == len(left) and j == len(right) else None


@dataclass(frozen=True)
class Reshaped:
    """A reshape of a placement: the one that its input needs, and the one that it gives.

    They have the same memory order, so going from one to the other is a reshape at most and
    nothing where ``needs`` groups to the same physical sizes as ``gives``.
    """

    needs: Placement
    gives: Placement


def through_reshape(
    placement: Placement, old: Sequence[Size], new: Sequence[Size]
) -> Reshaped | None:
    """Carries ``placement`` of a value through a reshape of its logical axes.

    Splitting an axis is free. Merging axes is free within a group; axes that are alone in
    neighbouring groups merge by a physical reshape.

    Returns:
        ``None`` if the merged axes do not lie next to each other in memory.
    """
    pairs = blocks(old, new)
    if pairs is None:
        return None
    groups = [list(group) for group in placement.groups]
    for old_axes, new_axes in pairs:
        where = [place for axis in old_axes if (place := placement.place(axis)) is not None]
        if len(where) != len(old_axes):
            return None
        if len(set(where)) == 1:
            group = groups[where[0]]
            start = group.index(old_axes[0])
            if tuple(group[start : start + len(old_axes)]) != old_axes:
                return None
            group[start : start + len(old_axes)] = [_new(axis) for axis in new_axes]
            continue
        alone = all(groups[p] == [axis] for p, axis in zip(where, old_axes, strict=True))
        if not alone or where != sorted(where):
            return None
        between = groups[where[0] : where[-1] + 1]
        if sum(1 for group in between if group) != len(old_axes):
            return None
        for place in where:
            groups[place] = []
        # Tokens stay on the last physical axis, channels on the first of theirs.
        home = where[-1] if where[-1] == placement.rank - 1 else where[0]
        groups[home] = [_new(axis) for axis in new_axes]
    given = tuple(tuple(-1 - axis for axis in group) for group in groups)
    return Reshaped(placement, Placement(_fewest(given)))


def _fewest(groups: Groups) -> Groups:
    """Drops empty groups, the last first, down to the four axes that the ANE works on."""
    kept = list(groups)
    while len(kept) > _RANK and () in kept:
        del kept[len(kept) - 1 - kept[::-1].index(())]
    return tuple(kept)


def _new(axis: int) -> int:
    # New axis numbers are kept negative while old ones are still in the groups.
    return -1 - axis


@dataclass(frozen=True)
class Conversion:
    """Steps from one placement to another: an optional reshape, permutation and reshape.

    Attributes:
        split: groups to reshape to before the permutation, ``None`` if none is needed.
        permutation: order of physical axes, ``None`` if memory order is kept.
        merge: whether a reshape to the target's groups follows.
    """

    split: Groups | None
    permutation: tuple[int, ...] | None
    merge: bool

    @property
    def moves(self) -> bool:
        """True if data is transposed."""
        return self.permutation is not None


def convert(source: Placement, target: Placement) -> Conversion:
    """The cheapest steps from ``source`` to ``target`` of one value."""
    if source == target:
        return Conversion(None, None, False)
    if source.order == target.order:
        return Conversion(None, None, True)
    atom_of = {axis: atom for atom in _atoms(source, target) for axis in atom}
    goal_whole = _whole(target, atom_of)
    if _whole(source, atom_of):
        start, split = source.groups, None
    else:
        parts = [p for group in source.groups for p in _split_into(group, atom_of)]
        # Axes of size one go where the target wants them: in front, to be picked up below.
        ones = sum(1 for group in target.groups if not group) if goal_whole else 0
        start = split = ((),) * ones + tuple(parts)
    empties = [place for place, group in enumerate(start) if not group]
    if goal_whole and len(start) == target.rank:
        empty = iter(empties)
        order = tuple(start.index(g) if g else next(empty) for g in target.groups)
        return Conversion(split, order, False)
    wanted = [atom_of[axis] for axis in target.order if atom_of[axis][0] == axis]
    order = (*empties, *(start.index(atom) for atom in wanted))
    return Conversion(split, order, tuple(start[place] for place in order) != target.groups)


def _whole(placement: Placement, atom_of: dict[int, tuple[int, ...]]) -> bool:
    """True if no group has to be taken apart to move its axes."""
    return all(not group or atom_of[group[0]] == group for group in placement.groups)


def _split_into(
    group: tuple[int, ...], atom_of: dict[int, tuple[int, ...]]
) -> list[tuple[int, ...]]:
    return [atom_of[axis] for axis in group if atom_of[axis][0] == axis]


def _atoms(source: Placement, target: Placement) -> list[tuple[int, ...]]:
    """Longest runs of axes that follow each other in both orders and that the target holds whole.

    A run that the target takes apart is taken apart before it is moved, in the same reshape.
    """
    after = {one: other for group in target.groups for one, other in pairwise(group)}
    atoms: list[list[int]] = []
    for axis in source.order:
        if atoms and after.get(atoms[-1][-1]) == axis:
            atoms[-1].append(axis)
        else:
            atoms.append([axis])
    return [tuple(atom) for atom in atoms]
