"""One spelling for what ATen can say in several ways, and nothing that computes nothing."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from frontend.program import Draft
from frontend.recurrent import ATEN_NAMES
from frontend.sizes import same_sizes

_aten = torch.ops.aten

# A view needs strides that rewrites do not keep; reshape asks for nothing.
_RESHAPES = (_aten.view.default, _aten._unsafe_view.default)

# Checks of the trace itself; capture has settled what they ask.
_ASSERTIONS = (
    _aten._assert_tensor_metadata.default,
    _aten._assert_async.msg,
    _aten._assert_async.default,
    _aten._assert_scalar.default,
    _aten.sym_constrain_range.default,
    _aten.sym_constrain_range_for_size.default,
)

# In a functional program these return their input.
_IDENTITIES = (
    _aten.alias.default,
    _aten.detach.default,
    _aten.lift_fresh_copy.default,
    _aten.clone.default,
    _aten.contiguous.default,
)

# These return their first argument where the second has no elements.
_WRITES = (_aten.slice_scatter.default, _aten.select_scatter.default, _aten.copy.default)

# These do where nothing changes.
_CHANGES = (
    _aten._to_copy.default,
    _aten.to.dtype,
    _aten.to.dtype_layout,
    _aten.type_as.default,
    _aten.reshape.default,
    _aten.expand.default,
)


def make_canonical(draft: Draft) -> None:
    """Writes ``view`` as ``reshape`` and drops identities and assertions.

    Tensors without elements, which Core ML does not have, are neither written nor joined. An
    integer buffer that every call writes before it reads it is no state.
    """
    for node in list(draft.graph.nodes):
        if node.op != "call_function":
            continue
        node.target = ATEN_NAMES.get(node.target, node.target)
        if node.target in _RESHAPES:
            node.target = _aten.reshape.default
        if node.target is _aten.cat.default:
            _join_what_is_there(node)
        if node.target is operator.and_:
            _write_as_remainder(node)
        if node.target in _ASSERTIONS:
            draft.graph.erase_node(node)
        elif node.target is _aten.copy.default and _copies_all(node):
            node.replace_all_uses_with(node.args[1])
            draft.graph.erase_node(node)
        elif (
            node.target in _IDENTITIES
            or (node.target in _WRITES and _is_empty(node.args[1]))
            or (node.target in _CHANGES and _changes_nothing(node))
        ):
            node.replace_all_uses_with(node.args[0])
            draft.graph.erase_node(node)
    _drop_unread_states(draft)


def _drop_unread_states(draft: Draft) -> None:
    """A counter that every call sets anew is lost: Core ML has no states of its type.

    One of numbers stays, for another function of the package may read what this one wrote.
    """
    states = [
        node
        for node, tensor in draft.lifted()
        if draft.constant(node) is None and not tensor.is_floating_point()
    ]
    for node in states:
        for user in list(node.users):
            if user.target is _aten.full_like.default and not user.kwargs.get("dtype"):
                _fill_without_reading(draft, user)
    draft.drop_dead_code()
    for node in states:
        if not node.users:
            draft.keep_buffer(node)


def _fill_without_reading(draft: Draft, node: fx.Node) -> None:
    """``full_like`` of a buffer as ``full``: its shape is fixed."""
    value = node.meta["val"]
    with draft.graph.inserting_before(node):
        full = draft.graph.call_function(
            _aten.full.default, (list(value.shape), node.args[1]), {"dtype": value.dtype}
        )
    full.meta = dict(node.meta)
    node.replace_all_uses_with(full)
    draft.graph.erase_node(node)


def _write_as_remainder(node: fx.Node) -> None:
    """``size & (2^n - 1)`` is ``size % 2^n``."""
    for size, mask in (node.args, node.args[::-1]):
        if (
            isinstance(mask, int)
            and not isinstance(mask, bool)
            and mask > 0
            and mask & (mask + 1) == 0
        ):
            node.target, node.args = operator.mod, (size, mask + 1)
            return


def _is_empty(value: object) -> bool:
    tensor = value.meta.get("val") if isinstance(value, fx.Node) else None
    return isinstance(tensor, torch.Tensor) and any(
        isinstance(size, int) and size == 0 for size in tensor.shape
    )


def _join_what_is_there(node: fx.Node) -> None:
    """Leaves empty tensors out of a ``cat``, unless the result's dtype is theirs."""
    parts: Any = node.args[0]
    kept = [part for part in parts if not _is_empty(part)]
    dtypes = {part.meta["val"].dtype for part in kept}
    if len(kept) < len(parts) and dtypes == {node.meta["val"].dtype}:
        node.args = (kept, *node.args[1:])


def _copies_all(node: fx.Node) -> bool:
    """True for ``copy(target, source)`` that is ``source``: no cast, no broadcast."""
    source = node.args[1]
    if not isinstance(source, fx.Node) or "val" not in source.meta:
        return False
    before, after = source.meta["val"], node.meta["val"]
    return same_sizes(before.shape, after.shape) and before.dtype is after.dtype


def _changes_nothing(node: fx.Node) -> bool:
    source = node.args[0]
    if not isinstance(source, fx.Node) or not isinstance(source.meta.get("val"), torch.Tensor):
        return False
    before, after = source.meta["val"], node.meta["val"]
    return before.dtype is after.dtype and same_sizes(before.shape, after.shape)
