"""The limits of float16, which the Neural Engine computes with; properties of IEEE 754 binary16."""

from __future__ import annotations

MAX = 65504.0
"""The largest finite number; from 65520 on a number rounds to infinity."""

NORMAL = 2.0**-14
"""The smallest normal number, 6.1e-5: hardware may take anything smaller for zero."""

SMALLEST = 2.0**-24
"""The smallest number above zero, 6.0e-8; numbers below half of it round to zero."""

ROUNDING = 2.0**-11
"""By how much rounding changes a normal number at most, relatively: 4.9e-4."""

MASKED = -1.5 * 2.0**15
"""What a mask adds to scores that get no weight: its neighbours are 32 apart, so that it swallows
scores below 16, and the sum stays finite."""
