"""One open file: the server's content below, and what was written here above.

Owns the joining of the server's file (the *base*) and a spool file into one content, and what
programs and the queue of uploads do with a file. Reader and spool do not know each other. The rest
is done by rooms of its own, which share one state:

    state       what is known of the file, and its locks           (`state`)
    content     its spool file, filled by other ways than a write  (`content`)
    basis       which file of the server it is based on            (`basis`)
    lending     what the kernel writes there without asking        (`lending`)
    outgoing    how an upload of it runs                           (`outgoing`)
    row         its row in the journal                             (`row`)
    facts       what can be asked of it                            (`facts`)

**Content.** Each byte comes from the first of these that has it: the spool file, if the range is
`present`; the server's file, before `base_size`; else it is zero.

**Close and upload.** A close *commits*: a row of the journal says what there is. The kernel reports
each close of each copy of a descriptor, so a program may still be in the middle of its work. The
content is *due* when no handle is left that has changed the file (a *writer*), or when somebody
demands it. An upload *captures* what it sends; later writes belong to the next upload. A streamed
upload begins before the content is due, and captures when it becomes due.

Threading: any. The two locks are in `state`. `exclusive` is not a lock, but the right to use the
file on the server: one upload, or one change of name or attributes, at a time. A thread waits for
it with no lock held.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from ftpfs import errors
from ftpfs.core.files.basis import Basis
from ftpfs.core.files.content import SpooledContent
from ftpfs.core.files.facts import Facts
from ftpfs.core.files.lending import Lending
from ftpfs.core.files.outgoing import Outgoing
from ftpfs.core.files.row import Row
from ftpfs.core.files.server_file import View
from ftpfs.core.files.state import FileState
from ftpfs.core.names.known import KnownNames
from ftpfs.core.reading.blocks import BLOCK_SIZE, BlockCache
from ftpfs.core.reading.reader import Reader, StreamBudget
from ftpfs.core.writing.journal import Record
from ftpfs.core.writing.spool import Spool, SpoolFile
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# How long a file counts as being read after a read that did not reach its end, and after one that
# did: the kernel reads ahead of its program.
READING_SECONDS, READ_SECONDS = 3.0, 0.5
# Content up to so many bytes goes to the block cache when the server has it: programs read back
# what they just wrote (compilers, `git`).
CACHE_UP_TO = 1 << 20


class OpenFile(Facts):
    """The file at `path`, shared by all handles that have it open."""

    def __init__(
        self,
        path: str,
        entry: Entry | None,
        *,
        remote: Remote,
        cache: BlockCache,
        budget: StreamBudget,
        spool: Spool,
        known: KnownNames,
        generation: int = 0,
        mode: int | None = None,
    ) -> None:
        """`entry` as the server has it; None for a new file, that exists only here so far. `mode`:
        of a new file.

        `known` hears of uploads (`Outgoing`), and when a read found another content on the server.
        """
        state = FileState(path, entry, generation, mode, remote=remote, cache=cache, budget=budget)
        super().__init__(state)
        self._cache = cache
        self._spool = spool
        self._known = known
        self._row = row = Row(state, spool)
        self.content = SpooledContent(state, row, spool)
        self.basis = Basis(state, row, self.content, remote=remote, spool=spool)
        self.lending = Lending(state, self.content, spool)
        self.outgoing = Outgoing(
            state, row, self.content, self.lending, remote=remote, known=known, spool=spool
        )
        self._is_used_exclusively = False  # guarded by the state's `changed`

    def restore(self, record: Record, spooled: SpoolFile) -> None:
        """Be what a row of the journal says: the first thing that is done to this file."""
        state = self._state
        with state.changed:
            state.spooled = spooled
            state.mtime, state.mode_wanted = record.mtime, record.mode
            state.progress.restore(record.writes, record.since)
            self._row.says = record.size, record.mtime
            state.server.patching = record.patching
            changes = state.changes
            changes.restore(record.size, record.base_size, record.present)
            # It may have been uploaded before the mount ended, with nobody left to note it.
            changes.uncertain.update({(record.size, record.mtime), *record.uncertain})
            changes.goes_whole = not spooled.present.covers(record.base_size, record.size)

    @property
    def uploaded_bytes(self) -> int:
        """Of the last upload that succeeded."""
        with self._state.changed:
            return self.outgoing.uploaded_bytes

    def attributes(self) -> Entry:
        self.lending.absorb()
        entry, size = super().attributes(), self.lending.loans.shown_size
        return entry if size is None else replace(entry, size=size)

    def grow(self) -> bool:
        """Append what the file has grown by on the server to what the kernel reads. Returns whether
        there is more to append. Raises what the network raises."""
        return self.lending.loans.grow(self.read)

    # Content.

    def begin(self, view: View) -> None:
        """A handle is opened. What it reads from now on, perhaps from the kernel's pages, is the
        content that this file has now."""
        with self._state.changed:
            self._state.server.begin_locked(view, self._state.changes.size)

    def read(self, offset: int, size: int, view: View | None = None) -> bytes:
        """Up to `size` bytes at `offset`; less only at the end of the file.

        Raises Changed if `view` has begun with another content, and what the network raises.
        """
        state = self._state
        server, changes = state.server, state.changes
        while True:
            with state.changed:
                if view is not None and state.follows_locked():
                    server.look_locked(view, offset)
                end = min(offset + size, changes.size)
                if end <= offset:
                    return b""
                server.read_until = time.monotonic() + (
                    READING_SECONDS if end < changes.size else READ_SECONDS
                )
                spooled = state.spooled
                gaps = spooled.present.missing(offset, end) if spooled else [(offset, end)]
                base_end = changes.base_size
                reader = server.reader_locked() if gaps and gaps[0][0] < base_end else None
            try:
                if spooled is None and reader is not None:
                    return reader.read(offset, end - offset)
                return _join(spooled, reader, offset, end, gaps, base_end)
            except errors.FtpfsError as error:
                if isinstance(error, errors.Changed):
                    self._known.outdated(self.path)
                with state.changed:
                    # An upload, or a newer content on the server, may have replaced the base; or
                    # what was appended has another spool file now. Then the read is repeated.
                    same_base = reader is None or server.is_read_by_locked(reader)
                    if same_base and (spooled is state.spooled or state.progress.is_closed):
                        raise

    def write(
        self, offset: int | None, data: bytes | memoryview, *, writer: int | None = None
    ) -> tuple[int, bool]:
        """Write into the spool, at `offset` (None: at the end), by the handle `writer`. Returns the
        count, and whether sending should begin now, while the file is still being written (the
        queue was not asked for that yet).

        The count is less than all if the local disk became full on the way. The rest then raises
        NoSpace, and changes nothing. Raises what the server refused the new file with.
        """
        self._spool.make_room(len(data))
        state = self._state
        changes = state.changes
        with state.spool_lock:
            self._check_refusal()
            spooled = self.content.file()
            if state.is_fetched:
                spooled.note_fetched(False)
            with state.changed:
                if offset is None:
                    offset = changes.size
                else:
                    changes.check_end(offset + len(data))
                    changes.is_only_appended = False
                    changes.is_rewritten = changes.is_rewritten or bool(state.server.patching)
                    if writer is not None:
                        state.progress.place(writer)
            count = spooled.write(offset, data)
            self.lending.loans.write_locked(offset, data[:count])
            with state.changed:
                state.is_fetched = False
                end = offset + count
                spooled.mark(offset, end)
                stream = changes.write(offset, end) and not state.progress.is_deleted
                state.write_locked(writer)
                if state.capture is not None:
                    state.capture.written_locked(offset, end)
                    state.server.overwrite_samples_locked(offset, data[:count])
                if stream:
                    changes.is_streamable, state.is_stream_wanted = False, True
        return count, stream

    def truncate(self, size: int, *, writer: int | None = None) -> None:
        """Cut the file to `size` bytes, or let it grow by zeros, by the handle `writer`."""
        state = self._state
        with state.spool_lock:
            self._check_refusal()
            self.lending.absorb_locked()
            with state.changed:
                state.changes.check_end(size)
                if size == state.changes.size and state.server.entry is not None:
                    return
            spooled = self.content.file()
            with spooled.in_use():  # without a descriptor nothing can be cut, or is changed
                if state.is_fetched:
                    spooled.note_fetched(False)
                with state.changed:
                    state.is_fetched = False
                    spooled.cut(size)
                    state.changes.cut(size)
                    if state.capture is not None:
                        state.capture.cut_locked(size)
                    state.write_locked(writer)
                    is_recorded = self._row.is_there_locked()
                try:
                    if is_recorded:
                        self._row.write()  # first: it must not speak of bytes that are gone
                finally:
                    spooled.truncate(size)
                    self.lending.cut_locked(size)
                    self.lending.loans.cut_locked(size)

    def set_for_upload(self, *, mtime: int | None = None, mode: int | None = None) -> bool:
        """Have the upload that is due set these. False: none is; set them on the server then.

        A deleted file just keeps them.
        """
        state = self._state
        with state.spool_lock:
            self.lending.absorb_locked()
            with state.changed:
                if not (state.progress.is_dirty or state.progress.is_deleted):
                    return False
                if mtime is not None:
                    state.mtime = mtime
                if mode is not None:
                    state.mode = state.mode_wanted = mode
                is_recorded = self._row.is_there_locked()
            if is_recorded:
                self._row.write()
            return True

    # Closing, and what is due.

    def commit(self) -> bool:
        """Have the journal hold what was written so far. Returns whether that is news.

        Raises NoSpace, and what the journal raises; the content counts as committed even so.
        """
        state = self._state
        with state.spool_lock:
            self.lending.absorb_locked(at_close=True)
            with state.changed:
                progress = state.progress
                if progress.is_deleted or not progress.is_dirty:
                    return False
                if progress.committed == progress.writes and not self._row.is_stale_locked():
                    return False
                progress.commit(time.time())
            self.content.file()
            self._row.write()
        return True

    def begin_writing(self, writer: int) -> None:
        """The handle `writer` made the file, or will change it."""
        with self._state.changed:
            self._state.progress.begin_writing(writer)

    def end_writing_if_clean(self, writer: int) -> bool:
        """The handle is closed. False, and nothing is noted, if there is something to commit or to
        send: then `commit` and `end_writing` are needed. Most handles only read."""
        with self._state.changed:
            if self._state.progress.is_dirty:
                return False
            self._state.progress.end_writing(writer)
            return True

    def end_writing(self, writer: int) -> bool:
        """The handle is closed, and what it wrote is committed. Returns whether something is due
        now that was not before."""
        with self._state.changed:
            return self._state.progress.end_writing(writer) and self._state.make_due_locked()

    def demand(self) -> bool:
        """Have what was written sent, even if writers have the file open. Returns whether something
        of what is committed was not due before."""
        with self._state.changed:
            is_held = self._state.progress.is_held
            self._state.progress.demand()
            return self._state.make_due_locked() or is_held

    def wait_until_sent(self, *, or_accepted: bool = False) -> None:
        """Return when the server holds what was due to be sent before the call; `or_accepted`: or
        when it takes an upload of the file that is under way.

        Raises what an upload raises meanwhile; the content stays in the spool then, and dirty.
        """
        progress = self._state.progress
        with self._state.changed:
            progress.waiting += 1
            try:
                self._wait_until_sent_locked(or_accepted=or_accepted)
            except errors.NetworkError:
                if progress.waiting == 1:
                    progress.end_demand()
                raise
            finally:
                progress.waiting -= 1

    def _wait_until_sent_locked(self, *, or_accepted: bool) -> None:
        state = self._state
        # Not what is committed by now: a program that goes on writing may keep that back.
        goal, count = state.progress.due, state.failures.count
        while state.progress.sent < goal and not state.progress.is_deleted:
            if (error := state.failures.report_since(count)) is not None:
                raise errors.again(error) from error
            if state.progress.is_closed:
                raise errors.ConnectionLost("the mount is being closed")
            if or_accepted and state.capture is not None and state.capture.is_accepted:
                return
            state.changed.wait()

    # Failures.

    def failed(self, error: errors.FtpfsError) -> None:
        """An upload ended by `error`, that nothing could be done about: tell those who wait."""
        with self._state.changed:
            self._state.failures.note(error)
            self._state.changed.notify_all()

    def give_up(self, error: errors.FtpfsError) -> None:
        """The upload failed for good: that is told until the file is written to again."""
        state = self._state
        with state.changed:
            if not state.progress.is_dirty or state.progress.is_deleted:
                return
            state.failures.for_good = error
            path, spooled, is_empty = state.path, state.spooled, state.is_untouched_locked()
        if is_empty:  # it goes with its last handle, if the program was told
            log.error("%s could not be made: %s", path, error)
        else:
            where = spooled.path if spooled else "the spool"
            log.error("%s could not be uploaded: %s; what was written is in %s", path, error, where)
        if spooled:
            with contextlib.suppress(errors.FtpfsError):
                self._spool.journal.note_error(spooled.name, errors.printable(str(error)))

    def tell_failure(self, *, again: bool = False) -> None:
        """Raise what made the upload fail for good, if no program was told yet; with `again`, in
        any case."""
        with self._state.changed:
            error = self._state.failures.report_for_good(again=again)
        if error is not None:
            raise errors.again(error) from error

    def refuse(self, error: errors.FtpfsError) -> None:
        """The server refused the file, and the program that made it was told. If nothing was
        written to it so far, nothing will be: the next write raises this, too."""
        with self._state.changed:
            if self._state.is_untouched_locked():
                self._state.failures.refusal = error

    def _check_refusal(self) -> None:
        with self._state.changed:
            error = self._state.failures.refusal
        if error is not None:
            raise errors.again(error) from error

    # Exclusive use, and the end.

    @contextlib.contextmanager
    def exclusive(self, *, moving: bool = False) -> Iterator[None]:
        """Exclusive use of the file on the server: for an upload, or a change of name or
        attributes. `moving`: the base may go elsewhere; a read that does not find it waits for the
        end.

        A thread that needs several files takes them in the order of `id`.
        """
        state = self._state
        with state.changed:
            while self._is_used_exclusively:
                state.changed.wait()
            self._is_used_exclusively, state.server.moving = True, moving
        try:
            yield
        finally:
            with state.changed:
                self._is_used_exclusively = state.server.moving = False
                state.changed.notify_all()

    def cancel(self, *, only_streams: bool = False) -> None:
        """Have the upload under way end soon, by Superseded; `only_streams`: if it waits for a
        writer. A fetch that it waits for ends with its next block, or its deadline."""
        reader = None
        with self._state.changed:
            capture = self._state.capture
            if capture is not None and not (only_streams and capture.captured):
                capture.cancel_locked()
            if not only_streams:
                reader = self.content.cancel_locked()
        if reader:
            reader.close()

    def close(self) -> bool:
        """The last handle is gone, or the mount. Whether unsent content stays in the spool."""
        state = self._state
        with state.spool_lock, state.changed:
            state.progress.is_closed = True
            state.changed.notify_all()
            left = state.progress.is_dirty and not state.progress.is_deleted
            reader = state.server.take_reader_locked()
            spooled, state.spooled = state.spooled, None
            is_whole = spooled is not None and self._is_whole_locked(spooled)
            size, version = state.changes.size, state.server.version
        if reader:
            reader.close()
        if spooled is None:
            return left
        if is_whole and size <= CACHE_UP_TO:
            for index, offset in enumerate(range(0, size, BLOCK_SIZE)):
                block = spooled.read(offset, min(BLOCK_SIZE, size - offset))
                self._cache.put(version, index, block, downloaded=False)
        if is_whole and self._cache.outlives_mount:
            spooled.hand_over(functools.partial(self._cache.adopt, version))
        else:
            spooled.close(delete=not left)
        return left

    def _is_whole_locked(self, spooled: SpoolFile) -> bool:
        """Whether the spool holds all of the file, as the server has it."""
        progress, size = self._state.progress, self._state.changes.size
        if progress.is_dirty or progress.is_deleted or self._state.server.entry is None:
            return False
        return self._state.server.version.size == size and spooled.present.covers(0, size)


def _join(
    spooled: SpoolFile | None,
    reader: Reader | None,
    offset: int,
    end: int,
    gaps: list[tuple[int, int]],
    base_end: int,
) -> bytes:
    """The bytes [offset, end): the spool's, but in its gaps the base's, and zeros after that."""
    if spooled is None:
        raise errors.BadHandle("no content, neither here nor on the server")
    if not gaps:
        return spooled.read(offset, end - offset)
    content = bytearray(spooled.read(offset, end - offset))
    for start, stop in gaps:
        known = min(stop, base_end)
        if reader is not None and start < known:
            content[start - offset : known - offset] = reader.read(start, known - start)
        zeros = max(start, known)
        content[zeros - offset : stop - offset] = bytes(stop - zeros)
    return bytes(content)
