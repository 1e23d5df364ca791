"""Runs an asset in Apple's runtime: ``python -m lowering.core_ai.runtime_child ASSET IN OUT``.

A process of its own, since that runtime ends the process on some programs (*measured*, coreai-core
1.0.0b3). IN and OUT are ``.npz`` files: inputs of each call as ``0:x``, ``1:x``; outputs likewise,
and the states after the last call as ``state:name``.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray


async def _run(asset: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    calls = 1 + max((int(key.split(":")[0]) for key in given if key[0].isdigit()), default=0)
    async with AIModelAsset.load(asset).executable() as model:
        function = model.load_function("main")
        state = {
            key.split(":", 1)[1]: NDArray(value)
            for key, value in given.items()
            if key.startswith("state:")
        }
        for call in range(calls):
            inputs = {
                key.split(":", 1)[1]: NDArray(value)
                for key, value in given.items()
                if key.startswith(f"{call}:")
            }
            outputs = await (function(inputs, state) if state else function(inputs))
            found |= {f"{call}:{name}": value.numpy().copy() for name, value in outputs.items()}
        found |= {f"state:{name}": value.numpy().copy() for name, value in state.items()}
    return found


def main() -> None:
    """See the module."""
    asset, given, found = map(Path, sys.argv[1:4])
    with np.load(given) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    np.savez(found, **asyncio.run(_run(asset, inputs)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
