"""Time that stands still until the test moves it."""

from __future__ import annotations


class Clock:
    """Seconds; give it where a `time.monotonic` is asked for, and set `now`."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
