"""The journal's row of one open file.

Owns: what the row says, and when it has to be written again. While a file has a row, the row must
be true whenever the mount may be killed: it is written *before* bytes of it are cut off, and
*after* bytes were added.

Threading: the caller of `write` and `try_to_write` holds `spool_lock`.
"""

from __future__ import annotations

import logging

from ftpfs import errors
from ftpfs.core.files.state import FileState
from ftpfs.core.writing.journal import Record
from ftpfs.core.writing.spool import Spool, SpoolFile

log = logging.getLogger(__name__)


class Row:
    """One file's row."""

    def __init__(self, state: FileState, spool: Spool) -> None:
        self._state = state
        self._spool = spool
        # Guarded by the state's `changed`:
        self.says: tuple[int, int] | None = None  # size and time in it; None: there is no row
        self._has_failed = False  # it could not be written. An older row is there, or none.

    def is_there_locked(self) -> bool:
        return self.says is not None

    def is_stale_locked(self) -> bool:
        """Whether the journal may not have what the row has to say."""
        return self.says is None or self._has_failed

    def write(self) -> None:
        """Have the journal say what is so now. Raises NoSpace, and what the journal raises."""
        with self._state.changed:
            spooled = self._state.spooled
            if spooled is None or self._state.progress.is_deleted:
                return
            record = self.draft_locked(spooled)
            self.says = record.size, record.mtime
            self._has_failed = True
        self._spool.record(spooled, record)
        with self._state.changed:
            self._has_failed = False

    def try_to_write(self) -> None:
        """As `write`, after something was done that cannot be undone. The next commit writes what
        could not be written."""
        try:
            self.write()
        except errors.FtpfsError as error:
            with self._state.changed:
                path = self._state.path
            log.error("after a crash, %s will not be what it is now: %s", path, error)

    def correct(self) -> None:
        """If there is a row, have it say what is so now: a new name, more content."""
        with self._state.spool_lock:
            with self._state.changed:
                is_there = self.is_there_locked()
            if is_there:
                self.try_to_write()

    def draft_locked(self, spooled: SpoolFile) -> Record:
        """The row for the content in `spooled`."""
        state, changes = self._state, self._state.changes
        error = state.failures.for_good
        return Record(
            spool=spooled.name,
            path=state.path,
            size=changes.size,
            present=tuple(spooled.present),
            base=state.server.entry,
            base_size=changes.base_size,
            mode=state.mode_wanted,
            mtime=state.mtime or 0,
            since=state.progress.since,
            error=errors.printable(str(error)) if error else None,
            patching=state.server.patching,
            uncertain=tuple(state.traces_locked()),
            writes=state.progress.writes,
        )

    def remove(self, spooled: SpoolFile) -> None:
        """The server has all of the file."""
        self._spool.journal.remove(spooled.name)
