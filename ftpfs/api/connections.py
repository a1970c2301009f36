"""Connections: the servers that Python programs of this process use.

fsspec makes a file system for each thread. All of them with equal settings share one `Connection`:
a pool of sessions, the listings, and the blocks of the files that are read. So a program that reads
with forty threads logs in as often as the option `max_connections` says, and a wrong password is
tried once.

A child process that was forked begins with none: it must not speak on its parent's sockets.

Threading: any thread. `Rank.CONNECTIONS` guards the table, `Rank.CONNECTING` a first login.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ftpfs import errors
from ftpfs.api.listings import Listings
from ftpfs.core.reading.blocks import BlockCache, Version
from ftpfs.core.reading.reader import Reader, StreamBudget
from ftpfs.daemon import places
from ftpfs.ftp.connections.neighbours import Neighbours
from ftpfs.ftp.memory import Memory
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.remote import Download
from ftpfs.settings.config import Config

log = logging.getLogger(__name__)

T = TypeVar("T")

# How often idle sessions are looked at, as in a mount.
TIDY_SECONDS = 5.0
# How long to wait for a session while other processes of this user hold all that the server allows.
# They give theirs back seconds after they were used last.
PATIENCE_SECONDS, PAUSE_SECONDS = 120.0, 0.5
# How long a server may count the sessions of a process that has ended, as in `connections.health`.
GHOST_SECONDS = 5.0


class Connection:
    """One server with one login, for all threads of this process.

    - `threads`: how many of them may work for one call.
    - `welcome`: the server's greeting, after `opened`.
    """

    def __init__(self, config: Config) -> None:
        self.threads = config.network.max_connections
        self.listings = Listings()
        self.welcome = ""
        what = f"Python, {os.path.basename(sys.argv[0] or 'interactive')}"
        self._remote = Remote(
            config.server,
            config.network,
            memory=Memory(places.profile_file(config)),
            neighbours=Neighbours(places.neighbours_folder(config.server), what),
        )
        self._blocks = BlockCache(config.cache.block_cache)
        self._budget = StreamBudget(
            config.cache.block_cache,
            config.cache.read_ahead,
            helped=max(1, self.threads // 2),
            round_trip=self._remote.round_trip,
        )
        self._generations = itertools.count(1)
        self._connecting = ranked_lock(Rank.CONNECTING)
        self._is_open = False
        # The last failure of `opened`, and when it came. Guarded by `_connecting`.
        self._failure: tuple[float, errors.FtpfsError] | None = None

    def run(self, work: Callable[[Remote], T]) -> T:
        """Do `work` on the server, after a first login.

        If other processes of this user hold all connections that the server allows, wait for one.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        others_left = float("-inf")  # when others were seen last
        while True:
            try:
                return work(self._opened())
            except (errors.ServerBusy, errors.LoginFailed) as error:
                # Many servers say 530 for "too many", too, as they do for a wrong password. One
                # that has let us in is right.
                may_pass = isinstance(error, errors.ServerBusy) or self._is_open
                now = time.monotonic()
                if self._remote.status().others:
                    others_left = now
                if not may_pass or now > min(until, others_left + GHOST_SECONDS):
                    raise
                log.info("waiting for a connection: %s", error)
                time.sleep(PAUSE_SECONDS)

    def reader(self, path: str, entry: Entry) -> Reader:
        """A reader of the file `entry`; the caller closes it.

        Readers of one content share its blocks, if the server tells times to the second.
        """
        generation = 0 if entry.exact else next(self._generations)
        version = Version(path, entry.size or 0, entry.mtime, generation, entry.exact)
        fetch = partial(self._fetch, path, entry)
        return Reader(version, fetch, self._blocks, self._budget)

    def tidy(self) -> None:
        """Housekeeping, to be called every few seconds."""
        if self._is_open:
            self._remote.tidy()

    def close(self) -> None:
        self._remote.close()

    def _opened(self) -> Remote:
        """The server, logged in once. Threads that wait for the first login share its failure."""
        if self._is_open:
            return self._remote
        asked_at = time.monotonic()
        with self._connecting:
            if self._failure is not None and self._failure[0] > asked_at:
                raise errors.again(self._failure[1])
            if not self._is_open:
                try:
                    self.welcome = self._remote.connect()
                except errors.FtpfsError as error:
                    self._failure = time.monotonic(), errors.again(error)
                    raise
                self._is_open = True
        return self._remote

    def _fetch(
        self, path: str, entry: Entry, offset: int, give_way: Callable[[], None]
    ) -> Download:
        return self.run(
            lambda remote: remote.open_read(path, offset, give_way=give_way, expect=entry)
        )


class Connections:
    """The connections of one process, by their settings."""

    def __init__(self) -> None:
        self._lock = ranked_lock(Rank.CONNECTIONS)
        # Guarded by _lock:
        self._known: dict[Config, Connection] = {}
        self._tidier: threading.Thread | None = None

    def to(self, config: Config) -> Connection:
        with self._lock:
            known = self._known.get(config)
        if known is not None:
            return known
        made = Connection(config)
        starting: threading.Thread | None = None
        with self._lock:
            kept = self._known.setdefault(config, made)
            if self._tidier is None:
                starting = self._tidier = threading.Thread(
                    target=self._tidy, name="ftpfs-tidy", daemon=True
                )
        if starting is not None:
            starting.start()
        return kept

    def drop(self, config: Config) -> None:
        """Close the connection with these settings; the next use makes another one."""
        with self._lock:
            known = self._known.pop(config, None)
        if known is not None:
            known.close()

    def close(self) -> None:
        with self._lock:
            known, self._known = list(self._known.values()), {}
        for each in known:
            each.close()

    def _tidy(self) -> None:
        while True:
            time.sleep(TIDY_SECONDS)
            with self._lock:
                known = list(self._known.values())
            for each in known:
                try:
                    each.tidy()
                except Exception:
                    log.exception("housekeeping failed: unexpected error")


here = Connections()


def _begin_anew() -> None:
    """In a child of `fork`: leave the parent's sockets alone."""
    global here
    here = Connections()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(lambda: here.close())
