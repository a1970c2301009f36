"""Sessions that are groomed, or logged in ahead of need."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import cast

import pytest

from ftpfs import errors
from ftpfs.ftp.connections import groomers
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.limit import LIMIT_SECONDS
from ftpfs.ftp.connections.pool import Lease
from ftpfs.ftp.connections.session import Session
from tests.support.clock import Clock
from tests.support.pools import (
    FakeServer,
    FakeSession,
    MakePool,
    elsewhere,
    fake,
    groomed,
    groomer_threads,
    hold,
    joined,
    transfer,
)
from tests.support.waiting import until

# Grooming.


def test_session_is_groomed_and_idle_after_transfer(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    session = transfer(pool, server)
    until(lambda: session.groomed == 1 and groomed(pool))
    assert pool.status().idle == 1
    with pool.leased(Use.METADATA):
        pass
    assert session.groomed == 1, "after a plain command there is nothing to groom"


def test_caller_waits_for_session_that_is_being_groomed(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    session = transfer(pool, server, groomed_now=False)
    leases: list[Lease] = []
    thread = elsewhere(lambda: leases.append(pool.lease(Use.METADATA)))
    until(lambda: pool.status().waiting == 1)
    time.sleep(0.05)
    assert server.connects == 1
    session.may_go_on.set()
    assert joined([thread])
    assert leases[0].session is cast(Session, session)


def test_callers_beyond_groomed_sessions_log_in(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool(cap=3)
    session = transfer(pool, server, groomed_now=False)
    leases: list[Lease] = []
    threads = [elsewhere(lambda: leases.append(pool.lease(Use.METADATA))) for _ in range(2)]
    until(lambda: len(leases) == 1)
    assert server.connects == 2
    session.may_go_on.set()
    assert joined(threads)
    assert server.connects == 2


def test_session_being_groomed_counts_as_connection(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=2)
    sessions = [transfer(pool, server, groomed_now=False)]
    leases: list[Lease] = []
    threads = [elsewhere(lambda: leases.append(pool.lease(Use.METADATA))) for _ in range(5)]
    until(lambda: len(leases) == 1 and pool.status().waiting == 4)
    time.sleep(0.05)
    assert server.connects == 2
    sessions[0].may_go_on.set()
    until(lambda: len(leases) == 2)
    for _ in range(3):
        leases.pop(0).release()
        until(lambda: len(leases) == 2 or not pool.status().waiting)
    assert joined(threads)
    assert server.connects == 2


def test_metadata_command_does_not_wait_for_arming(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool(cap=2)
    second = hold(pool, Use.METADATA)
    first = transfer(pool, server, groomed_now=False)
    until(lambda: first.grooming)
    thread = elsewhere(lambda: pool.lease(Use.METADATA).release())
    until(lambda: pool.status().waiting == 1)
    fake(second).used_data = True
    second.release()
    until(lambda: fake(second).groomed == 1)
    assert joined([thread])
    assert not fake(second).armed
    first.may_go_on.set()
    until(lambda: groomed(pool))
    assert first.armed


def test_transfer_that_had_to_wait_causes_further_login(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=4)
    session = transfer(pool, server, groomed_now=False)
    thread = elsewhere(lambda: pool.lease(Use.TRANSFER).release())
    until(lambda: server.connects == 2)
    assert joined([thread]), "it got the new one, being faster"
    assert server.sessions[1].armed, "a data connection was made for it before it was handed out"
    session.may_go_on.set()
    until(lambda: groomed(pool))
    assert pool.status().idle == 2


@pytest.mark.parametrize("use", [Use.TRANSFER, Use.UPLOAD, Use.METADATA])
def test_read_before_armed_connection_is_established_causes_further_login(
    make_pool: MakePool, server: FakeServer, use: Use
) -> None:
    pool = make_pool(cap=4)
    session = transfer(pool, server)
    until(lambda: groomed(pool))
    session.dialling = True
    lease = pool.lease(use)
    assert lease.session is cast(Session, session)
    until(lambda: groomed(pool))
    assert server.connects == 1 + (use is Use.TRANSFER)
    lease.release()
    with pool.leased(Use.TRANSFER) as chosen:
        assert chosen.ready is (use is Use.TRANSFER)


def test_refused_spare_session_lowers_cap_and_raises_no_error(
    make_pool: MakePool, server: FakeServer
) -> None:
    server.limit = 1
    pool = make_pool(cap=4)
    session = transfer(pool, server, groomed_now=False)
    thread = elsewhere(lambda: pool.lease(Use.TRANSFER).release())
    until(lambda: server.connects == 2 and not pool._spares)
    assert pool.status().cap == 1
    session.may_go_on.set()
    assert joined([thread])
    assert server.connects == 2


# Warm up.


def test_sessions_are_logged_in_ahead_of_need(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool(cap=8)
    with pool.leased(Use.METADATA):
        pool.warm(4)
        until(lambda: server.connects == 4 and groomed(pool))
        assert pool.status().idle == 3
    pool.warm(4)
    pool.warm(2)
    assert server.connects == 4, "there are enough"
    pool.warm(100)
    until(lambda: server.connects == 8 and groomed(pool))
    assert pool.status().idle == 8
    assert all(session.armed for session in server.sessions[1:])


def test_caller_waits_for_session_that_is_logging_in(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=8)
    first = hold(pool, Use.METADATA)
    server.pause = 0.2
    pool.warm(3)
    leases: list[Lease] = []
    threads = [elsewhere(lambda: leases.append(pool.lease(Use.LISTING))) for _ in range(3)]
    assert joined(threads)
    assert server.connects == 4, "two came, and one more was needed"
    for lease in [first, *leases]:
        lease.release()


@pytest.mark.parametrize("error", [errors.ServerBusy("421"), errors.LoginFailed("530")])
def test_no_session_is_logged_in_ahead_after_recent_refusal(
    make_pool: MakePool, server: FakeServer, clock: Clock, error: errors.FtpfsError
) -> None:
    pool = make_pool(cap=8)
    with pool.leased(Use.METADATA):
        server.errors = [error]
        pool.warm(2)
        until(lambda: server.connects == 2 and groomed(pool))
        assert pool.status().cap == 1
        pool.warm(8)
        clock.now += LIMIT_SECONDS + 1
        pool.warm(8)
        time.sleep(0.05)
        assert server.connects == 2


def test_no_session_is_logged_in_ahead_before_first_login_or_while_server_is_down(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=8)
    pool.warm(8)
    pool.lease(Use.METADATA).release()
    fake_session = server.sessions[0]
    fake_session.stale = True
    server.error = errors.ConnectionRefused("down")
    with pytest.raises(errors.ConnectionRefused):
        pool.lease(Use.METADATA)
    pool.warm(8)
    time.sleep(0.05)
    assert server.connects == 2


def test_changed_password_is_tried_once_by_many_waiting_callers(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    """Servers ban an address after a few failed logins."""
    pool = make_pool(cap=16)
    pool.lease(Use.METADATA).release()
    clock.now += 1000
    pool.close_idle()
    server.error, server.pause = errors.LoginFailed("530 no"), 0.2
    failed: list[errors.FtpfsError] = []

    def ask() -> None:
        pool.warm(8)
        with contextlib.suppress(errors.LoginFailed):
            pool.lease(Use.TRANSFER)
            return
        failed.append(errors.LoginFailed("530"))

    assert joined([elsewhere(ask) for _ in range(16)])
    until(lambda: groomed(pool))
    assert len(failed) == 16
    assert server.connects == 2


def test_first_login_after_pause_brings_other_sessions(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    pool = make_pool(cap=16)
    pool.lease(Use.METADATA).release()
    clock.now += 1000
    pool.close_idle()
    server.pause = 0.1
    leases: list[Lease] = []
    threads = [elsewhere(lambda: leases.append(pool.lease(Use.METADATA))) for _ in range(5)]
    pool.warm(9)
    assert joined(threads)
    until(lambda: groomed(pool))
    assert server.connects == 1 + 9


def test_session_that_breaks_during_grooming_is_closed_and_replaced(
    make_pool: MakePool, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(cap=1)

    def die(self: FakeSession, *, arm: bool = True) -> None:
        raise MemoryError

    monkeypatch.setattr(FakeSession, "groom", die)
    session = transfer(pool, server)
    until(lambda: session.closed)
    monkeypatch.undo()
    with pool.leased(Use.METADATA) as other:
        assert other is not cast(Session, session)


def test_closing_pool_closes_groomed_sessions_and_ends_groomers(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    before = groomer_threads()
    leases = [hold(pool, Use.TRANSFER) for _ in range(3)]
    for lease in leases:
        fake(lease).used_data = True
        fake(lease).may_go_on.clear()
        lease.release()
    pool.close()
    assert not any(session.closed for session in server.sessions)
    for session in server.sessions:
        session.may_go_on.set()
    until(lambda: all(session.closed for session in server.sessions))
    until(lambda: set(groomer_threads()) <= set(before))


def test_idle_groomers_end(
    make_pool: MakePool, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groomers, "IDLE_SECONDS", 0.05)
    pool = make_pool()
    before = groomer_threads()
    for _ in range(3):
        session = transfer(pool, server)
        count = session.groomed
        until(lambda: groomed(pool))
        assert session.groomed >= count
        until(lambda: set(groomer_threads()) <= set(before))


def test_caller_grooms_session_when_no_thread_can_start(
    make_pool: MakePool, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool()
    lease = pool.lease(Use.TRANSFER)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    fake(lease).used_data = True
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        lease.release()
    assert fake(lease).groomed == 1
    assert groomed(pool)
    session = transfer(pool, server)
    until(lambda: session.groomed == 2 and groomed(pool))


@pytest.mark.parametrize(
    ("use", "best"), [(Use.METADATA, "plain"), (Use.LISTING, "armed"), (Use.TRANSFER, "armed")]
)
def test_caller_gets_best_suited_idle_session(
    make_pool: MakePool, server: FakeServer, use: Use, best: str
) -> None:
    pool = make_pool()
    leases = {name: hold(pool, Use.METADATA) for name in ("plain", "armed", "unsettled")}
    for name, lease in leases.items():
        fake(lease).armed = name == "armed"
        fake(lease).settled = name != "unsettled"
        lease.release()
    assert hold(pool, use).session is leases[best].session


def test_second_attempt_uses_no_armed_connection(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool()
    seen: list[bool] = []

    def work(session: Session) -> None:
        seen.append(session.armed)
        cast(FakeSession, session).armed = True
        if len(seen) < 3:
            raise errors.DataConnectionFailed("again")

    pool.run(work, use=Use.LISTING)
    assert seen == [False, False, False]
