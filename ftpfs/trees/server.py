"""A server as a side of a copy.

Threading: any thread; each call leases a session.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Sequence, Set

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, FolderAttributes, Kind
from ftpfs.model.names import check_name

log = logging.getLogger(__name__)

# The folder that everybody may look into. A mode that lacks one of these bits is set at once.
_PUBLIC = 0o055


class Server:
    """The files of one server, below the root of `remote`."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    def join(self, folder: str, name: str) -> str:
        return posixpath.join(folder, name)

    def list(self, path: str) -> list[Entry]:
        return self.remote.list(path)

    def stat(self, path: str) -> Entry | None:
        """One entry. A link is followed if it leads to a folder."""
        try:
            entry = self.remote.stat(path)
        except (errors.NotFound, errors.NotADirectory):
            return None
        if entry.kind is Kind.LINK:
            try:
                self.remote.list(path)
            except errors.FtpfsError:
                return entry
            return Entry(entry.name, Kind.DIRECTORY)
        return entry

    def links_in(self, path: str) -> Set[str]:
        if self.remote.profile.listings.mlsd is False:
            return frozenset()  # LIST tells
        return {entry.name for entry in self.remote.links(path)}

    def make_folder(self, path: str, mode: int | None) -> None:
        check_name(path)
        self.remote.check_name(path)
        self.remote.mkdir(path)
        if mode is not None and mode & _PUBLIC != _PUBLIC:
            try:
                self.remote.chmod(path, mode & 0o777 | 0o700)
            except errors.NetworkError:
                raise
            except errors.FtpfsError as error:
                log.warning("%s: others may look into it, its mode was not set: %s", path, error)

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> None:
        if self.remote.sets_on_folders()[1] is None:
            self._learn_folder_times(wanted)
        modes, times = self.remote.sets_on_folders()
        settable = [
            FolderAttributes(
                path,
                None if mode is None or modes is False else mode & 0o777,
                mtime if times else None,
            )
            for path, mode, mtime in wanted
        ]
        settable = [each for each in settable if each.mode is not None or each.mtime is not None]
        if not settable:
            return
        for path, why in self.remote.set_on_folders(settable):
            log.info("%s: time and mode were not set: %s", path, why)

    def _learn_folder_times(self, wanted: Sequence[FolderAttributes]) -> None:
        """Set one time alone: its refusal shows whether the server sets times of folders."""
        for path, _, mtime in wanted:
            if mtime is not None:
                try:
                    self.remote.set_mtime(path, mtime, directory=True)
                except errors.NetworkError:
                    raise
                except errors.FtpfsError as error:
                    log.info("%s: its time was not set: %s", path, error)
                return

    def remove(self, path: str) -> None:
        self.remote.remove(path)

    def remove_folder(self, path: str) -> None:
        self.remote.rmdir(path)
