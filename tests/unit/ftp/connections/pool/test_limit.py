"""The pool on a server that refuses connections, or does not answer."""

from __future__ import annotations

import functools
import threading
import time

import pytest

from ftpfs import errors
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.limit import LIMIT_SECONDS, SHARED_IDLE_SECONDS
from ftpfs.ftp.connections.pool import Lease, Pool
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile
from tests.support.clock import Clock
from tests.support.pools import (
    FakeServer,
    MakePool,
    elsewhere,
    groomed,
    hold,
    joined,
    refused,
)
from tests.support.waiting import until

# Too many connections.


def test_cap_shrinks_to_limit_of_server(make_pool: MakePool) -> None:
    server_cap = 2
    server = FakeServer(limit=server_cap)
    pool = Pool(server.connect, cap=8, idle_timeout=50)

    def work() -> None:
        with pool.leased(Use.METADATA):
            time.sleep(0.01)

    assert joined([elsewhere(work) for _ in range(30)])
    assert pool.status().cap == server_cap
    assert pool.status().waiting == 0


def test_refused_caller_waits_for_place_instead_of_failing(
    make_pool: MakePool, server: FakeServer
) -> None:
    server.limit = 1
    pool = make_pool(cap=8)
    held = hold(pool, Use.TRANSFER)
    waiting = elsewhere(lambda: pool.lease(Use.METADATA))
    until(lambda: pool.status().cap == 1)
    held.release()
    assert joined([waiting])
    assert server.connects == 2


def test_530_means_too_many_connections_after_successful_login(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=8)
    held = hold(pool, Use.METADATA)
    server.error = errors.LoginFailed("530 sorry")
    waiting = elsewhere(lambda: pool.lease(Use.METADATA))
    until(lambda: pool.status().cap == 1)
    held.release()
    assert joined([waiting])


def test_learned_cap_is_forgotten_after_a_while(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    server.limit = 1
    pool = make_pool(cap=8)
    held = hold(pool, Use.METADATA)
    waiting = elsewhere(lambda: pool.lease(Use.METADATA).release())
    until(lambda: pool.status().cap == 1)
    held.release()
    assert joined([waiting])
    server.limit = 8
    clock.now += 3600
    for _ in range(8):
        hold(pool, Use.METADATA)
    assert pool.status().leased == 8


def test_server_with_fixed_limit_is_tried_with_one_more_per_minute(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    pool = make_pool(cap=12)
    leases = [hold(pool, Use.METADATA) for _ in range(5)]
    server.limit = 5
    waiting = [elsewhere(lambda: pool.lease(Use.METADATA).release()) for _ in range(6)]
    until(lambda: pool.status().cap == 4)  # one is left to other processes
    for _ in range(3):
        tried = server.connects
        clock.now += LIMIT_SECONDS + 1
        with pool._changed:
            pool._notify_locked()
        until(lambda: server.connects == tried + 1)  # noqa: B023 (called at once)
        until(lambda: pool.status().cap == 4 and groomed(pool))
        time.sleep(0.05)
        assert server.connects == tried + 1
    for lease in leases:
        lease.release()
    assert joined(waiting)


class SilentServer(FakeServer):
    """Beyond its limit, it leaves a connection unanswered until the test releases it."""

    def __init__(self, limit: int, error: errors.FtpfsError) -> None:
        super().__init__(limit)
        self.given_up = threading.Event()
        self.how = error

    def connect(self) -> Session:
        if self.open >= self.limit:
            self.connects += 1
            assert self.given_up.wait(20)
            raise errors.again(self.how)
        return super().connect()


UNANSWERED = [
    errors.DeadlineExceeded("connecting: no answer"),
    errors.ConnectionRefused("refused"),
    errors.ConnectionLost("reset"),
]


@pytest.mark.parametrize("error", UNANSWERED)
@pytest.mark.parametrize("use", [Use.METADATA, Use.LISTING, Use.TRANSFER, Use.PREFETCH, Use.UPLOAD])
def test_freed_session_is_taken_while_further_login_is_unanswered(
    error: errors.FtpfsError, use: Use
) -> None:
    server = SilentServer(1, error)
    pool = Pool(server.connect, cap=8, idle_timeout=50)
    held = hold(pool, Use.METADATA)
    got: list[Lease] = []
    waiting = elsewhere(lambda: got.append(pool.lease(use)))
    until(lambda: server.connects == 2)
    assert not got
    held.release()
    assert joined([waiting], 5), "it waits for the connection that is never answered"
    server.given_up.set()
    until(lambda: pool.status().cap == 1 and groomed(pool))
    got[0].release()


@pytest.mark.parametrize("error", UNANSWERED)
def test_failed_connect_beside_living_session_raises_no_error(
    error: errors.FtpfsError,
) -> None:
    server = SilentServer(2, error)
    pool = Pool(server.connect, cap=8, idle_timeout=50)
    server.given_up.set()
    held = [hold(pool, Use.METADATA) for _ in range(2)]
    done: list[bool] = []

    def work() -> None:
        with pool.leased(Use.METADATA):
            time.sleep(0.01)
        done.append(True)

    threads = [elsewhere(work) for _ in range(20)]
    until(lambda: pool.status().cap == 2)
    for lease in held:
        lease.release()
    assert joined(threads)
    assert len(done) == 20


def test_error_says_server_is_down_after_last_session_is_gone(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=8)
    held = hold(pool, Use.TRANSFER)
    server.error = errors.ConnectionRefused("down")
    thread, failed = refused(pool, Use.METADATA, errors.ConnectionRefused)
    until(lambda: pool.status().cap == 1)
    held.session.drop()
    held.release()
    assert joined([thread])
    assert failed
    assert pool.status().cap == 8, "nothing was learned about how many the server takes"


def test_silent_limit_is_forgotten_when_session_breaks(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=8)
    held = hold(pool, Use.TRANSFER)
    server.errors = [errors.ConnectionRefused("restarting")]
    waiting = elsewhere(lambda: pool.lease(Use.METADATA).release())
    until(lambda: pool.status().cap == 1)
    held.release()
    assert joined([waiting])
    broken = [errors.ConnectionLost("restarted")]

    def work(_: Session) -> None:
        if broken:
            raise broken.pop()

    pool.run(work)
    assert pool.status().cap == 8


def test_silent_limit_is_tried_at_growing_intervals(clock: Clock) -> None:
    server = SilentServer(1, errors.DeadlineExceeded("connecting: no answer"))
    server.given_up.set()
    pool = Pool(server.connect, cap=8, idle_timeout=50, clock=clock)
    held = hold(pool, Use.METADATA)
    waiting = elsewhere(lambda: pool.lease(Use.METADATA).release())
    until(lambda: pool.status().cap == 1 and groomed(pool))
    tried = server.connects
    for pause in (LIMIT_SECONDS, 2 * LIMIT_SECONDS, 4 * LIMIT_SECONDS):
        clock.now += pause
        with pool._changed:
            pool._notify_locked()
        time.sleep(0.05)
        assert server.connects == tried, "asked too early"
        clock.now += 1
        with pool._changed:
            pool._notify_locked()
        tried += 1
        until(lambda: server.connects == tried and groomed(pool))  # noqa: B023 (called at once)
    held.release()
    assert joined([waiting])


def test_next_mount_remembers_limit_and_tries_it_again(clock: Clock) -> None:
    server = FakeServer(limit=6)
    profile = Profile()
    first = Pool(server.connect, cap=16, idle_timeout=50, profile=profile, clock=clock)
    leases = [hold(first, Use.METADATA) for _ in range(6)]
    waiting = elsewhere(lambda: first.lease(Use.METADATA).release())
    until(lambda: profile.wire.connections == 6)
    for lease in leases:
        lease.release()
    assert joined([waiting])
    first.close()

    later = Profile()
    later.recall(profile.learned())
    server.limit, server.connects = 16, 0
    second = Pool(server.connect, cap=16, idle_timeout=50, profile=later, clock=clock)
    assert second.status().cap == 5
    clock.now += LIMIT_SECONDS + 1
    for _ in range(16):
        hold(second, Use.METADATA)
    assert later.wire.connections is None


def test_full_server_is_shared_with_other_clients(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    """60 parallel reads on a server of six connections: five, then one, then none."""
    server.limit = 6
    pool = make_pool(cap=16)
    leases = [hold(pool, Use.METADATA) for _ in range(6)]
    waiting = [elsewhere(lambda: pool.lease(Use.METADATA).release()) for _ in range(54)]
    until(lambda: pool.status().cap == 5)
    for lease in leases:
        lease.release()
    assert joined(waiting)
    until(lambda: groomed(pool))
    assert server.open <= 5
    clock.now += SHARED_IDLE_SECONDS + 1
    pool.close_idle()
    assert server.open == 1
    clock.now += 50
    pool.close_idle()
    assert server.open == 0


@pytest.mark.parametrize("limit", [1, 2])
def test_server_with_limit_of_one_or_two_is_left_after_seconds(
    make_pool: MakePool, server: FakeServer, clock: Clock, limit: int
) -> None:
    server.limit = limit
    pool = make_pool(cap=16)
    leases = [hold(pool, Use.METADATA) for _ in range(limit)]
    waiting = elsewhere(lambda: pool.lease(Use.METADATA).release())
    until(lambda: pool.status().cap == limit)
    for lease in leases:
        lease.release()
    assert joined([waiting])
    clock.now += SHARED_IDLE_SECONDS + 1
    pool.close_idle()
    assert server.open == 0


def test_server_filled_by_other_clients_raises_an_error(
    make_pool: MakePool, server: FakeServer
) -> None:
    server.limit = 0
    pool = make_pool()
    with pytest.raises(errors.ServerBusy):
        pool.lease(Use.METADATA)
    assert pool.status().cap == 4


def test_server_that_still_counts_last_session_is_asked_again(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=1)
    with pool.leased(Use.METADATA) as session:
        session.drop()
    server.errors = [errors.ServerBusy("421 too many")] * 3
    with pool.leased(Use.METADATA) as session:
        assert session.alive


def test_server_that_still_counts_session_closed_as_idle_is_asked_again(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    pool = make_pool(cap=1)
    with pool.leased(Use.METADATA):
        pass
    clock.now += 3600
    pool.close_idle()
    assert server.open == 0
    server.errors = [errors.ServerBusy("421 too many")] * 3
    with pool.leased(Use.METADATA) as session:
        assert session.alive


# The server is down.


def test_forty_callers_of_dead_server_fail_within_one_connect(server: FakeServer) -> None:
    server.error, server.pause = errors.DeadlineExceeded("no answer"), 1.5
    pool = Pool(server.connect, cap=8, idle_timeout=50)
    failures: list[Exception] = []

    def work(use: Use) -> None:
        try:
            pool.lease(use)
        except errors.DeadlineExceeded as error:
            failures.append(error)

    begun = time.monotonic()
    uses = [Use.METADATA, Use.TRANSFER]
    threads = [elsewhere(functools.partial(work, uses[n % 2])) for n in range(40)]
    assert joined(threads)
    assert time.monotonic() - begun < 2 * 1.5
    assert len(failures) == 40
    assert server.connects <= 8


def test_dead_server_is_tried_again_after_pause(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    pool = make_pool()
    server.errors = [errors.ConnectionRefused("no")]
    for _ in range(3):
        with pytest.raises(errors.ConnectionRefused):
            pool.lease(Use.METADATA)
    assert server.connects == 1
    clock.now += 1
    with pool.leased(Use.METADATA):
        pass


def test_refusal_can_be_raised_again_in_other_thread(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    server.errors = [errors.Unavailable(550, "TLS or not")]
    for _ in range(2):
        with pytest.raises(errors.Unavailable) as caught:
            pool.lease(Use.METADATA)
        assert (caught.value.code, caught.value.text) == (550, "TLS or not")


@pytest.mark.parametrize(
    "error", [errors.Refused(451, "a\x1bb"), errors.Unavailable(550, "x"), errors.NotFound("/x")]
)
def test_again_makes_equal_error(error: errors.FtpfsError) -> None:
    twin = errors.again(error)
    assert twin is not error
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)
