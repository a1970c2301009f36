"""This machine as a side of a copy.

Owns: how local files and folders are listed, made and deleted. Does not own how a file arrives
(`landing`).

Threading: any thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Sequence, Set

from ftpfs.local import landing
from ftpfs.model.entry import Entry, FolderAttributes, Kind

log = logging.getLogger(__name__)


class Local:
    """The files of this machine."""

    def __init__(self, *, follows_links: bool = False) -> None:
        """`follows_links`: a link to a file counts as that file, because FTP makes no links."""
        self._follows_links = follows_links
        self._umask = _umask()

    def join(self, folder: str, name: str) -> str:
        return os.path.join(folder, name)

    def list(self, path: str) -> list[Entry]:
        with os.scandir(path) as found:
            return [self._entry(each) for each in found if not landing.is_temporary(each.name)]

    def stat(self, path: str) -> Entry | None:
        try:
            return _entry_of(os.path.basename(path), os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(path):
                return Entry(os.path.basename(path), Kind.LINK, target=os.readlink(path))
            return None

    def links_in(self, path: str) -> Set[str]:  # noqa: ARG002 (`list` tells)
        return frozenset()

    def make_folder(self, path: str, mode: int | None) -> None:
        os.mkdir(path, 0o777 if mode is None else mode & 0o777 | 0o700)

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> None:
        for path, mode, mtime in wanted:
            try:
                if mode is not None:
                    # The owner keeps all rights: the next run has to write here, too.
                    os.chmod(path, mode & 0o777 & ~self._umask | 0o700)
                if mtime is not None:
                    os.utime(path, (mtime, mtime))
            except (OSError, OverflowError) as error:
                log.info("%s: time and mode were not set: %s", path, error)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def remove_folder(self, path: str) -> None:
        os.rmdir(path)

    def file_mode(self, mode: int | None) -> int | None:
        """The mode of a new file that has `mode` on the server. No file becomes setuid."""
        return None if mode is None else mode & 0o777 & ~self._umask

    def full_mode(self, mode: int | None) -> int:
        """`mode`, or that of any new file."""
        return 0o666 & ~self._umask if mode is None else mode

    def _entry(self, found: os.DirEntry[str]) -> Entry:
        if not found.is_symlink():
            return _entry_of(found.name, found.stat(follow_symlinks=False))
        if self._follows_links:
            with contextlib.suppress(OSError):
                status = os.stat(found.path)
                if stat.S_ISREG(status.st_mode):
                    return _entry_of(found.name, status)
        return Entry(found.name, Kind.LINK, target=os.readlink(found.path))


def folds_case(folder: str) -> bool:
    """Whether the disk of this folder takes names that differ in case for one name.

    Makes a temporary file to find out. False if that is not possible.
    """
    path = landing.temporary_in(folder)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            return os.path.exists(os.path.join(folder, os.path.basename(path).upper()))
        finally:
            os.unlink(path)
    except OSError:
        return False


def _umask() -> int:
    """The umask of this process. Only threads that begin at this moment could see the other one."""
    now = os.umask(0o077)
    os.umask(now)
    return now


def _entry_of(name: str, status: os.stat_result) -> Entry:
    kind = Kind.OTHER
    if stat.S_ISREG(status.st_mode):
        kind = Kind.FILE
    elif stat.S_ISDIR(status.st_mode):
        kind = Kind.DIRECTORY
    mtime = status.st_mtime_ns // 1_000_000_000
    return Entry(name, kind, status.st_size, mtime, True, stat.S_IMODE(status.st_mode))
