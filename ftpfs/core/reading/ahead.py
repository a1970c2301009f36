"""Looking ahead: sessions, listings and small files that a program will ask for next.

Owns: the watchers of opens (`prefetch`) and of visits (`walks`), how a small file is fetched ahead,
and how many sessions are warmed up. Does not own the guesses: the watchers make them.

On a short link most of this does nothing, because fetching on demand is as fast there.

Threading: any thread; no lock of its own. The watchers have threads, which `close` ends.
"""

from __future__ import annotations

from collections.abc import Callable

from ftpfs.core.files.looks import Looks
from ftpfs.core.files.server_file import version_of
from ftpfs.core.names.known import KnownNames
from ftpfs.core.names.walks import Walks
from ftpfs.core.reading.blocks import BlockCache
from ftpfs.core.reading.prefetch import Prefetcher
from ftpfs.core.reading.reader import Reader, StreamBudget
from ftpfs.model import link
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.remote import Download, Remote

# Sessions kept ready on a long link while the mount is in use, before anything shows what they will
# be needed for. A login takes four round trips; without ready sessions the first reads waited for
# it. A far link gets twice as many.
FEW_SESSIONS = 4


class LookAhead:
    """What one mount prepares before a program asks for it."""

    def __init__(
        self,
        remote: Remote,
        known: KnownNames,
        looks: Looks,
        blocks: BlockCache,
        budget: StreamBudget,
        *,
        workers: int,
        most_bytes: int,
        open_ttl: float,
        clock: Callable[[], float],
    ) -> None:
        """`workers`: connections that may fetch ahead. `most_bytes`: limit of bytes that were
        fetched ahead and not read yet. `open_ttl`: maximum age of an entry at an open (seconds)."""
        self._remote = remote
        self._known = known
        self._looks = looks
        self._blocks = blocks
        self._budget = budget
        self._open_ttl = open_ttl
        tree = known.tree
        self._walks = Walks(tree.subdirectories, tree.list_ahead, workers=workers, clock=clock)
        self._prefetcher = Prefetcher(
            tree.known,
            self._fetch,
            workers=workers,
            budget=most_bytes,
            expect=lambda: self.warm_up(2 * FEW_SESSIONS),
        )

    def warm_up(self, sessions: int = FEW_SESSIONS) -> None:
        """The mount is in use: if a login takes long, keep some sessions ready."""
        round_trip = self._remote.round_trip()
        if link.is_long(round_trip):
            few = 2 * FEW_SESSIONS if link.is_far(round_trip) else FEW_SESSIONS
            self._remote.warm(max(sessions, few))

    def visited(self, folder: str, *, read: bool) -> None:
        """Tell that a folder is about to be listed (`read`), or that a name in it is looked up."""
        if link.is_long(self._remote.round_trip()):
            self.warm_up()
            self._walks.visited(folder, read=read)

    def listed(self) -> None:
        """Tell that the listing of the visited folder has arrived."""
        self._walks.listed()

    def opened(self, path: str) -> None:
        """Before a file is opened for reading: fetch the files that may be opened next."""
        if link.is_long(self._remote.round_trip()):
            self._prefetcher.opened(path)

    def close(self) -> None:
        """Start no more fetches. Does not wait for fetches under way."""
        self._walks.close()
        self._prefetcher.close()

    def _fetch(self, path: str) -> None:
        """Bring a small file into the block cache.

        If its listing will soon be too old for an open, the same write asks the server whether the
        file is unchanged. Then the open need not ask again. Without that, `cp -r` over a link of
        100 ms reached most files of a folder when their listing was too old, and paid a round trip
        for each.
        """
        tree = self._known.tree
        generation = self._known.generations.of(path)
        entry = tree.lookup(path)
        if entry.kind is not Kind.FILE or entry.size is None:
            return
        version = version_of(path, entry, generation)
        old = tree.age(path) > self._open_ttl / 2
        expect = entry if old or self._blocks.outlives_mount else None
        confirmed = False

        def fetch(offset: int, give_way: Callable[[], None]) -> Download:
            nonlocal confirmed
            download = self._remote.open_read(
                path, offset, give_way=give_way, expect=expect, ahead=True
            )
            confirmed = download.confirmed
            return download

        def look() -> Entry:
            reader = Reader(version, fetch, self._blocks, self._budget)
            try:
                reader.read(0, version.size)
            finally:
                reader.close()
            return entry if confirmed or not old else self._looks.measured(path, entry)

        if old:
            tree.look_again(path, look)
        else:
            look()
