"""Single files and folders without FUSE: what `ftpfs ls`, `cat`, `get`, `put` and `cmd` do.

Owns: local files (never left half-written under their name), line ends of text transfers, the
shape of a listing, the progress bar. Owns no FTP: that is `ftp.remote`, the same stack as a
mount's. Paths are as in Remote; see `locate` for how a URL becomes one.

Threading: one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from typing import BinaryIO, TextIO

from ftpfs import errors
from ftpfs.errors import printable
from ftpfs.ftp.listing import Entry, Kind
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.upload import PIECE, FileContent

log = logging.getLogger(__name__)

CHUNK = 256 << 10  # as Remote's uploads

# Told how many bytes are done in all; a repeated upload starts again.
Progress = Callable[[int], None]


def locate(url_path: str) -> tuple[str, str]:
    """The folder to make Remote's root, and the path below it, for the path of a URL.

    The root is the login folder or the server's own, never the folder named by the URL: what it
    names may turn out to be a file.
    """
    root = "/" if url_path.startswith("/") else ""
    return root, "/" + url_path.strip("/")


# Listing.


def list_folder(remote: Remote, path: str, out: TextIO, *, long: bool, dotfiles: bool) -> None:
    """Print the entries of a folder, or the one entry of a file, by name."""
    try:
        entries = sorted(remote.list(path), key=lambda entry: entry.name)
    except errors.NotADirectory:
        entries, dotfiles = [remote.stat(path)], True
    for entry in entries:
        if dotfiles or not entry.name.startswith("."):
            emit(out, _long_line(entry) if long else entry.name)


def emit(out: TextIO, line: str) -> None:
    """Print server text: made harmless for a terminal, the true bytes for a script."""
    if out.isatty():
        out.write(printable(line) + "\n")
    else:
        out.buffer.write(os.fsencode(line) + b"\n")


_TYPES = {Kind.DIRECTORY: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK, Kind.FILE: stat.S_IFREG}


def _long_line(entry: Entry) -> str:
    mode = stat.filemode(_TYPES.get(entry.kind, 0) | (entry.mode or 0))
    if entry.mode is None:
        mode = mode[0] + "?" * 9
    size = "-" if entry.size is None or entry.kind is Kind.DIRECTORY else str(entry.size)
    name = f"{entry.name} -> {entry.target}" if entry.target else entry.name
    return f"{mode} {size:>13} {_utc(entry.mtime):20} {name}"


def _utc(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # a server may say any year
        return "-"


# Files out.


def cat(remote: Remote, path: str, out: BinaryIO, *, text: bool) -> None:
    """Write a remote file to `out`, all of it or an error."""
    _receive(remote, path, lambda: contextlib.nullcontext(out), text=text, progress=False)


def get(remote: Remote, path: str, local: str, *, text: bool) -> None:
    """Copy a remote file to `local`, a file or a folder to put it in.

    The file appears under its name only when it is complete and its size is what the server said
    (text has no size to compare with). Raises DataMismatch, OSError for the local side.
    """
    if os.path.isdir(local):
        local = os.path.join(local, posixpath.basename(path))
    _receive(remote, path, lambda: _replacing(local), text=text, progress=True)


def _receive(
    remote: Remote,
    path: str,
    open_local: Callable[[], contextlib.AbstractContextManager[BinaryIO]],
    *,
    text: bool,
    progress: bool,
) -> None:
    entry = remote.stat(path)
    if entry.kind is Kind.DIRECTORY:
        raise errors.IsADirectory(f"{path} is a folder; ftpfs ls shows it, ftpfs mount copies it")
    # A link's size is not its file's; in text mode the wire carries other line ends.
    promised = entry.size if entry.kind is Kind.FILE and not text else None
    arrived = 0

    def chunks() -> Iterator[bytes]:
        nonlocal arrived
        view = memoryview(bytearray(CHUNK))
        while count := download.readinto(view):
            arrived += count
            advance(arrived)
            yield bytes(view[:count])

    with (
        remote.open_read(path, text=text) as download,
        open_local() as out,
        _bar(path, promised, wanted=progress) as advance,
    ):
        for chunk in _from_wire(chunks()) if text else chunks():
            out.write(chunk)
        if promised is None:
            download.check_end()
        elif promised != arrived:
            raise errors.DataMismatch(f"{path}: {arrived} of {promised} bytes arrived")


@contextlib.contextmanager
def _replacing(target: str) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` when the block ends well, and goes away otherwise."""
    target = os.path.realpath(target)  # a link stays, what it points to is replaced
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as out:  # a device or FIFO is written to, not replaced
            yield out
        return
    # Hidden, in the same folder (rename cannot cross file systems); open() applies the umask.
    temporary = os.path.join(os.path.dirname(target), f".ftpfs-{secrets.token_hex(6)}.part")
    try:
        with open(temporary, "xb") as out:
            yield out
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


# Files in.


def put(remote: Remote, stream: BinaryIO, path: str, *, text: bool) -> None:
    """Upload what `stream` holds to `path`, and check that the server has all of it.

    A file on disk replaces an existing one whole or not at all; a pipe or a text is sent straight
    to its name, and a broken transfer leaves what arrived. Raises DataMismatch.
    """
    status = os.fstat(stream.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    with _bar(path, size, wanted=True) as advance:
        if size is not None and not text:
            _put_file(remote, stream, size, path, advance)
        else:
            _put_stream(remote, stream, path, advance, text=text)


def _put_file(remote: Remote, stream: BinaryIO, size: int, path: str, advance: Progress) -> None:
    try:
        existing = remote.stat(path)
    except errors.NotFound:
        mode = None
    else:
        if existing.kind is Kind.DIRECTORY:
            raise errors.IsADirectory(f"{path} is a folder; end the URL with / to put it there")
        mode = existing.mode

    class Shown(FileContent):
        """Given out in pieces, so that the bar moves."""

        def ready(self, offset: int) -> int:
            advance(offset)
            return min(super().ready(offset), offset + PIECE)

    remote.store(path, Shown(stream.fileno(), size, None, mode), base=None, check=False)


def _put_stream(
    remote: Remote, stream: BinaryIO, path: str, advance: Progress, *, text: bool
) -> None:
    sent = 0
    with remote.open_write(path, text=text) as upload:
        chunks = iter(lambda: stream.read(CHUNK), b"")
        for chunk in _to_wire(chunks) if text else chunks:
            upload.write(chunk)
            sent += len(chunk)
            advance(sent)
        upload.finish()
    if text:
        return  # the server stores its own line ends: sizes differ by right
    try:
        stored = remote.stat(path).size
    except (errors.NotFound, errors.PermissionDenied):
        log.warning("%s: the server took it and does not show it; not verified", printable(path))
        return
    if stored != sent:
        raise errors.DataMismatch(f"{path}: the server has {stored} of {sent} bytes")


# Line ends. On the wire they are CRLF (RFC 959, 3.1.1.1), here LF.


def _from_wire(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        joined = held + chunk
        # A CR at the end waits for what follows it.
        held = b"\r" if joined.endswith(b"\r") else b""
        yield joined[: len(joined) - len(held)].replace(b"\r\n", b"\n")
    yield held


def _to_wire(chunks: Iterable[bytes]) -> Iterator[bytes]:
    before = b""
    for chunk in chunks:
        # Lines that end in CRLF already keep it, also where a chunk ends between the two.
        yield re.sub(rb"(?<!\r)\n", b"\r\n", before + chunk)[len(before) :]
        before = b"\r" if chunk.endswith(b"\r") else b""


# The bar.


@contextlib.contextmanager
def _bar(path: str, total: int | None, *, wanted: bool) -> Iterator[Progress]:
    """A progress bar on stderr where someone can see it."""
    if not wanted or not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.markup import escape

    from ftpfs.bars import bar as shown

    with shown() as bar:
        task = bar.add_task(escape(printable(posixpath.basename(path))), total=total)
        yield lambda done: bar.update(task, completed=done)


# Raw commands.


def command(remote: Remote, line: str, out: TextIO, *, welcome: bool) -> bool:
    """Send one command and print the reply's lines; whether the server agreed."""
    greeting = remote.connect()
    if welcome:
        for each in greeting.splitlines():
            emit(out, each)
    reply = remote.command(line)
    for each in reply.lines:
        # Reply lines are bytes in latin-1 clothing; here they are text again.
        emit(out, os.fsdecode(each.encode("latin-1")))
    return reply.ok
