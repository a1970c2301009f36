"""Rates: how fast all data connections of one server together may receive, and send.

Owns the accounting, and the wait of each stream for its turn. Does not own the transfers: they ask
for a share before they send, and pay after they have received. Listings pay, but never wait: they
are small, and a person waits for them.

**Fairness.** *Problem.* Eight streams share one limit, and each must get an eighth.

*The obvious solution* is a bucket of tokens under a lock: a stream that finds enough takes them,
and sleeps otherwise.

*Why that fails.* The stream that happens to wake up first takes all, a stream with large pieces
starves one with small pieces, and a change of the rate finds streams that sleep for the old one.

*What we do.* The bucket is a line of bytes, in the order in which streams asked: each request has
its place behind the last one, and may pass when the clock has reached that place. A request has a
bounded size (`share`), and a stream has one at a time, so the streams take turns. Nobody wakes
anybody up: each stream computes when its own turn comes. Only a change of the rate wakes all.

**No limit costs nothing.** Transfers test `limited`, and call nothing when it is false.

Threading: any thread. The lock of `_changed` (Rank.RATE) guards the state.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.settings.timetable import NO_LIMIT, Timetable

# A stream that was idle, or was woken late, may catch up by as much as this time brings.
BURST_SECONDS = 0.25
# How much of a second's bytes one request takes, within these bounds (bytes). Smaller ones share
# more fairly and cost more: at 20 a second, eight streams wait 0.4 s for their turns.
QUANTA_PER_SECOND, QUANTUM_MIN_BYTES, QUANTUM_MAX_BYTES = 20, 1 << 10, 256 << 10
# How long a stream waits at most before it looks at the clock again: the machine may have slept,
# and the connection may have been cut off.
LOOK_SECONDS = 0.5


def _wall_clock() -> tuple[int, float]:
    """The minute of the day in this machine's zone, and the seconds since it began."""
    now = time.time()
    local = time.localtime(now)
    return local.tm_hour * 60 + local.tm_min, now % 60


class Rate:
    """One direction's limit.

    - `limited`: there is a limit at some time of the day. Read without the lock.
    - `_rate`: bytes a second now; 0: none.
    - `_reached`, `_reached_at`: how far the clock had come in the line of bytes, and when.
    - `_end`: the end of the line: where the next request is placed.
    - `_holds_until`: when the timetable's rate changes.
    """

    def __init__(
        self,
        timetable: Timetable = NO_LIMIT,
        *,
        wall_clock: Callable[[], tuple[int, float]] = _wall_clock,
    ) -> None:
        self._wall_clock = wall_clock
        self._changed = ranked_condition(Rank.RATE)
        # Guarded by the lock of `_changed`:
        self._timetable = timetable
        self._rate = 0
        self._reached = 0.0
        self._reached_at = self._holds_until = time.monotonic()
        self._end = 0.0
        self.limited = timetable.limits
        self._advance_locked(self._holds_until)

    def set(self, timetable: Timetable) -> None:
        """Another limit, also for the streams that wait now."""
        with self._changed:
            self._advance_locked(time.monotonic())
            self._timetable = timetable
            self.limited = timetable.limits
            self._holds_until = time.monotonic()
            self._advance_locked(self._holds_until)
            self._changed.notify_all()

    def now(self) -> tuple[Timetable, int]:
        """The timetable, and the rate that holds now (bytes a second; 0: no limit)."""
        with self._changed:
            self._advance_locked(time.monotonic())
            return self._timetable, self._rate

    def share(self, wanted: int) -> int:
        """How many of the `wanted` bytes may be asked for at once."""
        rate = self._rate
        if not rate:
            return wanted
        quantum = max(QUANTUM_MIN_BYTES, min(QUANTUM_MAX_BYTES, rate // QUANTA_PER_SECOND))
        return min(wanted, quantum)

    def pay(self, count: int, *, is_over: Callable[[], bool] = lambda: False) -> None:
        """Place `count` bytes at the end of the line, and wait until their turn has come.

        Returns early when `is_over()`: the connection was cut off.
        """
        with self._changed:
            place = self._place_locked(count)
            while self._rate and not is_over():
                self._advance_locked(time.monotonic())
                if not self._rate or self._reached >= place:
                    return
                self._changed.wait(min((place - self._reached) / self._rate, LOOK_SECONDS))

    def charge(self, count: int) -> None:
        """`pay` without a wait: those who come later wait for it."""
        with self._changed:
            self._place_locked(count)

    def _place_locked(self, count: int) -> float:
        """The end of `count` bytes that are placed now."""
        self._advance_locked(time.monotonic())
        burst = max(self._rate * BURST_SECONDS, self.share(QUANTUM_MAX_BYTES))
        self._end = max(self._end, self._reached - burst) + count
        return self._end

    def _advance_locked(self, now: float) -> None:
        """Move the clock on. Where the rate changes, its part before and after count apart."""
        while self._holds_until <= now:
            self._move_locked(self._holds_until)
            self._look_up_locked(now)
        self._move_locked(now)

    def _move_locked(self, until: float) -> None:
        if until > self._reached_at:
            self._reached += (until - self._reached_at) * self._rate
            self._reached_at = until
        if not self._rate:
            self._reached = max(self._reached, self._end)  # nobody waits

    def _look_up_locked(self, now: float) -> None:
        """The rate of the timetable, and until when it holds."""
        minute, seconds = self._wall_clock()
        self._rate = self._timetable.rate_at(minute)
        left = (self._timetable.next_change(minute) - minute) * 60 - seconds
        # Wall clocks are set, and zones change: look again after an hour at the latest.
        self._holds_until = now + max(0.05, min(left, 3600.0))


class Rates:
    """The limits of one server's data connections, in both directions."""

    def __init__(self, down: Timetable = NO_LIMIT, up: Timetable = NO_LIMIT) -> None:
        self.down = Rate(down)
        self.up = Rate(up)
