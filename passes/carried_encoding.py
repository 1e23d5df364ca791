"""What becomes of a compressed weight when constants are folded: its encoding takes part.

The operators that lead from a weight to the folded constant run once more, on the numbers that
describe the weight's blocks, each spread over its block. What moves the weight moves them; what
multiplies the weight multiplies its scales. Zeros in the weight's place become what is added to it,
and ones the factor as well. Integers of 8 bits that a program makes floats of itself are such a
weight, with a scale of one: so export writes the tensors of torchao, and quantisers of PT2E theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from frontend.encoding import Encoding, EncodingError, gathered, integers_of, spread
from passes.rewriter import Rewriter

# Of a weight of channels and inputs; what has fewer is a bias, a scale or a table.
_LEAST_AXES = 2


def carried_encoding(rw: Rewriter, node: fx.Node, value: Tensor) -> Encoding | None:
    """The encoding of the constant ``node``; ``None`` if no compressed weight leads to it.

    Args:
        rw: of the pass that folds.
        node: what is folded.
        value: of ``node``.

    Raises:
        EncodingError: one does, but the constant has no such form.
    """
    weights = _compressed_weights(rw, node) or _integers(rw, node, value)
    if not weights:
        return None
    first = next(iter(weights.values()))
    kinds = {
        (e.palettes is None, e.scales is None, e.bits, e.is_signed, _vector_size(e))
        for e in weights.values()
    }
    if len(kinds) > 1:
        raise EncodingError(
            "it joins weights that were compressed in different ways: "
            + ", ".join(sorted({e.spelled for e in weights.values()}))
        )

    def run(grid: Callable[[fx.Node, Encoding], Tensor]) -> Tensor:
        held = {w: w.meta["val"] for w in weights}
        spreads = {
            w: spread(grid(w, e), held[w].shape).to(held[w].dtype) for w, e in weights.items()
        }
        return rw.value_with(node, spreads)

    added = run(lambda weight, _: torch.zeros([1] * weight.meta["val"].ndim))
    factor = run(lambda weight, _: torch.ones([1] * weight.meta["val"].ndim)) - added
    if bool((factor == 0).any()):
        raise EncodingError("a part of it does not depend on the compressed weight")
    is_sparse = all(e.is_sparse for e in weights.values()) and not bool(added.any())
    encoding = replace(first, is_sparse=is_sparse)
    if encoding.palettes is not None:
        numbers = _numbered(weights)
        which = (run(lambda weight, _: numbers[weight]) - added) / factor
        distinct = torch.round(which).to(torch.int64)
        for tensor in (factor, added):
            kinds_of, kind = tensor.unique(return_inverse=True)
            distinct = distinct * len(kinds_of) + kind
        encoding = replace(encoding, palettes=gathered(distinct))
    if encoding.lanes is not None:
        lanes = torch.round((run(_lanes) - added) / factor).to(torch.int64)
        encoding = replace(encoding, lanes=gathered(lanes))
    if encoding.scales is not None:
        scales = run(_scales) - added
        points = (run(_zero_points) - added) / factor - added / scales
        points = torch.where(scales == 0, 0.0, points).round().to(torch.int64)
        encoding = replace(
            encoding,
            scales=gathered(scales),
            zero_points=gathered(points) if bool(points.any()) else None,
        )
    # What is moved alone has the same values, of which vectors may have been cut apart.
    if encoding.lanes is not None or bool((factor != 1).any() or added.any()):
        encoding.check(value)
    return encoding


def is_palettized(rw: Rewriter, node: fx.Node) -> bool:
    """Whether a palette leads to the constant ``node``: one factor for each row would need more."""
    return any(e.palettes is not None for e in _compressed_weights(rw, node).values())


def _compressed_weights(rw: Rewriter, node: fx.Node) -> dict[fx.Node, Encoding]:
    """The compressed weights that ``node`` is computed from."""
    stored = [source for source in _sources(node) if source.op == "placeholder"]
    found = {source: rw.encoding(source) for source in stored}
    return {source: encoding for source, encoding in found.items() if encoding is not None}


def _integers(rw: Rewriter, node: fx.Node, value: Tensor) -> dict[fx.Node, Encoding]:
    """Integers that become ``value``, one each; scales and zero points of theirs are fewer."""
    if not value.is_floating_point() or value.ndim < _LEAST_AXES:
        return {}
    stored = {n: rw.value(n) for n in _sources(node) if n.op == "placeholder"}
    codes = [
        (source, tensor)
        for source, tensor in stored.items()
        if tensor.dtype in (torch.int8, torch.uint8) and tensor.numel() == value.numel()
    ]
    if len(codes) != 1:
        return {}
    ((source, tensor),) = codes
    one = [1] * tensor.ndim
    return {source: integers_of(tensor.long(), torch.ones(one), torch.zeros(one).long())}


def _sources(node: fx.Node) -> list[fx.Node]:
    """``node`` and everything that it is computed from."""
    pending, seen = [node], {node: None}
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in seen:
                seen[source] = None
                pending.append(source)
    return list(seen)


def _numbered(weights: Mapping[fx.Node, Encoding]) -> dict[fx.Node, Tensor]:
    """Numbers of palettes, each weight's beyond those before; as floats, to be multiplied."""
    numbers, first = {}, 1
    for weight, encoding in weights.items():
        assert encoding.palettes is not None
        numbers[weight] = (encoding.palettes + first).to(torch.float32)
        first += int(encoding.palettes.max()) + 1
    return numbers


def _vector_size(encoding: Encoding) -> int:
    return 1 if encoding.lanes is None else int(encoding.lanes.max()) + 1


def _lanes(weight: fx.Node, encoding: Encoding) -> Tensor:
    assert encoding.lanes is not None
    return encoding.lanes.to(torch.float32)


def _scales(weight: fx.Node, encoding: Encoding) -> Tensor:
    assert encoding.scales is not None
    return encoding.scales


def _zero_points(weight: fx.Node, encoding: Encoding) -> Tensor:
    if encoding.zero_points is None:
        return torch.zeros([1] * weight.meta["val"].ndim)
    return encoding.zero_points.to(torch.float32)
