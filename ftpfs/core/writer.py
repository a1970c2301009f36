"""The spool: local files that hold what was written until the server has it.

Owns: the spool folder, its lock, its journal and its bound; a file's written bytes and which of
them are real. Does not upload by itself and does not know what lies below the written parts:
`openfile` joins it with a reader.

Spool files are sparse and named after nothing; a file that is closed and uploaded is deleted. One
that no journal row speaks of was never closed: after a crash it is set aside under `kept/`.

A folder belongs to one process at a time, which holds a lock in it. A second mount of the same
server takes the next folder (`...-2`); a folder whose owner died is emptied by whoever comes next.

Threading: a SpoolFile belongs to one OpenFile, whose locks protect it: one for its bytes, another
for `present`. `_room` guards the Spool's count of bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ftpfs import errors
from ftpfs.core.journal import Journal, Record, unsent
from ftpfs.core.ranges import RangeSet

log = logging.getLogger(__name__)

KEPT = "kept"
SUFFIX = ".spool"
_LOCK = "lock"
_OWNER = "owner"
_FOLDERS = 1000  # mounts of one server on one machine, at most

# How long a killed process may take to let its folder go (seconds).
LAST_BREATH = 5.0
# Zeros written at a time (bytes).
CLEAR_SIZE = 1 << 20
# How long a writer waits for room in a full spool while nothing moves (seconds).
PATIENCE = 60.0


class Spool:
    """The folder, 0700: one per mount."""

    def __init__(
        self,
        folder: Path,
        *,
        sync: bool = False,
        limit: int | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """`folder`, or the first free one of `folder-2`, `folder-3`... beside it.

        `sync`: what the journal says outlives power loss. `limit`: bytes of written content at
        most; None: as the disk allows.
        """
        self.limit = limit
        self.sync = sync
        self._patience = patience
        self._wanted = folder
        self._folder, self._lock = _take_first_free(folder)
        self.journal = Journal(self._folder, sync=sync)
        self._room = threading.Condition()
        # Guarded by _room:
        self._used = 0
        self._moved_at = time.monotonic()

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def owner(self) -> str:
        """8 hex digits for the names of temporary files on the server: those of this folder, in
        this life and in the next ones, so that what a killed mount left is known as its own."""
        path = self._folder / _OWNER
        with contextlib.suppress(FileExistsError), _disk_errors():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_hex(16))
        # A folder that was copied, or a machine that was cloned, is somebody else.
        whose = f"{path.read_text(errors='replace')} {path.stat().st_ino} {platform.node()}"
        return hashlib.sha256(whose.encode()).hexdigest()[:8]

    @property
    def used(self) -> int:
        """Bytes of content in it now."""
        with self._room:
            return self._used

    def open(self) -> SpoolFile:
        """A new, empty spool file (0600). Raises NoSpace."""
        path = self._folder / f"{os.urandom(8).hex()}{SUFFIX}"
        with _disk_errors():
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return SpoolFile(self, fd, path)

    def reopen(self, record: Record) -> SpoolFile:
        """The spool file of a journal row. Raises NotFound when it is gone, FtpfsError when it
        cannot be had now (too many open files, a disk gone bad)."""
        path = self._folder / record.spool
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise errors.NotFound(f"{path} is gone") from None
        except OSError as error:
            raise errors.FtpfsError(f"{path} is not readable: {error.strerror}") from error
        file = SpoolFile(self, fd, path)
        for start, end in record.present:
            file.mark(start, end)
        try:
            # What was written after the close that the row speaks of, or cut off, is no content.
            file.truncate(record.size)
            for start, end in file.present.missing(0, record.size):
                file.clear(start, end)
        except OSError as error:
            file.close(delete=False)
            raise errors.FtpfsError(f"{path} is not writable: {error.strerror}") from error
        return file

    def discard(self, names: Iterable[str]) -> None:
        """Delete spool files of which nothing is wanted any more."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def keep(self, path: Path, name: str) -> Path:
        """Set aside a spool file that nobody will upload; where it lies now."""
        kept = self._folder / KEPT
        kept.mkdir(mode=0o700, exist_ok=True)
        plain = "".join(c if c.isalnum() or c in "._- " else "_" for c in name)[-100:]
        target = kept / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}-{plain}"
        path.rename(target)
        return target

    # After a crash.

    def recover(self) -> None:
        """Gather what earlier mounts left: the journal has then the rows of this folder, and of
        those beside it that nobody owns any more. Files that were never closed are set aside, and
        named in the log."""
        self._set_aside_orphans(self._folder, self.journal)
        for folder in _siblings(self._wanted):
            if folder != self._folder and (lock := _take(folder)) is not None:
                try:
                    self._empty(folder)
                except (errors.FtpfsError, OSError) as error:
                    log.error("what earlier mounts left in %s is not uploaded: %s", folder, error)
                finally:
                    os.close(lock)

    def _empty(self, folder: Path) -> None:
        """Take over what an abandoned folder holds."""
        journal = Journal(folder, sync=self.sync)
        self._set_aside_orphans(folder, journal)
        for record in journal.records():
            # The row comes first: killed in between, the file is looked for in both places.
            self.journal.put(record)
            with contextlib.suppress(FileNotFoundError):
                (folder / record.spool).rename(self._folder / record.spool)
            journal.remove(record.spool)
        for old, new in journal.intents():
            self.journal.intend(old, new, always=True)
            journal.withdraw(old)
        for row in journal.folders():
            self.journal.note_folder(*row)
            journal.drop_folder(*row)
        journal.close()
        _remove_folder(folder)

    def _set_aside_orphans(self, folder: Path, journal: Journal) -> None:
        known = {record.spool for record in journal.records()}
        for path in folder.glob(f"*{SUFFIX}"):
            if path.name in known:
                continue
            if path.stat().st_size:
                log.warning(
                    "a file that was being written when the mount ended was never closed; what"
                    " there is of it is kept in %s",
                    self.keep(path, path.name),
                )
            else:
                path.unlink()

    # Room.

    def make_room(self, count: int) -> None:
        """Return when so many bytes more may be written: at once, or when uploads have freed as
        much. NoSpace when none moves for PATIENCE seconds.

        A file that is larger than the whole limit cannot wait for itself.
        """
        if self.limit is None:
            return
        with self._room:
            if self._used + count <= self.limit:
                return
            self._moved_at = time.monotonic()
            while self._used + count > self.limit:
                left = self._moved_at + self._patience - time.monotonic()
                if left <= 0:
                    raise errors.NoSpace("the spool is full, and no upload makes room in it")
                self._room.wait(left)

    def note_progress(self) -> None:
        """Bytes are on their way to the server: who waits for room goes on waiting."""
        if self.limit is not None:
            with self._room:
                self._moved_at = time.monotonic()

    def _count(self, change: int) -> None:
        with self._room:
            self._used += change
            if change < 0:
                self._moved_at = time.monotonic()
                self._room.notify_all()

    def remove(self) -> None:
        """Let the folder go: delete it if nothing is left in it."""
        self.journal.close()
        _remove_folder(self._folder)
        os.close(self._lock)


class SpoolFile:
    """Bytes of one file. `present` tells which are real; the rest reads as zeros."""

    def __init__(self, spool: Spool, fd: int, path: Path) -> None:
        self.path = path
        self.present = RangeSet()
        self._spool = spool
        self._fd = fd

    @property
    def name(self) -> str:
        """What the journal calls it."""
        return self.path.name

    def fileno(self) -> int:
        return self._fd

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write `data`; the count, which is less only when the disk became full on the way.

        The caller marks so many bytes as present: what is not must stay zeros, for an upload reads
        the holes as they are. Raises NoSpace when not a byte went in.
        """
        view = memoryview(data)
        written = 0
        try:
            with _disk_errors():
                while written < len(view):
                    written += os.pwrite(self._fd, view[written:], offset + written)
        except (errors.NoSpace, OSError):
            if not written:
                raise
        return written

    def mark(self, start: int, end: int) -> None:
        """[start, end) is real from now on."""
        grown = sum(stop - begin for begin, stop in self.present.missing(start, end))
        self.present.add(start, end)
        if grown:
            self._spool._count(grown)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; zeros where nothing was written."""
        with _disk_errors():
            data = os.pread(self._fd, size, offset)
        return data if len(data) == size else data.ljust(size, b"\0")

    def truncate(self, size: int) -> None:
        """Forget what lies beyond `size`: grown again, it reads as zeros. `present` is left to the
        caller (`cut`)."""
        with _disk_errors():
            os.ftruncate(self._fd, min(size, os.fstat(self._fd).st_size))

    def clear(self, start: int, end: int) -> None:
        """[start, end) reads as zeros, whatever was written there. Holes stay holes."""
        with _disk_errors():
            while True:
                try:
                    start = os.lseek(self._fd, start, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # no data from there on
                        return
                    raise
                count = min(end - start, CLEAR_SIZE)
                if count <= 0:
                    return
                start += os.pwrite(self._fd, bytes(count), start)

    def cut(self, size: int) -> None:
        """Nothing at and after `size` is real any more."""
        before = self.present.total()
        self.present.cut(size)
        self._spool._count(self.present.total() - before)

    def save(self) -> None:
        """Return when the disk itself holds what was written, and the file's name."""
        with _disk_errors():
            os.fdatasync(self._fd)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self, *, delete: bool = True) -> None:
        os.close(self._fd)
        self._spool._count(-self.present.total())
        if delete:
            self.path.unlink(missing_ok=True)


# Folders.


def left_behind(folder: Path) -> int:
    """How many files wait in `folder`, and those beside it, for a mount that uploads them: what
    mounts have left that ended. For those that upload nothing; takes nothing over."""
    count = 0
    for path in _siblings(folder):
        with (
            contextlib.suppress(OSError, errors.FtpfsError),
            (path / _LOCK).open("rb") as lock,
        ):
            # For a moment. Whoever wants the folder just now sees the process id of a dead one in
            # the lock, and waits.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            count += unsent(path)
    return count


def _siblings(folder: Path) -> Iterator[Path]:
    """The folders that mounts of this server may have taken, those that are there."""
    for number in range(1, _FOLDERS):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if path.is_dir():
            yield path


def _take_first_free(folder: Path) -> tuple[Path, int]:
    """A folder that is nobody's, and the descriptor whose life is the lock on it."""
    for number in range(1, _FOLDERS):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if (lock := _take(path)) is not None:
            return path, lock
    raise errors.FtpfsError(f"{folder}: in use, and so are all those beside it")


def _take(folder: Path) -> int | None:
    """The lock of `folder`, which is made; None when somebody else has it."""
    deadline = time.monotonic() + LAST_BREATH
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            # Made first, where others may write (spool_dir), by somebody who would read along.
            raise errors.PermissionDenied(f"{folder} belongs to another user")
        folder.chmod(0o700)
        try:
            fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # its owner just left, and took the folder along
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == os.stat(folder / _LOCK).st_ino:
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
                return fd
        except FileNotFoundError:
            pass  # the same, a moment later
        except BlockingIOError:
            dying = _is_dying(fd)
            os.close(fd)
            if not dying or time.monotonic() > deadline:
                return None
            time.sleep(0.01)
            continue
        os.close(fd)


def _is_dying(lock: int) -> bool:
    """Whether the process that has the lock was killed, and has not got round to letting it go:
    its memory goes first, which takes longer than a quick `ftpfs mount` after the `kill`."""
    owner = os.pread(lock, 20, 0).decode(errors="replace")
    if not owner.isdigit():
        return False
    try:
        return not Path(f"/proc/{owner}/cmdline").read_bytes()
    except OSError:
        return True


def _remove_folder(folder: Path) -> None:
    """Delete a folder whose lock we have, if nothing else is in it."""
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {_LOCK, _OWNER}:
            (folder / _OWNER).unlink(missing_ok=True)
            (folder / _LOCK).unlink()
            folder.rmdir()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.NoSpace("the disk that holds the spool is full") from error
        raise
