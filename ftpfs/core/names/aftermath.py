"""Aftermath: what follows here from a rename or deletion that the server has done.

Owns: the order in which listings, journal, open files and folders follow it.

Threading: any; no lock of its own. The caller has exclusive use of the files concerned
(`OpenFiles.exclusive`).
"""

from __future__ import annotations

import logging

from ftpfs import errors
from ftpfs.core.files.endings import Endings
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.names.known import KnownNames
from ftpfs.core.writing.folders import Folders, Job
from ftpfs.core.writing.journal import Journal
from ftpfs.core.writing.queue import UploadQueue

log = logging.getLogger(__name__)


class Aftermath:
    """Follows renames and deletions in one mount."""

    def __init__(
        self,
        files: OpenFiles,
        known: KnownNames,
        folders: Folders,
        journal: Journal,
        endings: Endings,
        queue: UploadQueue[Job],
    ) -> None:
        self._files = files
        self._known = known
        self._folders = folders
        self._journal = journal
        self._endings = endings
        self._queue = queue

    def removed(self, path: str) -> None:
        """The server has nothing at `path` any more."""
        self._known.removed(path)
        self._folders.removed(path)

    def unlinked(self, file: OpenFile, path: str, hidden: str | None = None) -> None:
        """The open file at `path` was deleted.

        `hidden`: the hidden name where the server keeps its content for the handles.
        """
        opened = self._files.unname(path)
        self.removed(path)
        self._end_other(opened, file)
        self._endings.lost_name(file, hidden, settled=path)

    def renamed(self, old: str, new: str, victim: OpenFile | None) -> None:
        """The server renamed `old`, a file or a folder."""
        self._known.renamed(old, new)
        self.renamed_here(old, new, victim)

    def renamed_here(self, old: str, new: str, victim: OpenFile | None) -> None:
        """Open files at and below `old` are at and below `new` now.

        `victim`: the open file that was replaced. The caller ends it.
        """
        try:
            self._journal.rename(old, new)
        except errors.FtpfsError as error:
            log.error("after a crash now, %s would be uploaded under its old name: %s", new, error)
        moved, replaced = self._files.rename(old, new)
        self._end_other(replaced, victim)
        self._folders.renamed(old, new)
        for file in moved:
            file.basis.record_again()
            self._queue.renew(file)

    def _end_other(self, file: OpenFile | None, known: OpenFile | None) -> None:
        """`file` has lost its name. If it is not the `known` one, it was opened meanwhile."""
        if file is not None and file is not known:
            self._endings.lost_name(file, None)
