"""The pool: the sessions of one server, who uses them, and what is repeated after a failure.

Owns: which sessions exist, who uses which, and whether failed work is done again. Does not own what
is sent on a session (`session`), who is served next (`admission`), or how many connections the
server allows (`limit`).

A session is used under a *lease*. A thread holds one lease at a time (checked), so no thread waits
for a lease while it holds one. A holder that can stop anywhere (a read stream) leases with
`give_way`. The pool calls that while others wait, and the holder returns the lease as soon as it
can.

A session that comes back from a transfer is *groomed* if that pays (see `channels`). A thread of
the pool does it, so that the caller goes on at once. Such a session counts as a connection.

Sessions that will be needed soon are logged in ahead (`warm`), by the same threads. A login takes
four round trips, and runs beside a listing or a linger that takes as long. A caller that needs a
session waits for one of these, too. After the server has refused a login, none is logged in ahead
for a while.

Every step on a session has a deadline, so a lease is held either by a thread that makes progress or
for a bounded time. Therefore waiting for a lease needs no deadline of its own.

Threading: one lock, that of `_changed` (Rank.POOL), guards the state. Nothing is connected, closed
or called under it: decisions are made under the lock and carried out after it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ftpfs import errors
from ftpfs.ftp.connections import retries
from ftpfs.ftp.connections.admission import UNASKED, Books, Use, Verdict, decide
from ftpfs.ftp.connections.channels import ARMED_AGE_SECONDS
from ftpfs.ftp.connections.groomers import Groomers
from ftpfs.ftp.connections.health import ServerHealth
from ftpfs.ftp.connections.limit import ConnectionLimit
from ftpfs.ftp.connections.neighbours import Neighbour
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile
from ftpfs.model.locks import Rank, ranked_condition

log = logging.getLogger(__name__)

T = TypeVar("T")

# How often holders that can give way are asked while others wait. A stream refuses until it has run
# for its minimum time.
ASK_SECONDS = 0.1
# How long to wait before asking again a server that may still count an ended session.
GHOST_SECONDS = 0.2

# A groomer's work: to groom that session, or (None) to log in a spare one.
_Chore = Session | None


class Lease:
    """The right to use `session`, until `release`."""

    def __init__(
        self, pool: Pool, session: Session, use: Use, give_way: Callable[[], None] | None
    ) -> None:
        self.session = session
        self.use = use
        self.give_way = give_way
        self.since = pool._clock()
        self._pool = pool
        self._returned = False

    def release(self) -> None:
        """Give the session back. A dead one is discarded. May be called twice."""
        if not self._returned:
            self._returned = True
            self._pool._take_back(self)


class Repeated:
    """One piece of work on a session, in attempts. Each is a `with` block in a loop without end:

        repeated = pool.repeated(use)
        while True:
            with repeated as session:
                return work(session)

    If the connection breaks, the block ends without an error, and the next one has another session;
    `retries` says how often. Any other end of the block is the end of the work. The block gives its
    session back, unless it ends well after `keep`. If no attempt ever got a session, the error says
    so (`NetworkError.asked`).
    """

    def __init__(self, pool: Pool, use: Use, give_way: Callable[[], None] | None) -> None:
        self.is_first = True  # no attempt was made before this one
        self._pool = pool
        self._use = use
        self._give_way = give_way
        self._policy = retries.Retries()
        self._is_kept = False

    def __enter__(self) -> Session:
        try:
            self._lease = self._pool.lease(self._use, self._give_way)
        except errors.NetworkError as error:
            error.asked = not self.is_first
            raise
        self._is_kept = False
        if not self.is_first:
            self._lease.session.disarm()  # the armed connection did not cause the failure
        return self._lease.session

    def keep(self) -> Callable[[], None]:
        """Let what this attempt begins have the session until it calls the result."""
        self._is_kept = True
        return self._lease.release

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        self.is_first = False
        if error is not None or not self._is_kept:
            self._lease.release()
        return error is not None and self._pool._goes_on_after(error, self._policy)


@dataclass(frozen=True)
class PoolStatus:
    """A snapshot for people: how many sessions are idle and in use, and how many there may be.

    Those that are being groomed count as idle.
    """

    idle: int
    leased: int
    cap: int
    waiting: int
    # other processes of this user with connections to this server
    others: tuple[Neighbour, ...] = ()
    allowed: int | None = None  # by the server, as far as is known


class Pool:
    """Sessions of one server, made by `connect` when needed.

    One idea: each method changes the state under the one lock, and then carries out what follows.
    The policies are elsewhere: `admission`, `limit`, `health`, `retries`.
    """

    def __init__(
        self,
        connect: Callable[[], Session],
        *,
        cap: int,
        idle_timeout: float,
        profile: Profile | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`profile`: it remembers the server's limit."""
        # Dependencies and constants:
        self._connect = connect
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._sleep = sleep
        self._held = threading.local()  # its attribute `lease` is this thread's last lease
        self._groomers: Groomers[_Chore] = Groomers(self._do, most=cap)
        # Guarded by the lock of `_changed`, like all that follows:
        self._changed = ranked_condition(Rank.POOL)
        self._version = 0  # counts the changes that may let a waiting thread go on
        self._limit = ConnectionLimit(cap, profile or Profile(), clock())
        # A session is in one of `_idle`, `_leases` and `_grooming`, or no longer in the pool.
        self._idle: list[Session] = []
        self._leases: list[Lease] = []
        self._leased = dict.fromkeys(Use, 0)  # how many of `_leases` there are for each use
        self._grooming: list[Session] = []
        self._spares = 0  # number of sessions being logged in without a caller
        self._connecting: dict[Use, int] = dict.fromkeys(Use, 0)
        self._waiting: dict[Use, int] = dict.fromkeys(Use, 0)
        self._wanted = 0  # number of sessions to log in ahead, after a login has succeeded
        self._closed = False
        self._health = ServerHealth()

    # Leases.

    def lease(self, use: Use, give_way: Callable[[], None] | None = None) -> Lease:
        """A session, idle or newly connected. Waits while the cap allows none.

        Other threads call `give_way` repeatedly while a caller waits for a connection; it must not
        raise. Raises what connecting raises. While the server is down, raises the same error at
        once.
        """
        if getattr(self._held, "lease", None) and not self._held.lease._returned:
            raise AssertionError("a thread that holds a lease asks for another")
        lease: Lease | None = None
        while lease is None:
            lease = self._acquire(use, give_way)
            if lease is None:  # there is a place: connect
                lease = self._connect_one(use, give_way)
            elif not self._is_fresh(lease):
                lease.release()
                lease = None
        self._held.lease = lease
        return lease

    @contextlib.contextmanager
    def leased(self, use: Use) -> Iterator[Session]:
        """A session for the duration of a `with`."""
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
        """Do `work` on a session; if its connection breaks, do it again on another one.

        Repeating `work` must be safe. If a first attempt may have been carried out and only its
        reply was lost (DELE, MKD, RNTO), later attempts do `again` instead. A timeout is not
        retried, because the caller has waited long enough.
        """

        repeated = self.repeated(use)
        while True:
            with repeated as session:
                return work(session) if again is None or repeated.is_first else again(session)

    def begin(
        self,
        start: Callable[[Session, Callable[[], None]], T],
        *,
        use: Use = Use.TRANSFER,
        give_way: Callable[[], None] | None = None,
    ) -> T:
        """`start(session, release)` begins something that goes on, and calls `release` at its end.

        Repeated like `run`, until `start` has returned.
        """

        repeated = self.repeated(use, give_way)
        while True:
            with repeated as session:
                return start(session, repeated.keep())

    def repeated(self, use: Use, give_way: Callable[[], None] | None = None) -> Repeated:
        """One piece of work, in attempts: see `Repeated`."""
        return Repeated(self, use, give_way)

    def warm(self, count: int) -> None:
        """Log in sessions until there are `count`, because they will be needed soon.

        No caller waits for them, and none hears of a failure. Does nothing before a login has
        succeeded, or while the server is down or has refused a login lately.
        """
        with self._changed:
            self._wanted = max(self._wanted, min(count, self._limit.configured))
            starting = self._warm_locked()
        self._log_in_spares(starting)

    def status(self) -> PoolStatus:
        with self._changed:
            idle = len(self._idle) + len(self._grooming)
            waiting = sum(n for use, n in self._waiting.items() if use not in UNASKED)
            limit = self._limit
            leased = len(self._leases)
            return PoolStatus(idle, leased, limit.cap(), waiting, limit.others, limit.allowed)

    def is_away(self) -> bool:
        """Whether no session is left, and the last login did not reach the server at all."""
        with self._changed:
            return self._health.is_away and not self._books_locked().living

    def know_others(self, others: tuple[Neighbour, ...]) -> None:
        """Note which other processes of this user are at the server. The housekeeper calls this."""
        with self._changed:
            self._limit.others = others
            self._notify_locked()

    def close_idle(self) -> None:
        """Close sessions, and data connections made ahead, that were not used for a while.

        The housekeeper calls this.
        """
        now = self._clock()
        with self._changed:
            living = self._books_locked().living
            old = self._limit.outdated(self._idle, living, self._idle_timeout, now)
            self._idle = [s for s in self._idle if s not in old]
            channels = [s.take_armed(older_than=ARMED_AGE_SECONDS) for s in self._idle]
            self._notify_locked()
        self._close_all(old)
        for channel in channels:
            if channel is not None:
                channel.close()

    def cut_off_calls(self, older_than: float) -> None:
        """Cut the connections of all leases older than that (s), except those of uploads.

        Their holders get ConnectionLost or DataConnectionFailed at once.
        """
        before = self._clock() - older_than
        with self._changed:
            stuck = [
                lease.session
                for lease in self._leases
                if lease.use is not Use.UPLOAD and lease.since < before
            ]
        for session in stuck:
            session.cut_off()

    def close(self) -> None:
        """Close every idle session; others are closed as they come back."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._notify_locked()
        self._groomers.close()
        self._close_all(idle)

    # Inside.

    def _goes_on_after(self, error: BaseException, policy: retries.Retries) -> bool:
        """Wait before the next attempt at work that failed so. Returns False if there is none."""
        if isinstance(error, errors.ConnectionLost) and not isinstance(error, errors.Retreat):
            self._drop_idle()  # others may have broken, too
        pause = policy.pause_after(error)
        if pause:
            self._sleep(pause)
        return pause is not None

    def _acquire(self, use: Use, give_way: Callable[[], None] | None) -> Lease | None:
        """Wait for a place. Returns a lease on an idle session; None: the caller connects."""
        with self._changed:
            self._waiting[use] += 1
        try:
            while True:
                with self._changed:
                    verdict, lease, spare = self._admit_locked(use, give_way)
                    seen = self._version
                    waits = verdict is Verdict.WAIT
                    asks = waits and use not in UNASKED
                    holders = [held.give_way for held in self._leases if held.give_way and asks]
                if spare:
                    self._log_in_spares(1)
                if not waits:
                    return lease
                self._wait_for_change(seen, holders)
        finally:
            with self._changed:
                self._waiting[use] -= 1
                if use not in UNASKED and not self._waiting[use]:
                    self._notify_locked()  # callers behind this one may go on

    def _admit_locked(
        self, use: Use, give_way: Callable[[], None] | None
    ) -> tuple[Verdict, Lease | None, bool]:
        """Decide about one caller, and update the state accordingly.

        Returns the verdict, the caller's lease, and whether to log in a spare session.
        """
        if self._closed:
            raise errors.ConnectionLost("the mount is being closed")
        decision = decide(use, self._books_locked())
        lease, spare = None, decision.spare
        if decision.verdict is Verdict.CONNECT:
            self._health.check_down(self._clock())
            self._connecting[use] += 1
        elif decision.verdict is Verdict.TAKE:
            lease = self._grant_locked(self._choose_locked(use), use, give_way)
            # The data connection of this session is still opening. One session more would be ready,
            # and single reads at random places would take one round trip instead of three.
            spare = spare and lease.session.armed and not lease.session.ready
        self._spares += spare
        return decision.verdict, lease, spare

    def _books_locked(self) -> Books:
        return Books(
            cap=self._limit.cap(),
            cap_now=self._limit.cap_now(self._clock()),
            idle=len(self._idle),
            grooming=len(self._grooming),
            spares=self._spares,
            leased=self._leased,
            connecting=self._connecting,
            waiting=self._waiting,
            let_in=self._health.is_let_in(self._clock()),
        )

    def _has_room_locked(self) -> bool:
        """`Books.has_room`: whether there may be one session more."""
        total = len(self._idle) + len(self._grooming) + len(self._leases) + self._spares
        total += sum(self._connecting.values())
        return total < self._limit.cap_now(self._clock())

    def _wait_for_change(self, seen: int, holders: list[Callable[[], None]]) -> None:
        """Ask holders to give way, and wait until the state differs from version `seen`.

        With such holders the wait is short, because a stream refuses until it has run for its
        minimum time.
        """
        for ask in holders:
            ask()
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen, ASK_SECONDS if holders else None)

    @staticmethod
    def _is_fresh(lease: Lease) -> bool:
        try:
            return lease.session.fresh()
        except BaseException:
            lease.session.drop()
            lease.release()
            raise

    def _notify_locked(self) -> None:
        """Wake waiting threads after a change that may let them go on."""
        if any(self._waiting.values()):
            self._version += 1
            self._changed.notify_all()

    def _warm_locked(self) -> int:
        """How many of the wanted sessions to log in now. Counts them as spares."""
        refused = self._limit.was_refused or self._health.is_down(self._clock())
        if self._closed or refused or not self._health.was_let_in:
            self._wanted = 0
            return 0
        books = self._books_locked()
        if not books.may_log_in:
            return 0  # the login under way will continue with the rest
        missing = max(0, min(self._wanted, books.cap) - books.total)
        if books.let_in:
            self._wanted = 0
        else:
            missing = min(1, missing)
        self._spares += missing
        return missing

    def _choose_locked(self, use: Use) -> Session:
        """Take the idle session that serves `use` best; for what nobody asked for, the second best.

        Among equals it takes the one used last, whose TCP window is open. The others may grow old.
        """
        wants_armed = use is not Use.METADATA
        if use not in UNASKED:
            last = self._idle[-1]
            if last.settled and last.armed is wants_armed is last.ready:
                return self._idle.pop()  # none is better
        ranked = sorted(
            range(len(self._idle)),
            key=lambda n: self._rank(self._idle[n], wants_armed, n),
        )
        second = use in UNASKED and len(ranked) > 1
        return self._idle.pop(ranked[-2] if second else ranked[-1])

    @staticmethod
    def _rank(session: Session, wants_armed: bool, n: int) -> tuple[bool, bool, bool, int]:
        return session.settled, session.armed is wants_armed, session.ready is wants_armed, n

    def _grant_locked(
        self, session: Session, use: Use, give_way: Callable[[], None] | None
    ) -> Lease:
        lease = Lease(self, session, use, give_way)
        self._leases.append(lease)
        self._leased[use] += 1
        if give_way:
            self._notify_locked()  # waiting callers may ask this holder to give way
        return lease

    def _connect_one(self, use: Use, give_way: Callable[[], None] | None) -> Lease | None:
        """Connect, for a place taken by `_acquire`. None: the server is full, wait."""
        try:
            session = retries.log_in(self._connect)
        except BaseException as error:
            with self._changed:
                self._connecting[use] -= 1
                self._notify_locked()
                full, ghost = self._judge_failure_locked(error)
            if not (full or ghost):
                raise
            if not full:
                self._sleep(GHOST_SECONDS)
            return None
        with self._changed:
            self._connecting[use] -= 1
            self._health.note_up()
            self._limit.note_let_in(self._books_locked().total + 1)
            lease = self._grant_locked(session, use, give_way)
            starting = self._note_let_in_locked()
        self._log_in_spares(starting)
        return lease

    def _judge_failure_locked(self, error: BaseException) -> tuple[bool, bool]:
        """Whether a login failed because the server is full.

        The sessions that fill it may be this pool's, or ones whose end the server has not noticed.
        In every other case the server counts as down for a moment.
        """
        if not isinstance(error, errors.FtpfsError):
            return False, False
        now = self._clock()
        full = self._note_failed_login_locked(error)
        ghost = isinstance(error, errors.ServerBusy) and self._health.may_count_a_ghost(now)
        if not (full or ghost):
            self._health.note_down(error, now)
        return full, ghost

    def _note_let_in_locked(self) -> int:
        """A login succeeded. Returns how many more to begin now."""
        self._health.note_let_in(self._clock())
        self._notify_locked()  # callers that waited for the result of this login
        return self._warm_locked()

    def _note_failed_login_locked(self, error: errors.FtpfsError) -> bool:
        """Note a failed login. Returns whether the error means "not so many connections"."""
        books = self._books_locked()
        return self._limit.note_failed_login(
            error,
            ours=books.total,
            living=books.living,
            was_let_in=self._health.was_let_in,
            now=self._clock(),
        )

    def _take_back(self, lease: Lease) -> None:
        session = lease.session
        with self._changed:
            self._leases.remove(lease)
            self._leased[lease.use] -= 1
            groom = not self._closed and session.wants_grooming()
            if groom and self._has_room_locked():
                self._grooming.append(session)
                keep = True
            else:
                groom = False
                session.used_at = self._clock()
                keep = self._keep_locked(session)
        if groom:
            self._groomers.put(session)
        elif not keep:
            session.close()

    # Grooming.

    def _do(self, chore: _Chore) -> None:
        if chore is not None:
            self._groom_one(chore)
        else:
            self._log_in_spare()

    def _groom_one(self, session: Session) -> None:
        try:
            with self._changed:
                # As soon as the session is settled, a command can be sent on it.
                wanted = self._waiting[Use.METADATA] > 0
                closed = self._closed
            if closed:
                session.drop()
            else:
                session.groom(arm=not wanted)
        except BaseException:
            session.drop()
            log.exception("grooming a session failed: unexpected error")
        with self._changed:
            self._grooming.remove(session)
            keep = self._keep_locked(session)
        if not keep:
            session.close()

    def _log_in_spares(self, count: int) -> None:
        """Log in the sessions that are counted as spares."""
        for _ in range(count):
            self._groomers.put(None)

    def _log_in_spare(self) -> None:
        """Log in one session ahead of the next transfer that would have to wait for one.

        It is armed before any caller gets it. A waiting caller will get a session that is being
        groomed, which is ready before a new data connection would be. No caller asked for this
        session, so none hears of a failure.
        """
        with self._changed:
            if self._closed:
                self._spares -= 1
                return
        session: Session | None = None
        failure: errors.FtpfsError | None = None
        try:
            session = retries.log_in(self._connect)
            session.groom_for_transfer()
        except errors.FtpfsError as error:
            log.info("no further connection: %s", error)
            failure = error
        except BaseException:
            log.exception("logging in failed: unexpected error")
        starting = 0
        with self._changed:
            self._spares -= 1
            if failure is not None:
                full = self._note_failed_login_locked(failure)
                if isinstance(failure, errors.LoginFailed) and not full:
                    # The callers that waited for the result of this login get its error.
                    self._health.note_down(failure, self._clock())
            if session is not None:
                self._limit.note_let_in(self._books_locked().total + 1)
            keep = session is not None and self._keep_locked(session)
            if session is not None:
                starting = self._note_let_in_locked()
            self._notify_locked()
        self._log_in_spares(starting)
        if session is not None and not keep:
            session.close()

    def _keep_locked(self, session: Session) -> bool:
        """Put a session among the idle ones. False if there is no place: the caller closes it."""
        keep = session.alive and not self._closed and self._has_room_locked()
        if keep:
            self._idle.append(session)
        else:
            self._health.note_closed(self._clock())
        self._notify_locked()
        return keep

    def _drop_idle(self) -> None:
        """A connection broke: close the idle sessions, which have probably broken, too."""
        with self._changed:
            idle, self._idle = self._idle, []
            if not self._limit.told:
                self._limit.forget()  # the limit may have been learned from the same fault
            self._notify_locked()
        self._close_all(idle)

    def _close_all(self, sessions: list[Session]) -> None:
        """Close sessions that the pool no longer holds."""
        if sessions:
            with self._changed:
                self._health.note_closed(self._clock())
        for session in sessions:
            session.close()
