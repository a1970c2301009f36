"""The spool: local files that hold what was written until the server has it.

Owns the spool folder, its lock, its journal and its size limit; and for each file its written bytes
and which of them are content. Does not upload, and does not know what lies below the written parts:
`openfile` joins it with a reader.

Spool files are sparse, and their names mean nothing. A file that is closed and uploaded is deleted.
A file that has no row in the journal was never closed: after a crash it is set aside under `kept/`.
So is a file that does not hold what its row says, because the power was lost before the content was
on the disk (`proofs`).

A folder belongs to one process at a time, which holds a lock in it. A second mount of the same
server takes the next folder (`...-2`). The next mount takes over what a dead owner left.

Threading: a SpoolFile belongs to one OpenFile, whose locks protect it: one for its bytes, another
for `present`. `_room` (Rank.SPOOL) guards the Spool's count of bytes.
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
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ftpfs import errors
from ftpfs.core.writing import proofs
from ftpfs.core.writing.descriptors import OUT_OF_DESCRIPTORS, Descriptors, Held, LocalFile
from ftpfs.core.writing.journal import Journal, Record, unsent
from ftpfs.core.writing.proofs import SUM_BYTES, Claim, Proofs, Sums, Unproven
from ftpfs.core.writing.ranges import RangeSet
from ftpfs.local import private
from ftpfs.model.locks import Rank, ranked_condition, ranked_lock
from ftpfs.model.names import name_of

log = logging.getLogger(__name__)

KEPT = "kept"
SUFFIX = ".spool"
# The mode bit of a spool file that holds only what the server has or had.
_FETCHED = stat.S_ISVTX
_LOCK = "lock"
_OWNER = "owner"
_FOLDERS = 1000  # limit of mounts of one server on one machine

# How long a killed process may take to release its folder's lock (seconds).
LAST_BREATH_SECONDS = 5.0
# Zeros written at a time (bytes).
CLEAR_BYTES = 1 << 20
# How long a writer waits for room in a full spool while no upload makes progress (seconds).
PATIENCE_SECONDS = 60.0
# The environment variable that names another boot than the system's. Tests use it: they look at
# what a power loss left of a spool without turning the machine off.
BOOT_ID = "FTPFS_BOOT_ID"


class SetAside(NamedTuple):
    """A file that was closed, but was not completely on the disk when the power was lost."""

    path: str  # on the server; the file there is left alone
    kept: Path | None  # the part of the content that was found; None: nothing
    why: str


class Spool:
    """The spool folder of one mount, mode 0700."""

    def __init__(
        self,
        folder: Path,
        *,
        sync: bool = False,
        limit: int | None = None,
        is_limit_exact: bool = True,
        patience: float = PATIENCE_SECONDS,
        boot: str | None = None,
        proof_pause: float = proofs.GROUP_SECONDS,
    ) -> None:
        """Takes `folder`, or the first free one of `folder-2`, `folder-3`... beside it.

        `sync`: each row of the journal outlives power loss as soon as it is written. `limit`: limit
        of written content (bytes); None: as the disk allows. `is_limit_exact`: somebody has set it,
        so no file may pass it. `patience`: how long a writer waits for room (seconds). `boot`: name
        of this boot, if not the system's. `proof_pause`: without
        `sync`, closed files outlive power loss after this time (seconds).
        """
        self.limit = limit
        self.is_limit_exact = is_limit_exact
        self.sync = sync
        self.set_aside: list[SetAside] = []  # filled by recovery, as `held` is
        self.held: list[str] = []  # a line for each file that is left to the next mount
        self._patience = patience
        self._boot = boot if boot is not None else _boot()
        self._wanted = folder
        self._folder, self._lock = _take_first_free(folder)
        self.journal = self._journal_in(self._folder)
        self._proofs = Proofs(self._folder, self.journal, pause=proof_pause)
        self.descriptors = Descriptors()
        self._room = ranked_condition(Rank.SPOOL)
        # Guarded by _room:
        self._used = 0
        self._moved_at = time.monotonic()

    def _journal_in(self, folder: Path) -> Journal:
        return Journal(
            folder,
            sync=self.sync,
            boot=self._boot,
            unsynced=lambda: self._proofs.journal_changed(),
        )

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def owner(self) -> str:
        """8 hex digits for the names of temporary files on the server.

        They belong to this folder, also in later mounts: so a mount recognises what a killed one
        left on the server.
        """
        path = self._folder / _OWNER
        with contextlib.suppress(FileExistsError), _DiskErrors():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_hex(16))
        private.check_file(path)
        # In a copied folder, or on a cloned machine, the owner is another one.
        whose = f"{path.read_text(errors='replace')} {path.stat().st_ino} {platform.node()}"
        return hashlib.sha256(whose.encode()).hexdigest()[:8]

    @property
    def used(self) -> int:
        """Bytes of content in the spool now."""
        with self._room:
            return self._used

    def open(self) -> SpoolFile:
        """A new, empty spool file (0600). Raises NoSpace."""
        path = self._folder / f"{os.urandom(8).hex()}{SUFFIX}"
        with _DiskErrors():
            fd = self.descriptors.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        return SpoolFile(self, path, fd)

    def reopen(self, record: Record) -> SpoolFile:
        """The spool file of a journal row.

        Raises NotFound if it is gone, FtpfsError if it cannot be opened now (too many open files, a
        damaged disk).
        """
        path = self._folder / record.spool
        if not self._is_believed(record):
            raise errors.FtpfsError(f"{path} could not be compared with its proof")
        try:
            fd = self.descriptors.open(path, os.O_RDWR)
        except FileNotFoundError:
            raise errors.NotFound(f"{path} is gone") from None
        except OSError as error:
            raise errors.FtpfsError(f"{path} is not readable: {error.strerror}") from error
        file = SpoolFile(self, path, fd)
        for start, end in record.present:
            file.mark(start, end)
        try:
            # Bytes that were written or cut off after the close of this row are no content.
            file.truncate(record.size)
            for start, end in file.present.missing(0, record.size):
                file.clear(start, end)
        except OSError as error:
            file.close(delete=False)
            raise errors.FtpfsError(f"{path} is not writable: {error.strerror}") from error
        claim = file.claim(record)
        if record.proof is None or record.proof.writes != record.writes:
            self._proofs.add(claim)
        return file

    def record(self, file: SpoolFile, record: Record) -> None:
        """Write the journal's row for `file`, and make it outlive power loss.

        With `sync` at once, else soon. The caller may write to the file, and does not meanwhile.
        """
        if self.sync:
            record = _proven_now(file, record)
        self.journal.put(record)
        if not self.sync and file.is_news(record):
            self._proofs.add(file.claim(record))

    def record_instead(self, old: SpoolFile, file: SpoolFile, record: Record) -> None:
        """Like `record`, in the place of the row of `old`.

        When this returns, `old` may be deleted: the new row is on the disk, or the old row is gone
        from it.
        """
        record = _proven_now(file, record)
        self.journal.put_instead(old.name, record)
        try:
            self.journal.sync()
        except errors.FtpfsError as error:
            log.warning("%s may be lost if the power fails now: %s", record.path, error)

    def discard(self, names: Iterable[str]) -> None:
        """Delete spool files whose content is not needed any more."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def keep(self, path: Path, name: str) -> Path:
        """Set aside a spool file that will not be uploaded. Returns its new path."""
        kept = self._folder / KEPT
        private.make_folder(kept)
        plain = "".join(c if c.isalnum() or c in "._- " else "_" for c in name)[-100:]
        target = kept / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}-{plain}"
        path.rename(target)
        return target

    # After a crash.

    def recover(self) -> None:
        """Gather what earlier mounts left.

        Afterwards the journal has the rows of this folder, and of abandoned folders beside it.
        Files that were never closed are set aside, and so are files of which a power loss has left
        a part. The log names them.
        """
        self._set_aside_orphans(self._folder, self.journal)
        self._set_aside_unproven(self._folder, self.journal)
        for folder in _siblings(self._wanted):
            if folder != self._folder and (lock := _take(folder)) is not None:
                try:
                    self._empty(folder)
                except (errors.FtpfsError, OSError) as error:
                    log.error(
                        "files that earlier mounts left in %s are not uploaded: %s", folder, error
                    )
                finally:
                    os.close(lock)

    def _empty(self, folder: Path) -> None:
        """Take over everything in an abandoned folder."""
        journal = self._journal_in(folder)
        self._set_aside_orphans(folder, journal)
        self._set_aside_unproven(folder, journal)
        for record in filter(self._is_believed, journal.records()):
            # The row first: if the daemon is killed in between, both folders are searched.
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
            found = path.stat()
            if found.st_size and not found.st_mode & _FETCHED:
                log.warning(
                    "a file was never closed before the mount ended (or only right before the power"
                    " was lost); the part that was written is kept in %s",
                    self.keep(path, path.name),
                )
            else:
                path.unlink()

    def _set_aside_unproven(self, folder: Path, journal: Journal) -> None:
        """Check the rows of another boot, and set aside the files whose proof fails.

        Without a proof such a row does not count: the power may have been lost before its content
        was on the disk.
        """
        for record in journal.records():
            try:
                proven = proofs.believed(record, self._where(folder, record), self._boot)
            except errors.NotFound:
                self._note_gone(record, journal)
            except Unproven as error:
                self._give_up(folder, record, journal, str(error))
            except OSError as error:
                log.error("%s is not uploaded now: %s", record.path, error)
            else:
                if proven.writes != record.writes:
                    log.error(
                        "%s: what was closed last was not on the disk when the power was lost; what"
                        " was closed before that is uploaded",
                        record.path,
                    )
                if not self._is_believed(record):
                    journal.put(proven)  # from now on a row of this boot

    def _is_believed(self, record: Record) -> bool:
        return record.boot in (self._boot, None)

    def _where(self, folder: Path, record: Record) -> Path:
        """Where a row's spool file is. A row is moved to another folder before its spool file."""
        here = folder / record.spool
        if folder == self._folder and not here.exists():
            for other in _siblings(self._wanted):
                if (other / record.spool).exists():
                    return other / record.spool
        return here

    def _note_gone(self, record: Record, journal: Journal) -> None:
        """Handle a row without its spool file.

        If the content was proven, it was on the disk. Then the file was deleted because the server
        has the content, or because the file was deleted on the server, and only the row was left.
        """
        if self._is_believed(record):
            return  # the mount that recovers the row will report it
        if record.proof is None:
            self._give_up(None, record, journal, "nothing of it was on the disk")
        else:
            journal.remove(record.spool)

    def _give_up(self, folder: Path | None, record: Record, journal: Journal, why: str) -> None:
        kept, file = None, self._where(folder, record) if folder else None
        if file is not None and file.stat().st_size:
            kept = self.keep(file, name_of(record.path))
        elif file is not None:
            file.unlink()
        journal.remove(record.spool)
        self.set_aside.append(SetAside(record.path, kept, why))
        log.error(
            "%s was closed before the power was lost, and is not sent: %s; the server's file is"
            " %s%s",
            *(record.path, why),
            "left as it is" if not record.patching else "half changed",
            f", the remains of the new one are kept in {kept}" if kept else "",
        )

    # Room.

    @property
    def has_plenty(self) -> bool:
        """Whether a file may be written here whose writer cannot be made to wait for room.

        So there is no limit, or nobody has set it, and half of it is free.
        """
        if self.limit is None:
            return True
        with self._room:
            return not self.is_limit_exact and self._used <= self.limit // 2

    def make_room(self, count: int) -> None:
        """Return when `count` more bytes may be written: at once, or after uploads freed as much.

        Raises NoSpace if no upload makes progress for PATIENCE_SECONDS. A file larger than the
        whole limit gets that, too: no upload can make room for it.
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
        """Note that an upload makes progress: writers that wait for room go on waiting."""
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
        """Release the folder. If nothing is left in it, delete it, else make it outlive power
        loss."""
        self._proofs.finish()
        self.journal.close()
        _remove_folder(self._folder)
        os.close(self._lock)


def _proven_now(file: SpoolFile, record: Record) -> Record:
    """Sync the file to the disk. Returns the row with its proof."""
    file.save()
    with _DiskErrors():
        return replace(record, proof=proofs.proof_now(file.claim(record)))


class _InUse(Held):
    __slots__ = ()

    def __enter__(self) -> int:
        with _DiskErrors():
            return super().__enter__()


class SpoolFile(LocalFile):
    """The written bytes of one file. `present` tells which are content; the rest reads as zeros."""

    def __init__(self, spool: Spool, path: Path, fd: int) -> None:
        super().__init__(spool.descriptors, path, fd)
        self.present = RangeSet()
        self._spool = spool
        # What the journal's rows say of this file, and what has to be proven. Changed only by the
        # thread that may write to the file.
        self._claimed = 0  # the largest size in a row (bytes)
        self._last: Record | None = None
        self._sums_lock = ranked_lock(Rank.SPOOL_SUMS)
        # Guarded by _sums_lock:
        self._overwrites = 0
        self._sums: Sums = {}
        self._lent_as: tuple[int, int] | None = None  # size and time (ns) when it was looked at

    @property
    def name(self) -> str:
        """The name of the spool file in the journal."""
        return self.path.name

    def in_use(self) -> Held:
        """A block that keeps `fileno` valid meanwhile. Raises OutOfDescriptors."""
        return _InUse(self._spool.descriptors, self)

    def fileno(self) -> int:
        with self.held() as fd:
            return fd

    def note_fetched(self, fetched: bool) -> None:
        """Note whether the file holds only what the server has.

        If the daemon is killed then, the next mount deletes the file instead of setting it aside.
        """
        with self.in_use(), contextlib.suppress(OSError):  # a file system without modes
            os.fchmod(self.fileno(), 0o600 | (_FETCHED if fetched else 0))

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write `data`. Returns the count of bytes; less only if the disk became full meanwhile.

        The caller marks that many bytes as present. Bytes that are not present must stay zeros,
        because an upload reads holes as they are. Raises NoSpace if no byte was written.
        """
        view = memoryview(data)
        end = offset + len(view)
        # Bytes that fill a gap are in no row yet.
        if offset < self._claimed and self.present.missing(offset, end) != [(offset, end)]:
            self._forget_sums(offset, end)
        written = 0
        try:
            with _DiskErrors(), self.held() as fd:
                while written < len(view):
                    written += os.pwrite(fd, view[written:], offset + written)
        except (errors.NoSpace, errors.OutOfDescriptors, OSError):
            if not written:
                raise
        return written

    def mark(self, start: int, end: int) -> None:
        """Mark [start, end) as content."""
        grown = sum(stop - begin for begin, stop in self.present.missing(start, end))
        self.present.add(start, end)
        if grown:
            self._spool._count(grown)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; zeros where nothing was written."""
        with _DiskErrors(), self.held() as fd:
            data = os.pread(fd, size, offset)
        return data if len(data) == size else data.ljust(size, b"\0")

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes. If it grows again, the new bytes read as zeros.

        Does not change `present`: the caller calls `cut`.
        """
        if size < self._claimed:
            self._forget_sums(size, self._claimed)
            self._claimed, self._last = size, None  # this voids the claim of the last row
        with _DiskErrors(), self.held() as fd:
            os.ftruncate(fd, min(size, os.fstat(fd).st_size))

    def clear(self, start: int, end: int) -> None:
        """Fill [start, end) with zeros. Holes stay holes."""
        with _DiskErrors(), self.held() as fd:
            while True:
                try:
                    start = os.lseek(fd, start, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # no data from there on
                        return
                    raise
                count = min(end - start, CLEAR_BYTES)
                if count <= 0:
                    return
                start += os.pwrite(fd, bytes(count), start)

    def cut(self, size: int) -> None:
        """Mark everything at and after `size` as absent."""
        before = self.present.total()
        self.present.cut(size)
        self._spool._count(self.present.total() - before)

    def save(self) -> None:
        """Return when the written bytes and the file's name are on the disk."""
        with _DiskErrors(), self.held() as fd:
            os.fdatasync(fd)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    # Claims and checksums.

    def is_news(self, record: Record) -> bool:
        """Whether this row has another content than the row of the last claim."""
        last = self._last
        return last is None or (
            (last.writes, last.present, last.size, last.base_size)
            != (record.writes, record.present, record.size, record.base_size)
        )

    def claim(self, record: Record) -> Claim:
        self._last = record
        self._claimed = max(self._claimed, record.size)
        return Claim(self, record, self.overwrites)

    @property
    def overwrites(self) -> int:
        """How often a write changed content that belongs to a claim.

        While the kernel writes to the file itself, each change that is found counts as one.
        """
        with self._sums_lock:
            is_lent = self._lent_as is not None
        found = self._shape() if is_lent else None
        with self._sums_lock:
            if self._lent_as is not None and found is not None and found != self._lent_as:
                self._lent_as = found
                self._overwrites += 1
                self._sums.clear()
            return self._overwrites

    def begin_lent(self) -> None:
        """The kernel writes to the file itself from now on."""
        found = self._shape()
        with self._sums_lock:
            self._lent_as = found

    def end_lent(self) -> None:
        """The kernel writes to the file no more."""
        _ = self.overwrites  # of its last writes
        with self._sums_lock:
            self._lent_as = None

    def _shape(self) -> tuple[int, int]:
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self.path, follow_symlinks=False)
            return found.st_size, found.st_mtime_ns
        return -1, -1

    def known_sums(self) -> Sums:
        with self._sums_lock:
            return dict(self._sums)

    def learn_sums(self, sums: Sums, overwrites: int) -> bool:
        with self._sums_lock:
            if overwrites != self._overwrites:
                return False
            self._sums.update(sums)
            return True

    def _forget_sums(self, start: int, end: int) -> None:
        with self._sums_lock:
            self._overwrites += 1
            blocks = range(start // SUM_BYTES, (end + SUM_BYTES - 1) // SUM_BYTES)
            for block in blocks if len(blocks) < len(self._sums) else list(self._sums):
                if block in blocks:
                    self._sums.pop(block, None)

    def hand_over(self, take: Callable[[Path], bool]) -> None:
        """Close the file, of which the server has all. If `take(path)` is false, delete it.

        Until the new owner has moved it, a kill leaves it here, and the next mount deletes it.
        """
        is_taken = False
        with contextlib.suppress(errors.OutOfDescriptors):
            self.note_fetched(True)
            is_taken = take(self.path)
        self.close(delete=not is_taken)

    def close(self, *, delete: bool = True) -> None:
        self.let_go()
        self._spool._count(-self.present.total())
        if delete:
            self.path.unlink(missing_ok=True)


# Folders.


def left_behind(folder: Path) -> int:
    """How many files wait for upload in `folder` and the folders beside it, left by ended mounts.

    For commands that upload nothing. Takes nothing over.
    """
    count = 0
    for path in _siblings(folder):
        with (
            contextlib.suppress(OSError, errors.FtpfsError),
            os.fdopen(os.open(path / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as lock,
        ):
            # Hold the lock only for a moment. Another process that wants the folder meanwhile finds
            # the process id of a dead one in it, and so waits.
            if _lock_after_the_dead(lock.fileno()):
                count += unsent(path)
    return count


def _lock_after_the_dead(lock: int) -> bool:
    """Lock the folder. Returns False if a live process has the lock.

    If a killed process has it, wait until the kernel has released it.
    """
    deadline = time.monotonic() + LAST_BREATH_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _is_dying(lock) or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def _siblings(folder: Path) -> Iterator[Path]:
    """The existing folders that mounts of this server may have taken."""
    for number in range(1, _FOLDERS):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.geteuid():
            yield path


def _take_first_free(folder: Path) -> tuple[Path, int]:
    """Take the first free folder. Returns it and the descriptor that holds its lock."""
    for number in range(1, _FOLDERS):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if (lock := _take(path)) is not None:
            return path, lock
    raise errors.FtpfsError(f"{folder}: in use, and so are all folders beside it")


def _take(folder: Path) -> int | None:
    """Create and lock `folder`; None if another process has the lock."""
    deadline = time.monotonic() + LAST_BREATH_SECONDS
    while True:
        try:
            private.make_folder(folder)
            private.check_file(folder / _LOCK)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(folder / _LOCK, flags, 0o600)
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise
            continue  # the owner has just deleted the folder
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == os.stat(folder / _LOCK).st_ino:
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
                return fd
        except FileNotFoundError:
            pass  # the owner deleted the folder a moment later
        except BlockingIOError:
            dying = _is_dying(fd)
            os.close(fd)
            if not dying or time.monotonic() > deadline:
                return None
            time.sleep(0.01)
            continue
        os.close(fd)


def _is_dying(lock: int) -> bool:
    """Whether the process that has the lock was killed, and has not released it yet.

    The kernel frees the memory of a killed process first. That takes longer than a quick
    `ftpfs mount` after the `kill`.
    """
    owner = os.pread(lock, 20, 0).decode(errors="replace")
    if not owner.isdigit():
        return False
    try:
        return not Path(f"/proc/{owner}/cmdline").read_bytes()
    except OSError:
        return True


def _remove_folder(folder: Path) -> None:
    """Delete a folder that this process has locked, if nothing else is in it."""
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {_LOCK, _OWNER}:
            (folder / _OWNER).unlink(missing_ok=True)
            (folder / _LOCK).unlink()
            folder.rmdir()


def _boot() -> str:
    """The name of this boot of the machine."""
    if named := os.environ.get(BOOT_ID):
        return named
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"unknown, at {time.time_ns()}"  # then no row counts without a proof


class _DiskErrors:
    """A block in which a full disk is NoSpace, and a missing descriptor OutOfDescriptors."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.NoSpace("the disk that holds the spool is full") from error
        if error.errno in OUT_OF_DESCRIPTORS:
            raise errors.OutOfDescriptors("too many open files (ulimit -n)") from error
