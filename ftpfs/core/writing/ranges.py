"""Interval arithmetic on half-open byte ranges [start, end). Pure; no threading of its own."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """A set of bytes, kept as sorted ranges that neither touch nor overlap."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add [start, end), and merge it with the ranges that it touches.

        Takes O(log n), or O(n) if ranges merge.
        """
        if start >= end:
            return
        first = bisect_left(self._ends, start)  # the first range that ends at or after start
        last = bisect_right(self._starts, end)  # one past the last that starts at or before end
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def cut(self, size: int) -> None:
        """Remove everything at and after `size`."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:]
        del self._ends[keep:]
        if self._ends and self._ends[-1] > size:
            self._ends[-1] = size

    def clear(self) -> None:
        self._starts.clear()
        self._ends.clear()

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not in the set."""
        gaps = []
        position = start
        for index in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[index] >= end:
                break
            if self._starts[index] > position:
                gaps.append((position, self._starts[index]))
            position = self._ends[index]
        if position < end:
            gaps.append((position, end))
        return gaps

    def covers(self, start: int, end: int) -> bool:
        return not self.missing(start, end)

    def total(self) -> int:
        """How many bytes are in the set."""
        return sum(self._ends) - sum(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"
