"""Values that JSON has no number for."""

from __future__ import annotations

import math

import numpy as np


def finite(value: object) -> object:
    """``value`` with numpy's numbers as Python's, and NaN and infinities as text."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
