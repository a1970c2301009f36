"""The limit: how many connections the server allows, configured, told, or learned from failures.

If another connection fails while sessions live, the server has a limit. Servers say so by 421 or
530, by a reset, or not at all: devices that serve one client leave others without an answer, and
firewalls drop the packets.

The limit holds for all processes of this user together (`neighbours`), so each leaves the others an
equal share. After a while one more connection is tried. The profile stores the limit for the next
mounts. If the limit is three or more, one place is left to other programs.

Threading: none of its own; the pool's lock guards it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ftpfs import errors
from ftpfs.ftp.connections.neighbours import Neighbour
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile

log = logging.getLogger(__name__)

# How long a limit is believed. To test it costs a refused login; not to test it costs speed,
# because the refusal may have counted sessions that were already closed here. If the server gave no
# reason, each failed test doubles the time.
LIMIT_SECONDS, MAX_LIMIT_SECONDS = 60.0, 3600.0
# From this limit on, one connection is left to other programs.
SHARED_FROM = 3
# If the server has a limit, idle sessions are closed after this time, because other programs may
# need the place.
SHARED_IDLE_SECONDS = 5.0


class ConnectionLimit:
    """The limit, the other processes that share it, and the cap that follows from both.

    `others`: other processes of this user at this server. `was_refused`: the server refused a
    connection to this process, so the limit is not only remembered. `told`: a reply said so; if
    not, the network may have been the cause.
    """

    def __init__(self, configured: int, profile: Profile, now: float) -> None:
        """`configured`: the user's option. `now`: seconds, here and in all calls."""
        self.configured = configured
        self.others: tuple[Neighbour, ...] = ()
        self.was_refused = False
        self.told = False
        self._profile = profile
        self._limit: int | None = profile.wire.connections  # None: the server has refused none
        self._until = now + LIMIT_SECONDS
        self._lasts = LIMIT_SECONDS

    @property
    def allowed(self) -> int | None:
        """How many connections the server is known to allow; None: it refused none."""
        return self._limit

    @property
    def is_shared(self) -> bool:
        """Whether the limit leaves a place to other programs."""
        return self._limit is not None and self._limit >= SHARED_FROM

    def cap(self) -> int:
        """How many connections there should be at most."""
        if self._limit is None:
            return self.configured
        together = self._limit - self.is_shared
        # This process may use what others leave of their share. What they hold beyond it they will
        # give back.
        share = max(1, together // (1 + len(self.others)))
        theirs = sum(min(share, other.connections) for other in self.others)
        return min(self.configured, max(share, together - theirs))

    def cap_now(self, now: float) -> int:
        """How many connections there may be now, including a test of the limit.

        Some time after a refusal one more is tried, and another one after each success. So a server
        with a fixed limit refuses one login a minute.
        """
        if self._limit is not None and now > self._until:
            room = max(self.cap(), self._limit - self._others_hold())
            return min(self.configured, room + 1)
        return self.cap()

    def note_failed_login(
        self, error: errors.FtpfsError, *, ours: int, living: int, was_let_in: bool, now: float
    ) -> bool:
        """Whether a failed login means "not so many connections"; if so, learn the limit.

        421 means that. 530 may, too, and does if the same login succeeded before. While a session
        lives, any failure means it. If this process has no session there (`living`) and no login
        under way (`ours`), others fill the server: the error stands, and shows no limit.
        """
        told = isinstance(error, errors.ServerBusy) or (
            isinstance(error, errors.LoginFailed) and was_let_in
        )
        if not ours and (told or not self.told):
            self.forget()
        if not ours or not (told or living):
            return False
        if told or now > self._until or self._limit is None:
            tried_again = self._limit is not None and not told
            self._lasts = min(2 * self._lasts, MAX_LIMIT_SECONDS) if tried_again else LIMIT_SECONDS
            self._until = now + self._lasts
        seen = ours + self._others_hold()
        self._limit = self._profile.wire.connections = min(self._limit or seen, seen)
        self.told, self.was_refused = told, True
        told_others = "".join(f"; {other.line()}" for other in self.others)
        log.info(
            "the server allows no more than %d connections for now: %s%s",
            *(self._limit, error, told_others),
        )
        return True

    def note_let_in(self, count: int) -> None:
        """The server accepted `count` sessions at once, so a lower limit was wrong.

        Such a limit comes from failures that other processes caused meanwhile.
        """
        seen = count + self._others_hold()
        if self._limit is not None and seen > self._limit:
            self._limit = self._profile.wire.connections = seen
            if count >= self.configured:
                self.forget()

    def outdated(
        self, idle: Sequence[Session], living: int, timeout: float, now: float
    ) -> list[Session]:
        """The idle sessions to close, out of `living` ones in all.

        If the server has a limit, idle sessions take places from others. One may stay if others
        have a place, too.
        """
        if self._limit is None:
            return [s for s in idle if now - s.used_at > timeout]
        beyond = max(0, living - self.cap())
        if self.others and beyond:
            return sorted(idle, key=lambda s: s.used_at)[:beyond]
        latest = max(idle, key=lambda s: s.used_at, default=None)
        stays = latest if self.is_shared else None
        shared = min(timeout, SHARED_IDLE_SECONDS)
        return [s for s in idle if now - s.used_at > (timeout if s is stays else shared)]

    def forget(self) -> None:
        self._limit = self._profile.wire.connections = None
        self._lasts = LIMIT_SECONDS
        self.was_refused = False

    def _others_hold(self) -> int:
        return sum(other.connections for other in self.others)
