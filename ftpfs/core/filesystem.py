"""The POSIX face of a mount: paths, handles and flags. FUSE and the daemon call it.

Owns: handles and open flags. Decides little else; each of these rooms does (`core.rooms`):

    looks       what a path shows                       (`files.looks`)
    renames     renames and deletions                   (`names.renames`)
    doubts      those whose reply was lost              (`names.doubts`)
    attributes  modes and times                         (`writing.attributes`)
    demands     what close, fsync and sync wait for     (`writing.demands`)
    delivery    a closed file on its way to the server  (`writing.delivery`)
    lent        files that the kernel reads and writes      (`lent`)
    ahead       fetching before a program asks          (`reading.ahead`)

Does not own errnos and the kernel's types (`fuse.operations`), nor bytes on the wire (`ftp`).

Each change goes to the server first. The caches follow only after the server agreed. If it did not
agree, or its reply was lost, the listings concerned are dropped.

A file whose content is not on the server yet stays in the tables after its last handle is closed:
it *lingers*. All questions about it are answered from there until it is uploaded or deleted.

Threading: any number of threads; no lock of its own. The order of the locks below: table of open
files < queue < open file < tree < blocks < pool. Changes of one open file's name, attributes and
content on the server are made one at a time (`OpenFile.exclusive`). The kernel orders changes of
names that are not open: it locks the parent directory.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import posixpath
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ftpfs import errors
from ftpfs.core import fetching, processes
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.server_file import version_of
from ftpfs.core.names.behind import Changes
from ftpfs.core.offline.waiting import Waiting
from ftpfs.core.reading.ahead import FEW_SESSIONS
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.core.reading.generated import GeneratedFiles
from ftpfs.core.rooms import build
from ftpfs.core.store.store import Holding, Store
from ftpfs.core.writing import recovery
from ftpfs.core.writing.spool import Spool
from ftpfs.model import link
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import check_name, folder_of, is_within, name_of
from ftpfs.model.remote import Remote, Space
from ftpfs.model.status import CacheStatus, StoreStatus, UploadStatus
from ftpfs.settings.config import Cache, Write

log = logging.getLogger(__name__)

# Modes that a new folder may have before its mode is set, with the usual umasks.
ORDINARY_FOLDER_MODES = {0o755, 0o775, 0o777}

# An open reads a file again if others changed it meanwhile; so often at most.
MOST_CHANGES = 4

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


class _Outdated(Exception):
    """The file has changed since it was looked at: look again."""


class Filesystem:
    """One mount's files and folders. Paths are absolute inside the mount.

    One idea: it has a short method for each call of FUSE and the daemon.
    """

    # Changes of names that wait for a server that is away; set before the first call.
    waiting: Waiting | None = None

    def __init__(
        self,
        remote: Remote,
        spool: Spool,
        cache: Cache,
        *,
        write: Write | None = None,
        read_only: bool = False,
        prefetchers: int = 0,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prefetchers`: limit of connections that fetch ahead of the programs.

        They fetch small files, or a part of a long file further on. `store`: closed at the end.
        Nothing that earlier mounts left in the spool is sent before `recover` is called.
        """
        write = write or Write()
        rooms = build(
            remote,
            spool,
            cache,
            write,
            prefetchers=prefetchers,
            store=store,
            read_only=read_only,
            report=self._report_changes,
            release=self.release,
            clock=clock,
        )
        # Called with the paths of entries that others changed, in a thread of its own, with no lock
        # and no lease held.
        self.tell_changed: Callable[[list[str]], None] = lambda _paths: None
        self.lent = rooms.lent
        # Dependencies and constants:
        self._remote = remote
        self._spool = spool
        self._store = store
        self._read_only = read_only
        self._most_uploads = write.uploads
        self._generated = GeneratedFiles(spool.folder, spool.limit, rooms.known.tree.requests)
        self._files = rooms.files
        self._known = rooms.known
        self._blocks = rooms.blocks
        self._folders = rooms.folders
        self._looks = rooms.looks
        self._ahead = rooms.ahead
        self._behind = rooms.behind
        self._intents = rooms.intents
        self._hiding = rooms.hiding
        # This thread begins a request of the kernel that is no rename (see `hiding`).
        self.begin_request: Callable[[], None] = rooms.hiding.begin_request
        self._endings = rooms.endings
        self._doubts = rooms.doubts
        self._renames = rooms.renames
        self._attributes = rooms.attributes
        self._demands = rooms.demands
        self._queue = rooms.queue
        self._new_file = rooms.new_file
        self.keeper = rooms.keeper  # of files and folders on this machine; None: no store

    def know_callers(self, caller: Callable[[], int]) -> None:
        """Let killed programs end: see `killable.Requests`."""
        self._known.tree.requests.caller = caller

    # Looking.

    def attributes(self, path: str) -> Entry:
        """The entry at `path`: of an open file as it is here, else as the server told it last.

        After a rename whose reply was lost, the server is asked before either name shows anything.
        Raises NetworkError while that is impossible.
        """
        while True:
            here = self._doubts.located(path)
            try:
                entry = self._looks.attributes(here)
            except errors.NotFound:
                if self._means(path, here):
                    raise
            else:
                if self._means(path, here):
                    return entry

    def _means(self, path: str, here: str) -> bool:
        """Whether libfuse's `path` still means `here`; not so if that was replaced meanwhile."""
        return path == here or self._files.known_as(path) == here

    def handle_attributes(self, handle: int) -> Entry:
        file = self._file(handle)
        self._looks.follow(file)
        return file.attributes()

    def path_of(self, handle: int) -> str:
        return self._file(handle).path

    def followed(self, handle: int) -> Entry | None:
        """The server's entry of an open file that was not changed here; None for any other."""
        file = self._file(handle)
        return file.attributes() if file.follows_server else None

    def writes(self, handle: int) -> bool:
        """Whether a handle was opened to change its file."""
        return self._files.handle(handle).writes

    def children(self, path: str) -> list[Entry]:
        """The entries of a folder, with the files that exist only here so far."""
        self._doubts.resolve_listed(path)
        self._ahead.visited(path, read=True)
        entries = self._looks.children(path)
        self._ahead.listed()
        return entries

    def knows_children(self, path: str) -> bool:
        """Whether `children` most likely waits for no server."""
        return self._known.tree.shows(path)

    def glance(self, path: str) -> Callable[[Entry], tuple[Entry | None, bool]]:
        """Like `Looks.glance`: tells how the entries of a folder that was listed before are now."""
        return self._looks.glance(path, in_doubt=self._doubts.are_listed(path))

    def read_link(self, path: str) -> str:
        """A link's target, as a relative path that stays inside the mount."""
        self._doubts.resolve_about(path)
        entry = self._known.tree.lookup(path)
        if entry.kind is not Kind.LINK:
            raise errors.InvalidArgument(f"{path}: not a link")
        return self._remote.read_link(path, entry.target)

    def space(self) -> Space | None:
        """Free space on the server; None if the server does not tell."""
        return self._remote.space()

    # Opening and closing.

    def open(self, path: str, flags: int, caller: int = 0) -> int:
        """A handle on an existing file, for the process `caller` (0: unknown).

        O_TRUNC and O_APPEND are handled here.
        """
        if flags & _WRITING:
            self.check_writable()
            self._remote.check_name(path)
        else:
            self._ahead.opened(path)
        handle = None
        while handle is None:
            here = self._doubts.located(path)
            generation = self._known.generations.of(here)
            file = self._files.at(here)
            # If the file was not changed here, ask the server about it at each open.
            entry = None if file and not file.follows_server else self._looks.entry_to_open(here)
            with contextlib.suppress(_Outdated):
                handle = self._attach(here, entry, generation, flags, caller)
        try:
            if flags & _WRITING:
                self._file(handle).tell_failure()
            if flags & os.O_TRUNC:
                self._file(handle).truncate(0, writer=handle)
            elif not flags & os.O_WRONLY:
                self._check_content(handle)
        except errors.FtpfsError:
            self.release(handle)
            raise
        return handle

    def create(self, path: str, mode: int, flags: int, caller: int = 0) -> int:
        """A handle on a new, empty file, for the process `caller`.

        The server gets the file some time after it is closed.
        """
        self.check_writable()
        check_name(path)
        # check now: when the upload fails, no program listens any more
        self._remote.check_name(path)
        self._doubts.resolve_about(path)
        if self._looks.existing(path) is not None:  # the file appeared after the kernel had looked
            if flags & os.O_EXCL:
                raise errors.Exists(f"{path}: exists")
            return self.open(path, flags, caller)
        # These sessions are ready when the first upload has lingered.
        self._ahead.warm_up(min(self._most_uploads, FEW_SESSIONS + self._queue.count))
        generation = self._known.generations.of(path)

        def choose(file: OpenFile | None) -> OpenFile:
            new = functools.partial(self._new_file, path, None, mode=mode & 0o7777)
            return file or new(generation=generation)

        handle = self._add_handle(path, flags, choose, caller)
        self._known.tree.names_changed(folder_of(path))
        self._file(handle).begin_writing(handle)
        return handle

    def make(self, path: str, mode: int) -> None:
        """Make a new, empty file, as another program would: create and close it."""
        handle = self.create(path, mode, os.O_WRONLY)
        try:
            self._demands.close_changed(self._file(handle))
        finally:
            self.release(handle)

    def release(self, handle: int) -> None:
        """Close a handle for good.

        If this was the last writer's handle, the file is sent. With the last handle the open file
        leaves the tables, unless it has to linger.
        """
        if not self.lent.end(handle):
            return
        known, last = self._files.detach(handle)
        self._generated.close(handle)
        if last and self._endings.drop_refused(known.file):
            return
        self._demands.end_writing(handle, known.file)
        if last:
            self._endings.retire(known.file)

    # Content.

    def read(self, handle: int, offset: int, size: int) -> bytes:
        known = self._files.handle(handle)
        # A handle that also writes is not bound to one content.
        data = known.file.read(offset, size, None if known.writes else known.view)
        if data or known.writes or not self._looks.is_called_empty(known.file):
            return data
        path = known.file.path
        return self._generated.read(handle, offset, size, lambda: self._remote.open_read(path))

    def is_unsized(self, handle: int) -> bool:
        """Whether programs must read a file without believing its size.

        Either its size had to be counted, or the server calls it empty.
        """
        known = self._files.handle(handle)
        if self._looks.is_unsized(known.file.path):
            return True
        return not known.writes and self._looks.is_called_empty(known.file)

    def write(self, handle: int, offset: int, data: bytes | memoryview) -> int:
        """Write `data`. Returns the count of bytes: fewer if the spool's disk became full."""
        known = self._files.handle(handle)
        # The kernel's size of the file may be a second old, and others may append, too.
        count, stream = known.file.write(None if known.appends else offset, data, writer=handle)
        known.changed = True
        if stream:
            self._queue.stream(known.file)
        return count

    def flush(self, handle: int, caller: int = 0) -> None:
        """A close() of one copy of the descriptor, by the process `caller`.

        When this returns, what was written survives the end of this process. A shell closes a copy
        before it writes, and so does each child that ends. So nothing is sent before `release`,
        unless every close waits (the option `sync`). The error of an upload is raised only in the
        process that opened the file: no other process looks at the result of its close().

        If it is not known whether the folder takes files, that process waits. What it has written
        is sent, until the server has it or accepts it (`Content.accepted`). A new file that is
        still empty is not made: a test file beside it shows whether the folder takes files.
        """
        known = self._files.handle(handle)
        if not known.writes:
            return
        ours = processes.are_one(known.opener, caller)
        if ours:
            known.file.tell_failure()
        self._demands.close(handle, known, by_opener=ours)

    def fsync(self, handle: int) -> None:
        """Return when the server has what was written.

        Raises the error of an attempt that was made meanwhile, or of an earlier permanent failure.
        The content stays in the spool, and is uploaded again if that may help.
        """
        file = self._file(handle)
        file.lending.settle()
        file.tell_failure(again=True)
        self._demands.save(file)

    def fsync_folder(self, path: str) -> None:
        """Return when the server has the mode and time that were set on the folder.

        If files that were closed in the folder have to be sent before, this does not wait.
        """
        self._folders.send_now(path)

    def truncate_handle(self, handle: int, size: int) -> None:
        """Set the size. The server gets it with the next upload."""
        known = self._files.handle(handle)
        known.file.truncate(size, writer=handle)
        known.changed = True

    def truncate(self, path: str, size: int) -> None:
        """Set the size, as another program would: open, truncate and close the file."""
        handle = self.open(path, os.O_WRONLY)
        try:
            self.truncate_handle(handle, size)
            self.flush(handle)
        finally:
            self.release(handle)

    # Names.

    def mkdir(self, path: str, mode: int) -> None:
        self.check_writable()
        check_name(path)
        self._doubts.resolve_about(path)
        self._ahead.warm_up(min(self._most_uploads, 2 * FEW_SESSIONS))  # files will follow
        above = folder_of(path)
        with self._known.changing(path), self._folders.filling(above) as before:
            self._remote.mkdir(path, before=before)
        if not self._remote.is_offline():
            self._known.note_takes(path)
            self._known.note_takes(above)
        mode &= 0o7777
        wanted = None if mode in ORDINARY_FOLDER_MODES else mode
        entry = Entry(
            name=name_of(path),
            kind=Kind.DIRECTORY,
            size=0,
            mtime=int(time.time()),
            exact=False,
            mode=wanted,
            target=None,
        )
        self._folders.made(path, wanted)
        self._known.tree.made_directory(path, entry)

    def rmdir(self, path: str) -> None:
        self.check_writable()
        self._renames.rmdir(path)

    def unlink(self, path: str) -> None:
        """Delete a name. Handles on the file stay valid, as POSIX demands.

        What was not uploaded yet is never uploaded.
        """
        self.check_writable()
        if self._doubts.located(path) == path:
            self._renames.unlink(path)
        # Otherwise `path` is libfuse's name of a file that has kept its own, or has lost it.

    def hide(self, path: str, hidden: str) -> None:
        """Like `unlink`, but the name `hidden` stands for the file while handles have it open.

        See `Renames.hide`.
        """
        self._hiding.begin_request()
        self.check_writable()
        self._renames.hide(path, hidden)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """renameat2(2), without EXCHANGE."""
        self._hiding.begin_request(new)
        self.check_writable()
        self._renames.rename(old, new, flags)

    def chmod(self, path: str, mode: int) -> None:
        self.check_writable()
        self._attributes.chmod(path, mode)

    def set_mtime(self, path: str, seconds: int) -> None:
        self.check_writable()
        self._attributes.set_mtime(path, seconds)

    def check_writable(self) -> None:
        """Raises ReadOnly on a read-only mount."""
        if self._read_only:
            raise errors.ReadOnly("mounted read-only")

    def _report_changes(self, changes: Changes) -> None:
        """Tell of entries that others changed.

        Not of open files: what a handle shows follows the server by itself (`Looks.follow`), or is
        the content that was written here.
        """
        here = self._files.in_folder(changes.folder)
        names = (name for name in changes.names if name not in here)
        self.tell_changed([posixpath.join(changes.folder, name) for name in names])

    # For the daemon.

    def warm_up(self) -> None:
        """The mount is in use: if logins take long, keep some sessions ready; look at what is
        kept."""
        self._ahead.warm_up()
        if self.keeper is not None:
            self.keeper.start()

    def cache_status(self) -> CacheStatus:
        """What the block cache holds, and how often it was of use."""
        return self._blocks.status()

    def store_status(self) -> StoreStatus | None:
        """What the store on the disk holds; None: there is none, or it was not used so far."""
        return self._store.status() if self._store is not None else None

    def upload_status(self) -> UploadStatus:
        """What is to be uploaded, and deletions that wait for an unreachable server."""
        status = self._queue.status(self._spool.used, self._spool.limit)
        if deletions := self._hiding.failed():
            pending = (*status.pending, *deletions)
            status = replace(status, pending=pending, files=status.files + len(deletions))
        if self.waiting is not None and (steps := self.waiting.status()):
            pending = (*status.pending, *steps)
            files = status.files + len(steps)
            status = replace(status, pending=pending, files=files, changes=len(steps))
        return status

    def forget(self, path: str) -> None:
        """Drop what is cached of `path` and everything below it.

        The next look shows what others have changed. What was written here, and is not on the
        server yet, stays.
        """
        self._known.forget(path)
        if self.waiting is not None:
            self.waiting.forget(path)

    def server_returned(self) -> None:
        """The server is back: ask it before anything is trusted, and send what waits."""
        self._known.tree.forget_below("/")
        if self._store is not None:
            self._store.server_returned()
        self._demands.retry("/")
        if self.keeper is not None:
            self.keeper.wake()

    def state(self, path: str) -> str:
        """ "clean", "dirty", "uploading" or "failed"; for a folder, the worst of all below it."""
        path = self._files.known_as(path)
        if self.waiting is not None and self.waiting.waits(path):
            return "dirty"
        if self._files.at(path) is None and self.attributes(path).kind is Kind.FILE:
            return "clean"
        state = self._demands.state(path)
        if state == "clean" and self._hiding.waits(lambda name: is_within(name, path)):
            return "dirty"  # a deletion is yet to be sent
        return state

    def holding(self, path: str) -> Holding | None:
        """What this machine has of a file's content; None for what is no file.

        What memory has does not count: it ends with the mount. If the listing does not tell the
        exact time of the file, the server is asked for it.
        """
        here, entry = self._exact(path)
        if entry is None:
            return Holding.CACHED
        if entry.kind is not Kind.FILE:
            return None
        if self._store is None:
            return Holding.REMOTE
        if not entry.size and self._store.kept.covers(here):
            return Holding.KEPT
        generation = self._known.generations.of(here)
        return self._store.holding(version_of(here, entry, generation))

    def fetch(self, path: str) -> Iterator[int]:
        """Bring all of a file's content into the store. Yields the bytes that are here so far."""
        if self._store is None:
            raise errors.NotSupported("this mount has no store: mount it with cache_size=on")
        if self._exact(path)[1] is None:
            return
        handle = self.open(path, os.O_RDONLY)
        try:
            file = self._file(handle)
            if (entry := file.followed()) is not None and entry.size:
                version = version_of(file.path, entry, self._known.generations.of(file.path))
                read = functools.partial(self.read, handle)
                yield from fetching.fetch(read, version, self._store)
        finally:
            self.release(handle)

    def _exact(self, path: str) -> tuple[str, Entry | None]:
        """A path as the server knows it, and its entry with the exact time; None: a file that was
        written here."""
        here = self._doubts.located(path)
        entry = self._looks.attributes(here)
        file = self._files.at(here)
        if file is not None and not file.follows_server:
            return here, None
        if entry.kind is Kind.FILE and not entry.exact and self._store is not None:
            look = functools.partial(self._remote.look_again, here, entry)
            entry = self._known.tree.look_again(here, look)
        return here, entry

    def sync(self, path: str = "/", timeout: float | None = None) -> None:
        """Return when the server has everything that was written at and below `path`.

        Raises the first permanent failure, or DeadlineExceeded after `timeout` seconds.
        """
        if self.waiting is not None and not self.waiting.drain(path, timeout):
            raise errors.DeadlineExceeded(f"not everything was renamed within {timeout:g} s")
        self._demands.sync(path, timeout)
        if not self._hiding.drain(lambda name: is_within(name, path), timeout):
            raise errors.DeadlineExceeded(f"not everything was deleted within {timeout:g} s")

    def demand(self, path: str = "/") -> errors.FtpfsError | None:
        """Have everything uploaded that was written so far at and below `path`, also of open files.

        Returns the error if a file could not be journalled.
        """
        return self._demands.demand_all(path)

    def drain(self, path: str = "/", timeout: float | None = None) -> bool:
        """Wait until all uploads at and below `path` are done or have failed.

        Returns False if that takes longer than `timeout` seconds.
        """
        if self.waiting is not None and not self.waiting.drain(path, timeout):
            return False
        if not self._demands.drain(path, timeout):
            return False
        return self._hiding.drain(lambda name: is_within(name, path), timeout)

    def retry(self, path: str = "/") -> None:
        """Retry now what failed at and below `path`, or waits for an unreachable server."""
        if self.waiting is not None:
            self.waiting.hurry()
        self._demands.retry(path)

    def lost_files(self) -> tuple[str, ...]:
        """A line for each file that was closed before a loss of power and cannot be sent."""
        return recovery.lost_files(self._spool)

    def held_files(self) -> tuple[str, ...]:
        """A line for each file that earlier mounts left and only the next one can send."""
        return recovery.held_files(self._spool)

    # The beginning and the end.

    def recover(self) -> int:
        """Take over what earlier mounts left in the spool, and queue it. Returns how many files.

        Call this once, before anything else.
        """
        self._spool.recover()
        doubted = self._intents.recover()
        taken = recovery.take_over(self._spool, self._files, self._new_file)
        for old, new, hidden in doubted:  # these doubts have to exist before anything is sent
            self._intents.doubt(old, new, self._files.at(new), hidden)
        self._folders.restore(self._spool.journal.folders(), [file for file, _ in taken])
        for file, since in taken:
            self._queue.add(file, since)
        if taken:
            log.warning("%d files of an earlier mount are uploaded now", len(taken))
        return len(taken)

    def close(self, grace: float | None = None) -> int:
        """Upload what is left, and end all streams. Returns how many files the next mount gets.

        `grace`: seconds for the uploads (None: as long as they take, or until `stop_waiting`). The
        file system must not be used afterwards.
        """
        self._ahead.close()
        self._behind.close()
        self.lent.close()
        if self.keeper is not None:
            self.keeper.close()
        # first, because a deletion may wait for a server until this process is killed
        self._demands.commit_all()
        self._hiding.close()
        begun = time.monotonic()
        left = self._finish_waiting(grace)
        if grace is not None:
            grace = max(0.0, grace - (time.monotonic() - begun))
        stuck = self._demands.finish(grace)
        files = self._files.clear()
        # If the upload of a file is stuck in the network, the file ends with the process, as after
        # a kill. Its spool file must not be closed under the thread that sends it.
        left += sum(self._endings.discard(file) for file in files if file not in stuck)
        left += sum(isinstance(job, OpenFile) for job in stuck) + self._folders.count()
        if left:
            log.error("%d files are not on the server; the next mount goes on with them", left)
        if self._store is not None:
            self._store.close()  # it may take files from the spool until now
        self._spool.remove()
        return left

    def _finish_waiting(self, grace: float | None) -> int:
        """Wait for changes of names that wait for the server. Returns how many are left."""
        if self.waiting is None:
            return 0
        self.waiting.hurry()
        self.waiting.drain("/", grace)
        return self.waiting.count

    def stop_waiting(self) -> None:
        """Make a `close` or `sync` that waits for uploads return soon. No upload begins then."""
        if self.waiting is not None:
            self.waiting.give_up_waiting()
        self._queue.give_up_waiting()

    # Inside: handles.

    def _file(self, handle: int) -> OpenFile:
        return self._files.handle(handle).file

    def _attach(
        self, path: str, entry: Entry | None, generation: int, flags: int, caller: int
    ) -> int:
        """A new handle on the file at `path`.

        `entry`: what the server had there at that generation; None: an open file was there. Raises
        _Outdated if that has changed.
        """

        def choose(file: OpenFile | None) -> OpenFile:
            if entry is not None and self._known.generations.of(path) == generation:
                return file or self._new_file(path, entry, generation=generation)
            if entry is not None or file is None:
                raise _Outdated
            return file

        number = self._add_handle(path, flags, choose, caller)
        handle = self._files.handle(number)
        if entry is not None:
            self._looks.opened(handle.file, path, entry, generation)
        handle.file.begin(handle.view)
        return number

    def _check_content(self, number: int) -> None:
        """Make sure that a file that is opened for reading has the size that its entry says.

        The entry may be `open_ttl` old, and the kernel reads no further than the size that the open
        has shown. A small file is read before the open returns: if the server sends another length,
        the file is looked at and read again. This costs no round trip, as the first read finds the
        content here. A large file is looked at, unless that takes long: then a read of a file that
        was changed fails.
        """
        handle = self._files.handle(number)
        file = handle.file
        for left in reversed(range(MOST_CHANGES)):
            entry = file.followed()
            if entry is None or not entry.size:
                return
            try:
                if entry.size <= BLOCK_SIZE:
                    file.read(0, BLOCK_SIZE)
                elif not self._looks.is_fresh(file.path) and not self._is_far():
                    self._looks.look_again_at(file)
                    file.begin(handle.view)
            except errors.DataMismatch:
                if not left:
                    raise
                self._looks.look_again_at(file)
                file.begin(handle.view)
            else:
                return

    def _is_far(self) -> bool:
        return link.is_long(self._remote.round_trip())

    def _add_handle(
        self,
        path: str,
        flags: int,
        choose: Callable[[OpenFile | None], OpenFile],
        caller: int,
    ) -> int:
        appends, writes = bool(flags & os.O_APPEND), bool(flags & _WRITING)
        return self._files.attach(path, choose, appends=appends, writes=writes, opener=caller)
