"""Which file of the server an open file is based on, and what becomes of that.

Owns: what follows here when the server's file is renamed, deleted, replaced, or changed: by this
mount, or by others. Does not ask the server for any of that (`names.renames`, `names.doubts`,
`looks`, `writing.conflicts`), and does not know who has the file open.

A file that was only read *follows* the server: when a later look shows another content there, that
becomes its content. A file that was changed here keeps its base, until a conflict is resolved.

Threading: any; the locks are those of `state`. "Exclusive use" is `OpenFile.exclusive`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ftpfs.core.files.content import SpooledContent
from ftpfs.core.files.leftovers import is_same_time
from ftpfs.core.files.row import Row
from ftpfs.core.files.server_file import is_other_content, version_of
from ftpfs.core.files.state import FileState
from ftpfs.core.writing.spool import Spool
from ftpfs.model.entry import Entry, Trace
from ftpfs.model.remote import Remote


class Basis:
    """The server's file below one open file."""

    def __init__(
        self,
        state: FileState,
        row: Row,
        content: SpooledContent,
        *,
        remote: Remote,
        spool: Spool,
    ) -> None:
        self._state = state
        self._row = row
        self._content = content
        self._remote = remote
        self._spool = spool

    # Others change it.

    def follow(self, entry: Entry, generation: int, since: float = float("inf")) -> None:
        """Take over what the server shows at this file's path, if the file follows the server.

        `since`: when the server was asked for it. An older look does not undo a newer one.
        """
        state, server = self._state, self._state.server
        with state.changed:
            if not state.follows_locked() or since < server.followed_at:
                return
            server.followed_at = since
            known = server.entry
            state.mode, state.mtime = None, entry.mtime
            if known is None or not is_other_content(known, entry):
                server.entry = entry
                return
            reader = server.follow_locked(entry, version_of(state.path, entry, generation))
            state.changes.size = state.changes.base_size = server.version.size
        if reader:
            reader.close()

    def is_due_for_a_look(self) -> bool:
        """Whether the server should be asked now what it has of this file; for one caller alone."""
        with self._state.changed:
            return self._state.follows_locked() and self._state.server.is_due_for_a_look_locked()

    def look_no_more_for(self, seconds: float) -> None:
        """Put the next look off, after the server was asked, or could not be."""
        with self._state.changed:
            self._state.server.look_no_more_for_locked(seconds)

    def is_other_on_server(self) -> bool:
        """Ask the server whether it has another content under this name than the one we knew, and
        than what a patch of ours has left that broke off."""
        return self._state.server.is_other_on_server()

    def shows(self, entry: Entry) -> bool:
        """Whether `entry` may be what an upload of this file made, although nobody knows whether it
        arrived: its reply was lost, or the mount was killed.

        A file with the time of such an upload that is shorter is a part of it: a server has called
        a part complete. It may have been renamed since, and the mount killed. That counts only if
        nothing of the server's file is needed.
        """
        with self._state.changed:
            uncertain = set(self._state.changes.uncertain)
            may_be_part = not self._state.needs_base_locked()
        return entry.exact and any(
            (entry.size == size or (may_be_part and (entry.size or 0) < size))
            and is_same_time(self._remote, entry.mtime, mtime)
            for size, mtime in uncertain
        )

    def rebase(self, entry: Entry | None, generation: int) -> None:
        """Note that the server has `entry` under this name, whatever was known of it."""
        state, server = self._state, self._state.server
        with state.spool_lock:
            with state.changed:
                if entry is None:
                    state.keep_mode_locked()
                reader = server.become_locked(entry, version_of(state.path, entry, generation))
                server.joined_locked()
                server.patching = ()
                state.changes.limit_base(server.version.size)
                is_recorded = self._row.is_there_locked()
            if is_recorded:
                self._row.try_to_write()
        if reader:
            reader.close()

    def become_new(self, path: str, seen: Entry | None, generation: int) -> None:
        """Make the file a new one at `path`, that is not based on the server's file any more.

        What only the server has of it is fetched from what is there now (`seen`; None: nothing is
        missing). Until all of it is here, the file and its row are what they were: if that is
        interrupted, the conflict is found again.
        """
        state, server = self._state, self._state.server
        with state.spool_lock:
            spooled = self._content.file()
        if seen is not None:
            self._read_from(seen, generation)
        try:
            self._content.hydrate(spooled)
        finally:
            with state.changed:
                server.foreign = None
        with state.spool_lock:
            with state.changed:
                state.keep_mode_locked()
                state.path = server.path = path
                server.entry, state.changes.base_size, server.patching = None, 0, ()
                state.changes.uncertain.clear()  # they are under the other name
                is_recorded = self._row.is_there_locked()
            if is_recorded:
                self._row.try_to_write()

    def _read_from(self, seen: Entry, generation: int) -> None:
        state, server = self._state, self._state.server
        with state.changed:
            server.foreign = seen
            server.joined_locked()
            server.version = version_of(state.path, seen, generation)
            state.changes.limit_base(server.version.size)
            reader = server.take_reader_locked()
        if reader:
            reader.close()

    # This mount changes it.

    def note_set(self, *, mtime: int | None = None, mode: int | None = None) -> None:
        """These were set on the server; with exclusive use of the file."""
        state, server = self._state, self._state.server
        with state.changed:
            if server.entry is None:
                return
            if mode is not None:
                state.mode = mode
                server.entry = replace(server.entry, mode=mode)
            if mtime is not None:
                server.entry = replace(server.entry, mtime=mtime, exact=True)
                if not state.progress.is_dirty:  # else something was written since
                    state.mtime = mtime

    def note_perhaps_set(self, mtime: int) -> None:
        """The server was asked to set this time, and its reply was lost; with exclusive use of the
        file."""
        state = self._state
        with state.changed:
            base = state.server.entry
            if base is not None and base.size is not None:
                state.changes.uncertain.add((base.size, mtime))

    def moved(self, path: str) -> None:
        """The file has another name now; on the server, too, if it was there."""
        state = self._state
        with state.changed:
            state.path = path
            if not state.progress.is_deleted:  # else the base has a name of its own
                state.server.path = path

    def read_as_renamed(self, generation: int) -> None:
        """From now on, look for stored content of the server's file under its present name."""
        state, server = self._state, self._state.server
        with state.changed:
            if server.entry is None or state.progress.is_deleted:
                return
            server.version = version_of(state.path, server.entry, generation)
            reader = server.take_reader_locked()
        if reader:
            reader.close()

    def directory_moved(self, old: str, new: str) -> None:
        """A directory moved on the server, and the hidden base of a deleted file with it."""
        state = self._state
        with state.changed:
            if state.hidden_as and state.hidden_as.startswith(old + "/"):
                state.hidden_as = state.server.path = new + state.hidden_as[len(old) :]

    def shown_as(self, path: str) -> None:
        """A deleted file is shown under a name that exists only here."""
        with self._state.changed:
            self._state.path = path

    def record_again(self) -> None:
        """Have the row, if there is one, say what is so now: after `moved`, the new name."""
        self._row.correct()

    def deleted(self, hidden_as: str | None, *, settled: str | None = None) -> None:
        """The name is gone. Handles go on, and read the base at `hidden_as`; None: nowhere, so that
        they get an error if they need more of it than the block cache has.

        `settled`: the path of which the journal has an intent that is done by this.
        """
        state, server = self._state, self._state.server
        reader = None
        with state.spool_lock:
            with state.changed:
                if hidden_as:
                    server.path = hidden_as
                elif not state.needs_base_locked():
                    # A reader would read there what others put there.
                    if state.mode is None and server.entry is not None:
                        state.mode = server.entry.mode
                    reader = server.become_locked(None, version_of(state.path, None, -1))
                else:
                    server.is_gone = True
                state.progress.is_deleted = True
                state.hidden_as = hidden_as
                spooled, is_recorded = state.spooled, self._row.is_there_locked()
                self._row.says = None
                if state.capture is not None:
                    state.capture.cancel_locked()
                state.changed.notify_all()
            row = spooled.name if is_recorded and spooled is not None else None
            if row is not None or settled is not None:
                self._spool.journal.remove(row, settled=settled)
        if reader:
            reader.close()

    def replace_target(self, target: Entry | None, uncertain: Collection[Trace]) -> None:
        """The file is new, and is about to be renamed over what the server has as `target`.

        `uncertain`: uploads of the file that is replaced, whose results nobody knows.
        """
        state = self._state
        with state.spool_lock:
            with state.changed:
                state.changes.uncertain.update(uncertain)
                state.server.entry, state.replaces = target, target is not None
                is_recorded = self._row.is_there_locked()
            if is_recorded:
                self._row.try_to_write()
