"""Stored contents that are lent to the kernel, which reads them without asking us.

The problem: the kernel reads a whole content from the store at the speed of the disk, and we do not
hear of it. But three things may happen to the file meanwhile, and handles that have it open have to
see them as if they asked us.

- *Others change it.* A new open has to read the new content, but the kernel takes no other backing
  file for an inode, and no open without one, as long as a handle has the old content. So the name
  gets another inode (`fuse.turning`), and we note the loan as a *former* one. Its handles read the
  old content to its end. Ours would get EIO: both are promised.
- *It grows* (`tail -f`). The kernel reads to the end of the backing file and asks nobody for more.
  What was added on the server is appended to the lent content, before a program sees the new size.
  A longer file may also be another one, and a program in the middle of a copy must not get the end
  of that. So something is appended only if a program is at the end of the content, and if the last
  bytes there are the server's.
- *A program here writes it.* It gets another inode, too, and its writes come to us as ever. They
  are written into the lent content as well: handles of this machine see each other's writes.

A lent content that is changed was taken out of the store before, and its lock keeps other mounts
from lending it (`core.store.lent`).

Not everything is lent. Small files are in the kernel's pages after one request anyway. A file that
was changed lately is likely to change again. What a mount with `ro` has cannot get another inode,
as the kernel refuses the rename that does it.

Owns: the loans of one open file, and which handles use them. Does not know FUSE.

Threading: any. `spool_lock` of the file guards everything here; `is_any` may be read without.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from ftpfs.core import processes
from ftpfs.core.files.server_file import Epoch
from ftpfs.core.files.state import FileState
from ftpfs.core.names.inode import inode
from ftpfs.core.reading.blocks import Version
from ftpfs.core.store.lent import LEAST_BYTES, LentContent, NotLent, Unlent

log = logging.getLogger(__name__)

# A file that was changed within this time is not lent (s).
STILL_SECONDS = 3600.0
# How much of what a file has grown by is fetched while a program waits for its size (bytes).
GROW_BYTES = 4 << 20
# So many bytes before the end have to be the same on the server.
COMPARED_BYTES = 64 << 10
# How often the server is asked about a file that the kernel reads (s): if a program may be at its
# end; and if all of them have not come so far.
LOOK_SECONDS, LAZY_LOOK_SECONDS = 2.0, 30.0

Lend = Callable[[Version], LentContent]


class OtherNode(Exception):
    """The kernel has another content of that inode open: the name needs another inode."""


class Ask(NamedTuple):
    """An open that might be lent a stored content to."""

    writes: bool
    is_read_only: bool  # the mount
    is_open: bool  # the kernel has handles on the file, which are not lent to
    follows: bool  # the content is the server's file, and nothing but that
    size: int
    mtime: int | None  # seconds since the epoch
    now: float


def obstacle(ask: Ask) -> Unlent | None:
    """Why an open is not lent a stored content to; None: it may be, if the store has it."""
    if ask.writes or not ask.follows or ask.size < LEAST_BYTES:
        return Unlent.UNSUITABLE
    if ask.is_read_only:
        return Unlent.READ_ONLY
    if ask.is_open:
        return Unlent.OPEN
    if ask.mtime is None or ask.now - ask.mtime < STILL_SECONDS:
        return Unlent.CHANGED_LATELY
    return None


class Loan:
    """One content that the kernel reads, and the handles for which it does."""

    def __init__(self, content: LentContent, version: Version, epoch: Epoch, number: int) -> None:
        self.content = content
        self.version = version
        self.epoch = epoch  # of the content that `content` has
        self.number = number
        self.handles: dict[int, int] = {}  # and the process that opened each; 0: unknown
        self.end = content.size  # as far as it has grown
        self.is_left = False  # it stays as it is, whatever happens to the file
        self.inodes: set[int] = set()  # numbers that the inode has had
        self.looked = time.monotonic()

    def change(self, change: Callable[[LentContent], None]) -> bool:
        """Change the lent content. Returns whether that succeeded; if not, it stays as it is."""
        try:
            self.content.take_out()
            change(self.content)
        except OSError as error:
            log.warning(
                "%s: handles that the kernel reads for go on with the old content: %s",
                *(self.version.path, error),
            )
            self.is_left = True
        return not self.is_left


class Loans:
    """The stored contents of one open file that are lent to the kernel."""

    def __init__(self, state: FileState) -> None:
        self._state = state
        self.is_any = False
        # Guarded by the state's `spool_lock`:
        self.current: Loan | None = None  # of the inode that the name has
        self._former: list[Loan] = []  # of inodes that it had

    # Opens and releases of the kernel.

    def check(self, *, writes: bool) -> None:
        """Raises OtherNode if the inode is lent, and that does not fit this open."""
        with self._state.spool_lock:
            self.check_locked(writes=writes)

    def check_locked(self, *, writes: bool) -> None:
        """As `check`, with `spool_lock` held."""
        if self.current is None:
            return
        with self._state.changed:
            is_same = self._state.follows_locked() and (
                self._state.server.version == self.current.version
            )
        if writes or not is_same:
            raise OtherNode

    def begin_locked(self, lend: Lend, take: Callable[[int], int]) -> None:
        """Lend the content that the file has now. `take`: how the kernel takes an open file.
        Raises NotLent."""
        with self._state.changed:
            version, epoch = self._state.server.version, self._state.server.epoch_locked()
        content = lend(version)
        with self._state.changed:
            is_same = version == self._state.server.version and self._state.follows_locked()
        if not is_same:
            raise NotLent(Unlent.INCOMPLETE)
        number = take(content.fd)
        if not number:
            raise NotLent(Unlent.REFUSED)
        self.current, self.is_any = Loan(content, version, epoch, number), True

    def end_locked(self, handle: int, take_back: Callable[[int], None]) -> bool:
        """The kernel has released a handle. Returns whether it was lent to."""
        for loan in self._all():
            if handle in loan.handles:
                del loan.handles[handle]
                if not loan.handles:
                    self._end(loan, take_back)
                return True
        return False

    def _end(self, loan: Loan, take_back: Callable[[int], None]) -> None:
        take_back(loan.number)
        if loan is self.current:
            self.current = None
        else:
            self._former.remove(loan)
        self.is_any = bool(self._all())

    def turn_locked(self, old_inode: str) -> bool:
        """The name has another inode from now on. False: nothing was lent."""
        if self.current is None:
            return False
        self.current.inodes.add(inode(old_inode))
        self._former.append(self.current)
        self.current = None
        return True

    def _all(self) -> list[Loan]:
        return [*self._former, *([self.current] if self.current is not None else [])]

    # What happens to the file.

    def write_locked(self, offset: int, data: bytes | memoryview) -> None:
        """A program has written here."""
        if self.is_any:
            for loan in self._live_locked():
                loan.change(lambda content: content.write(offset, data))

    def cut_locked(self, size: int) -> None:
        """A program has cut the file here, or made it longer."""
        if self.is_any:
            for loan in self._live_locked():
                loan.change(lambda content: content.cut(size))

    def _live_locked(self) -> list[Loan]:
        """The loans that have the content that the file has, as others changed it last."""
        with self._state.changed:
            epoch = self._state.server.epoch_locked()
        return [loan for loan in self._all() if loan.epoch == epoch and not loan.is_left]

    def grow(self, read: Callable[[int, int], bytes]) -> bool:
        """Append what the file has grown by on the server to what is lent, GROW_BYTES at most.

        `read(offset, size)` returns content of the file. Returns whether there is more to append.
        Raises what `read` raises.
        """
        if not self.is_any:
            return False
        with self._state.spool_lock:
            growing = self._growing_locked()
        growing = [found for found in growing if not self._is_read_on(found[0])]
        for loan, size, epoch in growing:
            start = loan.end
            before = loan.content.read(max(0, start - COMPARED_BYTES), start)
            data = read(start - len(before), min(size - start, GROW_BYTES) + len(before))
            if data[: len(before)] != before:
                loan.is_left = True  # it was replaced
                continue
            data = data[len(before) :]
            with self._state.spool_lock:
                if (loan, size, epoch) not in self._growing_locked() or loan.end != start:
                    continue
                if loan.change(lambda content, at=start, new=data: content.write(at, new)):  # type: ignore[misc]  # mypy infers no lambda with defaults
                    loan.end += len(data)
                    if loan.end == size:
                        loan.epoch = epoch
        with self._state.spool_lock:
            return bool(self._growing_locked())

    def _growing_locked(self) -> list[tuple[Loan, int, Epoch]]:
        """The loans of a content that was only made longer since, its size, and its epoch."""
        state = self._state
        with state.changed:
            if not state.follows_locked():
                return []
            size, epoch = state.server.version.size, state.server.epoch_locked()
        return [
            (loan, size, epoch)
            for loan in self._all()
            if not loan.is_left and loan.epoch.others == epoch.others and loan.end < size
        ]

    @property
    def shown_size(self) -> int | None:
        """The size to be shown while the inode's lent content is behind the server's, and is to
        follow that."""
        if self.current is None:
            return None
        with self._state.spool_lock:
            growing = [loan for loan, _, _ in self._growing_locked() if loan is self.current]
        return growing[0].end if growing and not self._is_read_on(growing[0]) else None

    def due(self) -> list[str]:
        """The names of lent contents about which the server should be asked now."""
        now = time.monotonic()
        with self._state.spool_lock:
            old = [loan for loan in self._all() if now - loan.looked >= LOOK_SECONDS]
        found = []
        for loan in old:
            if now - loan.looked >= LAZY_LOOK_SECONDS or not self._is_read_on(loan):
                loan.looked = now
                found.append(loan.content.name)
        return found

    def _is_read_on(self, loan: Loan) -> bool:
        """Whether all programs that have this content open read before its end, as far as the
        system tells."""
        with self._state.spool_lock:
            end, opened = loan.end, set(loan.handles.values())
            with self._state.changed:
                numbers = {inode(self._state.path), *loan.inodes}
        return all(each and processes.reads_before(numbers, each, end) for each in opened)
