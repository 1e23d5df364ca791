"""Large constants that may saturate in float16: those that only tell a softmax what to leave out.

To a softmax -49152 (``fp16.MASKED``) says what -1e9 says, and as an infinity it would turn
``0 * -1e9`` into NaN. To anything else a constant beyond float16 is a number, which stays what it
is: its operator computes in float32 (``sound_passes.precision``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx

from frontend import fp16

_aten = torch.ops.aten

_SOFTMAXES = frozenset(
    {_aten.softmax, _aten._softmax, _aten._safe_softmax, _aten.log_softmax, _aten._log_softmax}
)
# Operators behind which a mask still is one: it is moved, cut, joined, or added to scores.
_CARRIERS = frozenset(
    {
        _aten.add, _aten.sub, _aten.rsub, _aten.neg, _aten.where, _aten.masked_fill, _aten.expand,
        _aten.view, _aten.reshape, _aten._unsafe_view, _aten.unsqueeze, _aten.squeeze, _aten.slice,
        _aten.select, _aten.permute, _aten.transpose, _aten.t, _aten.cat, _aten.stack,
        _aten._to_copy, _aten.clone, _aten.alias, _aten.detach, _aten.minimum, _aten.maximum,
        _aten.clamp, _aten.clamp_min, _aten.index, _aten.index_select, _aten.gather, _aten.triu,
        _aten.tril, _aten.repeat, _aten.split, _aten.split_with_sizes, _aten.copy,
        _aten.slice_scatter, _aten.select_scatter, _aten.amax,
    }
)  # fmt: skip
# Operators that put a number among the values as it is.
_FILLS = frozenset(
    {
        _aten.masked_fill, _aten.where, _aten.full, _aten.full_like, _aten.new_full,
        _aten.scalar_tensor, _aten.fill,
    }
)  # fmt: skip
_PRODUCTS = frozenset({_aten.mul})
_COMPARISONS = frozenset({_aten.eq, _aten.ne, _aten.lt, _aten.le, _aten.gt, _aten.ge})
# Bounds: lower and upper by position. Where no float16 number lies beyond, they bound nothing.
_BOUNDS: dict[Any, tuple[int | None, int | None]] = {
    _aten.clamp: (1, 2),
    _aten.hardtanh: (1, 2),
    _aten.clamp_min: (1, None),
    _aten.clamp_max: (None, 1),
}

Lookup = Callable[[fx.Node], torch.Tensor | None]


def saturating(graph: fx.Graph, constant: Lookup) -> frozenset[fx.Node]:
    """Nodes whose numbers beyond float16 may become ``fp16.MASKED``, or its opposite.

    These are calls that fill in or multiply by a mask's number, placeholders of constant masks, and
    comparisons of either with such a number.

    Args:
        graph: of the program.
        constant: the tensor behind a placeholder, ``None`` for an input of the user's.
    """
    found: set[fx.Node] = set()
    compared: list[fx.Node] = []
    for node in graph.nodes:
        packet = _packet(node)
        if node.op == "placeholder":
            tensor = constant(node)
            if tensor is not None and is_large(tensor) and _only_masks(node, constant):
                found.add(node)
        elif not _computes_with_large_float(node):
            continue
        elif packet in _COMPARISONS:
            compared.append(node)
        elif (_fills_mask(node, constant) or packet in _BOUNDS) and _only_masks(node, constant):
            found.add(node)
    found.update(node for node in compared if _comes_from(node, found))
    return frozenset(found)


def is_large(value: object) -> bool:
    """A finite number, or a tensor with one, beyond float16."""
    if isinstance(value, torch.Tensor):
        if value.dtype is not torch.float32 or not value.numel():
            return False
        low, high = value.detach().aminmax()
        if low >= -fp16.MAX and high <= fp16.MAX:
            return False  # most are: a table of weights is not copied for the question
        size = value.detach().abs()
        return bool(((size > fp16.MAX) & size.isfinite()).any())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) > fp16.MAX


def idle_bounds(node: fx.Node) -> frozenset[int]:
    """Positions of arguments that bound nothing: no float16 number lies beyond them.

    Those that ``nan_to_num`` puts in the place of infinities are likewise the ends of float16.
    """
    lower, upper = _BOUNDS.get(_packet(node), (None, None))
    bounded = node.meta.get("val")
    found: set[int] = set()
    if not isinstance(bounded, torch.Tensor) or not bounded.is_floating_point():
        return frozenset()  # integers do not become float16
    for position, value in enumerate(node.args):
        if not isinstance(value, int | float) or not is_large(value):
            continue
        ends = position and _packet(node) is _aten.nan_to_num
        if ends or (position == lower and value < 0) or (position == upper and value > 0):
            found.add(position)
    return frozenset(found)


def _computes_with_large_float(node: fx.Node) -> bool:
    values = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    floats = any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in values)
    return floats and any(is_large(value) for value in (*node.args, *node.kwargs.values()))


def _fills_mask(node: fx.Node, constant: Lookup) -> bool:
    if _packet(node) in _PRODUCTS:
        return all(_is_mask(factor, constant) for factor in node.all_input_nodes)
    return _packet(node) in _FILLS


def _only_masks(node: fx.Node, constant: Lookup) -> bool:
    """Every way from ``node`` leads into a softmax, with nothing but moves and sums before it."""
    reached = False
    pending, seen = [node], {node}
    while pending:
        current = pending.pop()
        for user in current.users:
            packet = _packet(user)
            if packet in _SOFTMAXES or _takes_as_mask(user, current):
                reached = True
            elif packet in _COMPARISONS:
                continue  # what it is compared with saturates as well
            elif packet not in _CARRIERS and not _is_getitem(user):
                others = [arg for arg in user.all_input_nodes if arg is not current]
                if packet not in _PRODUCTS or not all(_is_mask(arg, constant) for arg in others):
                    return False
            if packet not in _SOFTMAXES and user not in seen and not _takes_as_mask(user, current):
                seen.add(user)
                pending.append(user)
    return reached


def _takes_as_mask(user: fx.Node, value: fx.Node) -> bool:
    if _packet(user) is not _aten.scaled_dot_product_attention or value in user.args[:3]:
        return False
    return value is user.kwargs.get("attn_mask") or value in user.args[3:4]


def _is_mask(node: fx.Node, constant: Lookup) -> bool:
    """It says for each key whether it counts: booleans, integers, an input, or ones and zeros."""
    for current in _upwards([node]):
        value = current.meta.get("val")
        if isinstance(value, torch.Tensor) and not value.is_floating_point():
            continue
        if current.op == "placeholder":
            tensor = constant(current)
            if tensor is not None and not bool(((tensor == 0) | (tensor == 1)).all()):
                return False
        elif _packet(current) not in _CARRIERS | _FILLS and not _is_getitem(current):
            return False
    return True


def _comes_from(node: fx.Node, sources: set[fx.Node]) -> bool:
    return any(current in sources for current in _upwards(node.all_input_nodes))


def _upwards(nodes: Iterable[fx.Node]) -> Iterator[fx.Node]:
    """``nodes`` and, behind floats that were only moved or added, what these come from."""
    pending = list(nodes)
    seen = set(pending)
    while pending:
        current = pending.pop()
        yield current
        value = current.meta.get("val")
        if isinstance(value, torch.Tensor) and not value.is_floating_point():
            continue
        if _packet(current) in _CARRIERS | _FILLS | _PRODUCTS or _is_getitem(current):
            for source in current.all_input_nodes:
                if source not in seen:
                    seen.add(source)
                    pending.append(source)


def _packet(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None) if node.op == "call_function" else None


def _is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"
