"""What a result of the zoo means: how far a model came, and why not farther."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# In the order a model passes them.
STAGES = ("built", "optimized", "converted", "verified")
_FIRST_STAGE = {"build": 0, "process": 0, "optimize": 1, "check inputs": 2}


@dataclass(frozen=True)
class Outcome:
    """One model.

    Attributes:
        reached: how many of ``STAGES`` it passed.
        reason: what stopped it, ``""`` if nothing did.
        stock: ``trace`` and ``export`` to ``ok``, ``wrong`` or a message; empty if not measured.
    """

    reached: int
    reason: str
    stock: Mapping[str, str]

    @property
    def verified(self) -> bool:
        """Whether both packages compute what the model does."""
        return self.reached == len(STAGES)

    @property
    def stock_converts(self) -> bool:
        """Whether either route of stock coremltools returned a package, right or wrong."""
        return any(_converts(verdict) for verdict in self.stock.values())

    @property
    def stock_right(self) -> bool:
        """Whether the package of either route computes what the model does."""
        return any(verdict == "ok" for verdict in self.stock.values())


def outcome(result: Mapping[str, Any]) -> Outcome:
    """Reads a result of ``measure``."""
    stock = {route: result["stock"][route] for route in ("trace", "export") if "stock" in result}
    failed: Mapping[str, str] = result.get("failed", {})
    for stage, message in failed.items():
        first = "; ".join(line.strip() for line in message.splitlines())
        reached = _FIRST_STAGE.get(stage, 3 if stage.startswith("verify") else 2)
        return Outcome(reached, f"{stage}: {first}", stock)
    for precision in ("fp32", "fp16"):
        found = result[precision]
        if not found["passed"]:
            reason = f"{precision}: relative error {found['rel_l2']:.2g}"
            return Outcome(3, f"{reason}, allowed {found['allowed']:.2g}", stock)
    return Outcome(4, "", stock)


def _converts(verdict: str) -> bool:
    return verdict == "ok" or verdict.startswith("wrong")
