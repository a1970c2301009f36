"""Presence: whether a mount asks its server, or goes on with what is stored while it is away.

    HERE --- no login succeeds, and no session is left ---> AWAY
    AWAY --- a login succeeds, or is refused by the server ---> HERE

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
        self._ended = threading.Event()
        self.since: float | None = None  # since when it is away (seconds since the epoch)
        # Called when the server is back, in a thread of its own, with no lock held.
        self.returned: Callable[[], None] = lambda: None

    @property
    def is_away(self) -> bool:
        return self.since is not None

    def note_failure(self, error: errors.NetworkError) -> None:
        """A call failed: is the server away?"""
        if self._has_gone():
            self.leave(str(error))

    def leave(self, why: str) -> None:
        """The server is away."""
        with self._lock:
            if self.since is not None or self._ended.is_set():
                return
            self.since = self._clock()
        log.warning("the server is away, what is stored is shown: %s", why)
        if self._seeks:
            threading.Thread(target=self._seek, name="ftpfs-seeker", daemon=True).start()

    def close(self) -> None:
        """Look for the server no more."""
        self._ended.set()

    def _seek(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._ended.wait(pause):
            try:
                self._reach()
            except errors.ServerBusy as error:
                log.warning("the server is back: %s", error)
            except errors.NetworkError as error:
                log.debug("the server is still away: %s", error)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            except errors.FtpfsError as error:
                log.warning("the server is back: %s", error)
            else:
                log.info("the server is back")
            with self._lock:
                self.since = None
            self.returned()
            return
