"""JSON from files that others wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parse(text: str, pairs: Callable[[list[tuple[str, Any]]], object] | None = None) -> Any:
    """``text`` as plain Python values.

    Args:
        text: JSON.
        pairs: makes the value of each object of its names and values; a dictionary by default.

    Raises:
        ValueError: it is no JSON, or is nested more deeply than Python can read.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
