"""How products of tensors held with few axes run: linear, matmul, attention, einsum.

Rules as in ``rules``.
"""

from __future__ import annotations

import math

from torch import fx

from frontend.schema import arguments, replaced
from passes.limit_rank.stand_ins import StandIns, Value
from passes.patterns.nodes import argument, aten, input_of


def linear(low: StandIns, node: fx.Node) -> Value:
    """Leading axes merge to one."""
    source = input_of(node)
    x = low.view(source, [math.prod(low.shape(source)[:-1]), low.shape(source)[-1]])
    return low.rw.emit(node.target, x, *node.args[1:], **node.kwargs)


def matmul(low: StandIns, node: fx.Node) -> Value | None:
    """Leading axes merge to one batch; None for vectors."""
    a, b = arguments(node).values()
    if len(low.shape(a)) < 2 or len(low.shape(b)) < 2:
        return None
    batch = list(low.shape(node)[:-2])
    wide = []
    for side in (a, b):
        own = list(low.shape(side)[:-2])
        same = math.prod(own) == math.prod(batch)
        whole = (
            side if same else low.expanded(side, low.shape(side), [*batch, *low.shape(side)[-2:]])
        )
        wide.append(low.view(whole, [math.prod(batch), *low.shape(side)[-2:]]))
    return low.rw.emit(aten.matmul.default, *wide)


def attention(low: StandIns, node: fx.Node) -> Value | None:
    """Leading axes merge to one batch."""
    query, key, value, mask, *_ = arguments(node).values()
    batch = low.shape(query)[:-3]
    if low.shape(key)[:-3] != batch or low.shape(value)[:-3] != batch:
        return None
    if mask is not None and len(low.shape(mask)) > 2:
        sizes = [*low.shape(mask)[-3:]]
        if math.prod(low.shape(mask)[:-3]) != 1:
            mask = low.expanded(mask, low.shape(mask), [*batch, *sizes])
            mask = low.view(mask, [math.prod(batch), *sizes])
        else:
            mask = low.view(mask, sizes)
    q, k, v = (low.view(n, [math.prod(batch), *low.shape(n)[-3:]]) for n in (query, key, value))
    args, kwargs = replaced(node, {"query": q, "key": k, "value": v, "attn_mask": mask})
    return low.rw.emit(node.target, *args, **kwargs)


def einsum(low: StandIns, node: fx.Node) -> Value | None:
    """Two operands as one batched product; one operand as a sum and a permutation."""
    equation, operands = (
        argument(node, "equation").replace(" ", ""),
        list(argument(node, "tensors")),
    )
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if "." in equation or not arrow or len(operands) > 2:
        return None
    if any(len(set(term)) != len(term) for term in (*terms, out)):
        return None
    size = {
        letter: n
        for term, operand in zip(terms, operands, strict=True)
        for letter, n in zip(term, low.shape(operand), strict=True)
    }
    # A letter that only one operand has and the result lacks is summed beforehand.
    for place, term in enumerate(terms):
        others = set(out).union(*terms[:place], *terms[place + 1 :])
        kept = "".join(letter for letter in term if letter in others)
        rest = [letter for letter in term if letter not in others]
        order = [term.index(letter) for letter in (*kept, *rest)]
        operands[place] = low.permuted(operands[place], [size[c] for c in term], order)
        if rest:
            view = [math.prod(size[c] for c in letters) for letters in (kept, rest)]
            summed = low.view(operands[place], view)
            operands[place] = low.rw.emit(aten.sum.dim_IntList, summed, [1])
        terms[place] = kept
    if len(operands) == 1:
        (term,) = terms
        return low.permuted(operands[0], [size[c] for c in term], [term.index(c) for c in out])
    a, b = terms
    batch = [c for c in a if c in b and c in out]
    summed_over = [c for c in a if c in b and c not in out]
    rows, columns = ([c for c in term if c not in other] for term, other in ((a, b), (b, a)))
    lhs = _blocks(low, operands[0], a, (batch, rows, summed_over), size)
    rhs = _blocks(low, operands[1], b, (batch, summed_over, columns), size)
    product = low.rw.emit(aten.matmul.default, lhs, rhs)
    have = [*batch, *rows, *columns]
    return low.permuted(product, [size[c] for c in have], [have.index(c) for c in out])


def _blocks(
    low: StandIns, x: fx.Node, term: str, blocks: tuple[list[str], ...], size: dict[str, int]
) -> fx.Node:
    """``x`` with its letters gathered in three axes."""
    order = [term.index(letter) for block in blocks for letter in block]
    moved = low.permuted(x, [size[letter] for letter in term], order)
    return low.view(moved, [math.prod(size[letter] for letter in block) for block in blocks])
