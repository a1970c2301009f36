"""Resuming: large files that a run leaves unfinished, and the next run finishes.

*Problem.* A run that is interrupted in the middle of a large file leaves nothing of it: files
appear when they are complete. So the next run begins that file again.

*The obvious solution* is to write under the final name, and to go on at its size, like `wget -c`.

*Why that fails.* Nobody can tell a part of the present version from a part of an old one, or from a
whole old one that was shorter. The result is a mixture that has the right size.

*What we do.* A part lies under a hidden name beside its target. The name is made from the target's
name, and from the size and the time of the source: another version finds no part. Before a run goes
on, it compares the last bytes of the part on both sides, because a crash or a lost connection tears
the end. Afterwards the size has to be right, and the checksum, too, if the server tells one. Only a
run that was asked to resume leaves parts.

Owns: the names of parts, and the checks. `ways` and `sending` move the bytes.

Threading: any thread; a part belongs to one thread of one process, which locks it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import posixpath
import socket
from collections.abc import Iterator

from ftpfs import errors
from ftpfs.ftp import digest
from ftpfs.ftp.connections.transfers import Download
from ftpfs.ftp.remote import Remote
from ftpfs.local import landing
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import HIDDEN_PREFIX
from ftpfs.trees.pieces import Gaps

log = logging.getLogger(__name__)

# Smaller files (bytes) are quicker copied again.
LEAST_BYTES = 4 << 20
# How much of a part's end is compared (bytes).
_TAIL_BYTES = 64 << 10
# A longer note of what is missing in a part is none of ours (bytes).
_MOST_NOTE_BYTES = 64 << 10


class InUseError(Exception):
    """Another process works on the same part."""


def is_resumable(entry: Entry) -> bool:
    """Whether a part of this file can be told from one of another version, and is worth it."""
    is_known = entry.size is not None and entry.mtime is not None
    return entry.kind is Kind.FILE and is_known and (entry.size or 0) >= LEAST_BYTES


# Parts on this machine.


@contextlib.contextmanager
def part_here(target: str, entry: Entry, mode: int) -> Iterator[int]:
    """A descriptor of the part of `target` on this machine.

    If the block ends without an error, it gets the time, the `mode` and the name of the target.
    After an error it stays, if something is in it. Raises InUseError, OSError.
    """
    landing.check_replaceable(target)
    folder, name = os.path.split(target)
    path = os.path.join(folder, landing.part_name(name, f"{entry.size} {entry.mtime}"))
    _delete_old_parts(folder, name, keep=path)
    descriptor = _open_locked(path)
    try:
        yield descriptor
        os.fchmod(descriptor, mode)
        if entry.mtime is not None:
            with contextlib.suppress(OSError, OverflowError):  # a time that this disk lacks
                os.utime(descriptor, (entry.mtime, entry.mtime))
        os.replace(path, target)
    except BaseException:
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_size:
                os.fsync(descriptor)
            else:
                os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _open_locked(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The process that had it may have finished and renamed it just now.
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            raise InUseError
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise InUseError from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _delete_old_parts(folder: str, name: str, *, keep: str) -> None:
    """Delete parts of other versions of this file, unless a process works on them."""
    with os.scandir(folder) as found:
        old = [each.path for each in found if landing.is_part_of(each.name, name)]
    for path in old:
        if path != keep:
            with contextlib.suppress(OSError, InUseError):
                descriptor = _open_locked(path)
                os.unlink(path)
                os.close(descriptor)


def overlap_of(have: int) -> int:
    """How many bytes at the end of a part of `have` bytes are received again, to compare them."""
    return min(have, _TAIL_BYTES)


def check_overlap(download: Download, descriptor: int, have: int, count: int) -> None:
    """Compare the first `count` bytes of a download with those before the byte `have` of a part.

    Raises DataMismatch.
    """
    if download.read(count) != os.pread(descriptor, count, have - count):
        raise errors.DataMismatch("the part of an earlier run does not fit")


# A part by several streams has gaps. What is missing is noted behind the last byte of the file.


def save_gaps(descriptor: int, size: int, gaps: Gaps, *, goes_on: bool) -> None:
    """Note in the part of a file of `size` bytes what is missing. Raises OSError.

    `goes_on`: streams write to it. Else a part that has all bytes to one place needs no note.
    """
    os.fdatasync(descriptor)  # what is not noted as missing is on the disk, also after a crash
    if not goes_on and len(gaps) == 1 and gaps[0][1] == size:
        os.ftruncate(descriptor, gaps[0][0])
        return
    note = json.dumps(gaps).encode()
    os.pwrite(descriptor, note, size)
    os.ftruncate(descriptor, size + len(note))


def gaps_in(descriptor: int, size: int) -> Gaps:
    """What is missing of a file of `size` bytes in this part. A part that is torn lacks all."""
    have = os.fstat(descriptor).st_size
    if have <= size:
        return [(have, size)] if have < size else []
    try:
        gaps = [(int(begin), int(end)) for begin, end in json.loads(_note_in(descriptor, size))]
    except (ValueError, TypeError):
        return [(0, size)]
    bounds = [0, *(bound for gap in gaps for bound in gap), size]
    return gaps if bounds == sorted(bounds) else [(0, size)]


def _note_in(descriptor: int, size: int) -> bytes:
    return os.pread(descriptor, _MOST_NOTE_BYTES, size)


# Parts on the server.


def part_there(target: str, status: os.stat_result) -> str:
    """The path of the part of `target` on the server that this machine sends.

    It has the form of a temporary name: mounts and commands delete it a day after its last write.
    """
    host = socket.gethostname()
    version = f"{target}\n{status.st_size} {status.st_mtime_ns} {status.st_ino} {host}"
    digits = hashlib.sha256(version.encode("utf-8", "surrogateescape")).hexdigest()
    when = int(status.st_mtime) & 0xFFFFFFFF
    name = f"{HIDDEN_PREFIX}{digits[:8]}-{when:08x}-{digits[8:16]}.tmp"
    return posixpath.join(posixpath.dirname(target), name)


def begin_there(remote: Remote, part: str, descriptor: int, size: int) -> int:
    """How many bytes the server has of a file of `size`. 0: no part, or one that was deleted."""
    try:
        have = remote.stat(part).size or 0
    except errors.NotFound:
        return 0
    start = max(0, have - _TAIL_BYTES)
    if 0 < have <= size:
        with contextlib.suppress(errors.NotSupported):
            with remote.open_read(part, start) as download:
                there = download.read(have - start)
            if there == os.pread(descriptor, have - start, start):
                log.info("%s: going on at byte %d", part, have)
                return have
    remote.remove(part)
    return 0


# Both.


def check_whole(remote: Remote, path: str, descriptor: int, size: int) -> None:
    """Compare checksums, if the server tells one. Raises DataMismatch."""
    told = remote.digest_of(path, size)
    if told is None:
        return
    here = digest.of(
        told.algorithm, size, lambda offset, count: os.pread(descriptor, count, offset), 1 << 20
    )
    if here != told:
        raise errors.DataMismatch(f"{path}: its {told.algorithm} is wrong after it was resumed")
