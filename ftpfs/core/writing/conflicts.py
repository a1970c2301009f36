"""Conflicts: a file was changed both here and on the server.

Owns: the decision whether the server's content is an upload of this mount's whose answer was lost,
and the conflict copy if it is not.

Threading: any; no lock of its own. The caller has exclusive use of the file.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.names.intents import Intents
from ftpfs.core.names.known import KnownNames
from ftpfs.model.entry import Kind
from ftpfs.model.names import conflict_name
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)


def free_name(path: str, is_taken: Callable[[str], bool]) -> str:
    """A name for a conflict copy. Two copies of one second get different names."""
    name = conflict_name(path)
    for number in itertools.count(2):
        if not is_taken(name):
            break
        name = conflict_name(path, f" {number}")
    return name


class Conflicts:
    """Resolves the conflicts of one mount."""

    def __init__(
        self, remote: Remote, files: OpenFiles, known: KnownNames, intents: Intents
    ) -> None:
        self._remote = remote
        self._files = files
        self._known = known
        self._intents = intents

    def resolve(self, file: OpenFile, conflict: errors.FtpfsError) -> None:
        """The server has something else under the file's name than it had at the open.

        If the server has the very content of this file, an upload succeeded and its answer was
        lost, or a kill came before it was noted: the next upload replaces that. Otherwise the
        server's content keeps the name, and the file becomes a conflict copy. Asks the server.
        """
        path = file.path
        generation = self._known.generations.of(path)
        self._known.outdated(path)
        try:
            seen = self._remote.stat(path)
        except errors.NotFound:
            if file.needs_base:
                raise errors.FtpfsError(
                    f"{path} is gone from the server, and only what was written to it is here"
                ) from conflict
            file.basis.rebase(None, generation)
            return
        if file.basis.shows(seen):
            file.basis.rebase(seen, generation)
            return
        copy = free_name(path, self._is_taken)
        log.warning(
            "%s was changed on the server and here; what was written here is uploaded as %s",
            path,
            copy,
        )
        based = seen.kind is Kind.FILE and file.needs_base
        file.basis.become_new(copy, seen if based else None, generation)
        self._files.rename_one(path, copy, file)
        self._known.generations.bump(path)

    def _is_taken(self, name: str) -> bool:
        return name in self._files or self._intents.is_there(name)
