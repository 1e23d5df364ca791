"""Names the op of a package at which it leaves the torch program.

Each torch operator is computed on the values that the *package* has for its inputs, and compared
with what the package made of them. So an op is charged with its own error only, not with what it
inherited. Of the ops that err, the first whose own error alone, carried on to the outputs by
torch, spoils them is the one named.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from frontend.source import Source, source_of
from lowering.package.source_table import SourceTable
from lowering.reference import LoadedModel
from lowering.reference.program import Value
from lowering.verification import fx_values
from lowering.verification.original import Original
from lowering.verification.package_values import (
    PackageRun,
    in_form_of,
    matches,
    merge,
    part_of,
    segment,
)
from lowering.verification.parity import rel_l2
from lowering.verification.result import Divergence

# An op's own relative error from here on is looked at. Unrounded, an op agrees with torch to
# 1e-6 where nothing cancels; fp16 weights are rounded in the same way on both sides.
OWN_ERROR = 1e-4
# At most so many ops are tried, those with the largest own error; each costs a run in torch.
CANDIDATES = 32
# Share of the outputs' error that an op must explain alone to be the one that is named.
SHARE = 0.5
# How many values the growth of the error is reported at.
GROWTH = 12
# Ops that only move values: where others computed with them, those are named first.
_MOVES = frozenset({"cast", "expand_dims", "identity", "reshape", "squeeze", "transpose"})


@dataclass(frozen=True)
class Computed:
    """What computes a value.

    Attributes:
        op, op_type: name and type of the op that is named for it.
        between: all ops that compute it from values that were compared, in order.
    """

    op: str
    op_type: str
    between: tuple[str, ...]


@dataclass
class Walk(ABC):
    """Finds the op at fault in one run of a program that some converter made.

    Args:
        original: what it is held against.
        run: what the converted program computed.
        rounded: whether it stores float constants as fp16.
        threshold: the relative error of an output that counts.
    """

    original: Original
    run: PackageRun
    rounded: bool
    threshold: float

    @abstractmethod
    def _matches(self) -> Mapping[str, str]:
        """FX node name to the name of the value that holds the node's result, in program order."""

    @abstractmethod
    def _computed(self, value: str) -> Computed:
        """What computes ``value``."""

    @abstractmethod
    def _broken_op(self) -> Divergence:
        """The op that could not be executed, when all before it is right."""

    def __post_init__(self) -> None:
        found = self._matches()
        self.matched = {node: name for node, name in found.items() if name in self.run.values}
        self._clean = self._values({})
        self._nodes = {node.name: node for node in self.original.program.graph.nodes}

    def is_wrong(self) -> bool:
        """Whether the package stopped early, or an output or state is off by more than this."""
        return self.run.error is not None or not (
            self._outputs_error(self._package_values()) <= self.threshold
        )

    def errors(self) -> dict[str, float]:
        """Per matched float node the relative error of its value, what it inherited included."""
        found = {}
        for node, name in self.matched.items():
            clean = self._clean[node]
            if isinstance(clean, Tensor) and clean.is_floating_point():
                value = in_form_of(self.run.values[name], clean)
                found[node] = math.inf if value is None else rel_l2(value, clean)
        return found

    def first(self) -> Divergence | None:
        """The op at fault; ``None`` when every op does what torch does on the same values."""
        self._own, self._expected = self._own_errors(self.matched)
        while True:
            culprit = self._culprit()
            if culprit is None:
                return self._broken_op() if self.run.error else None
            if not self._is_false_match(culprit[0]):
                return self._described(*culprit)
            del self.matched[culprit[0]]
            self._own, self._expected = self._own_errors(self.matched)

    def _weights(self, tensor: Tensor) -> Tensor:
        return fx_values.halved(tensor) if self.rounded else tensor

    def _traverse(self, visit: fx_values.Visit) -> tuple[object, ...]:
        leaves = [self._weights(x) if isinstance(x, Tensor) else x for x in self.original.leaves]
        program = self.original.program
        buffers = self.original.buffers
        return fx_values.run(program, leaves, visit=visit, weights=self._weights, buffers=buffers)

    def _values(self, replaced: Mapping[str, Callable[[Tensor], Tensor]]) -> dict[str, Any]:
        """Values of the torch program by node, some of them replaced on the way."""
        values: dict[str, Any] = {}

        def visit(node: fx.Node, value: Any) -> object:
            if node.name in replaced:
                value = replaced[node.name](value)
            values[node.name] = value
            return value

        self._traverse(visit)
        return values

    def _own_errors(self, matched: Mapping[str, str]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Per matched node its own relative error, and what torch makes of the package's values."""
        errors: dict[str, float] = {}
        expected: dict[str, Tensor] = {}

        def visit(node: fx.Node, value: object) -> object:
            name = matched.get(node.name)
            if name is None or not isinstance(value, Tensor):
                return value
            found = in_form_of(self.run.values[name], value)
            expected[node.name] = value
            if found is None or name in self.run.misshapen:
                errors[node.name] = math.inf
                return value if found is None else found
            errors[node.name] = rel_l2(found, value)
            return found

        self._traverse(visit)
        return errors, expected

    def _culprit(self) -> tuple[str, float] | None:
        """The node to name, and the error of the outputs that its own error alone causes."""
        suspects = [node for node, error in self._own.items() if not error <= OWN_ERROR]
        if not suspects:
            return None
        loudest = set(sorted(suspects, key=lambda node: -self._own[node])[:CANDIDATES])
        total = self._outputs_error(self._package_values())
        needed = SHARE * total if self.threshold < total < math.inf else self.threshold
        effects: dict[str, float] = {}
        for node in suspects:
            if node not in loudest:
                continue
            effects[node] = self._effect(node)
            if effects[node] > needed or math.isinf(effects[node]):
                return node, effects[node]
        strongest = max(effects, key=lambda node: effects[node])
        if self.run.error is not None or not effects[strongest] > 0:
            return None
        return strongest, effects[strongest]

    def _effect(self, node: str) -> float:
        value = in_form_of(self.run.values[self.matched[node]], self._expected[node])
        if value is None or self.matched[node] in self.run.misshapen:
            return math.inf
        expected = self._expected[node]
        return self._outputs_error(self._values({node: lambda own: merge(value, expected, own)}))

    def _outputs_error(self, values: Mapping[str, Tensor]) -> float:
        """The largest relative error among states and outputs."""
        states, outputs = fx_values.returned(self.original.program)
        nodes = [node.name for node in (*states.values(), *outputs)]
        errors = [rel_l2(values[node], self._clean[node]) for node in nodes]
        return max(errors, default=0.0)

    def _package_values(self) -> dict[str, Tensor]:
        values = dict(self._clean)
        for node, name in self.matched.items():
            found = in_form_of(self.run.values[name], self._clean[node])
            values[node] = torch.full_like(self._clean[node], math.nan) if found is None else found
        return values

    def _is_false_match(self, node: str) -> bool:
        """Whether the name alone made ``node`` a match: without it, all that follows agrees.

        Some passes of coremltools keep the name of a value whose axes they swap, and swap them
        back in the next op. A real fault shows at the next matched value when this one is left
        out.
        """
        fewer = {key: name for key, name in self.matched.items() if key != node}
        if not self._users_matched(node, fewer):
            return False
        errors, _ = self._own_errors(fewer)
        before = {key for key, error in self._own.items() if not error <= OWN_ERROR}
        after = {key for key, error in errors.items() if not error <= OWN_ERROR}
        return after < before - {node} or (after == before - {node} and len(before) == 1)

    def _users_matched(self, node: str, matched: Mapping[str, str]) -> bool:
        return any(name in matched for name in self._downstream(node))

    def _downstream(self, node: str) -> list[str]:
        """Nodes that depend on ``node``, in program order."""
        reached = {self._nodes[node]}
        for other in self.original.program.graph.nodes:
            if reached.intersection(other.all_input_nodes):
                reached.add(other)
        return [n.name for n in self._nodes.values() if n in reached and n.name != node]

    def _described(self, node: str, effect: float) -> Divergence:
        name = self.matched[node]
        computed = self._computed(name)
        part = part_of(self._nodes[node])
        fx_node = part[0] if part is not None else self._nodes[node]
        return Divergence(
            op=computed.op,
            op_type=computed.op_type,
            value=name,
            node=fx_node.name,
            target=str(fx_node.target),
            source=source_of(fx_node),
            between=computed.between,
            own_error=self._own[node],
            effect=effect,
            growth=tuple(self._growth(node)),
            reason=self._reason(node),
        )

    def _reason(self, node: str) -> str:
        name = self.matched[node]
        want, have = self._expected[node], self.run.values[name]
        if have.numel() != want.numel() or name in self.run.misshapen:
            return f"its shape is {tuple(have.shape)} where torch has {tuple(want.shape)}"
        if math.isinf(self._own[node]):
            return "it is not finite where torch is"
        return "on the same inputs torch computes something else"

    def _growth(self, node: str) -> list[tuple[str, float]]:
        """MIL value and relative error against the undisturbed program, from ``node`` on."""
        path = [name for name in (node, *self._downstream(node)) if name in self.matched]
        if len(path) > GROWTH:
            places = [round(i * (len(path) - 1) / (GROWTH - 1)) for i in range(GROWTH)]
            path = [path[place] for place in places]
        return [
            (self.matched[n], rel_l2(self.run.values[self.matched[n]], self._clean[n]))
            for n in path
        ]


@dataclass
class PackageWalk(Walk):
    """Finds the op at fault in one run of a package.

    Args:
        model: the package; the others as for :class:`Walk`.
    """

    model: LoadedModel

    def _matches(self) -> Mapping[str, str]:
        return matches(self.model, self.original.program)

    def _computed(self, value: str) -> Computed:
        ops = segment(self.model, value, set(self.matched.values()))
        named = next(
            (op for op in reversed(ops) if op.type not in _MOVES), ops[-1] if ops else None
        )
        between = tuple(op.name for op in ops)
        return Computed(named.name, named.type, between) if named else Computed(value, "const", ())

    def _broken_op(self) -> Divergence:
        assert self.run.error is not None
        op = next(op for op in self.model.ops if not self._ran(op.outputs))
        table = SourceTable.from_metadata(self.model.metadata)
        source = table.lookup(op.name) if table.entries else Source()
        return Divergence(
            op=op.name,
            op_type=op.type,
            value=op.outputs[0].name,
            node=table.key_of(op.name) or "",
            target="",
            source=source,
            between=(op.name,),
            own_error=math.inf,
            effect=math.inf,
            growth=(),
            reason=self.run.error.message,
        )

    def _ran(self, outputs: Sequence[Value]) -> bool:
        return all(output.name in self.run.values for output in outputs)
