"""The spool: local files that hold what was written until the server has it.

Owns: the spool folder, a file's written bytes and which of them are real. Does not upload by
itself and does not know what lies below the written parts: `openfile` joins it with a reader.

Spool files are sparse and named after nothing; a file that is closed and uploaded is deleted. What
could not be uploaded for good is kept under `kept/`, with the name it was meant for.

Threading: a SpoolFile belongs to one OpenFile, whose locks protect it: one for its bytes, another
for `present`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from ftpfs import errors
from ftpfs.core.ranges import RangeSet

log = logging.getLogger(__name__)

KEPT = "kept"


class Spool:
    """The folder, 0700: one per mount."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)

    def open(self) -> SpoolFile:
        """A new, empty spool file (0600). Raises NoSpace."""
        path = self._folder / f"{secrets.token_hex(8)}.spool"
        with _disk_errors():
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return SpoolFile(fd, path)

    def keep(self, file: SpoolFile, name: str) -> Path:
        """Set aside a spool file whose upload failed for good; where it lies now."""
        kept = self._folder / KEPT
        kept.mkdir(mode=0o700, exist_ok=True)
        plain = "".join(c if c.isalnum() or c in "._- " else "_" for c in name)[-100:]
        target = kept / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}-{plain}"
        file.path.rename(target)
        return target

    def remove(self) -> None:
        """Delete the folder, if nothing is left in it."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


class SpoolFile:
    """Bytes of one file. `present` tells which are real; the rest reads as zeros."""

    def __init__(self, fd: int, path: Path) -> None:
        self.path = path
        self.present = RangeSet()
        self._fd = fd

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

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; zeros where nothing was written."""
        with _disk_errors():
            data = os.pread(self._fd, size, offset)
        return data if len(data) == size else data.ljust(size, b"\0")

    def readinto(self, offset: int, view: memoryview) -> int:
        """Fill all of `view`; zeros where nothing was written."""
        with _disk_errors():
            count = os.preadv(self._fd, [view], offset)
        if count < len(view):
            view[count:] = bytes(len(view) - count)
        return len(view)

    def truncate(self, size: int) -> None:
        """Forget what lies beyond `size`: grown again, it reads as zeros. `present` is left to the
        caller."""
        with _disk_errors():
            os.ftruncate(self._fd, min(size, os.fstat(self._fd).st_size))

    def close(self, *, delete: bool = True) -> None:
        os.close(self._fd)
        if delete:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.NoSpace("the disk that holds the spool is full") from error
        raise
