"""The server's file below an open file: which content it is, where it is, and how it is read.

Owns the entry and the version of that file, the name that it has on the server now, its reader,
when the server is asked about it again, and which content each handle began with (`View`). Does not
know what was written here, nor when that is uploaded.

Threading: `changed` is the open file's own condition and guards everything. `..._locked` methods
expect it. Nothing is fetched or closed under it: a caller that takes a reader out closes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ftpfs import errors
from ftpfs.core.reading.blocks import BLOCK_SIZE, BlockCache, Version
from ftpfs.core.reading.overrun import Overrun
from ftpfs.core.reading.reader import Reader, StreamBudget
from ftpfs.core.writing.samples import Sample
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Download, Remote

PAGE_BYTES = 4096  # the kernel's page size (bytes)
# One handle's reads that are under way at the same time lie within this range (bytes): what the
# kernel reads ahead.
UNDER_WAY_BYTES = 1 << 20
# Samples of one change in place and of those before it.
MOST_SAMPLES = 12


class Epoch(NamedTuple):
    """How often others have changed a file's content: made it longer, and in any other way."""

    others: int
    growths: int


class View:
    """The content of a file that a handle reads. Guarded by the file's `changed`.

    - `size`: up to here (bytes) it is the content that the handle began with, or one that it has
      read since.
    """

    __slots__ = ("growths", "others", "size")

    def __init__(self) -> None:
        self.others = self.growths = self.size = 0


class ServerFile:
    """What the server has of a file, and the reader of that content."""

    def __init__(
        self,
        path: str,
        entry: Entry | None,
        generation: int,
        changed: threading.Condition,
        *,
        remote: Remote,
        cache: BlockCache,
        budget: StreamBudget,
    ) -> None:
        """`entry`: None if the server has no such file yet."""
        self._remote = remote
        self._cache = cache
        self._budget = budget
        self._changed = changed
        # Guarded by `changed`:
        self.entry = entry
        # The version keeps the name under which the file was opened, also after a rename: another
        # file may have left its blocks in the cache under the new name.
        self.version = version_of(path, entry, generation)
        self.path = path  # where the file is on the server now
        # A rename is under way. A fetch that does not find the file waits for the rename's end.
        self.moving = False
        self.is_gone = False  # it was deleted or replaced: another file may have its name
        # Set while the server's file may be between two contents: what patches have begun to write.
        self.patching: tuple[Sample, ...] = ()
        # The entry that is read while a conflict is resolved. An upload must not replace it.
        self.foreign: Entry | None = None
        # How often the file got another content on the server: a longer one, and any other.
        self._growths = self._others = 0
        self._joined = 0  # how often what was written here was joined to another one
        self._reader: Reader | None = None
        self._overrun = Overrun()  # of the present version
        # Times of time.monotonic():
        self.followed_at = float("-inf")  # when the server was asked for what is followed
        self.read_until = 0.0  # until then a program counts as reading the file
        self._next_look = 0.0

    def overwrite_samples_locked(self, offset: int, data: bytes | memoryview) -> None:
        """Note that a program wrote `data` while a change in place is sent, which may send it, too.

        Where `data` lies over a sample, the server may have either from now on.
        """
        written = offset, offset + len(data)
        for start, sample in self.patching:
            first, last = max(start, written[0]), min(start + len(sample), written[1])
            if first < last:
                head, tail = sample[: first - start], sample[last - start :]
                now = start, head + bytes(data[first - offset : last - offset]) + tail
                if now not in self.patching:
                    self.patching = (*self.patching, now)[-MOST_SAMPLES:]

    def is_due_for_a_look_locked(self) -> bool:
        """Whether the server should be asked now what it has; for one caller alone.

        Not while the file is read before its end: on libfuse 3 the kernel asks for the size of what
        it reads each second, and a program that reads a long file would wait as often.
        """
        if time.monotonic() < max(self.read_until, self._next_look):
            return False
        self._next_look = float("inf")
        return True

    def look_no_more_for_locked(self, seconds: float) -> None:
        """Put the next look off, after the server was asked, or could not be."""
        self._next_look = time.monotonic() + seconds

    def reader_locked(self) -> Reader:
        """The reader of this version, made when it is first needed."""
        if self._reader is None:
            fetch = partial(self._fetch, self.version)
            self._reader = Reader(self.version, fetch, self._cache, self._budget, self._overrun)
        return self._reader

    def is_read_by_locked(self, reader: Reader) -> bool:
        """Whether `reader` is still the reader of this file."""
        return self._reader is reader

    def take_reader_locked(self) -> Reader | None:
        """Take the reader out, if there is one. The caller closes it; the next read makes one."""
        reader, self._reader = self._reader, None
        return reader

    def become_locked(self, entry: Entry | None, version: Version) -> Reader | None:
        """Note what the server has now.

        Returns the reader of the old content; the caller closes it.
        """
        self.entry, self.version = entry, version
        self._overrun = Overrun()
        return self.take_reader_locked()

    def follow_locked(self, entry: Entry, version: Version) -> Reader | None:
        """Like `become_locked`, after a change by others. Open handles may have to hear of it."""
        if version.size > self.version.size:
            self._growths += 1
        else:
            self._others += 1
        overrun = Overrun(self._overrun.read)
        reader = self.become_locked(entry, version)
        self._overrun = overrun
        return reader

    def joined_locked(self) -> None:
        """What was written here was joined to another content of the server."""
        self._joined += 1

    def epoch_locked(self) -> Epoch:
        """Tells whether others have changed the content since."""
        return Epoch(self._others + self._joined, self._growths)

    def begin_locked(self, view: View, size: int) -> None:
        """Note the content with which a new handle begins; the file has `size` bytes."""
        view.others, view.growths, view.size = self._others, self._growths, size

    def look_locked(self, view: View, offset: int) -> None:
        """Check that a handle may read at `offset`. Raises Changed if it may not.

        A handle may read on in the content that it began with, and from where that content ended: a
        program that follows a growing log reads on. The boundary is a page, because the kernel asks
        for whole pages. While what has grown is read, in several pieces at once, the file may grow
        again.
        """
        is_behind = view.growths != self._growths
        within = offset // PAGE_BYTES < view.size // PAGE_BYTES
        if view.others != self._others or (is_behind and within):
            raise errors.Changed(f"{self.path}: changed on the server while it was read")
        if is_behind:
            view.growths = self._growths
            view.size = max(view.size, offset - UNDER_WAY_BYTES)

    def is_other_on_server(self) -> bool:
        """Ask the server whether it has another content under this name than the known one.

        After a patch of this mount broke off, the file may be between two contents. That does not
        count as another one.
        """
        with self._changed:
            if self.patching:
                return False
            known, path = self.entry, self.path
        return known is None or is_other_content(known, self._remote.stat(path))

    def _fetch(self, version: Version, offset: int, give_way: Callable[[], None]) -> Download:
        """How the reader of `version` gets bytes: under the name that the file has at that time.

        If a content arrives in several pieces, all of them have to be of one content, and some may
        have been read earlier. A block in the store must belong to its version even a year
        later. So with a store, a single piece is checked, too.
        """
        while True:
            with self._changed:
                if version != self.version:  # this reader was replaced
                    raise errors.Changed(f"{self.path}: changed on the server while it was read")
                if self.is_gone:
                    raise errors.Changed(f"{self.path}: was replaced or deleted while it was read")
                path = self.path
                # While this mount changes the file in place, its time proves nothing.
                whole = self.version.size <= BLOCK_SIZE and not self._cache.outlives_mount
                known = None if self.patching else self.entry
                expect = None if whole else self.foreign or known
            try:
                return self._remote.open_read(path, offset, give_way=give_way, expect=expect)
            except errors.NotFound:
                with self._changed:
                    while self.moving and self.path == path:
                        self._changed.wait()
                    if self.path == path:
                        raise


def version_of(path: str, entry: Entry | None, generation: int) -> Version:
    """The version for `entry`; without an entry, that of an empty file."""
    size = (entry.size or 0) if entry else 0
    if entry is None:
        return Version(path, size, None, generation)
    return Version(path, size, entry.mtime, generation, entry.exact)


def is_other_content(known: Entry, seen: Entry) -> bool:
    """Whether two entries of a file show different contents.

    Times are compared only if both have the same precision: LIST has minutes, MDTM seconds.
    """
    if known.size != seen.size:
        return True
    return known.exact == seen.exact and known.mtime != seen.mtime
