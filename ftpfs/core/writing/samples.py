"""Samples: how a half-changed file of ours is told from another one.

A change in place that breaks off leaves the server's file between two contents. Its size and time
prove nothing then. So before such a change, its first bytes are noted with their places, those of
its first ranges. Whether one of these samples is there tells our half-changed file from another.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

# Bytes of a sample. No network takes so few apart.
SAMPLE_BYTES = 16
# Samples of one change.
SAMPLES = 4

Sample = tuple[int, bytes]  # an offset, and the bytes from there on


def samples_of(
    read: Callable[[int, int], bytes], ranges: Iterable[tuple[int, int]]
) -> tuple[Sample, ...]:
    """The samples of a change that writes `ranges`. `read(offset, count)` reads its content."""
    return tuple(
        (start, read(start, min(SAMPLE_BYTES, end - start)))
        for start, end in islice(ranges, SAMPLES)
    )
