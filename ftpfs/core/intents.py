"""Changes of names that the server was asked for, until it is known what became of them.

Owns: what the journal is told before a rename or a deletion is asked for, and what the next mount
makes of that; the hidden names under which the server keeps what lost its name and is still read;
and what this mount asked for and has lost the answer to (`Doubt`). What that means for open files
and listings is the file system's (`filesystem`), which settles it.

Threading: any. `_lock` guards the doubts, and is a leaf. The methods that ask the server say so;
they are called with no lock held.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ftpfs import errors
from ftpfs.core.openfile import OpenFile
from ftpfs.core.remote import Remote
from ftpfs.core.writer import Spool
from ftpfs.ftp.lister import HIDDEN_PREFIX

log = logging.getLogger(__name__)

# So long after its answer was lost (seconds) a server may still carry a rename out: it had read the
# command, or had yet to be sent it again by the network. On a busy machine vsftpd took 50 ms.
LATE = 0.5


@dataclass(frozen=True, eq=False)
class Doubt:
    """A rename or a deletion of which nobody knows whether the server did it.

    Until that is settled nothing is shown of its names, and nothing is sent to them.
    """

    old: str
    new: str  # empty: a deletion
    victim: OpenFile | None  # what is open at the name that is replaced or deleted
    written: int  # how often that had been written to
    hidden: str | None  # where its content was put for its readers
    since: float  # time.monotonic()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.old, self.new) if self.new else (self.old,)

    @property
    def hides(self) -> bool:
        """Whether it was to hide a file, before its name was given to another or deleted."""
        return _is_hidden(self.new)

    def concerns(self, path: str) -> bool:
        """Whether `path` is one of the names, or below or above one."""
        return any(_is_within(path, name) or _is_within(name, path) for name in self.names)

    def covers(self, path: str) -> bool:
        """Whether `path` is one of the names, or below one: it is there, or not."""
        return any(_is_within(path, name) for name in self.names)

    def is_listed_in(self, folder: str) -> bool:
        return any(folder == posixpath.dirname(name) for name in self.names)

    def takes(self, victim: OpenFile) -> bool:
        """Whether what is open at that name now goes with it. What was written to it since then
        does not: who wrote it had heard that the rename had failed."""
        return victim is self.victim and victim.writes == self.written


class Intents:
    """What one mount asked for and has no answer to yet."""

    def __init__(self, remote: Remote, spool: Spool) -> None:
        self._remote = remote
        self._spool = spool
        self._lock = threading.Lock()
        self._doubts: dict[str, Doubt] = {}  # by old name; guarded by _lock

    # Before and after it is asked for.

    def announce(self, old: str, new: str, *, always: bool) -> None:
        """Have the journal say what the server is about to be asked for: a rename, or a deletion
        (`new` is empty). `always`: a row that it concerns may be written any time.

        A full disk is no reason not to do it: deleting is how room is made.
        """
        try:
            self._spool.journal.intend(old, new, always=always)
        except errors.FtpfsError as error:
            log.error("killed now, the next mount would not know of %s: %s", old, error)

    def withdraw(self, *paths: str) -> None:
        """What was intended of these was not done, or concerns no row any more."""
        for path in paths:
            self._spool.journal.withdraw(path)

    # What was asked for, and the answer was lost.

    def doubt(self, old: str, new: str, victim: OpenFile | None, hidden: str | None = None) -> None:
        """Remember what the server may have done; see `Doubt`."""
        written = victim.writes if victim else 0
        doubt = Doubt(old, new, victim, written, hidden, time.monotonic())
        # What is closed from now on concerns it as well, should we be killed.
        self.announce(old, new, always=True)
        with self._lock:
            self._doubts[old] = doubt

    def doubts(self, wanted: Callable[[Doubt], bool]) -> list[Doubt]:
        if not self._doubts:  # as ever: not worth a lock at each look
            return []
        with self._lock:
            return [doubt for doubt in self._doubts.values() if wanted(doubt)]

    def is_open(self, doubt: Doubt) -> bool:
        with self._lock:
            return self._doubts.get(doubt.old) is doubt

    def was_done(self, doubt: Doubt) -> bool:
        """Ask the server. Raises what it cannot be asked for."""
        time.sleep(max(0.0, doubt.since + LATE - time.monotonic()))
        return not self.is_there(doubt.old) and (not doubt.new or self.is_there(doubt.new))

    def settled(self, doubt: Doubt) -> None:
        """It is known, and what follows from it was done here."""
        if not doubt.hides:
            self.withdraw(doubt.old)
        with self._lock:
            self._doubts.pop(doubt.old, None)

    # Hidden names.

    def hidden_name(self, path: str) -> str:
        """A name beside `path` for what is about to lose its own, and is still read."""
        return posixpath.join(
            posixpath.dirname(path), f"{HIDDEN_PREFIX}deleted-{secrets.token_hex(6)}"
        )

    def remove_hidden(self, path: str) -> None:
        """Delete what nobody reads any more; asks the server."""
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
        """Give a hidden file its name back: what it made way for did not come. Where that may have
        come after all, it would be overwritten: the next mount sees to it. Asks the server."""
        try:
            if self.is_there(path):
                raise errors.Exists("something else has its name")
            self._remote.rename(hidden, path, replace=False)
        except errors.FtpfsError as error:
            log.error("%s is on the server as %s until the next mount: %s", path, hidden, error)
        else:
            self.withdraw(path, hidden)

    def is_there(self, path: str) -> bool:
        """Whether the server has it now. Raises what it cannot be asked for."""
        try:
            self._remote.stat(path)
        except errors.NotFound:
            return False
        return True

    # What an earlier mount left.

    def recover(self) -> list[tuple[str, str, str | None]]:
        """An earlier mount was killed when it had asked the server for renames and deletions: what
        was done is done in the journal, too. The renames of which that cannot be found out now:
        old, new, and where the content of the new one may be hidden. Asks the server.

        What had made way for another file comes after the others, when it is known whether that one
        came; and what was deleted while it was open, last.
        """
        doubted = []
        journal = self._spool.journal
        for old, new in journal.intents():
            if _is_hidden(old) or _is_hidden(new):
                continue
            if (gone := self._is_gone(old)) is None and new:
                doubted.append((old, new))
            elif gone:
                self._spool.discard(journal.rename(old, new) if new else journal.drop(old))
            else:
                journal.withdraw(old)
        unsettled = {
            path: hidden
            for path, hidden in journal.intents()
            if _is_hidden(hidden) and not self._settle_hidden(path, hidden)
        }
        for old, _ in journal.intents():
            if _is_hidden(old) and old not in unsettled.values():
                self.remove_hidden(old)
        return [(old, new, unsettled.get(new)) for old, new in doubted]

    def _settle_hidden(self, path: str, hidden: str) -> bool:
        """Give a file its name back that was hidden to be replaced or deleted, or let it go when
        another one came; False: nobody can tell now, and it stays."""
        try:
            if self.is_there(path):
                self._remote.remove(hidden)
            else:
                self._remote.rename(hidden, path, replace=False)
        except errors.NotFound:
            pass  # it was never hidden
        except errors.FtpfsError as error:
            log.error("what was %s is on the server as %s: %s", path, hidden, error)
            return False
        self.withdraw(path)
        return True

    def _is_gone(self, path: str) -> bool | None:
        """Whether the server has nothing at `path`; None: it cannot be asked."""
        with contextlib.suppress(errors.FtpfsError):
            return not self.is_there(path)
        log.warning("nobody knows whether %s was renamed or deleted", path)
        return None


def _is_within(path: str, folder: str) -> bool:
    """Whether it is `folder`, or below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_hidden(path: str) -> bool:
    return posixpath.basename(path).startswith(HIDDEN_PREFIX)
