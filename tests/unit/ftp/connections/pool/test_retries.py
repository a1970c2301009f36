"""Work that is repeated on another session."""

from __future__ import annotations

from typing import cast

import pytest

from ftpfs import errors
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.retries import ATTEMPTS, MOST_RETREATS, Retries
from ftpfs.ftp.connections.session import Session
from tests.support.pools import (
    FakeServer,
    FakeSession,
    MakePool,
    hold,
)

# Repetitions.


def test_work_is_repeated_when_connection_broke(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool()
    done: list[str] = []

    def work(session: Session) -> str:
        done.append("work")
        session.drop()
        raise errors.ConnectionLost("gone")

    def again(session: Session) -> str:
        done.append("again")
        return "fine"

    assert pool.run(work, again=again) == "fine"
    assert done == ["work", "again"]


def test_lost_connection_closes_idle_sessions_too(make_pool: MakePool, server: FakeServer) -> None:
    """The server was restarted: otherwise each attempt would meet another dead session."""
    pool = make_pool(cap=8)
    leases = [hold(pool, Use.METADATA) for _ in range(6)]
    for lease in leases:
        lease.release()

    def work(session: Session) -> None:
        if session in leases_sessions:
            session.drop()
            raise errors.ConnectionLost("gone")

    leases_sessions = [lease.session for lease in leases]
    pool.run(work)
    assert all(cast(FakeSession, session).closed for session in leases_sessions)


@pytest.mark.parametrize(
    "error", [errors.DeadlineExceeded("late"), errors.NotFound("x"), errors.Refused(451, "no")]
)
def test_only_work_on_broken_conversation_is_repeated(
    make_pool: MakePool, error: errors.FtpfsError
) -> None:
    done: list[int] = []

    def work(session: Session) -> None:
        done.append(1)
        raise error

    with pytest.raises(type(error)):
        make_pool().run(work)
    assert len(done) == 1


def test_work_fails_after_three_broken_conversations(make_pool: MakePool) -> None:
    done: list[int] = []

    def work(session: Session) -> None:
        done.append(1)
        raise errors.DataConnectionFailed("broke")

    pool = make_pool()
    with pytest.raises(errors.DataConnectionFailed):
        pool.run(work)
    assert len(done) == ATTEMPTS
    assert pool.status().leased == 0


def test_begun_work_keeps_its_lease_until_its_end(make_pool: MakePool) -> None:
    pool = make_pool()
    release = pool.begin(lambda session, release: release)
    assert pool.status().leased == 1
    release()
    assert pool.status().leased == 0


def test_pauses_grow_until_the_last_attempt() -> None:
    policy = Retries()
    broken = errors.ConnectionLost("gone")
    assert [policy.pause_after(broken) for _ in range(ATTEMPTS)] == [0.0, 0.2, None]


def test_retreats_do_not_count_as_failures() -> None:
    policy = Retries()
    learned = errors.Retreat("without it")
    assert [policy.pause_after(learned) for _ in range(MOST_RETREATS)] == [0.0] * MOST_RETREATS
    assert policy.pause_after(learned) is None
    assert policy.pause_after(errors.ConnectionLost("gone")) == 0.0


def test_attempts_are_counted_anew_after_something_was_learned() -> None:
    policy = Retries()
    broken, learned = errors.ConnectionLost("gone"), errors.Retreat("without it")
    for _ in range(ATTEMPTS):
        assert policy.pause_after(broken) == 0.0
        assert policy.pause_after(learned) == 0.0
    assert [policy.pause_after(broken) for _ in range(ATTEMPTS)] == [0.0, 0.2, None]
