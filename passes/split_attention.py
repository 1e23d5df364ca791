"""Attention in the form that suits the ANE: per head, batched, or native."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import fx

from frontend.schema import arguments
from passes.attention_choice import choose_form, site_of
from passes.attention_mask import additive_mask, masks_nothing
from passes.base import Choice, Forms, Pass
from passes.errors import PassError
from passes.patterns.nodes import aten, input_of, is_static, shape
from passes.query_scale import scaled_scores
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class _Attention:
    """One attention, its mask additive and its scale already in the queries.

    query (B, H, Sq, D), key (B, G, Sk, D), value (B, G, Sk, Dv), mask broadcast to
    (B, H, Sq, Sk) or ``None``; each of the G key heads serves H / G query heads.
    """

    query: fx.Node
    key: fx.Node
    value: fx.Node
    mask: Any

    @property
    def heads(self) -> int:
        return shape(self.query)[1]

    @property
    def groups(self) -> int:
        return shape(self.key)[1]


def _chunks(queries: int) -> dict[str, Any]:
    """Always in chunks; the hand-written ports take 256 queries at a time."""
    return {"form": "split", "query_chunk": queries, "chunk_above": 0}


def _size(node: fx.Node) -> str:
    query, key = (shape(input_of(node, position)) for position in (0, 1))
    heads = query[1] if len(query) == 4 else 1
    return f"{query[-2]} x {key[-2]} tokens, {heads} heads of {query[-1]}"


@dataclass(frozen=True)
class SplitAttention(Pass):
    """Gives every ``scaled_dot_product_attention`` one of three forms.

    * ``split``: per head ``einsum('bchq,bkhc->bkhq')``, softmax over the keys on axis 1,
      ``einsum('bkhq,bchk->bchq')``; scores are (B, Sk, 1, Sq). Keys are transposed once for all
      heads. The classic of the hand-written ports.
    * ``batched``: all heads in two matmuls on (B, H, D, S), no transposes beside those that MIL's
      matmul takes as flags.
    * ``native``: the operator stays whole for MIL's iOS 18 ``scaled_dot_product_attention``; by
      the M4 dispatcher's prices the cheapest (*measured*, compiler estimate, 751K study).

    ``chosen`` takes at each site the form that is *predicted* to be fastest on ``target``: split,
    split in query tiles that stay on the chip, batched, or native from iOS 18 on; which, and why,
    stands in the report. It is what ``optimize_for_ane(..., target=...)`` asks for.

    Boolean and causal masks become additive, finite in fp16 (``attention_mask``); the scale is
    folded into the projection of the queries where that is a linear (``query_scale``).

    Attributes:
        form: one of the three, or ``chosen``.
        query_chunk: queries per chunk, where they are chunked; ``split`` only.
        chunk_above: chunk where one head has more scores than this. 8 Mi fp16 scores are
            16 MiB, about what is reported to stay on chip (*assumed*; sources differ between
            2 and 32 MB).
        max_parts: ``batched`` is used where ``split`` would need more heads times chunks:
            5,120 einsums took one compiler over 20 minutes (*documented*: 751K study).
        most_parts: ``chosen`` shares out no more parts than these among all sites, for the same
            reason: each is two products and a softmax.
        target: chip to choose for, such as ``"M4"``.
        system: oldest system to choose for, such as ``"iOS18"``.

    Bound: float32 outputs within rtol 1e-5 / atol 1e-6 of the original, except rows whose keys
    are all masked. Those average all values, as in torch where -1e9 or less is added; masked by
    booleans or -inf they are zero or NaN in torch. Where -1e4 is added they keep their scores,
    which float32 rounds to 2**-10 in torch.
    """

    name: ClassVar[str] = "split_attention"
    by_site: ClassVar[bool] = True
    chooses_form: ClassVar[bool] = True
    runs_after: ClassVar[Mapping[str, str]] = {
        "fuse_attention": "attention is recognised before its form is chosen",
    }
    forms: ClassVar[Forms] = Forms(
        "attention",
        {
            "split": Choice({"form": "split"}),
            "chunks_of_256": Choice(_chunks(256)),
            "chunks_of_512": Choice(_chunks(512)),
            "batched": Choice({"form": "batched"}),
            "native": Choice({"form": "native"}, since=18),
        },
        sites=(aten.scaled_dot_product_attention.default,),
        size=_size,
    )
    form: Literal["split", "batched", "native", "chosen"] = "split"
    query_chunk: int = 512
    chunk_above: int = 8 << 20
    max_parts: int = 512
    most_parts: int = 2048
    target: str | None = None
    system: str = "iOS17"

    def __post_init__(self) -> None:
        if (self.form == "chosen") != (self.target is not None):
            raise PassError(
                "the form of attention is chosen for a target",
                expected="form='chosen' and a target, or neither",
                found=f"form={self.form!r}, target={self.target!r}",
            )

    def for_target(self, target: str, system: str) -> Pass:
        """Chooses by site, where no form is asked for."""
        if self != SplitAttention():
            return self
        return replace(self, form="chosen", target=target, system=system)

    def apply(self, rw: Rewriter) -> None:
        """Rewrites every attention of rank 3 or 4 with static head counts."""
        found = rw.find(aten.scaled_dot_product_attention.default)
        fitting = [node for node in found if not _refusal(node)]
        for node in found:
            reason = _refusal(node)
            if reason:
                rw.decline(node, reason)
                continue
            step = self._at(rw, node, len(fitting))
            with rw.at(node):
                result = step._rewrite(rw, node)
                rw.replace(node, result)

    def _at(self, rw: Rewriter, node: fx.Node, sites: int) -> SplitAttention:
        """The pass with the form of one site."""
        if self.target is None:
            return self
        site = site_of(rw, node)
        if site is None:
            rw.note(f"{node.name}: split, since its sizes are not known before the model runs")
            return SplitAttention()
        parts = min(self.max_parts, self.most_parts // sites)
        choice = choose_form(site, self.target, self.system, parts)
        rw.note(f"attention of {_size(node)}: {choice.named(site)}: {choice.reason}")
        if choice.form != "split":
            return SplitAttention(choice.form)
        return SplitAttention("split", choice.query_chunk, 0)

    def _rewrite(self, rw: Rewriter, node: fx.Node) -> fx.Node:
        query, key, value, mask, _, is_causal, scale, _ = arguments(node).values()
        single = len(shape(query)) == 3
        scale = shape(query)[-1] ** -0.5 if scale is None else scale
        if self.form != "native":
            query, key = scaled_scores(rw, query, key, scale)
        if single:
            query, key, value = (rw.emit(aten.unsqueeze.default, t, 1) for t in (query, key, value))
        scores = (*shape(query)[:3], shape(key)[2])
        if single and mask is not None and len(shape(mask)) == 3:
            mask = rw.emit(aten.unsqueeze.default, mask, 1)
        if masks_nothing(rw, mask):
            mask = None
        # Masks serve all layers: they are made where they come from, not in each block.
        with nullcontext() if mask is None else rw.after(mask):
            mask = additive_mask(rw, mask, is_causal, scores)
        if self.form == "native":
            result = _native(rw, query, key, value, mask, scale)
        else:
            result = self._explicit(rw, node, _Attention(query, key, value, mask))
        return rw.emit(aten.squeeze.dims, result, [1]) if single else result

    def _explicit(self, rw: Rewriter, node: fx.Node, attention: _Attention) -> fx.Node:
        if self.form == "batched":
            return _batched(rw, attention)
        chunks = self._chunks(rw, node, attention)
        if attention.heads * len(chunks) > self.max_parts:
            rw.note(
                f"{node.name}: batched, since {attention.heads} heads in {len(chunks)} chunks "
                f"would be more than {self.max_parts} parts"
            )
            return _batched(rw, attention)
        return _split(rw, attention, chunks)

    def _chunks(self, rw: Rewriter, node: fx.Node, attention: _Attention) -> list[int]:
        """Lengths of the query chunks; one chunk stands for all queries."""
        queries, keys = shape(attention.query)[2], shape(attention.key)[2]
        if not isinstance(queries, int) or not isinstance(keys, int):
            return [0]
        if queries * keys <= self.chunk_above or queries <= self.query_chunk:
            return [queries]
        rw.note(f"{node.name}: {queries} queries in chunks of {self.query_chunk}")
        rest = queries % self.query_chunk
        return [self.query_chunk] * (queries // self.query_chunk) + ([rest] if rest else [])


def _refusal(node: fx.Node) -> str | None:
    given = arguments(node)
    query, key = given["query"], given["key"]
    rank = len(shape(query))
    if rank not in (3, 4):
        return f"its queries have {rank} axes; 3 or 4 can be rewritten"
    if rank == 4 and not all(isinstance(shape(t)[1], int) for t in (query, key)):
        return "its number of heads is dynamic"
    if rank == 4 and shape(query)[1] % shape(key)[1]:
        return "its query heads do not divide evenly among its key heads"
    if given["dropout_p"]:
        return "it drops attention weights at random; run to_inference first"
    if given["is_causal"] and not all(isinstance(shape(t)[-2], int) for t in (query, key)):
        return "it is causal over a dynamic number of tokens; pass a mask instead"
    return None


def _native(
    rw: Rewriter, query: fx.Node, key: fx.Node, value: fx.Node, mask: fx.Node | None, scale: float
) -> fx.Node:
    # MIL's operator wants as many key heads as query heads.
    heads, groups = shape(query)[1], shape(key)[1]
    repeats = heads // groups
    if repeats > 1 and _few_queries(query, key, mask):
        return _as_queries(rw, query, key, value, mask, scale)
    if repeats > 1:
        key, value = (_repeat_heads(rw, t, repeats) for t in (key, value))
    return rw.emit(aten.scaled_dot_product_attention.default, query, key, value, mask, scale=scale)


def _few_queries(query: fx.Node, key: fx.Node, mask: Any) -> bool:
    """True if repeating the mask for each head of a group moves less than repeating keys."""
    queries, width, groups = shape(query)[2], shape(query)[3], shape(key)[1]
    if not is_static(query) or not is_static(key):
        return False
    per_head = mask is not None and shape(mask)[1] != 1
    return not per_head and (mask is None or shape(mask)[2] == 1 or queries <= 2 * groups * width)


def _as_queries(
    rw: Rewriter, query: fx.Node, key: fx.Node, value: fx.Node, mask: Any, scale: float
) -> fx.Node:
    """One product for each group: the heads that share keys are queries of one head."""
    batch, heads, queries, width = shape(query)
    groups = shape(key)[1]
    folded = rw.emit(aten.reshape.default, query, [batch, groups, heads // groups * queries, width])
    if mask is not None and shape(mask)[2] != 1:
        with rw.after(mask):
            mask = rw.emit(aten.cat.default, [mask] * (heads // groups), 2)
    result = rw.emit(
        aten.scaled_dot_product_attention.default, folded, key, value, mask, scale=scale
    )
    return rw.emit(aten.reshape.default, result, [batch, heads, queries, shape(value)[3]])


def _repeat_heads(rw: Rewriter, heads: fx.Node, times: int) -> fx.Node:
    parts = _parts(rw, heads, [1] * shape(heads)[1], 1)
    return rw.emit(aten.cat.default, [part for part in parts for _ in range(times)], 1)


def _split(rw: Rewriter, a: _Attention, chunks: list[int]) -> fx.Node:
    width, value_width = shape(a.query)[3], shape(a.value)[3]
    keys = _parts(rw, _keys_by_row(rw, a.key), [width] * a.groups, 3)
    values = _parts(rw, _image(rw, a.value), [value_width] * a.groups, 1)
    image = _image(rw, a.query)
    results = []
    start = 0
    for length, rows in zip(chunks, _parts(rw, image, chunks, 3), strict=True):
        mask = _mask_by_key(rw, a.mask, start, length, len(chunks) > 1)
        outputs = []
        for head, query in enumerate(_parts(rw, rows, [width] * a.heads, 1)):
            group = head // (a.heads // a.groups)
            scores = rw.emit(aten.einsum.default, "bchq,bkhc->bkhq", [query, keys[group]])
            if mask is not None:
                scores = rw.emit(aten.add.Tensor, scores, mask[head % len(mask)])
            weights = rw.emit(aten.softmax.int, scores, 1)
            outputs.append(
                rw.emit(aten.einsum.default, "bkhq,bchk->bchq", [weights, values[group]])
            )
        results.append(_joined(rw, outputs, 1))
        start += length
    return _heads(rw, _joined(rw, results, 3), a.heads, value_width)


def _batched(rw: Rewriter, a: _Attention) -> fx.Node:
    query, key, value = (_swapped(rw, t) for t in (a.query, a.key, a.value))
    if a.groups == a.heads:
        return _swapped(rw, _attend(rw, query, key, value, a.mask))
    size = a.heads // a.groups
    masks = [a.mask] * a.groups
    if a.mask is not None and shape(a.mask)[1] != 1:
        masks = _parts(rw, a.mask, [size] * a.groups, 1)
    queries = _parts(rw, query, [size] * a.groups, 1)
    keys, values = (_parts(rw, t, [1] * a.groups, 1) for t in (key, value))
    results = [_attend(rw, *parts) for parts in zip(queries, keys, values, masks, strict=True)]
    return _swapped(rw, _joined(rw, results, 1))


def _attend(
    rw: Rewriter, query: fx.Node, key: fx.Node, value: fx.Node, mask: fx.Node | None
) -> fx.Node:
    """(B, H, D, Sq), (B, H, D, Sk), (B, H, Dv, Sk) -> (B, H, Dv, Sq).

    The two swaps are flags of MIL's matmul.
    """
    scores = rw.emit(aten.matmul.default, _swapped(rw, query), key)
    if mask is not None:
        scores = rw.emit(aten.add.Tensor, scores, mask)
    weights = rw.emit(aten.softmax.int, scores, 3)
    return rw.emit(aten.matmul.default, value, _swapped(rw, weights))


def _swapped(rw: Rewriter, x: fx.Node) -> fx.Node:
    """(B, H, S, D) -> (B, H, D, S), the image layout with heads apart, and back."""
    return rw.emit(aten.permute.default, x, [0, 1, 3, 2])


def _image(rw: Rewriter, heads: fx.Node) -> fx.Node:
    """(B, H, S, D) -> (B, H*D, 1, S)."""
    count, width = shape(heads)[1], shape(heads)[3]
    return _reshaped(rw, _swapped(rw, heads), 3, [0, count * width, 1, -1])


def _keys_by_row(rw: Rewriter, heads: fx.Node) -> fx.Node:
    """(B, G, S, D) -> (B, S, 1, G*D)."""
    count, width = shape(heads)[1], shape(heads)[3]
    by_token = rw.emit(aten.permute.default, heads, [0, 2, 1, 3])
    return _reshaped(rw, by_token, 1, [0, -1, 1, count * width])


def _heads(rw: Rewriter, image: fx.Node, count: int, width: int) -> fx.Node:
    """(B, H*D, 1, S) -> (B, H, S, D)."""
    return _swapped(rw, _reshaped(rw, image, 3, [0, count, width, -1]))


def _reshaped(rw: Rewriter, x: fx.Node, tokens: int, spelled: list[int]) -> fx.Node:
    """Reshape of (B, ...) whose batch and token sizes may be dynamic.

    ``tokens`` is the token axis of ``x``; ``spelled`` gives the new sizes, -1 for tokens and 0
    for the batch.
    """
    batch, length = shape(x)[0], shape(x)[tokens]
    new: dict[int, Any] = {0: batch, -1: length}
    if not isinstance(batch, int):
        new[0] = rw.emit(aten.sym_size.int, x, 0)
    if not isinstance(length, int):
        new[-1] = -1
    return rw.emit(aten.reshape.default, x, [new.get(size, size) for size in spelled])


def _mask_by_key(
    rw: Rewriter, mask: fx.Node | None, start: int, length: int, chunked: bool
) -> list[fx.Node] | None:
    """(B, H, Sq, Sk) -> (B, Sk, 1, Sq) for each head; one for all where they share it."""
    if mask is None:
        return None
    with rw.after(mask):
        if chunked and shape(mask)[2] != 1:
            mask = rw.emit(aten.slice.Tensor, mask, 2, start, start + length)
        by_key = rw.emit(aten.permute.default, mask, [0, 3, 1, 2])
        return _parts(rw, by_key, [1] * shape(mask)[1], 2)


def _parts(rw: Rewriter, x: fx.Node, lengths: list[int], where: int) -> list[fx.Node]:
    if len(lengths) == 1:
        return [x]
    split = rw.emit(aten.split_with_sizes.default, x, lengths, where)
    return [rw.emit(operator.getitem, split, i) for i in range(len(lengths))]


def _joined(rw: Rewriter, parts: list[fx.Node], where: int) -> fx.Node:
    return parts[0] if len(parts) == 1 else rw.emit(aten.cat.default, parts, where)
