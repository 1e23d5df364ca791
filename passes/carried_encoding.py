"""What becomes of a compressed weight when constants are folded: its encoding takes part.

The operators that lead from a weight to the folded constant run once more, on the numbers that
describe the weight's blocks, each spread over its block. What moves the weight moves them; what
multiplies the weight multiplies its scales, and ones in its place become the factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from frontend.encoding import Encoding, EncodingError, gathered, spread
from passes.rewriter import Rewriter


def carried_encoding(rw: Rewriter, node: fx.Node, value: Tensor) -> Encoding | None:
    """The encoding of the constant ``node``; ``None`` if no compressed weight leads to it.

    Args:
        rw: of the pass that folds.
        node: what is folded.
        value: of ``node``.

    Raises:
        EncodingError: one does, but the constant has no such form.
    """
    weights = _compressed_weights(rw, node)
    if not weights:
        return None
    first = next(iter(weights.values()))
    kinds = {(e.palettes is None, e.scales is None, e.bits, e.is_signed) for e in weights.values()}
    if len(kinds) > 1:
        raise EncodingError(
            "it joins weights that were compressed in different ways: "
            + ", ".join(sorted({e.spelled for e in weights.values()}))
        )
    encoding = replace(first, is_sparse=all(e.is_sparse for e in weights.values()))

    def run(grid: Callable[[fx.Node, Encoding], Tensor]) -> Tensor:
        spreads = {w: spread(grid(w, e), w.meta["val"].shape) for w, e in weights.items()}
        return rw.value_with(node, spreads)

    factor = run(lambda weight, _: torch.ones([1] * weight.meta["val"].ndim))
    if bool((factor == 0).any()):
        raise EncodingError("a part of it is multiplied by zero")
    if encoding.palettes is not None:
        numbers = _numbered(weights)
        which = torch.round(run(lambda weight, _: numbers[weight]) / factor).to(torch.int64)
        factors, kind = factor.unique(return_inverse=True)
        encoding = replace(encoding, palettes=gathered(which * len(factors) + kind))
    if encoding.scales is not None:
        points = torch.round(run(_zero_points) / factor).to(torch.int64)
        encoding = replace(
            encoding,
            scales=gathered(run(_scales)),
            zero_points=gathered(points) if bool(points.any()) else None,
        )
    if bool((factor != 1).any()):  # else the weight is moved, and its values are what they were
        encoding.check(value)
    return encoding


def is_palettized(rw: Rewriter, node: fx.Node) -> bool:
    """Whether a palette leads to the constant ``node``: one factor for each row would need more."""
    return any(e.palettes is not None for e in _compressed_weights(rw, node).values())


def _compressed_weights(rw: Rewriter, node: fx.Node) -> dict[fx.Node, Encoding]:
    """The compressed weights that ``node`` is computed from."""
    pending, seen = [node], {node}
    found: dict[fx.Node, Encoding] = {}
    while pending:
        current = pending.pop()
        if current.op == "placeholder" and (encoding := rw.encoding(current)) is not None:
            found[current] = encoding
        for source in current.all_input_nodes:
            if source not in seen:
                seen.add(source)
                pending.append(source)
    return found


def _numbered(weights: Mapping[fx.Node, Encoding]) -> dict[fx.Node, Tensor]:
    """Numbers of palettes, each weight's beyond those before; as floats, to be multiplied."""
    numbers, first = {}, 1
    for weight, encoding in weights.items():
        assert encoding.palettes is not None
        numbers[weight] = (encoding.palettes + first).to(torch.float32)
        first += int(encoding.palettes.max()) + 1
    return numbers


def _scales(weight: fx.Node, encoding: Encoding) -> Tensor:
    assert encoding.scales is not None
    return encoding.scales


def _zero_points(weight: fx.Node, encoding: Encoding) -> Tensor:
    if encoding.zero_points is None:
        return torch.zeros([1] * weight.meta["val"].ndim)
    return encoding.zero_points.to(torch.float32)
