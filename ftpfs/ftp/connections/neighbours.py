"""Neighbours: other processes of this user at the same server that share the state folder.

Owns a folder for each server, with a file for each process that has connections there; and tells
which of these processes are alive. Sends nothing to the server. The pool decides how connections
are shared.

A process holds a lock on its file as long as it lives. A file without a lock belongs to a process
that has ended, in whatever way; the next process that finds the file deletes it. A pid would not be
enough: the system reuses pids, and a pid means nothing across containers that share a folder.

The folder is a convenience. If it cannot be used, no neighbour is known, and the log says why.

Threading: any thread. `_lock` has Rank.NEIGHBOURS.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

from ftpfs import errors
from ftpfs.local import private
from ftpfs.model.locks import Rank, ranked_lock

log = logging.getLogger(__name__)

MAX_BYTES = 4096  # limit of a file


class Neighbour(NamedTuple):
    """Another process at the server: its pid, its mount point or command, its connections."""

    pid: int
    what: str
    connections: int

    def line(self) -> str:
        holds = f"{self.connections} connection{'s' * (self.connections != 1)}"
        return errors.printable(f"process {self.pid} ({self.what}) holds {holds}")


class Neighbours:
    """This process's file among those of one server."""

    def __init__(self, folder: Path, what: str) -> None:
        self._folder = folder
        self._what = what
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._lock = ranked_lock(Rank.NEIGHBOURS)
        # Guarded by _lock:
        self._file: io.FileIO | None = None
        self._told: int | None = None
        self._usable = True

    def look(self, connections: int) -> tuple[Neighbour, ...]:
        """Publish how many connections this process has; return the others. Never raises."""
        with self._lock:
            if not self._usable:
                return ()
            try:
                self._tell_locked(connections)
                return tuple(self._others())
            except (OSError, errors.FtpfsError) as error:
                log.info("cannot find other processes at this server: %s", error)
                self._usable = False
                return ()

    def close(self) -> None:
        """Remove this process from the folder, because it has no connections any more."""
        with self._lock:
            self._usable = False
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._folder / self._name)
                file.close()

    def _tell_locked(self, connections: int) -> None:
        file = self._file
        if file is None:
            private.make_folder(self._folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = io.FileIO(os.open(self._folder / self._name, flags, 0o600), "r+")
            fcntl.flock(file, fcntl.LOCK_EX)  # a reading process holds the lock for a moment
            self._file = file
        if connections != self._told:
            told = {"pid": os.getpid(), "what": self._what, "connections": connections}
            # Shorter than a page, so a reader finds either the old content or the new.
            os.pwrite(file.fileno(), json.dumps(told).ljust(512).encode(), 0)
            self._told = connections

    def _others(self) -> list[Neighbour]:
        found = (self._read(path) for path in self._folder.iterdir() if path.name != self._name)
        return sorted(other for other in found if other is not None)

    @staticmethod
    def _read(path: Path) -> Neighbour | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None  # the process has just ended
        try:
            content = os.read(fd, MAX_BYTES)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if content:  # a file is empty while its process is making it
                    os.unlink(path)
                return None
            told = json.loads(content)
            return Neighbour(int(told["pid"]), str(told["what"]), max(0, int(told["connections"])))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        finally:
            os.close(fd)
