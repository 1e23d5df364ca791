"""``results.json``: what was compared, in a form that other programs can rely on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

from lowering.errors import SaveError
from lowering.support.finite import finite
from lowering.support.text_file import write_text

SCHEMA = 1
Kinds: TypeAlias = type | tuple[type, ...]
Status = Literal["pass", "fail", "skip"]
STATUSES: tuple[Status, ...] = ("pass", "fail", "skip")
_TOP: Mapping[str, Kinds] = {
    "schema": int,
    "command": str,
    "versions": dict,
    "totals": dict,
    "results": list,
}
_EACH: Mapping[str, Kinds] = {
    "name": str,
    "status": str,
    "seconds": (int, float),
    "reason": str,
    "outputs": list,
    "probes": list,
}


@dataclass(frozen=True)
class ResultRow:
    """What came of one comparison.

    Attributes:
        name: of what was compared.
        status: ``skip`` where something is not installed.
        seconds: that it took.
        reason: why it failed or was skipped; ``""`` for a pass.
        outputs: the parity of each output, as plain values.
        probes: the values inside, as plain values.
    """

    name: str
    status: Status
    seconds: float
    reason: str = ""
    outputs: tuple[dict[str, object], ...] = ()
    probes: tuple[dict[str, object], ...] = field(default=())

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        plain = {**vars(self), "outputs": list(self.outputs), "probes": list(self.probes)}
        return {key: finite(value) for key, value in plain.items()}


def totals(outcomes: Sequence[ResultRow]) -> dict[str, int]:
    """How many there are of each status; skips are never left out."""
    found = Counter(outcome.status for outcome in outcomes)
    return {status: found[status] for status in STATUSES}


def results_json(command: str, outcomes: Sequence[ResultRow]) -> dict[str, object]:
    """The whole file as plain values."""
    return {
        "schema": SCHEMA,
        "command": command,
        "versions": {n: metadata.version(n) for n in ("ane-passes", "coremltools", "torch")},
        "totals": totals(outcomes),
        "results": [outcome.to_json() for outcome in outcomes],
    }


def check_results_path(path: Path) -> Path:
    """``path``, if results may be written there.

    Raises:
        SaveError: it has the name of something else, such as a package.
    """
    if path.suffix != ".json":
        raise SaveError(
            "results are written as JSON, and never where a package would be looked for",
            expected="a path ending in .json",
            found=str(path),
        )
    return path


def write_results(path: Path, command: str, outcomes: Sequence[ResultRow]) -> Path:
    """Write ``results.json``, whole or not at all.

    Raises:
        SaveError: it cannot be written, or ``path`` does not end in ``.json``.
    """
    text = json.dumps(results_json(command, outcomes), indent=2, allow_nan=False)
    return write_text(text + "\n", check_results_path(path))


def results_problems(raw: object) -> list[str]:
    """What keeps ``raw`` from being such a file; empty where it is one."""
    if not isinstance(raw, dict):
        return ["the file holds no object"]
    found = _key_problems("results", raw, _TOP)
    if found:
        return found
    if raw["schema"] != SCHEMA:
        found.append(f"schema is {raw['schema']}, not {SCHEMA}")
    counted: Counter[str] = Counter()
    for number, entry in enumerate(raw["results"]):
        if not isinstance(entry, dict):
            found.append(f"results[{number}] is no object")
            continue
        found += _key_problems(f"results[{number}]", entry, _EACH)
        status = entry.get("status")
        if status not in STATUSES:
            found.append(f"results[{number}].status is {status!r}")
        elif status != "pass" and not entry.get("reason"):
            found.append(f"results[{number}] gives no reason for {status}")
        counted[str(status)] += 1
    if raw["totals"] != {status: counted[status] for status in STATUSES}:
        found.append("totals are not those of the results")
    return found


def _key_problems(at: str, raw: dict[str, object], known: Mapping[str, Kinds]) -> list[str]:
    found = [f"{at} lacks {name!r}" for name in known if name not in raw]
    found += [f"{at} has {name!r}, which is not known" for name in raw if name not in known]
    return found + [
        f"{at}.{name} is {type(raw[name]).__name__}"
        for name, kind in known.items()
        if name in raw and not isinstance(raw[name], kind)
    ]
