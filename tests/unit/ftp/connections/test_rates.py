"""Limits of the rate: the sum of all streams, their shares, and changes while they run.

A busy processor makes streams slower, and never faster than the limit. So upper bounds are sharp,
and lower bounds are wide.
"""

from __future__ import annotations

import threading
import time

import pytest

from ftpfs.ftp.connections.rates import BURST_SECONDS, Rate
from ftpfs.settings.timetable import NO_LIMIT, Timetable

MIB = 1 << 20


def limit(rate: int) -> Timetable:
    return Timetable(str(rate), ((0, rate),))


class Streams:
    """Streams that transfer as much as a rate allows, with pieces of these sizes, until the end."""

    def __init__(self, rate: Rate, *pieces: int) -> None:
        self.moved = [0] * len(pieces)
        self._rate = rate
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=each) for each in enumerate(pieces)
        ]
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, piece: int) -> None:
        while not self._ended.is_set():
            count = self._rate.share(piece)
            self._rate.pay(count, is_over=self._ended.is_set)
            self.moved[number] += count

    def end(self) -> float:
        """Bytes a second of all of them."""
        total, seconds = sum(self.moved), time.monotonic() - self.began
        self._ended.set()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        return total / seconds


@pytest.mark.parametrize("count", [1, 8])
def test_all_streams_together_keep_to_the_limit(count: int) -> None:
    streams = Streams(Rate(limit(2 * MIB)), *[256 << 10] * count)
    time.sleep(2)
    assert 1.4 * MIB < streams.end() < 2.1 * MIB


def test_streams_of_large_and_small_pieces_take_turns() -> None:
    """A share has at most a twentieth of a second's bytes."""
    streams = Streams(Rate(limit(MIB)), 64 << 20, 1 << 20, 100 << 10, 52 << 10)
    time.sleep(2)
    streams.end()
    assert min(streams.moved) > 0.6 * max(streams.moved), streams.moved


def test_stream_that_waits_for_its_turn_hears_of_another_limit() -> None:
    rate = Rate(limit(1 << 10))
    rate.pay(1 << 10)
    done = threading.Event()

    def wait_for_turn() -> None:
        rate.pay(1 << 20)
        done.set()

    waiting = threading.Thread(target=wait_for_turn)
    waiting.start()
    assert not done.wait(0.3)
    rate.set(limit(100 * MIB))
    assert done.wait(5)
    waiting.join()


@pytest.mark.parametrize("after", [limit(8 * MIB), limit(512 << 10), NO_LIMIT])
def test_limit_changes_while_streams_run(after: Timetable) -> None:
    rate = Rate(limit(2 * MIB))
    streams = Streams(rate, *[64 << 10] * 3)
    time.sleep(0.5)
    rate.set(after)
    before, since = sum(streams.moved), time.monotonic()
    time.sleep(1)
    moved, seconds = sum(streams.moved) - before, time.monotonic() - since
    streams.end()
    pace = after.rate_at(0)
    if pace:
        assert moved < pace * (seconds + 0.2) + 3 * (256 << 10)
        assert moved > pace * seconds * 0.6
    else:
        assert moved > 16 * MIB
        assert not rate.limited


def test_pause_is_made_up_for_by_a_short_burst_only() -> None:
    rate = Rate(limit(MIB))
    rate.pay(1)
    time.sleep(1)
    began, moved = time.monotonic(), 0
    while time.monotonic() - began < 0.5:
        count = rate.share(1 << 20)
        rate.pay(count)
        moved += count
    seconds = time.monotonic() - began
    assert moved <= MIB * (seconds + BURST_SECONDS) + 2 * (52 << 10)


def test_listing_is_charged_and_waits_for_nobody() -> None:
    rate = Rate(limit(MIB))
    began = time.monotonic()
    rate.charge(MIB)
    assert time.monotonic() - began < 0.2
    rate.pay(1)
    assert time.monotonic() - began >= 1 - BURST_SECONDS


def test_timetable_changes_the_rate_at_its_time() -> None:
    """The limit begins half a second after the start; the clock of the wall is a test's."""
    began = time.monotonic()

    def clock() -> tuple[int, float]:
        seconds = 480 * 60 - 0.5 + time.monotonic() - began
        return int(seconds // 60), seconds % 60

    rate = Rate(Timetable("08:00-18:00=1M", ((0, 0), (480, MIB), (1080, 0))), wall_clock=clock)
    assert rate.limited
    for _ in range(100):
        rate.pay(rate.share(MIB))
    assert time.monotonic() - began < 0.4
    assert rate.now()[1] == 0
    time.sleep(0.6)
    assert rate.now()[1] == MIB
    since = time.monotonic()
    for _ in range(10):
        rate.pay(rate.share(MIB))
    assert time.monotonic() - since > 10 / 20 - BURST_SECONDS - 0.1


def test_stream_that_is_cut_off_waits_no_longer() -> None:
    rate = Rate(limit(1 << 10))
    ended = threading.Event()
    waiting = threading.Thread(target=lambda: rate.pay(1 << 20, is_over=ended.is_set))
    waiting.start()
    ended.set()
    waiting.join(5)
    assert not waiting.is_alive()
