"""Excluded names: the mount does not show those of the server, and keeps those of programs here.

A layer between the file system and the server. It answers for the paths that a filter excludes, as
a small server in itself, and leaves all others to the server below. So nothing above it knows of
filters, and no excluded name reaches the wire. What programs write under such names is in unnamed
files on this machine's disk, and ends with the mount, also if it is killed.

Owns: the files and folders under excluded names. Does not own which names are excluded.

Threading: any thread. `_lock` (Rank.EXCLUDED) guards the table; no I/O is done under it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ftpfs import errors
from ftpfs.model.entry import Entry, FolderAttributes, Kind, Trace
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import folder_of, is_hidden, is_within, name_of
from ftpfs.model.remote import Content, Download, ListPath, Remote, Space

_COPY_BYTES = 1 << 20
# How many paths keep the answer of the filter.
_KNOWN_PATHS = 10_000


@dataclass(frozen=True)
class _Here:
    """A file or folder under an excluded name. `data`: the content of a file."""

    entry: Entry
    data: IO[bytes] | None = None


class ExcludingRemote:
    """The server `remote`, without excluded names, and with those that programs made.

    One idea: the protocol of a server, method by method.
    """

    def __init__(
        self, remote: Remote, excludes: Callable[[str], bool], folder: Path | None = None
    ) -> None:
        """`excludes(path)`: a path in the mount, without the slash at its beginning.

        `folder`: whose disk holds what programs write; None: that of temporary files.
        """
        self._remote = remote
        self._folder = folder
        self._is_excluded = functools.lru_cache(_KNOWN_PATHS)(lambda p: excludes(p.lstrip("/")))
        self._lock = ranked_lock(Rank.EXCLUDED)
        self._here: dict[str, _Here] = {}  # by path; guarded by _lock

    def _excludes(self, path: str) -> bool:
        """Whether the path belongs here: also under a hidden name, while it is being deleted."""
        return path != "/" and (self._is_excluded(path) or path in self._here)

    def _at(self, path: str) -> _Here:
        with self._lock:
            here = self._here.get(path)
        if here is None:
            raise errors.NotFound(f"{path}: no such file or folder")
        return here

    def _children(self, path: str) -> list[Entry]:
        with self._lock:
            return [each.entry for at, each in self._here.items() if folder_of(at) == path]

    def _listed(self, list_path: ListPath, path: str) -> list[Entry]:
        if self._excludes(path):
            if self._at(path).entry.kind is not Kind.DIRECTORY:
                raise errors.NotADirectory(f"{path} is a file")
            return self._children(path)
        prefix = path.rstrip("/") + "/"
        theirs = [each for each in list_path(path) if not self._excludes(prefix + each.name)]
        return theirs + self._children(path)

    def _check_folder(self, path: str) -> None:
        folder = folder_of(path)
        if self._excludes(folder) and self._at(folder).entry.kind is not Kind.DIRECTORY:
            raise errors.NotADirectory(f"{folder} is a file")

    # Looking.

    def round_trip(self) -> float:
        return self._remote.round_trip()

    def warm(self, sessions: int) -> None:
        self._remote.warm(sessions)

    def is_offline(self) -> bool:
        return self._remote.is_offline()

    def list(self, path: str) -> list[Entry]:
        return self._listed(self._remote.list, path)

    @contextlib.contextmanager
    def ahead(self) -> Iterator[ListPath]:
        with self._remote.ahead() as list_path:
            yield functools.partial(self._listed, list_path)

    @contextlib.contextmanager
    def behind(self) -> Iterator[ListPath]:
        with self._remote.behind() as list_path:
            yield functools.partial(self._listed, list_path)

    def peek(self, path: str) -> Entry | None:
        return self._at(path).entry if self._excludes(path) else self._remote.peek(path)

    def stat(self, path: str) -> Entry:
        return self._at(path).entry if self._excludes(path) else self._remote.stat(path)

    def look_again(self, path: str, entry: Entry) -> Entry:
        return self.stat(path) if self._excludes(path) else self._remote.look_again(path, entry)

    def read_link(self, path: str, target: str | None) -> str:
        return self._remote.read_link(path, target)

    def space(self) -> Space | None:
        return self._remote.space()

    # Contents.

    def open_read(
        self,
        path: str,
        offset: int = 0,
        *,
        give_way: Callable[[], None] | None = None,
        expect: Entry | None = None,
        ahead: bool = False,
    ) -> Download:
        if not self._excludes(path):
            return self._remote.open_read(
                path, offset, give_way=give_way, expect=expect, ahead=ahead
            )
        here = self._at(path)
        if here.data is None:
            raise errors.IsADirectory(f"{path} is a folder")
        told = (expect.size, expect.mtime) if expect is not None else (None, None)
        if None not in told and told != (here.entry.size, here.entry.mtime):
            raise errors.Changed(f"{path}: was replaced or deleted while it was read")
        return _Reading(here.data, offset, here.entry.size or 0)

    def store(self, path: str, content: Content, *, base: Entry | None) -> Entry:
        if not self._excludes(path):
            return self._remote.store(path, content, base=base)
        self._check_folder(path)
        # The file is unnamed, so it goes when the last reader has closed it.
        data = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (kept in the table)
        position = 0
        while (end := content.ready(position)) > position:
            piece = os.pread(content.fileno(), min(_COPY_BYTES, end - position), position)
            piece = piece or bytes(min(_COPY_BYTES, end - position))
            os.pwrite(data.fileno(), piece, position)
            position += len(piece)
        content.ready(position)
        mtime, mode = content.attributes()
        mtime = int(time.time()) if mtime is None else mtime
        entry = Entry(name_of(path), Kind.FILE, position, mtime, True, mode)
        with self._lock:
            self._here[path] = _Here(entry, data)
        return entry

    def takes_files(self, path: str) -> bool:
        return True if self._excludes(path) else self._remote.takes_files(path)

    def patch(
        self, path: str, content: Content, ranges: Sequence[tuple[int, int]], *, base: Entry
    ) -> Entry:
        if self._excludes(path):
            raise errors.NotSupported("files under excluded names are written as a whole")
        return self._remote.patch(path, content, ranges, base=base)

    def append(self, path: str, content: Content, start: int, end: int, *, base: Entry) -> Entry:
        if self._excludes(path):
            raise errors.NotSupported("files under excluded names are written as a whole")
        return self._remote.append(path, content, start, end, base=base)

    # Changing.

    def check_name(self, path: str) -> None:
        self._remote.check_name(path)

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None:
        if not self._excludes(path):
            self._remote.mkdir(path, before=before)
            return
        self._check_folder(path)
        entry = Entry(name_of(path), Kind.DIRECTORY, None, int(time.time()), True, 0o755)
        with self._lock:
            if path in self._here:
                raise errors.Exists(f"{path} exists")
            self._here[path] = _Here(entry)

    def rmdir(self, path: str) -> None:
        if self._children(path):
            raise errors.NotEmpty(f"{path}: not empty")
        if not self._excludes(path):
            self._remote.rmdir(path)
            return
        self._at(path)
        with self._lock:
            self._here.pop(path, None)

    def remove(self, path: str, *, traces: Collection[Trace] = ()) -> None:
        if not self._excludes(path):
            self._remote.remove(path, traces=traces)
            return
        self._at(path)
        with self._lock:
            self._here.pop(path, None)

    def aside(self, path: str) -> str:
        return self._remote.aside(path)

    def replaces(self) -> bool | None:
        return self._remote.replaces()

    def rename(
        self,
        old: str,
        new: str,
        *,
        replace: bool,
        aside: str = "",
        keep: bool = False,
        traces: Collection[Trace] = (),
    ) -> None:
        """A rename between an excluded name and another one raises CrossesFolders (EXDEV).

        Programs copy the file then. Below a folder that is renamed, what is here moves along.
        """
        if self._excludes(old) != (self._excludes(new) or (self._excludes(old) and is_hidden(new))):
            raise errors.CrossesFolders(f"{old}: one of the names is excluded, the other is not")
        is_here = self._excludes(old)
        if is_here:
            self._at(old)
        else:
            self._remote.rename(old, new, replace=replace, aside=aside, keep=keep, traces=traces)
        with self._lock:
            if is_here and keep and aside and new in self._here:
                self._here[aside] = self._here.pop(new)
            moving = [at for at in self._here if is_within(at, old)]
            for at in moving:
                target = new + at[len(old) :]
                here = self._here.pop(at)
                named = dataclasses.replace(here.entry, name=name_of(target))
                self._here[target] = _Here(named, here.data)

    def check_removable(self, path: str, aside: str) -> None:
        if not self._excludes(path):
            self._remote.check_removable(path, aside)

    def chmod(self, path: str, mode: int) -> None:
        if self._excludes(path):
            self._change(path, mode=mode)
        else:
            self._remote.chmod(path, mode)

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> int:
        if not self._excludes(path):
            return self._remote.set_mtime(path, seconds, directory=directory)
        self._change(path, mtime=seconds)
        return seconds

    def _change(self, path: str, *, mode: int | None = None, mtime: int | None = None) -> None:
        here = self._at(path)
        entry = dataclasses.replace(
            here.entry,
            mode=here.entry.mode if mode is None else mode,
            mtime=here.entry.mtime if mtime is None else mtime,
        )
        with self._lock:
            self._here[path] = _Here(entry, here.data)

    def doubts_size(self, entry: Entry) -> bool:
        return self._remote.doubts_size(entry)

    def is_same_time(self, first: int, second: int) -> bool:
        return self._remote.is_same_time(first, second)

    def sets_on_folders(self) -> tuple[bool | None, bool | None]:
        return self._remote.sets_on_folders()

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        theirs = []
        for each in wanted:
            if not self._excludes(each.path):
                theirs.append(each)
                continue
            with contextlib.suppress(errors.NotFound):
                self._change(each.path, mode=each.mode, mtime=each.mtime)
        return self._remote.set_on_folders(theirs) if theirs else []


class _Reading:
    """A `model.remote.Download` of a file that is here."""

    confirmed = True

    def __init__(self, data: IO[bytes], position: int, size: int) -> None:
        self._data = data  # keeps the file open
        self._position = position
        self._size = size

    def read(self, size: int) -> bytes:
        piece = os.pread(
            self._data.fileno(), max(0, min(size, self._size - self._position)), self._position
        )
        self._position += len(piece)
        return piece

    def goes_on(self) -> bool:
        return self._position < self._size

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass
