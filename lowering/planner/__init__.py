"""ANE planner: where each operator runs, why, and what it is predicted to cost.

``capability``, ``price`` and ``segment`` are facts in, decisions out; ``lowering.planner.plan``
applies them to a program.
"""

from lowering.planner.capabilities import Capability, Reason, capability
from lowering.planner.facts import FactsError, OpFacts, TensorFacts
from lowering.planner.prices import price
from lowering.planner.segmentation import segment
from lowering.planner.targets import UnknownChipError, chip_names

__all__ = [
    "Capability",
    "FactsError",
    "OpFacts",
    "Reason",
    "TensorFacts",
    "UnknownChipError",
    "capability",
    "chip_names",
    "price",
    "segment",
]
