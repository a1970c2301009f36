"""Open files: those that are read through the core's reader, and those that are written here first.

Threading: one thread uses an open file at a time, as fsspec's files.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from typing import Any, cast

from fsspec.spec import AbstractBufferedFile

from ftpfs import errors
from ftpfs.api import refusals
from ftpfs.api.base import OPEN_SECONDS, described
from ftpfs.api.sending import Sending
from ftpfs.core.reading.reader import Reader
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.model.entry import Entry

# Bytes that `readline` looks through at a time.
LINE_BYTES = 16 << 10


class ReadFile(AbstractBufferedFile):
    """A file that is read: with read-ahead while a program reads on, by small pieces elsewhere.

    The blocks are those of the core's cache, so fsspec adds none of its own unless it is told to.
    """

    def __init__(self, fs: Sending, path: str, **options: Any) -> None:
        """`options`: those of fsspec's files, such as `cache_type` and `block_size`."""
        self.fs, self.path = fs, path
        self._reading: tuple[int, Reader] | None = None  # the process, and its reader
        self._is_read = False  # the program has bytes of it
        options.setdefault("cache_type", "none")
        self._look(OPEN_SECONDS)
        super().__init__(fs, path, "rb", size=self.size, **options)

    def _look(self, max_age: float) -> None:
        """Note which file it is: as it was `max_age` seconds ago or later."""
        self._where, self._entry = self.fs._opened(self.path, max_age=max_age)
        self._details = described(self.path, self._entry)
        self._content: bytes | None = None
        self.size = self._entry.size
        if self.size is None:  # the server tells none: only all of it shows how long it is
            self._content = self.fs.cat_file(self._where)
            self.size = len(self._content)

    def read(self, length: int | None = -1) -> bytes:
        try:
            data = cast("bytes", super().read(length))
        except OSError as error:
            if self._is_read or not isinstance(error.__cause__, errors.Changed):
                raise
            # What was listed is older than the file: nothing of it was read, so begin anew.
            self._end_reading()
            self._look(0.0)
            data = cast("bytes", super().read(length))
        self._is_read = True
        return data

    def _fetch_range(self, start: int, end: int) -> bytes:
        if self._content is not None:
            return self._content[start:end]
        reader = self._reader()
        with refusals.told(self.path):
            return reader.read(start, end - start)

    def _reader(self) -> Reader:
        process = os.getpid()
        if self._reading is None or self._reading[0] != process:
            connection = self.fs._connection()
            self._reading = process, connection.reader(self._where, self._entry)
        return self._reading[1]

    def readline(self, size: int | None = -1) -> bytes:
        line = cast("bytes", self.readuntil(b"\n", LINE_BYTES))
        if size is not None and 0 <= size < len(line):
            self.seek(size - len(line), 1)
            return line[:size]
        return line

    def close(self) -> None:
        if not self.closed:
            self._end_reading()
        super().close()

    def _end_reading(self) -> None:
        if self._reading is not None and self._reading[0] == os.getpid():
            self._reading[1].close()
        self._reading = None


class WriteFile(io.IOBase):
    """A file that is written on this machine, and sent when it is closed (or by `commit`).

    On the server the old content stays until then. If the `with` block of the file ends by an
    exception, nothing is sent.
    """

    def __init__(
        self,
        fs: Sending,
        path: str,
        mode: str,
        send: Callable[[FileContent, int], object],
        *,
        autocommit: bool,
    ) -> None:
        """`send`: brings the local file, which has so many bytes, to the server."""
        self.fs = fs
        self.path = path
        self.mode = mode
        self.autocommit = autocommit
        self._send = send
        self._local = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `commit` or `discard`
        self._is_changed = mode != "r+b"
        self._is_closed = False

    # What a program does with it.

    def write(self, data: Any) -> int:
        self._check()
        self._is_changed = True
        if self.mode == "ab":
            self._local.seek(0, io.SEEK_END)
        return self._local.write(data)

    def read(self, size: int | None = -1) -> bytes:
        self._check()
        if not self.readable():
            raise io.UnsupportedOperation("not readable")
        return self._local.read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    read1 = read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check()
        return self._local.seek(offset, whence)

    def tell(self) -> int:
        self._check()
        return self._local.tell()

    def truncate(self, size: int | None = None) -> int:
        self._check()
        self._is_changed = True
        return self._local.truncate(size)

    def flush(self) -> None:
        """Nothing is sent before the file is closed: the server never has a part of it."""

    def readable(self) -> bool:
        return "+" in self.mode

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    @property
    def closed(self) -> bool:
        return getattr(self, "_is_closed", True)

    # How it ends.

    def close(self) -> None:
        """Send the file, unless a transaction will."""
        if not self.closed:
            self._is_closed = True
            if self.autocommit:
                self.commit()

    def commit(self) -> None:
        """Send what was written. Raises OSError; the local content is gone then, too."""
        try:
            if self._is_changed and not self._local.closed:
                self._local.flush()
                size = self._local.seek(0, io.SEEK_END)
                self._send(FileContent(self._local.fileno(), size, None, None), size)
        finally:
            self._local.close()

    def discard(self) -> None:
        """Throw away what was written."""
        self._is_closed = True
        self._local.close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.discard()
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} {self.mode}>"

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


def replacing(fs: Sending, path: str, *, new: bool, autocommit: bool) -> WriteFile:
    """A file whose content replaces what is at `path`. `new`: there must be nothing."""

    def send(content: FileContent, size: int) -> None:
        fs._store(path, content.fileno(), size, new=new)

    return WriteFile(fs, path, "xb" if new else "wb", send, autocommit=autocommit)


def appending(fs: Sending, path: str, base: Entry, *, autocommit: bool) -> WriteFile:
    """A file whose content is added to `base`.

    If the server cannot append, the whole file is sent. An append that broke off is not repeated:
    it may have arrived.
    """
    start = base.size or 0

    def send(content: FileContent, size: int) -> None:
        if size == start:
            return
        try:
            entry = fs._ask(
                path, lambda remote: remote.append(path, content, start, size, base=base)
            )
        except OSError as error:
            fs.invalidate_cache(path)
            if not isinstance(error.__cause__, errors.NotSupported):
                raise
            with os.fdopen(os.dup(content.fileno()), "r+b") as whole:
                whole.write(fs.cat_file(path, 0, start))
            fs._store(path, content.fileno(), size, base=base)
        else:
            fs._connection().listings.stored(path, entry)

    file = WriteFile(fs, path, "ab", send, autocommit=autocommit)
    file._local.truncate(start)  # a hole: what the server has is not fetched
    file._local.seek(start)
    return file


def updating(fs: Sending, path: str, base: Entry, *, autocommit: bool) -> WriteFile:
    """A copy of `base` that is read and written here, and replaces that file and no other."""

    def send(content: FileContent, size: int) -> None:
        fs._store(path, content.fileno(), size, base=base)

    file = WriteFile(fs, path, "r+b", send, autocommit=autocommit)
    try:
        fs.get_file(path, outfile=file._local)
    except BaseException:
        file.discard()
        raise
    file._local.seek(0)
    return file
