"""Doubts: after a lost reply to a rename or deletion, look whether the server did it, and follow.

Owns: what a doubt (`intents.Doubt`) means for listings and open files. A look at the server ends a
doubt. If the server did the change, it is done here, too. If not, everything stays as it was.

The names that libfuse hides (`hiding`) are handled here as well: nothing is shown of such a path,
and nothing is sent to it, before its deletion is carried out.

Threading: any; no lock of its own. Call it with no lock held: it asks the server.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from ftpfs import errors
from ftpfs.core.files.endings import Endings
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.names.aftermath import Aftermath
from ftpfs.core.names.hiding import Hiding
from ftpfs.core.names.intents import Doubt, Intents
from ftpfs.core.names.known import KnownNames
from ftpfs.core.writing.conflicts import Conflicts
from ftpfs.core.writing.folders import Folders
from ftpfs.model.names import folder_of

log = logging.getLogger(__name__)


class Doubts:
    """Resolves the doubts of one mount."""

    def __init__(
        self,
        intents: Intents,
        hiding: Hiding,
        files: OpenFiles,
        folders: Folders,
        known: KnownNames,
        aftermath: Aftermath,
        endings: Endings,
        conflicts: Conflicts,
    ) -> None:
        self._intents = intents
        self._hiding = hiding
        self._files = files
        self._folders = folders
        self._known = known
        self._aftermath = aftermath
        self._endings = endings
        self._conflicts = conflicts

    def located(self, path: str) -> str:
        """The name here of libfuse's `path`, with no doubt left about it."""
        self.resolve_about(self._files.known_as(path))
        return self._files.known_as(path)

    def resolve_about(self, path: str) -> None:
        """Return when no doubt is left about `path`. Raises NetworkError."""
        self._hiding.wait_for(lambda name: name == path)
        self.resolve(lambda doubt: doubt.covers(path))

    def resolve(self, concerned: Callable[[Doubt], bool]) -> None:
        """Resolve the doubts for which `concerned` is true. Raises NetworkError."""
        for doubt in self._intents.doubts(concerned):
            self._resolve(doubt)

    def resolve_listed(self, folder: str) -> None:
        """Like `resolve_about`, for a folder and all names in it."""
        self._hiding.wait_for(lambda name: folder_of(name) == folder)
        self.resolve(lambda doubt: doubt.covers(folder) or doubt.is_listed_in(folder))

    def are_listed(self, folder: str) -> bool:
        """Whether there is a doubt about a folder, or a name in it. No I/O."""
        found = self._intents.doubts(
            lambda doubt: doubt.covers(folder) or doubt.is_listed_in(folder)
        )
        return bool(found)

    def covers(self, path: str) -> bool:
        """Whether there is a doubt about `path`. No I/O."""
        return bool(self._intents.doubts(lambda doubt: doubt.covers(path)))

    def turns_out_done(self, error: errors.NetworkError, old: str, new: str = "") -> bool:
        """Whether a failed change was done nevertheless, by one look at the server.

        `new` is empty for a deletion. `error` is how the change failed.
        """
        if isinstance(error, errors.DeadlineExceeded):
            return False  # the program has waited for one deadline already
        for doubt in self._intents.doubts(lambda doubt: (doubt.old, doubt.new) == (old, new)):
            with contextlib.suppress(errors.FtpfsError):
                return self._resolve(doubt)
        return False

    def _resolve(self, doubt: Doubt) -> bool:
        """Ask whether the server did the change, and follow it if so. Returns whether it did.

        Raises what asking raises.
        """
        with (
            self._files.exclusive(*doubt.names, below=True) as files,
            self._folders.still(*doubt.names),
        ):
            done = self._intents.was_done(doubt)
            if not self._intents.is_open(doubt):
                return done  # another thread has resolved it meanwhile
            for path in doubt.names:
                self._known.is_uncertain(path)
            if doubt.hides:
                if done:  # the file was hidden for a change that failed
                    self._unhide(doubt.new, doubt.old)
                else:
                    self._intents.withdraw(*doubt.names)
            elif done:
                self._follow(doubt, files[-1])
            else:
                if doubt.hidden:
                    self._unhide(doubt.hidden, doubt.new)
            if doubt.victim:  # it is deleted now, or has kept its name
                doubt.victim.content.send_back()
            self._intents.resolved(doubt)
        return done

    def _follow(self, doubt: Doubt, victim: OpenFile | None) -> None:
        """Do here what the server did. `victim`: the open file that was replaced or deleted."""
        old, new = doubt.old, doubt.new
        if not new:
            log.warning("%s was deleted after all: the server's reply was lost", old)
            if victim and doubt.takes(victim):
                self._aftermath.unlinked(victim, old)
            return
        log.warning("%s was renamed to %s after all: the server's reply was lost", old, new)
        replaced = victim if victim and doubt.takes(victim) else None
        if victim and not replaced:
            self._conflicts.resolve(victim, errors.Conflict(f"{new}: was replaced"))
        self._aftermath.renamed(old, new, victim)
        hidden = doubt.hidden if replaced and replaced.needs_base else None
        if doubt.hidden and not hidden:
            self._intents.remove_hidden(doubt.hidden)
        if replaced:
            self._endings.lost_name(replaced, hidden)

    def _unhide(self, hidden: str, path: str) -> None:
        self._intents.unhide(hidden, path)
        self._known.is_uncertain(path)
