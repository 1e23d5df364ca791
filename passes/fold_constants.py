"""Constant folding: what follows from weights and literals alone becomes one stored tensor."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from frontend.encoding import Encoding, EncodingError
from frontend.random_calls import UNINITIALISED
from passes.base import Pass
from passes.carried_encoding import carried_encoding
from passes.patterns.nodes import is_tensor
from passes.rewriter import Rewriter

# A folded value may be this much larger than the tensors it is computed from: below, storing it
# saves operators; above, it would bloat the package (a mask of 16k by 16k, say).
_FREE_BYTES = 64 << 20


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluates operators whose inputs are all constants.

    Before: ``conv(x, reshape(w, [O, I, 1, 1]))``; after: ``conv(x, w__reshape)``. A view folds
    to a view of the same storage, so no bytes are copied. Buffers that the program writes to
    are no constants. Exact: the same kernels run, once. What is made of a compressed weight keeps
    its encoding, changed with it; a scaled one is what its integers then stand for, to the last
    digit, which is within two roundings of the same kernels.
    """

    name: ClassVar[str] = "fold_constants"

    def apply(self, rw: Rewriter) -> None:
        """Stores every constant value that a non-constant operator or the output uses."""
        views: dict[Hashable, fx.Node] = {}
        for node in rw.nodes():
            if not is_tensor(node) or not rw.is_constant(node):
                continue
            if all(user.op != "output" and rw.is_constant(user) for user in node.users):
                continue  # the fold of its users takes it along
            # The program cannot depend on such memory, and folding must not freeze it.
            if getattr(node.target, "overloadpacket", None) in UNINITIALISED:
                rw.decline(node, "its memory is uninitialised, so it has no value to store")
                continue
            value = rw.value(node)
            base = _base(rw, node)
            is_view = base is not None and _shares_storage(value, rw.value(base))
            added = value.numel() * value.element_size()
            if added > _FREE_BYTES and not is_view:
                rw.decline(node, f"storing it would add {added >> 20} MiB to the package")
                continue
            if is_view and _place(value) in views:
                rw.replace(node, views[_place(value)])
                continue
            kind = str(getattr(node.target, "_opname", node.name)).split("::")[-1]
            hint = f"{rw.constant_name(base)}__{kind}" if base is not None else f"folded_{kind}"
            encoding = _encoding(rw, node, value)
            if encoding is not None and not is_view:
                value = encoding.exact(value)  # a scale was multiplied, and not each value
            stored = rw.constant(hint, value, encoding)
            rw.replace(node, stored)
            if is_view:
                views[_place(value)] = stored  # a module called twice views its weights twice


def _encoding(rw: Rewriter, node: fx.Node, value: torch.Tensor) -> Encoding | None:
    try:
        return carried_encoding(rw, node, value)
    except EncodingError as error:
        rw.decline(node, f"a compressed weight becomes a dense one: {error}")
        return None


def _base(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """The first stored tensor that ``node`` is computed from."""
    pending, seen = [node], {node}
    while pending:
        current = pending.pop()
        if current.op == "placeholder":
            return current
        for source in reversed(current.all_input_nodes):
            if source not in seen:
                seen.add(source)
                pending.append(source)
    return None


def _place(value: torch.Tensor) -> Hashable:
    """Where a view lies: two views of the same place are the same constant."""
    start = value.storage_offset()
    return (value.untyped_storage().data_ptr(), start, value.shape, value.stride(), value.dtype)


def _shares_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
