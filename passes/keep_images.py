"""Tokens that are an image before and after are not made a row between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from frontend.ops import rms_norm
from passes.base import Pass
from passes.layout.min_cut import FORBIDDEN, CutValue, Term, Use, solve
from passes.layout.placement import blocks
from passes.patterns.nodes import (
    argument,
    aten,
    axes,
    input_of,
    is_call,
    is_static,
    is_tensor,
    permuted_axes,
    replaced,
    shape,
)
from passes.patterns.operators import RESHAPES
from passes.patterns.pointwise import is_pointwise_call
from passes.rewriter import Rewriter

# (batch, token, channel), in any order; as an image it has the four axes that the ANE works on.
_RANK = 3
# Which axis of a linear's input counts tokens, for its convolution to be one of (B, C, H, W).
_TOKEN = 1
# A reshape costs more than all operators of a program that change their form for it.
_RESHAPE = 1 << 16


@dataclass(frozen=True)
class KeepImages(Pass):
    """Runs token by token operators on (B, H, W, C) where that saves reshapes to (B, H·W, C).

    Before: ``reshape (B, H·W, C)``, ``add``, ``layer_norm``, ``linear``, ``reshape (B, H, W, C)``
    between two windows, rolls or convolutions of an image, as in Swin and SegFormer; after: the
    same without reshapes, and linears become convolutions of (B, C, H, W). What needs a row, such
    as attention over all pixels, reads one behind a reshape. Which values are images is one choice
    of fewest reshapes.

    Exact: each element is computed from the same elements; a linear may sum in another order
    (float32 within rtol 1e-5 / atol 1e-6).
    """

    name: ClassVar[str] = "keep_images"
    runs_after: ClassVar[Mapping[str, str]] = {
        "canonical_linear": "the linears that it moves are made there",
        "fuse_rms_norm": "the norms that it moves are made there",
    }

    def apply(self, rw: Rewriter) -> None:
        """Looks at each number of pixels once, with the height and width that most name."""
        reshapes = [node for node in rw.find(*RESHAPES) if not rw.is_constant(node)]
        found = Counter(size for node in reshapes if (size := _site(node)) is not None)
        done: set[int] = set()
        for (height, width), _ in found.most_common():
            if height * width not in done:
                done.add(height * width)
                tokens = _Tokens(rw, height, width)
                tokens.write(tokens.choose())


def _site(reshape: fx.Node) -> tuple[int, int] | None:
    """Height and width that ``reshape`` joins to one axis, or takes apart."""
    ends = sorted((shape(input_of(reshape)), shape(reshape)), key=len)
    row, image = ends
    if len(row) != _RANK or len(image) != _RANK + 1:
        return None
    if not all(isinstance(n, int) for n in (*row, *image)):
        return None
    for place in range(_RANK):
        height, width = image[place : place + 2]
        same = (*image[:place], height * width, *image[place + 2 :]) == row
        if same and height != 1 != width:
            return height, width
    return None


class _Tokens:
    """The values of one height and width, as rows or as images.

    Attributes:
        height, width: of the image.
        place: the axis of tokens in each value that has one.
        images: what has been emitted for a value as an image.
    """

    def __init__(self, rw: Rewriter, height: int, width: int) -> None:
        self.rw = rw
        self.height, self.width = height, width
        self.place: dict[fx.Node, int] = {}
        self.images: dict[fx.Node, fx.Node] = {}
        for node in rw.find(*RESHAPES):
            if _site(node) == (height, width):
                row = min(input_of(node), node, key=lambda x: len(shape(x)))
                self._follow(row, self._axis_of_site(node, row))

    def _axis_of_site(self, reshape: fx.Node, row: fx.Node) -> int:
        other = shape(reshape if row is not reshape else input_of(reshape))
        return next(p for p in range(_RANK) if self._image_shape(row, p) == other)

    def _image_shape(self, row: fx.Node, place: int) -> tuple[int, ...]:
        own = shape(row)
        return (*own[:place], self.height, self.width, *own[place + 1 :])

    def _follow(self, row: fx.Node, place: int) -> None:
        """Adds what hangs together with ``row`` by operators that treat each token alike."""
        pending = [(row, place)]
        while pending:
            node, at = pending.pop()
            if node in self.place or self.rw.is_constant(node):
                continue
            self.place[node] = at
            pending.extend(self.operands(node, at) or ())
            for user in node.users:
                there = _axis_behind(user, node, at)
                if there is not None and (node, at) in (self.operands(user, there) or ()):
                    pending.append((user, there))

    def operands(self, node: fx.Node, place: int) -> list[tuple[fx.Node, int]] | None:
        """Operands that have the tokens of axis ``place`` too, and where.

        Returns:
            ``None`` for an operator that does not treat each token alike.
        """
        if node.op != "call_function" or not is_tensor(node) or not is_static(node):
            return None
        if len(shape(node)) != _RANK or shape(node)[place] != self.height * self.width:
            return None
        if is_call(node, aten.permute.default):
            return [(input_of(node), permuted_axes(node)[place])]
        if is_pointwise_call(node):
            inputs = [x for x in node.all_input_nodes if is_tensor(x)]
            there = [(x, place - _RANK + len(shape(x))) for x in inputs]
            return [(x, at) for x, at in there if at >= 0 and shape(x)[at] != 1]
        x = node.args[0]
        if not isinstance(x, fx.Node) or len(shape(x)) != _RANK:
            return None
        is_linear = is_call(node, aten.linear.default) and place == _TOKEN
        return [(x, place)] if is_linear or _is_norm_beside(node, place) else None

    def choose(self) -> set[fx.Node]:
        """The values that are images where the fewest reshapes are left."""
        values: dict[Hashable, CutValue] = {}
        terms: list[Term] = []
        for node, place in self.place.items():
            values[node] = self._costs(node, place)
            consumers: list[Hashable] = []
            for user in node.users:
                if user in self.place and self._is_by_token(user, node):
                    consumers.append(user)
                elif not is_call(user, *RESHAPES) or _keeps_axis(node, user, place):
                    values["row", user] = CutValue(FORBIDDEN, 0)
                    consumers.append(("row", user))
            if consumers:
                terms.append(Use(node, tuple(consumers), _RESHAPE, _RESHAPE))
        images, _ = solve(values, terms)
        return {node for node in images if node in self.place}

    def _is_by_token(self, user: fx.Node, node: fx.Node) -> bool:
        found = self.operands(user, self.place[user])
        return found is not None and (node, self.place[node]) in found

    def _costs(self, node: fx.Node, place: int) -> CutValue:
        """Reshapes as either; of two equal choices nothing is changed."""
        image = self._image_shape(node, place)
        users = (is_call(user, *RESHAPES) and shape(user) == image for user in node.users)
        as_row = _RESHAPE if any(users) else 0
        if self.operands(node, place) is not None:
            return CutValue(1, as_row)
        if not is_call(node, *RESHAPES) or _keeps_axis(input_of(node), node, place, behind=True):
            return CutValue(FORBIDDEN, as_row)
        if shape(input_of(node)) == image:
            return CutValue(1, as_row + _RESHAPE)
        return CutValue(1, as_row)  # one reshape, to either form

    def write(self, images: set[fx.Node]) -> None:
        """Emits the operators on images; others read rows made of them."""
        ordered = [node for node in self.rw.nodes() if node in images]
        for node in ordered:
            with self.rw.at(node):
                self.images[node] = self._emit(node)
            self.rw.rewritten(node)
        for node in ordered:
            row: fx.Node | None = None
            for user in list(node.users):
                if user in images and self._is_by_token(user, node):
                    continue
                with self.rw.at(user):
                    if is_call(user, *RESHAPES) and not _keeps_axis(node, user, self.place[node]):
                        self.rw.replace(user, self._reshaped(self.images[node], shape(user)))
                        continue
                if row is None:
                    with self.rw.after(self.images[node]):
                        row = self._reshaped(self.images[node], shape(node))
                self.rw.use_instead(user, node, row)

    def _emit(self, node: fx.Node) -> fx.Node:
        place = self.place[node]
        operands = self.operands(node, place)
        if operands is None:
            return self._reshaped(input_of(node), self._image_shape(node, place))
        if is_call(node, aten.permute.default):
            (x, at), order = operands[0], permuted_axes(node)
            order = [a + (a > at) for a in order]
            order[place : place + 1] = [at, at + 1]
            return self.rw.emit(aten.permute.default, self._image(x, at), order)
        instead = {x: self._image(x, at) for x, at in operands}
        if is_pointwise_call(node):
            instead |= dict(self._broadcast(node, place))
        args, kwargs = replaced(node, instead)
        if is_call(node, rms_norm):
            args = (args[0], [_RANK], *args[2:])
        return self.rw.emit(node.target, *args, **kwargs)

    def _image(self, x: fx.Node, place: int) -> fx.Node:
        if x not in self.images:
            self.images[x] = self._reshaped(x, self._image_shape(x, place))
        return self.images[x]

    def _broadcast(self, node: fx.Node, place: int) -> Iterator[tuple[fx.Node, fx.Node]]:
        """Operands with one number for all tokens, which gets another axis of size one."""
        for x in filter(is_tensor, node.all_input_nodes):
            at = place - _RANK + len(shape(x))
            if at >= 0 and shape(x)[at] == 1:
                yield x, self.rw.emit(aten.unsqueeze.default, x, at)

    def _reshaped(self, x: fx.Node, sizes: tuple[int, ...]) -> fx.Node:
        return x if shape(x) == sizes else self.rw.emit(aten.reshape.default, x, list(sizes))


def _axis_behind(user: fx.Node, x: fx.Node, place: int) -> int | None:
    """Where the axis ``place`` of ``x`` is in a result of as many axes."""
    if not is_tensor(user) or len(shape(user)) != _RANK:
        return None
    if is_call(user, aten.permute.default):
        return permuted_axes(user).index(place)
    return place + _RANK - len(shape(x))


def _is_norm_beside(node: fx.Node, place: int) -> bool:
    """True for a norm over the last axis, which is not ``place``."""
    if place == _RANK - 1:
        return False
    if is_call(node, aten.layer_norm.default):
        return len(argument(node, "normalized_shape")) == 1
    return is_call(node, rms_norm) and axes(node, "axes", _RANK) == [_RANK - 1]


def _keeps_axis(x: fx.Node, reshape: fx.Node, place: int, *, behind: bool = False) -> bool:
    """True if an axis of ``x``, or of the result (``behind``), goes through ``reshape`` whole."""
    pairs = blocks(shape(x), shape(reshape))
    if pairs is None:
        return True
    side = int(behind)
    return any(len(old) == len(new) == 1 and (old, new)[side] == (place,) for old, new in pairs)
