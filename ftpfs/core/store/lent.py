"""Whole contents of a store that are lent to the kernel, which reads them without asking.

The problem: whoever reads a content through ftpfs gets each block compared with its checksum. The
kernel compares nothing, and it reads zeros where a hole is. So a content is lent only if it is
whole, and if all its blocks were compared before, once in each boot (`Checker`).

While it is lent, it is locked (flock on the content). The lock belongs to the open file that the
kernel has, so it lasts as long as the kernel uses that, also after a kill. It means:

- No mount cuts blocks off it (`ContentFolder.cut`). It may be evicted: then the name is gone, and
  the kernel reads the file without a name to its end.
- No other mount lends it. So whoever has it may change it, after it was taken out of the store.

Owns: what is lent, and which contents were checked. Does not know who reads.

Threading: any. `_changed` (Rank.STORE_CHECKS) guards what is to be checked; no I/O is done under
it.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from ftpfs.core.store.contents import Content, ContentFolder, Damaged, Flag
from ftpfs.model.locks import Rank, ranked_condition

log = logging.getLogger(__name__)

# A smaller content is not lent (bytes): eight requests of the kernel bring it into its pages.
LEAST_BYTES = 1 << 20
# A content of at most this size (bytes) is checked while its open waits: 4 ms from memory. A larger
# one is checked in the background, and ftpfs serves it until then.
CHECKED_AT_ONCE = 8 << 20
# Contents that wait to be checked, at most; and those that are remembered as checked.
MOST_WAITING, MOST_CHECKED = 64, 10_000
# The attribute of a content's file by which a later mount knows that it was checked in this boot.
_CHECKED = "user.ftpfs.checked"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Unlent(enum.Enum):
    """Why a file of the server is not lent to a reader."""

    UNSUITABLE = "it is small, or written"
    INCOMPLETE = "not all of it is in the store"
    UNCHECKED = "its checksums are compared first"
    LENT_ELSEWHERE = "another mount has it"
    CHANGED_LATELY = "it was changed within the last hour"
    OPEN = "it was open already"
    READ_ONLY = "the mount is read-only"
    REFUSED = "the kernel did not take it"


class NotLent(Exception):
    """The content is not lent."""

    def __init__(self, why: Unlent) -> None:
        super().__init__(why.value)
        self.why = why


class LentContent:
    """A content that is lent, until `close`. `fd`: its open file."""

    def __init__(self, content: Content, files: ContentFolder) -> None:
        self._content = content
        self._files = files
        self._is_taken_out = False
        self.fd = content.descriptor
        self.name = content.name
        self.size = content.facts.size

    def take_out(self) -> None:
        """Take it out of the store: no mount finds it any more, and it may be changed.

        Its row in the index goes when somebody misses the files. Raises OSError.
        """
        if not self._is_taken_out:
            self._files.remove([self.name])
            self._is_taken_out = True

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end). Raises OSError."""
        return os.pread(self.fd, end - start, start)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write into what was taken out. Raises OSError."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, offset)
            view, offset = view[count:], offset + count

    def cut(self, size: int) -> None:
        """Cut or lengthen what was taken out. Raises OSError."""
        os.ftruncate(self.fd, size)


class Checker:
    """Knows which contents were compared with their checksums in this boot, and compares them.

    What this process has written itself, without anybody writing between, need not be compared:
    what it would read back is in the kernel's pages.
    """

    def __init__(self, files: ContentFolder, damaged: Callable[[Content, Damaged], None]) -> None:
        """`damaged` is called with a content that fails, in any thread."""
        self._files = files
        self._damaged = damaged
        self._boot = _boot_id()
        self._changed = ranked_condition(Rank.STORE_CHECKS)
        # Guarded by _changed:
        self._checked: OrderedDict[str, str] = OrderedDict()  # name -> which file it was
        self._waiting: OrderedDict[str, None] = OrderedDict()
        # name -> which file it was after we wrote to it last, and how many blocks are ours
        self._written: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def has_checked(self, content: Content) -> bool:
        """Whether this content was checked in this boot, and not changed since."""
        stamp = self._stamp(content)
        with self._changed:
            if self._checked.get(content.name) == stamp:
                return True
        try:
            return os.getxattr(content.descriptor, _CHECKED) == stamp.encode()
        except OSError:
            return False

    def check(self, content: Content) -> bool:
        """Compare all blocks. False: some are absent, or damaged, or the store is closed."""
        stamp = self._stamp(content)
        try:
            for index in range(content.facts.blocks):
                if self._is_closed or content.read(index) is None:
                    return False
        except Damaged as damage:
            self._damaged(content, damage)
            return False
        if self._stamp(content) != stamp:
            return False
        self._note_checked(content, stamp)
        return True

    def _note_checked(self, content: Content, stamp: str) -> None:
        with self._changed:
            self._checked[content.name] = stamp
            while len(self._checked) > MOST_CHECKED:
                self._checked.popitem(last=False)
        with contextlib.suppress(OSError):
            os.setxattr(content.descriptor, _CHECKED, stamp.encode())

    @contextlib.contextmanager
    def writing(self, content: Content, count: int) -> Iterator[None]:
        """Around writing `count` absent blocks, and their checksums."""
        if content.facts.size < LEAST_BYTES:
            yield
            return
        before = self._stamp(content)
        with self._changed:
            stamp, ours = self._written.pop(content.name, ("", 0))
        is_ours = stamp == before if stamp else len(content.absent()) == content.facts.blocks
        yield
        if not is_ours:
            return
        stamp = self._stamp(content)
        if ours + count == content.facts.blocks:
            self._note_checked(content, stamp)
            return
        with self._changed:
            self._written[content.name] = stamp, ours + count
            while len(self._written) > MOST_CHECKED:
                self._written.popitem(last=False)

    @contextlib.contextmanager
    def summing(self, content: Content, first: int, count: int) -> Iterator[None]:
        """Around computing the checksums of blocks that are there, in order."""
        if content.facts.size < LEAST_BYTES:
            yield
            return
        before = self._stamp(content)
        with self._changed:
            stamp, done = self._written.pop(content.name, (before, 0))
        yield
        if (stamp, done) != (self._stamp(content), first):
            return
        if first + count >= content.facts.blocks:
            self._note_checked(content, stamp)
            return
        with self._changed:
            self._written[content.name] = stamp, first + count

    def add(self, name: str) -> None:
        """Check a content soon, in a thread of its own. Never waits."""
        with self._changed:
            if self._is_closed or len(self._waiting) >= MOST_WAITING:
                return
            self._waiting[name] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ftpfs-check", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Check nothing any more, and wait for the block that is being compared."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                name, _ = self._waiting.popitem(last=False)
            try:
                self._check_named(name)
            except Exception:  # one content's error does not end the checks of others
                log.exception("checking a stored content failed: unexpected error")

    def _check_named(self, name: str) -> None:
        with contextlib.suppress(OSError, Damaged):
            content = self._files.open(name, writable=True)
            if can_be_lent(content) and not self.has_checked(content):
                self.check(content)

    def _stamp(self, content: Content) -> str:
        """Tells a file, in this boot, from any other, and from itself after a change."""
        found = os.fstat(content.descriptor)
        return f"{self._boot} {found.st_ino} {found.st_size} {found.st_mtime_ns}"


class CheckedFolder(ContentFolder):
    """The folder of a store's contents, and what is known of their checks (`checker`)."""

    def __init__(self, path: Path, damaged: Callable[[Content, Damaged], None]) -> None:
        super().__init__(path)
        self.checker = Checker(self, damaged)


def can_be_lent(content: Content) -> bool:
    """Whether a content is whole, and has its checksums."""
    return not content.flags & Flag.UNSUMMED and content.is_complete()


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # no /proc: then each mount checks by itself
        return os.urandom(16).hex()
