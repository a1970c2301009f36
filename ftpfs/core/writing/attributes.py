"""Modes and times that programs set on files and folders.

Owns: the choice how a mode or time reaches the server: with an upload that is due, noted for a
folder that was made here (`folders`), or by a command of its own.

Threading: any; no lock of its own. Sending a command takes exclusive use of the open file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.names.known import KnownNames
from ftpfs.core.writing.folders import Folders, Job
from ftpfs.core.writing.queue import UploadQueue
from ftpfs.model.entry import Kind
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# The range of times that can be set (seconds since the epoch). FTP writes years with four digits,
# in the server's zone, which gives the upper limit. Disks and many servers count in 32 bits, which
# gives the lower.
_FIRST_TIME, _LAST_TIME = -(1 << 31), 253_402_128_000

_ENTER = 0o100  # the owner's right to enter a folder


class ModesAndTimes:
    """Sets modes and times in one mount."""

    def __init__(
        self,
        remote: Remote,
        files: OpenFiles,
        folders: Folders,
        known: KnownNames,
        queue: UploadQueue[Job],
    ) -> None:
        self._remote = remote
        self._files = files
        self._folders = folders
        self._known = known
        self._queue = queue

    def chmod(self, path: str, mode: int) -> None:
        """Set the mode. Raises NotSupported where the server has no SITE CHMOD."""
        path = self._files.known_as(path)
        mode &= 0o7777
        if self._goes_with_upload(path, mode=mode) or self._is_noted(path, mode=mode):
            return
        with self._files.exclusive(path) as (file,):
            if file and file.set_for_upload(mode=mode):
                return
            # If files wait to be sent into the folder, the owner keeps all rights until then.
            closes = not mode & _ENTER and self._folders.waiting(path)
            now = mode | 0o700 if closes or self._to_be_sent_into(path, mode) else mode
            with self._folders.setting(path, mode=now):
                self._remote.chmod(path, now)
            if now == mode or not self._is_noted(path, mode=mode):
                self._known.tree.update(path, mode=now)
            if file:
                file.basis.note_set(mode=mode)

    def set_mtime(self, path: str, seconds: int) -> None:
        """Set the modification time.

        A time outside of what FTP can express is set to the nearest one, as disks do.
        """
        told, seconds = seconds, min(max(seconds, _FIRST_TIME), _LAST_TIME)
        if told != seconds:
            log.info(
                "%s: its time is out of range, and set to %d instead of %d", path, seconds, told
            )
        path = self._files.known_as(path)
        if self._goes_with_upload(path, mtime=seconds) or self._is_noted(path, mtime=seconds):
            return
        with self._files.exclusive(path) as (file,):
            if file and file.set_for_upload(mtime=seconds):
                return
            directory = not file and self._known.tree.lookup(path).kind is Kind.DIRECTORY
            try:
                with self._folders.setting(path, mtime=seconds):
                    shown = self._remote.set_mtime(path, seconds, directory=directory)
            except errors.NetworkError:
                # If the server has set it, its new time is not a change by somebody else.
                self._known.outdated(path)
                if file:
                    file.basis.note_perhaps_set(seconds)
                raise
            self._known.tree.update(path, mtime=shown)
            if self._to_be_sent_into(path):  # each upload into the folder changes its time again
                self._is_noted(path, mtime=seconds)
            if file:
                file.basis.note_set(mtime=shown)

    def _goes_with_upload(
        self, path: str, *, mtime: int | None = None, mode: int | None = None
    ) -> bool:
        """Whether an upload that is due or under way sets it. Does not wait for the upload."""
        file = self._files.at(path)
        if file is None or not file.set_for_upload(mtime=mtime, mode=mode):
            return False
        self._queue.renew(file)
        return True

    def _is_noted(self, path: str, *, mtime: int | None = None, mode: int | None = None) -> bool:
        """Note it for a folder, to be set after the files closed in it. False: not possible."""
        waiting = self._to_be_sent_into(path, mode)
        if not self._folders.set(path, waiting, mode=mode, mtime=mtime):
            return False
        for file in waiting:
            if not self._will_be_sent(file):  # the file was uploaded meanwhile
                self._folders.file_ended(file)
        self._known.tree.update(path, mode=mode, mtime=mtime)
        return True

    def _to_be_sent_into(self, folder: str, mode: int | None = None) -> list[OpenFile]:
        """The closed files that will be uploaded into a folder that was made here.

        If `mode` lets nobody enter the folder, also the files that go into folders below it.
        """
        if not self._folders.is_ours(folder):
            return []
        inside: Iterable[OpenFile] = self._files.in_folder(folder).values()
        if mode is not None and not mode & _ENTER:
            inside = self._files.below(folder)
        return [file for file in inside if self._will_be_sent(file)]

    def _will_be_sent(self, file: OpenFile) -> bool:
        return file.closed_unsent and self._queue.state_of(file) != "failed"
