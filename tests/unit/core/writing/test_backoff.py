"""What a failed upload leads to, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ftpfs import errors
from ftpfs.core.writing.backoff import (
    BUSY_PATIENCE_SECONDS,
    BUSY_PAUSE_SECONDS,
    FIRST_PAUSE_SECONDS,
    FULL_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    TRIES,
    Absence,
    Notice,
    Then,
    Tries,
    after,
)

NOW = 1000.0
NONE = Tries()
LOST = errors.ConnectionLost("gone")
DENIED = errors.PermissionDenied("no")
FULL = errors.QuotaExceeded("full")
ODD = errors.DataMismatch("too short")
MOOD = errors.Refused(450, "later")
FINAL = errors.Refused(553, "never")
NO_DESCRIPTOR = errors.OutOfDescriptors("too many open files")
BUSY = errors.Busy(550, "in use")


@dataclass
class Row:
    """One failure, the failures before it, and what follows."""

    name: str
    error: errors.FtpfsError
    then: Then
    tries: Tries = NONE
    asked_again: bool = False
    pause: float | None = None  # seconds from now
    notice: Notice | None = None
    told: bool = False


def rows() -> Iterator[Row]:
    first = FIRST_PAUSE_SECONDS
    yield Row("lost", LOST, Then.PAUSE, pause=first, notice=Notice.AWAY)
    yield Row("lost again", LOST, Then.PAUSE, Tries(1, 2.0), pause=4.0, notice=Notice.AWAY)
    yield Row(
        "hurried within its pause and lost again",
        *(LOST, Then.PAUSE, Tries(1, 2.0, NOW + 1)),
        pause=2.0,
        notice=Notice.AWAY,
    )
    yield Row(
        "lost for long",
        *(LOST, Then.PAUSE, Tries(99, LONGEST_PAUSE_SECONDS)),
        pause=LONGEST_PAUSE_SECONDS,
        notice=Notice.AWAY,
    )
    yield Row("no descriptor", NO_DESCRIPTOR, Then.PAUSE, pause=first, notice=Notice.DESCRIPTORS)
    yield Row("denied", DENIED, Then.FAILED, told=True)
    yield Row("denied once more", DENIED, Then.FAILED, Tries(1))
    yield Row("denied, and closed again meanwhile", DENIED, Then.AT_ONCE, asked_again=True)
    yield Row("full", FULL, Then.FULL, pause=FULL_PAUSE_SECONDS, told=True)
    yield Row("still full", FULL, Then.FULL, Tries(1), pause=FULL_PAUSE_SECONDS)
    # Answers that may be another next time.
    yield Row("odd", ODD, Then.PAUSE, pause=first, notice=Notice.ODD)
    yield Row("refused with 4xx", MOOD, Then.PAUSE, Tries(2, 1.0), pause=2.0, notice=Notice.ODD)
    yield Row("refused with 5xx", FINAL, Then.FAILED, told=True)
    yield Row("odd each time", ODD, Then.FAILED, Tries(TRIES - 1, 2.0), told=True)
    # Open in a program on the server.
    yield Row("busy", BUSY, Then.PAUSE, pause=first, notice=Notice.BUSY)
    yield Row("still busy", BUSY, Then.PAUSE, Tries(1, 1.0, 0.0, NOW - 1), pause=2.0)
    yield Row(
        "busy for a while",
        *(BUSY, Then.PAUSE, Tries(9, 60.0, 0.0, NOW - 100)),
        pause=BUSY_PAUSE_SECONDS,
    )
    yield Row(
        "busy for too long",
        *(BUSY, Then.FAILED, Tries(0, 60.0, 0.0, NOW - BUSY_PATIENCE_SECONDS)),
        told=True,
    )


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.name)
def test_failure_leads_to_a_pause_or_an_end(row: Row) -> None:
    follows = after(row.error, row.tries, NOW, 1.0, asked_again=row.asked_again)
    assert (follows.then, follows.notice, follows.told) == (row.then, row.notice, row.told)
    if row.pause is not None:
        assert follows.tries.paused_until == NOW + row.pause


def test_file_that_fails_at_once_again_counts_its_failures_anew() -> None:
    assert after(DENIED, Tries(3), NOW, 1.0, asked_again=True).tries.count == 0


def test_absence_grows_with_each_failure_that_tried_the_server() -> None:
    first = Absence().after_failure(NOW, 0, 1.0)
    assert first == Absence(FIRST_PAUSE_SECONDS, NOW + FIRST_PAUSE_SECONDS)
    second = first.after_failure(first.until, 0, 1.0)
    assert second.pause == 2 * FIRST_PAUSE_SECONDS
    assert Absence(LONGEST_PAUSE_SECONDS).after_failure(NOW, 0, 1.0).pause == LONGEST_PAUSE_SECONDS


def test_absence_does_not_grow_by_failures_that_say_nothing_new() -> None:
    away = Absence(4.0, NOW)
    assert away.after_failure(NOW - 1, 0, 1.0) == away  # hurried within the pause
    assert away.after_failure(NOW + 1, 2, 1.0) == away  # begun before the server went


def test_retry_ends_the_pause_and_keeps_the_absence() -> None:
    assert Absence(30.0, NOW + 20).retried_now() == Absence(FIRST_PAUSE_SECONDS)
    assert Absence().retried_now() == Absence()
