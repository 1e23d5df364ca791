"""Which axis of a linear layer's input counts tokens, where it is not the usual one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from frontend.sizes import same_size, same_sizes
from passes.patterns.nodes import (
    aten,
    input_of,
    is_call,
    is_tensor,
    only_user,
    permuted_axes,
    shape,
)
from passes.patterns.operators import RESHAPES
from passes.patterns.pointwise import is_pointwise_call

_BY_ROW = (aten.linear.default, aten.layer_norm.default, aten.rms_norm.default)


def rows_are_tokens(x: fx.Node, known: dict[fx.Node, bool]) -> bool:
    """True for (N, I) or (N, 1, I) whose rows are tokens rather than a batch.

    Models flatten (B, S, I) to (B*S, I) around a block, and ``nn.MultiheadAttention`` puts tokens
    in front of the batch, (S, 1, I) for one entry; what is computed from these by operators that
    keep the rows is tokens as well. An input of (N, 1, I) is taken for such tokens.

    Args:
        x: input of a linear.
        known: answers so far, added to.
    """
    if not _has_rows(x) or shape(x)[0] == 1:
        return False
    pending, seen = [x], {x}
    result = False
    while pending and not result:
        node = pending.pop()
        if node in known:
            result = known[node]
        elif node.op == "placeholder":
            result = len(shape(node)) == 3
        elif is_call(node, aten.reshape.default) and not _has_rows(input_of(node)):
            result = len(shape(input_of(node))) > 2
        else:
            same = [n for n in node.all_input_nodes if is_tensor(n) and n not in seen]
            same = [n for n in same if _has_rows(n) and same_size(shape(n)[0], shape(x)[0])]
            pending.extend(same)
            seen.update(same)
    known[x] = result
    return result


def _has_rows(x: fx.Node) -> bool:
    """True for (N, I) and (N, 1, I)."""
    return len(shape(x)) == 2 or (len(shape(x)) == 3 and shape(x)[1] == 1)


def with_tokens_in_front(linears: Sequence[fx.Node]) -> set[fx.Node]:
    """Those of ``linears`` that work on (S, B, I).

    A permutation behind or in front of one shows it; the others are on the same stream of values.
    """
    shown = [linear for linear in linears if _stands_in_front(linear)]
    pending, stream = list(shown), set(shown)
    while pending:
        node = pending.pop()
        for other in (*node.all_input_nodes, *node.users):
            lower = node if node in other.users else other
            if other in stream or not is_tensor(other) or not _keeps_rows(lower):
                continue
            if len(shape(other)) == 3 and same_sizes(shape(other)[:2], shape(node)[:2]):
                stream.add(other)
                pending.append(other)
    return stream.intersection(linears)


def _keeps_rows(node: fx.Node) -> bool:
    return is_pointwise_call(node) or is_call(node, *_BY_ROW)


def _stands_in_front(linear: fx.Node) -> bool:
    """True if a permutation swaps the first two axes of (S, B, I), or has swapped them.

    Either may be separated from the linear by reshapes, to and from heads.
    """
    if len(shape(linear)) != 3 or shape(linear)[0] == 1:
        return False
    above: fx.Node | None = input_of(linear)
    while is_call(above, *RESHAPES):
        above = input_of(above)
    if is_call(above, aten.permute.default):
        first, second = permuted_axes(above)[:2]
        if first > second:
            return True
    below = only_user(linear)
    while is_call(below, *RESHAPES):
        below = only_user(below)
    if not is_call(below, aten.permute.default):
        return False
    order = permuted_axes(below)
    return order.index(0) > order.index(1)
