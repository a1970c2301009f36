"""Proofs: which closed content outlives a loss of power, and how the next mount knows.

The problem: the kernel writes the journal's rows and the spool files to the disk in an order of its
own. After a power cut there may be a row whose spool file is empty, short, or full of zeros.
Uploaded, that would replace a good file by zeros.

The obvious solution is to sync each file before its row is written. That makes `close()` wait for
the disk.

What we do: the row comes first, and its proof a moment later.

1. `close()` writes the row, with the boot in which it was written, and makes a *claim*.
2. About a second later one thread takes all claims together. It syncs the spool files, computes a
   checksum of each block with content of the rows, writes these *proofs* into the journal, and
   syncs that. A file that was uploaded within that second costs nothing.

After a crash of the daemon alone every row counts: the kernel still has what was written. After
another boot a row counts as far as its proof goes (`believed`).

Owns checksums, claims, and the thread. The journal stores proofs, and the spool asks for them.

Threading: any thread. `_changed` (Rank.PROOFS) guards the queue; the thread ends when there is
nothing left to do. A claim is void after a write changed its content: `SpoolFile` counts that
(`overwrites`).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ftpfs import errors
from ftpfs.core.writing.descriptors import OUT_OF_DESCRIPTORS
from ftpfs.core.writing.journal import Journal, Proof, Range, Record, packed
from ftpfs.core.writing.samples import samples_of
from ftpfs.model.locks import Rank, ranked_condition

log = logging.getLogger(__name__)

# One checksum covers this many bytes, and is kept in memory. So if a large file is appended to
# several times, only its new bytes are read.
SUM_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20  # bytes per read
# Seconds from the first close of a group until the group is synced.
GROUP_SECONDS = 1.0
# Files that are open at the same time during a sync.
GROUP_FILES = 8
# More files than that are synced by one syncfs, which also writes whatever else the disk's file
# system has to write. On ext4: 500 files of 30 KB in 0.2 s, and in 1.7 s one by one.
# Their proofs are written in groups, so that a close that writes its row waits for one group only.
GROUP_ROWS = 200
# Pause before a retry, after the disk failed or the limit of open files was reached (seconds).
RETRY_SECONDS = 10.0

Sums = dict[int, tuple[tuple[Range, ...], int]]  # by block: its present ranges, and their CRC-32


class Claimed(Protocol):
    """The part of a spool file that a claim uses."""

    @property
    def path(self) -> Path: ...

    @property
    def overwrites(self) -> int: ...

    def known_sums(self) -> Sums: ...

    def learn_sums(self, sums: Sums, overwrites: int) -> bool:
        """Keep the checksums. False if a write has changed claimed content meanwhile."""


@dataclass(frozen=True)
class Claim:
    """A row whose content in a spool file has to be proven."""

    file: Claimed
    record: Record
    overwrites: int  # the file's count when the claim was made

    @property
    def is_void(self) -> bool:
        return self.file.overwrites != self.overwrites


class Unproven(errors.FtpfsError):
    """The spool file does not hold what its row says."""


class Proofs:
    """The claims of one spool folder, until they are proven."""

    def __init__(self, folder: Path, journal: Journal, *, pause: float = GROUP_SECONDS) -> None:
        self._folder = folder
        self._journal = journal
        self._pause = pause
        self._changed = ranked_condition(Rank.PROOFS)
        # Guarded by _changed:
        self._claims: dict[str, Claim] = {}  # the newest of each spool file, by its name
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._complained = False

    def add(self, claim: Claim) -> None:
        with self._changed:
            self._claims[claim.record.spool] = claim
            self._wake_locked()

    def journal_changed(self) -> None:
        """Rows that may be on the disk were deleted or renamed: sync the journal soon."""
        with self._changed:
            self._wake_locked()

    def finish(self) -> None:
        """Prove the remaining claims now. No claim may be added afterwards."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._run_once()

    def _wake_locked(self) -> None:
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="ftpfs-proofs", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = self._pause
        while True:
            with self._changed:
                if not self._stopped:
                    self._changed.wait_for(lambda: self._stopped, pause)
                if self._stopped or not (self._claims or self._journal.is_unsynced):
                    self._thread = None
                    return
            pause = self._pause if self._run_once() else RETRY_SECONDS

    def _run_once(self) -> bool:
        """Prove the claims of this moment; False if that failed and has to be retried."""
        with self._changed:
            claims, self._claims = self._claims, {}
        try:
            left = iter(claims.values())
            if len(claims) > GROUP_FILES and _syncfs(self._folder):
                while group := list(itertools.islice(left, GROUP_ROWS)):
                    self._prove_synced(group)
            else:
                while group := list(itertools.islice(left, GROUP_FILES)):
                    self._sync_and_prove(group)
            self._journal.sync()
        except (OSError, errors.FtpfsError) as error:
            with self._changed:
                self._claims = claims | self._claims
                tell, self._complained = not self._complained and not self._stopped, True
            if tell and self._folder.exists():
                log.warning("files that are closed now may be lost if the power fails: %s", error)
            return False
        self._complained = False
        return True

    def _prove_synced(self, claims: list[Claim]) -> None:
        proofs = {}
        for claim in claims:
            with _alone(claim):
                if not claim.is_void and (proof := proof_now(claim)) is not None:
                    proofs[claim.record.spool] = proof
        self._journal.prove(proofs)

    def _sync_and_prove(self, claims: list[Claim]) -> None:
        with contextlib.ExitStack() as stack:
            opened = []
            for claim in claims:
                with _alone(claim):
                    if not claim.is_void:
                        opened.append((claim, stack.enter_context(_opened(claim.file.path))))
            if not opened:
                return
            for _, fd in opened:
                os.fdatasync(fd)
            _sync_folder(self._folder)
            proofs = {}
            for claim, fd in opened:
                with _alone(claim):
                    if (proof := _proof_of(claim, fd)) is not None:
                        proofs[claim.record.spool] = proof
        self._journal.prove(proofs)


@contextlib.contextmanager
def _alone(claim: Claim) -> Iterator[None]:
    """Log an error of one spool file, so that the others are proven all the same.

    If the process has no descriptor left, the file is not to blame: the error is passed on.
    """
    try:
        yield
    except FileNotFoundError:
        pass  # the file was uploaded or deleted meanwhile
    except (OSError, Unproven) as error:
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            raise
        if not claim.is_void:  # a void claim: the file may have been cut shorter meanwhile
            log.error("%s would be lost if the power fails now: %s", claim.record.path, error)


def proof_now(claim: Claim) -> Proof | None:
    """The proof of content that the caller has synced; None if a write changed it meanwhile."""
    with _opened(claim.file.path) as fd:
        return _proof_of(claim, fd)


def believed(record: Record, path: Path, boot: str) -> Record:
    """What counts of a row of an earlier mount, whose spool file is at `path`.

    That is the row as it is, or an older content of the same file that is proven. `boot` is the
    name of this boot. Raises Unproven, and NotFound if there is no such file.
    """
    try:
        if record.boot in (boot, None):  # None: written by a version without proofs
            if record.present and path.stat().st_size < record.present[-1][1]:
                raise Unproven("its spool file is shorter than what was closed")
            return record
        with _opened(path) as fd:
            if record.proof is None:
                raise Unproven("the machine went down before all of it was on the disk")
            if _plain(sums_of(fd, record.proof.present, {})) != record.proof.sums:
                raise Unproven("not all of it is on the disk")
            return _as_begun(_as_proven(record, record.proof), fd)
    except FileNotFoundError:
        raise errors.NotFound(f"{path} is gone") from None


def _as_proven(record: Record, proof: Proof) -> Record:
    if (proof.size, proof.present, proof.writes) == (record.size, record.present, record.writes):
        return record
    if (proof.base, proof.base_size) != (packed(record.base), record.base_size) or record.patching:
        raise Unproven("what was closed last of it is not on the disk")
    # Uploads of the newer content that may have happened must not count as uploads of this one.
    return replace(
        record,
        size=proof.size,
        present=proof.present,
        mtime=proof.mtime,
        writes=proof.writes,
        uncertain=record.uncertain if proof.writes == record.writes else (),
    )


def _as_begun(record: Record, fd: int) -> Record:
    """The row of a change in place that may have begun before the power was lost.

    The row said so by then, but only what is proven was synced. An append that had arrived would be
    sent once more. No change in place begins at offset 0 (see `Remote.patch`).
    """
    is_base_needed = record.present and record.present[0][0] > 0
    if record.patching or record.base is None or not is_base_needed:
        return record
    samples = samples_of(lambda offset, count: os.pread(fd, count, offset), record.present)
    return replace(record, patching=samples)


def _proof_of(claim: Claim, fd: int) -> Proof | None:
    record = claim.record
    sums = sums_of(fd, record.present, claim.file.known_sums())
    if not claim.file.learn_sums(sums, claim.overwrites):
        return None
    return Proof(
        size=record.size,
        present=record.present,
        base=packed(record.base),
        base_size=record.base_size,
        mtime=record.mtime,
        writes=record.writes,
        sums=_plain(sums),
    )


def _plain(sums: Sums) -> tuple[int, ...]:
    return tuple(checksum for _, checksum in sums.values())


def sums_of(fd: int, present: tuple[Range, ...], known: Sums) -> Sums:
    """The checksum of each block with present bytes. `known` ones are not computed again."""
    sums: Sums = {}
    for block, ranges in _by_block(present):
        kept = known.get(block)
        if kept is not None and kept[0] == ranges:
            sums[block] = kept
        else:
            checksum = 0
            for start, end in ranges:
                checksum = _sum(fd, start, end, checksum)
            sums[block] = ranges, checksum
    return sums


def _by_block(present: tuple[Range, ...]) -> Iterator[tuple[int, tuple[Range, ...]]]:
    pieces = (
        (block, (max(start, block * SUM_BYTES), min(end, (block + 1) * SUM_BYTES)))
        for start, end in present
        for block in range(start // SUM_BYTES, (end - 1) // SUM_BYTES + 1)
    )
    for block, group in itertools.groupby(pieces, key=lambda piece: piece[0]):
        yield block, tuple(piece for _, piece in group)


def _sum(fd: int, start: int, end: int, checksum: int) -> int:
    while start < end:
        data = os.pread(fd, min(end - start, CHUNK_BYTES), start)
        if not data:
            raise Unproven("its spool file is shorter than what was closed")
        checksum = zlib.crc32(data, checksum)
        start += len(data)
    return checksum


# Syncing.


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _syncfs(folder: Path) -> bool:
    """Sync the whole file system that holds the folder; False if the system has no such call.

    Raises OSError if a file could not be written, as fsync does.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except AttributeError:
        return False
    with _folder_opened(folder) as fd:
        if call(fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True


def _sync_folder(path: Path) -> None:
    with _folder_opened(path) as fd:
        os.fsync(fd)


@contextlib.contextmanager
def _folder_opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
