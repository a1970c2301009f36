"""Descriptors of local files, opened when they are needed.

Thousands of closed files may wait for a server that is away, but a process may have only 256 or
1024 open descriptors. So a waiting file holds none. Of the files that no thread uses, only the last
few stay open, and all of those are closed when the process has no descriptor left for another file.

Threading: any thread. `_lock` has Rank.DESCRIPTORS; no file is opened or closed under it.
"""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

from ftpfs import errors
from ftpfs.model.locks import Rank, ranked_lock

# Limit of idle descriptors: half of what is left after RESERVED for connections, logs, the journal
# and caches, and never more than MOST_IDLE.
RESERVED = 128
MOST_IDLE = 512
FEWEST_IDLE = 8

OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


class Descriptors:
    """The descriptors of one spool's files."""

    def __init__(self, most_idle: int | None = None) -> None:
        self._most_idle = _share_of_limit() if most_idle is None else most_idle
        self._lock = ranked_lock(Rank.DESCRIPTORS)
        self._idle: dict[LocalFile, None] = {}  # longest idle first; guarded by _lock

    def open(self, path: Path, flags: int) -> int:
        """Like os.open. If the process has no descriptor left, close the idle ones and retry.

        Raises OSError.
        """
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno not in OUT_OF_DESCRIPTORS or not self.close_idle():
                raise
            return os.open(path, flags, 0o600)

    def close_idle(self) -> int:
        """Close all idle descriptors. Returns how many they were."""
        with self._lock:
            idle = [file.fd for file in self._idle if file.fd is not None]
            for file in self._idle:
                file.fd = None
            self._idle.clear()
        for fd in idle:
            os.close(fd)
        return len(idle)

    def take(self, file: LocalFile) -> int:
        with self._lock:
            if file.is_closed:
                raise errors.BadHandle(f"{file.path} is closed")
            if file.fd is not None:
                self._idle.pop(file, None)
                file.users += 1
                return file.fd
        try:
            fd = self.open(file.path, os.O_RDWR)
        except FileNotFoundError:
            if file.is_closed:  # another thread closed and deleted it meanwhile
                raise errors.BadHandle(f"{file.path} is closed") from None
            raise
        with self._lock:
            spare = fd if file.fd is not None else None
            if file.fd is None:
                file.fd = fd
            self._idle.pop(file, None)
            file.users += 1
            fd = file.fd
        if spare is not None:
            os.close(spare)
        return fd

    def give_back(self, file: LocalFile) -> None:
        with self._lock:
            file.users -= 1
            surplus = self._rest_locked(file)
        if surplus is not None:
            os.close(surplus)

    def rest(self, file: LocalFile) -> None:
        """Count a file that was just opened, and that no thread uses, as idle."""
        with self._lock:
            surplus = self._rest_locked(file)
        if surplus is not None:
            os.close(surplus)

    def close(self, file: LocalFile) -> None:
        """Close the file's descriptor, or have the last thread that uses it close it."""
        with self._lock:
            file.is_closed = True
            surplus = self._rest_locked(file)
        if surplus is not None:
            os.close(surplus)

    def _rest_locked(self, file: LocalFile) -> int | None:
        """Make an unused file idle. Returns the descriptor that the caller has to close, if any."""
        if file.users or file.fd is None:
            return None
        if not file.is_closed:
            self._idle[file] = None
            if len(self._idle) <= self._most_idle:
                return None
            file = next(iter(self._idle))
        self._idle.pop(file, None)
        fd, file.fd = file.fd, None
        return fd


class Held:
    """The block of `LocalFile.held`. A class and no generator: five are entered for a small file
    that is written, and a generator costs three times as much."""

    __slots__ = ("_descriptors", "_file")

    def __init__(self, descriptors: Descriptors, file: LocalFile) -> None:
        self._descriptors = descriptors
        self._file = file

    def __enter__(self) -> int:
        return self._descriptors.take(self._file)

    def __exit__(self, *_: object) -> None:
        self._descriptors.give_back(self._file)


class LocalFile:
    """A file that has a descriptor while a thread uses it, and perhaps afterwards.

    `fd`, `users` and `is_closed` belong to its `Descriptors`, and are guarded by their lock.
    """

    def __init__(self, descriptors: Descriptors, path: Path, fd: int | None = None) -> None:
        self.path = path
        self.fd = fd
        self.users = 0
        self.is_closed = False
        self._descriptors = descriptors
        if fd is not None:
            descriptors.rest(self)

    def held(self) -> Held:
        """A block that has the file's descriptor, which stays open meanwhile.

        Raises OSError, or BadHandle after the file was closed.
        """
        return Held(self._descriptors, self)

    def let_go(self) -> None:
        """Close the file when the last thread that uses it is done."""
        self._descriptors.close(self)


def _share_of_limit() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MOST_IDLE
    return max(FEWEST_IDLE, min(MOST_IDLE, (limit - RESERVED) // 2))
