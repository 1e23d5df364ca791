"""Common-subexpression elimination: equal operators on equal inputs are computed once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from frontend.random_calls import is_pure
from passes.base import Pass
from passes.rewriter import Rewriter


@dataclass(frozen=True)
class EliminateCommon(Pass):
    """Lets later copies of a computation use the first.

    Exact. Random operators and those that write to their inputs are never merged.
    """

    name: ClassVar[str] = "eliminate_common"
    by_site: ClassVar[bool] = True

    def apply(self, rw: Rewriter) -> None:
        """One walk in program order: inputs are merged before their users are compared."""
        first: dict[Hashable, fx.Node] = {}
        for node in rw.nodes():
            if not is_pure(node):
                continue
            key = (node.target, _key(node.args), _key(node.kwargs))
            known = first.setdefault(key, node)
            if known is not node:
                # Outputs keep a node of their own; closing the program sees to it.
                rw.merge(node, known)


def _key(value: object) -> Hashable:
    if isinstance(value, list | tuple):
        return tuple(_key(part) for part in value)
    if isinstance(value, dict):
        return tuple(sorted((name, _key(part)) for name, part in value.items()))
    # 1, 1.0 and True are equal to Python and different to ATen, as 0.0 and -0.0 are.
    return (type(value), str(value)) if isinstance(value, bool | int | float) else value
