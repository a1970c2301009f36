"""Single files and folders without FUSE: the work of `ftpfs ls`, `cat`, `get`, `put` and `cmd`.

Owns line ends of text transfers, the format of a listing, and the progress bar. FTP is
`ftp.remote`'s, the same as for a mount. Local files never stay half-written under their names:
`landing`. Paths are those of Remote; `locate` makes them from a URL.

Threading: one thread.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import posixpath
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import BinaryIO, TextIO

from ftpfs import errors
from ftpfs.errors import printable
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import CHUNK_BYTES, FileContent
from ftpfs.local import landing
from ftpfs.model.entry import Entry, Kind
from ftpfs.trees.streams import Streams, are_worth_it

log = logging.getLogger(__name__)

_CHUNK_BYTES = 256 << 10  # the same as in Remote's uploads

# Called with the total of bytes so far. A repeated upload starts again at 0.
Progress = Callable[[int], None]


def locate(url_path: str) -> tuple[str, str]:
    """The root for Remote and the path below it, from the path of a URL.

    The root is the login folder or the server's root. It is never the folder in the URL, because
    that may turn out to be a file.
    """
    root = "/" if url_path.startswith("/") else ""
    return root, "/" + url_path.strip("/")


# Listing.


@dataclass(frozen=True)
class Look:
    """The format of a listing."""

    long: bool = False
    human: bool = False  # sizes in K, M and G
    dotfiles: bool = False


def list_folder(remote: Remote, path: str, out: TextIO, look: Look) -> None:
    """Print the entries of a folder, or the entry of a file, sorted by name."""
    try:
        entries = sorted(remote.list(path), key=lambda entry: entry.name)
    except errors.NotADirectory:
        entries, look = [remote.stat(path)], replace(look, dotfiles=True)
    print_entries(entries, out, look)


def print_entries(entries: Iterable[Entry], out: TextIO, look: Look) -> None:
    for entry in entries:
        if look.dotfiles or not entry.name.startswith("."):
            emit(out, _long_line(entry, human=look.human) if look.long else entry.name)


def emit(out: TextIO, line: str) -> None:
    """Print server text: escaped on a terminal, the original bytes for a script."""
    if out.isatty():
        out.write(printable(line) + "\n")
    else:
        out.buffer.write(os.fsencode(line) + b"\n")


_TYPES = {Kind.DIRECTORY: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK, Kind.FILE: stat.S_IFREG}


def _long_line(entry: Entry, *, human: bool) -> str:
    mode = mode_in_letters(entry)
    size = "-"
    if entry.size is not None and entry.kind is not Kind.DIRECTORY:
        size = human_size(entry.size) if human else str(entry.size)
    name = f"{entry.name} -> {entry.target}" if entry.target else entry.name
    return f"{mode} {size:>13} {utc(entry.mtime):20} {name}"


def mode_in_letters(entry: Entry) -> str:
    """Kind and mode like `ls -l`: drwxr-xr-x, and -????????? if the server tells no mode."""
    mode = stat.filemode(_TYPES.get(entry.kind, 0) | (entry.mode or 0))
    return mode[0] + "?" * 9 if entry.mode is None else mode


def human_size(size: int) -> str:
    """A size in the format of `ls -h`: 1.0K, 12M; rounded up."""
    if size < 1024:
        return str(size)
    tenths, units = size * 10, iter("KMGTPE")
    unit = ""
    while tenths >= 10_240:
        tenths, unit = -(-tenths // 1024), next(units)
    return f"{tenths / 10:.1f}{unit}" if tenths < 100 else f"{-(-tenths // 10)}{unit}"


def utc(seconds: float | None) -> str:
    """A time for people, such as 2024-01-31T12:00:00Z."""
    if seconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # a server may say any year
        return "-"


# Files out.


def cat(remote: Remote, path: str, out: BinaryIO, *, text: bool) -> None:
    """Write a whole remote file to `out`, or raise an error."""
    entry = remote.stat(path)
    _receive(remote, path, entry, lambda _: contextlib.nullcontext(out), text=text, progress=False)


def get(remote: Remote, path: str, local: str, *, text: bool, streams: int | None = 1) -> None:
    """Copy a remote file to `local`, which is a file or a folder.

    `streams`: connections for a large file; None: as many as are quickest.

    The file appears under its name when it is complete and at least as long as the server reported.
    (Text has no size to compare.) A longer file is accepted: it grew, or the reported size was
    wrong. Raises DataMismatch; OSError for the local side.
    """
    if os.path.isdir(local):
        local = os.path.join(local, posixpath.basename(path))
    entry = remote.stat(path)
    open_local = functools.partial(landing.replacing, local)
    # Devices and pipes take their bytes in order.
    is_plain = not text and (os.path.isfile(local) or not os.path.exists(local))
    if is_plain and entry.kind is Kind.FILE and are_worth_it(remote, entry, streams):
        try:
            with open_local(entry.mtime) as out, _bar(path, entry.size, wanted=True) as advance:
                Streams(remote, path, entry, out.fileno(), advance, streams=streams).run()
        except (errors.NotSupported, errors.Changed) as error:
            log.info("%s: not by several streams: %s", path, error)
            entry = remote.stat(path)
        else:
            return
    _receive(remote, path, entry, open_local, text=text, progress=True)


def _receive(
    remote: Remote,
    path: str,
    entry: Entry,
    open_local: Callable[[int | None], contextlib.AbstractContextManager[BinaryIO]],
    *,
    text: bool,
    progress: bool,
) -> None:
    if entry.kind is Kind.DIRECTORY:
        raise errors.IsADirectory(f"{path} is a folder; ftpfs ls shows it, ftpfs mount copies it")
    # The size of a link is not that of its file. In text mode the line ends differ.
    promised = entry.size if entry.kind is Kind.FILE and not text else None
    arrived = 0

    def chunks() -> Iterator[bytes]:
        nonlocal arrived
        view = memoryview(bytearray(_CHUNK_BYTES))
        while count := download.readinto(view):
            arrived += count
            advance(arrived)
            yield bytes(view[:count])

    with (
        remote.open_read(path, text=text) as download,
        open_local(entry.mtime) as out,
        _bar(path, promised, wanted=progress) as advance,
    ):
        for chunk in from_wire(chunks()) if text else chunks():
            out.write(chunk)
        if promised is None or arrived > promised:
            download.check_end()
        elif arrived < promised:
            raise errors.DataMismatch(f"{path}: {arrived} of {promised} bytes arrived")


# Files in.


def destination(remote: Remote, path: str, name: str) -> tuple[str, int | None]:
    """Where a file called `name` goes that is put to `path`: if that is a folder, into it.

    Also returns the mode of the file that is there.
    """
    for where in (path, posixpath.join(path, name)):
        try:
            existing = remote.stat(where)
        except errors.NotFound:
            return where, None
        if existing.kind is not Kind.DIRECTORY:
            return where, existing.mode
    raise errors.IsADirectory(f"{where} is a folder")


def put(
    remote: Remote, stream: BinaryIO, path: str, mode: int | None = None, *, text: bool
) -> None:
    """Upload `stream` to `path`, and check that the server has all of it.

    A file on disk replaces an existing one as a whole or not at all, and gets `mode`. A pipe or a
    text goes straight to its name, so a broken transfer leaves a part. Raises DataMismatch.
    """
    status = os.fstat(stream.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    with _bar(path, size, wanted=True) as advance:
        if size is not None and not text:
            _put_file(remote, stream, size, path, mode, advance)
        else:
            _put_stream(remote, stream, path, advance, text=text)


def _put_file(
    remote: Remote, stream: BinaryIO, size: int, path: str, mode: int | None, advance: Progress
) -> None:
    class Shown(FileContent):
        """Gives the content in pieces, so that the bar moves."""

        def ready(self, offset: int) -> int:
            advance(offset)
            return min(super().ready(offset), offset + CHUNK_BYTES)

    when = int(os.fstat(stream.fileno()).st_mtime)
    remote.store(path, Shown(stream.fileno(), size, when, mode), base=None, check=False)


def _put_stream(
    remote: Remote, stream: BinaryIO, path: str, advance: Progress, *, text: bool
) -> None:
    sent = 0
    with remote.open_write(path, text=text) as upload:
        chunks = iter(lambda: stream.read(_CHUNK_BYTES), b"")
        for chunk in to_wire(chunks) if text else chunks:
            upload.write(chunk)
            sent += len(chunk)
            advance(sent)
        upload.finish()
    if text:
        return  # the server stores its own line ends, so the sizes differ
    try:
        stored = remote.stat(path).size
    except (errors.NotFound, errors.PermissionDenied):
        log.warning("%s: the server took it and does not show it; not verified", printable(path))
        return
    if stored != sent:
        raise errors.DataMismatch(f"{path}: the server has {stored} of {sent} bytes")


# Line ends: CRLF on the wire (RFC 959, 3.1.1.1), LF on this machine.


def from_wire(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        joined = held + chunk
        # A CR at the end of a chunk waits for the next one: LF may follow.
        held = b"\r" if joined.endswith(b"\r") else b""
        yield joined[: len(joined) - len(held)].replace(b"\r\n", b"\n")
    yield held


def to_wire(chunks: Iterable[bytes]) -> Iterator[bytes]:
    before = b""
    for chunk in chunks:
        # Lines that end in CRLF stay as they are, even if a chunk ends between CR and LF.
        yield re.sub(rb"(?<!\r)\n", b"\r\n", before + chunk)[len(before) :]
        before = b"\r" if chunk.endswith(b"\r") else b""


# The bar.


@contextlib.contextmanager
def _bar(path: str, total: int | None, *, wanted: bool) -> Iterator[Progress]:
    """A progress bar, if stderr is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.markup import escape

    from ftpfs.commands.bars import bar as shown

    with shown() as bar:
        task = bar.add_task(escape(printable(posixpath.basename(path))), total=total)
        yield lambda done: bar.update(task, completed=done)


# Raw commands.


def command(remote: Remote, line: str, out: TextIO, *, welcome: bool) -> bool:
    """Send one command and print the lines of the reply. Returns whether the server accepted it."""
    greeting = remote.connect()
    if welcome:
        for each in greeting.splitlines():
            emit(out, each)
    reply = remote.command(line)
    for each in reply.lines:
        # The lines of a reply are bytes decoded as latin-1. Decode them as file names here.
        emit(out, os.fsdecode(each.encode("latin-1")))
    return reply.ok
