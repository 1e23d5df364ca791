"""What a stretch of code adds to this process's resident memory at its peak."""

from __future__ import annotations

import threading

import psutil

_SAMPLE_SECONDS = 0.005


class PeakMemory:
    """Samples resident memory while the block runs."""

    def __enter__(self) -> PeakMemory:
        self.before = self.highest = resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.highest = max(self.highest, resident_bytes())

    @property
    def added_bytes(self) -> int:
        """Highest sample over what was resident when the block began."""
        return self.highest - self.before

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.highest = max(self.highest, resident_bytes())


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)
