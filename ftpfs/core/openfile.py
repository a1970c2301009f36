"""One open file: its content on the server below, what was written here above.

Owns: the joining of a reader and a spool file into one content, and the way of that content to the
server. Reader and writer do not know each other.

The content is, byte for byte: what is `present` in the spool; else, before `_base_size`, what the
server's file (the *base*) holds; else zero. Once an upload has succeeded the spool holds all of it.

Threading. Two locks, `_spool_lock` before `_changed`:
- `_spool_lock` orders what is written to the spool file, the way a kernel's inode lock does. It is
  the one lock under which (local) disk I/O is done: a truncate and a write must not interleave.
- `_changed` guards the state; no I/O under it. First in the lock order (file < tree < blocks).
One upload runs at a time (`_uploading`).
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
from ftpfs.core.blocks import BlockCache, Version
from ftpfs.core.reader import Fetch, Reader, StreamBudget
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
    ) -> None:
        """`entry` as the server has it; None for a new file, that exists only here so far."""
        self._remote = remote
        self._cache = cache
        self._budget = budget
        self._spool = spool
        self._generation = generation
        self._uploaded = uploaded
        self._spool_lock = threading.Lock()
        self._changed = threading.Condition()
        # Guarded by _changed:
        self.path = path
        self.entry = entry
        self._read_path = path  # where the base is on the server now
        self.hidden_as: str | None = None  # where the base of a deleted file waits for the end
        self._deleted = False
        self._size = (entry.size or 0) if entry else 0
        self._base_size = self._size
        self._mtime = (entry.mtime if entry else None) or int(time.time())
        self._mode = mode
        self._mode_wanted = mode if mode is not None and mode not in ORDINARY_MODES else None
        self._dirty = entry is None
        self._writes = 0
        self._file: SpoolFile | None = None
        self._reader: Reader | None = None
        self._uploading = False
        self._replaces = False

    # Attributes.

    def attributes(self) -> Entry:
        """The entry as an application shall see it now."""
        with self._changed:
            base = self.entry
            return Entry(
                name=posixpath.basename(self.path),
                kind=Kind.FILE,
                size=self._size,
                mtime=self._mtime,
                exact=True,
                mode=self._mode if self._mode is not None else base.mode if base else None,
                target=None,
            )

    @property
    def dirty(self) -> bool:
        """Whether something here is not on the server yet."""
        with self._changed:
            return self._dirty and not self._deleted

    @property
    def on_server(self) -> bool:
        with self._changed:
            return self.entry is not None

    @property
    def is_deleted(self) -> bool:
        """Whether it has lost its name, and lives on in its handles only."""
        with self._changed:
            return self._deleted

    @property
    def needs_base(self) -> bool:
        """Whether reading, or the next upload, needs content that only the server has."""
        with self._changed:
            end = min(self._base_size, self._size)
            if self.entry is None or end == 0:
                return False
            return self._file is None or not self._file.present.covers(0, end)

    def set_mtime(self, seconds: int) -> bool:
        """Remember the time for the upload to come; False when none is: set it on the server."""
        with self._changed:
            self._mtime = seconds
            if self._dirty:
                self._writes += 1  # an upload under way does not carry it
            return self._dirty

    def set_mode(self, mode: int) -> bool:
        """The same for the mode bits."""
        with self._changed:
            self._mode = mode
            if self._dirty:
                self._mode_wanted = mode
                self._writes += 1
            return self._dirty

    def moved(self, path: str, *, replaces: bool) -> None:
        """The file has another name now, on the server too if it was there.

        `replaces`: the server has another file of that name still, which the upload will replace.
        """
        with self._changed:
            self.path = self._read_path = path
            self._replaces = replaces

    def deleted(self, hidden_as: str | None) -> None:
        """The name is gone. Handles go on; the base can be read at `hidden_as` (None: nowhere)."""
        with self._changed:
            self._deleted = True
            self.hidden_as = hidden_as
            if hidden_as:
                self._read_path = hidden_as

    # Content.

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; less only at the end of the file."""
        with self._changed:
            size = min(size, self._size - offset)
            if size <= 0:
                return b""
            file, base_end = self._file, self._base_size
            gaps = file.present.missing(offset, offset + size) if file else []
        if file is None:
            return self._base().read(offset, size)
        if not gaps:
            return file.read(offset, size)
        return self._read_mixed(file, offset, size, gaps, base_end)

    def _read_mixed(
        self, file: SpoolFile, offset: int, size: int, gaps: list[tuple[int, int]], base_end: int
    ) -> bytes:
        content = bytearray(file.read(offset, size))
        for start, end in gaps:
            known = min(end, base_end)
            if start < known:
                content[start - offset : known - offset] = self._base().read(start, known - start)
            zeros = max(start, known)
            content[zeros - offset : end - offset] = bytes(end - zeros)
        return bytes(content)

    def write(self, offset: int, data: bytes) -> int:
        """Into the spool. Raises NoSpace when the local disk is full; nothing is changed then."""
        with self._spool_lock:
            file = self._spool_file()
            file.write(offset, data)
            with self._changed:
                end = offset + len(data)
                file.present.add(offset, end)
                self._size = max(self._size, end)
                self._touch_locked()
        return len(data)

    def truncate(self, size: int) -> None:
        with self._spool_lock:
            with self._changed:
                if size == self._size and self.entry is not None:
                    return
            file = self._spool_file()
            file.truncate(size)
            with self._changed:
                self._base_size = min(self._base_size, size)
                self._size = size
                self._touch_locked()

    # To the server.

    def flush(self) -> None:
        """Return when the server holds what had been written before the call.

        Raises what the upload raises; the content stays in the spool then, and dirty.
        """
        with self.exclusive():
            if self.dirty:
                self._upload()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """No upload runs meanwhile: for uploading, and for changing the name under an upload."""
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
        dirty = self.dirty
        with self._changed:
            reader, self._reader = self._reader, None
            file, self._file = self._file, None
        if reader:
            reader.close()
        if file is None:
            return
        file.close(delete=not dirty)
        if dirty:
            kept = self._spool.keep(file, posixpath.basename(self.path))
            log.error("the content of %s that was not uploaded is kept in %s", self.path, kept)

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

    def _base(self) -> Reader:
        """The reader of the server's content, made when first needed."""
        with self._changed:
            if self._reader is None:
                if self.entry is None:
                    raise errors.BadHandle("no content on the server to read")
                version = Version(
                    self._read_path, self.entry.size or 0, self.entry.mtime, self._generation
                )
                self._reader = Reader(version, self._fetch(), self._cache, self._budget)
            return self._reader

    def _fetch(self) -> Fetch:
        """How the reader gets bytes: from wherever the base lies by then."""

        def fetch(offset: int, give_way: Callable[[], None]) -> Download:
            with self._changed:
                path = self._read_path
            return self._remote.open_read(path, offset, give_way=give_way)

        return fetch

    def _upload(self) -> None:
        with self._spool_lock:
            file = self._spool_file()
        self._hydrate(file)
        with self._changed:
            writes, size, path = self._writes, self._size, self.path
            replacing = self._replaces or self.entry is not None
            mode, mtime = self._mode_wanted, self._mtime
        entry = self._remote.put(
            path, size, file.readinto, replace=replacing, mtime=mtime, mode=mode
        )
        with self._changed:
            kept_mode = self.entry.mode if self.entry else self._mode
            if entry.mode is None:
                entry = replace(entry, mode=kept_mode)
            self.entry = entry
            # The spool holds everything from here on; the old base is gone from the server.
            self._base_size = 0
            self._replaces = False
            if writes == self._writes:
                self._dirty = False
                self._mode_wanted = None
                self._mtime = entry.mtime if entry.mtime is not None else self._mtime
            reader, self._reader = self._reader, None
            path, gone = self.path, self._deleted
        if reader:
            reader.close()
        if not gone:
            self._uploaded(path, entry)

    def _hydrate(self, file: SpoolFile) -> None:
        """Copy the parts of the base that nobody wrote over into the spool."""
        with self._changed:
            gaps = file.present.missing(0, min(self._base_size, self._size))
        for start, end in gaps:
            for offset in range(start, end, COPY_SIZE):
                data = self._base().read(offset, min(COPY_SIZE, end - offset))
                self._fill_gap(file, offset, data)

    def _fill_gap(self, file: SpoolFile, offset: int, data: bytes) -> None:
        """Put base content where the spool still has none: a write may have come since."""
        with self._spool_lock:
            with self._changed:
                end = min(offset + len(data), self._base_size)
                gaps = file.present.missing(offset, end) if offset < end else []
            for start, stop in gaps:
                file.write(start, memoryview(data)[start - offset : stop - offset])
                with self._changed:
                    file.present.add(start, stop)
