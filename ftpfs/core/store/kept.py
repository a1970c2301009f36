"""The kept paths of one server: what the user wants to have on this machine at all times.

Owns one small file in the store's folder, which all mounts of that server share, and which the next
mount finds. It is replaced as a whole, after it was synced to the disk. So a crash leaves the old
one or the new one. Does not know the contents: those are marked one by one (`contents`).

Threading: any thread and any process. Changes are made one at a time, by a lock on a file beside.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

from ftpfs import errors
from ftpfs.local import private
from ftpfs.model.names import is_within
from ftpfs.model.status import Kept

log = logging.getLogger(__name__)

FILE, LOCK, LOOKING = "kept", "kept.lock", "looking.lock"
# A file that cannot be read is set aside under this name, and nothing is kept.
DAMAGED = "kept.damaged"
VERSION = 1


class KeptPaths:
    """The kept paths in the store at `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # What was read last, and of which file (inode, time in ns): replaced as a whole.
        self._read: tuple[tuple[int, int], dict[str, Kept]] = (0, 0), {}

    def all(self) -> dict[str, Kept]:
        """All kept paths; an empty dict if the file cannot be read."""
        try:
            return dict(self._current())
        except (OSError, errors.FtpfsError) as error:
            log.warning("the kept paths in %s: %s", self._folder, error)
            return {}

    def paths(self) -> list[str]:
        return list(self.all())

    def covers(self, path: str) -> bool:
        """Whether `path` is kept, by itself or with a folder above."""
        return any(is_within(path, each) for each in self.all())

    def add(self, path: str) -> None:
        """Keep a path from now on. Raises FtpfsError if that cannot be noted."""
        self._change(lambda known: known.setdefault(path, Kept(path)))

    def drop(self, path: str) -> bool:
        """Keep a path no longer. False: it was not kept by itself. Raises FtpfsError."""
        if path not in self.all():
            return False
        self._change(lambda known: known.pop(path, None))
        return True

    def clear(self) -> None:
        """Keep nothing any more. Raises FtpfsError."""
        self._change(lambda known: known.clear())

    def note(self, kept: Kept) -> None:
        """Note how a path was found, if it is still kept. Raises FtpfsError."""

        def change(known: dict[str, Kept]) -> None:
            if kept.path in known:
                known[kept.path] = kept

        self._change(change)

    @contextlib.contextmanager
    def looking(self) -> Iterator[bool]:
        """Whether this mount may look now. While it does, no other mount looks.

        Raises OSError.
        """
        fd = self._opened(LOOKING)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def _current(self) -> dict[str, Kept]:
        """What is in the file, which is read only if it was replaced."""
        try:
            found = os.lstat(self._folder / FILE)
        except FileNotFoundError:
            return {}
        stamp, known = self._read
        if stamp != (found.st_ino, found.st_mtime_ns):
            private.check_file(self._folder / FILE)
            known = self._parsed((self._folder / FILE).read_bytes())
            self._read = (found.st_ino, found.st_mtime_ns), known
        return known

    def _parsed(self, data: bytes) -> dict[str, Kept]:
        names = {each.name for each in fields(Kept)}
        try:
            rows = json.loads(data)["paths"]
            found = [Kept(**{k: v for k, v in row.items() if k in names}) for row in rows]
            return {each.path: replace(each, path=str(each.path)) for each in found}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s is damaged, nothing is kept: %s", self._folder / FILE, error)
            (self._folder / FILE).replace(self._folder / DAMAGED)
            return {}

    def _change(self, change: Callable[[dict[str, Kept]], object]) -> None:
        try:
            with self._locked():
                known = dict(self._current())
                change(known)
                self._write(known)
        except OSError as error:
            raise errors.FtpfsError(f"what is kept cannot be noted: {error}") from error

    def _write(self, known: dict[str, Kept]) -> None:
        rows = [asdict(each) for each in known.values()]
        # Names that are not UTF-8 are lone surrogates, which JSON takes as escapes.
        data = json.dumps({"version": VERSION, "paths": rows}, indent=1).encode("ascii")
        new = self._folder / f"{FILE}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(new, flags, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        new.replace(self._folder / FILE)
        above = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(above)
        finally:
            os.close(above)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = self._opened(LOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _opened(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._folder / name, flags, 0o600)


def outermost(paths: list[str]) -> list[str]:
    """These paths, without those that lie below another one."""
    return [path for path in paths if not any(is_within(path, p) and path != p for p in paths)]
