"""Offline: a mount that goes on with what is stored while its server is away.

Owns what the option `offline` means at the start of a mount. The parts are in `core.store`.

Threading: one thread, before the mount begins.
"""

from __future__ import annotations

import time

from ftpfs import errors
from ftpfs.core.offline.replay import TRIES, Replay
from ftpfs.core.offline.steps import StepRows
from ftpfs.core.offline.waiting import Waiting
from ftpfs.core.store.listings import StoredListings
from ftpfs.core.store.presence import Presence
from ftpfs.core.store.remembering import RememberingRemote
from ftpfs.core.writing.journal import Journal
from ftpfs.ftp.remote import Remote
from ftpfs.model import remote as model
from ftpfs.settings.config import Config

# Pause between two attempts to carry out what waits, at the start of a mount (seconds).
RETRY_SECONDS = 1.0


class Offline:
    """One server, as a mount sees it that may go on without it.

    - `server`: what the file system calls. Without stored listings it is the `remote` itself.
    - `waiting`: changes of names that wait for the server, of this mount or an earlier one.
    - `leave_after`: how long the unmounted file system waits for the server (seconds).
    """

    def __init__(
        self, remote: Remote, config: Config, listings: StoredListings | None, journal: Journal
    ) -> None:
        """`listings`: what is stored of the server's names; None: there is no store.

        Raises FtpfsError if the journal cannot be read.
        """
        self._mode = config.cache.offline
        self._source = str(config.server)
        self._listings = listings
        self.remote = remote
        self.presence = Presence(
            remote.connect,
            lambda: self._mode != "never" and remote.is_away(),
            seeks=self._mode != "always",
        )
        self.waiting = Waiting(StepRows(journal), listings, self.presence)
        self._replay = Replay(remote, self.waiting)
        self.presence.catch_up = self._catch_up
        self.server: model.Remote = remote
        if listings is not None:
            self.server = RememberingRemote(remote, listings, self.presence, self.waiting)
        self.leave_after = 0.0 if self._mode == "always" else config.mount.leave_after

    def connect(self) -> str:
        """Log in. Returns a line for the user if the mount goes on without its server, else "".

        Raises what the server said, and what went wrong in the network if nothing is stored.
        """
        seen = self._listings.told_at("/") if self._listings is not None else None
        if self._mode == "always":
            if seen is None:
                raise errors.Offline(
                    f"offline=always, and nothing of {self._source} is stored here: mount it once "
                    "with cache_size and without offline"
                )
            self.presence.leave("offline=always")
            return self._note("offline=always", seen)
        try:
            self.remote.connect()
        except errors.NetworkError as error:
            if seen is not None:
                self.presence.note_failure(error)
            if not self.presence.is_away:
                raise
            return self._note(str(error), seen or 0.0)
        if self.waiting.count:
            if seen is not None and self._mode == "auto":
                self.presence.begin_behind()
            else:
                self._replay_now()
        return ""

    def _catch_up(self, lets_in: bool) -> bool:
        return self._replay.run() if lets_in else self.waiting.finish()

    def _replay_now(self) -> None:
        """Carry out what waits, before anything is shown."""
        for tries in range(1, TRIES + 1):
            if self._replay.run():
                return
            if tries < TRIES:
                time.sleep(RETRY_SECONDS)
        raise errors.ConnectionLost(
            f"{self.waiting.count} changes of names that were made while the server was away are "
            f"not done yet: {self._replay.why}"
        )

    def _note(self, why: str, seen: float) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(seen))
        return f"offline, with what is stored since {when}: {why}"

    def close(self) -> None:
        """End the replay, and write what is still to be stored."""
        self._replay.close()
        if self._listings is not None:
            self._listings.close()
