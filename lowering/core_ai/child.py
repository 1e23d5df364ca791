"""Reads what a child process that holds coreai's objects prints of an asset."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from lowering.core_ai.runtime import not_installed
from lowering.errors import CoreAIError

# Loading and copying an asset takes seconds; what takes longer does not end.
_SECONDS = 300.0


def printed_by(module: str, *arguments: object) -> Any:
    """The JSON that ``python -m module`` prints as its last line.

    Raises:
        CoreAIError: Core AI is not installed, or the child ended without it.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CoreAIError(
            "the operators of the asset cannot be read", found=f"no answer in {_SECONDS:g} s"
        ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "No module named 'coreai" in done.stderr:
            raise not_installed(last)
        raise CoreAIError("the operators of the asset cannot be read", found=last)
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("[")][-1])
