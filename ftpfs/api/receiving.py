"""Receiving: contents of files, as bytes or into local files; many at once.

Owns: which bytes are fetched with which transfer, what a broken transfer leads to, and the proof
that all bytes have come. Open files are `files`'.

Threading: any thread.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.utils import isfilelike

from ftpfs import errors
from ftpfs.api import parallel, refusals
from ftpfs.api.bulk import Pairs, Progress, transfer
from ftpfs.api.connections import Connection
from ftpfs.api.looking import Looking
from ftpfs.ftp.connections.transfers import Download
from ftpfs.local import landing
from ftpfs.model.entry import Entry, Kind

# Bytes of one read from a data connection.
CHUNK_BYTES = 1 << 20
# Attempts of a transfer that breaks, without a byte of progress in between.
ATTEMPTS = 3
# Ranges of one file with at most this many bytes between them are fetched together: what lies
# between costs less than a transfer of its own. A joined range is split beyond the second number,
# so that several connections carry it.
GAP_BYTES, JOINED_BYTES = 64 << 10, 8 << 20


class Receiving(Looking):
    """The methods that read files."""

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """The bytes of a file, or those of a range: negative numbers count from the end."""
        path = self._strip_protocol(path)
        if (start or 0) < 0 or (end or 0) < 0:
            size = self._opened(path)[1].size
            if size is None:
                raise NotImplementedError(f"the server tells no size of {path}")
            start, end = slice(start, end).indices(size)[:2]
        if end is not None and (start or 0) >= end:
            return b""
        parts: list[bytes] = []
        connection = self._connection()
        with refusals.told(path):
            _receive(connection, path, parts.append, start=start or 0, end=end)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        """The contents of one file, or of many at once, by path."""
        paths = self.expand_path(path, recursive=recursive)
        if len(paths) == 1 and isinstance(path, str) and paths[0] == self._strip_protocol(path):
            return self.cat_file(paths[0], **kwargs)
        if recursive:
            paths = [each for each in paths if not self.isdir(each)]
        found = self._at_once(lambda each: self.cat_file(each, **kwargs), paths, on_error)
        return {
            each: content
            for each, content in zip(paths, found, strict=True)
            if on_error == "return" or not isinstance(content, BaseException)
        }

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Ranges of files. Near ones of a file are fetched together, `max_gap` bytes apart."""
        if not isinstance(paths, list):
            raise TypeError("paths is a list")
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("paths, starts and ends differ in length")
        wanted = [
            _Range(self._strip_protocol(path), start, end, number)
            for number, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True))
        ]
        joined = _joined(wanted, GAP_BYTES if max_gap is None else max_gap)
        found = self._at_once(
            lambda each: self.cat_file(each[0].path, each[0].start, _end_of(each)), joined, on_error
        )
        contents: list[Any] = [b""] * len(paths)
        for group, content in zip(joined, found, strict=True):
            for each in group:
                contents[each.number] = content
                if len(group) > 1 and isinstance(content, bytes):
                    first = group[0].start or 0
                    contents[each.number] = content[(each.start or 0) - first :][: each.length]
        return contents

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: BinaryIO | None = None,
        **_: Any,
    ) -> None:
        """Copy a file to `lpath`, where it appears when it is complete, or into an open file."""
        path = self._strip_protocol(rpath)
        outfile = lpath if outfile is None and isfilelike(lpath) else outfile
        if outfile is not None:
            self._get_into(path, outfile, callback)
            return
        folder = os.path.dirname(os.path.abspath(lpath))
        if os.path.isdir(lpath) or self._is_known_folder(path):
            if not self.isdir(path):
                raise IsADirectoryError(f"{lpath} is a folder")
            os.makedirs(lpath, exist_ok=True)
            return
        os.makedirs(folder, exist_ok=True)
        try:
            with landing.replacing(lpath, None) as out:
                self._get_into(path, out, callback)
        except IsADirectoryError:
            os.makedirs(lpath, exist_ok=True)

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy files or trees from the server, several at once, as fsspec's `get`."""
        pairs = Pairs(self)
        AbstractFileSystem.get(pairs, rpath, lpath, recursive=recursive, maxdepth=maxdepth)
        transfer(self.get_file, pairs.found, callback, self._connection().threads, kwargs)

    def head(self, path: str, size: int = 1024) -> bytes:
        return self.cat_file(path, 0, size)

    def tail(self, path: str, size: int = 1024) -> bytes:
        return self.cat_file(path, -size) if size else b""

    # Inside.

    def _get_into(self, path: str, out: BinaryIO, callback: Callback) -> None:
        progress = Progress(callback)

        def write(data: bytes) -> None:
            out.write(data)
            progress.advance(len(data))

        connection = self._connection()
        with refusals.told(path):
            _receive(connection, path, write, told=progress.set_size)

    def _is_known_folder(self, path: str) -> bool:
        known = self._connection().listings.get(posixpath.dirname(path), self._max_age) or {}
        entry = known.get(posixpath.basename(path))
        return entry is not None and entry.kind is Kind.DIRECTORY

    def _at_once(self, work: Callable[[Any], Any], items: Sequence[Any], on_error: str) -> Any:
        """The results, in order. Unless `on_error` is "raise", exceptions stand in their places."""
        threads = self._connection().threads
        if on_error == "raise":
            return parallel.results(work, items, threads=threads)
        return parallel.outcomes(work, items, threads=threads)


# Ranges.


@dataclass(frozen=True)
class _Range:
    """The `number`th range that the caller wants."""

    path: str
    start: int | None
    end: int | None
    number: int

    @property
    def length(self) -> int:
        return max(0, (self.end or 0) - (self.start or 0))

    @property
    def joins(self) -> bool:
        """Whether it can be fetched together with others: both ends are known."""
        return self.end is not None and self.end >= (self.start or 0) >= 0


def _joined(wanted: Sequence[_Range], max_gap: int) -> list[list[_Range]]:
    """The ranges in groups of one file, each to be fetched at once."""
    groups = [[each] for each in wanted if not each.joins]
    ordered = sorted(
        (each for each in wanted if each.joins), key=lambda each: (each.path, each.start or 0)
    )
    last: list[_Range] = []
    for each in ordered:
        near = (
            last
            and last[0].path == each.path
            and (each.start or 0) - (_end_of(last) or 0) <= max_gap
            and (each.end or 0) - (last[0].start or 0) <= JOINED_BYTES
        )
        if near:
            last.append(each)
        else:
            last = [each]
            groups.append(last)
    return groups


def _end_of(group: Sequence[_Range]) -> int | None:
    """Where a group ends; None: at the end of the file."""
    ends = [each.end for each in group]
    return None if None in ends else max(end for end in ends if end is not None)


# One file.


def _receive(
    connection: Connection,
    path: str,
    sink: Callable[[bytes], object],
    *,
    start: int = 0,
    end: int | None = None,
    told: Callable[[int | None], object] = lambda _size: None,
) -> None:
    """Fetch the bytes [start, end) of a file, in order and each once; None: to its end.

    The server tells the size of the file together with the transfer, so the proof that all bytes
    came costs no round trip. A transfer that breaks is continued, if the file is still the same.
    `told` hears the size. Raises what `Remote.open_read` raises; DataMismatch for missing bytes.
    """
    entry = Entry(posixpath.basename(path), Kind.FILE)
    position, failures = start, 0
    while True:
        began = position
        try:
            download = _open(connection, path, position, entry)
            if download is None:
                return
            with download:
                if entry.size is None:
                    entry = download.entry or entry
                    told(entry.size)
                for data in _chunks(download, path, position, end, entry.size):
                    sink(data)
                    position += len(data)
                return
        except (errors.ConnectionLost, errors.DataConnectionFailed):
            failures = 1 if position > began else failures + 1
            if failures >= ATTEMPTS:
                raise


def _open(connection: Connection, path: str, position: int, entry: Entry) -> Download | None:
    """A download from `position` on; None if the file ends before."""
    try:
        return connection.run(lambda remote: remote.open_read(path, position, expect=entry))
    except (errors.Refused, errors.PermissionDenied, errors.InvalidArgument):
        if not position:
            raise
        # Some servers refuse an offset at the end of the file or behind it.
        size = connection.run(lambda remote: remote.stat(path)).size
        if size is None or position < size:
            raise
        return None


def _chunks(
    download: Download, path: str, position: int, end: int | None, size: int | None
) -> Iterator[bytes]:
    """The bytes [position, end) of a download that begins at `position`."""
    promised = size if end is None else min(end, size or end)
    while end is None or position < end:
        left = CHUNK_BYTES if promised is None else max(promised - position, 1)
        data = download.read(min(CHUNK_BYTES, left))
        if not data:
            break
        position += len(data)
        yield data
    if size is None and end is None:
        download.check_end()
    elif size is not None and promised is not None and position < promised:
        raise errors.DataMismatch(f"{path}: {position} of {promised} bytes arrived")
    elif position == size:
        download.finish()
