"""Peaks are seen while they last."""

from __future__ import annotations

import numpy as np

from lowering.support.peak_memory import PeakMemory


def test_peak_sees_memory_that_is_gone_again():
    with PeakMemory() as peak:
        block = np.ones(64_000_000, np.uint8)
        del block
    assert 40e6 < peak.added_bytes < 120e6
