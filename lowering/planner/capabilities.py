"""Which operators the ANE can run, and the reason where it cannot. Rules: capability_rules.json."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lowering.planner.facts import UNKNOWN_DIM, OpFacts, TensorFacts
from lowering.planner.targets import load_data, platform_of
from lowering.planner.work import contraction

# A predicate over an operator and the numbers of its rule.
Check: TypeAlias = Callable[[OpFacts, Mapping[str, Any]], bool]
# Operators whose second result is free to be int32: the compiler narrows topk's indices itself.
_FIRST_OUTPUT_ONLY = ("topk",)
# Operand names that hold positions.
_INDEX_OPERANDS = ("indices", "box_indices", "boxes")


@dataclass(frozen=True)
class Reason:
    """Why an operator does not run on the ANE.

    Attributes:
        rule: rule id in capability_rules.json, or of the segmentation.
        sentence: what is in the way.
        hint: what to do about it, ``""`` when nothing is known.
        confidence: 0 to 1, how sure the rule is.
        evidence: where the rule comes from.
    """

    rule: str
    sentence: str
    hint: str = ""
    confidence: float = 1.0
    evidence: str = ""

    def __str__(self) -> str:
        return f"{self.sentence} [{self.rule}]"


@dataclass(frozen=True)
class Capability:
    """Whether the ANE can run an operator.

    Attributes:
        ane: it can.
        reason: why not, ``None`` when it can.
    """

    ane: bool
    reason: Reason | None = None


@dataclass(frozen=True)
class CapabilityRule:
    """One reason for refusal.

    Attributes:
        reason: what is told to the user.
        check: the predicate.
        ops: operators it concerns, ``()`` for all.
        except_ops: operators it does not concern.
        platforms: ANE generations it holds for, ``()`` for all.
        options: the predicate's numbers.
    """

    reason: Reason
    check: Check
    ops: tuple[str, ...]
    except_ops: tuple[str, ...]
    platforms: tuple[str, ...]
    options: Mapping[str, Any]

    def refuses(self, facts: OpFacts, platform: str) -> bool:
        """The rule concerns ``facts`` on ``platform``, and its predicate holds."""
        concerns = not self.ops or facts.op_type in self.ops
        holds_here = not self.platforms or platform in self.platforms
        if not concerns or not holds_here or facts.op_type in self.except_ops:
            return False
        return self.check(facts, self.options)


_COMMON_KEYS = ("id", "check", "ops", "except_ops", "platforms", "confidence", "evidence")


@functools.cache
def rules() -> tuple[CapabilityRule, ...]:
    """All rules, in the order they are tried."""
    data = load_data("capability_rules.json")
    return tuple(read_rule(entry, data["evidence_key"], CHECKS) for entry in data["rules"])


def read_rule(
    entry: Mapping[str, Any], sources: Mapping[str, str], checks: Mapping[str, Check]
) -> CapabilityRule:
    """A rule about operators, as capability_rules.json spells it.

    Args:
        entry: the rule.
        sources: short keys that its evidence uses, and what they stand for.
        checks: the predicates by name.
    """
    return CapabilityRule(
        read_reason(entry, sources),
        checks[entry["check"]],
        tuple(entry.get("ops", ())),
        tuple(entry.get("except_ops", ())),
        tuple(entry.get("platforms", ())),
        {key: value for key, value in entry.items() if key not in _COMMON_KEYS},
    )


def read_reason(entry: Mapping[str, Any], sources: Mapping[str, str]) -> Reason:
    """What a rule tells the user."""
    return Reason(
        entry["id"],
        entry["sentence"].format(**entry),
        entry.get("hint", ""),
        entry["confidence"],
        _cited(entry["evidence"], sources),
    )


def _cited(evidence: str, sources: Mapping[str, str]) -> str:
    """``evidence`` with the sources it names by a short key written out."""
    named = [f"{key}: {text}" for key, text in sources.items() if re.search(rf"\b{key}", evidence)]
    return "; ".join((evidence, *named))


@functools.cache
def _rules_for(op_type: str, platform: str) -> tuple[CapabilityRule, ...]:
    return tuple(
        rule
        for rule in rules()
        if (not rule.ops or op_type in rule.ops)
        and (not rule.platforms or platform in rule.platforms)
    )


def capability(facts: OpFacts, target: str = "M4") -> Capability:
    """Whether the ANE of ``target`` can run the operator.

    Args:
        facts: the operator.
        target: chip (``"M4"``) or platform (``"H16G"``).

    Raises:
        UnknownChipError: no such chip.
    """
    platform = platform_of(target)
    for rule in _rules_for(facts.op_type, platform):
        if rule.refuses(facts, platform):
            return Capability(False, rule.reason)
    return Capability(True)


@functools.cache
def _gpu_refused() -> frozenset[str]:
    return frozenset(load_data("capability_rules.json")["gpu"]["ops"])


def gpu_refuses(facts: OpFacts) -> bool:
    """The GPU cannot run the operator (*measured*: listed so in the dumps, M4)."""
    return facts.op_type in _gpu_refused()


def _live(facts: OpFacts) -> tuple[TensorFacts, ...]:
    """Tensors that exist while the program runs."""
    single = facts.op_type in _FIRST_OUTPUT_ONLY
    return (*facts.runtime, *(facts.outputs[:1] if single else facts.outputs))


def _dtype_in(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return any(tensor.dtype in options["dtypes"] for tensor in _live(facts))


def _output_dtype_in(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return facts.output.dtype in options["dtypes"]


def _symbolic_shape(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return any(not tensor.is_static for tensor in _live(facts))


def _rank_above(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return any(len(tensor.shape) > options["limit"] for tensor in _live(facts))


def _rank_not(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return bool(facts.inputs) and len(facts.inputs[0].shape) != options["rank"]


def _dim_above(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return any(size > options["limit"] for tensor in _live(facts) for size in tensor.shape)


def _spatial_dim_above(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    # The channel axis is the second of an image; shorter tensors have no axis to spare.
    def spatial(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:1], *shape[2:]) if len(shape) > 2 else shape

    return any(size > options["limit"] for tensor in _live(facts) for size in spatial(tensor.shape))


def _empty_dim(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return any(size < 1 and size != UNKNOWN_DIM for tensor in _live(facts) for size in tensor.shape)


def _contraction_bytes_above(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    x = facts.inputs[0]
    row = TensorFacts((contraction(facts),), x.dtype) if x.shape else x
    return row.bytes > options["limit"]


def _conv_kernel_above(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    # A 1-D kernel lies on the width axis; the depth of a 3-D one is not limited by the dumps.
    height, width = (1, 1, *facts.kernel)[-2:]
    if height == width:
        return bool(width > options["square"])
    return bool(width > options["width"] or height > options["height"])


def _pool_width_not_in(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    width = (1, *facts.kernel)[-1]
    return width > options["width"] and width not in options["also"]


def _pool_window_above(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return max(facts.kernel, default=1) > options["limit"]


def _runtime_index_not_in(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    if facts.op_type == "crop_resize":
        # Even constant boxes are refused when their indices are not of the dtype.
        index = facts.operand("box_indices")
        return index is None or index.dtype not in options["dtypes"]
    named = [tensor for tensor in facts.runtime if tensor.name in _INDEX_OPERANDS]
    # Rows without names: the table comes first, the indices second.
    unnamed = [tensor for tensor in facts.inputs[1:2] if not tensor.name and not tensor.const]
    return any(tensor.dtype not in options["dtypes"] for tensor in named or unnamed)


def _blockwise_weight(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return bool(facts.attributes.get("blockwise_weight"))


def _width_not_multiple(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    shape = facts.output.shape
    return bool(shape) and shape[-1] % options["multiple"] != 0


def _always(facts: OpFacts, options: Mapping[str, Any]) -> bool:
    return True


CHECKS: dict[str, Check] = {
    "always": _always,
    "blockwise_weight": _blockwise_weight,
    "contraction_bytes_above": _contraction_bytes_above,
    "conv_kernel_above": _conv_kernel_above,
    "dim_above": _dim_above,
    "dtype_in": _dtype_in,
    "empty_dim": _empty_dim,
    "output_dtype_in": _output_dtype_in,
    "pool_width_not_in": _pool_width_not_in,
    "pool_window_above": _pool_window_above,
    "rank_above": _rank_above,
    "rank_not": _rank_not,
    "runtime_index_not_in": _runtime_index_not_in,
    "spatial_dim_above": _spatial_dim_above,
    "symbolic_shape": _symbolic_shape,
    "width_not_multiple": _width_not_multiple,
}
