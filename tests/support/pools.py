"""A pool without a network: sessions and a server that only count."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import cast

from ftpfs import errors
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.pool import Lease, Pool
from ftpfs.ftp.connections.session import Session

MakePool = Callable[..., Pool]


class FakeSession:
    def __init__(self) -> None:
        self.alive = True
        self.stale = False
        self.used_at = 0.0
        self.closed = False
        self.settled = True
        self.armed = False
        self.dialling = False  # armed, but the data connection is not established yet
        self.used_data = False
        self.groomed = 0
        self.grooming = False
        self.may_go_on = threading.Event()  # a groomer waits for it
        self.may_go_on.set()

    @property
    def ready(self) -> bool:
        return self.armed and not self.dialling

    def wants_grooming(self) -> bool:
        return self.alive and self.used_data

    def groom(self, *, arm: bool = True) -> None:
        self.grooming = True
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
    """A server that accepts up to `limit` connections. Give its method `connect` to the pool."""

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


def fake(lease: Lease) -> FakeSession:
    return cast(FakeSession, lease.session)


def elsewhere(work: Callable[[], object]) -> threading.Thread:
    """Start `work` in a thread, because a thread may hold only one lease."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def hold(pool: Pool, use: Use, give_way: Callable[[], None] | None = None) -> Lease:
    """A lease taken by another thread."""
    leases: list[Lease] = []
    elsewhere(lambda: leases.append(pool.lease(use, give_way))).join(5)
    return leases[0]


def refused(
    pool: Pool, use: Use, refusal: type[errors.FtpfsError]
) -> tuple[threading.Thread, list[errors.FtpfsError]]:
    """A thread that asks for a lease, and the list that its `refusal` will be in."""
    failures: list[errors.FtpfsError] = []

    def ask() -> None:
        try:
            pool.lease(use)
        except refusal as error:
            failures.append(error)

    return elsewhere(ask), failures


def joined(threads: list[threading.Thread], within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def transfer(pool: Pool, server: FakeServer, *, groomed_now: bool = True) -> FakeSession:
    """Use a session as a download does, and give it back; return the session.

    `groomed_now`: whether it can be groomed at once.
    """
    lease = hold(pool, Use.TRANSFER)
    session = fake(lease)
    session.used_data, session.armed, session.grooming = True, False, False
    if not groomed_now:
        session.may_go_on.clear()
    lease.release()
    return session


def groomed(pool: Pool) -> bool:
    return not pool._grooming and not pool._spares


def groomer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ftpfs-groomer"]


def leased_or_closed(pool: Pool, use: Use) -> None:
    with contextlib.suppress(errors.ConnectionLost):
        pool.lease(use)
