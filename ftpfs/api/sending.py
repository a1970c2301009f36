"""Sending: contents to the server, each whole or not at all; many at once.

Owns: which mode a file gets that replaces another one, the folders that are missing, and copies on
the server. How a content reaches its name is `ftp.uploading`'s: under a temporary name, checked by
its size, renamed.

Threading: any thread.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from ftpfs import errors
from ftpfs.api import parallel, refusals
from ftpfs.api.bulk import Pair, Pairs, Progress, transfer
from ftpfs.api.names import Naming
from ftpfs.api.receiving import Receiving
from ftpfs.ftp.uploading.content import CHUNK_BYTES, FileContent
from ftpfs.model.entry import Entry, Kind


class Sending(Receiving, Naming):
    """The methods that write files."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Make the file at `path` hold `value`. With mode "create" there must be no file yet."""
        if self._intrans:
            super().pipe_file(path, value, mode=mode, **kwargs)
            return
        with os.fdopen(os.memfd_create("ftpfs-pipe"), "wb") as local:
            local.write(value)
            local.flush()
            size = memoryview(value).nbytes
            self._store(self._strip_protocol(path), local.fileno(), size, new=mode == "create")

    def pipe(self, path: Any, value: bytes | None = None, **kwargs: Any) -> None:
        """Write one content, or those of a dict by path, several at once."""
        if not isinstance(path, (str, dict)):
            raise TypeError("path is a string or a dict")
        contents: dict[str, Any] = path if isinstance(path, dict) else {path: value}
        self._look_into_folders(contents)
        parallel.results(
            lambda item: self.pipe_file(item[0], item[1], **kwargs),
            list(contents.items()),
            threads=self._connection().threads,
        )

    def put_file(
        self,
        lpath: Any,
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Copy a local file to the server. Folders above it are made."""
        path = self._strip_protocol(rpath)
        if os.path.isdir(lpath):
            self.makedirs(path, exist_ok=True)
            return
        if self._intrans:
            super().put_file(lpath, rpath, callback=callback, mode=mode, **kwargs)
            return
        with open(lpath, "rb") as local:
            size = os.fstat(local.fileno()).st_size
            progress = Progress(callback)
            progress.set_size(size)
            self._store(path, local.fileno(), size, new=mode == "create", progress=progress)

    def put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy files or trees to the server, several at once, as fsspec's `put`."""
        pairs = Pairs(self)
        AbstractFileSystem.put(pairs, lpath, rpath, recursive=recursive, maxdepth=maxdepth)
        self._in_folders(pairs.found, os.path.isdir)
        transfer(self.put_file, pairs.found, callback, self._connection().threads, kwargs)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file of the server: FTP has no such command, so the content comes through here."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(source):
            self.makedirs(target, exist_ok=True)
            return
        with tempfile.TemporaryFile() as local:
            self.get_file(source, outfile=local)
            local.flush()
            self._store(target, local.fileno(), local.tell())

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy files or trees on the server, several at once, as fsspec's `copy`."""
        ignore = on_error == "ignore" or (on_error is None and recursive)
        pairs = Pairs(self)
        AbstractFileSystem.copy(pairs, path1, path2, recursive=recursive, maxdepth=maxdepth)
        self._in_folders(pairs.found, self.isdir)

        def copy(source: str, target: str, callback: Callback) -> None:  # noqa: ARG001 - as `transfer` calls it
            try:
                self.cp_file(source, target, **kwargs)
            except FileNotFoundError:
                if not ignore:
                    raise

        transfer(copy, pairs.found, DEFAULT_CALLBACK, self._connection().threads, {})

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file; without `truncate`, give an existing one the time of now."""
        path = self._strip_protocol(path)
        if truncate or self._existing(path) is None:
            self.pipe_file(path, b"", **kwargs)
            return
        self._ask(path, lambda remote: remote.set_mtime(path, int(time.time())))
        self._connection().listings.forget(path)

    # Inside.

    def _store(
        self,
        path: str,
        descriptor: int,
        size: int,
        *,
        new: bool = False,
        base: Entry | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Make the file at `path` hold the first `size` bytes of a local file.

        `new`: there must be none. `base`: there must be this one; else any is replaced, and leaves
        its mode to the new one. Folders that are missing are made.
        """
        old = base or self._existing(path)
        if old is not None and new:
            raise refusals.exists(path)
        if old is not None and old.kind is Kind.DIRECTORY:
            raise refusals.is_folder(path)
        mode = old.mode if old is not None and old.kind is Kind.FILE else None
        content = _Shown(descriptor, size, mode, progress or Progress(DEFAULT_CALLBACK))
        check = new or base is not None

        def store() -> Entry:
            return self._ask(
                path, lambda remote: remote.store(path, content, base=base, check=check)
            )

        try:
            stored = self._with_folder(path, store)
        except OSError as error:
            self._connection().listings.forget(path)
            if new and isinstance(error.__cause__, errors.Conflict):
                raise refusals.exists(path) from error
            raise
        self._connection().listings.stored(path, stored)
        (progress or Progress(DEFAULT_CALLBACK)).reached(size)

    def _in_folders(self, pairs: list[Pair], is_folder: Callable[[str], bool]) -> None:
        """Make the targets whose sources are folders, and take these pairs out."""
        folders = {pair for pair in pairs if is_folder(pair[0])}
        pairs[:] = [pair for pair in pairs if pair not in folders]
        self._make_all({self._strip_protocol(target) for _, target in folders})
        self._look_into_folders([target for _, target in pairs])

    def _look_into_folders(self, targets: Collection[str]) -> None:
        """List the folders of several targets, once each, or make them.

        So no file of them is asked for by itself. A folder that shows nothing may take files.
        """
        above = Counter(posixpath.dirname(self._strip_protocol(target)) for target in targets)

        several = [folder for folder, count in above.items() if count > 1]
        threads = self._connection().threads
        found = parallel.outcomes(self._names, several, threads=threads)
        missing: set[str] = set()
        for folder, names in zip(several, found, strict=True):
            if isinstance(names, FileNotFoundError):
                missing.add(folder)
            elif isinstance(names, BaseException) and not isinstance(names, PermissionError):
                raise names
        self._make_all(missing)


class _Shown(FileContent):
    """A local file that tells how much of it was sent."""

    def __init__(self, descriptor: int, size: int, mode: int | None, progress: Progress) -> None:
        super().__init__(descriptor, size, None, mode)
        self._progress = progress

    def ready(self, offset: int) -> int:
        self._progress.reached(offset)
        return min(super().ready(offset), offset + CHUNK_BYTES)
