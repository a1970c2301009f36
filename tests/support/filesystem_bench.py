"""A file system on a server in memory, with the operations that many tests share.

`made` builds one, `reborn` the next mount after a kill. The fixture `bench` of `tests/unit/core`
closes it after its test.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.writing.spool import Spool
from ftpfs.settings.config import Cache, Write
from tests.support.memory_remote import MemoryRemote
from tests.support.waiting import until


class Clock:
    """The real time plus an offset that a test adds."""

    def __init__(self) -> None:
        self._added = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._added

    def add(self, seconds: float) -> None:
        self._added += seconds


@dataclass
class Bench:
    """A file system, its server and its spool folder."""

    remote: MemoryRemote
    fs: Filesystem
    spool: Path
    clock: Clock = field(default_factory=Clock)

    def read(self, path: str) -> bytes:
        handle = self.fs.open(path, os.O_RDONLY)
        try:
            return self.fs.read(handle, 0, 1 << 20)
        finally:
            self.fs.release(handle)

    def write(self, path: str, content: bytes) -> None:
        handle = self.fs.create(path, 0o644, os.O_WRONLY)
        self.fs.write(handle, 0, content)
        self.fs.flush(handle)
        self.fs.release(handle)

    def new(self, path: str, content: bytes) -> int:
        """An open handle on a new file that the server does not have yet."""
        handle = self.fs.create(path, 0o644, os.O_RDWR)
        self.fs.write(handle, 0, content)
        return handle

    def names(self, path: str) -> set[str]:
        return {entry.name for entry in self.fs.children(path)}

    def linger(self) -> None:
        linger(self.fs)

    def note_takes(self, folder: str) -> None:
        """Let the mount believe that the folder takes files, so that no close in it waits."""
        self.fs._known.note_takes(folder)

    def exists(self, path: str) -> bool:
        try:
            self.fs.attributes(path)
        except errors.NotFound:
            return False
        return True


def linger(fs: Filesystem) -> None:
    """From now on, send no closed file until a caller waits for it."""
    fs._queue._linger = fs._queue._short_linger = 1000.0


def made(folder: Path, *, read_only: bool = False, write: Write | None = None) -> Bench:
    """A mount with default options: the files /a and /b, and the empty folder /d."""
    clock = Clock()
    remote = MemoryRemote()
    remote.outside_mkdir("/d")
    remote.outside_write("/a", b"aaaa")
    remote.outside_write("/b", b"bbbb")
    spool = folder / "spool"
    fs = Filesystem(remote, Spool(spool), Cache(), read_only=read_only, write=write, clock=clock)
    return Bench(remote, fs, spool, clock)


def renames_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let renames replace existing targets unasked, as on most servers."""
    rename = bench.remote.rename

    def overwriting(old: str, new: str, *, replace: bool, **words: Any) -> None:
        rename(old, new, replace=True, **words)

    monkeypatch.setattr(bench.remote, "rename", overwriting)


def until_failed(bench: Bench, path: str) -> None:
    until(lambda: bench.fs.state(path) == "failed")


def settled(bench: Bench) -> None:
    bench.fs.sync("/", 20)


def open_directory(bench: Bench, path: str = "/") -> None:
    """Make a folder in `path`: then the mount knows that `path` takes files."""
    bench.fs.mkdir(f"{path.rstrip('/')}/made", 0o755)


def reborn(bench: Bench, folder: Path, **arguments: Any) -> Bench:
    """The next mount after a kill at this moment, on a copy of the spool."""
    folder.mkdir()
    copy = folder / "spool"
    with bench.fs._spool.journal._lock:
        shutil.copytree(bench.spool, copy)
    clock = Clock()
    fs = Filesystem(bench.remote, Spool(copy), Cache(), clock=clock, **arguments)
    return Bench(bench.remote, fs, copy, clock)


def sent_by_the_next(bench: Bench, folder: Path) -> None:
    """A kill at this moment, and a next mount, which sends the one file that is left."""
    next_one = reborn(bench, folder)
    assert next_one.fs.recover() == 1
    assert next_one.fs.close() == 0


def append(bench: Bench, path: str, content: bytes) -> None:
    """Append `content` and close the file, without waiting for the upload."""
    handle = bench.fs.open(path, os.O_WRONLY | os.O_APPEND)
    bench.fs.write(handle, 0, content)
    bench.fs.flush(handle)
    bench.fs.release(handle)
