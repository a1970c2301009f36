"""Interval arithmetic against a plain set of numbers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ftpfs.core.writing.ranges import RangeSet

LIMIT = 40
points = st.integers(0, LIMIT)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), points, points), st.tuples(st.just("cut"), points, st.just(0))
    ),
    max_size=25,
)


def made(steps: list[tuple[str, int, int]]) -> tuple[RangeSet, set[int]]:
    ranges, model = RangeSet(), set[int]()
    for step, start, end in steps:
        if step == "add":
            ranges.add(start, end)
            model |= set(range(start, end))
        else:
            ranges.cut(start)
            model = {n for n in model if n < start}
    return ranges, model


@given(changes)
def test_set_holds_the_bytes_that_were_added_and_not_cut(steps: list[tuple[str, int, int]]) -> None:
    ranges, model = made(steps)
    assert {n for start, end in ranges for n in range(start, end)} == model
    assert ranges.total() == len(model)
    assert bool(ranges) == bool(model)


@given(changes)
def test_ranges_are_sorted_and_neither_touch_nor_overlap(
    steps: list[tuple[str, int, int]],
) -> None:
    ranges, _ = made(steps)
    edges = [edge for pair in ranges for edge in pair]
    assert all(a < b for a, b in itertools.pairwise(edges))


@given(changes, points, points)
def test_missing_returns_the_rest_of_the_span(
    steps: list[tuple[str, int, int]], start: int, end: int
) -> None:
    ranges, model = made(steps)
    gaps = ranges.missing(start, end)
    wanted = set(range(start, end)) - model
    assert {n for first, last in gaps for n in range(first, last)} == wanted
    assert all(first < last for first, last in gaps)
    assert ranges.covers(start, end) == (not wanted)


def test_clear_empties_the_set() -> None:
    ranges = RangeSet()
    ranges.add(1, 5)
    ranges.clear()
    assert not ranges
    assert repr(ranges) == "RangeSet([])"
