"""Brings the blocks of one content from the server into the store.

Owns which blocks are asked for, and what is repeated after a break. It reads the server directly,
and not as programs do: through the block cache, a kept tree would evict all that programs read.

**Which content arrives.** The question for size and time travels with the request for the bytes. If
the server has another content by then, it raises Changed. If the file changes later, in the middle
of the transfer, the blocks are mixed. That shows only afterwards: `look` lists the folder again.

Threading: one content a thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ftpfs import errors
from ftpfs.core.reading.blocks import BLOCK_SIZE, Version
from ftpfs.core.store.store import Store
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Download, Remote

# Reading pauses while so many bytes wait for the disk, for this time at most (s).
MOST_QUEUED_BYTES, DISK_SECONDS = 16 << 20, 60.0
# Broken transfers in a row without a block of progress, before the file counts as failed.
ATTEMPTS = 3
# Blocks that are here, between others that are not, are fetched again up to this many: a new
# transfer costs more.
MOST_SKIPPED = 32
# While others wait for a connection, a transfer keeps its own for at least this time (s). If they
# may be transfers of the same look, the second one: they would interrupt each other all the time.
MIN_RUN_SECONDS, MIN_RUN_AMONG_OURS_SECONDS = 0.25, 2.0


class Stopped(Exception):
    """The transfer was told to end."""


class Fetching:
    """One content on its way into the store."""

    def __init__(
        self,
        remote: Remote,
        store: Store,
        version: Version,
        entry: Entry,
        *,
        in_line: set[int],
        stops: Callable[[], bool],
        advance: Callable[[int], None],
    ) -> None:
        """`in_line`: the threads of this look that wait for a connection; shared, and changed in
        single steps. `stops()`: whether to end. `advance(bytes)` is called for each block.
        """
        self._remote = remote
        self._store = store
        self._version = version
        self._entry = entry
        self._in_line = in_line
        self._stops = stops
        self._advance = advance
        self._restarts = True  # False: the server cannot start in the middle of a file

    def run(self, absent: Sequence[int]) -> None:
        """Put these blocks (sorted) into the store.

        Raises Changed and DataMismatch if the server has another content, Stopped, and what the
        network raises.
        """
        for first, last in _runs(absent):
            wanted = {index for index in absent if first <= index <= last}
            self._bring(first, last, wanted)

    def _bring(self, first: int, last: int, wanted: set[int]) -> None:
        failures = 0
        while first <= last:
            before = first
            try:
                for index in self._transfer(first, last, wanted):
                    first = index + 1
            except (errors.ConnectionLost, errors.DataConnectionFailed):
                failures = 1 if first > before else failures + 1
                if failures == ATTEMPTS:
                    raise
            except errors.NotSupported:
                if not self._restarts or not first:
                    raise
                self._restarts = False
            else:
                failures = 0

    def _transfer(self, first: int, last: int, wanted: set[int]) -> Iterator[int]:
        """Blocks `first` to `last`, from one transfer. It may end early, if others need it."""
        yields_at = float("inf")  # time.monotonic(): when to return the connection
        begun = time.monotonic()

        def give_way() -> None:
            nonlocal yields_at
            among_ours = bool(self._in_line)
            yields_at = begun + (MIN_RUN_AMONG_OURS_SECONDS if among_ours else MIN_RUN_SECONDS)

        start = first if self._restarts else 0
        self._in_line.add(threading.get_ident())
        try:
            download = self._remote.open_read(
                self._version.path,
                start * BLOCK_SIZE,
                give_way=give_way,
                expect=self._entry,
                ahead=True,
            )
        finally:
            self._in_line.discard(threading.get_ident())
        begun = time.monotonic()
        try:
            for index in range(start, last + 1):
                block = self._next(download, index)
                if index < first:
                    continue
                if index in wanted:
                    self._store.put(self._version, index, block)
                    self._advance(len(block))
                if (index + 1) * BLOCK_SIZE >= self._version.size:
                    self._end(download)
                yield index
                if self._restarts and time.monotonic() > yields_at:
                    return
        finally:
            download.close()

    def _next(self, download: Download, index: int) -> bytes:
        if self._stops():
            raise Stopped
        self._store.wait_for_room(MOST_QUEUED_BYTES, DISK_SECONDS)
        size = min(BLOCK_SIZE, self._version.size - index * BLOCK_SIZE)
        block = download.read(size)
        if len(block) < size:
            raise errors.DataMismatch(
                f"{self._version.path}: ended at {index * BLOCK_SIZE + len(block)} of "
                f"{self._version.size} bytes: cut short, or changed on the server"
            )
        return block

    def _end(self, download: Download) -> None:
        """After the last byte: more bytes mean another content.

        Any other error of the server comes too late to matter: every promised byte has arrived.
        """
        if not download.confirmed and download.goes_on():
            path = self._version.path
            raise errors.Changed(f"{path}: is longer now; it was changed on the server")
        with contextlib.suppress(errors.FtpfsError):
            download.finish()


def _runs(absent: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and last block of each transfer."""
    first = before = absent[0]
    for index in absent[1:]:
        if index - before > MOST_SKIPPED:
            yield first, before
            first = index
        before = index
    yield first, before
