"""The module that a model repeats, as a graph before and after the passes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from frontend.source import source_of
from lowering.planner.mil import ProgramOp
from lowering.planner.result import Plan
from lowering.reporting.op_graph import Item, OpGraph, merged
from lowering.verification import Original
from lowering.verification.fx_values import is_tensor

_NUMBER = re.compile(r"\d+")
# Modules of fewer operators, such as those of an nn.Sequential, are no blocks.
_FEWEST = 3


@dataclass(frozen=True)
class RepeatedBlock:
    """One of the equal modules that make up most of a model.

    Attributes:
        module: path of the one that is shown, such as ``encoder.layer.0``.
        count: how many modules have the same operators, this one included.
        family: how many numbered modules stand beside it, this one included.
        before: as captured, in torch's operators; ``None`` without the original.
        after: as converted, in MIL's operators.
    """

    module: str
    count: int
    family: int
    before: OpGraph | None
    after: OpGraph

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "module": self.module,
            "count": self.count,
            "family": self.family,
            "before": None if self.before is None else self.before.to_json(),
            "after": self.after.to_json(),
        }


def repeated_block(
    plan: Plan, ops: Sequence[ProgramOp], original: Original | None = None
) -> RepeatedBlock | None:
    """The block of a package, ``None`` where no module repeats.

    Args:
        plan: of the package.
        ops: the package's operators, in the order of ``plan.ops``.
        original: what the package was made from.
    """
    signed = ((op.source.module, (op.op_type, op.figures.shape)) for op in plan.ops)
    found = repeated_module(signed)
    if found is None:
        return None
    module, count, family = found
    before = None
    if original is not None and original.captured is not None:
        before = merged(_torch_items(original.captured.graph.nodes, module))
    return RepeatedBlock(module, count, family, before, merged(_mil_items(plan, ops, module)))


def repeated_module(ops: Iterable[tuple[str, Hashable]]) -> tuple[str, int, int] | None:
    """The numbered module that stands for most operators.

    Of modules beside each other, such as ``layer.0`` and ``layer.1``, those with the same operators
    count together. Where no two are the same, one that has most in common with another is taken.

    Args:
        ops: module path of each operator, and what makes it equal to another.

    Returns:
        Its path, how many have the same operators, and how many stand beside it.
    """
    contents: dict[str, Counter[Hashable]] = defaultdict(Counter)
    for path, sign in ops:
        parts = path.split(".")
        for end, part in enumerate(parts, 1):
            if _NUMBER.fullmatch(part):
                contents[".".join(parts[:end])][sign] += 1
    contents = {m: counts for m, counts in contents.items() if counts.total() >= _FEWEST}
    families: dict[str, list[str]] = defaultdict(list)
    alike: dict[tuple[str, frozenset[tuple[Hashable, int]]], list[str]] = defaultdict(list)
    for module, counts in contents.items():
        parent = module.rpartition(".")[0]
        families[parent].append(module)
        alike[parent, frozenset(counts.items())].append(module)

    def weight(modules: list[str]) -> tuple[int, int]:
        # Of groups with the same operators, such as stages of one block each, the outermost.
        return sum(contents[m].total() for m in modules), -modules[0].count(".")

    repeated = [modules for modules in alike.values() if len(modules) > 1]
    if repeated:
        best = max(repeated, key=weight)
        return best[0], len(best), len(families[best[0].rpartition(".")[0]])
    # The first and the last often hold what belongs to the model's ends.
    groups = {modules[len(modules) // 2]: modules for modules in families.values()}
    similar = [m for m, modules in groups.items() if _is_similar(contents, m, modules[-2:])]
    if not similar:
        return None
    best_module = max(similar, key=lambda m: weight(groups[m]))
    return best_module, 1, len(groups[best_module])


def _is_similar(contents: Mapping[str, Counter[Hashable]], module: str, last: list[str]) -> bool:
    """Whether ``module`` has most of its operators in common with another of the ``last``."""
    most = contents[module].total() / 2
    return any(
        (contents[module] & contents[other]).total() > most for other in last if other != module
    )


def _is_inside(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _mil_items(plan: Plan, ops: Sequence[ProgramOp], module: str) -> list[Item]:
    made_by = {name: op.facts.name for op in ops for name in op.writes}
    return [
        Item(
            key=op.facts.name,
            label=planned.op_type,
            shape=planned.figures.shape,
            reads=tuple(made_by.get(name, name) for name in op.reads),
            device=planned.device,
            passes=planned.source.passes,
            source=planned.source.line,
        )
        for op, planned in zip(ops, plan.ops, strict=True)
        if _is_inside(planned.source.module, module)
    ]


def _torch_items(nodes: Iterable[fx.Node], module: str) -> list[Item]:
    whole = {node: _producer(node) for node in nodes}
    return [
        Item(
            key=node.name,
            label=_short(str(node.target)),
            shape=tuple(node.meta["val"].shape) if is_tensor(node) else (),
            reads=tuple(
                whole[read].name for read in node.all_input_nodes if not _is_weight(whole[read])
            ),
            source=source_of(node).line,
        )
        for node in whole
        if node.op == "call_function"
        and whole[node] is node
        and _is_inside(source_of(node).module, module)
    ]


def _producer(node: fx.Node) -> fx.Node:
    """The operator behind a part of its result."""
    if getattr(node.target, "__name__", "") == "getitem":
        return _producer(node.all_input_nodes[0])
    return node


def _is_weight(node: fx.Node) -> bool:
    return node.op == "placeholder" and node.name.startswith(("p_", "b_", "c_"))


def _short(target: str) -> str:
    """``aten.linear.default`` as ``linear``; other overloads keep their name."""
    name = target.removeprefix("aten.").removesuffix(".default")
    return name.removesuffix(".Tensor")
