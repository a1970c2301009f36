"""The sessions of one server: leases, health, idle time, the learned cap, and THE retry policy.

Owns: how many connections there are, who uses which, and whether a failed piece of work is done
again. Owns nothing of what is said on a session.

A session is used under a *lease*. Rules that keep this free of deadlock:

- A thread holds one lease at a time (checked), so nobody waits for a lease while holding one.
- Transfers never take the last free connection while the cap allows two or more: metadata does not
  queue behind them. With a cap of one, metadata asks the transfer to give way. Uploads leave one
  more, to those who read.
- A holder that can stop anywhere (a read stream) leases with `give_way`; it is called while others
  wait, and the holder returns the lease as soon as it can.
- Metadata that waits goes before transfers that wait, and both before listings ahead, which leave
  two places free, and one idle session to whoever comes. Contents fetched ahead leave that one,
  too, as long as there is room to log in one more.

A session that comes back from a transfer is *groomed* where that pays (see `session`): by a thread
of the pool's, so that whoever used it goes on at once. It counts as a connection all the while, and
who needs one waits for it rather than log in anew (7 round trips), unless more wait than are being
groomed.

Sessions that will be needed soon are logged in ahead (`warm`), by the same threads: a login takes
four round trips, as long as the listing or the linger that it can run beside. Who needs a session
waits for one of these, too, rather than log in one more. Never where the server has refused one
lately.

Whether we are let in at all is tried by one login: the others wait for what comes of it. A password
that was changed is told to the server once and not sixteen times, for which it would ban us.

Every step on a session has a deadline, so a lease is held either by somebody who makes progress or
for a bounded time; waiting for one therefore needs no deadline of its own.

Threading: one lock, that of `_changed`, guards everything. Nothing is connected, closed or called
under it: decisions are taken under the lock and carried out after it. The groomers are daemon
threads, started when there is something to groom; they end when there has been nothing for a while,
or after `close`.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ftpfs import errors
from ftpfs.ftp.session import ARMED_AGE, Session

log = logging.getLogger(__name__)

T = TypeVar("T")

# Attempts at work that may be repeated, the first included. A server restart or a NAT that forgot
# its connections costs one; three in a row are not bad luck.
ATTEMPTS = 3
RETRY_PAUSE = 0.2  # seconds before the third and later attempts, doubling
# After a failed connect nobody tries again for so long (seconds, doubling up to the second figure):
# forty blocked `stat`s of a file manager then fail together instead of one after another.
DOWN_PAUSE, MAX_DOWN_PAUSE = 0.5, 4.0
# The server said that we have too many connections: believed for so long (seconds). Trying one
# more costs a refused login; not trying costs speed, and the refusal may have counted sessions that
# were already closed here.
CAP_MEMORY = 60.0
# Holders that can give way are asked so often (seconds) while somebody waits: a stream says no
# until it had its turn.
ASK_PAUSE = 0.1
# A server that turns us away though we have no session left may still count one that has just
# ended (seconds): it is asked again, every so often, for so long.
GHOST_TIME, GHOST_PAUSE = 5.0, 0.2
# A login that went well is believed for so long (seconds) to go well again: several at a time then.
PROVEN = 60.0
# A groomer that has nothing to do ends after so long (seconds).
GROOMER_IDLE = 5.0


class Use(enum.Enum):
    """What a lease is for."""

    METADATA = "metadata"  # short commands: somebody's `ls` waits for it
    LISTING = "listing"  # likewise, with a data connection
    TRANSFER = "transfer"  # file contents: may take long
    UPLOAD = "upload"  # likewise, on its way to the server: those who read wait for an answer
    PREFETCH = "prefetch"  # file contents that nobody waits for yet
    AHEAD = "ahead"  # listings that nobody waits for yet


_TRANSFERS = (Use.TRANSFER, Use.PREFETCH, Use.UPLOAD)


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
    """A snapshot for people: how many sessions are idle, in use; how many there may be.

    Those that are being groomed count as idle.
    """

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
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._chore = threading.Condition(lock)  # notified when there is something for a groomer
        # Guarded by that lock:
        self._version = 0  # counts what may let a waiting thread go on
        self._cap = cap
        self._cap_until = 0.0
        self._idle: list[Session] = []
        self._leases: list[Lease] = []
        self._grooming: list[Session] = []  # being groomed, or waiting for that in _chores
        self._chores: deque[Session | None] = deque()  # None: log in a session to have at hand
        self._spares = 0  # sessions being logged in like that
        self._wanted = 0  # sessions, once it is known that we are let in
        self._groomers = 0  # threads,
        self._resting = 0  # and how many of them have nothing to do
        self._connecting: dict[Use, int] = dict.fromkeys(Use, 0)
        self._waiting: dict[Use, int] = dict.fromkeys(Use, 0)
        self._closed = False
        self._down_until = 0.0
        self._down_pause = DOWN_PAUSE
        self._down_error: errors.FtpfsError | None = None
        self._let_in_at = float("-inf")  # when a login went well last
        self._closed_at = float("-inf")  # when a session ended last

    # Leases.

    def lease(self, use: Use, give_way: Callable[[], None] | None = None) -> Lease:
        """A session, idle or newly connected; waits while the cap allows none.

        `give_way` is called, from other threads and again and again, while somebody waits for a
        connection; it must not raise.

        Raises what connecting raises. While the server is down, at once and with the same error.
        """
        if getattr(self._held, "lease", None) and not self._held.lease._returned:
            raise AssertionError("a thread that holds a lease asks for another")
        lease: Lease | None = None
        while lease is None:
            lease = self._acquire(use, give_way)
            if lease is None:  # a place to connect for
                lease = self._connect_one(use, give_way)
            elif not self._is_fresh(lease):
                lease.release()
                lease = None
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

        def attempt(lease: Lease, number: int) -> T:
            try:
                return (again or work)(lease.session) if number > 1 else work(lease.session)
            finally:
                lease.release()

        return self._try(attempt, use)

    def begin(
        self,
        start: Callable[[Session, Callable[[], None]], T],
        *,
        use: Use = Use.TRANSFER,
        give_way: Callable[[], None] | None = None,
    ) -> T:
        """`start(session, release)` something that goes on: it has to call `release` at its end.

        Repeated like `run`, as long as `start` has not returned.
        """

        def attempt(lease: Lease, _: int) -> T:
            try:
                return start(lease.session, lease.release)
            except BaseException:
                lease.release()
                raise

        return self._try(attempt, use, give_way)

    def warm(self, count: int) -> None:
        """Have sessions logged in, by and by, until there are `count`: they will be needed soon.

        Nobody waits for them, and nobody is told when it fails. Does nothing where no login has
        gone well yet, and where the server is down or has refused one lately.
        """
        with self._changed:
            self._wanted = max(self._wanted, min(count, self._configured_cap))
            starting = self._warm_locked()
        self._log_in_spares(starting)

    def status(self) -> PoolStatus:
        with self._changed:
            idle = len(self._idle) + len(self._grooming)
            return PoolStatus(idle, len(self._leases), self._cap, sum(self._waiting.values()))

    def close_idle(self) -> None:
        """Let go what nobody used for long: sessions, and data connections made ahead.

        The housekeeper calls this.
        """
        now = self._clock()
        with self._changed:
            old = [s for s in self._idle if now - s.used_at > self._idle_timeout]
            self._idle = [s for s in self._idle if s not in old]
            channels = [s.take_armed(older_than=ARMED_AGE) for s in self._idle]
            self._notify_locked()
        self._close_all(old)
        for channel in channels:
            if channel is not None:
                channel.close()

    def close(self) -> None:
        """Close every idle session; others are closed as they come back."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._notify_locked()
            self._chore.notify_all()
        self._close_all(idle)

    # Inside.

    def _try(
        self,
        attempt: Callable[[Lease, int], T],
        use: Use,
        give_way: Callable[[], None] | None = None,
    ) -> T:
        for number in range(1, ATTEMPTS + 1):
            lease = self.lease(use, give_way)
            if number > 1:
                lease.session.disarm()  # whatever made it fail, it was not that
            try:
                return attempt(lease, number)
            except (errors.ConnectionLost, errors.DataConnectionFailed) as error:
                if isinstance(error, errors.ConnectionLost):
                    self._drop_idle()
                if number == ATTEMPTS:
                    raise
                log.info("attempt %d of %d failed, trying again: %s", number, ATTEMPTS, error)
                if number > 1:
                    self._sleep(RETRY_PAUSE * 2 ** (number - 2))
        raise AssertionError("unreachable")

    def _acquire(self, use: Use, give_way: Callable[[], None] | None) -> Lease | None:
        """Wait for a place: a lease on an idle session, or None, and the caller must connect."""
        with self._changed:
            self._waiting[use] += 1
        asked = False
        try:
            while True:
                lease, spare = None, False
                with self._changed:
                    if self._closed:
                        raise errors.ConnectionLost("the mount is being closed")
                    if self._may_start_locked(use):
                        room = self._total_locked() < self._cap_now_locked()
                        # What nobody waits for leaves the last idle session to whoever comes.
                        logs_in = use is Use.PREFETCH and room and self._may_log_in_locked()
                        if len(self._idle) > (use is Use.AHEAD or logs_in):
                            lease = self._grant_locked(self._choose_locked(use), use, give_way)
                            spare = room and use is Use.TRANSFER and self._comes_early_locked(lease)
                        elif room and self._needs_one_more_locked(use):
                            self._check_down_locked()
                            others = bool(self._leases or self._grooming)
                            if asked or use is not Use.PREFETCH or not others:
                                self._connecting[use] += 1
                                return None
                            # Whichever session is there first is taken, for what is next in line:
                            # a program that copies waited six round trips for the one file whose
                            # own session was being logged in, while later ones were fetched.
                            spare = asked = True
                        else:
                            # Next time there is one more: the random reads of one program find an
                            # idle session each, while others are groomed.
                            spare = room and use in _TRANSFERS and not self._spares
                            spare = spare and self._may_log_in_locked()
                        self._spares += spare
                    seen = self._version
                    holders = [held.give_way for held in self._leases if held.give_way]
                    if use is Use.AHEAD:
                        holders = []
                if spare:
                    self._log_in_spares(1)
                if lease:
                    return lease
                for ask in holders:
                    ask()
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._version != seen,  # noqa: B023 (called at once)
                        ASK_PAUSE if holders else None,
                    )
        finally:
            with self._changed:
                self._waiting[use] -= 1
                if use is not Use.AHEAD and not self._waiting[use]:
                    self._notify_locked()  # others stood back

    @staticmethod
    def _is_fresh(lease: Lease) -> bool:
        try:
            return lease.session.fresh()
        except BaseException:
            lease.session.drop()
            lease.release()
            raise

    def _notify_locked(self) -> None:
        """Something changed that may let a waiting thread go on."""
        if any(self._waiting.values()):
            self._version += 1
            self._changed.notify_all()

    def _may_start_locked(self, use: Use) -> bool:
        if use is Use.AHEAD:
            others_wait = any(n for u, n in self._waiting.items() if u is not Use.AHEAD)
            return not others_wait and self._under_way_locked(use) < self._cap_now_locked() - 2
        if use not in _TRANSFERS:
            return True
        if self._metadata_waits_locked() and self._total_locked() >= self._cap:
            return False
        cap = self._cap_now_locked()
        if use is Use.UPLOAD and self._under_way_locked(use) >= max(1, cap - 2):
            return False
        return sum(map(self._under_way_locked, _TRANSFERS)) < max(1, cap - 1)

    def _comes_early_locked(self, lease: Lease) -> bool:
        """Whether its data connection is still under way; with one session more it would be there,
        and single reads at random places would take one round trip each instead of three."""
        return lease.session.armed and not lease.session.ready and not self._spares

    def _under_way_locked(self, use: Use) -> int:
        return sum(1 for lease in self._leases if lease.use is use) + self._connecting[use]

    def _in_line_locked(self, use: Use) -> int:
        """How many wait for a session, `use` among them; nobody stands in line behind AHEAD."""
        return sum(n for u, n in self._waiting.items() if u is not Use.AHEAD or u is use)

    def _needs_one_more_locked(self, use: Use) -> bool:
        """Whether who waits for a session is to log in one: more wait than will be there soon."""
        coming = len(self._grooming) + self._spares
        return self._in_line_locked(use) > coming and self._may_log_in_locked()

    def _may_log_in_locked(self) -> bool:
        under_way = sum(self._connecting.values()) + self._spares
        return not under_way or self._is_let_in_locked()

    def _is_let_in_locked(self) -> bool:
        return self._clock() - self._let_in_at < PROVEN

    def _warm_locked(self) -> int:
        """How many sessions to log in now, of those that are wanted; they are on the books then."""
        refused = self._cap < self._configured_cap or self._is_down_locked()
        if self._closed or refused or self._let_in_at == float("-inf"):
            self._wanted = 0
            return 0
        if not self._may_log_in_locked():
            return 0  # that login goes on with it
        missing = max(0, self._wanted - self._total_locked())
        if self._is_let_in_locked():
            self._wanted = 0
        else:
            missing = min(1, missing)
        self._spares += missing
        return missing

    def _metadata_waits_locked(self) -> bool:
        return self._waiting[Use.METADATA] + self._waiting[Use.LISTING] > 0

    def _total_locked(self) -> int:
        here = len(self._idle) + len(self._leases) + len(self._grooming)
        return here + sum(self._connecting.values()) + self._spares

    def _choose_locked(self, use: Use) -> Session:
        """Take the idle session that serves `use` best; for listing ahead the one after that.

        Of equals the one used last: its TCP window is open, others can grow old.
        """
        wants_armed = use is not Use.METADATA
        ranked = sorted(
            range(len(self._idle)),
            key=lambda n: self._rank(self._idle[n], wants_armed, n),
        )
        return self._idle.pop(ranked[-2] if use is Use.AHEAD else ranked[-1])

    @staticmethod
    def _rank(session: Session, wants_armed: bool, n: int) -> tuple[bool, bool, bool, int]:
        return session.settled, session.armed is wants_armed, session.ready is wants_armed, n

    def _grant_locked(
        self, session: Session, use: Use, give_way: Callable[[], None] | None
    ) -> Lease:
        lease = Lease(self, session, use, give_way)
        self._leases.append(lease)
        if give_way:
            self._notify_locked()  # those who wait have somebody to ask
        return lease

    def _connect_one(self, use: Use, give_way: Callable[[], None] | None) -> Lease | None:
        """Connect, for a place taken by `_acquire`; None: the server is full, wait for a place."""
        try:
            try:
                session = self._connect()
            except errors.ConnectionLost as error:
                # Hung up on while logging in: as good as a session that was lost later on.
                log.info("connecting again: %s", error)
                session = self._connect()
        except BaseException as error:
            with self._changed:
                self._connecting[use] -= 1
                self._notify_locked()
                full = isinstance(error, errors.FtpfsError) and self._is_full_locked(error)
                ghost = isinstance(error, errors.ServerBusy) and self._may_be_ghost_locked()
                if isinstance(error, errors.FtpfsError) and not (full or ghost):
                    self._note_down_locked(error)
            if not (full or ghost):
                raise
            if not full:
                self._sleep(GHOST_PAUSE)
            return None
        with self._changed:
            self._connecting[use] -= 1
            self._down_error = None
            self._down_pause = DOWN_PAUSE
            # It was let in: a cap learned from others' failures meanwhile was too low.
            self._cap = max(self._cap, self._total_locked() + 1)
            lease = self._grant_locked(session, use, give_way)
            starting = self._note_let_in_locked()
        self._log_in_spares(starting)
        return lease

    def _note_let_in_locked(self) -> int:
        """A login went well; how many more are to be begun now."""
        self._let_in_at = self._clock()
        self._notify_locked()  # who waited for what comes of it
        return self._warm_locked()

    def _is_full_locked(self, error: errors.FtpfsError) -> bool:
        """Whether the error means "not so many", and if so lower the cap.

        421 says it; 530 can say it, too, and does when the same login was fine before. With no
        session of our own there, nor on its way, it is others who fill the server: then the error
        stands, and nothing was learned about how many we may have.
        """
        full = isinstance(error, errors.ServerBusy) or (
            isinstance(error, errors.LoginFailed) and self._let_in_at > float("-inf")
        )
        ours = self._total_locked()
        if not full:
            return False
        if not ours:
            self._cap = self._configured_cap
            return False
        self._cap = min(self._cap, ours)
        self._cap_until = self._clock() + CAP_MEMORY
        log.info("the server allows no more than %d connections for now: %s", self._cap, error)
        return True

    def _may_be_ghost_locked(self) -> bool:
        """Whether the server may be full of sessions of ours that it has not seen the end of."""
        return self._clock() - self._closed_at < GHOST_TIME

    def _cap_now_locked(self) -> int:
        """How many there may be. Some time after the server refused one, another is tried, and one
        more after each that is let in: a server with a fixed limit refuses one login a minute."""
        if self._cap < self._configured_cap and self._clock() > self._cap_until:
            return self._cap + 1
        return self._cap

    def _check_down_locked(self) -> None:
        if self._down_error and self._is_down_locked():
            raise errors.again(self._down_error)

    def _is_down_locked(self) -> bool:
        return self._down_error is not None and self._clock() < self._down_until

    def _note_down_locked(self, error: errors.FtpfsError) -> None:
        """Those who wait for a place, and who come soon, fail at once with the same error."""
        now = self._clock()
        if self._is_down_locked():
            return  # one of several that were under way together
        self._down_error = error
        self._down_until = now + self._down_pause
        self._down_pause = min(MAX_DOWN_PAUSE, self._down_pause * 2)

    def _take_back(self, lease: Lease) -> None:
        session = lease.session
        with self._changed:
            self._leases.remove(lease)
            groom = not self._closed and session.wants_grooming()
            if groom and self._total_locked() < self._cap:
                self._grooming.append(session)
                keep = True
            else:
                groom = False
                session.used_at = self._clock()
                keep = self._keep_locked(session)
        if groom:
            self._set_to_work(session)
        elif not keep:
            session.close()

    # Grooming.

    def _set_to_work(self, chore: Session | None) -> None:
        """Give a groomer something to do: a session to groom, or (None) a spare one to log in."""
        with self._changed:
            self._chores.append(chore)
            start = self._resting < len(self._chores) and self._groomers < self._configured_cap
            if start:
                self._groomers += 1
            else:
                self._chore.notify()
        if not start:
            return
        try:
            threading.Thread(target=self._groom, name="ftpfs-groomer", daemon=True).start()
        except RuntimeError:  # no more threads: then it is done here
            self._groom(wait=False)

    def _groom(self, *, wait: bool = True) -> None:
        """A groomer's life."""
        while True:
            with self._changed:
                self._resting += 1
                self._chore.wait_for(
                    lambda: self._chores or self._closed, GROOMER_IDLE if wait else 0
                )
                self._resting -= 1
                if not self._chores:
                    self._groomers -= 1
                    return
                chore = self._chores.popleft()
                closed = self._closed
            if chore is not None:
                self._groom_one(chore)
            elif not closed:
                self._log_in_spare()

    def _groom_one(self, session: Session) -> None:
        try:
            with self._changed:
                # A command can be sent on it as soon as it is settled.
                wanted = self._waiting[Use.METADATA] > 0
                closed = self._closed
            if closed:
                session.drop()
            else:
                session.groom(arm=not wanted)
        except BaseException:
            session.drop()
            log.exception("grooming a session failed in a way nobody foresaw")
        with self._changed:
            self._grooming.remove(session)
            keep = self._keep_locked(session)
        if not keep:
            session.close()

    def _log_in_spares(self, count: int) -> None:
        """Have so many sessions logged in that are on the books as spares."""
        for _ in range(count):
            self._set_to_work(None)

    def _log_in_spare(self) -> None:
        """One session more, for when the next transfer would have to wait for one.

        It is armed before anybody gets it: who waits has one that is being groomed, and that is
        there sooner than a data connection would be. Nobody asked for it, so nobody is told when it
        fails.
        """
        session: Session | None = None
        failure: errors.FtpfsError | None = None
        try:
            session = self._connect()
            session.groom_for_transfer()
        except errors.FtpfsError as error:
            log.info("no further connection: %s", error)
            failure = error
        except BaseException:
            log.exception("logging in failed in a way nobody foresaw")
        starting = 0
        with self._changed:
            self._spares -= 1
            if failure is not None:
                full = self._is_full_locked(failure)
                if isinstance(failure, errors.LoginFailed) and not full:
                    self._note_down_locked(failure)  # who waited for what comes of it is told
            keep = session is not None and self._keep_locked(session)
            if session is not None:
                starting = self._note_let_in_locked()
            self._notify_locked()
        self._log_in_spares(starting)
        if session is not None and not keep:
            session.close()

    def _keep_locked(self, session: Session) -> bool:
        """Put a session among the idle ones, where there is place; else the caller closes it."""
        keep = session.alive and not self._closed and self._total_locked() < self._cap
        if keep:
            self._idle.append(session)
        else:
            self._closed_at = self._clock()
        self._notify_locked()
        return keep

    def _drop_idle(self) -> None:
        """A connection broke: those that lay idle beside it have most likely met the same fate."""
        with self._changed:
            idle, self._idle = self._idle, []
            self._notify_locked()
        self._close_all(idle)

    def _close_all(self, sessions: list[Session]) -> None:
        """Close sessions that were taken off the books."""
        if sessions:
            with self._changed:
                self._closed_at = self._clock()
        for session in sessions:
            session.close()
