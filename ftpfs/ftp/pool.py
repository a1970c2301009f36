"""The sessions of one server: leases, health, idle time, the learned cap, and THE retry policy.

Owns: how many connections there are, who uses which, and whether a failed piece of work is done
again. Owns nothing of what is said on a session.

A session is used under a *lease*. Rules that keep this free of deadlock:

- A thread holds one lease at a time (checked), so nobody waits for a lease while holding one.
- Transfers never take the last free connection while the cap allows two or more: metadata does not
  queue behind them. With a cap of one, metadata asks the transfer to give way.
- A holder that can stop anywhere (a read stream) leases with `give_way`; it is called when others
  wait, and the holder returns the lease as soon as it can.

Every step on a session has a deadline, so a lease is held either by somebody who makes progress or
for a bounded time; waiting for one therefore needs no deadline of its own.

Threading: `_changed` (a Condition) guards everything. Nothing is connected, closed or called under
it: decisions are taken under the lock and carried out after it.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ftpfs import errors
from ftpfs.ftp.session import Session

log = logging.getLogger(__name__)

T = TypeVar("T")

# Attempts at work that may be repeated, the first included. A server restart or a NAT that forgot
# its connections costs one; three in a row are not bad luck.
ATTEMPTS = 3
RETRY_PAUSE = 0.2  # seconds before the third and later attempts, doubling
# After a failed connect nobody tries again for so long (seconds, doubling up to the second figure):
# forty blocked `stat`s of a file manager then fail together instead of one after another.
DOWN_PAUSE, MAX_DOWN_PAUSE = 0.5, 4.0
# The server said that we have too many connections: believed for so long (seconds).
CAP_MEMORY = 300.0


class Use(enum.Enum):
    """What a lease is for."""

    METADATA = "metadata"  # short commands and listings: somebody's `ls` waits for it
    TRANSFER = "transfer"  # file contents: may take long


class Lease:
    """The right to use `session`, until `release`."""

    def __init__(
        self, pool: Pool, session: Session, use: Use, give_way: Callable[[], None] | None
    ) -> None:
        self.session = session
        self.use = use
        self.give_way = give_way
        self._pool = pool
        self._returned = False

    def release(self) -> None:
        """Give the session back; a dead one is thrown away. Idempotent."""
        if not self._returned:
            self._returned = True
            self._pool._take_back(self)


@dataclass(frozen=True)
class PoolStatus:
    """A snapshot for people: how many sessions are idle, in use; how many there may be."""

    idle: int
    leased: int
    cap: int
    waiting: int


class Pool:
    """Sessions of one server, made by `connect` when needed."""

    def __init__(
        self,
        connect: Callable[[], Session],
        *,
        cap: int,
        idle_timeout: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connect = connect
        self._configured_cap = cap
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._sleep = sleep
        self._held = threading.local()
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._cap = cap
        self._cap_until = 0.0
        self._idle: list[Session] = []
        self._leases: list[Lease] = []
        self._connecting: dict[Use, int] = dict.fromkeys(Use, 0)
        self._waiting: dict[Use, int] = dict.fromkeys(Use, 0)
        self._closed = False
        self._down_until = 0.0
        self._down_pause = DOWN_PAUSE
        self._down_error: errors.FtpfsError | None = None
        self._ever_connected = False

    # Leases.

    def lease(self, use: Use, give_way: Callable[[], None] | None = None) -> Lease:
        """A session, idle or newly connected; waits while the cap allows none.

        Raises what connecting raises. While the server is down, at once and with the same error.
        """
        if getattr(self._held, "lease", None) and not self._held.lease._returned:
            raise AssertionError("a thread that holds a lease asks for another")
        while True:
            lease, must_connect = self._acquire(use, give_way)
            if lease is not None:
                if lease.session.fresh():
                    break
                lease.release()
            elif must_connect and (session := self._connect_one(use)):
                lease = self._admit(session, use, give_way)
                break
        self._held.lease = lease
        return lease

    @contextlib.contextmanager
    def leased(self, use: Use) -> Iterator[Session]:
        """A session for the length of a `with`."""
        lease = self.lease(use)
        try:
            yield lease.session
        finally:
            lease.release()

    def run(
        self,
        work: Callable[[Session], T],
        *,
        use: Use = Use.METADATA,
        again: Callable[[Session], T] | None = None,
    ) -> T:
        """Do `work` on a session; when the conversation broke, do it again on another.

        `work` must be fit to be repeated. Where a first attempt may have been carried out and only
        its reply was lost (DELE, MKD, RNTO), `again` is what later attempts do instead.

        A deadline that passed is not tried again: the caller has waited long enough.
        """
        for attempt in range(1, ATTEMPTS + 1):
            lease = self.lease(use)
            try:
                return (again or work)(lease.session) if attempt > 1 else work(lease.session)
            except (errors.ConnectionLost, errors.DataConnectionFailed) as error:
                lease.release()
                if attempt == ATTEMPTS:
                    raise
                log.info("attempt %d of %d failed, trying again: %s", attempt, ATTEMPTS, error)
                if attempt > 1:
                    self._sleep(RETRY_PAUSE * 2 ** (attempt - 2))
            finally:
                lease.release()
        raise AssertionError("unreachable")

    def status(self) -> PoolStatus:
        with self._changed:
            return PoolStatus(
                len(self._idle), len(self._leases), self._cap, sum(self._waiting.values())
            )

    def close_idle(self) -> None:
        """Let sessions go that nobody used for the idle time. The housekeeper calls this."""
        now = self._clock()
        with self._changed:
            old = [s for s in self._idle if now - s.used_at > self._idle_timeout]
            self._idle = [s for s in self._idle if s not in old]
        for session in old:
            session.close()

    def close(self) -> None:
        """Close every idle session; leased ones are closed as they come back."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for session in idle:
            session.close()

    # Inside.

    def _acquire(self, use: Use, give_way: Callable[[], None] | None) -> tuple[Lease | None, bool]:
        """(a lease, False), or (None, True): the caller has a place and must connect for it.

        (None, False): nothing was free, some time has passed, ask again.
        """
        with self._changed:
            if self._closed:
                raise errors.ConnectionLost("the mount is being closed")
            self._forget_old_cap_locked()
            if self._may_start_locked(use):
                if self._idle:
                    # The one used last: its TCP window is open, and the others can grow old.
                    return self._grant_locked(self._idle.pop(), use, give_way), False
                if self._total_locked() < self._cap:
                    self._check_down_locked()
                    self._connecting[use] += 1
                    return None, True
            asked = self._holders_locked()
        for ask in asked:
            ask()
        with self._changed:
            self._waiting[use] += 1
            try:
                # Asked again now and then: a stream may have begun since.
                self._changed.wait(0.1)
            finally:
                self._waiting[use] -= 1
        return None, False

    def _may_start_locked(self, use: Use) -> bool:
        if use is Use.METADATA:
            return True
        if self._waiting[Use.METADATA] and self._total_locked() >= self._cap:
            return False
        transfers = sum(1 for lease in self._leases if lease.use is Use.TRANSFER)
        transfers += self._connecting[Use.TRANSFER]
        return transfers < max(1, self._cap - 1)

    def _holders_locked(self) -> list[Callable[[], None]]:
        return [lease.give_way for lease in self._leases if lease.give_way]

    def _total_locked(self) -> int:
        return len(self._idle) + len(self._leases) + sum(self._connecting.values())

    def _grant_locked(
        self, session: Session, use: Use, give_way: Callable[[], None] | None
    ) -> Lease:
        lease = Lease(self, session, use, give_way)
        self._leases.append(lease)
        return lease

    def _check_down_locked(self) -> None:
        if self._down_error and self._clock() < self._down_until:
            raise type(self._down_error)(str(self._down_error))

    def _connect_one(self, use: Use) -> Session | None:
        """Connect, for a place taken by `_acquire`; None: the server is full, wait for a place."""
        try:
            session = self._connect()
        except errors.FtpfsError as error:
            with self._changed:
                self._connecting[use] -= 1
                self._changed.notify_all()
                if self._is_full_locked(error):
                    return None
                self._note_down_locked(error)
            raise
        except BaseException:
            with self._changed:
                self._connecting[use] -= 1
                self._changed.notify_all()
            raise
        return session

    def _is_full_locked(self, error: errors.FtpfsError) -> bool:
        """Whether the error means "not so many", and if so lower the cap.

        421 says it; 530 can say it, too, and does when the same login was fine before. With no
        session of our own alive it is others who fill the server: then the error stands.
        """
        full = isinstance(error, errors.ServerBusy) or (
            isinstance(error, errors.LoginFailed) and self._ever_connected
        )
        alive = len(self._idle) + len(self._leases)
        if not full or not alive:
            return False
        self._cap = alive
        self._cap_until = self._clock() + CAP_MEMORY
        log.info("the server allows no more than %d connections for now: %s", alive, error)
        return True

    def _forget_old_cap_locked(self) -> None:
        if self._cap < self._configured_cap and self._clock() > self._cap_until:
            self._cap = self._configured_cap

    def _note_down_locked(self, error: errors.FtpfsError) -> None:
        self._down_error = error
        self._down_until = self._clock() + self._down_pause
        self._down_pause = min(MAX_DOWN_PAUSE, self._down_pause * 2)

    def _admit(self, session: Session, use: Use, give_way: Callable[[], None] | None) -> Lease:
        with self._changed:
            self._connecting[use] -= 1
            self._ever_connected = True
            self._down_error = None
            self._down_pause = DOWN_PAUSE
            return self._grant_locked(session, use, give_way)

    def _take_back(self, lease: Lease) -> None:
        session = lease.session
        with self._changed:
            self._leases.remove(lease)
            keep = session.alive and not self._closed and self._total_locked() < max(1, self._cap)
            if keep:
                session.used_at = self._clock()
                self._idle.append(session)
            self._changed.notify_all()
        if not keep:
            session.close()
