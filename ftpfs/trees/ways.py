"""The two ways of a copy: from the server to this machine, and from this machine to the server.

Owns: how one file travels, in pieces or at once; that its size is verified; and what is repeated
after a break. `Remote` owns the connections.

Threading: any thread; each file belongs to one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from ftpfs import errors
from ftpfs.ftp.connections.transfers import Download
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import CHUNK_BYTES, FileContent
from ftpfs.local.landing import arriving, replace_by_link
from ftpfs.model import link
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import check_name, is_within
from ftpfs.trees import resuming
from ftpfs.trees.local import Local
from ftpfs.trees.pieces import Gaps
from ftpfs.trees.plan import Rules
from ftpfs.trees.sending import NotSentError, Sending
from ftpfs.trees.server import Server
from ftpfs.trees.sides import Side
from ftpfs.trees.streams import Streams, are_worth_it, write_all
from ftpfs.trees.sums import Sums

log = logging.getLogger(__name__)

# Files up to this size (bytes) are received with one call, and written with one.
_SMALL_BYTES = 256 << 10
# Attempts in a row that bring nothing, until a file counts as failed.
_ATTEMPTS = 3
# Files at a time over a short link. There the processor is the limit, but each file also waits for
# the scheduler several times: on two busy processors, 2,000 files of 4 KiB arrived at 660 a second
# with 4, at 1,060 with 8, and took the same CPU time. More was faster only at times.
_SHORT_LINK_JOBS = 8

# Called with the bytes of a file that have moved so far. Raises Stopped to end the transfer.
Progress = Callable[[int], None]


class Stopped(Exception):
    """The user ended the run: the transfer in progress ends, too."""


class _NotAsListedError(Exception):
    """The file has another size than it had in the listing."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file or link to be copied.

    - `source`, `target`: its paths on both sides.
    - `old`: what is at `target`; None: nothing.
    - `root`: the tree at the source.
    """

    entry: Entry
    source: str
    target: str
    old: Entry | None
    root: str


class Way(Protocol):
    """From a source to a destination."""

    @property
    def source(self) -> Side: ...

    @property
    def target(self) -> Side: ...

    def copy(self, item: Item, mode: int | None, progress: Progress) -> int:
        """Copy a file, whole, over whatever file or link is at its destination. Returns its size.

        `mode`: the mode of the copy; None: as for any new file. Raises FtpfsError, OSError and what
        `progress` raises; then the old file is unchanged.
        """

    def new_mode(self, entry: Entry) -> int | None:
        """The mode of a copy of `entry` that replaces nothing."""

    def link(self, item: Item) -> bool:
        """Copy a link that points into its tree. False: it is there. Raises NotSupported."""

    def look(self, item: Item) -> Item:
        """The item with the exact size and time, as far as the server tells them."""

    def is_same_content(self, item: Item) -> bool | None:
        """Whether both files of an item have the same checksum; None: the server tells none."""

    def rules(self, rules: Rules) -> Rules:
        """These rules, with what is known about the times of the server."""

    def jobs(self) -> int:
        """How many files at a time are quickest."""

    def expect(self, tasks: int) -> None:
        """So many files and folders come next: log in for them. Does not wait."""


class Fetch:
    """From the server to this machine."""

    def __init__(
        self,
        remote: Remote,
        *,
        resumes: bool = False,
        streams: int | None = None,
        connections: int | None = None,
    ) -> None:
        """`resumes`: large files leave their parts after a break, and go on with them.

        `streams`: connections for one large file; None: as many as are quickest, and with other
        files at most `connections` (None: what the server takes).
        """
        self._remote = remote
        self._resumes = resumes
        self._streams = streams
        self._connections = connections
        self._local = Local()
        self._sums = Sums(remote)
        self.source: Side = Server(remote)
        self.target: Side = self._local
        self._lock = ranked_lock(Rank.FETCHES)
        self._active = 0  # files on their way; guarded by _lock

    def copy(self, item: Item, mode: int | None, progress: Progress) -> int:
        with self._lock:
            self._active += 1
        try:
            return self._copy(item, mode, progress)
        finally:
            with self._lock:
                self._active -= 1

    def _room(self) -> int:
        """How many streams the other files on their way leave to one."""
        most = self._connections or self._remote.status().cap - 1
        with self._lock:
            return max(1, most // max(1, self._active))

    def _copy(self, item: Item, mode: int | None, progress: Progress) -> int:
        entry = item.entry
        if entry.kind is not Kind.FILE:
            entry = replace(entry, size=None)  # the size of a link is not that of its file
        if entry.size is not None and entry.size <= _SMALL_BYTES:
            try:
                return self._receive_small(entry, entry.size, item, mode, progress)
            except _NotAsListedError:
                entry = self._remote.look_again(item.source, entry)
        if self._resumes and resuming.is_resumable(entry):
            try:
                return self._receive_on(entry, item, mode, progress)
            except (errors.DataMismatch, errors.Changed, resuming.InUseError) as error:
                log.info("%s: not resumed: %s", item.source, error)
                entry = self._remote.look_again(item.source, entry)
        may_be_several = True
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._receive(entry, item, mode, progress, may_be_several=may_be_several)
            except errors.DataMismatch:
                # The file has changed since it was listed, or the listing was wrong. Of a file that
                # grows, one transfer brings all that there was at one moment.
                entry = self._remote.look_again(item.source, entry)
                may_be_several = False
        return self._receive(entry, item, mode, progress, may_be_several=False)

    def _receive_small(
        self, entry: Entry, size: int, item: Item, mode: int | None, progress: Progress
    ) -> int:
        data = self._repeated(lambda: self._receive_at_once(size, item.source))
        progress(size)
        with arriving(item.target, entry.mtime, mode) as descriptor:
            write_all(descriptor, memoryview(data), 0)
        return size

    @staticmethod
    def _repeated(receive: Callable[[], bytes]) -> bytes:
        """`receive`, again after a break."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return receive()
            except (errors.ConnectionLost, errors.DataConnectionFailed):
                pass
        return receive()

    def _receive_at_once(self, size: int, source: str) -> bytes:
        with self._remote.open_read(source) as download:
            data = download.read(size)
            if len(data) < size or download.goes_on():
                raise _NotAsListedError
            download.finish()
            return data

    def _receive(
        self,
        entry: Entry,
        item: Item,
        mode: int | None,
        progress: Progress,
        *,
        may_be_several: bool,
    ) -> int:
        """Receive a file by one stream or several. After a break, go on at the same byte."""
        with arriving(item.target, entry.mtime, mode) as descriptor:
            if may_be_several and are_worth_it(self._remote, entry, self._streams):
                try:
                    return self._by_streams(descriptor, entry, item.source, progress)
                except errors.NotSupported as error:
                    log.info("%s: not by several streams: %s", item.source, error)
            size = self._receive_into(descriptor, entry, item.source, progress)
            os.ftruncate(descriptor, size)
            return size

    def _receive_on(self, entry: Entry, item: Item, mode: int | None, progress: Progress) -> int:
        """Receive a file from where an earlier run has left it. After an error the part stays."""
        if not entry.exact:
            entry = self._remote.look_again(item.source, entry)
        mode = self._local.full_mode(mode)
        with resuming.part_here(item.target, entry, mode) as descriptor:
            while True:
                gaps = resuming.gaps_in(descriptor, entry.size or 0)
                is_new = gaps == [(0, entry.size)]
                try:
                    size = self._receive_gaps(descriptor, entry, item.source, progress, gaps)
                    os.ftruncate(descriptor, size)
                    if not is_new:
                        resuming.check_whole(self._remote, item.source, descriptor, size)
                except errors.DataMismatch as error:
                    os.ftruncate(descriptor, 0)
                    if is_new or isinstance(error, errors.Changed):
                        raise
                    log.info("%s: beginning again: %s", item.source, error)
                else:
                    return size

    def _receive_gaps(
        self, descriptor: int, entry: Entry, source: str, progress: Progress, gaps: Gaps
    ) -> int:
        """Receive what is missing in a part. Returns the size."""
        size = entry.size or 0
        if len(gaps) > 1 or (gaps and are_worth_it(self._remote, entry, self._streams)):
            try:
                return self._by_streams(descriptor, entry, source, progress, gaps)
            except errors.NotSupported as error:
                log.info("%s: not by several streams: %s", source, error)
                gaps = [(0, size)]
                os.ftruncate(descriptor, 0)
        part = gaps[0][0] if gaps else size
        return self._receive_into(descriptor, entry, source, progress, part)

    def _by_streams(
        self,
        descriptor: int,
        entry: Entry,
        source: str,
        progress: Progress,
        gaps: Gaps | None = None,
    ) -> int:
        streams = Streams(
            *(self._remote, source, entry, descriptor, progress),
            streams=self._streams,
            room=self._room,
            gaps=gaps,
            saves=gaps is not None,
        )
        return streams.run()

    def _receive_into(
        self, descriptor: int, entry: Entry, source: str, progress: Progress, part: int = 0
    ) -> int:
        """Receive from the byte `part` on, if what is before it fits. Returns the size."""
        arrived, failures = part, 0
        while True:
            before = arrived
            try:
                expect = entry if arrived else None
                overlap = resuming.overlap_of(part)
                with self._remote.open_read(source, arrived - overlap, expect=expect) as download:
                    if overlap:
                        resuming.check_overlap(download, descriptor, part, overlap)
                        part = 0
                    for position in _chunks(download, descriptor, arrived):
                        arrived = position
                        progress(arrived)
                    _check_end(download, arrived, entry.size)
                    return arrived
            except (errors.ConnectionLost, errors.DataConnectionFailed):
                failures = 1 if arrived > before else failures + 1
                if failures == _ATTEMPTS:
                    raise
            except errors.NotSupported:
                if not arrived:
                    raise
                arrived = part = 0  # the server has no REST

    def new_mode(self, entry: Entry) -> int | None:
        return self._local.file_mode(entry.mode)

    def link(self, item: Item) -> bool:
        points_to = self._remote.read_link(item.source, item.entry.target)
        folder = posixpath.dirname(item.source)
        if not is_within(posixpath.normpath(posixpath.join(folder, points_to)), item.root):
            raise errors.NotSupported(f"a link that leads out of the tree, to {points_to}")
        old = item.old
        if old is not None and old.kind is Kind.LINK and old.target == points_to:
            return False
        replace_by_link(item.target, points_to)
        return True

    def look(self, item: Item) -> Item:
        return replace(item, entry=self._remote.look_again(item.source, item.entry))

    def is_same_content(self, item: Item) -> bool | None:
        return self._sums.are_same(item.target, item.source, item.entry.size)

    def rules(self, rules: Rules) -> Rules:
        return _with_times(rules, self._remote)

    def jobs(self) -> int:
        return _jobs(self._remote, spare=1)

    def expect(self, tasks: int) -> None:
        self._remote.warm(min(tasks, self.jobs()))


def _not_noted(_path: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


class Send:
    """From this machine to the server."""

    def __init__(
        self,
        remote: Remote,
        uploading: Callable[[str], contextlib.AbstractContextManager[None]] = _not_noted,
        *,
        resumes: bool = False,
    ) -> None:
        """`uploading(path)`: entered while a file is sent to that path. `resumes`: see `Fetch`."""
        self._resumes = resumes
        self.source: Side = Local(follows_links=True)
        self.target: Side = Server(remote)
        self._remote = remote
        self._sums = Sums(remote)
        self._uploading = uploading

    def copy(self, item: Item, mode: int | None, progress: Progress) -> int:
        check_name(item.target)
        self._remote.check_name(item.target)
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._send(item, mode, progress)
            except errors.Superseded:
                pass  # a program has written to the file
        return self._send(item, mode, progress)

    def _send(self, item: Item, mode: int | None, progress: Progress) -> int:
        source, target = item.source, item.target
        # Without O_NONBLOCK, opening a FIFO that has taken the file's place would wait for ever.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise errors.NotSupported("not a file any more")
            is_plain = item.old is None or item.old.kind is Kind.FILE
            if self._resumes and is_plain and status.st_size >= resuming.LEAST_BYTES:
                sending = Sending(
                    *(self._remote, descriptor, target, mode, progress),
                    is_replacing=item.old is not None,
                )
                with contextlib.suppress(NotSentError):
                    return sending.run()
            content = _Sent(descriptor, status, mode, progress)
            with self._uploading(target):
                self._remote.store(target, content, base=None, check=False)
            return status.st_size
        finally:
            os.close(descriptor)

    def new_mode(self, entry: Entry) -> int | None:
        return None if entry.mode is None else entry.mode & 0o777

    def link(self, item: Item) -> bool:
        what = "a link to a folder or to nothing"
        raise errors.NotSupported(f"{what} ({item.entry.target}): FTP makes no links")

    def look(self, item: Item) -> Item:
        if item.old is None:
            return item
        return replace(item, old=self._remote.look_again(item.target, item.old))

    def is_same_content(self, item: Item) -> bool | None:
        return self._sums.are_same(item.source, item.target, item.entry.size)

    def rules(self, rules: Rules) -> Rules:
        return _with_times(rules, self._remote)

    def jobs(self) -> int:
        return _jobs(self._remote, spare=2)

    def expect(self, tasks: int) -> None:
        self._remote.warm(min(tasks, self.jobs()))


class _Sent(FileContent):
    """The content of a local file. Moves the progress on, and notices when the file is changed."""

    def __init__(
        self, descriptor: int, status: os.stat_result, mode: int | None, progress: Progress
    ) -> None:
        self._version = status.st_size, status.st_mtime_ns
        self._progress = progress
        mtime = status.st_mtime_ns // 1_000_000_000
        super().__init__(descriptor, status.st_size, mtime, mode)

    def ready(self, offset: int) -> int:
        self._progress(min(offset, self._size))
        if offset >= self._size:
            status = os.fstat(self._fd)
            if (status.st_size, status.st_mtime_ns) != self._version:
                raise errors.Superseded("the file changes while it is sent")
        return min(super().ready(offset), offset + CHUNK_BYTES)


def _with_times(rules: Rules, remote: Remote) -> Rules:
    profile = remote.profile
    can_ask = bool(profile.listings.mlst) or profile.times.mdtm is not False
    return replace(rules, is_same_time=remote.is_same_time, can_ask=can_ask)


def _jobs(remote: Remote, spare: int) -> int:
    """`spare`: connections that transfers of this kind leave to others (see `admission`)."""
    cap = max(1, remote.status().cap - spare)
    return cap if link.is_long(remote.round_trip()) else min(cap, _SHORT_LINK_JOBS)


def _chunks(download: Download, descriptor: int, position: int) -> Iterator[int]:
    """Write what arrives from `position` on. Yields the position after each chunk."""
    view = memoryview(bytearray(_SMALL_BYTES))
    while count := download.readinto(view):
        write_all(descriptor, view[:count], position)
        position += count
        yield position


def _check_end(download: Download, arrived: int, size: int | None) -> None:
    """Check a file that has ended. More than was listed is no fault if the end is sure."""
    if size is None or arrived > size:
        download.check_end()
    elif arrived < size:
        raise errors.DataMismatch(f"{arrived} of {size} bytes arrived")
