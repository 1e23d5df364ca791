"""What published measurements say against an operator or a program that the dispatcher accepts.

A capability rule refuses: the dumps of a dispatcher show it. A doubt does not: its source saw one
model, another chip or another path, or others contradict it. Rules: ``doubts`` and
``program_doubts`` of capability_rules.json.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lowering.planner.capabilities import (
    CHECKS,
    CapabilityRule,
    Check,
    Reason,
    read_reason,
    read_rule,
)
from lowering.planner.facts import OpFacts
from lowering.planner.mil import ReadProgram
from lowering.planner.products import is_activation_product
from lowering.planner.state_writes import made_by, on_the_way_to_states
from lowering.planner.targets import load_data
from lowering.planner.work import contraction

# Convolutions by more than these factors, or by others, are split badly (*documented*: Apple's
# authoring rules for OS 27, apple/coreai-models, 2026-08-21).
_GOOD_FACTORS = (2, 3)
# They give a part of a value.
_PARTS = ("slice_by_index", "slice_by_size", "split")


@dataclass(frozen=True)
class Doubt:
    """A reason for caution; the placement is predicted as if it did not hold.

    Attributes:
        reason: what is reported, with its confidence and evidence.
        verdict: ``uncertain``, ``slow`` or ``not_ane``, as the sources say.
        ops: names of the operators concerned, in program order; none for the whole program.
    """

    reason: Reason
    verdict: str
    ops: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = f"{len(self.ops)} operators: " if len(self.ops) > 1 else ""
        return (
            f"{self.verdict.replace('_', ' ')} ({self.reason.confidence:.0%} sure): "
            f"{count}{self.reason}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"verdict": self.verdict, "ops": list(self.ops), **vars(self.reason)}


def doubts_of(program: ReadProgram, platform: str) -> tuple[Doubt, ...]:
    """What is reported of the operators of ``program``, and of the whole, on one platform.

    Args:
        program: the operators.
        platform: compiler's name of the ANE, such as ``H16G``.
    """
    found = []
    data = load_data("capability_rules.json")
    for entry in data["program_doubts"]:
        here = platform in entry.get("platforms", (platform,))
        if here and PROGRAM_CHECKS[entry["check"]](program, entry):
            reason = read_reason(entry, data["evidence_key"])
            found.append(Doubt(reason, entry["verdict"]))
    for rule in doubted():
        names = tuple(op.facts.name for op in program.ops if rule.refuses(op.facts, platform))
        if names:
            found.append(Doubt(rule.reason, rule.options["verdict"], names))
    return tuple(found)


@functools.cache
def doubted() -> tuple[CapabilityRule, ...]:
    """The rules about operators; their verdict is one of their options."""
    data = load_data("capability_rules.json")
    return tuple(read_rule(entry, data["evidence_key"], DOUBT_CHECKS) for entry in data["doubts"])


def reasons() -> tuple[Reason, ...]:
    """What every doubt says, those of whole programs first."""
    data = load_data("capability_rules.json")
    whole = (read_reason(entry, data["evidence_key"]) for entry in data["program_doubts"])
    return (*whole, *(rule.reason for rule in doubted()))


def _scores(facts: OpFacts) -> tuple[int, int, int] | None:
    """Queries, keys and width of a product of queries and keys, ``None`` for other operators."""
    if facts.op_type != "matmul" or not is_activation_product(facts):
        return None
    shape = facts.output.shape
    if len(shape) != 4 or not facts.output.is_static:
        return None
    return shape[2], shape[3], contraction(facts)


def _scores_at_least(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    sizes = _scores(facts)
    return (
        sizes is not None
        and sizes[0] * sizes[1] >= options["elements"]
        and (sizes[2] >= options["width"])
    )


def _length_within(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    sizes = _scores(facts)
    return (
        sizes is not None
        and sizes[2] >= options["width"]
        and all(options["low"] <= length <= options["high"] for length in sizes[:2])
    )


def _is_factored(size: int) -> bool:
    for factor in _GOOD_FACTORS:
        while size > 1 and size % factor == 0:
            size //= factor
    return size == 1


def _dilation_factors(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    dilations = facts.attributes.get("dilations") or ()
    return any(size >= options["large"] or not _is_factored(size) for size in dilations)


def _stride_factors(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    strides = tuple(facts.attributes.get("strides") or ())
    return any(not _is_factored(size) for size in strides)


def _stride_not_in(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    strides = tuple(facts.attributes.get("strides") or ())
    return any(size not in options["strides"] for size in strides)


def _kernel_width_from(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return (1, *facts.kernel)[-1] >= options["width"]


def _tiles_rank(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    # Repetition of heads: one axis of size 1 becomes longer.
    before, after = facts.inputs[0].shape if facts.inputs else (), facts.output.shape
    return (
        len(after) == len(before) == options["rank"]
        and sum(old == 1 < new for old, new in zip(before, after, strict=True)) == 1
    )


def _runtime_bounds(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return any(tensor.name in ("begin", "end") for tensor in facts.runtime)


def _output_dtype(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return facts.output.dtype in options["dtypes"]


def _any_symbolic(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return any(not tensor.is_static for tensor in (*facts.runtime, *facts.outputs))


def _attribute(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return bool(facts.attributes.get(options["attribute"]))


DOUBT_CHECKS: dict[str, Check] = {
    **CHECKS,
    "any_symbolic": _any_symbolic,
    "attribute": _attribute,
    "dilation_factors": _dilation_factors,
    "kernel_width_from": _kernel_width_from,
    "length_within": _length_within,
    "output_dtype": _output_dtype,
    "runtime_bounds": _runtime_bounds,
    "scores_at_least": _scores_at_least,
    "stride_factors": _stride_factors,
    "stride_not_in": _stride_not_in,
    "tiles_rank": _tiles_rank,
}


def _weight_bytes_between(program: ReadProgram, options: Mapping[str, Any]) -> bool:
    return options["above"] < program.weight_bytes <= options.get("to", math.inf)


def _states_from(program: ReadProgram, options: Mapping[str, Any]) -> bool:
    states = {name for op in program.ops if op.facts.op_type == "read_state" for name in op.reads}
    return len(states) >= options["count"]


def _state_written_by(program: ReadProgram, options: Mapping[str, Any]) -> bool:
    return any(op.facts.op_type in options["types"] for op in on_the_way_to_states(program))


def _state_shifted(program: ReadProgram, options: Mapping[str, Any]) -> bool:
    makers = made_by(program)
    return any(
        op.facts.op_type == "concat"
        and any(name in makers and makers[name].facts.op_type in _PARTS for name in op.reads)
        for op in on_the_way_to_states(program)
    )


def _ops_above(program: ReadProgram, options: Mapping[str, Any]) -> bool:
    counts = Counter(op.facts.op_type for op in program.ops)
    return sum(counts[op_type] for op_type in options["types"]) > options["limit"]


def _depth_above(program: ReadProgram, options: Mapping[str, Any]) -> bool:
    """The longest chain of operators of the types is longer than the limit."""
    depth: dict[str, int] = {}
    for op in program.ops:
        before = max((depth.get(name, 0) for name in op.reads), default=0)
        here = before + (op.facts.op_type in options["types"])
        depth |= dict.fromkeys(op.writes, here)
    return max(depth.values(), default=0) > options["limit"]


PROGRAM_CHECKS: dict[str, Callable[[ReadProgram, Mapping[str, Any]], bool]] = {
    "depth_above": _depth_above,
    "ops_above": _ops_above,
    "state_shifted": _state_shifted,
    "state_written_by": _state_written_by,
    "states_from": _states_from,
    "weight_bytes_between": _weight_bytes_between,
}
