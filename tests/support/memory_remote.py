"""A server in memory: the core's Remote protocol over a dict, with faults on demand.

Also simulates a full spool disk. Counts its calls, refuses what a Unix server refuses, and keeps
times in whole seconds, as FTP does. Tests order faults by method name and call number; a call can
be held until a test releases it, which forces races instead of hoping for them.

Threading: any. `lock` guards the tree; nothing waits under it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import posixpath
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest

from ftpfs import errors
from ftpfs.model.entry import Entry, FolderAttributes, Kind, Trace
from ftpfs.model.names import HIDDEN_PREFIX
from ftpfs.model.remote import Content, ListPath

T = TypeVar("T")

# Downloads come in pieces of no round size, as from a socket.
PIECE = 50_021
# After this many bytes, an upload counts as accepted.
TAKEN = 1 << 20


@contextlib.contextmanager
def disk_full_after(monkeypatch: pytest.MonkeyPatch, room: int) -> Iterator[None]:
    """Fill the spool's disk after `room` bytes, as a kernel does: a short write, then ENOSPC."""
    real = os.pwrite
    left = room

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "full")
        count = real(fd, memoryview(data)[:left], offset)
        left -= count
        return count

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        yield


@dataclass
class Node:
    """A file (`content`) or a directory (`content` is None)."""

    content: bytes | None
    mtime: int
    mode: int


@dataclass
class Gate:
    """A place where calls wait: `reached` is set when a call arrives; `open` releases it."""

    reached: threading.Event = field(default_factory=threading.Event)
    _go: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        self._go.set()

    def pass_through(self) -> None:
        self.reached.set()
        assert self._go.wait(20), "a gate of the test was never opened"


class MemoryDownload:
    def __init__(self, remote: MemoryRemote, content: bytes, offset: int) -> None:
        self._remote = remote
        self._content = content
        self._position = offset
        self._delivered = 0
        self.confirmed = False
        self._cut = remote._next_cut()
        self.closed = False

    def read(self, size: int) -> bytes:
        pieces = []
        while size and (piece := self._piece(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _piece(self, size: int) -> bytes:
        if self._remote.stall is not None:
            self._remote.stall.pass_through()
        self._remote.pace(size)
        if self._cut is not None and self._delivered >= self._cut:
            raise errors.ConnectionLost("cut by the test")
        piece = self._content[self._position : self._position + min(size, PIECE)]
        if self._cut is not None:
            piece = piece[: self._cut - self._delivered]
        self._position += len(piece)
        self._delivered += len(piece)
        return piece

    def goes_on(self) -> bool:
        return self._position < len(self._content)

    def finish(self) -> None:
        self.read(1)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._remote._downloads_ended()


@dataclass(frozen=True)
class Space:
    free: int


class MemoryRemote:
    """See `model.remote.Remote`. Change `nodes` through the methods `outside_*`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.open_downloads = 0
        self.pace: Callable[[int], None] = lambda _size: None  # called for each piece of a download
        self.most_downloads = 0
        self.now = 1_700_000_000  # the server's clock; whole seconds
        self.tells_size = True
        self.confirms = True  # that a file is the expected one
        self.warmed = 0  # sessions asked for ahead
        self.tells_singles = False  # by `peek`, as servers with MLST do
        self.sets_modes: bool | None = True  # on folders; None: not tried yet
        self.sets_times: bool | None = True
        self.fixed: set[str] = set()  # folders whose attributes it refuses to change
        self.set: list[FolderAttributes] = []  # on folders, in that order
        self.rest = True  # it can start in the middle of a file
        self.unlistable: set[str] = set()
        self.closed: set[str] = set()  # folders in which no name may be changed
        self.renames_replace: bool | None = True
        self._asides = itertools.count()
        self.stall: Gate | None = None  # every piece of every download waits here
        self.stall_uploads: Gate | None = None  # every piece of every `store` waits here
        self.patches_nothing = False  # the server has no REST and STOR
        self._nodes: dict[str, Node] = {"/": Node(None, self.now, 0o755)}
        self._faults: dict[tuple[str, int], tuple[errors.FtpfsError, bool]] = {}
        self._gates: dict[tuple[str, int, bool], Gate] = {}
        self._cuts: list[int] = []
        self._shortened: dict[str, int] = {}

    # Faults that a test orders.

    def fail(
        self, method: str, error: errors.FtpfsError, *, after: int = 0, too_late: bool = False
    ) -> None:
        """Let the call after `after` more calls fail; `too_late`: after it was carried out."""
        with self.lock:
            self._faults[method, self.calls[method] + after + 1] = (error, too_late)

    def calm(self) -> None:
        """Forget all faults that have not happened yet."""
        with self.lock:
            self._faults.clear()
            self._cuts.clear()

    def hold(self, method: str, *, after: int = 0, answered: bool = False) -> Gate:
        """Hold such a call before it begins; `answered`: after it was done, before its answer."""
        gate = Gate()
        with self.lock:
            self._gates[method, self.calls[method] + after + 1, answered] = gate
        return gate

    def cut_downloads(self, *after_bytes: int) -> None:
        """Break the next downloads, each after this many bytes."""
        with self.lock:
            self._cuts.extend(after_bytes)

    def shorten(self, path: str, size: int) -> None:
        """Deliver only `size` bytes of a file, and confirm them as complete."""
        self._shortened[path] = size

    # Changes by other clients.

    def outside_write(self, path: str, content: bytes, *, mtime: int | None = None) -> None:
        with self.lock:
            self._nodes[path] = Node(content, self.now if mtime is None else mtime, 0o644)

    def outside_mkdir(self, path: str) -> None:
        with self.lock:
            self._nodes[path] = Node(None, self.now, 0o755)

    def outside_remove(self, path: str) -> None:
        with self.lock:
            del self._nodes[path]

    # What a test looks at.

    def content(self, path: str) -> bytes:
        with self.lock:
            content = self._nodes[path].content
        assert content is not None
        return content

    def node(self, path: str) -> Node:
        with self.lock:
            return replace(self._nodes[path])

    def files(self) -> dict[str, bytes]:
        """All files with their contents, including hidden ones."""
        with self.lock:
            return {p: n.content for p, n in self._nodes.items() if n.content is not None}

    def directories(self) -> set[str]:
        with self.lock:
            return {p for p, n in self._nodes.items() if n.content is None and p != "/"}

    # The protocol.

    def list(self, path: str) -> list[Entry]:
        def work() -> list[Entry]:
            if self._get(path).content is not None:
                raise errors.NotADirectory(path)
            if path in self.unlistable:
                raise errors.PermissionDenied(path)
            entries = [
                self._entry(p, n)
                for p, n in self._nodes.items()
                if p != "/" and posixpath.dirname(p) == path
            ]
            return [e for e in entries if not e.name.startswith(HIDDEN_PREFIX)]

        return self._call("list", work)

    @contextlib.contextmanager
    def ahead(self) -> Iterator[ListPath]:
        yield self.list

    behind = ahead

    def peek(self, path: str) -> Entry | None:
        if not self.tells_singles:
            return None

        def work() -> Entry | None:
            node = self._nodes.get(path)
            return None if node is None else self._entry(path, node)

        return self._call("peek", work)

    def stat(self, path: str) -> Entry:
        return self._call("stat", lambda: self._entry(path, self._get(path)))

    def look_again(self, path: str, entry: Entry) -> Entry:
        return self._call("look_again", lambda: self._entry(path, self._get(path)))

    def read_link(self, path: str, target: str | None) -> str:
        return target or ""

    def round_trip(self) -> float:
        return 0.020

    def is_offline(self) -> bool:
        return False

    def warm(self, sessions: int) -> None:
        self.warmed = max(self.warmed, sessions)

    def space(self) -> Space | None:
        return None

    def open_read(
        self,
        path: str,
        offset: int = 0,
        *,
        give_way: Callable[[], None] | None = None,
        expect: Entry | None = None,
        ahead: bool = False,
    ) -> MemoryDownload:
        def work() -> MemoryDownload:
            node = self._get(path)
            content = node.content
            if content is None:
                raise errors.IsADirectory(path)
            if offset and not self.rest:
                raise errors.NotSupported("no REST")
            if expect is not None and not self._is(node, expect):
                raise errors.Changed(path)
            content = content[: self._shortened.get(path, len(content))]
            self.open_downloads += 1
            self.most_downloads = max(self.most_downloads, self.open_downloads)
            download = MemoryDownload(self, content, offset)
            download.confirmed = expect is not None and self.confirms
            return download

        return self._call("open_read", work)

    def store(self, path: str, content: Content, *, base: Entry | None) -> Entry:
        """Store in pieces, as they become ready; nothing is visible before all is there.

        A long content is accepted earlier: `hold("accept")` and `fail("accept", ...)`.
        """
        data = bytearray()
        told = base is not None
        while (end := content.ready(len(data))) > len(data):
            data += self._pull(content, len(data), min(end, len(data) + PIECE))
            if len(data) >= TAKEN and not told:
                told = True
                self._call("accept", lambda: None)
                content.accepted()
            if self.stall_uploads is not None:
                self.stall_uploads.pass_through()
        mtime, mode = content.attributes()

        def work() -> Entry:
            self._get_directory(posixpath.dirname(path))
            known = self._nodes.get(path)
            if known is not None and known.content is None:
                raise errors.IsADirectory(path)
            ours = known is not None and (known.content, known.mtime) == (bytes(data), mtime)
            if known is not None and not ours and not self._is(known, base):
                raise errors.Conflict(path)
            node = Node(
                bytes(data),
                self.now if mtime is None else mtime,
                mode if mode is not None else 0o644,
            )
            self._nodes[path] = node
            return replace(self._entry(path, node), size=len(data))

        return self._call("store", work)

    def takes_files(self, path: str) -> bool:
        def work() -> bool:
            self._get_directory(posixpath.dirname(path))
            return True

        return self._call("takes_files", work)

    def patch(
        self,
        path: str,
        content: Content,
        ranges: Sequence[tuple[int, int]],
        *,
        base: Entry,
    ) -> Entry:
        """Patch range by range: `fail("patch piece", ...)` leaves a mixture."""

        def begin() -> None:
            if self.patches_nothing or not 0 < ranges[0][0] <= (base.size or 0):
                raise errors.NotSupported(path)
            if path not in self._nodes:
                raise errors.NotSupported(path)
            if not self._is(self._nodes[path], base):
                raise errors.Conflict(path)

        self._call("patch", begin)
        for start, end in ranges:
            piece = bytearray()
            while start + len(piece) < end:
                ready = min(content.ready(start + len(piece)), end)
                piece += self._pull(content, start + len(piece), ready)

            def send(start: int = start, piece: bytearray = piece) -> None:
                node = self._get(path)
                old = node.content or b""
                node.content = old[:start] + bytes(piece) + old[start + len(piece) :]
                node.mtime = self.now

            self._call("patch piece", send)
        mtime, mode = content.attributes()

        with self.lock:
            node = self._get(path)
            node.mtime = self.now if mtime is None else mtime
            node.mode = node.mode if mode is None else mode
            return self._entry(path, node)

    def append(self, path: str, content: Content, start: int, end: int, *, base: Entry) -> Entry:
        self._call("append begins", lambda: None)
        piece = bytearray()
        while start + len(piece) < end:
            ready = min(content.ready(start + len(piece)), end)
            piece += self._pull(content, start + len(piece), ready)

        def work() -> None:
            node = self._nodes.get(path)
            if node is None or node.content is None or self.patches_nothing:
                raise errors.NotSupported(path)
            if len(node.content) < (base.size or 0):
                raise errors.Conflict(path)
            node.content += bytes(piece)
            node.mtime = self.now

        self._call("append", work)
        mtime, mode = content.attributes()
        with self.lock:
            node = self._get(path)
            node.mtime = self.now if mtime is None else mtime
            node.mode = node.mode if mode is None else mode
            return self._entry(path, node)

    @staticmethod
    def _pull(content: Content, start: int, end: int) -> bytes:
        return os.pread(content.fileno(), end - start, start).ljust(end - start, b"\0")

    @staticmethod
    def _is(node: Node, base: Entry | None) -> bool:
        if base is None or node.content is None:
            return False
        if base.size is not None and base.size != len(node.content):
            return False
        return not base.exact or base.mtime is None or base.mtime == node.mtime

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None:
        def work() -> None:
            if before:
                self._set(before)
            self._get_directory(posixpath.dirname(path))
            if path in self._nodes:
                raise errors.Exists(path)
            self._nodes[path] = Node(None, self.now, 0o755)

        self._call("mkdir", work)

    def rmdir(self, path: str) -> None:
        def work() -> None:
            if self._get(path).content is not None:
                raise errors.NotADirectory(path)
            if any(p.startswith(path + "/") for p in self._nodes):
                raise errors.NotEmpty(path)
            del self._nodes[path]

        self._call("rmdir", work)

    def check_name(self, path: str) -> None:
        """Every name is accepted."""

    def remove(self, path: str, *, traces: Collection[Trace] = ()) -> None:
        def work() -> None:
            if self._get(path).content is None:
                raise errors.IsADirectory(path)
            if posixpath.dirname(path) in self.closed:
                raise errors.PermissionDenied(path)
            del self._nodes[path]

        self._call("remove", work)

    def aside(self, path: str) -> str:
        folder, name = posixpath.split(path)
        return posixpath.join(folder, f"{HIDDEN_PREFIX}{next(self._asides)}.old-{name}")

    def replaces(self) -> bool | None:
        return self.renames_replace

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
        def work() -> None:
            moving = self._get(old)
            self._get_directory(posixpath.dirname(new))
            if posixpath.dirname(old) in self.closed or posixpath.dirname(new) in self.closed:
                raise errors.PermissionDenied(old)
            target = self._nodes.get(new)
            if target is not None and target.content is not None and not replace:
                raise errors.Exists(f"{new}: in the way, and nobody said so")
            if target is not None and target.content is None:
                if moving.content is not None:
                    raise errors.IsADirectory(new)
                if any(p.startswith(new + "/") for p in self._nodes):
                    raise errors.NotEmpty(new)
            if new.startswith(old + "/"):
                raise errors.InvalidArgument(new)
            if keep and target is not None:
                self._nodes[aside] = target
            for path in [p for p in self._nodes if p == old or p.startswith(old + "/")]:
                self._nodes[new + path[len(old) :]] = self._nodes.pop(path)

        self._call("rename", work)

    def check_removable(self, path: str, aside: str) -> None:
        def work() -> None:
            self._get(path)
            if posixpath.dirname(path) in self.closed:
                raise errors.PermissionDenied(path)

        self._call("check_removable", work)

    def chmod(self, path: str, mode: int) -> None:
        def work() -> None:
            self._get(path).mode = mode

        self._call("chmod", work)

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> int:
        def work() -> int:
            self._get(path).mtime = seconds
            return seconds

        return self._call("set_mtime", work)

    def doubts_size(self, entry: Entry) -> bool:
        return False

    def is_same_time(self, first: int, second: int) -> bool:
        return first == second

    def sets_on_folders(self) -> tuple[bool | None, bool | None]:
        return self.sets_modes, self.sets_times

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        def work() -> Sequence[tuple[str, str]]:
            return [(each.path, "550 no") for each in wanted if not self._set(each)]

        return self._call("set_on_folders", work)

    def _set(self, wanted: FolderAttributes) -> bool:
        node = self._nodes.get(wanted.path)
        if node is None or wanted.path in self.fixed:
            return False
        node.mode = node.mode if wanted.mode is None else wanted.mode
        node.mtime = node.mtime if wanted.mtime is None else wanted.mtime
        self.set.append(wanted)
        return True

    # Internal.

    def _call(self, method: str, work: Callable[[], T]) -> T:
        with self.lock:
            self.calls[method] += 1
            number = self.calls[method]
            before = self._gates.pop((method, number, False), None)
            after = self._gates.pop((method, number, True), None)
            error, too_late = self._faults.pop((method, number), (None, False))
        if before is not None:
            before.pass_through()
        if error is not None and not too_late:
            raise error
        with self.lock:
            answer = work()
        if after is not None:
            after.pass_through()
        if error is not None:
            raise error
        return answer

    def _get(self, path: str) -> Node:
        node = self._nodes.get(path)
        if node is None:
            raise errors.NotFound(path)
        return node

    def _get_directory(self, path: str) -> Node:
        node = self._get(path)
        if node.content is not None:
            raise errors.NotADirectory(path)
        return node

    def _entry(self, path: str, node: Node) -> Entry:
        known = node.content is not None and self.tells_size
        return Entry(
            name=posixpath.basename(path),
            kind=Kind.FILE if node.content is not None else Kind.DIRECTORY,
            size=len(node.content or b"") if known else None,
            mtime=node.mtime,
            exact=True,
            mode=node.mode,
            target=None,
        )

    def _next_cut(self) -> int | None:
        return self._cuts.pop(0) if self._cuts else None

    def _downloads_ended(self) -> None:
        with self.lock:
            self.open_downloads -= 1
