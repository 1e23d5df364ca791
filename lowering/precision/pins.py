"""Operators that stay in float32 in a float16 package, and what its metadata says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from frontend.json_text import parse
from frontend.source import Source
from lowering.conversion.metadata import PREFIX
from lowering.package.metadata_entry import reading
from lowering.support.finite import finite

PINS_KEY = PREFIX + "pins"
_FORM = 'JSON {"pins": [{"op", "type", "module", "line", "reason"}], ...}'


@dataclass(frozen=True)
class Pin:
    """One operator, input or output that stays in float32.

    Attributes:
        op: its MIL name, as it is when coremltools casts.
        op_type: its MIL type, ``input`` or ``output``.
        source: the user's line and module.
        reason: what float16 would do to it.
    """

    op: str
    op_type: str
    source: Source
    reason: str

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {
            "op": self.op,
            "type": self.op_type,
            "module": self.source.module,
            "line": self.source.line,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, object]) -> Pin:
        """What :meth:`to_json` gave."""
        source = Source(str(entry["module"]), str(entry["line"]))
        return cls(str(entry["op"]), str(entry["type"]), source, str(entry["reason"]))

    def __str__(self) -> str:
        place = f" ({self.source})" if self.source != Source() else ""
        return f"{self.op_type} {self.op}: {self.reason}{place}"


@dataclass(frozen=True)
class PinReport:
    """What ``precision="safe"`` did.

    Attributes:
        pins: in program order; empty where float16 is good enough throughout.
        ends: inputs and outputs that are float32, because their own numbers are no float16.
        before: worst error of an output in float16 throughout, as a share of what is allowed.
        after: the same with the pins, and with exact rewrites where they help.
        price_before: the dispatcher's price of the float16 package, milliseconds, *predicted*.
        price_after: the same with the pins, which leave the Neural Engine.
        calls: what the package was judged on, in words.
        runs: runs of the program that the search took.
        fewest: whether no single operator can be left out; not where runs were used up.
        choices: where float16 chooses otherwise between nearly equal numbers, which nothing in
            float32 makes other than chance; each with the operator, its line and the call.
    """

    pins: tuple[Pin, ...]
    ends: tuple[Pin, ...]
    before: float
    after: float
    price_before: float
    price_after: float
    calls: tuple[str, ...]
    runs: int = 0
    fewest: bool = True
    choices: tuple[str, ...] = ()

    def summary(self) -> str:
        """What was done, in a sentence."""
        if not self.pins and not self.ends:
            if self.after < self.before:
                return (
                    f"float16 throughout, rewritten: {self.after:.2g} of the error that is "
                    f"allowed, {self.before:.3g} without"
                )
            chance = f"; {self.chance}" if self.choices else ""
            return f"float16 throughout: {self.before:.2g} of the error that is allowed{chance}"
        count = len(self.pins)
        what = "1 operator stays" if count == 1 else f"{count} operators stay"
        fewer = "" if self.fewest else "; fewer may do, the search was cut short"
        return (
            f"{what} in float32: {self.after:.2g} of the error that is allowed, "
            f"{self.before:.3g} without; price {self.price_before:.3g} ms before, "
            f"{self.price_after:.3g} ms now, predicted{fewer}"
        )

    @property
    def chance(self) -> str:
        """What is left to chance, in words."""
        return "it chooses otherwise between nearly equal numbers: " + "; ".join(self.choices)

    def to_json(self) -> dict[str, object]:
        """Plain values; errors that are not finite as text."""
        return {
            "pins": [pin.to_json() for pin in self.pins],
            "ends": [pin.to_json() for pin in self.ends],
            "before": finite(self.before),
            "after": finite(self.after),
            "price_before_ms": self.price_before,
            "price_after_ms": self.price_after,
            "calls": list(self.calls),
            "runs": self.runs,
            "fewest": self.fewest,
            "choices": list(self.choices),
        }

    def to_metadata(self) -> str:
        """The JSON that stands in a package under ``PINS_KEY``."""
        return json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> PinReport | None:
        """What a package says; ``None`` for one that was made otherwise.

        Raises:
            PackageError: the entry is damaged.
        """
        if PINS_KEY not in metadata:
            return None
        with reading(PINS_KEY, "list of operators in float32", _FORM):
            raw = parse(metadata[PINS_KEY])
            return cls(
                tuple(map(Pin.from_json, raw["pins"])),
                tuple(map(Pin.from_json, raw["ends"])),
                float(raw["before"]),
                float(raw["after"]),
                float(raw["price_before_ms"]),
                float(raw["price_after_ms"]),
                tuple(map(str, raw["calls"])),
                int(raw["runs"]),
                bool(raw["fewest"]),
                tuple(map(str, raw.get("choices", ()))),  # packages of 0.1 have none
            )
