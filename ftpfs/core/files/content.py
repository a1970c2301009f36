"""What of an open file's content is in its spool file.

Owns: the making of the spool file, and the content that gets there by other ways than a program's
write: what only the server has is fetched (*hydrated*), and what was appended here moves behind
what others appended to the server's file. Does not decide when that is needed.

Threading: any; the locks are those of `state`. The server is read with no lock held. A write or a
truncate may come while content is fetched, and wins.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from typing import IO

from ftpfs import errors
from ftpfs.core.files.row import Row
from ftpfs.core.files.state import FileState
from ftpfs.core.reading.reader import Reader
from ftpfs.core.writing.ranges import RangeSet
from ftpfs.core.writing.spool import Spool, SpoolFile
from ftpfs.model.entry import Entry, Trace

log = logging.getLogger(__name__)

COPY_BYTES = 1 << 20  # copied at a time


class SpooledContent:
    """The content in one file's spool file."""

    def __init__(self, state: FileState, row: Row, spool: Spool) -> None:
        self._state = state
        self._row = row
        self._spool = spool

    def file(self) -> SpoolFile:
        """The spool file, made when it is first needed; with `spool_lock` held. Raises NoSpace."""
        spooled = self._state.spooled
        if spooled is None:
            spooled = self._spool.open()
            with self._state.changed:
                self._state.spooled = spooled
        return spooled

    # From the server.

    def bring_here(self, most: int) -> bool:
        """Fetch all that only the server has, so that the handles can do without its file. False:
        that would be more than `most` bytes, or cannot be done. With exclusive use of the file.

        Raises NetworkError. `send_back` undoes it.
        """
        state = self._state
        with state.spool_lock:
            with state.changed:
                end = min(state.changes.base_size, state.changes.size)
                known = state.spooled.present if state.spooled else RangeSet()
                if sum(stop - start for start, stop in known.missing(0, end)) > most:
                    return False
                is_fetched = state.spooled is None or state.is_fetched
            spooled = self.file()
            if is_fetched:
                spooled.note_fetched(True)
            with state.changed:
                state.is_fetched = is_fetched
        try:
            self.hydrate(spooled)
        except errors.NetworkError:
            self.send_back()
            raise
        except errors.FtpfsError as error:
            self.send_back()
            log.info("%s, which is open, is kept on the server: %s", state.path, error)
            return False
        return True

    def keep(self) -> None:
        """Another file is about to get the name. Handles go on with the content that there is now,
        whatever the server shows under that name. `send_back` undoes it."""
        with self._state.changed:
            self._state.is_kept = True

    def send_back(self) -> None:
        """Drop what `bring_here` fetched: the server's file is still there, and is followed."""
        state = self._state
        with state.spool_lock, state.changed:
            state.is_kept = False
            if state.is_fetched and not state.progress.is_deleted and state.spooled is not None:
                state.spooled.cut(0)

    def hydrate(self, spooled: SpoolFile) -> None:
        """Fetch the parts of the base that nobody wrote over.

        Raises Superseded after `cancel_locked`, NoSpace, and what the network raises.
        """
        state = self._state
        with state.changed:
            changes = state.changes
            gaps = spooled.present.missing(0, min(changes.base_size, changes.size))
            reader = state.server.reader_locked() if gaps else None
            state.is_hydrating = reader is not None
        if reader is None:
            return
        try:
            for start, end in gaps:
                for offset in range(start, end, COPY_BYTES):
                    data = reader.read(offset, min(COPY_BYTES, end - offset))
                    self._fill_gaps(spooled, offset, data)
        except errors.FtpfsError as error:
            with state.changed:
                if not state.is_hydrating:
                    raise self._cancelled_locked() from error
            raise
        finally:
            with state.changed:
                state.is_hydrating = False
        # If the mount is killed during the upload, the next one has all of the content, whatever
        # the server has by then.
        self._row.correct()

    def cancel_locked(self) -> Reader | None:
        """Have a `hydrate` under way end soon. Returns the reader that it uses; the caller closes
        it."""
        if not self._state.is_hydrating:
            return None
        self._state.is_hydrating = False
        return self._state.server.take_reader_locked()

    def _fill_gaps(self, spooled: SpoolFile, offset: int, data: bytes) -> None:
        """Write content of the base where the spool file has none. A program may have written
        there since the fetch began."""
        state = self._state
        with state.spool_lock:
            with state.changed:
                if not state.is_hydrating:
                    raise self._cancelled_locked()
                end = min(offset + len(data), state.changes.base_size)
                gaps = spooled.present.missing(offset, end) if offset < end else []
            for start, stop in gaps:
                count = spooled.write(start, memoryview(data)[start - offset : stop - offset])
                with state.changed:
                    spooled.mark(start, start + count)
                if count < stop - start:
                    raise errors.NoSpace("the disk that holds the spool is full")

    def _cancelled_locked(self) -> errors.Superseded:
        return errors.Superseded(f"{self._state.path}: its upload was cancelled")

    # Copies.

    def copy(self, spooled: SpoolFile, size: int) -> IO[bytes] | None:
        """A copy of the first `size` bytes, that nobody writes to; with `spool_lock` held. None:
        the disk has no room for it."""
        try:
            # It is open as long as the upload that sends it.
            copy = tempfile.TemporaryFile(dir=spooled.path.parent)  # noqa: SIM115 (see above)
            for offset in range(0, size, COPY_BYTES):
                copy.write(spooled.read(offset, min(COPY_BYTES, size - offset)))
            copy.truncate(size)
            copy.flush()
        except OSError as error:
            log.info("%s is sent while it is written over: no copy: %s", self._state.path, error)
            return None
        return copy

    # Appending.

    def move_behind(
        self, spooled: SpoolFile, start: int, entry: Entry, uncertain: Iterable[Trace] = ()
    ) -> SpoolFile:
        """Move what was appended here, from `start` on, behind what the server has (`entry`). All
        before is the server's. With `spool_lock` held. Returns the spool file, which may be another
        one. If it fails, nothing has changed. `uncertain`: for the row.

        The content goes into another spool file, and the row is replaced. Moved within its file, it
        could lie over what the row speaks of, and a kill would leave a mixture.
        """
        state, to, moved = self._state, entry.size or 0, spooled
        with state.changed:
            end = state.changes.size
        if to != start and end > start:
            moved = self._copied_behind(spooled, start, entry, uncertain)
        with state.changed:
            state.server.joined_locked()
            state.spooled = moved
            state.changes.end_behind(to, end - start + to)
            moved.cut(0)
            moved.mark(to, state.changes.size)
        if moved is not spooled:
            spooled.close()
        return moved

    def _copied_behind(
        self, spooled: SpoolFile, start: int, entry: Entry, uncertain: Iterable[Trace]
    ) -> SpoolFile:
        """A new spool file, and its row, with what follows `start` in `spooled`, behind `entry`."""
        state, to, moved = self._state, entry.size or 0, self._spool.open()
        with state.changed:
            end, is_recorded = state.changes.size, self._row.is_there_locked()
            row = self._row.draft_locked(moved)
        size = end - start + to
        try:
            for offset in range(start, end, COPY_BYTES):
                data = spooled.read(offset, min(COPY_BYTES, end - offset))
                if moved.write(offset - start + to, data) < len(data):
                    raise errors.NoSpace("the disk that holds the spool is full")
            if is_recorded:
                row = replace(
                    row,
                    size=size,
                    present=((to, size),),
                    base=entry,
                    base_size=to,
                    patching=(),
                    uncertain=tuple(uncertain),
                )
                self._spool.record_instead(spooled, moved, row)
        except BaseException:
            moved.close()
            raise
        return moved
