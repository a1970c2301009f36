"""Temporary files that a killed `put` left on its server: the next `put` deletes them.

An upload goes to a temporary name. Meanwhile a note on this machine has the folder and the owner in
that name. The process locks the note, and removes it when the upload succeeds. A note that nobody
locks belongs to a process that was killed or lost its server. The next `put` to that server lists
the folder once, and deletes the files of that owner. Without such notes it costs nothing.

Threading: one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ftpfs import errors
from ftpfs.daemon import places
from ftpfs.ftp.remote import Remote
from ftpfs.settings.source import Source

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing since Python 3.11

log = logging.getLogger(__name__)


class Note:
    """The note of an upload under way. The end of its `with` block without an error removes it."""

    def __init__(self, url: Source, path: str, owner: str) -> None:
        """`owner`: the 8 hex digits in the names of the temporary files."""
        self._prefix = _prefix(url)
        self._file = _folder() / f"{self._prefix}{owner}"
        self._descriptor = -1
        try:
            _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._file, os.O_CREAT | os.O_WRONLY, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            os.write(self._descriptor, os.fsencode(posixpath.dirname(path) or "/"))
        except OSError as error:
            log.info("no note of this upload: %s", error)

    def clean_up(self, remote: Remote) -> None:
        """Delete the files that earlier uploads left. After a failure the next `put` retries."""
        for file, owner, folder in self._abandoned():
            with contextlib.suppress(errors.FtpfsError, OSError):
                with contextlib.suppress(errors.NotFound):
                    remote.delete_temporaries(folder, owner)
                file.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError):
            if kind is None:
                self._file.unlink()
            os.close(self._descriptor)

    def _abandoned(self) -> Iterator[tuple[Path, str, str]]:
        with contextlib.suppress(OSError):
            for file in sorted(_folder().glob(f"{self._prefix}*")):
                with file.open("rb") as reading:
                    try:
                        fcntl.flock(reading, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    folder = os.fsdecode(reading.read(8192))
                yield file, file.name.removeprefix(self._prefix), folder


def _folder() -> Path:
    return places.state() / "puts"


def _prefix(url: Source) -> str:
    text = f"{url.user}@{url.host}:{url.port}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16] + "-"
