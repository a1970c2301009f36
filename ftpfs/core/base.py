"""The server's file below an open one: which content it is, where it lies, and how it is read.

Owns: what is known of it (`entry`, `version`), the name that it has on the server by now, the
reader of it, and which of its contents each handle began with (`View`). Does not know what was
written here, nor what becomes of that.

Threading: `changed` is the file's own condition, and guards everything; `..._locked` is called with
it held. Nothing is fetched or closed under it: a reader that is taken out is closed by who took it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from ftpfs import errors
from ftpfs.core.blocks import BLOCK_SIZE, BlockCache, Version
from ftpfs.core.journal import Sample
from ftpfs.core.reader import Reader, StreamBudget
from ftpfs.core.remote import Download, Remote
from ftpfs.ftp.listing import Entry

PAGE = 4096  # the kernel's


class View:
    """Which content of a file a handle reads. Guarded by the file's `changed`."""

    __slots__ = ("growths", "others", "size")

    def __init__(self) -> None:
        self.others = self.growths = self.size = 0


class Base:
    """What the server has of a file, and a reader of that."""

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
        """`entry`: None where it is not there yet."""
        self._remote = remote
        self._cache = cache
        self._budget = budget
        self._changed = changed
        # Guarded by `changed`:
        self.entry = entry
        # Which content it is. The name it was opened under, whatever it is called later: by then
        # another file may have left its blocks in the cache under the new name.
        self.version = version_of(path, entry, generation)
        self.path = path  # where it is on the server now
        self.moving = False  # it may go elsewhere; who does not find it waits for the end of that
        # It may be between two contents: what patches had begun to put there.
        self.patching: tuple[Sample, ...] = ()
        # What is read while a conflict is settled: not what may be replaced.
        self.foreign: Entry | None = None
        # How often it became another content: a longer one, and any other.
        self._growths = self._others = 0
        self._reader: Reader | None = None

    def reader_locked(self) -> Reader:
        """Made when first needed."""
        if self._reader is None:
            fetch = partial(self._fetch, self.version)
            self._reader = Reader(self.version, fetch, self._cache, self._budget)
        return self._reader

    def is_read_by_locked(self, reader: Reader) -> bool:
        """Whether `reader` was not taken out since."""
        return self._reader is reader

    def take_reader_locked(self) -> Reader | None:
        """For the caller to close, if there is one; the next read has a new one."""
        reader, self._reader = self._reader, None
        return reader

    def become_locked(self, entry: Entry | None, version: Version) -> Reader | None:
        """This is what the server has now. The reader of what it had is for the caller to close."""
        self.entry, self.version = entry, version
        return self.take_reader_locked()

    def follow_locked(self, entry: Entry, version: Version) -> Reader | None:
        """As `become_locked`, by what others did: handles that read may have to know."""
        if version.size > self.version.size:
            self._growths += 1
        else:
            self._others += 1
        return self.become_locked(entry, version)

    def begin_locked(self, view: View, size: int) -> None:
        """A handle is opened: this is its content, of which the file has `size` bytes."""
        view.others, view.growths, view.size = self._others, self._growths, size

    def look_locked(self, view: View, offset: int, size: int) -> None:
        """Let a handle read on in the content that it began with, or from where that ended: a log
        that grows is followed. The kernel asks for whole pages. Else raise Changed."""
        within = offset // PAGE < view.size // PAGE
        if view.others != self._others or (view.growths != self._growths and within):
            raise errors.Changed(f"{self.path}: changed on the server while it was read")
        view.growths, view.size = self._growths, size

    def is_other_on_server(self) -> bool:
        """Whether the server has another content under this name than the one that is known, and
        than what a patch of ours has left that broke off. Asks it."""
        with self._changed:
            if self.patching:
                return False
            known, path = self.entry, self.path
        return known is None or is_other_content(known, self._remote.stat(path))

    def _fetch(self, version: Version, offset: int, give_way: Callable[[], None]) -> Download:
        """How the reader of `version` gets bytes: from wherever they lie by then.

        A content that comes in more than one piece may have been read in part already, now or by an
        earlier open: the pieces have to be of one content. And what is kept on disk has to be what
        it is filed as, in a year too.
        """
        while True:
            with self._changed:
                if version != self.version:  # the reader is on its way out
                    raise errors.Changed(f"{self.path}: changed on the server while it was read")
                path = self.path
                # While it is changed in place from here, its time is no sign of anything.
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
    """Which content `entry` stands for; an empty one without an entry."""
    size = (entry.size or 0) if entry else 0
    if entry is None:
        return Version(path, size, None, generation)
    return Version(path, size, entry.mtime, generation, entry.exact)


def is_other_content(known: Entry, seen: Entry) -> bool:
    """Whether two looks at a file show different contents. Times are compared only where both were
    told alike: LIST has minutes, MDTM seconds."""
    if known.size != seen.size:
        return True
    return known.exact == seen.exact and known.mtime != seen.mtime
