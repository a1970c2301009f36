"""Endings: how an open file leaves this process.

Owns: who has to hear that a file has lost its name, or has neither handles nor anything to send:
the queue, the folders that wait for it, and the server, which may keep its content under a hidden
name.

Threading: any; no lock of its own. It may ask the server: call it with no lock held.
"""

from __future__ import annotations

from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.names.intents import Intents
from ftpfs.core.writing.folders import Folders, Job
from ftpfs.core.writing.queue import UploadQueue


class Endings:
    """Ends the open files of one mount."""

    def __init__(
        self, files: OpenFiles, queue: UploadQueue[Job], folders: Folders, intents: Intents
    ) -> None:
        self._files = files
        self._queue = queue
        self._folders = folders
        self._intents = intents

    def retire(self, file: OpenFile) -> None:
        """Remove a file from the tables, unless it has handles or has to linger."""
        if self._files.let_go(file):
            self.discard(file)

    def discard(self, file: OpenFile) -> bool:
        """End a file that has left the tables. Returns whether unsent content stays."""
        left = file.close()
        if file.hidden_as:
            self._intents.remove_hidden(file.hidden_as)
        return left

    def lost_name(self, file: OpenFile, hidden: str | None, *, settled: str | None = None) -> None:
        """A file was deleted or replaced. It lives on in its handles, if it has any.

        `hidden`: where the server keeps its content for them. `settled`: the path whose intent in
        the journal is done by this.
        """
        file.basis.deleted(hidden, settled=settled)
        self._files.show_hidden(file)
        self._queue.forget(file)
        self._folders.file_ended(file)
        self.retire(file)
        if hidden is not None and file not in self._files.all():
            # Its last handle was closed while the server moved it to the hidden name.
            self._intents.remove_hidden(hidden)

    def drop_refused(self, file: OpenFile) -> bool:
        """Drop a new, empty file that the server refused. Returns whether it was one.

        Its program has heard of the refusal, and no content is lost. If it stayed in the tables,
        the mount would show a file that does not exist.
        """
        if not (file.is_refused and self._files.drop(file)):
            return False
        self._queue.forget(file)
        self._folders.file_ended(file)
        file.basis.deleted(None)
        self.discard(file)
        return True
