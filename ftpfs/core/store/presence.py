"""Presence: whether a mount asks its server, or goes on with what is stored while it is away.

    HERE --- no login succeeds, and no session is left ---> AWAY
    AWAY --- a login succeeds, or is refused by the server ---> HERE

Changes of names may wait (`core.offline`). Then a login that succeeds is not enough: the server is
AWAY until `catch_up` has carried them out.

While the server is away, nothing else asks the network: a call that needs the server fails at once,
and does not wait for a deadline of its own. One thread of this class tries to log in, with growing
pauses. A mount that shall ask the network for nothing has no such thread, and stays AWAY.

Threading: any. `_lock` (Rank.PRESENCE) guards the change; `since` may be read without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ftpfs import errors
from ftpfs.model.locks import Rank, ranked_lock

log = logging.getLogger(__name__)

# Pause before the first attempt to reach the server again, doubled up to the second value (s).
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0


class Presence:
    """Whether one server is here."""

    def __init__(
        self,
        reach: Callable[[], object],
        has_gone: Callable[[], bool],
        *,
        seeks: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`reach()` logs in, or raises.

        `has_gone()`: whether no session is left, and none can be had because nothing answers.
        `seeks`: look for a server that is away.
        """
        self._reach = reach
        self._has_gone = has_gone
        self._seeks = seeks
        self._clock = clock
        self._lock = ranked_lock(Rank.PRESENCE)
        self._is_ended = False
        self._woken = threading.Event()  # a try is due, or this has ended
        self.since: float | None = None  # since when it is away (seconds since the epoch)
        # Called when the server is back, in a thread of its own, with no lock held.
        self.returned: Callable[[], None] = lambda: None
        # Does what has to be done before the server counts as here, and then calls `arrive`. The
        # argument: whether a login has succeeded; else the server has refused it. False: try again
        # later.
        self.catch_up: Callable[[bool], bool] = lambda _lets_in: self.arrive()

    @property
    def is_away(self) -> bool:
        return self.since is not None

    def note_failure(self, error: errors.NetworkError) -> None:
        """A call failed: is the server away?"""
        if self._has_gone():
            self.leave(str(error))

    def leave(self, why: str, *, level: int = logging.WARNING) -> None:
        """The server is away."""
        with self._lock:
            if self.since is not None or self._is_ended:
                return
            self.since = self._clock()
        log.log(level, "the server is away, what is stored is shown: %s", why)
        self._start(FIRST_PAUSE_SECONDS)

    def begin_behind(self) -> None:
        """The server is here, but has to wait for `catch_up`, which begins at once."""
        with self._lock:
            self.since = self._clock()
        self._start(0.0)

    def arrive(self) -> bool:
        """The server is here. From now on it may be found away again. Returns True."""
        with self._lock:
            self.since = None
        return True

    def hurry(self) -> None:
        """Look for the server now."""
        self._woken.set()

    def close(self) -> None:
        """Look for the server no more."""
        with self._lock:
            self._is_ended = True
        self._woken.set()

    def _start(self, pause: float) -> None:
        if self._seeks:
            args = (pause,)
            threading.Thread(target=self._seek, args=args, name="ftpfs-seeker", daemon=True).start()

    def _seek(self, pause: float) -> None:
        was_in = False
        while True:
            self._woken.wait(pause)
            self._woken.clear()
            if self._is_ended:
                return
            lets_in = self._lets_in()
            if lets_in is not None and self._catches_up(lets_in):
                self.returned()
                return
            pause = min(max(pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            if lets_in and not was_in:
                pause = FIRST_PAUSE_SECONDS
            was_in = bool(lets_in)

    def _catches_up(self, lets_in: bool) -> bool:
        try:
            return self.catch_up(lets_in)
        except Exception:  # the server is sought again
            log.exception("what waits for the server is not done: unexpected error")
            return False

    def _lets_in(self) -> bool | None:
        """Try to log in. False: the server is there, and refuses; None: it is away."""
        try:
            self._reach()
        except errors.ServerBusy as error:
            log.warning("the server is back: %s", error)
            return False
        except errors.NetworkError as error:
            log.debug("the server is still away: %s", error)
            return None
        except errors.FtpfsError as error:
            log.warning("the server is back: %s", error)
            return False
        log.info("the server is back")
        return True
