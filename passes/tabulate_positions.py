"""What follows from a position alone is looked up in a table, not computed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from passes.base import Pass
from passes.patterns.nodes import aten, dtype, input_of, is_call, is_static, is_tensor, shape
from passes.rewriter import Rewriter

# A row of the table may be so wide: sines and cosines of heads 256 wide, for two angles.
_WIDEST = 1024
# Or wider where the whole table has no more numbers than this, 8 MB in float16: the biases of T5's
# distances for 512 tokens and 16 heads. In float16 logarithms miss the ends of its buckets.
_LARGEST = 1 << 22
# Evaluating a value at every position takes about 0.1 ms each (*measured*, one core).
_MOST_POSITIONS = 1 << 16
# They move elements and compute nothing: what stands below them is tabulated.
_VIEWS = (
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.squeeze.dim,
    aten.expand.default,
    aten.permute.default,
    aten.clone.default,
)
# Sines of equal angles may differ in the last bit, by where a kernel meets them.
_RTOL, _ATOL = 1e-5, 1e-6


@dataclass(frozen=True)
class _Entry:
    """A value and its rows.

    Attributes:
        node: the value.
        axis: its axis of tokens; ``None`` where there is one token.
        rows: (positions, width).
    """

    node: fx.Node
    axis: int | None
    rows: torch.Tensor


@dataclass(frozen=True)
class TabulatePositions(Pass):
    """Replaces sines and cosines of a position by rows of a table.

    Before: ``cos(cat([f, f]))`` of ``f = (position + arange(T)) * frequencies``, where ``position``
    is an input; after: T rows of one constant for all such values, gathered once. The table is
    made in float32: in float16 neither positions beyond 2,048 nor angles beyond a few turns are
    right. Whatever is computed from the position and constants alone qualifies, if it is a row
    for each token; that is found by computing it at every position.

    Masks, which hold two numbers only, stay as they are: comparing costs less than such a table.

    Attributes:
        name_of_input: of the program's input that holds the position, (1,) int.
        positions: the input and T - 1 more stay below this.

    Bound: float32 outputs within rtol 1e-5 / atol 1e-6, for positions in that range.
    """

    name: ClassVar[str] = "tabulate_positions"
    runs_after: ClassVar[Mapping[str, str]] = {
        "fold_constants": "frequencies must be stored tensors",
    }
    name_of_input: str = "position"
    positions: int = 2048

    def apply(self, rw: Rewriter) -> None:
        """One table for all values found."""
        given = next((n for n in rw.user_inputs() if n.name == self.name_of_input), None)
        if given is None or shape(given) != (1,):
            return
        entries = []
        for node in _frontier(rw, given):
            entry = self._entry(rw, given, node)
            if isinstance(entry, str):
                rw.decline(node, entry)
            else:
                entries.append(entry)
        for tokens in sorted({_tokens(entry) for entry in entries}):
            self._replace(rw, given, [e for e in entries if _tokens(e) == tokens], tokens)

    def _entry(self, rw: Rewriter, given: fx.Node, node: fx.Node) -> _Entry | str:
        if self.positions > _MOST_POSITIONS:
            return f"a table of more than {_MOST_POSITIONS} positions takes too long to make"
        compute = _evaluator(rw, given, node)
        sizes = shape(node)
        furthest = self.positions - max((n for n in sizes if n <= self.positions), default=1)
        tried = [compute(position).flatten() for position in (0, furthest // 2, furthest)]
        if torch.cat(tried).unique().numel() <= 2:
            return "it is a mask"
        axes: list[int | None] = [a for a, size in enumerate(sizes) if size > 1]
        for axis in [*axes, None]:
            tokens = 1 if axis is None else sizes[axis]
            width = len(tried[0]) // tokens
            if tokens > self.positions or (width > _WIDEST and width * self.positions > _LARGEST):
                continue
            rows = self._rows(compute, axis, tokens)
            if rows is not None:
                return _Entry(node, axis, rows)
        return "it is no row for each token, or too wide for a table"

    def _rows(
        self, compute: Callable[[int], torch.Tensor], axis: int | None, tokens: int
    ) -> torch.Tensor | None:
        """(positions, width), or ``None`` if a token's row depends on where the step begins."""

        def of(position: int) -> torch.Tensor:
            value = compute(position)
            return (
                value.reshape(1, -1) if axis is None else value.movedim(axis, 0).reshape(tokens, -1)
            )

        last = self.positions - tokens
        starts = [*range(0, last, tokens), last]
        ends = [*starts[1:], self.positions]
        rows = torch.cat([of(a)[: b - a] for a, b in zip(starts, ends, strict=True)])
        if tokens > 1:
            # Steps that end behind the table tell keys, of which there may be as many, from tokens.
            for start in range(self.positions):
                try:
                    value = of(start)
                except IndexError:
                    if start <= last:
                        raise
                    break  # it looks something up that ends with the positions
                seen = rows[start : start + tokens]
                if not torch.allclose(value[: len(seen)], seen, _RTOL, _ATOL):
                    return None
        return rows

    def _replace(
        self, rw: Rewriter, given: fx.Node, entries: Sequence[_Entry], tokens: int
    ) -> None:
        order = {node: place for place, node in enumerate(rw.nodes())}
        first = min((entry.node for entry in entries), key=order.__getitem__)
        widths = [entry.rows.shape[1] for entry in entries]
        table = rw.constant(
            f"table_of_{self.name_of_input}", torch.cat([e.rows for e in entries], 1)
        )
        with rw.at(first):
            index: fx.Node = given
            if tokens > 1:
                steps = rw.constant(f"steps_of_{tokens}", torch.arange(tokens, dtype=dtype(given)))
                index = rw.emit(aten.add.Tensor, given, steps)
            found = rw.emit(aten.embedding.default, table, index)
            parts = [found]
            if len(entries) > 1:
                split = rw.emit(aten.split_with_sizes.default, found, widths, 1)
                parts = [rw.emit(operator.getitem, split, i) for i in range(len(widths))]
            for entry, part in zip(entries, parts, strict=True):
                rw.replace(entry.node, _shaped(rw, part, entry))


def _tokens(entry: _Entry) -> int:
    size: int = 1 if entry.axis is None else shape(entry.node)[entry.axis]
    return size


def _shaped(rw: Rewriter, part: fx.Node, entry: _Entry) -> fx.Node:
    """(tokens, width) in the value's own shape."""
    sizes = list(shape(entry.node))
    if entry.axis is None:
        return rw.emit(aten.reshape.default, part, sizes)
    tokens = sizes.pop(entry.axis)
    wide = rw.emit(aten.reshape.default, part, [tokens, *sizes])
    if entry.axis == 0:
        return wide
    order = list(range(1, len(sizes) + 1))
    order.insert(entry.axis, 0)
    return rw.emit(aten.permute.default, wide, order)


def _frontier(rw: Rewriter, given: fx.Node) -> list[fx.Node]:
    """Floats that follow from ``given`` and constants and are used by what does not; no views."""
    follows = {given}
    nodes = rw.nodes()
    for node in nodes:
        inputs = [n for n in node.all_input_nodes if not rw.is_constant(n)]
        if inputs and all(n in follows for n in inputs) and is_tensor(node) and is_static(node):
            follows.add(node)
    found: dict[fx.Node, None] = {}
    for node in nodes:
        if node not in follows or not dtype(node).is_floating_point:
            continue
        if all(user in follows for user in node.users):
            continue
        below = node
        while is_call(below, *_VIEWS) and dtype(input_of(below)).is_floating_point:
            below = input_of(below)
        computes = below.op == "call_function" and not is_call(below, aten.embedding.default)
        if computes and below in follows:
            found[below] = None
    return list(found)


def _evaluator(rw: Rewriter, given: fx.Node, node: fx.Node) -> Callable[[int], torch.Tensor]:
    """Computes ``node`` for a number in place of ``given``."""
    steps: list[fx.Node] = []
    pending, seen = [node], {given}
    while pending:
        current = pending[-1]
        ahead = [n for n in current.all_input_nodes if n not in seen and not rw.is_constant(n)]
        if ahead:
            pending.extend(ahead)
            continue
        pending.pop()
        if current not in seen:
            seen.add(current)
            steps.append(current)

    def compute(position: int) -> torch.Tensor:
        values = {given: torch.tensor([position], dtype=dtype(given))}
        with torch.no_grad():
            for step in steps:
                args, kwargs = fx.map_arg(
                    (step.args, step.kwargs),
                    lambda n: values[n] if n in values else rw.value(n),
                )
                assert callable(step.target)  # it is a call
                values[step] = step.target(*args, **kwargs)
        return values[node]

    return compute
