"""Leases: which caller gets a session, which one waits, and which one gives way."""

from __future__ import annotations

import functools
import threading
import time

import pytest

from ftpfs import errors
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.pool import Lease
from tests.support.clock import Clock
from tests.support.pools import (
    FakeServer,
    FakeSession,
    MakePool,
    elsewhere,
    groomed,
    hold,
    joined,
    leased_or_closed,
    refused,
)
from tests.support.waiting import until

# Sessions.


def test_session_is_used_again(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool()
    for _ in range(5):
        with pool.leased(Use.METADATA):
            pass
    assert server.connects == 1


def test_session_dropped_while_idle_is_replaced_silently(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool()
    with pool.leased(Use.METADATA):
        pass
    server.sessions[0].stale = True
    with pool.leased(Use.METADATA) as session:
        assert session.alive
    assert [s.closed for s in server.sessions] == [True, False]


def test_dead_session_is_closed_on_return(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool()
    lease = pool.lease(Use.METADATA)
    lease.session.drop()
    lease.release()
    lease.release()
    assert pool.status().idle == pool.status().leased == 0
    assert server.sessions[0].closed


def test_no_lease_is_lost_when_check_of_session_fails(
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
def test_no_place_is_lost_when_connect_fails(
    make_pool: MakePool, server: FakeServer, clock: Clock, error: BaseException
) -> None:
    pool = make_pool(cap=1)
    server.errors = [error]
    with pytest.raises(type(error)):
        pool.lease(Use.METADATA)
    clock.now += 10
    with pool.leased(Use.METADATA):
        pass


def test_thread_with_lease_cannot_ask_for_second_one(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.leased(Use.METADATA), pytest.raises(AssertionError):
        pool.lease(Use.METADATA)


def test_idle_session_is_closed_after_idle_timeout(
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


def test_closed_pool_closes_leased_sessions_on_return(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=1)
    lease = hold(pool, Use.METADATA)
    waiting, failures = refused(pool, Use.METADATA, errors.ConnectionLost)
    until(lambda: pool.status().waiting == 1)
    pool.close()
    assert joined([waiting])
    assert failures
    assert not server.sessions[0].closed
    lease.release()
    assert server.sessions[0].closed


# Waiting.


def test_pool_serves_all_callers_within_cap(make_pool: MakePool, server: FakeServer) -> None:
    pool = make_pool(cap=3)
    served: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with pool.leased(Use.TRANSFER if number % 2 else Use.METADATA):
                assert server.open <= 3
                time.sleep(0.0005)
        served.append(number)

    assert joined([elsewhere(functools.partial(work, n)) for n in range(20)])
    assert len(served) == 20
    assert pool.status().leased == pool.status().waiting == 0


def test_transfers_leave_one_connection_to_metadata(make_pool: MakePool) -> None:
    pool = make_pool(cap=2)
    hold(pool, Use.TRANSFER)
    third = elsewhere(lambda: pool.lease(Use.TRANSFER))
    until(lambda: pool.status().waiting == 1)
    with pool.leased(Use.METADATA):
        pass
    assert third.is_alive()


def test_uploads_leave_one_connection_to_reads(make_pool: MakePool) -> None:
    pool = make_pool(cap=4)
    uploads = [hold(pool, Use.UPLOAD) for _ in range(2)]
    third = elsewhere(lambda: pool.lease(Use.UPLOAD).release())
    until(lambda: pool.status().waiting == 1)
    reads = hold(pool, Use.TRANSFER)
    assert pool.status().waiting == 1
    uploads[0].release()
    assert joined([third])
    reads.release()


def test_uploads_and_reads_share_cap_of_two(make_pool: MakePool) -> None:
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


def test_stream_is_asked_to_give_way_until_it_does(make_pool: MakePool) -> None:
    pool = make_pool(cap=1)
    asked = threading.Semaphore(0)
    stream = hold(pool, Use.TRANSFER, asked.release)
    waiting = elsewhere(lambda: pool.lease(Use.METADATA))
    for _ in range(3):
        assert asked.acquire(timeout=5)
    stream.release()
    assert joined([waiting])


def test_stream_that_begins_later_is_asked_to_give_way(make_pool: MakePool) -> None:
    pool = make_pool(cap=1)
    upload = hold(pool, Use.TRANSFER)
    asked = threading.Semaphore(0)
    # Both wait; the first has to let the second in.
    leases: list[Lease] = []
    stream = elsewhere(lambda: leases.append(pool.lease(Use.TRANSFER, asked.release)))
    until(lambda: pool.status().waiting == 1)
    upload.release()
    assert joined([stream])
    upload_again = elsewhere(lambda: pool.lease(Use.TRANSFER))
    assert asked.acquire(timeout=5)
    leases[0].release()
    assert joined([upload_again])


# Listings ahead, for which nobody waits.


def test_listings_ahead_leave_two_places_and_one_idle_session(
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
    # Of the two idle sessions it took one; the other is free for the next caller, at once.
    assert server.connects == 3
    pool.lease(Use.METADATA).release()
    assert server.connects == 3


def test_prefetch_leaves_idle_session_while_it_can_log_in(
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


def test_prefetch_takes_first_free_session_during_further_login(
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


def test_prefetch_takes_last_session_when_no_login_is_possible(
    make_pool: MakePool, server: FakeServer
) -> None:
    """By now a reader may wait for the prefetched file."""
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


def test_pool_of_two_connections_lists_nothing_ahead(make_pool: MakePool) -> None:
    pool = make_pool(cap=2)
    waiting = elsewhere(lambda: leased_or_closed(pool, Use.AHEAD))
    time.sleep(0.05)
    pool.lease(Use.TRANSFER).release()
    time.sleep(0.05)
    assert pool.status().leased == 0
    pool.close()
    waiting.join(5)
    assert not waiting.is_alive()


def test_listings_ahead_stand_back_while_callers_wait(
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


def test_listing_ahead_asks_no_stream_to_give_way(make_pool: MakePool) -> None:
    pool = make_pool(cap=3)
    asked: list[bool] = []
    hold(pool, Use.TRANSFER, lambda: asked.append(True))
    hold(pool, Use.AHEAD)
    waiting = elsewhere(lambda: leased_or_closed(pool, Use.AHEAD))
    time.sleep(0.05)
    assert not asked
    pool.close()
    waiting.join(5)


def test_listing_behind_an_answer_waits_for_an_idle_session_and_logs_none_in(
    make_pool: MakePool, server: FakeServer
) -> None:
    pool = make_pool(cap=4)
    got: list[Lease] = []
    waiting = elsewhere(lambda: got.append(pool.lease(Use.BEHIND)))
    time.sleep(0.05)
    assert (server.connects, pool.status().waiting) == (0, 0), "and nobody counts it as a caller"
    first = pool.lease(Use.METADATA)
    time.sleep(0.05)
    assert not got
    first.release()
    waiting.join(5)
    assert len(got) == server.connects == 1
    got.pop().release()
    waiting = elsewhere(lambda: leased_or_closed(pool, Use.BEHIND))
    waiting.join(5)
    pool.close()


def test_closed_pool_ends_the_wait_of_a_listing_behind_an_answer(make_pool: MakePool) -> None:
    pool = make_pool(cap=2)
    waiting = elsewhere(lambda: leased_or_closed(pool, Use.BEHIND))
    pool.lease(Use.TRANSFER).release()
    time.sleep(0.05)
    assert pool.status().leased == 0, "both places are for others"
    pool.close()
    waiting.join(5)
    assert not waiting.is_alive()
