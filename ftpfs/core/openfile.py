"""One open file: its content on the server below, what was written here above.

Owns: the joining of a reader and a spool file into one content, and the way of that content to the
server. Reader and writer do not know each other.

The content is, byte for byte: what is `present` in the spool; else, before `_base_size`, what the
server's file (the *base*) holds; else zero. Once an upload has succeeded the spool holds all of it.
A file that was only read *follows* the server: when a later look shows another content there, that
is its content from then on.

Threading. Two locks, `_spool_lock` before `_changed`:
- `_spool_lock` orders what is written to the spool file, the way a kernel's inode lock does. It is
  the one lock under which (local) disk I/O is done: a truncate and a write must not interleave.
- `_changed` guards the state; no I/O under it. Before tree and blocks in the lock order.
`exclusive` is no lock but a turn: one upload, or one change of name or attributes, at a time. It is
waited for with no lock held.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ftpfs import errors
from ftpfs.core.blocks import BLOCK_SIZE, BlockCache, Version
from ftpfs.core.reader import Reader, StreamBudget
from ftpfs.core.remote import Download, Remote
from ftpfs.core.writer import Spool, SpoolFile
from ftpfs.ftp.listing import Entry, Kind

log = logging.getLogger(__name__)

# Hydration: how much of the base is copied into the spool at a time.
COPY_SIZE = 1 << 20
# Modes that servers give to a new file by themselves, give or take a umask; anything else
# (executable, private) has to be set.
ORDINARY_MODES = {0o644, 0o664, 0o666}


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
        uploaded: Callable[[str, Entry], None],
        outdated: Callable[[str], None] = lambda _path: None,
    ) -> None:
        """`entry` as the server has it; None for a new file, that exists only here so far.

        `uploaded(path, entry)` is called after each upload, with no lock held, while the file still
        counts as dirty: it is never neither here nor in the tree. `outdated(path)` is called, with
        no lock held, when a read found that the server has another content than this.
        """
        self._remote = remote
        self._cache = cache
        self._budget = budget
        self._spool = spool
        self._uploaded = uploaded
        self._outdated = outdated
        self._spool_lock = threading.Lock()
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._path = path
        self._entry = entry
        # Which content the base is. The name it was opened under, whatever it is called later: by
        # then another file may have left its blocks in the cache under the new name.
        self._version = version_of(path, entry, generation)
        self._read_path = path  # where the base is on the server now
        self._hidden_as: str | None = None  # where the base of a deleted file waits for the end
        self._deleted = False
        self._size = self._base_size = self._version.size
        self._mtime = entry.mtime if entry else int(time.time())
        self._mode = mode
        self._mode_wanted = mode if mode is not None and mode not in ORDINARY_MODES else None
        self._dirty = entry is None
        self._writes = 0
        self._file: SpoolFile | None = None
        self._reader: Reader | None = None
        self._tried = False  # to upload it
        self._uploading = False

    # Attributes.

    def attributes(self) -> Entry:
        """The entry as an application shall see it now."""
        with self._changed:
            base = self._entry
            return Entry(
                name=posixpath.basename(self._path),
                kind=Kind.FILE,
                size=self._size,
                mtime=self._mtime,
                exact=self._dirty or base is None or base.exact,
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
            return self._dirty and not self._deleted

    @property
    def on_server(self) -> bool:
        with self._changed:
            return self._entry is not None

    @property
    def may_be_on_server(self) -> bool:
        """Whether the server has a file of this name, or may have: a first upload that failed can
        have left all or a part of it."""
        with self._changed:
            return self._entry is not None or self._tried

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
            if self._entry is None or end == 0:
                return False
            return self._file is None or not self._file.present.covers(0, end)

    @property
    def follows_server(self) -> bool:
        """Whether its content is the server's file and nothing but that."""
        with self._changed:
            return self._follows_locked()

    def _follows_locked(self) -> bool:
        return not (self._dirty or self._deleted or self._file or self._entry is None)

    def follow(self, entry: Entry, generation: int) -> None:
        """Take over what the server shows at this file's path, if the file follows the server."""
        with self._changed:
            if not self._follows_locked():
                return
            known, self._entry = self._entry, entry
            self._mode, self._mtime = None, entry.mtime
            if known is None or not _is_other_content(known, entry):
                return
            self._version = version_of(self._path, entry, generation)
            self._size = self._base_size = self._version.size
            reader, self._reader = self._reader, None
        if reader:
            reader.close()

    def set_for_upload(self, *, mtime: int | None = None, mode: int | None = None) -> bool:
        """Have the upload that is due set these; False when none is: set them on the server then.

        With `exclusive` held. A deleted file just keeps them.
        """
        with self._changed:
            if not (self._dirty or self._deleted):
                return False
            if mtime is not None:
                self._mtime = mtime
            if mode is not None:
                self._mode = self._mode_wanted = mode
            return True

    def has_on_server(self, *, mtime: int | None = None, mode: int | None = None) -> None:
        """These were set on the server; with `exclusive` held."""
        with self._changed:
            if self._entry is None:
                return
            if mode is not None:
                self._mode = mode
                self._entry = replace(self._entry, mode=mode)
            if mtime is not None:
                self._entry = replace(self._entry, mtime=mtime, exact=True)
                if not self._dirty:  # else something was written since
                    self._mtime = mtime

    def moved(self, path: str) -> None:
        """The file has another name now, on the server too if it was there."""
        with self._changed:
            self._path = path
            if not self._deleted:  # else the base has a name of its own
                self._read_path = path

    def directory_moved(self, old: str, new: str) -> None:
        """A directory moved on the server, and the hidden base of a deleted file with it."""
        with self._changed:
            if self._hidden_as and self._hidden_as.startswith(old + "/"):
                self._hidden_as = self._read_path = new + self._hidden_as[len(old) :]

    def deleted(self, hidden_as: str | None) -> None:
        """The name is gone. Handles go on; the base can be read at `hidden_as` (None: nowhere)."""
        with self._changed:
            self._deleted = True
            self._hidden_as = hidden_as
            if hidden_as:
                self._read_path = hidden_as

    def shown_as(self, path: str) -> None:
        """A deleted file is shown under a name that exists only here."""
        with self._changed:
            self._path = path

    # Content.

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; less only at the end of the file."""
        while True:
            with self._changed:
                end = min(offset + size, self._size)
                if end <= offset:
                    return b""
                file = self._file
                gaps = file.present.missing(offset, end) if file else [(offset, end)]
                base_end = self._base_size
                reader = self._base_locked() if gaps and gaps[0][0] < base_end else None
            try:
                if file is None and reader is not None:
                    return reader.read(offset, end - offset)
                return _join(file, reader, offset, end, gaps, base_end)
            except errors.FtpfsError as error:
                if isinstance(error, errors.Changed):
                    self._outdated(self.path)
                with self._changed:
                    # An upload, or a newer content on the server, took the base away under us.
                    if reader is None or self._reader is reader:
                        raise

    def write(self, offset: int | None, data: bytes) -> int:
        """Into the spool, at `offset` (None: at the end); the count.

        That is less than all when the local disk became full on the way; the rest then raises
        NoSpace, and nothing is changed by it.
        """
        with self._spool_lock:
            file = self._spool_file()
            if offset is None:
                with self._changed:
                    offset = self._size
            count = file.write(offset, data)
            with self._changed:
                file.present.add(offset, offset + count)
                self._size = max(self._size, offset + count)
                self._touch_locked()
        return count

    def truncate(self, size: int) -> None:
        with self._spool_lock:
            with self._changed:
                if size == self._size and self._entry is not None:
                    return
            file = self._spool_file()
            file.truncate(size)
            with self._changed:
                file.present.cut(size)
                self._base_size = min(self._base_size, size)
                self._size = size
                self._touch_locked()

    # To the server.

    def flush(self) -> None:
        """Return when the server holds what had been written before the call.

        Raises what the upload raises; the content stays in the spool then, and dirty.
        """
        with self.exclusive():
            self.flush_exclusively()

    def flush_exclusively(self) -> None:
        """`flush`, with `exclusive` held already."""
        if self.dirty:
            self._upload()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """A turn at the file on the server: for uploading, or for changing its name or attributes.

        Who needs the turns of several files takes them in the order of `id`.
        """
        with self._changed:
            while self._uploading:
                self._changed.wait()
            self._uploading = True
        try:
            yield
        finally:
            with self._changed:
                self._uploading = False
                self._changed.notify_all()

    def flush_quietly(self) -> None:
        """`flush` where nobody is left to be told: content written through a memory map after the
        last close, or whose upload failed at close and is tried once more."""
        try:
            self.flush()
        except errors.FtpfsError as error:
            log.error("%s could not be uploaded: %s", self.path, error)
        except Exception:
            log.exception("%s could not be uploaded", self.path)

    def close(self) -> None:
        """The last handle is gone. What is still dirty is set aside, and named in the log."""
        with self._changed:
            dirty = self._dirty and not self._deleted
            reader, self._reader = self._reader, None
            file, self._file = self._file, None
            end = min(self._base_size, self._size)
            holes = file.present.missing(0, end) if file and dirty else []
        if reader:
            reader.close()
        if file is None:
            return
        file.close(delete=not dirty)
        if dirty:
            kept = self._spool.keep(file, posixpath.basename(self.path))
            log.error("the content of %s that was not uploaded is kept in %s", self.path, kept)
            if holes:
                log.error("%s is zeros where only the server has the content: %s", kept, holes)

    # Inside.

    def _touch_locked(self) -> None:
        self._writes += 1
        self._dirty = True
        # Whole seconds, as FTP keeps them: the time must not change when the upload sets it.
        self._mtime = int(time.time())

    def _spool_file(self) -> SpoolFile:
        """The spool file, made when first needed; with `_spool_lock` held."""
        file = self._file
        if file is None:
            file = self._spool.open()
            with self._changed:
                self._file = file
        return file

    def _base_locked(self) -> Reader:
        """The reader of the server's content, made when first needed."""
        if self._reader is None:
            self._reader = Reader(self._version, self._fetch, self._cache, self._budget)
        return self._reader

    def _fetch(self, offset: int, give_way: Callable[[], None]) -> Download:
        """How the reader gets bytes: from wherever the base lies by then.

        A content that comes in more than one piece may have been read in part already, now or by an
        earlier open: the pieces have to be of one content.
        """
        with self._changed:
            path = self._read_path
            expect = self._entry if self._version.size > BLOCK_SIZE else None
        return self._remote.open_read(path, offset, give_way=give_way, expect=expect)

    def _upload(self) -> None:
        with self._spool_lock:
            file = self._spool_file()
        self._hydrate(file)
        with self._changed:
            writes, size, path, base = self._writes, self._size, self._path, self._entry
            mode, mtime = self._mode_wanted, self._mtime
            self._tried = True
        if mode is None and base is not None:
            mode = base.mode  # what replaces a file is a new one to the server
        entry = self._remote.put(
            path, size, file.readinto, replace=base is not None, mtime=mtime, mode=mode
        )
        if entry.mode is None:
            entry = replace(entry, mode=base.mode if base else self._mode)
        self._uploaded(path, entry)
        with self._changed:
            self._entry = entry
            # The spool holds everything from here on; the old base is gone from the server.
            self._base_size = 0
            if writes == self._writes:
                self._dirty = False
                if entry.mtime is not None:
                    self._mtime = entry.mtime
            self._mode_wanted = None
            reader, self._reader = self._reader, None
        if reader:
            reader.close()

    def _hydrate(self, file: SpoolFile) -> None:
        """Copy the parts of the base that nobody wrote over into the spool."""
        with self._changed:
            gaps = file.present.missing(0, min(self._base_size, self._size))
            reader = self._base_locked() if gaps else None
        if reader is None:
            return
        for start, end in gaps:
            for offset in range(start, end, COPY_SIZE):
                data = reader.read(offset, min(COPY_SIZE, end - offset))
                self._fill_gap(file, offset, data)

    def _fill_gap(self, file: SpoolFile, offset: int, data: bytes) -> None:
        """Put base content where the spool still has none: a write may have come since."""
        with self._spool_lock:
            with self._changed:
                end = min(offset + len(data), self._base_size)
                gaps = file.present.missing(offset, end) if offset < end else []
            for start, stop in gaps:
                count = file.write(start, memoryview(data)[start - offset : stop - offset])
                with self._changed:
                    file.present.add(start, start + count)
                if count < stop - start:
                    raise errors.NoSpace("the disk that holds the spool is full")


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


def version_of(path: str, entry: Entry | None, generation: int) -> Version:
    """Which content `entry` stands for; an empty one without an entry."""
    size = (entry.size or 0) if entry else 0
    if entry is None:
        return Version(path, size, None, generation)
    return Version(path, size, entry.mtime, generation, entry.exact)


def _is_other_content(known: Entry, seen: Entry) -> bool:
    """Whether two looks at a file show different contents. Times are compared only where both were
    told alike: LIST has minutes, MDTM seconds."""
    if known.size != seen.size:
        return True
    return known.exact == seen.exact and known.mtime != seen.mtime
