"""Models of the zoo, one after the other: ``python -m benchmarks.core_ai.measure WAYS NAME...``.

``WAYS`` is one of ``float32``, ``float16`` and ``native``, or several with commas. Prints one line
of JSON for each model, as it is done.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from benchmarks.core_ai.sides import plain, verdict, with_passes
from benchmarks.zoo.catalog import entries

WAYS = ("float32", "float16", "native")


def measure(name: str, ways: list[str]) -> dict[str, Any]:
    """Verdicts of one model, by way and side."""
    given = entries()[name][1].made()
    module = given[0]
    # A module that computes in half precision itself is off by as much.
    is_half = any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters())
    found: dict[str, Any] = {}
    for way in ways:
        begun = time.monotonic()
        bound = "float16" if is_half or way == "float16" else "float32"
        if way == "native":
            native = verdict(partial(with_passes, *given, "float32", "native"), bound)
            found[way] = {"ours": asdict(native)}
        else:
            found[way] = {
                "ours": asdict(verdict(partial(with_passes, *given, way), bound)),
                "plain": asdict(verdict(partial(plain, *given, way), bound)),
            }
        found[way]["seconds"] = round(time.monotonic() - begun, 1)
    return found


def main() -> None:
    """See the module."""
    ways = sys.argv[1].split(",")
    for name in sys.argv[2:]:
        print(json.dumps({"name": name, "found": measure(name, ways)}), flush=True)


if __name__ == "__main__":
    main()
