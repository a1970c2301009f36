"""Which program hears of which failed upload."""

from __future__ import annotations

from ftpfs import errors
from ftpfs.core.files.failures import Failures

FULL, AWAY = errors.NoSpace("full"), errors.ConnectionLost("away")


def test_failed_attempt_is_told_to_those_who_waited_for_it() -> None:
    failures = Failures()
    before = failures.count
    assert failures.report_since(before) is None
    failures.note(AWAY)
    assert failures.report_since(before) is AWAY
    assert failures.report_since(failures.count) is None


def test_failure_for_good_is_told_once() -> None:
    failures = Failures()
    failures.for_good = FULL
    assert failures.report_for_good(again=False) is FULL
    assert failures.report_for_good(again=False) is None
    assert failures.report_for_good(again=True) is FULL


def test_failure_that_a_waiting_program_heard_of_is_not_told_to_the_next() -> None:
    failures = Failures()
    failures.note(FULL)
    failures.report_since(0)
    failures.for_good = FULL
    assert failures.report_for_good(again=False) is None


def test_nothing_is_told_after_the_file_arrived() -> None:
    failures = Failures()
    failures.for_good = failures.refusal = FULL
    failures.forget()
    assert failures.report_for_good(again=True) is None
    assert failures.refusal is None
