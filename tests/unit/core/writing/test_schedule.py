"""The schedule of uploads: which one begins now, and when to look again, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpfs.core.writing import schedule
from ftpfs.core.writing.backoff import Absence
from ftpfs.core.writing.schedule import (
    AGEING_BYTES,
    BEGIN,
    BURST_CLOSES,
    BURST_PAUSE_SECONDS,
    HELD_BYTES,
    LONGEST_LINGER_SECONDS,
    Burst,
    Decision,
    First,
    Situation,
    decide,
)

NOW = 1000.0
LINGER = 0.1

CLOSED, HURRIED, STREAMED = First(), First(hurried=True), First(streamed=True)
HERE, AWAY, TRIED_NOW = Absence(), Absence(4.0, NOW + 3), Absence(4.0, NOW)
NO_BURST = Burst()
BURST = Burst(NOW - 1, NOW, BURST_CLOSES, BURST_CLOSES * 1000)
LARGE_FILES = Burst(NOW - 1, NOW, BURST_CLOSES, BURST_CLOSES << 20)
MANY_BYTES = Burst(NOW - 1, NOW, 10_000, HELD_BYTES + 1)
LONG_BURST = Burst(NOW - 10, NOW, 10_000, 10_000)
PAUSED_BURST = Burst(NOW - 1, NOW - 0.5, BURST_CLOSES, 1000)

BURST_END = NOW + BURST_PAUSE_SECONDS


def wait(at: float | None = None) -> Decision:
    return Decision(begin=False, at=at)


@dataclass
class Row:
    """One situation: the first file that may begin, and the decision."""

    name: str
    first: First | None
    expected: Decision
    due: float | None = None
    running: int = 0
    burst: Burst = NO_BURST
    absence: Absence = HERE
    yields: bool = True

    def situation(self) -> Situation:
        return Situation(
            now=NOW,
            workers=4,
            running=self.running,
            linger=LINGER,
            burst=self.burst,
            absence=self.absence,
            yields=self.yields,
        )


def rows() -> Iterator[Row]:
    yield Row("empty queue waits for a change", None, wait())
    yield Row("lingering file is waited for", None, wait(NOW + 0.1), due=NOW + 0.1)
    yield Row("file that has lingered begins", CLOSED, BEGIN)
    yield Row("file begins beside others", CLOSED, BEGIN, running=3)
    # Bursts.
    yield Row("first file of a burst begins", CLOSED, BEGIN, burst=BURST)
    yield Row("second file waits for the burst's end", CLOSED, wait(BURST_END), None, 1, BURST)
    yield Row("lingering files of a burst are held", None, wait(BURST_END), NOW - 1, 0, BURST)
    yield Row(
        "lingering files of a long burst are not held any more",
        *(None, wait(LONG_BURST.began + LONGEST_LINGER_SECONDS)),
        due=NOW - 9,
        burst=LONG_BURST,
    )
    yield Row("large files make no burst", CLOSED, BEGIN, running=1, burst=LARGE_FILES)
    yield Row("burst of many bytes holds no file", None, wait(NOW - 1), NOW - 1, 0, MANY_BYTES)
    yield Row("burst that pauses is over", CLOSED, BEGIN, running=1, burst=PAUSED_BURST)
    yield Row(
        "burst over a long link counts for nothing",
        *(CLOSED, BEGIN),
        running=1,
        burst=BURST,
        yields=False,
    )
    yield Row("hurried file begins in a burst", HURRIED, BEGIN, running=1, burst=BURST)
    yield Row("streamed file begins in a burst", STREAMED, BEGIN, running=1, burst=BURST)
    # The server is away.
    yield Row("file waits for the pause's end", CLOSED, wait(NOW + 3), absence=AWAY)
    yield Row("one file tries after the pause", CLOSED, BEGIN, absence=TRIED_NOW)
    yield Row("one file tries at a time", CLOSED, wait(), running=1, absence=TRIED_NOW)
    yield Row("streamed file waits, too", STREAMED, wait(NOW + 3), absence=AWAY)
    yield Row("hurried file tries at once", HURRIED, BEGIN, running=2, absence=AWAY)
    yield Row("earlier of two moments counts", CLOSED, wait(NOW + 0.1), due=NOW + 0.1, absence=AWAY)


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.name)
def test_first_upload_begins_or_waits(row: Row) -> None:
    assert decide(row.first, row.due, row.situation()) == row.expected


times = st.floats(0, 2 * NOW)
bursts = st.builds(Burst, times, times, st.integers(0, 20), st.integers(0, 2 * HELD_BYTES))
situations = st.builds(
    Situation,
    now=st.just(NOW),
    workers=st.integers(1, 8),
    running=st.just(0),
    linger=st.floats(0, 10),
    burst=bursts,
    absence=st.builds(Absence, st.floats(0, 60), times),
    yields=st.booleans(),
)
firsts = st.builds(First, hurried=st.booleans(), streamed=st.booleans())


@given(situation=situations, first=firsts)
def test_file_never_waits_without_an_end_while_nothing_runs(
    situation: Situation, first: First
) -> None:
    decision = decide(first, None, situation)
    assert decision.begin or (decision.at is not None and decision.at > situation.now)


def test_burst_begins_anew_after_a_pause() -> None:
    burst = Burst().with_close(10.0, 5).with_close(10.0 + BURST_PAUSE_SECONDS / 2, 7)
    assert (burst.began, burst.closes, burst.bytes) == (10.0, 2, 12)
    assert burst.with_close(20.0, 1) == Burst(20.0, 20.0, 1, 1)


@pytest.mark.parametrize(
    ("streams", "running", "absence", "may"),
    [
        (0, 0, HERE, True),
        (2, 2, HERE, True),
        (3, 3, HERE, False),  # one worker is left for files that were closed
        (0, 4, HERE, False),
        (0, 0, AWAY, False),
    ],
)
def test_file_is_streamed_if_that_keeps_no_other_waiting(
    streams: int, running: int, absence: Absence, may: bool
) -> None:
    row = Row("", None, wait(), running=running, absence=absence)
    assert schedule.may_stream(streams, row.situation()) is may


def test_lingering_is_put_off_by_further_closes_up_to_a_limit() -> None:
    assert schedule.lingers_until(10.0, 10.0, 0.1) == 10.1
    assert schedule.lingers_until(11.0, 10.0, 0.1) == 11.1
    assert schedule.lingers_until(11.95, 10.0, 0.1) == 10.0 + LONGEST_LINGER_SECONDS


def test_smaller_file_goes_first_unless_the_larger_one_waits_for_long() -> None:
    small, large = 1, 10 * AGEING_BYTES
    assert schedule.rank(small, 9.0, CLOSED) < schedule.rank(large, 0.0, CLOSED)
    assert schedule.rank(small, 11.0, CLOSED) > schedule.rank(large, 0.0, CLOSED)
    for first in (HURRIED, STREAMED):
        assert schedule.rank(large, 100.0, first) < schedule.rank(small, 0.0, CLOSED)
