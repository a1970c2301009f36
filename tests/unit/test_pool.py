"""The pool: who gets a connection, who waits, and what happens when the server says no."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import cast

import pytest

from ftpfs import errors
from ftpfs.ftp import pool as pool_module
from ftpfs.ftp.pool import ATTEMPTS, CAP_MEMORY, Lease, Pool, Use
from ftpfs.ftp.session import Session
from tests.support.clock import Clock
from tests.support.waiting import until


class FakeSession:
    def __init__(self) -> None:
        self.alive = True
        self.stale = False
        self.used_at = 0.0
        self.closed = False
        self.settled = True
        self.armed = False
        self.dialling = False  # armed, and the data connection is not there yet
        self.used_data = False
        self.groomed = 0
        self.may_go_on = threading.Event()  # a groomer waits for it
        self.may_go_on.set()

    @property
    def ready(self) -> bool:
        return self.armed and not self.dialling

    def wants_grooming(self) -> bool:
        return self.alive and self.used_data

    def groom(self, *, arm: bool = True) -> None:
        assert self.may_go_on.wait(10)
        assert not self.closed
        self.used_data = False
        self.groomed += 1
        self.armed, self.settled = arm, True

    def groom_for_transfer(self) -> None:
        self.groom()

    def disarm(self) -> None:
        self.armed = False

    def take_armed(self, older_than: float | None = None) -> None:
        self.armed = False

    def fresh(self) -> bool:
        if self.stale:
            self.alive = False
        return self.alive

    def close(self) -> None:
        assert not self.closed
        self.alive, self.closed = False, True

    def drop(self) -> None:
        self.alive = False


class FakeServer:
    """Takes connections, up to `limit`; `connect` is given to the pool."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.sessions: list[FakeSession] = []
        self.connects = 0
        self.pause = 0.0
        self.error: BaseException | None = None
        self.errors: list[BaseException] = []  # one for each of the next connects
        self._lock = threading.Lock()

    def connect(self) -> Session:
        with self._lock:
            self.connects += 1
            error = self.errors.pop(0) if self.errors else self.error
        time.sleep(self.pause)
        if error:
            raise error
        with self._lock:
            if self.open >= self.limit:
                raise errors.ServerBusy("421 too many")
            self.sessions.append(FakeSession())
            return cast(Session, self.sessions[-1])

    @property
    def open(self) -> int:
        return sum(not session.closed for session in self.sessions)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakePool = Callable[..., Pool]


@pytest.fixture
def make_pool(server: FakeServer, clock: Clock) -> MakePool:
    def make(cap: int = 4) -> Pool:
        def sleep(seconds: float) -> None:
            clock.now += seconds

        return Pool(server.connect, cap=cap, idle_timeout=50, clock=clock, sleep=sleep)

    return make


def fake(lease: Lease) -> FakeSession:
    return cast(FakeSession, lease.session)


def elsewhere(work: Callable[[], object]) -> threading.Thread:
    """Start `work` in a thread: a thread may hold one lease only."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def hold(pool: Pool, use: Use, give_way: Callable[[], None] | None = None) -> Lease:
    """A lease taken by another thread."""
    leases: list[Lease] = []
    elsewhere(lambda: leases.append(pool.lease(use, give_way))).join(5)
    return leases[0]


def joined(threads: list[threading.Thread], within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


# Sessions.


def test_a_session_is_used_again(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool()
    for _ in range(5):
        with pool.leased(Use.METADATA):
            pass
    assert server.connects == 1


def test_a_session_dropped_while_idle_is_replaced_without_a_word(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    with pool.leased(Use.METADATA):
        pass
    server.sessions[0].stale = True
    with pool.leased(Use.METADATA) as session:
        assert session.alive
    assert [s.closed for s in server.sessions] == [True, False]


def test_a_dead_session_is_closed_when_it_comes_back(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    lease = pool.lease(Use.METADATA)
    lease.session.drop()
    lease.release()
    lease.release()
    assert pool.status().idle == pool.status().leased == 0
    assert server.sessions[0].closed


def test_no_lease_is_lost_when_the_look_at_a_session_fails(
    make_pool: MakePool, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(cap=1)
    with pool.leased(Use.METADATA):
        pass

    def explode(self: FakeSession) -> bool:
        raise MemoryError

    monkeypatch.setattr(FakeSession, "fresh", explode)
    with pytest.raises(MemoryError):
        pool.lease(Use.METADATA)
    monkeypatch.undo()
    with pool.leased(Use.METADATA) as session:
        assert session.alive


@pytest.mark.parametrize("error", [errors.ConnectionRefused("no"), MemoryError(), OSError(5, "x")])
def test_no_place_is_lost_when_connecting_fails(
    make_pool: MakePool, server: FakeServer, clock: Clock, error: BaseException
) -> None:
    pool = make_pool(cap=1)
    server.errors = [error]
    with pytest.raises(type(error)):
        pool.lease(Use.METADATA)
    clock.now += 10
    with pool.leased(Use.METADATA):
        pass


def test_a_thread_cannot_wait_for_itself(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.leased(Use.METADATA), pytest.raises(AssertionError):
        pool.lease(Use.METADATA)


def test_idle_sessions_are_closed_after_their_time(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    pool = make_pool()
    first, second = hold(pool, Use.METADATA), hold(pool, Use.METADATA)
    first.release()
    clock.now += 40
    second.release()
    clock.now += 20
    pool.close_idle()
    assert [s.closed for s in server.sessions] == [True, False]


def test_closing_the_pool_closes_leased_sessions_as_they_come_back(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=1)
    lease = hold(pool, Use.METADATA)
    failures: list[Exception] = []

    def wait() -> None:
        try:
            pool.lease(Use.METADATA)
        except errors.ConnectionLost as error:
            failures.append(error)

    waiting = elsewhere(wait)
    until(lambda: pool.status().waiting == 1)
    pool.close()
    assert joined([waiting])
    assert failures
    assert not server.sessions[0].closed
    lease.release()
    assert server.sessions[0].closed


# Waiting.


def test_never_more_than_the_cap_and_everybody_is_served(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=3)
    served: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with pool.leased(Use.TRANSFER if number % 2 else Use.METADATA):
                assert server.open <= 3
                time.sleep(0.0005)
        served.append(number)

    assert joined([elsewhere(lambda n=n: work(n)) for n in range(20)])  # type: ignore[misc]
    assert len(served) == 20
    assert pool.status().leased == pool.status().waiting == 0


def test_transfers_leave_a_connection_to_metadata(make_pool: MakePool) -> None:
    pool = make_pool(cap=2)
    hold(pool, Use.TRANSFER)
    third = elsewhere(lambda: pool.lease(Use.TRANSFER))
    until(lambda: pool.status().waiting == 1)
    with pool.leased(Use.METADATA):
        pass
    assert third.is_alive()


def test_uploads_leave_a_connection_to_who_reads(make_pool: MakePool) -> None:
    pool = make_pool(cap=4)
    uploads = [hold(pool, Use.UPLOAD) for _ in range(2)]
    third = elsewhere(lambda: pool.lease(Use.UPLOAD).release())
    until(lambda: pool.status().waiting == 1)
    reads = hold(pool, Use.TRANSFER)
    assert pool.status().waiting == 1
    uploads[0].release()
    assert joined([third])
    reads.release()


def test_uploads_and_reads_share_a_cap_of_two(make_pool: MakePool) -> None:
    pool = make_pool(cap=2)
    upload = hold(pool, Use.UPLOAD)
    reader = elsewhere(lambda: pool.lease(Use.TRANSFER).release())
    until(lambda: pool.status().waiting == 1)
    hold(pool, Use.METADATA).release()
    upload.release()
    assert joined([reader])


def test_waiting_metadata_goes_before_waiting_transfers(make_pool: MakePool) -> None:
    pool = make_pool(cap=1)
    held = hold(pool, Use.TRANSFER)
    order: list[Use] = []

    def work(use: Use) -> None:
        with pool.leased(use):
            order.append(use)

    threads = [elsewhere(lambda: work(Use.TRANSFER)) for _ in range(5)]
    until(lambda: pool.status().waiting == 5)
    threads += [elsewhere(lambda: work(Use.METADATA)) for _ in range(5)]
    until(lambda: pool.status().waiting == 10)
    held.release()
    assert joined(threads)
    assert order == [Use.METADATA] * 5 + [Use.TRANSFER] * 5


def test_a_stream_is_asked_to_give_way_until_it_does(make_pool: MakePool) -> None:
    pool = make_pool(cap=1)
    asked = threading.Semaphore(0)
    stream = hold(pool, Use.TRANSFER, asked.release)
    waiting = elsewhere(lambda: pool.lease(Use.METADATA))
    for _ in range(3):
        assert asked.acquire(timeout=5)
    stream.release()
    assert joined([waiting])


def test_a_stream_that_begins_later_is_asked_too(make_pool: MakePool) -> None:
    pool = make_pool(cap=1)
    upload = hold(pool, Use.TRANSFER)
    asked = threading.Semaphore(0)
    # Both wait; whichever comes second has to be let in by the first.
    leases: list[Lease] = []
    stream = elsewhere(lambda: leases.append(pool.lease(Use.TRANSFER, asked.release)))
    until(lambda: pool.status().waiting == 1)
    upload.release()
    assert joined([stream])
    upload_again = elsewhere(lambda: pool.lease(Use.TRANSFER))
    assert asked.acquire(timeout=5)
    leases[0].release()
    assert joined([upload_again])


# Too many.


def test_the_cap_shrinks_to_what_the_server_allows(make_pool: MakePool) -> None:
    server_cap = 2
    server = FakeServer(limit=server_cap)
    pool = Pool(server.connect, cap=8, idle_timeout=50)

    def work() -> None:
        with pool.leased(Use.METADATA):
            time.sleep(0.01)

    assert joined([elsewhere(work) for _ in range(30)])
    assert pool.status().cap == server_cap
    assert pool.status().waiting == 0


def test_a_refused_connection_waits_for_a_place_instead_of_failing(
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


def test_530_means_too_many_where_the_login_was_fine_before(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=8)
    held = hold(pool, Use.METADATA)
    server.error = errors.LoginFailed("530 sorry")
    waiting = elsewhere(lambda: pool.lease(Use.METADATA))
    until(lambda: pool.status().cap == 1)
    held.release()
    assert joined([waiting])


def test_the_learned_cap_is_forgotten_after_a_while(
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


def test_a_server_with_a_fixed_limit_is_tried_with_one_more_a_minute(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    pool = make_pool(cap=12)
    leases = [hold(pool, Use.METADATA) for _ in range(5)]
    server.limit = 5
    waiting = [elsewhere(lambda: pool.lease(Use.METADATA).release()) for _ in range(6)]
    until(lambda: pool.status().cap == 5)
    for turn in range(3):
        tried = server.connects
        clock.now += CAP_MEMORY + 1
        with pool._changed:
            pool._notify_locked()
        until(lambda: server.connects == tried + 1)  # noqa: B023 (called at once)
        assert pool.status().cap == 5, turn
        time.sleep(0.05)
        assert server.connects == tried + 1
    for lease in leases:
        lease.release()
    assert joined(waiting)


def test_a_server_filled_by_others_is_an_error(make_pool: MakePool, server: FakeServer) -> None:
    server.limit = 0
    pool = make_pool()
    with pytest.raises(errors.ServerBusy):
        pool.lease(Use.METADATA)
    assert pool.status().cap == 4


def test_a_server_that_still_counts_our_last_session_is_asked_again(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=1)
    with pool.leased(Use.METADATA) as session:
        session.drop()
    server.errors = [errors.ServerBusy("421 too many")] * 3
    with pool.leased(Use.METADATA) as session:
        assert session.alive


def test_and_one_that_still_counts_the_session_that_was_just_closed_for_being_idle_is_too(
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


# Down.


def test_forty_callers_of_a_dead_server_fail_within_one_connect(server: FakeServer) -> None:
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
    threads = [elsewhere(lambda n=n: work(uses[n % 2])) for n in range(40)]  # type: ignore[misc]
    assert joined(threads)
    assert time.monotonic() - begun < 2 * 1.5
    assert len(failures) == 40
    assert server.connects <= 8


def test_a_dead_server_is_tried_again_after_a_pause(
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


def test_a_refusal_can_be_raised_again_in_another_thread(
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
def test_again_makes_an_equal_error(error: errors.FtpfsError) -> None:
    twin = errors.again(error)
    assert twin is not error
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


# Again.


def test_work_is_done_again_when_the_connection_broke(
    make_pool: MakePool, server: FakeServer
) -> None:
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


def test_a_lost_connection_takes_the_idle_ones_along(
    make_pool: MakePool, server: FakeServer
) -> None:
    """A server that was restarted: without this, each attempt would meet another dead one."""
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
def test_only_broken_conversations_are_repeated(
    make_pool: MakePool, error: errors.FtpfsError
) -> None:
    done: list[int] = []

    def work(session: Session) -> None:
        done.append(1)
        raise error

    with pytest.raises(type(error)):
        make_pool().run(work)
    assert len(done) == 1


def test_three_broken_conversations_are_enough(make_pool: MakePool) -> None:
    done: list[int] = []

    def work(session: Session) -> None:
        done.append(1)
        raise errors.DataConnectionFailed("broke")

    pool = make_pool()
    with pytest.raises(errors.DataConnectionFailed):
        pool.run(work)
    assert len(done) == ATTEMPTS
    assert pool.status().leased == 0


def test_what_has_begun_keeps_its_lease_until_it_ends(make_pool: MakePool) -> None:
    pool = make_pool()
    release = pool.begin(lambda session, release: release)
    assert pool.status().leased == 1
    release()
    assert pool.status().leased == 0


# Listings ahead, which nobody waits for.


def leased_or_closed(pool: Pool, use: Use) -> None:
    with contextlib.suppress(errors.ConnectionLost):
        pool.lease(use)


def test_listings_ahead_leave_two_places_and_an_idle_session(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=4)
    first = pool.lease(Use.METADATA)
    ahead = [hold(pool, Use.AHEAD), hold(pool, Use.AHEAD)]
    first.release()
    assert server.connects == 3
    third: list[Lease] = []
    waiting = elsewhere(lambda: third.append(pool.lease(Use.AHEAD)))
    time.sleep(0.05)
    assert not third, "two of four may list ahead"
    ahead.pop().release()
    waiting.join(5)
    # Of the two idle ones it took one; the other is there for who comes, at once.
    assert server.connects == 3
    pool.lease(Use.METADATA).release()
    assert server.connects == 3


def test_what_is_fetched_ahead_leaves_an_idle_session_while_it_can_log_in(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=4)
    first, second = (hold(pool, Use.METADATA) for _ in range(2))
    first.release()
    second.release()
    ahead = [hold(pool, Use.PREFETCH) for _ in range(2)]
    assert (server.connects, pool.status().idle) == (3, 1)
    reader = hold(pool, Use.TRANSFER)
    assert server.connects == 3, "it finds one at once"
    for lease in [*ahead, reader]:
        lease.release()


def test_what_is_fetched_ahead_takes_the_first_session_there_is_while_one_more_is_logged_in(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=4)
    first, second = (hold(pool, Use.TRANSFER) for _ in range(2))
    server.pause = 0.3
    ahead: list[Lease] = []
    thread = elsewhere(lambda: ahead.append(pool.lease(Use.PREFETCH)))
    until(lambda: server.connects == 3)
    first.release()
    second.release()
    assert joined([thread])
    assert ahead[0].session in (first.session, second.session)
    ahead[0].release()
    until(lambda: groomed(pool))
    assert pool.status().idle == 3


def test_what_is_fetched_ahead_fails_when_no_session_can_be_had(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=4)
    held = hold(pool, Use.METADATA)
    server.error = errors.ConnectionRefused("down")
    with pytest.raises(errors.ConnectionRefused):
        pool.lease(Use.PREFETCH)
    assert server.connects == 3, "one at hand, and its own"
    held.release()


def test_what_is_fetched_ahead_takes_the_last_session_where_there_is_no_room_for_another(
    make_pool: MakePool, server: FakeServer
) -> None:
    """Somebody may wait for it by now."""
    server.limit = 2
    pool = make_pool(cap=4)
    first, second = (hold(pool, Use.METADATA) for _ in range(2))
    first.release()
    ahead: list[Lease] = []
    thread = elsewhere(lambda: ahead.append(pool.lease(Use.PREFETCH)))
    assert joined([thread])
    assert server.connects == 3, "the refused one"
    for lease in [*ahead, second]:
        lease.release()


def test_with_two_connections_nothing_is_listed_ahead(make_pool: MakePool) -> None:
    pool = make_pool(cap=2)
    waiting = elsewhere(lambda: leased_or_closed(pool, Use.AHEAD))
    time.sleep(0.05)
    pool.lease(Use.TRANSFER).release()
    time.sleep(0.05)
    assert pool.status().leased == 0
    pool.close()
    waiting.join(5)
    assert not waiting.is_alive()


def test_listings_ahead_stand_back_while_anybody_waits(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=3)
    ahead = hold(pool, Use.AHEAD)
    held = [hold(pool, Use.METADATA), hold(pool, Use.METADATA)]
    got: list[str] = []
    waiting = []
    for use in (Use.AHEAD, Use.TRANSFER):

        def take(use: Use = use) -> None:
            lease = pool.lease(use)
            got.append(use.value)
            lease.release()

        waiting.append(elsewhere(take))
        time.sleep(0.05)
    ahead.release()
    waiting[1].join(5)
    assert got[0] == "transfer"
    for lease in held:
        lease.release()
    waiting[0].join(5)
    assert got == ["transfer", "ahead"]
    assert server.connects == 3


def test_a_listing_ahead_asks_nobody_to_give_way(make_pool: MakePool) -> None:
    pool = make_pool(cap=3)
    asked: list[bool] = []
    hold(pool, Use.TRANSFER, lambda: asked.append(True))
    hold(pool, Use.AHEAD)
    waiting = elsewhere(lambda: leased_or_closed(pool, Use.AHEAD))
    time.sleep(0.05)
    assert not asked
    pool.close()
    waiting.join(5)


# Grooming.


def transfer(pool: Pool, server: FakeServer, *, groomed_now: bool = True) -> FakeSession:
    """Use a session as a download does, and give it back; whether it can be groomed at once."""
    lease = hold(pool, Use.TRANSFER)
    session = fake(lease)
    session.used_data, session.armed = True, False
    if not groomed_now:
        session.may_go_on.clear()
    lease.release()
    return session


def groomed(pool: Pool) -> bool:
    return not pool._grooming and not pool._spares


def groomers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ftpfs-groomer"]


def test_after_a_transfer_a_session_is_groomed_and_idle_again(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    session = transfer(pool, server)
    until(lambda: session.groomed == 1 and groomed(pool))
    assert pool.status().idle == 1
    with pool.leased(Use.METADATA):
        pass
    assert session.groomed == 1, "after a plain command there is nothing to groom"


def test_who_comes_meanwhile_waits_for_it(make_pool: MakePool, server: FakeServer) -> None:
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


def test_more_than_are_being_groomed_log_in_anew(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool(cap=3)
    session = transfer(pool, server, groomed_now=False)
    leases: list[Lease] = []
    threads = [elsewhere(lambda: leases.append(pool.lease(Use.METADATA))) for _ in range(2)]
    until(lambda: len(leases) == 1)
    assert server.connects == 2
    session.may_go_on.set()
    assert joined(threads)
    assert server.connects == 2


def test_a_session_being_groomed_counts_as_a_connection(
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


def test_somebody_waiting_to_send_a_command_does_not_wait_for_arming(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=2)
    second = hold(pool, Use.METADATA)
    first = transfer(pool, server, groomed_now=False)
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


def test_a_transfer_that_had_to_wait_has_one_session_more_logged_in(
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
def test_a_read_that_is_early_for_its_data_connection_has_one_session_more_logged_in(
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


def test_a_spare_session_that_is_refused_lowers_the_cap_and_troubles_nobody(
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


# Warm.


def test_sessions_that_will_be_needed_are_logged_in_ahead(
    make_pool: MakePool, server: FakeServer
) -> None:
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


def test_who_needs_a_session_waits_for_one_that_is_on_its_way(
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
def test_where_the_server_refused_a_session_lately_none_is_logged_in_ahead(
    make_pool: MakePool, server: FakeServer, clock: Clock, error: errors.FtpfsError
) -> None:
    pool = make_pool(cap=8)
    with pool.leased(Use.METADATA):
        server.errors = [error]
        pool.warm(2)
        until(lambda: server.connects == 2 and groomed(pool))
        assert pool.status().cap == 1
        pool.warm(8)
        clock.now += CAP_MEMORY + 1
        pool.warm(8)
        time.sleep(0.05)
        assert server.connects == 2


def test_nothing_is_logged_in_ahead_of_the_first_login_nor_while_the_server_is_down(
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


def test_a_password_that_was_changed_is_tried_once_and_not_by_all_who_wait(
    make_pool: MakePool, server: FakeServer, clock: Clock
) -> None:
    """Servers ban an address that fails to log in a few times."""
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


def test_after_a_pause_the_first_login_brings_the_others(
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


def test_a_session_that_dies_while_it_is_groomed_is_closed_and_replaced(
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


def test_closing_the_pool_closes_what_is_groomed_and_ends_the_groomers(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    before = groomers()
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
    until(lambda: set(groomers()) <= set(before))


def test_groomers_with_nothing_to_do_end(
    make_pool: MakePool, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "GROOMER_IDLE", 0.05)
    pool = make_pool()
    before = groomers()
    for _ in range(3):
        session = transfer(pool, server)
        count = session.groomed
        until(lambda: groomed(pool))
        assert session.groomed >= count
        until(lambda: set(groomers()) <= set(before))


def test_without_a_thread_to_spare_a_session_is_groomed_by_who_used_it(
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
def test_of_the_idle_sessions_the_one_is_taken_that_serves_best(
    make_pool: MakePool, server: FakeServer, use: Use, best: str
) -> None:
    pool = make_pool()
    leases = {name: hold(pool, Use.METADATA) for name in ("plain", "armed", "unsettled")}
    for name, lease in leases.items():
        fake(lease).armed = name == "armed"
        fake(lease).settled = name != "unsettled"
        lease.release()
    assert hold(pool, use).session is leases[best].session


def test_a_second_attempt_uses_nothing_that_was_made_ahead(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    seen: list[bool] = []

    def work(session: Session) -> None:
        seen.append(session.armed)
        cast(FakeSession, session).armed = True
        if len(seen) < 3:
            raise errors.DataConnectionFailed("again")

    pool.run(work, use=Use.LISTING)
    assert seen == [False, False, False]
