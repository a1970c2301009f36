"""Intents: renames and deletions that the server was asked for, until their result is known.

Owns: the journal's row about a rename or deletion that is about to be sent (the *intent*), and what
the next mount does about it after a crash; the hidden names of files that were deleted or replaced
while a handle reads them; and the changes whose reply was lost (`Doubt`). Does not know what a
doubt means for open files and listings: `doubts` resolves it.

Threading: any thread. `_lock` (Rank.INTENTS) guards the doubts. Methods that ask the server say so;
they are called with no lock held.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.writing.spool import Spool
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import HIDDEN_PREFIX, folder_of, is_hidden, is_within
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# How long after a lost reply the server may still carry out a rename (seconds). The server may have
# read the command already, or the network may have yet to deliver it. On a busy machine vsftpd took
# 50 ms.
LATE_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class Doubt:
    """A rename or deletion whose reply was lost: the server may have done it or not.

    Until a look at the server resolves it, the mount shows nothing of its names and sends nothing
    to them.
    """

    old: str
    new: str  # empty: the change is a deletion
    victim: OpenFile | None  # the open file whose name is replaced or deleted
    written: int  # how often a program had written to `victim`
    hidden: str | None  # the hidden name that keeps the content of `victim` for its readers
    since: float  # when the reply was lost; time.monotonic()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.old, self.new) if self.new else (self.old,)

    @property
    def hides(self) -> bool:
        """Whether the change was a rename to a hidden name.

        ftpfs does that before a name is deleted or given to another file.
        """
        return is_hidden(self.new)

    def concerns(self, path: str) -> bool:
        """Whether `path` is one of the names, or above or below one of them."""
        return any(is_within(path, name) or is_within(name, path) for name in self.names)

    def covers(self, path: str) -> bool:
        """Whether `path` is one of the names, or below one of them."""
        return any(is_within(path, name) for name in self.names)

    def is_listed_in(self, folder: str) -> bool:
        return any(folder == folder_of(name) for name in self.names)

    def takes(self, victim: OpenFile) -> bool:
        """Whether the file that is open there now was replaced or deleted, if the change was done.

        It was not if a program has written to it since, because that program saw the change fail
        first.
        """
        return victim is self.victim and victim.writes == self.written


class Intents:
    """The renames and deletions of one mount whose result is not known yet."""

    def __init__(self, remote: Remote, spool: Spool) -> None:
        self._remote = remote
        self._spool = spool
        self._lock = ranked_lock(Rank.INTENTS)
        self._doubts: dict[str, Doubt] = {}  # by old name; guarded by _lock

    # Before and after the command.

    def announce(self, old: str, new: str, *, always: bool) -> None:
        """Write an intent to the journal: a rename, or a deletion (`new` is empty).

        `always`: write it even if the journal has no row at these names, because one may come. If
        the journal cannot be written, the change goes on: deleting is how a full disk gets room.
        """
        try:
            self._spool.journal.intend(old, new, always=always)
        except errors.FtpfsError as error:
            log.error(
                "after a crash now, the next mount would not know of the change of %s: %s",
                old,
                error,
            )

    def withdraw(self, *paths: str) -> None:
        """Delete the intents of `paths`: the changes were not done, or concern no row."""
        for path in paths:
            self._spool.journal.withdraw(path)

    # Lost replies.

    def doubt(self, old: str, new: str, victim: OpenFile | None, hidden: str | None = None) -> None:
        """Remember that the reply to a change was lost. The parameters are those of `Doubt`."""
        written = victim.writes if victim else 0
        doubt = Doubt(old, new, victim, written, hidden, time.monotonic())
        # Files that are closed from now on may get rows at these names.
        self.announce(old, new, always=True)
        with self._lock:
            self._doubts[old] = doubt

    def doubts(self, wanted: Callable[[Doubt], bool]) -> list[Doubt]:
        if not self._doubts:  # the usual case needs no lock
            return []
        with self._lock:
            return [doubt for doubt in self._doubts.values() if wanted(doubt)]

    def is_open(self, doubt: Doubt) -> bool:
        with self._lock:
            return self._doubts.get(doubt.old) is doubt

    def was_done(self, doubt: Doubt) -> bool:
        """Ask the server whether it did the change. Raises what asking raises."""
        time.sleep(max(0.0, doubt.since + LATE_SECONDS - time.monotonic()))
        return not self.is_there(doubt.old) and (not doubt.new or self.is_there(doubt.new))

    def resolved(self, doubt: Doubt) -> None:
        """End the doubt: its result is known, and has been followed here."""
        if not doubt.hides:
            self.withdraw(doubt.old)
        with self._lock:
            self._doubts.pop(doubt.old, None)

    # Hidden names.

    def hidden_name(self, path: str) -> str:
        """A new hidden name for a file at `path` that loses its name while a handle reads it."""
        return posixpath.join(folder_of(path), f"{HIDDEN_PREFIX}deleted-{secrets.token_hex(6)}")

    def remove_hidden(self, path: str) -> None:
        """Delete a hidden file that no handle reads any more. Asks the server."""
        try:
            self._remote.remove(path)
        except errors.NotFound:
            pass
        except errors.FtpfsError as error:
            log.warning(
                "%s, deleted while it was open, is on the server until the next mount: %s",
                path,
                error,
            )
            return
        self.withdraw(path)

    def unhide(self, hidden: str, path: str) -> None:
        """Give a hidden file its old name back: the change that hid it failed. Asks the server.

        If something else has the name, or if the server cannot tell, the hidden file stays, and the
        next mount decides.
        """
        try:
            if not self.is_there(path):
                self._remote.rename(hidden, path, replace=False)
            elif self.is_there(hidden):
                raise errors.Exists("something else has its name")
        except errors.FtpfsError as error:
            log.error("%s is on the server as %s until the next mount: %s", path, hidden, error)
        else:
            self.withdraw(path, hidden)

    def is_there(self, path: str) -> bool:
        """Whether the server has `path` now. Raises what asking raises.

        What is stored does not tell: the question is whether the server did something since.
        """
        if self._remote.is_offline():
            raise errors.Offline(f"{path}: the server is away, and its last answer was lost")
        try:
            self._remote.stat(path)
        except errors.NotFound:
            return False
        return True

    # After a crash.

    def recover(self) -> list[tuple[str, str, str | None]]:
        """Find out which of a killed mount's changes the server has done. Asks the server.

        The journal follows those that were done. Returns the renames that cannot be found out now:
        old name, new name, and the hidden name that may hold the former content of the new name.

        Plain changes come first. They tell whether a file that was hidden for a rename was
        replaced. Files that were deleted while open come last.
        """
        doubted = []
        journal = self._spool.journal
        for old, new in journal.intents():
            if is_hidden(old) or is_hidden(new):
                continue
            if (gone := self._is_done(old, new, journal.intents())) is None and new:
                doubted.append((old, new))
            elif gone:
                self._spool.discard(journal.rename(old, new) if new else journal.drop(old))
            else:
                journal.withdraw(old)
        unsettled = {
            path: hidden
            for path, hidden in journal.intents()
            if is_hidden(hidden) and not self._resolve_hidden(path, hidden)
        }
        for old, _ in journal.intents():
            if is_hidden(old) and old not in unsettled.values():
                self.remove_hidden(old)
        return [(old, new, unsettled.get(new)) for old, new in doubted]

    def _resolve_hidden(self, path: str, hidden: str) -> bool:
        """Delete a hidden file if `path` exists again, else give it that name back.

        Returns False if that cannot be done now: the hidden file stays.
        """
        try:
            if self.is_there(path):
                self._remote.remove(hidden)
            else:
                self._remote.rename(hidden, path, replace=False)
        except errors.NotFound:
            pass  # the file was never hidden
        except errors.FtpfsError as error:
            log.error("the former %s is left on the server as %s: %s", path, hidden, error)
            return False
        self.withdraw(path)
        return True

    def _is_done(self, old: str, new: str, intents: list[tuple[str, str]]) -> bool | None:
        """Whether the server has done the change; None: the server cannot be asked now.

        A change that became a step counts as done: what is shown has it, and it will be done.

        If neither name exists, the replaced file may still be at its hidden name: then the rename
        was not done.
        """
        if self._spool.journal.is_noted_as_done(old):
            return True
        with contextlib.suppress(errors.FtpfsError):
            if self.is_there(old):
                return False
            hidden = next((hidden for path, hidden in intents if path == new), "")
            return not (new and hidden and not self.is_there(new) and self.is_there(hidden))
        log.warning("the server does not tell whether %s was renamed or deleted", old)
        return None
