"""One open file: the server's content below, what was written here above.

Owns: the joining of what the server has (`base`) and a spool file into one content. Reader and
writer do not know each other. What an upload sends while writing goes on is `sending`'s.

The content is, byte for byte: what is `present` in the spool; else, before `_base_size`, what the
server's file (the *base*) holds; else zero. `_unsent` are the ranges in which it differs from the
server's file. A file that was only read *follows* the server: when a later look shows another
content there, that is its content from then on.

A close *commits*: a row of the journal says what there is, and the content is sent some time later.
An upload *captures* what it sends: what is written after that is the next one's. A streamed upload
begins before the close, and captures at the close.

Threading. Two locks, `_spool_lock` before `_changed`:
- `_spool_lock` orders what is written to the spool file and to the journal, the way a kernel's
  inode lock does. It is the one lock under which (local) disk I/O is done: a truncate and a write
  must not interleave, and neither may a row of the journal and what it speaks of.
- `_changed` guards the state; no I/O under it. Before tree and blocks in the lock order.
`exclusive` is no lock but a turn: one upload, or one change of name or attributes, at a time. It is
waited for with no lock held.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO

from ftpfs import errors
from ftpfs.core.base import Base, View, is_other_content, version_of
from ftpfs.core.blocks import BLOCK_SIZE, BlockCache
from ftpfs.core.journal import Record, Sample
from ftpfs.core.ranges import RangeSet
from ftpfs.core.reader import Reader, StreamBudget
from ftpfs.core.remote import Remote
from ftpfs.core.sending import Attributes, Sending
from ftpfs.core.writer import Spool, SpoolFile
from ftpfs.ftp.listing import Entry, Kind

log = logging.getLogger(__name__)

# Hydration: how much of the base is copied into the spool at a time.
COPY_SIZE = 1 << 20
# Modes that servers give to a new file by themselves, give or take a umask; anything else
# (executable, private) has to be set.
ORDINARY_MODES = {0o644, 0o664, 0o666}
# A file is sent while it is being written when so much of it was written from its start. Smaller
# ones are closed before the connection is ready.
STREAM_FROM = 1 << 20
# Sending only what changed has to save so much: below it, sending all is as fast, and atomic.
WORTH_PATCHING = 256 << 10
# By which a patch that broke off is known to have been ours: the first bytes of its first ranges,
# and of those of patches before it. Fewer bytes than any network carries in pieces.
SAMPLE, SAMPLES, MOST_SAMPLES = 16, 4, 12
# Content that is written again and again while it is sent is copied after so many tries, and sent
# from there.
OVERTAKEN = 2
# A file that was closed and is being written again is sent when that was closed, too; or when no
# write came for so long, or the last close is so long ago (seconds).
WRITER_PAUSE, LONGEST_WRITE = 10.0, 60.0
# Content up to so much goes to the block cache when the server has it: programs read back what they
# just wrote (compilers, `git`).
CACHE_UP_TO = 1 << 20


class OpenFile:
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
        generation: int = 0,
        mode: int | None = None,
        uploaded: Callable[[str, Entry], int],
        accepted: Callable[[str], None] = lambda _path: None,
        outdated: Callable[[str], None] = lambda _path: None,
    ) -> None:
        """`entry` as the server has it; None for a new file, that exists only here so far.

        `uploaded(path, entry)` is called after each upload, with no lock held, while the file still
        counts as dirty: it is never neither here nor in the tree. It returns the generation of what
        is there now. `accepted(path)` is called, with no lock held, when the server takes an
        upload that goes on. `outdated(path)` is called, with no lock held, when a read found that
        the server has another content than this.
        """
        self._remote = remote
        self._cache = cache
        self._spool = spool
        self._accepted = accepted
        self._uploaded = uploaded
        self._outdated = outdated
        self._spool_lock = threading.Lock()
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._base = Base(
            path, entry, generation, self._changed, remote=remote, cache=cache, budget=budget
        )
        self._path = path
        self._hidden_as: str | None = None  # where the base of a deleted file waits for the end
        self._deleted = False
        self._size = self._base_size = self._base.version.size
        self._mtime = entry.mtime if entry else int(time.time())
        self._mode = mode
        self._mode_wanted = mode if mode is not None and mode not in ORDINARY_MODES else None
        self._replaces = False  # what the server has under this name was another file
        self._file: SpoolFile | None = None
        # Counts of writes: all, those in the journal, those that the server has.
        self._writes = 0 if entry else 1
        self._committed = self._sent = 0
        self._written_at = self._committed_at = 0.0  # time.monotonic()
        self._waiting = 0  # threads, in `wait_until_sent`
        self._unsent = RangeSet()
        self._recorded: tuple[int, int] | None = None  # size and time in the row
        self._row_failed = False  # the row could not be written, and is an older one, or none
        self._since = 0.0  # when it was first committed after it was clean; wall clock
        # Size and time of uploads of which nobody knows what came of them.
        self._tried: set[tuple[int, int | None]] = set()
        self._uploading = False
        self._hydrating = False  # parts of the base are fetched, to be sent with the rest
        self._sending: Sending | None = None
        self._uploaded_bytes = 0
        self._broken: Sending | None = None  # off by the network; the server may have its head
        self._streamable = entry is None  # written from its start, in order
        self._stream_wanted = False
        self._overtaken = 0
        self._closed = False
        # Failed uploads: how many, the last, the one that was for good, the one that was told.
        self._failures = 0
        self._error: errors.FtpfsError | None = None
        self._failure: errors.FtpfsError | None = None
        self._told: errors.FtpfsError | None = None

    def restore(self, record: Record, file: SpoolFile) -> None:
        """Be what a row of the journal says: the first thing that is done to this file."""
        with self._changed:
            self._file = file
            self._size, self._base_size = record.size, record.base_size
            self._mtime, self._mode_wanted = record.mtime, record.mode
            self._writes = self._committed = 1
            self._since = record.since
            self._recorded = record.size, record.mtime
            self._base.patching = record.patching
            # It may have been uploaded before the end, with nobody left to note it.
            self._tried.update({(record.size, record.mtime), *record.tried})
            self._streamable = False
            for start, end in record.present:
                self._unsent.add(start, end)
            # What was never written and is not the base's is zeros; the server need not know.
            self._unsent.add(record.base_size, record.size)

    # Attributes.

    def attributes(self) -> Entry:
        """The entry as an application shall see it now."""
        with self._changed:
            base = self._base.entry
            return Entry(
                name=posixpath.basename(self._path),
                kind=Kind.FILE,
                size=self._size,
                mtime=self._mtime,
                exact=self._dirty_locked() or base is None or base.exact,
                mode=self._mode if self._mode is not None else base.mode if base else None,
                target=None,
            )

    @property
    def path(self) -> str:
        with self._changed:
            return self._path

    @property
    def dirty(self) -> bool:
        """Whether something here is not on the server yet."""
        with self._changed:
            return self._dirty_locked() and not self._deleted

    def _dirty_locked(self) -> bool:
        return self._sent != self._writes

    @property
    def writes(self) -> int:
        """How often it was written to."""
        with self._changed:
            return self._writes

    @property
    def waits(self) -> bool:
        """Whether closed content of it is not on the server yet."""
        with self._changed:
            return self._sent < self._committed and not self._deleted

    @property
    def has_content(self) -> bool:
        return True

    @property
    def changes_in_place(self) -> bool:
        """Whether the next upload sends only parts of it, as far as one knows before it."""
        with self._changed:
            return self._patchable_locked()

    @property
    def unsent_bytes(self) -> int:
        """How much the next upload has to send, as far as one knows before it; or the one under
        way."""
        with self._changed:
            if self._sending is not None:
                return self._sending.total_locked()
            whole = self._unsent.total()
            return whole if self._patchable_locked() else max(whole, self._size)

    @property
    def sent_bytes(self) -> int:
        """Of the upload under way."""
        with self._changed:
            return self._sending.sent if self._sending else 0

    @property
    def uploaded_bytes(self) -> int:
        """Of the last upload that succeeded."""
        with self._changed:
            return self._uploaded_bytes

    @property
    def entry(self) -> Entry | None:
        """What the server has under its name, as far as is known."""
        with self._changed:
            return self._base.entry

    @property
    def tried(self) -> set[tuple[int, int | None]]:
        """Size and time of uploads that may have been carried out."""
        with self._changed:
            return set(self._tried)

    @property
    def on_server(self) -> bool:
        with self._changed:
            return self._base.entry is not None

    @property
    def may_be_on_server(self) -> bool:
        """Whether the server has a file of this name, or may have: a first upload that failed can
        have left all or a part of it."""
        with self._changed:
            return self._base.entry is not None or bool(self._tried)

    @property
    def is_deleted(self) -> bool:
        """Whether it has lost its name, and lives on in its handles only."""
        with self._changed:
            return self._deleted

    @property
    def hidden_as(self) -> str | None:
        """The name on the server that the base of a deleted file has until the last handle goes."""
        with self._changed:
            return self._hidden_as

    @property
    def needs_base(self) -> bool:
        """Whether reading, or the next upload, needs content that only the server has."""
        with self._changed:
            end = min(self._base_size, self._size)
            if self._base.entry is None or end == 0:
                return False
            return self._file is None or not self._file.present.covers(0, end)

    @property
    def follows_server(self) -> bool:
        """Whether its content is the server's file and nothing but that."""
        with self._changed:
            return self._follows_locked()

    def _follows_locked(self) -> bool:
        changed = self._dirty_locked() or self._deleted or self._file is not None
        return not changed and self._base.entry is not None

    def follow(self, entry: Entry, generation: int) -> None:
        """Take over what the server shows at this file's path, if the file follows the server."""
        with self._changed:
            if not self._follows_locked():
                return
            known = self._base.entry
            self._mode, self._mtime = None, entry.mtime
            if known is None or not is_other_content(known, entry):
                self._base.entry = entry
                return
            reader = self._base.follow_locked(entry, version_of(self._path, entry, generation))
            self._size = self._base_size = self._base.version.size
        if reader:
            reader.close()

    def set_for_upload(self, *, mtime: int | None = None, mode: int | None = None) -> bool:
        """Have the upload that is due set these; False when none is: set them on the server then.

        A deleted file just keeps them.
        """
        with self._spool_lock:
            with self._changed:
                if not (self._dirty_locked() or self._deleted):
                    return False
                if mtime is not None:
                    self._mtime = mtime
                if mode is not None:
                    self._mode = self._mode_wanted = mode
                recorded = self._recorded is not None
            if recorded:
                self._record()
            return True

    def has_on_server(self, *, mtime: int | None = None, mode: int | None = None) -> None:
        """These were set on the server; with `exclusive` held."""
        with self._changed:
            if self._base.entry is None:
                return
            if mode is not None:
                self._mode = mode
                self._base.entry = replace(self._base.entry, mode=mode)
            if mtime is not None:
                self._base.entry = replace(self._base.entry, mtime=mtime, exact=True)
                if not self._dirty_locked():  # else something was written since
                    self._mtime = mtime

    def moved(self, path: str) -> None:
        """The file has another name now, on the server too if it was there."""
        with self._changed:
            self._path = path
            if not self._deleted:  # else the base has a name of its own
                self._base.path = path

    def record_again(self) -> None:
        """Have the row, if there is one, say what is so by now: after `moved`, the new name."""
        with self._spool_lock:
            with self._changed:
                recorded = self._recorded is not None
            if recorded:
                self._try_to_record()

    def directory_moved(self, old: str, new: str) -> None:
        """A directory moved on the server, and the hidden base of a deleted file with it."""
        with self._changed:
            if self._hidden_as and self._hidden_as.startswith(old + "/"):
                self._hidden_as = self._base.path = new + self._hidden_as[len(old) :]

    def deleted(self, hidden_as: str | None, *, settled: str | None = None) -> None:
        """The name is gone. Handles go on; the base can be read at `hidden_as` (None: nowhere).

        `settled`: the path of which the journal has an intent that is done by this.
        """
        with self._spool_lock:
            with self._changed:
                self._deleted = True
                self._hidden_as = hidden_as
                if hidden_as:
                    self._base.path = hidden_as
                file, recorded, self._recorded = self._file, self._recorded, None
                if self._sending is not None:
                    self._sending.cancel_locked()
                self._changed.notify_all()
            row = file.name if recorded is not None and file is not None else None
            if row is not None or settled is not None:
                self._spool.journal.remove(row, settled=settled)

    def shown_as(self, path: str) -> None:
        """A deleted file is shown under a name that exists only here."""
        with self._changed:
            self._path = path

    # Content.

    def read(self, offset: int, size: int, view: View | None = None) -> bytes:
        """Up to `size` bytes at `offset`; less only at the end of the file.

        Raises Changed where `view` has begun with another content, and what the network raises.
        """
        while True:
            with self._changed:
                if view is not None and self._follows_locked():
                    self._base.look_locked(view, offset, self._size)
                end = min(offset + size, self._size)
                if end <= offset:
                    return b""
                file = self._file
                gaps = file.present.missing(offset, end) if file else [(offset, end)]
                base_end = self._base_size
                reader = self._base.reader_locked() if gaps and gaps[0][0] < base_end else None
            try:
                if file is None and reader is not None:
                    return reader.read(offset, end - offset)
                return _join(file, reader, offset, end, gaps, base_end)
            except errors.FtpfsError as error:
                if isinstance(error, errors.Changed):
                    self._outdated(self.path)
                with self._changed:
                    # An upload, or a newer content on the server, took the base away under us.
                    if reader is None or self._base.is_read_by_locked(reader):
                        raise

    def begin(self, view: View) -> None:
        """A handle is opened: what it reads from now on, be it from the kernel's pages, is the
        content that this file has now."""
        with self._changed:
            self._base.begin_locked(view, self._size)

    def write(self, offset: int | None, data: bytes | memoryview) -> tuple[int, bool]:
        """Into the spool, at `offset` (None: at the end); the count, and whether sending should
        begin now, while it is still being written (`stream` was not called for it yet).

        The count is less than all when the local disk became full on the way; the rest then raises
        NoSpace, and nothing is changed by it.
        """
        self._spool.make_room(len(data))
        with self._spool_lock:
            file = self._spool_file()
            if offset is None:
                with self._changed:
                    offset = self._size
            count = file.write(offset, data)
            with self._changed:
                end = offset + count
                file.mark(offset, end)
                if offset != self._size:
                    self._streamable = False
                # A hole before it is zeros that the server does not have either.
                self._unsent.add(min(offset, self._size), end)
                self._size = max(self._size, end)
                self._touch_locked()
                if self._sending is not None:
                    self._sending.written_locked(offset, end)
                stream = self._streamable and self._size >= STREAM_FROM and not self._deleted
                if stream:
                    self._streamable, self._stream_wanted = False, True
        return count, stream

    def truncate(self, size: int) -> None:
        with self._spool_lock:
            with self._changed:
                if size == self._size and self._base.entry is not None:
                    return
            file = self._spool_file()
            with self._changed:
                file.cut(size)
                self._unsent.cut(size)
                self._unsent.add(self._size, size)
                if self._sending is not None:
                    self._sending.cut_locked(size)
                self._base_size = min(self._base_size, size)
                self._streamable = size == 0
                self._size = size
                self._touch_locked()
                recorded = self._recorded is not None
            try:
                if recorded:
                    self._record()  # first: it must not speak of bytes that are gone
            finally:
                file.truncate(size)

    # To the server.

    def commit(self) -> bool:
        """Have the journal hold what was written so far; whether that is news, and due to be sent.

        Raises NoSpace, and what the journal raises; the content is due to be sent even so.
        """
        with self._spool_lock:
            with self._changed:
                if self._deleted or not self._dirty_locked():
                    return False
                recorded = self._recorded is not None and not self._row_failed
                if self._committed == self._writes and recorded:
                    return False
                if self._committed <= self._sent:
                    self._since = time.time()
                self._committed = self._writes
                self._committed_at = time.monotonic()
                self._stream_wanted = False
                if self._sending is not None and not self._sending.captured:
                    self._capture_locked(self._sending)
            self._spool_file()
            self._record()
        return True

    def wait_until_sent(self, *, or_accepted: bool = False) -> None:
        """Return when the server holds what was committed before the call; `or_accepted`: or when
        it takes an upload of the file that is under way.

        Raises what an upload raises meanwhile; the content stays in the spool then, and dirty.
        """
        with self._changed:
            self._waiting += 1
            try:
                self._wait_until_sent_locked(or_accepted=or_accepted)
            finally:
                self._waiting -= 1

    def _wait_until_sent_locked(self, *, or_accepted: bool) -> None:
        goal, failures = self._committed, self._failures
        while self._sent < goal and not self._deleted:
            if self._failures != failures and self._error is not None:
                self._told = self._error
                raise errors.again(self._error) from self._error
            if self._closed:
                raise errors.ConnectionLost("the mount is being closed")
            if or_accepted and self._sending is not None and self._sending.is_accepted:
                return
            self._changed.wait()

    def give_up(self, error: errors.FtpfsError) -> None:
        """Its upload failed for good: that is told until it is written to again."""
        with self._changed:
            if self._sent == self._writes or self._deleted:
                return
            self._failure = error
            path, file = self._path, self._file
        where = file.path if file else "the spool"
        log.error("%s could not be uploaded: %s; what was written is in %s", path, error, where)
        if file:
            with contextlib.suppress(errors.FtpfsError):
                self._spool.journal.note_error(file.name, errors.printable(str(error)))

    def tell_failure(self, *, again: bool = False) -> None:
        """Raise what made its upload fail for good, if anybody has still to be told; with `again`,
        in any case."""
        with self._changed:
            error = self._failure
            if error is None or (error is self._told and not again):
                return
            self._told = error
        raise errors.again(error) from error

    @contextlib.contextmanager
    def exclusive(self, *, moving: bool = False) -> Iterator[None]:
        """A turn at the file on the server: for uploading, or for changing its name or attributes.
        `moving`: its base may go elsewhere; who does not find it waits for the end of the turn.

        Who needs the turns of several files takes them in the order of `id`.
        """
        with self._changed:
            while self._uploading:
                self._changed.wait()
            self._uploading, self._base.moving = True, moving
        try:
            yield
        finally:
            with self._changed:
                self._uploading = self._base.moving = False
                self._changed.notify_all()

    def cancel(self, *, only_streams: bool = False) -> None:
        """Have the upload under way end soon, by Superseded; `only_streams`: if it waits for a
        writer. A fetch that it waits for ends with its next block, or its deadline."""
        reader = None
        with self._changed:
            sending = self._sending
            if sending is not None and not (only_streams and sending.captured):
                sending.cancel_locked()
            if self._hydrating and not only_streams:
                self._hydrating = False
                reader = self._base.take_reader_locked()
        if reader:
            reader.close()

    def upload(self, *, streamed: bool = False) -> None:
        """Send what was written, with `exclusive` held; `streamed`: perhaps while it is still being
        written. Raises Superseded, Conflict, and what the server makes of it."""
        with self._changed:
            if streamed and self._is_being_written_locked():
                raise errors.Superseded(f"{self._path}: is being written again")
        try:
            self._upload(streamed=streamed)
        except BaseException as error:
            with self._changed:
                if self._sending is not None:
                    self._give_back_locked(self._sending)
                    if _may_be_done(error):
                        self._tried.add(self._sending.trace_locked(self._mtime))
                network = isinstance(error, errors.NetworkError)
                self._broken, self._sending = (self._sending if network else None), None
                self._overtaken += isinstance(error, errors.Superseded)
            raise

    def _is_being_written_locked(self) -> bool:
        """Whether a program is in the middle of it: what there is now was never closed, and others
        should not see it. Nobody is kept waiting for that."""
        if self._committed in (0, self._writes) or self._stream_wanted or self._waiting:
            return False
        now = time.monotonic()
        return now - self._written_at < WRITER_PAUSE and now - self._committed_at < LONGEST_WRITE

    def failed(self, error: errors.FtpfsError) -> None:
        """An upload ended by `error`, that nothing could be done about: tell who waits for it."""
        with self._changed:
            self._failures += 1
            self._error = error
            self._changed.notify_all()

    def shows(self, entry: Entry) -> bool:
        """Whether `entry` is what the server shows of a content of this file that was sent, and of
        which nobody knows whether it arrived: the answer was lost, here or before a crash."""
        with self._changed:
            return entry.exact and (entry.size, entry.mtime) in self._tried

    def is_based_on_other(self) -> bool:
        """Whether the server has another content under this name than the one we knew, and than
        what a patch of ours has left that broke off."""
        return self._base.is_other_on_server()

    def rebase(self, entry: Entry | None, generation: int) -> None:
        """What the server has under this name is `entry`, whatever was known of it."""
        with self._spool_lock:
            with self._changed:
                reader = self._base.become_locked(entry, version_of(self._path, entry, generation))
                self._base.patching = ()
                self._base_size = min(self._base_size, self._base.version.size)
                self._unsent.add(self._base_size, self._size)
                recorded = self._recorded is not None
            if recorded:
                self._try_to_record()
        if reader:
            reader.close()

    def become_new(self, path: str, seen: Entry | None, generation: int) -> None:
        """It goes to a name of its own, and is not the server's file any more that it was based on.

        What of it only the server has comes out of what is there now (`seen`; None: nothing is
        missing). Until all of it is here the file, and its row, are what they were: interrupted,
        the conflict is found again.
        """
        with self._spool_lock:
            file = self._spool_file()
        if seen is not None:
            self._read_from(seen, generation)
        try:
            self._hydrate(file)
        finally:
            with self._changed:
                self._base.foreign = None
        with self._spool_lock:
            with self._changed:
                self._path = self._base.path = path
                self._base.entry, self._base_size, self._base.patching = None, 0, ()
                self._tried.clear()  # under the other name
                recorded = self._recorded is not None
            if recorded:
                self._try_to_record()

    def _read_from(self, seen: Entry, generation: int) -> None:
        with self._changed:
            self._base.foreign = seen
            self._base.version = version_of(self._path, seen, generation)
            self._base_size = min(self._base_size, self._base.version.size)
            self._unsent.add(self._base_size, self._size)
            reader = self._base.take_reader_locked()
        if reader:
            reader.close()

    def replace_target(self, target: Entry | None, victim: OpenFile | None) -> None:
        """A new file is about to be renamed over what the server has as `target`.

        Of `victim`, unsent here, the server may have more than is known.
        """
        tried = victim.tried if victim else set()
        with self._spool_lock:
            with self._changed:
                self._tried |= tried
                self._base.entry, self._replaces = target, target is not None
                recorded = self._recorded is not None
            if recorded:
                self._try_to_record()

    def close(self) -> bool:
        """The last handle is gone, or the mount. Whether unsent content stays in the spool."""
        with self._spool_lock, self._changed:
            self._closed = True
            self._changed.notify_all()
            left = self._dirty_locked() and not self._deleted
            reader = self._base.take_reader_locked()
            file, self._file = self._file, None
            cached = file is not None and self._cacheable_locked(file)
            size, version = self._size, self._base.version
        if reader:
            reader.close()
        if file is None:
            return left
        if cached:
            for index, offset in enumerate(range(0, size, BLOCK_SIZE)):
                count = min(BLOCK_SIZE, size - offset)
                block = file.read(offset, count)
                self._cache.put(version, index, block, downloaded=False)
        file.close(delete=not left)
        return left

    def _cacheable_locked(self, file: SpoolFile) -> bool:
        """Whether the spool holds a small file, all of it, as the server has it."""
        if self._dirty_locked() or self._deleted or self._base.entry is None:
            return False
        small = self._base.version.size == self._size <= CACHE_UP_TO
        return small and file.present.covers(0, self._size)

    # Inside.

    def _touch_locked(self) -> None:
        self._writes += 1
        self._written_at = time.monotonic()
        self._failure = None
        # Whole seconds, as FTP keeps them: the time must not change when the upload sets it.
        self._mtime = int(time.time())

    def _traces_locked(self) -> set[tuple[int, int | None]]:
        """What the server may have of ours, besides what the row says."""
        sending = self._sending
        if sending is None or (sending.told is None and not sending.patches):
            return self._tried
        return {*self._tried, sending.trace_locked(self._mtime)}

    def _record(self) -> None:
        """Write the journal's row; with `_spool_lock` held."""
        with self._changed:
            file, error = self._file, self._failure
            if file is None or self._deleted:
                return
            record = Record(
                spool=file.name,
                path=self._path,
                size=self._size,
                present=tuple(file.present),
                base=self._base.entry,
                base_size=self._base_size,
                mode=self._mode_wanted,
                mtime=self._mtime or 0,
                since=self._since,
                error=errors.printable(str(error)) if error else None,
                patching=self._base.patching,
                tried=tuple(self._traces_locked()),
            )
            self._recorded = record.size, record.mtime
            self._row_failed = True
        if self._spool.sync:
            file.save()
        self._spool.journal.put(record)
        with self._changed:
            self._row_failed = False

    def _try_to_record(self) -> None:
        """As `_record`, where what the row is to tell is done and cannot be undone. The next commit
        writes what could not be written."""
        try:
            self._record()
        except errors.FtpfsError as error:
            log.error("after a crash, %s will not be what it is now: %s", self.path, error)

    def _spool_file(self) -> SpoolFile:
        """The spool file, made when first needed; with `_spool_lock` held."""
        file = self._file
        if file is None:
            file = self._spool.open()
            with self._changed:
                self._file = file
        return file

    def _upload(self, *, streamed: bool) -> None:
        with self._spool_lock:
            with self._changed:
                # It may be closed by now, and must not get another spool file then.
                if self._deleted or not self._dirty_locked():
                    return
                patching = self._base.patching
            file = self._spool_file()
        if patching:
            self._look_what_a_patch_left()
        if not self._patch(file):
            self._hydrate(file)
            self._store(file, streamed=streamed)

    def _store(self, file: SpoolFile, *, streamed: bool) -> None:
        """Send all of it."""
        with self._changed:
            streamed = streamed and self._stream_wanted
            overtaken = self._overtaken >= OVERTAKEN and not streamed
        copied = self._copied(file) if overtaken else None
        with self._changed:
            path, base = self._path, self._base.entry
            sending, self._broken = self._broken, None
            if copied is not None:
                sending = copied
            else:
                if sending is None or not sending.is_whole_locked(file, self._writes):
                    sending = self._new_sending_locked(file)
                self._begin_locked(sending, capture=not (streamed and self._stream_wanted))
            self._stream_wanted = False
        entry = self._remote.store(path, sending, base=base)
        self._finish(path, entry, sending, base)

    def _copied(self, file: SpoolFile) -> Sending | None:
        """What there is now, captured in a copy of its own, in which nobody writes; None: there is
        no room for it. Writers wait while it is made."""
        with self._spool_lock:
            with self._changed:
                size = self._size
            try:
                copy = tempfile.TemporaryFile(dir=file.path.parent)  # noqa: SIM115 (as the upload)
                for offset in range(0, size, COPY_SIZE):
                    copy.write(file.read(offset, min(COPY_SIZE, size - offset)))
                copy.truncate(size)
                copy.flush()
            except OSError as error:
                log.info("%s is sent as it is by then: no copy of it: %s", self.path, error)
                return None
            with self._changed:
                sending = self._new_sending_locked(file, copy=copy)
                self._begin_locked(sending)
                return sending

    def _new_sending_locked(
        self, file: SpoolFile, *, copy: IO[bytes] | None = None, patches: bool = False
    ) -> Sending:
        return Sending(
            self._path,
            file,
            self._size,
            self._changed,
            ask=self._attributes_for,
            accepted=lambda: self._accepted(self.path),
            progress=self._spool.note_progress,
            copy=copy,
            patches=patches,
        )

    def _begin_locked(self, sending: Sending, *, capture: bool = True) -> None:
        self._sending = sending
        sending.lasts = self._overtaken >= OVERTAKEN
        if capture:
            self._capture_locked(sending)
        if self._deleted:
            sending.cancel_locked()

    def _capture_locked(self, sending: Sending) -> None:
        sending.capture_locked(self._size, self._writes, self._unsent)
        self._unsent = RangeSet()

    def _give_back_locked(self, sending: Sending) -> None:
        for start, end in sending.unsent_locked():
            self._unsent.add(start, end)

    def _attributes_for(self, sending: Sending) -> Attributes:
        """What it is to set, now that all of it was sent."""
        with self._spool_lock:
            with self._changed:
                told = sending.told = self._attributes_locked(sending)
                stale = self._recorded not in (None, (sending.end, self._mtime or 0))
            if stale:
                # After a crash the row has to tell this upload from somebody else's.
                self._record()
        return told

    def _attributes_locked(self, sending: Sending) -> Attributes:
        mode, base = self._mode_wanted, self._base.entry
        if mode is None and base is not None and not sending.patches and not self._replaces:
            mode = base.mode  # what replaces a file is a new one to the server
        return self._mtime, mode

    def _is_late_locked(self, sending: Sending) -> bool:
        """Whether the attributes were changed since they were asked for, and nothing was written:
        what was will be uploaded anyway."""
        asked = sending.told is not None and sending.writes == self._writes
        return asked and sending.told != self._attributes_locked(sending)

    def _patch(self, file: SpoolFile) -> bool:
        """Send only what changed; False where that is not possible, or not worth it."""
        with self._spool_lock:
            with self._changed:
                if not self._patchable_locked():
                    return False
                path, base, ranges = self._path, self._base.entry, list(self._unsent)
                if base is None:
                    return False
                samples = [(start, min(SAMPLE, end - start)) for start, end in ranges[:SAMPLES]]
                sending = self._new_sending_locked(file, patches=True)
                self._begin_locked(sending)
                recorded = self._recorded is not None
            begun = tuple((start, file.read(start, count)) for start, count in samples)
            with self._changed:
                self._base.patching = (*self._base.patching, *begun)[-MOST_SAMPLES:]
            if recorded:
                self._record()
        try:
            entry = self._remote.patch(path, sending, ranges, base=base)
        except BaseException as error:
            with self._changed:
                # Else the server's file may be between two contents, and is still ours to finish.
                if not _may_be_done(error):
                    self._base.patching = ()
                if isinstance(error, errors.NotSupported):
                    self._give_back_locked(sending)
                    self._sending = None
            if isinstance(error, errors.NotSupported):
                return False
            raise
        self._finish(path, entry, sending, base)
        return True

    def _patchable_locked(self) -> bool:
        """Whether the server's file becomes this content by writing `_unsent` into it, and that is
        much less than all."""
        base = self._base.entry
        if base is None or base.size is None or self._replaces or base.size > self._size:
            return False
        return self._size - self._unsent.total() >= WORTH_PATCHING

    def _look_what_a_patch_left(self) -> None:
        """A patch broke off: the server's file has some of what was sent, in its place. Its new
        time is ours; a size that no patch could make, or nothing of ours where the patch began, is
        somebody else's work. But of an append that never arrived the time alone may have been set.
        """
        with self._changed:
            path, known, begun = self._path, self._base.entry, self._base.patching
            # It may have been cut shorter here since the patch began.
            most = max([self._size, *(size for size, _ in self._tried)])
            times = {mtime for _, mtime in self._tried}
        entry = self._remote.stat(path)
        if known is None or not (known.size or 0) <= (entry.size or 0) <= most:
            raise errors.Conflict(f"{path}: changed on the server while it was being written")
        only_dated = entry.size == known.size and entry.exact and entry.mtime in times
        same = only_dated or not is_other_content(known, entry)
        if not same and not self._has_one_of(path, begun):
            raise errors.Conflict(f"{path}: changed on the server while it was being written")
        with self._changed:
            version = self._base.version._replace(size=entry.size or 0, mtime=entry.mtime)
            reader = self._base.become_locked(entry, version)
        if reader:
            reader.close()

    def _has_one_of(self, path: str, samples: tuple[Sample, ...]) -> bool:
        """Whether the server's file has one of these bytes in their place: a round trip for each
        that it has not."""
        for offset, content in reversed(samples):
            download = self._remote.open_read(path, offset)
            try:
                there = download.read(len(content))
                if there and content.startswith(there):  # shorter, where the file ends in it
                    return True
            finally:
                download.close()
        return False

    def _finish(self, path: str, entry: Entry, sending: Sending, base: Entry | None) -> None:
        """The server has it: note that, in the tree, here, and in the journal."""
        while True:
            self._set_late_attributes(path, sending)
            entry = sending.with_attributes(entry)
            generation = self._uploaded(path, entry)
            if self._take_as_sent(path, entry, generation, sending, base):
                return

    def _take_as_sent(
        self, path: str, entry: Entry, generation: int, sending: Sending, base: Entry | None
    ) -> bool:
        """`entry` is what the server has now; False: attributes were set in the last moment."""
        with self._spool_lock:
            with self._changed:
                if self._is_late_locked(sending):
                    return False
                if entry.mode is None:
                    mode = base.mode if base and not self._replaces else self._mode
                    entry = replace(entry, mode=mode)
                self._sending = None
                self._uploaded_bytes = sending.sent
                self._replaces, self._base.patching = False, ()
                self._tried.clear()
                self._sent, self._overtaken = sending.writes, 0
                reader = self._base.become_locked(entry, version_of(path, entry, generation))
                self._base.path = path
                # After a whole upload the spool holds everything; after a patch, what was there.
                self._base_size = sending.lowest if sending.patches else 0
                clean = not self._dirty_locked()
                if clean:
                    self._failure = self._mode_wanted = None
                    if entry.mtime is not None:
                        self._mtime = entry.mtime
                recorded = self._recorded is not None
                if clean:
                    self._recorded = None
                file = self._file
                self._changed.notify_all()
            if recorded and file is not None:
                if clean:
                    self._spool.journal.remove(file.name)
                else:
                    self._record()
        if reader:
            reader.close()
        return True

    def _set_late_attributes(self, path: str, sending: Sending) -> None:
        """Set what was asked for after the upload had asked for it."""
        with self._changed:
            if not self._is_late_locked(sending) or sending.told is None:
                return
            known, (mtime, mode) = sending.told, self._attributes_locked(sending)
            sending.told = mtime, mode
        try:
            if mode is not None and mode != known[1]:
                self._remote.chmod(path, mode)
            if mtime is not None and mtime != known[0]:
                self._remote.set_mtime(path, mtime)
        except errors.FtpfsError as error:
            log.info("%s is on the server, but not its time or mode: %s", path, error)
        else:
            sending.corrected = True

    def _hydrate(self, file: SpoolFile) -> None:
        """Copy the parts of the base that nobody wrote over into the spool."""
        with self._changed:
            gaps = file.present.missing(0, min(self._base_size, self._size))
            reader = self._base.reader_locked() if gaps else None
            self._hydrating = reader is not None
        if reader is None:
            return
        try:
            for start, end in gaps:
                for offset in range(start, end, COPY_SIZE):
                    data = reader.read(offset, min(COPY_SIZE, end - offset))
                    self._fill_gap(file, offset, data)
        except errors.FtpfsError as error:
            with self._changed:
                if not self._hydrating:
                    raise errors.Superseded(f"{self._path}: its upload was cancelled") from error
            raise
        finally:
            with self._changed:
                self._hydrating = False
        # Killed while it is uploaded, the next mount has all of it, whatever is there by then.
        self.record_again()

    def _fill_gap(self, file: SpoolFile, offset: int, data: bytes) -> None:
        """Put base content where the spool still has none: a write may have come since."""
        with self._spool_lock:
            with self._changed:
                if not self._hydrating:
                    raise errors.Superseded(f"{self._path}: its upload was cancelled")
                end = min(offset + len(data), self._base_size)
                gaps = file.present.missing(offset, end) if offset < end else []
            for start, stop in gaps:
                count = file.write(start, memoryview(data)[start - offset : stop - offset])
                with self._changed:
                    file.mark(start, start + count)
                if count < stop - start:
                    raise errors.NoSpace("the disk that holds the spool is full")


def _may_be_done(error: BaseException) -> bool:
    """Whether an upload that failed so may have left something on the server."""
    foreseen = isinstance(error, errors.FtpfsError)
    odd = isinstance(error, (errors.NetworkError, errors.DataMismatch, errors.ProtocolError))
    return odd or not foreseen


def _join(
    file: SpoolFile | None,
    reader: Reader | None,
    offset: int,
    end: int,
    gaps: list[tuple[int, int]],
    base_end: int,
) -> bytes:
    """The bytes [offset, end): the spool's, but in its gaps the base's, and zeros after that."""
    if file is None:
        raise errors.BadHandle("no content, neither here nor on the server")
    if not gaps:
        return file.read(offset, end - offset)
    content = bytearray(file.read(offset, end - offset))
    for start, stop in gaps:
        known = min(stop, base_end)
        if reader is not None and start < known:
            content[start - offset : known - offset] = reader.read(start, known - start)
        zeros = max(start, known)
        content[zeros - offset : stop - offset] = bytes(stop - zeros)
    return bytes(content)
