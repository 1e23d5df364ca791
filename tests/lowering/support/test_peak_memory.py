"""Peaks are seen while they last."""

from __future__ import annotations

import time

import numpy as np

from lowering.support.peak_memory import PeakMemory

# A busy machine may not let the sampling thread run for a while.
_PATIENCE_SECONDS = 10.0


def test_peak_sees_memory_that_is_gone_again():
    with PeakMemory() as peak:
        block = np.ones(64_000_000, np.uint8)
        end = time.monotonic() + _PATIENCE_SECONDS
        while peak.added_bytes < block.nbytes and time.monotonic() < end:
            time.sleep(0.005)
        del block
    assert 40e6 < peak.added_bytes < 120e6
