"""Two paths become one: their results and effects, leaf by leaf, through ``torch.where``."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true, sym_eq

from frontend.branches.ask import Site
from frontend.branches.state import BranchError, BranchState, Effect, Effects
from frontend.branches.trace import Trace
from frontend.structure import FixedLeaf, Structure

# Values that are the same where they compare equal; of others only the identity counts.
_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True)
class Decision:
    """One question on one path.

    Attributes:
        condition: bool, shape (): the answer as a tensor, as it was when asked.
        answer: what this run was told.
        site: who asked.
    """

    condition: Tensor
    answer: bool
    site: Site


@dataclass(frozen=True)
class Outcome:
    """What one path, or several merged ones, returned and left behind."""

    leaves: list[Any]
    structure: Hashable
    effects: Effects


def merge(decision: Decision, a: Outcome, b: Outcome, state: BranchState) -> Outcome:
    """``a`` where the decision's condition is as answered for ``a``, else ``b``."""
    merger = Merger(decision, state.trace)
    if a.structure != b.structure:
        raise merger.refused(
            "the two sides of a branch return different things",
            *_first_difference(a.structure, b.structure),
        )
    leaves = [
        merger.value(f"output {index}", x, y)
        for index, (x, y) in enumerate(zip(a.leaves, b.leaves, strict=True))
    ]
    effects = {}
    for place in {**a.effects, **b.effects}:
        label = (a.effects.get(place) or b.effects[place]).label
        sides = [
            side.effects[place].value if place in side.effects else state.initial(place)
            for side in (a, b)
        ]
        effects[place] = Effect(label, merger.value(label, *sides))
    return Outcome(leaves, a.structure, effects)


@dataclass(frozen=True)
class Merger:
    """Selects between what the two sides of ``decision`` made."""

    decision: Decision
    trace: Trace

    def value(self, label: str, a: object, b: object) -> Any:
        """``a`` or ``b`` as the condition says, for tensors, nests of them and equal values."""
        if a is b:
            return a
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return self._tensor(label, a, b)
        flat_a, tree_a = torch.utils._pytree.tree_flatten(a)
        flat_b, tree_b = torch.utils._pytree.tree_flatten(b)
        if tree_a == tree_b and not tree_a.is_leaf():
            merged = [self.value(label, x, y) for x, y in zip(flat_a, flat_b, strict=True)]
            return torch.utils._pytree.tree_unflatten(merged, tree_a)
        if type(a) is type(b) and isinstance(a, _PLAIN) and a == b:
            return a
        raise self.refused(f"the two sides of a branch leave {label} different", _of(a), _of(b))

    def _tensor(self, label: str, a: Tensor, b: Tensor) -> Tensor:
        same_shape = a.ndim == b.ndim and statically_known_true(sym_eq(a.shape, b.shape))
        if not same_shape or a.dtype != b.dtype:
            kind = "dtypes" if same_shape else "shapes"
            raise self.refused(
                f"the two sides of a branch give {label} different {kind}", _of(a), _of(b)
            )
        when_true, when_false = (a, b) if self.decision.answer else (b, a)
        merged = torch.where(self.decision.condition, when_true, when_false)
        self.trace.mark_source(merged, self.decision.site.stack)
        return merged

    def refused(self, message: str, a: str, b: str) -> BranchError:
        """The error for sides that do not fit, described by ``a`` and ``b``."""
        when_true, when_false = (a, b) if self.decision.answer else (b, a)
        return BranchError(
            message,
            module=self.decision.site.module or None,
            source=self.decision.site.line,
            expected="the same on both sides, except for the values of tensors",
            found=f"{when_true} when true, {when_false} when false",
            hint="make both sides return tensors of one shape and dtype",
        )


def _of(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return repr(value)


def _first_difference(a: Hashable, b: Hashable, path: str = "the result") -> tuple[str, str]:
    """Where two structures part, one text for each."""
    if isinstance(a, Structure) and isinstance(b, Structure) and a.kind is b.kind:
        if a.kind is FixedLeaf:
            return f"{path} = {a.constant!r}", f"{path} = {b.constant!r}"
        if a.keys != b.keys:
            return f"{path} with {_keys(a)}", f"{path} with {_keys(b)}"
        for key, x, y in zip(a.keys, a.children, b.children, strict=True):
            if x != y:
                return _first_difference(x, y, f"{path}[{key!r}]")
    return f"{path} is {_kind(a)}", f"{path} is {_kind(b)}"


def _kind(structure: Hashable) -> str:
    if not isinstance(structure, Structure):
        return str(structure)
    if structure.kind is FixedLeaf:
        return repr(structure.constant)
    return "a tensor" if structure.kind is None else f"a {structure.kind.__name__}"


def _keys(structure: Structure) -> str:
    return ", ".join(map(str, structure.keys)) or "nothing"
