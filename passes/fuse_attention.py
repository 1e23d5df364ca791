"""Attention written out, or with repeated key heads, becomes one scaled_dot_product_attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import fx
from torch.fx.node import Argument

from frontend.schema import arguments
from frontend.sizes import same_size, same_sizes
from passes.attention_mask import MASKED_SCORE
from passes.base import Pass
from passes.patterns.nodes import (
    argument,
    aten,
    axis,
    dtype,
    input_of,
    is_call,
    is_tensor,
    permuted_axes,
    shape,
)
from passes.patterns.operators import MATMULS, SOFTMAXES
from passes.rewriter import Rewriter

# Scores that are filled in with so little, or less, get no weight: ``exp`` of it is zero in
# float32. The hand-written ports use it (documented: Apple ml-ane-transformers).
_FILL = -1e4


@dataclass
class _Scores:
    """What stands between the product of queries and keys and the softmax."""

    product: fx.Node
    scale: float = 1.0
    masks: list[tuple[Any, float]] = field(default_factory=list)
    fills: list[tuple[fx.Node, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Recognises ``matmul, scale, mask, softmax, matmul`` and grouped key heads.

    Before: ``softmax(q @ k.T * scale + mask) @ v``, scale and masks in any order and number,
    masks added, or filled in with -1e4 or less; or an SDPA on ``repeat_kv`` of keys and values.
    After: ``scaled_dot_product_attention(q, k, v, mask, scale=..., enable_gqa=...)``, whose
    form later passes choose.

    Bound: float32 outputs within rtol 1e-5 / atol 1e-6.
    """

    name: ClassVar[str] = "fuse_attention"
    by_site: ClassVar[bool] = True
    chooses_form: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "to_inference": "a dropout inside attention hides its pattern",
    }

    def apply(self, rw: Rewriter) -> None:
        """Fuses written-out attention first, then drops repeated heads."""
        for node in rw.find(*SOFTMAXES):
            consumer = next((u for u in node.users if _weighs(node, u)), None)
            if consumer is None:
                continue
            found = _scores(rw, node)
            if not isinstance(found, str):
                found = _refusal(node, found.product, consumer) or found
            if isinstance(found, str):
                rw.decline(node, found)
                continue
            with rw.at(consumer):
                rw.replace(consumer, _fuse(rw, found, cast(fx.Node, consumer.args[1])))
        for node in rw.find(aten.scaled_dot_product_attention.default):
            _drop_repeat(rw, node)


def _weighs(softmax: fx.Node, user: fx.Node) -> bool:
    return is_call(user, *MATMULS) and user.args[0] is softmax


def _refusal(softmax: fx.Node, product: fx.Node, consumer: fx.Node) -> str | None:
    """Why these two products are no attention that can be written as one operator."""
    if len(softmax.users) > 1:
        return "its weights are used elsewhere too"
    operands = (product.args[0], product.args[1], consumer.args[1])
    query, key, value = (shape(cast(fx.Node, operand)) for operand in operands)
    if not len(query) == len(key) == len(value):
        return "its queries, keys and values have different numbers of axes"
    if len(query) not in (2, 3, 4):
        return f"its queries have {len(query)} axes; 2 to 4 can be rewritten"
    one_head = len(key) == 4 and key[1] == 1
    same = same_sizes(query[:-2], key[:-2])
    shares = one_head and same_size(query[0], key[0])
    if not same_sizes(key[:-2], value[:-2]) or not (same or shares):
        return "its queries, keys and values broadcast against each other"
    return None


def _scores(rw: Rewriter, softmax: fx.Node) -> _Scores | str:
    """Walks from the softmax up to the product; a sentence if something else is in between."""
    if axis(argument(softmax, "dim"), len(shape(softmax))) != len(shape(softmax)) - 1:
        return "its softmax does not run over the keys on the last axis"
    found = _Scores(softmax)
    node: Any = softmax.args[0]
    while not is_call(node, *MATMULS):
        if not is_tensor(node) or not same_sizes(shape(node), shape(softmax)):
            return "no product of queries and keys leads to its softmax"
        if len(node.users) > 1:
            return f"the scores are used elsewhere too ({node.name})"
        stepped = _step(rw, node, found)
        if stepped is None:
            return f"the scores pass through {node.target} before the softmax"
        node = stepped
    if len(node.users) > 1:
        return f"the scores are used elsewhere too ({node.name})"
    found.product = node
    return found


def _step(rw: Rewriter, node: fx.Node, found: _Scores) -> Argument:
    """One operator further up, its effect noted in ``found``."""
    if is_call(node, aten.mul.Tensor, aten.div.Tensor):
        for scores, number in (node.args[:2], node.args[1::-1]):
            factor = _number(rw, number)
            if factor is not None and (scores is node.args[0] or node.target is aten.mul.Tensor):
                found.scale *= factor if node.target is aten.mul.Tensor else 1.0 / factor
                return scores
        return None
    if is_call(node, aten.add.Tensor, aten.sub.Tensor) and not node.kwargs.get("alpha"):
        scores, mask = _scores_first(node)
        if scores is None:
            return None
        sign = 1.0 if is_call(node, aten.add.Tensor) else -1.0
        on_left = scores is node.args[0]
        number = _number(rw, mask)
        # A number added to all scores changes no softmax.
        if number is None or not math.isfinite(number):
            found.masks.append((mask, found.scale * (sign if on_left else 1.0)))
        found.scale *= 1.0 if on_left else sign
        return scores
    if is_call(node, aten.masked_fill.Scalar) and _blocks(node.args[2], found.scale):
        found.fills.append((argument(node, "mask"), False))
        return node.args[0]
    if is_call(node, aten.where.self):
        keep, scores, fill = arguments(node).values()
        if _is_blocking_constant(rw, fill, found.scale) and is_tensor(scores):
            found.fills.append((keep, True))
            return scores
        if _is_blocking_constant(rw, scores, found.scale) and is_tensor(fill):
            found.fills.append((keep, False))
            return fill
    return None


def _scores_first(node: fx.Node) -> tuple[fx.Node | None, Any]:
    """The operand of an add that leads to the product, and the other one."""
    for scores, mask in (node.args[:2], node.args[1::-1]):
        if not is_tensor(scores):
            continue
        current: Argument = scores
        while is_tensor(current) and same_sizes(shape(current), shape(node)):
            if is_call(current, *MATMULS):
                return scores, mask
            if not current.args or current.op != "call_function":
                break
            tensors = [a for a in current.all_input_nodes if same_sizes(shape(a), shape(node))]
            current = tensors[0] if tensors else current.args[0]
            if is_call(current, *MATMULS):
                return scores, mask
    return None, None


def _blocks(value: Argument, scale: float) -> bool:
    return isinstance(value, int | float) and value * scale <= _FILL


def _is_blocking_constant(rw: Rewriter, node: Argument, scale: float) -> bool:
    if not is_tensor(node) or not rw.is_constant(node):
        return False
    value = rw.value(node)
    return value.is_floating_point() and bool((value * scale <= _FILL).all())


def _number(rw: Rewriter, operand: Argument) -> float | None:
    """A Python number, or the only element of a constant tensor."""
    if isinstance(operand, int | float):
        return float(operand)
    if is_tensor(operand) and operand.meta["val"].numel() == 1 and rw.is_constant(operand):
        return float(rw.value(operand))
    return None


def _fuse(rw: Rewriter, found: _Scores, value: fx.Node) -> fx.Node:
    query, key_t = (cast(fx.Node, operand) for operand in found.product.args[:2])
    rank = len(shape(query))
    biases, blocks = _biases(rw, found), _blocks_of(rw, found)
    if blocks is not None and _may_block_a_row(rw, blocks):
        query, biases = _even_where_blocked(rw, blocks, query, biases)
    mask = _sum(rw, [*biases, *([blocks] if blocks is not None else [])])
    if mask is not None and len(shape(mask)) < 2:
        mask = rw.emit(aten.unsqueeze.default, mask, 0)
    tensors = [query, _turned(rw, key_t), value]
    for _ in range(4 - rank):
        # bmm: the heads are folded into the batch; they are heads all the same.
        tensors = [rw.emit(aten.unsqueeze.default, t, 0) for t in tensors]
    attention = rw.emit(
        aten.scaled_dot_product_attention.default, *tensors, mask, scale=found.scale
    )
    added = list(range(4 - rank))
    return rw.emit(aten.squeeze.dims, attention, added) if added else attention


def _turned(rw: Rewriter, key_t: fx.Node) -> fx.Node:
    """(..., D, S) -> (..., S, D); a permutation that swaps them is taken back."""
    rank = len(shape(key_t))
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    if is_call(key_t, aten.permute.default) and permuted_axes(key_t) == swapped:
        return input_of(key_t)
    return rw.emit(aten.permute.default, key_t, swapped)


def _biases(rw: Rewriter, found: _Scores) -> list[fx.Node]:
    """What is added to the scores."""
    terms: list[fx.Node] = []
    for mask, scale in found.masks:
        # The walk met the scale below the mask: it applies to the mask as well.
        if not dtype(mask).is_floating_point:
            mask = rw.emit(aten._to_copy.default, mask, dtype=torch.float32)
        scaled = mask if scale == 1.0 else rw.emit(aten.mul.Tensor, mask, scale)
        terms.append(scaled)
    return terms


def _blocks_of(rw: Rewriter, found: _Scores) -> fx.Node | None:
    """0 where a score stays, ``MASKED_SCORE`` where it is filled in; ``None`` without fills."""
    terms: list[fx.Node] = []
    for condition, keep in found.fills:
        zero = rw.emit(aten.scalar_tensor.default, 0.0)
        blocked = rw.emit(aten.scalar_tensor.default, MASKED_SCORE)
        choice = (zero, blocked) if keep else (blocked, zero)
        terms.append(rw.emit(aten.where.self, condition, *choice))
    return _sum(rw, terms)


def _sum(rw: Rewriter, terms: Sequence[fx.Node]) -> fx.Node | None:
    total: fx.Node | None = None
    for term in terms:
        total = term if total is None else rw.emit(aten.add.Tensor, total, term)
    return total


def _may_block_a_row(rw: Rewriter, blocks: fx.Node) -> bool:
    """True if a query may see no key: data decides which are seen, or a constant blocks them all.

    Queries that share their keys, as with padding, are blocked together.
    """
    if not rw.is_constant(blocks):
        return True
    return bool((rw.value(blocks) <= MASKED_SCORE / 2).all(-1).any())


def _even_where_blocked(
    rw: Rewriter, blocks: fx.Node, query: fx.Node, biases: list[fx.Node]
) -> tuple[fx.Node, list[fx.Node]]:
    """Query and biases, zero for queries that see no key.

    Filling in gives all keys of such a query the same score, hence the same weight; float16 alone
    would keep differences of large scores.
    """
    highest = rw.emit(aten.amax.default, blocks, [-1], True)
    sees = rw.emit(aten.gt.Scalar, highest, MASKED_SCORE / 2)
    zero = rw.emit(aten.scalar_tensor.default, 0.0)
    return (
        rw.emit(aten.where.self, sees, query, zero),
        [rw.emit(aten.where.self, sees, bias, zero) for bias in biases],
    )


def _drop_repeat(rw: Rewriter, node: fx.Node) -> None:
    """``sdpa(q, repeat_kv(k), repeat_kv(v))`` becomes grouped-query attention."""
    query, *repeated = node.args[:3]
    key, value = (_unrepeated(heads) for heads in repeated)
    if key is None or value is None:
        return
    if shape(key)[1] != shape(value)[1]:
        rw.decline(node, "keys and values are repeated differently")
        return
    kwargs = {**node.kwargs, "enable_gqa": True}
    with rw.at(node):
        grouped = rw.emit(node.target, query, key, value, *node.args[3:], **kwargs)
        rw.replace(node, grouped)


def _unrepeated(node: Argument) -> fx.Node | None:
    """(B, G, S, D) behind ``reshape(expand(unsqueeze(x, 2)), (B, H, S, D))``."""
    if not is_call(node, aten.reshape.default):
        return None
    expanded = input_of(node)
    if not is_call(expanded, aten.expand.default) or len(shape(expanded)) != 5:
        return None
    wide = input_of(expanded)
    if not is_call(wide, aten.unsqueeze.default) or axis(argument(wide, "dim"), 5) != 2:
        return None
    source = input_of(wide)
    groups, times = shape(expanded)[1:3]
    if shape(source)[1] != groups or shape(node)[1] != groups * times:
        return None
    return source
