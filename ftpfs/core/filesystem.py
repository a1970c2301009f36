"""The file system's meaning: names, handles, open flags, rename; open files laid over the tree.

Owns: which files are open and under which name, and what each operation does to server, tree and
open files, in that order: the server first, and what is cached only after it agreed. Where it did
not, or its word was lost, the listings concerned are given up: nobody knows what they would show.
Owns neither errnos nor the kernel's types (`fuse.operations`), nor bytes on the wire (`ftp`).

A file whose content is not on the server yet stays in the tables after its last handle is closed:
it *lingers*, and everything is answered from it, until it was uploaded or deleted.

Threading: any number of threads. `_lock` guards two small sets, and is a leaf. The tables of
open files (`opened`) have the first lock in the order: opened < uploads < file < tree < blocks <
pool; it is never held while the queue of uploads is called.
Changes of one open file's name, attributes and content on the server take turns
(`OpenFile.exclusive`). Namespace changes of paths that are not open are ordered by the kernel,
which locks the parent directory.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from ftpfs import errors
from ftpfs.config import Cache, Write
from ftpfs.core.base import version_of
from ftpfs.core.blocks import BLOCK_SIZE, BlockCache, Generations
from ftpfs.core.disktier import DiskTier
from ftpfs.core.folders import Folder, Folders
from ftpfs.core.intents import Doubt, Intents
from ftpfs.core.journal import Record
from ftpfs.core.opened import OpenFiles
from ftpfs.core.openfile import OVERTAKEN, OpenFile
from ftpfs.core.prefetch import Prefetcher
from ftpfs.core.reader import Reader, StreamBudget
from ftpfs.core.remote import Download, Remote, Space
from ftpfs.core.status import CacheStatus, UploadStatus
from ftpfs.core.tree import Tree
from ftpfs.core.uploads import NO_ROOM, Uploads
from ftpfs.core.walks import Walks
from ftpfs.core.writer import Spool
from ftpfs.ftp.lister import HIDDEN_PREFIX
from ftpfs.ftp.listing import Entry, Kind

log = logging.getLogger(__name__)

NAME_MAX = 255  # bytes; what all four servers' disks allow

# Modes that servers give to a new folder by themselves, give or take a umask.
ORDINARY_FOLDER_MODES = {0o755, 0o775, 0o777}

# Where a round trip takes less (seconds), fetching small files ahead costs more than it saves: on
# loopback `cp -r` brought 950 files a second without it and 700 with, its threads being in the way.
LONG_LINK = 0.002

# Sessions at hand while a mount is in use over a long link, before anything shows what it is used
# for: a login takes four round trips, and what is read first waited for it. Twice as many from this
# round trip (s) on.
FEW, FAR_LINK = 4, 0.05

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # renameat2(2)

_UNSENDABLE = frozenset("\r\n\0")

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC

# Uploads at a time over a short link, where the interpreter is the limit and not the link: with 8
# instead of 4, `cp -r` of small files onto the mount returned at half the pace, 800 files a second,
# because the threads took the interpreter from the one that answered it.
NEAR_UPLOADS = 4
# How long uploads that were told to end may take for it (seconds). One that waits for the network
# notices nothing before a megabyte has gone, or a deadline is over.
PARTING = 3.0

# How often an upload may find something else on the server than it knew before it fails.
SETTLEMENTS = 3


_Job: TypeAlias = OpenFile | Folder  # what the queue sends


class _Outdated(Exception):
    """What was seen of a file is not so any more: look again."""


class Filesystem:
    """One mount's files and directories. Paths are absolute inside the mount."""

    def __init__(
        self,
        remote: Remote,
        spool: Spool,
        cache: Cache,
        *,
        write: Write | None = None,
        read_only: bool = False,
        prefetchers: int = 0,
        tier: DiskTier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prefetchers`: how many connections may fetch what was not asked for yet: small files, or
        a long one further on. `tier`: contents on disk, closed with the file system.

        Nothing is sent of what earlier mounts left in the spool before `recover` is called.
        """
        write = write or Write()
        self._remote = remote
        self._spool = spool
        self._intents = Intents(remote, spool)
        self._read_only = read_only
        self._open_ttl = cache.open_ttl
        self._tree = Tree(
            remote.list,
            remote.stat,
            ttl=cache.list_ttl,
            ahead=remote.ahead,
            peek=self._peek,
            visited=self._looked_into,
            clock=clock,
        )
        self._walks = Walks(
            self._tree.subdirectories, self._tree.list_ahead, workers=prefetchers, clock=clock
        )
        self._tier = tier
        self._blocks = BlockCache(cache.block_cache, tier)
        self._generations = Generations()
        if tier is not None:
            tier.follow(self._generations)
        self._budget = StreamBudget(
            cache.block_cache,
            cache.read_ahead,
            helped=prefetchers,
            round_trip=remote.round_trip,
        )
        self._prefetcher = Prefetcher(
            self._tree.known,
            self._prefetch,
            workers=prefetchers,
            budget=cache.block_cache // 4,
            expect=lambda: self.warm_up(2 * FEW),
        )
        self._waits_for_uploads = write.sync
        self._most_uploads = write.uploads
        near = not remote.round_trip() > LONG_LINK
        self._uploads: Uploads[_Job] = Uploads(
            self._upload,
            workers=min(write.uploads, NEAR_UPLOADS) if near else write.uploads,
            holds_bursts=lambda: remote.round_trip() <= LONG_LINK,
        )
        self._folders = Folders(
            remote,
            spool.journal,
            add=self._uploads.add,
            told=lambda now: self._tree.update(now.path, mode=now.mode, mtime=now.mtime),
            refused=lambda path: self._tree.forget(posixpath.dirname(path)),
        )
        self._opened = OpenFiles()
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._taking: set[str] = set()  # directories known to take files
        self._unsized: set[str] = set()  # files whose size the server does not tell
        self._closed = False

    # Looking.

    def attributes(self, path: str) -> Entry:
        """What is at `path`: an open file as it is here, else what the server said last.

        After a rename whose answer was lost, neither name shows anything before the server was
        asked: NetworkError while that cannot be done."""
        self._settle_doubts_about(path)
        return self._attributes(path)

    def _attributes(self, path: str) -> Entry:
        file = self._opened.at(path)
        if file is not None:
            self._follow(file)
            return file.attributes()
        entry = self._tree.lookup(path)
        if entry.kind is Kind.FILE and entry.size is None:
            # A listing without sizes, but programs read no further than the size they see.
            return self._tree.look_again(path, lambda: self._remote.look_again(path, entry))
        return self._folders.shown(path, entry) if entry.kind is Kind.DIRECTORY else entry

    def handle_attributes(self, handle: int) -> Entry:
        file = self._file(handle)
        self._follow(file)
        return file.attributes()

    def path_of(self, handle: int) -> str:
        return self._file(handle).path

    def children(self, path: str) -> list[Entry]:
        """The entries of a directory, files that exist only here so far among them."""
        self._settle_doubts(lambda doubt: doubt.covers(path) or doubt.is_listed_in(path))
        self._note_visit(path, read=True)
        listed = {entry.name: entry for entry in self._tree.children(path)}
        self._walks.listed()
        for name in self._folders.names_in(path):
            if name in listed:
                listed[name] = self._folders.shown(posixpath.join(path, name), listed[name])
        for file in self._opened.in_folder(path).values():
            # What is open but not changed here is there if the server says so.
            if not file.is_deleted and not file.follows_server:
                shown = file.attributes()
                listed[shown.name] = shown
        return list(listed.values())

    def glance(self, path: str) -> Callable[[Entry], tuple[Entry | None, bool]]:
        """How entries that `children` told of `path` are now, without asking anybody.

        The function returns the entry (None: it is gone), and whether this is all that
        `attributes` would say: it is not for a file that is open, nor once the listing is old.
        """
        doubts = self._intents.doubts(lambda doubt: doubt.covers(path) or doubt.is_listed_in(path))
        listed = None if doubts else self._tree.fresh(path)
        here = {*self._opened.in_folder(path), *self._folders.names_in(path)}

        def look(entry: Entry) -> tuple[Entry | None, bool]:
            if listed is None or entry.name in here:
                return entry, False
            now = listed.get(entry.name)
            return now, now is not None and (now.size is not None or now.kind is not Kind.FILE)

        return look

    def read_link(self, path: str) -> str:
        """A link's target, as a relative path that stays inside the mount."""
        self._settle_doubts_about(path)
        entry = self._tree.lookup(path)
        if entry.kind is not Kind.LINK:
            raise errors.InvalidArgument(f"{path}: not a link")
        return self._remote.read_link(path, entry.target)

    def space(self) -> Space | None:
        """What is free on the server; None where it does not tell."""
        return self._remote.space()

    # Opening and closing.

    def open(self, path: str, flags: int) -> int:
        """A handle on an existing file. O_TRUNC and O_APPEND are honoured here."""
        if flags & _WRITING:
            self.check_writable()
        elif self._remote.round_trip() > LONG_LINK:
            self._prefetcher.opened(path)
        self._settle_doubts_about(path)
        handle = None
        while handle is None:
            generation = self._generations.of(path)
            file = self._opened.at(path)
            # What only the server has is looked at, again if need be, at each open.
            entry = None if file and not file.follows_server else self._entry_to_open(path)
            with contextlib.suppress(_Outdated):
                handle = self._attach(path, entry, generation, flags)
        try:
            if flags & _WRITING:
                self._file(handle).tell_failure()
            if flags & os.O_TRUNC:
                self._file(handle).truncate(0)
        except errors.FtpfsError:
            self.release(handle)
            raise
        return handle

    def create(self, path: str, mode: int, flags: int) -> int:
        """A handle on a new, empty file. It reaches the server some time after it is closed."""
        self.check_writable()
        _check_name(path)
        self._remote.check_name(path)  # now: its upload would fail when nobody listens any more
        self._settle_doubts_about(path)
        if self._existing(path) is not None:  # it appeared after the kernel had looked
            if flags & os.O_EXCL:
                raise errors.Exists(f"{path}: exists")
            return self.open(path, flags)
        # They are there by the time that the first upload has lingered.
        self.warm_up(min(self._most_uploads, FEW + self._uploads.count))
        generation = self._generations.of(path)

        return self._add_handle(
            path,
            flags,
            lambda file: file or self._new_file(path, None, generation, mode & 0o7777),
        )

    def release(self, handle: int) -> None:
        """Close a handle. With the last one the open file goes, too, unless it has to linger."""
        file, last = self._opened.detach(handle)
        if last:
            # What was written through a memory map after the last close was told to nobody yet.
            with _logged(file):
                if file.commit():
                    self._uploads.add(file)
            self._retire(file)

    # Content.

    def read(self, handle: int, offset: int, size: int) -> bytes:
        known = self._opened.handle(handle)
        # Who writes, too, is not bound to one content.
        return known.file.read(offset, size, None if known.writes else known.view)

    def write(self, handle: int, offset: int, data: bytes | memoryview) -> int:
        """The count: less than all of `data` when the spool's disk became full on the way."""
        known = self._opened.handle(handle)
        # The kernel's idea of where a file ends may be a second old, and others append to it, too.
        count, stream = known.file.write(None if known.appends else offset, data)
        if stream:
            self._uploads.stream(known.file)
        return count

    def flush(self, handle: int) -> None:
        """Called at each close(): what was written survives this process when it returns.

        It is on the server, too, when the mount is a synchronous one. Where nothing is known yet of
        whether its directory takes files, the server has it, or at least takes it (see
        `Content.accepted`). Raises what made an earlier upload fail for good, once.
        """
        known = self._opened.handle(handle)
        if not known.writes:
            return
        file = known.file
        file.tell_failure()
        with self._lock:
            takes = posixpath.dirname(file.path) in self._taking
        wait = self._waits_for_uploads or not takes
        try:
            self._save(file, wait=wait, or_accepted=not self._waits_for_uploads)
        except errors.FtpfsError as error:
            if not isinstance(error, (errors.NetworkError, *NO_ROOM)):
                self._drop_if_empty(file)
            raise

    def fsync(self, handle: int) -> None:
        """What was written is on the server when this returns.

        Raises what an attempt made meanwhile raises, or the one that failed for good; the content
        stays where it is, and its upload is tried again where that makes sense.
        """
        file = self._file(handle)
        file.tell_failure(again=True)
        self._save(file, wait=True)

    def fsync_folder(self, path: str) -> None:
        """Mode and time that were set on it are on the server when this returns; unless files that
        were closed in it have to be sent before."""
        self._folders.send_now(path)

    def _save(self, file: OpenFile, *, wait: bool, or_accepted: bool = False) -> None:
        """Journal what was written, and have it uploaded; perhaps wait until it is, or until the
        server takes it."""
        try:
            new = file.commit()
        except errors.FtpfsError:
            self._uploads.add(file)
            raise
        if new:
            self._uploads.add(file)
        if wait and file.waits:
            self._uploads.hurry(file)
            file.wait_until_sent(or_accepted=or_accepted)

    def _drop_if_empty(self, file: OpenFile) -> None:
        """A new and empty file that the server refused, to the face of who made it: with it goes
        nothing, and left in the tables it would show what is not there."""
        if file.on_server or file.attributes().size:
            return
        self._uploads.forget(file)
        self._folders.file_ended(file)
        file.deleted(None)
        self._opened.unname(file.path, file)

    def truncate_handle(self, handle: int, size: int) -> None:
        """The new size is for the next flush."""
        self._file(handle).truncate(size)

    def truncate(self, path: str, size: int) -> None:
        """As if by a program of its own: opened, truncated, closed."""
        handle = self.open(path, os.O_WRONLY)
        try:
            self.truncate_handle(handle, size)
            self.flush(handle)
        finally:
            self.release(handle)

    # Names.

    def mkdir(self, path: str, mode: int) -> None:
        self.check_writable()
        _check_name(path)
        self._settle_doubts_about(path)
        self.warm_up(min(self._most_uploads, 2 * FEW))  # something will be put there
        with (
            self._changing(path),
            self._folders.filling(posixpath.dirname(path)) as before,
        ):
            self._remote.mkdir(path, before=before)
        self._takes_files(path)
        self._takes_files(posixpath.dirname(path))
        mode &= 0o7777
        wanted = None if mode in ORDINARY_FOLDER_MODES else mode
        entry = Entry(
            name=posixpath.basename(path),
            kind=Kind.DIRECTORY,
            size=0,
            mtime=int(time.time()),
            exact=False,
            mode=wanted,
            target=None,
        )
        self._folders.made(path, wanted)
        self._tree.made_directory(path, entry)

    def rmdir(self, path: str) -> None:
        self.check_writable()
        if self.attributes(path).kind is not Kind.DIRECTORY:
            raise errors.NotADirectory(f"{path}: not a directory")
        if self._holds_open_files(path):
            raise errors.NotEmpty(f"{path}: has files that are open here")
        with self._folders.still(path), self._changing(path):
            self._remote.rmdir(path)
        self._removed(path)

    def unlink(self, path: str) -> None:
        """Delete a name. Handles on the file go on, as POSIX has it. What was not uploaded yet
        never is."""
        try:
            self._unlink(path)
        except errors.NetworkError as error:
            if not self._turns_out_done(error, path, ""):
                raise

    def _unlink(self, path: str) -> None:
        self.check_writable()
        self._settle_doubts_about(path)
        if (waiting := self._opened.at(path)) is not None:
            waiting.cancel()
        with self._opened.turns(path) as (file,):
            if file is not None and file.is_deleted:
                self._opened.unname(path, file)  # the end of a hidden name
                return
            if file is None:
                if self._tree.lookup(path).kind is Kind.DIRECTORY:
                    raise errors.IsADirectory(f"{path}: is a directory")
                with self._changing(path):
                    self._remote.remove(path)
                self._removed(path)
                return
            hidden = self._hide_base(file, path)
            if hidden is None and file.may_be_on_server:
                self._remove_open(file, path)
            self._unlinked(file, path, hidden)

    def _unlinked(self, file: OpenFile, path: str, hidden: str | None = None) -> None:
        self._opened.unname(path, file)
        self._removed(path)
        self._lost_its_name(file, hidden, settled=path)

    def _lost_its_name(
        self, file: OpenFile, hidden: str | None, *, settled: str | None = None
    ) -> None:
        """A file was deleted or replaced: it lives on in its handles, if there are any."""
        file.deleted(hidden, settled=settled)
        self._uploads.forget(file)
        self._folders.file_ended(file)
        self._retire(file)

    def hide(self, path: str, hidden: str) -> None:
        """Delete a name, but let `hidden` stand for the file while handles have it open.

        What libfuse asks for when it believes that a file being deleted or replaced is open. The
        name `hidden` exists only here. When the last handle went at the same moment, the file is
        just deleted: libfuse would not come back for the hidden name then.
        """
        file = self._opened.at(path)
        self.unlink(path)
        if file is not None:
            self._opened.show(hidden, file)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """renameat2(2). EXCHANGE cannot be had over FTP; NOREPLACE is checked here.

        Where the answer is lost, and all tries to have it, a look shows whether it was done."""
        try:
            self._rename(old, new, flags)
        except errors.NetworkError as error:
            if not self._turns_out_done(error, old, new):
                raise

    def _turns_out_done(self, error: errors.NetworkError, old: str, new: str) -> bool:
        """Whether what failed was done nevertheless, as far as a look shows that now."""
        if isinstance(error, errors.DeadlineExceeded):
            return False  # who waited for one shall not wait for another
        for doubt in self._intents.doubts(lambda doubt: (doubt.old, doubt.new) == (old, new)):
            with contextlib.suppress(errors.FtpfsError):
                return self._settle(doubt)
        return False

    def _rename(self, old: str, new: str, flags: int) -> None:
        self.check_writable()
        _check_name(new)
        self._remote.check_name(new)
        if flags & ~RENAME_NOREPLACE:
            raise errors.InvalidArgument("FTP cannot exchange two names")
        if old != new and _is_within(new, old):
            raise errors.InvalidArgument(f"{new}: is below what is to be moved there")
        self._settle_doubts(lambda doubt: doubt.concerns(old) or doubt.concerns(new))
        for path in (old, new):
            if (waiting := self._opened.at(path)) is not None:
                # One that waits for its writer would make us wait as well.
                waiting.cancel(only_streams=path == old)
        with (
            self._opened.turns(old, new, below=True) as (moving, victim),
            self._folders.still(old, new),
        ):
            source = self._attributes(old)
            target = self._existing(new)
            if target is not None:
                if flags & RENAME_NOREPLACE:
                    raise errors.Exists(f"{new}: exists")
                _check_replaceable(source, target, new)
                if target.kind is Kind.DIRECTORY and self._holds_open_files(new):
                    raise errors.NotEmpty(f"{new}: has files that are open here")
            if old == new:
                return
            if moving is not None and not moving.on_server:
                if self._moves_here(moving, new, victim, target):
                    self._rename_unsent(moving, old, new, victim, target)
                    return
                self._upload_now(moving)
            self._set_before(new)
            hidden = self._hide_base(victim, new) if victim else None
            # Killed between the two, the next mount looks whether the server did it.
            self._announce(old, new)
            try:
                replaced = target is not None and target.kind is not Kind.DIRECTORY
                if hidden or (victim and not victim.may_be_on_server):
                    replaced = False
                with self._changing(old, new):
                    self._remote.rename(old, new, replace=replaced)
            except errors.FtpfsError as error:
                away = isinstance(error, errors.NetworkError)
                if _may_be_done(error) or (hidden and away):
                    self._intents.doubt(old, new, victim, hidden)
                else:
                    self._intents.withdraw(old)
                    if hidden:
                        self._unhide(hidden, new)
                raise
            self._renamed(old, new)
            self._rename_here(old, new)
            if victim:
                self._lost_its_name(victim, hidden)

    def _moves_here(
        self, moving: OpenFile, new: str, victim: OpenFile | None, target: Entry | None
    ) -> bool:
        """Whether a file that only exists here can be renamed here, and be uploaded under its new
        name. Not into a directory that may refuse it: then the server is asked now."""
        with self._lock:
            takes = posixpath.dirname(new) in self._taking
        plain = target is None or target.kind is Kind.FILE
        unknown = victim is not None and victim.may_be_on_server and not victim.on_server
        return takes and plain and not moving.may_be_on_server and not unknown

    def _rename_unsent(
        self,
        moving: OpenFile,
        old: str,
        new: str,
        victim: OpenFile | None,
        target: Entry | None,
    ) -> None:
        """Written, closed, renamed: the old name is never uploaded, and what the server has under
        the new one is replaced by the upload."""
        hidden = self._hide_base(victim, new) if victim else None
        if victim is not None:
            target = None if hidden else victim.entry
        moving.replace_target(target, victim)
        self._rename_here(old, new)
        if victim:
            self._lost_its_name(victim, hidden)

    # Attributes.

    def chmod(self, path: str, mode: int) -> None:
        """SITE CHMOD, or with the upload that is due, or noted for a folder that was made here.
        NotSupported where the server has none."""
        self.check_writable()
        mode &= 0o7777
        if self._set_for_upload(path, mode=mode) or self._set_later(path, mode=mode):
            return
        with self._opened.turns(path) as (file,):
            if file and file.set_for_upload(mode=mode):
                return
            # Files that were closed in it have to come in before.
            now = mode | 0o300 if self._to_be_sent_into(path) else mode
            with self._folders.setting(path, mode=now):
                self._remote.chmod(path, now)
            if now == mode or not self._set_later(path, mode=mode):
                self._tree.update(path, mode=now)
            if file:
                file.has_on_server(mode=mode)

    def set_mtime(self, path: str, seconds: int) -> None:
        """Set the modification time, or have the upload that is due set it."""
        self.check_writable()
        if self._set_for_upload(path, mtime=seconds) or self._set_later(path, mtime=seconds):
            return
        with self._opened.turns(path) as (file,):
            if file and file.set_for_upload(mtime=seconds):
                return
            directory = not file and self._tree.lookup(path).kind is Kind.DIRECTORY
            with self._folders.setting(path, mtime=seconds):
                self._remote.set_mtime(path, seconds, directory=directory)
            self._tree.update(path, mtime=seconds)
            if self._to_be_sent_into(path):  # which changes it
                self._set_later(path, mtime=seconds)
            if file:
                file.has_on_server(mtime=seconds)

    def _set_for_upload(
        self, path: str, *, mtime: int | None = None, mode: int | None = None
    ) -> bool:
        """Without a turn: an upload under way takes it along, or it is set right after it."""
        file = self._opened.at(path)
        return file is not None and file.set_for_upload(mtime=mtime, mode=mode)

    def _set_later(self, path: str, *, mtime: int | None = None, mode: int | None = None) -> bool:
        """Whether it is noted of a folder, to follow what was closed in it before."""
        waiting = self._to_be_sent_into(path)
        if not self._folders.set(path, waiting, mode=mode, mtime=mtime):
            return False
        for file in waiting:
            if not self._will_be_sent(file):  # it was, meanwhile
                self._folders.file_ended(file)
        self._tree.update(path, mode=mode, mtime=mtime)
        return True

    def _to_be_sent_into(self, folder: str) -> list[OpenFile]:
        """What was closed in a folder that was made here, and is on its way."""
        if not self._folders.is_ours(folder):
            return []
        inside = self._opened.in_folder(folder).values()
        return [file for file in inside if self._will_be_sent(file)]

    def _will_be_sent(self, file: OpenFile) -> bool:
        return file.waits and self._uploads.state_of(file) != "failed"

    def _set_before(self, path: str) -> None:
        """Have the folder above `path` set as it has to be before something comes into it."""
        with self._folders.filling(posixpath.dirname(path)) as before:
            if before:
                self._remote.set_on_folders([before])

    def check_writable(self) -> None:
        """Raises ReadOnly on a mount that is."""
        if self._read_only:
            raise errors.ReadOnly("mounted read-only")

    # Being asked and told.

    def cache_status(self) -> CacheStatus:
        """What the block cache holds, and how much use it is."""
        return self._blocks.status()

    def forget(self, path: str) -> None:
        """Believe nothing any more of what is cached of `path` and below: what others changed
        there shows at the next look. What was written here and is not on the server yet stays."""
        self._generations.bump(path)
        self._tree.forget_below(path)
        self._tree.forget(posixpath.dirname(path))

    # Uploads, seen from outside.

    def state(self, path: str) -> str:
        """How far the file at `path` is on its way: "clean", "dirty", "uploading" or "failed"; of a
        directory, the worst of what is below it."""
        if self._opened.at(path) is None and self.attributes(path).kind is Kind.FILE:
            return "clean"
        concerned = _below(path)
        states = {
            self._uploads.state_of(file) or "dirty"
            for file in self._opened.all()
            if file.dirty and concerned(file)
        }
        if self._folders.waiting(path):
            states.add("dirty")
        return next((s for s in ("failed", "uploading", "dirty") if s in states), "clean")

    def upload_status(self) -> UploadStatus:
        return self._uploads.status(self._spool.used, self._spool.limit)

    def sync(self, path: str = "/", timeout: float | None = None) -> None:
        """Return when nothing at and below `path` is unsent. Raises the first failure that is for
        good, or DeadlineExceeded after `timeout` seconds."""
        inside = _below(path)
        for file in self._opened.all():
            if inside(file) and file.commit():
                self._uploads.add(file)
        done = self._uploads.drain(timeout, inside)
        if done:
            self._folders.release(path)  # what follows files that fail
            done = self._uploads.drain(timeout, inside)
        if not done:
            raise errors.DeadlineExceeded(f"not everything was uploaded within {timeout:g} s")
        for _, error in self._uploads.failures(inside):
            raise errors.again(error) from error

    def retry(self, path: str = "/") -> None:
        """Try again now what failed, or waits because the server is away, at and below `path`."""
        self._uploads.retry(_below(path))

    def recover(self) -> int:
        """Take over what earlier mounts left in the spool, and have it uploaded; how many files.

        To be called once, before anything else is done.
        """
        self._spool.recover()
        doubted = self._intents.recover()
        records = self._spool.journal.records()
        taken = [(file, each.since) for each in records if (file := self._take_over(each))]
        for old, new, hidden in doubted:  # before anything is sent
            self._intents.doubt(old, new, self._opened.at(new), hidden)
        self._folders.restore(self._spool.journal.folders(), [file for file, _ in taken])
        for file, since in taken:
            self._uploads.add(file, since)
        if taken:
            log.warning("%d files of an earlier mount are uploaded now", len(taken))
        return len(taken)

    def _take_over(self, record: Record) -> OpenFile | None:
        """What a row of an earlier mount speaks of; None: it is lost, or cannot be had now and
        stays for the next mount."""
        try:
            spool_file = self._spool.reopen(record)
        except errors.NotFound as error:
            log.error("what was written to %s is lost: %s", record.path, error)
            self._spool.journal.remove(record.spool)
            return None
        except errors.FtpfsError as error:
            log.error("%s is not uploaded now, but by the next mount: %s", record.path, error)
            return None
        if record.path in self._opened:
            # Two mounts of the server wrote it, and both ended before they had sent it.
            if not spool_file.present.covers(0, min(record.base_size, record.size)):
                log.error("%s: a second version waits for the next mount", record.path)
                spool_file.close(delete=False)
                return None
            record = replace(record, path=self._free_name(record.path, self._opened.__contains__))
        file = self._new_file(record.path, record.base, 0)
        file.restore(record, spool_file)
        self._opened.linger(record.path, file)
        return file

    def _free_name(self, path: str, is_taken: Callable[[str], bool]) -> str:
        """A conflict copy's name: two of one second must not share it."""
        name = _conflict_name(path)
        for number in itertools.count(2):
            if not is_taken(name):
                break
            name = _conflict_name(path, f" {number}")
        return name

    # The end.

    def close(self, grace: float | None = None) -> int:
        """Upload what is left, for `grace` seconds at most (None: as long as it takes, or until
        `stop_waiting`), and end all streams; how many files are left to the next mount.

        After it the file system is not used any more.
        """
        self._walks.close()
        self._prefetcher.close()
        for file in self._opened.all():
            with _logged(file):
                if file.commit():
                    self._uploads.add(file)
        self.retry()
        if self._uploads.drain(grace, lambda _: True):
            self._folders.release("/")
            self._uploads.drain(grace, lambda _: True)
        stuck = self._uploads.stop(_cancel, PARTING)
        files = self._opened.clear()
        # What is stuck in the network ends with the process, and as after a kill: its spool file
        # must not be closed under the thread that sends it.
        left = sum(self._discard(file) for file in files if file not in stuck)
        left += sum(isinstance(job, OpenFile) for job in stuck) + self._folders.count()
        if left:
            log.error("%d files are not on the server; the next mount goes on with them", left)
        self._spool.remove()
        if self._tier is not None:
            self._tier.close()
        return left

    def stop_waiting(self) -> None:
        """Let a `close` or `sync` that waits for uploads return soon. Nothing is begun any more."""
        self._uploads.give_up_waiting()

    # Inside: looking ahead, and no further than needed.

    def _peek(self, path: str) -> Entry | None:
        # On a short link a listing costs hardly more, and tells of all names.
        if _is_hidden(path) or self._remote.round_trip() <= LONG_LINK:
            return None
        return self._remote.peek(path)

    def _looked_into(self, path: str) -> None:
        self._note_visit(path, read=False)

    def warm_up(self, sessions: int = FEW) -> None:
        """The mount is in use: have so many sessions at hand, where logging in takes long."""
        round_trip = self._remote.round_trip()
        if round_trip > LONG_LINK:
            few = 2 * FEW if FAR_LINK <= round_trip < float("inf") else FEW
            self._remote.warm(max(sessions, few))

    def _note_visit(self, path: str, *, read: bool) -> None:
        if self._remote.round_trip() > LONG_LINK:
            self.warm_up()
            self._walks.visited(path, read=read)

    # Inside: open files.

    def _file(self, handle: int) -> OpenFile:
        return self._opened.handle(handle).file

    def _entry_to_open(self, path: str) -> Entry:
        """The entry of a file about to be opened, looked at again unless it is very fresh."""
        entry = self._tree.lookup(path)
        if entry.kind is Kind.DIRECTORY:
            raise errors.IsADirectory(f"{path}: is a directory")
        if entry.kind is Kind.LINK:
            raise errors.LinkLoop(f"{path}: a link; the kernel opens what it leads to")
        if entry.kind is Kind.OTHER:
            raise errors.NotSupported(f"{path}: FTP can only list what is no plain file")
        if entry.size is not None and self._tree.age(path) < self._open_ttl:
            return entry
        return self._tree.look_again(path, lambda: self._measured(path, entry))

    def _prefetch(self, path: str) -> None:
        """Bring a small file into the block cache.

        Where its listing grows old, it is asked in the same write whether the file is still that
        one, so that an open soon after need not ask: `cp -r` over a link of 100 ms came to most
        files of a folder when their listing was too old, and paid a round trip for each.
        """
        generation = self._generations.of(path)
        entry = self._tree.lookup(path)
        if entry.kind is not Kind.FILE or entry.size is None:
            return
        version = version_of(path, entry, generation)
        old = self._tree.age(path) > self._open_ttl / 2
        expect = entry if old or self._blocks.outlives_mount else None
        confirmed = False

        def fetch(offset: int, give_way: Callable[[], None]) -> Download:
            nonlocal confirmed
            download = self._remote.open_read(
                path, offset, give_way=give_way, expect=expect, ahead=True
            )
            confirmed = download.confirmed
            return download

        def look() -> Entry:
            reader = Reader(version, fetch, self._blocks, self._budget)
            try:
                reader.read(0, version.size)
            finally:
                reader.close()
            return entry if confirmed or not old else self._measured(path, entry)

        if old:
            self._tree.look_again(path, look)
        else:
            look()

    def _measured(self, path: str, entry: Entry) -> Entry:
        """A look at a file, by which its size is known, and be it by reading all of it."""
        entry = self._remote.look_again(path, entry)
        if entry.size is not None or entry.kind is not Kind.FILE:
            return entry
        size = 0
        download = self._remote.open_read(path)
        try:
            while block := download.read(BLOCK_SIZE):
                size += len(block)
        finally:
            download.close()
        with self._lock:
            self._unsized.add(path)
        return replace(entry, size=size)

    def is_unsized(self, path: str) -> bool:
        """Whether the file was read to know its size. Who asked for its attributes before may
        believe for a while that it is empty, and must read it nevertheless."""
        with self._lock:
            return path in self._unsized

    def _follow(self, file: OpenFile) -> None:
        """Let a file that was only read show what the server shows by now.

        When that cannot be told (the network, or the name is gone), it stays as it was: it is open.
        """
        if not file.follows_server:
            return
        path = file.path
        generation = self._generations.of(path)
        try:
            entry = self._tree.lookup(path)
        except errors.FtpfsError as error:
            log.debug("%s, open here, was not looked at: %s", path, error)
            return
        if self._generations.of(path) == generation:
            self._let_follow(file, entry, generation)

    def _let_follow(self, file: OpenFile, entry: Entry, generation: int) -> None:
        if entry.kind is Kind.FILE and entry.size is not None:
            file.follow(entry, generation)

    def _attach(self, path: str, entry: Entry | None, generation: int, flags: int) -> int:
        """A new handle on the file at `path`. `entry`: what was seen there with that generation;
        None: an open file was. Raises _Outdated when that is not so any more."""

        def choose(file: OpenFile | None) -> OpenFile:
            if entry is not None and self._generations.of(path) == generation:
                return file or self._new_file(path, entry, generation)
            if entry is not None or file is None:
                raise _Outdated
            return file

        number = self._add_handle(path, flags, choose)
        handle = self._opened.handle(number)
        if entry is not None:
            self._let_follow(handle.file, entry, generation)
        handle.file.begin(handle.view)
        return number

    def _new_file(
        self, path: str, entry: Entry | None, generation: int, mode: int | None = None
    ) -> OpenFile:
        return OpenFile(
            path,
            entry,
            remote=self._remote,
            cache=self._blocks,
            budget=self._budget,
            spool=self._spool,
            generation=generation,
            mode=mode,
            accepted=lambda path: self._takes_files(posixpath.dirname(path)),
            uploaded=self._uploaded,
            outdated=lambda path: self._tree.forget(posixpath.dirname(path)),
        )

    def _add_handle(
        self, path: str, flags: int, choose: Callable[[OpenFile | None], OpenFile]
    ) -> int:
        appends, writes = bool(flags & os.O_APPEND), bool(flags & _WRITING)
        return self._opened.attach(path, choose, appends=appends, writes=writes)

    def _retire(self, file: OpenFile) -> None:
        """Let a file go that nobody has open any more, unless it has to linger."""
        if self._opened.let_go(file):
            self._discard(file)

    def _discard(self, file: OpenFile) -> bool:
        """The end of a file in this process; whether unsent content of it stays in the spool."""
        left = file.close()
        if file.hidden_as:
            self._intents.remove_hidden(file.hidden_as)
        return left

    # Inside: uploads.

    def _upload(self, job: _Job) -> None:
        """On one of the queue's threads."""
        if isinstance(job, Folder):
            self._settle_doubts_about(job.path)
            self._folders.send(job)
            return
        try:
            self._upload_file(job)
        except errors.NetworkError:
            raise  # it is tried again
        except errors.FtpfsError:
            self._folders.file_ended(job)
            raise
        self._folders.file_ended(job)

    def _upload_file(self, file: OpenFile) -> None:
        try:
            while True:
                try:
                    self._settle_doubts_about(file.path)
                except errors.FtpfsError as error:
                    file.failed(error)
                    raise
                with file.exclusive():
                    if not self._intents.doubts(lambda doubt: doubt.covers(file.path)):
                        self._upload_exclusively(file, streamed=True)
                        return
        finally:
            self._retire(file)

    def _upload_exclusively(self, file: OpenFile, *, streamed: bool = False) -> None:
        """Bring the file to the server, settling what can be settled about where it goes."""
        try:
            self._set_before(file.path)
            for _ in range(SETTLEMENTS):
                try:
                    file.upload(streamed=streamed)
                except (errors.Conflict, errors.Changed) as conflict:
                    self._settle_conflict(file, conflict)
                except errors.DataMismatch as mismatch:
                    # Its base has another size: so it is after a crash, when an upload was done.
                    if not file.needs_base or not file.is_based_on_other():
                        raise
                    self._settle_conflict(file, mismatch)
                except errors.NotFound:
                    if not self._make_folders(file.path):
                        raise
                else:
                    return
            file.upload()
        except errors.Superseded:
            raise
        except errors.FtpfsError as error:
            if not isinstance(error, errors.NetworkError):
                with self._lock:
                    self._taking.discard(posixpath.dirname(file.path))
            file.failed(error)
            raise
        except Exception as error:
            # Nobody foresaw it (the queue logs it): who waits must not wait for ever.
            file.failed(errors.FtpfsError(f"{type(error).__name__}: {error}"))
            raise

    def _upload_now(self, file: OpenFile) -> None:
        """As `_upload_exclusively`, for somebody who needs it on the server before he goes on: it
        is sent though it is written to all the time."""
        for _ in range(OVERTAKEN):
            with contextlib.suppress(errors.Superseded):
                self._upload_exclusively(file)
                return
        self._upload_exclusively(file)

    def _settle_conflict(self, file: OpenFile, conflict: errors.FtpfsError) -> None:
        """The server has something else under the file's name than we knew of.

        If that is this very content (an upload was done, but its answer was lost, or we were killed
        before we could note it), it is what the next upload replaces. Else both are kept.
        """
        path = file.path
        generation = self._generations.of(path)
        self._tree.forget(posixpath.dirname(path))
        try:
            seen = self._remote.stat(path)
        except errors.NotFound:
            if file.needs_base:
                raise errors.FtpfsError(
                    f"{path} is gone from the server, and only what was written to it is here"
                ) from conflict
            file.rebase(None, generation)
            return
        if file.shows(seen):
            file.rebase(seen, generation)
            return
        aside = self._free_name(
            path, lambda name: name in self._opened or self._intents.is_there(name)
        )
        log.warning(
            "%s was changed on the server and here; what was written here is uploaded as %s",
            path,
            aside,
        )
        based = seen.kind is Kind.FILE and file.needs_base
        file.become_new(aside, seen if based else None, generation)
        self._opened.rename_one(path, aside, file)
        self._generations.bump(path)

    def _make_folders(self, path: str) -> bool:
        """Make the folders above `path` that are not there (any more); whether one was made."""
        made = False
        parent = posixpath.dirname(path)
        parts = parent.strip("/").split("/") if parent != "/" else []
        for count in range(1, len(parts) + 1):
            folder = "/" + "/".join(parts[:count])
            with contextlib.suppress(errors.Exists):
                self._remote.mkdir(folder)
                log.warning("%s was gone, and was made again for %s", folder, path)
                self._tree.forget(posixpath.dirname(folder))
                made = True
        return made

    def _takes_files(self, folder: str) -> None:
        with self._lock:
            self._taking.add(folder)

    # Inside: names.

    @contextlib.contextmanager
    def _changing(self, *paths: str) -> Iterator[None]:
        """A change of names on the server. When it fails, nobody knows whether it was done after
        all (the reply was lost), or the listing was wrong: it is not believed any more."""
        try:
            yield
        except errors.FtpfsError:
            for path in paths:
                self._generations.bump(path)
                self._tree.forget(posixpath.dirname(path))
            raise

    def _uploaded(self, path: str, entry: Entry) -> int:
        self._generations.bump(path)
        self._tree.put(path, entry)
        self._takes_files(posixpath.dirname(path))
        return self._generations.of(path)

    def _removed(self, path: str) -> None:
        with self._lock:
            self._taking.discard(path)
        self._generations.bump(path)
        self._tree.remove(path)
        self._folders.removed(path)

    def _renamed(self, old: str, new: str) -> None:
        self._generations.bump(old)
        self._generations.bump(new)
        self._tree.rename(old, new)

    def _existing(self, path: str) -> Entry | None:
        try:
            return self._attributes(path)
        except errors.NotFound:
            return None

    def _holds_open_files(self, path: str) -> bool:
        """Whether files below `path` exist only here, or are deleted and still open: what the
        server has of those is in that directory, under a name that listings hide."""
        inside = path + "/"
        return any(
            not file.on_server and not file.is_deleted for file in self._opened.below(path)
        ) or any((file.hidden_as or "").startswith(inside) for file in self._opened.all())

    def _hide_base(self, file: OpenFile, path: str) -> str | None:
        """Rename a file that is about to lose its name, if its handles need what the server has.

        The hidden name, deleted with the last handle; None where that was not needed.
        """
        if not self._opened.is_used(file) or not file.on_server or not file.needs_base:
            return None
        hidden = self._intents.hidden_name(path)
        # Killed before what this is for is done, the next mount gives the name back; after it, the
        # next mount deletes what nobody reads any more.
        self._announce(hidden, "")
        self._announce(path, hidden)
        try:
            with self._changing(path):
                self._remote.rename(path, hidden, replace=False)
        except errors.FtpfsError as error:
            if _may_be_done(error):
                self._intents.doubt(path, hidden, None)
            else:
                self._intents.withdraw(path, hidden)
            raise
        self._removed(path)
        return hidden

    def _remove_open(self, file: OpenFile, path: str) -> None:
        """Delete an open file on the server. What is dirty need not be there; and what waits to be
        sent must not come back when we are killed before it is forgotten."""
        dirty = file.dirty
        if dirty:
            self._announce(path, "")
        try:
            with self._changing(path):
                self._remote.remove(path)
        except errors.FtpfsError as error:
            if dirty and isinstance(error, errors.NotFound):
                return
            if _may_be_done(error):
                self._intents.doubt(path, "", file)
            else:
                self._intents.withdraw(path)
            raise

    def _unhide(self, hidden: str, path: str) -> None:
        self._intents.unhide(hidden, path)
        self._generations.bump(path)
        self._tree.forget(posixpath.dirname(path))

    def _announce(self, old: str, new: str) -> None:
        self._intents.announce(old, new, always=bool(self._opened.all()))

    def _rename_here(self, old: str, new: str) -> None:
        """Open files at and below the old name are at and below the new one now."""
        try:
            self._spool.journal.rename(old, new)
        except errors.FtpfsError as error:
            log.error("after a crash, %s will be uploaded under its old name: %s", new, error)
        moved = self._opened.rename(old, new)
        with self._lock:
            self._taking = {f for f in self._taking if not _is_within(f, old)}
        self._folders.renamed(old, new)
        for file in moved:
            file.record_again()

    # Inside: renames and deletions whose answer was lost.

    def _settle_doubts_about(self, path: str) -> None:
        self._settle_doubts(lambda doubt: doubt.covers(path))

    def _settle_doubts(self, concerned: Callable[[Doubt], bool]) -> None:
        """Look whether what is in doubt was done. Raises NetworkError while the server is away."""
        for doubt in self._intents.doubts(concerned):
            self._settle(doubt)

    def _settle(self, doubt: Doubt) -> bool:
        """Whether it was done; then it is done here, too. Raises what the server cannot be asked
        for."""
        with (
            self._opened.turns(*doubt.names, below=True) as files,
            self._folders.still(*doubt.names),
        ):
            done = self._intents.was_done(doubt)
            if not self._intents.is_open(doubt):
                return done  # another thread was faster
            for path in doubt.names:
                self._generations.bump(path)
                self._tree.forget(posixpath.dirname(path))
            if doubt.hides:
                if done:  # what it was hidden for has failed
                    self._unhide(doubt.new, doubt.old)
                else:
                    self._intents.withdraw(*doubt.names)
            elif done:
                self._is_done(doubt, files[-1])
            elif doubt.hidden:
                self._unhide(doubt.hidden, doubt.new)
            self._intents.settled(doubt)
        return done

    def _is_done(self, doubt: Doubt, victim: OpenFile | None) -> None:
        """Do here what the server did; `victim`: what is open at the name that was replaced or
        deleted."""
        old, new = doubt.old, doubt.new
        if not new:
            log.warning("%s was deleted, as is seen now", old)
            if victim and doubt.takes(victim):
                self._unlinked(victim, old)
            return
        log.warning("%s was renamed to %s, as is seen now", old, new)
        if victim and not doubt.takes(victim):
            self._settle_conflict(victim, errors.Conflict(f"{new}: was replaced"))
            victim = None
        self._renamed(old, new)
        self._rename_here(old, new)
        if victim:
            self._lost_its_name(victim, doubt.hidden)


@contextlib.contextmanager
def _logged(file: OpenFile) -> Iterator[None]:
    """Where nobody is left to be told."""
    try:
        yield
    except errors.FtpfsError as error:
        log.error("%s: %s", file.path, error)


def _may_be_done(error: errors.FtpfsError) -> bool:
    """Whether the server may have done what failed here."""
    return isinstance(error, errors.NetworkError) and error.asked


def _cancel(job: _Job) -> None:
    job.cancel()


def _below(path: str) -> Callable[[_Job], bool]:
    """Whether a file is at or below `path`."""
    inside = path.rstrip("/") + "/"
    return lambda file: file.path == path or file.path.startswith(inside)


def _conflict_name(path: str, number: str = "") -> str:
    """A name beside `path` that says what it is; nothing else is likely to have it."""
    folder, name = posixpath.split(path)
    stem, dot, ending = name.rpartition(".")
    if not stem:  # none, or a hidden file's
        stem, dot, ending = name, "", ""
    words = time.strftime(f" (conflict copy %Y-%m-%d %H%M%S{number})")
    ending = dot + ending
    room = NAME_MAX - len(os.fsencode(words + ending))
    stem = os.fsdecode(os.fsencode(stem)[: max(1, room)])
    return posixpath.join(folder, stem + words + ending)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _is_hidden(path: str) -> bool:
    return posixpath.basename(path).startswith(HIDDEN_PREFIX)


def _check_name(path: str) -> None:
    name = posixpath.basename(path)
    if not _UNSENDABLE.isdisjoint(name):
        raise errors.InvalidName("FTP cannot carry a name with CR, LF or NUL in it")
    if len(name.encode("utf-8", "surrogateescape")) > NAME_MAX:
        raise errors.NameTooLong(f"a name of more than {NAME_MAX} bytes")
    if name.startswith(HIDDEN_PREFIX):
        raise errors.NotPermitted(f"names that begin with {HIDDEN_PREFIX} are ours, and not shown")


def _check_replaceable(source: Entry, target: Entry, new: str) -> None:
    if target.kind is Kind.DIRECTORY and source.kind is not Kind.DIRECTORY:
        raise errors.IsADirectory(f"{new}: is a directory")
    if source.kind is Kind.DIRECTORY and target.kind is not Kind.DIRECTORY:
        raise errors.NotADirectory(f"{new}: not a directory")
