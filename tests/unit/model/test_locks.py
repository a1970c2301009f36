"""Locks are taken in the order of their ranks, or the tests fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ftpfs.model import locks
from ftpfs.model.locks import Rank, ranked_condition, ranked_lock


@pytest.fixture(autouse=True)
def _expected_violations() -> Iterator[None]:
    yield
    locks.violations.clear()


def test_lock_of_higher_rank_is_taken_under_a_lower_one() -> None:
    with ranked_lock(Rank.TABLE), ranked_condition(Rank.OPEN_FILE), ranked_lock(Rank.TREE):
        pass
    assert not locks.violations


@pytest.mark.parametrize("second", [Rank.TABLE, Rank.OPEN_FILE])
def test_lock_of_lower_or_same_rank_is_refused(second: Rank) -> None:
    lock = ranked_lock(second)
    with ranked_condition(Rank.OPEN_FILE):
        with pytest.raises(AssertionError, match=f"{second.name} taken while holding OPEN_FILE"):
            lock.acquire()
        assert lock.acquire(blocking=False)  # that cannot wait in a circle
        lock.release()
    assert len(locks.violations) == 1
    with lock:
        pass


def test_condition_may_be_taken_twice_by_one_thread() -> None:
    changed = ranked_condition(Rank.QUEUE)
    with changed:
        with changed:
            changed.notify_all()
        assert not locks.violations
    with ranked_lock(Rank.TABLE):
        pass
    assert not locks.violations


def test_waiting_condition_holds_no_lock_and_is_taken_in_order_again() -> None:
    changed = ranked_condition(Rank.OPEN_FILE)
    state: list[str] = []

    def tell() -> None:
        with changed:
            state.append("told")
            changed.notify_all()

    with changed:
        thread = threading.Thread(target=tell)
        thread.start()
        assert changed.wait_for(lambda: bool(state), 5)
        with ranked_lock(Rank.TREE):
            pass
    thread.join()
    assert not locks.violations


def test_other_threads_locks_do_not_count() -> None:
    failed: list[AssertionError] = []

    def take() -> None:
        try:
            with ranked_lock(Rank.TABLE):
                pass
        except AssertionError as error:
            failed.append(error)

    with ranked_lock(Rank.JOURNAL):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert not failed


def test_locks_are_those_of_threading_unless_they_are_checked() -> None:
    locks.checking(False)
    try:
        assert isinstance(ranked_lock(Rank.TREE), type(threading.Lock()))
        with ranked_condition(Rank.TREE), ranked_condition(Rank.TABLE):
            pass
    finally:
        locks.checking(True)
