"""Temporary files that a killed `put` left on its server: the next command or mount deletes them.

An upload goes to a temporary name. Meanwhile a note on this machine has the folder and the owner in
that name. The process locks the note, and removes it at its end, unless an upload lost its server.
A note that nobody locks belongs to a process that was killed or lost its server. The next command
or mount with that login lists these folders once, and deletes the files of that owner. Without such
notes it costs nothing.

A note has a line for each folder into which uploads begin (`+/folder`), and one when the last of
them has ended (`-/folder`): so a tree of any size leaves a few folders to look into.

Threading: any thread, for uploads; one lock guards the counts and the order of the lines. Writing
such a line takes microseconds, so it is done under the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import posixpath
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ftpfs import errors
from ftpfs.daemon import places
from ftpfs.ftp.remote import Remote

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since Python 3.11

log = logging.getLogger(__name__)


class Note:
    """The note of uploads under way, for the duration of a `with` block."""

    def __init__(self, remote: Remote, owner: str) -> None:
        """`owner`: the 8 hex digits in the names of the temporary files."""
        self._remote = remote
        self._prefix = _prefix(remote.login)
        self._owner = owner
        self._file = _folder() / f"{self._prefix}{owner}"
        self._descriptor = -1
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._running: Counter[str] = Counter()  # uploads in each folder
        self._left: set[str] = set()  # folders in which an upload may have left something
        try:
            _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
            self._descriptor = os.open(self._file, flags, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            log.info("no note of these uploads: %s", error)

    @contextlib.contextmanager
    def uploading(self, path: str) -> Iterator[None]:
        """While a file is sent to `path`."""
        # The path on the server, because another process may have another root.
        folder = posixpath.dirname(self._remote.on_server(path)) or "/"
        with self._lock:
            self._running[folder] += 1
            if self._running[folder] == 1:
                self._write("+", folder)
        try:
            yield
        except (errors.FtpfsError, OSError) as error:
            self._end(folder, clean=not isinstance(error, errors.NetworkError))
            raise
        except BaseException:
            self._end(folder, clean=False)
            raise
        else:
            self._end(folder, clean=True)

    def _end(self, folder: str, *, clean: bool) -> None:
        with self._lock:
            self._running[folder] -= 1
            if not clean:
                self._left.add(folder)
            if not self._running[folder]:
                del self._running[folder]
                if folder not in self._left:
                    self._write("-", folder)

    def _write(self, sign: str, folder: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, os.fsencode(f"{sign}{folder}\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._delete_own()
        with contextlib.suppress(OSError):
            with self._lock:
                nothing_left = not self._running and not self._left
            if nothing_left:
                self._file.unlink()
            os.close(self._descriptor)

    def _delete_own(self) -> None:
        """Delete what broken uploads left, on a new connection: theirs broke off with them."""
        with self._lock:
            folders = [] if self._running else list(self._left)
        for folder in folders:
            with contextlib.suppress(errors.FtpfsError):
                self._remote.delete_temporaries(folder, self._owner)
                self._left.discard(folder)


def clean_up(remote: Remote) -> None:
    """Delete the files that earlier uploads left. After a failure the next process retries."""
    for file, owner, folders in abandoned(remote.login):
        with contextlib.suppress(errors.FtpfsError, OSError):
            for folder in folders:
                # 550: the folder is gone, or may not be listed any more.
                with contextlib.suppress(errors.NotFound, errors.Unavailable):
                    remote.delete_temporaries(folder, owner)
            file.unlink()


def abandoned(login: str) -> Iterator[tuple[Path, str, list[str]]]:
    """The notes of this login that no process holds: the file, the owner, the folders."""
    prefix = _prefix(login)
    with contextlib.suppress(OSError):
        for file in sorted(_folder().glob(f"{prefix}*")):
            with file.open("rb") as reading:
                try:
                    fcntl.flock(reading, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                folders = _folders_in(reading.read())
            yield file, file.name.removeprefix(prefix), folders


def _folders_in(note: bytes) -> list[str]:
    """The folders in which uploads had begun and not ended. A torn last line counts, too."""
    found: dict[str, None] = {}
    for line in os.fsdecode(note).split("\n"):
        if line.startswith("+"):
            found[line[1:]] = None
        elif line.startswith("-"):
            found.pop(line[1:], None)
    return list(found)


def _folder() -> Path:
    return places.state() / "puts"


def _prefix(login: str) -> str:
    return hashlib.sha256(login.encode("utf-8", "surrogateescape")).hexdigest()[:16] + "-"
