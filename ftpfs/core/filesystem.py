"""The file system's meaning: names, handles, open flags, rename; open files laid over the tree.

Owns: which files are open and under which name, and what each operation does to server, tree and
open files, in that order: the server first, and what is cached only after it agreed. Owns neither
errnos nor the kernel's types (`fuse.operations`), nor bytes on the wire (`ftp`).

Threading: any number of threads. `_lock` guards the tables of open files and handles; it is held
for table look-ups only, and taken before any other (filesystem < file < tree < blocks < pool).
Namespace changes of one path from several threads are ordered by the kernel, which locks the
parent directory.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import posixpath
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ftpfs import errors
from ftpfs.config import Cache
from ftpfs.core.blocks import BlockCache, Generations
from ftpfs.core.openfile import OpenFile
from ftpfs.core.reader import StreamBudget
from ftpfs.core.remote import Remote, Space
from ftpfs.core.tree import Tree
from ftpfs.core.writer import Spool
from ftpfs.ftp.lister import HIDDEN_PREFIX
from ftpfs.ftp.listing import Entry, Kind

log = logging.getLogger(__name__)

NAME_MAX = 255  # bytes; what all four servers' disks allow

# Modes that servers give to a new folder by themselves, give or take a umask.
ORDINARY_FOLDER_MODES = {0o755, 0o775, 0o777}

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # renameat2(2)


class Filesystem:
    """One mount's files and directories. Paths are absolute inside the mount."""

    def __init__(
        self,
        remote: Remote,
        spool: Spool,
        cache: Cache,
        *,
        read_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remote = remote
        self._spool = spool
        self._read_only = read_only
        self._open_ttl = cache.open_ttl
        self._tree = Tree(remote.list, remote.stat, ttl=cache.list_ttl, clock=clock)
        self._blocks = BlockCache(cache.block_cache)
        self._generations = Generations()
        self._budget = StreamBudget(cache.block_cache, cache.read_ahead)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._files: dict[str, OpenFile] = {}
        self._handles: dict[int, OpenFile] = {}
        self._users: dict[OpenFile, int] = {}

    # Looking.

    def attributes(self, path: str) -> Entry:
        """What is at `path`: an open file as it is here, else what the server said last."""
        file = self._open_at(path)
        return file.attributes() if file else self._tree.lookup(path)

    def handle_attributes(self, handle: int) -> Entry:
        return self._file(handle).attributes()

    def path_of(self, handle: int) -> str:
        return self._file(handle).path

    def children(self, path: str) -> list[Entry]:
        """The entries of a directory, files that exist only here so far among them."""
        listed = {entry.name: entry for entry in self._tree.children(path)}
        with self._lock:
            here = [f for p, f in self._files.items() if posixpath.dirname(p) == path]
        for file in here:
            if not file.is_deleted:
                shown = file.attributes()
                listed[shown.name] = shown
        return list(listed.values())

    def read_link(self, path: str) -> str:
        """A link's target, as a relative path that stays inside the mount."""
        entry = self._tree.lookup(path)
        if entry.kind is not Kind.LINK:
            raise errors.InvalidArgument(f"{path}: not a link")
        return self._remote.read_link(path, entry.target)

    def space(self) -> Space | None:
        """What is free on the server; None where it does not tell."""
        return self._remote.space()

    # Opening and closing.

    def open(self, path: str, flags: int) -> int:
        """A handle on an existing file. O_TRUNC is honoured here."""
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            self.check_writable()
        handle = self._attach(path)
        if handle is None:
            handle = self._attach_new(path, self._entry_to_open(path))
        if flags & os.O_TRUNC:
            self._file(handle).truncate(0)
        return handle

    def create(self, path: str, mode: int, flags: int) -> int:
        """A handle on a new, empty file. It reaches the server when it is flushed."""
        self.check_writable()
        _check_name(path)
        if self._existing(path) is not None:
            return self.open(path, flags)  # it appeared after the kernel had looked
        return self._attach_new(path, None, mode & 0o7777)

    def release(self, handle: int) -> None:
        """Close a handle; with the last one the open file goes, too."""
        with self._lock:
            file = self._handles[handle]
            last = self._users[file] == 1
        if last:
            file.flush_quietly()
        with self._lock:
            del self._handles[handle]
            self._users[file] -= 1
            if self._users[file]:
                return
            del self._users[file]
            if self._files.get(file.path) is file:
                del self._files[file.path]
        file.close()
        if file.hidden_as:
            self._remove_hidden(file.hidden_as)

    # Content.

    def read(self, handle: int, offset: int, size: int) -> bytes:
        return self._file(handle).read(offset, size)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        return self._file(handle).write(offset, data)

    def flush(self, handle: int) -> None:
        """Called at each close(): what was written is on the server when it returns."""
        self._file(handle).flush()

    def truncate_handle(self, handle: int, size: int) -> None:
        """The new size is on the server with the next flush."""
        self._file(handle).truncate(size)

    def truncate(self, path: str, size: int) -> None:
        """The new size is on the server when this returns."""
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
        self._remote.mkdir(path)
        wanted = mode & 0o7777
        if wanted not in ORDINARY_FOLDER_MODES:
            with contextlib.suppress(errors.NotSupported):
                self._remote.chmod(path, wanted)
        entry = Entry(
            name=posixpath.basename(path),
            kind=Kind.DIRECTORY,
            size=0,
            mtime=int(time.time()),
            exact=False,
            mode=None,
            target=None,
        )
        self._tree.made_directory(path, entry)

    def rmdir(self, path: str) -> None:
        self.check_writable()
        if self._tree.lookup(path).kind is not Kind.DIRECTORY:
            raise errors.NotADirectory(f"{path}: not a directory")
        if self._has_open_files(path):
            raise errors.NotEmpty(f"{path}: has files that are being written")
        self._remote.rmdir(path)
        self._removed(path)

    def unlink(self, path: str) -> None:
        """Delete a name. Handles on the file go on, as POSIX has it."""
        self.check_writable()
        file = self._open_at(path)
        if file is not None and file.is_deleted:
            with self._lock:
                self._files.pop(path, None)  # the end of a hidden name
            return
        if file is None:
            if self._tree.lookup(path).kind is Kind.DIRECTORY:
                raise errors.IsADirectory(f"{path}: is a directory")
            self._remote.remove(path)
            self._removed(path)
            return
        with file.exclusive():
            hidden = self._hide_base(file, path)
            if hidden is None and file.on_server:
                self._remote.remove(path)
            with self._lock:
                if self._files.get(path) is file:
                    del self._files[path]
            self._removed(path)
            file.deleted(hidden)

    def hide(self, path: str, hidden: str) -> None:
        """Delete a name, but let `hidden` stand for the file while handles have it open.

        What libfuse asks for when it believes that a file being deleted or replaced is open. The
        name `hidden` exists only here. When the last handle went at the same moment, the file is
        just deleted: libfuse would not come back for the hidden name then.
        """
        file = self._open_at(path)
        self.unlink(path)
        if file is not None:
            with self._lock:
                if file in self._users:
                    file.path = hidden
                    self._files[hidden] = file

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """renameat2(2). EXCHANGE cannot be had over FTP; NOREPLACE is checked here."""
        self.check_writable()
        _check_name(new)
        if flags & ~RENAME_NOREPLACE:
            raise errors.InvalidArgument("FTP cannot exchange two names")
        source = self.attributes(old)
        target = self._existing(new)
        if target is not None:
            if flags & RENAME_NOREPLACE:
                raise errors.Exists(f"{new}: exists")
            _check_replaceable(source, target, new)
        if old == new:
            return
        moving, victim = self._open_at(old), self._open_at(new)
        with contextlib.ExitStack() as stack:
            for file in (moving, victim):
                if file is not None:
                    stack.enter_context(file.exclusive())
            hidden = self._hide_base(victim, new) if victim else None
            try:
                self._rename_on_server(moving, old, new, replaces=self._server_has(new))
            except errors.FtpfsError:
                if hidden:
                    self._remote.rename(hidden, new, replace=False)
                raise
            self._rename_here(moving, old, new)
        if victim:
            victim.deleted(hidden)

    # Attributes.

    def chmod(self, path: str, mode: int) -> None:
        """SITE CHMOD, or with the upload that is due. NotSupported where the server has none."""
        self.check_writable()
        file = self._open_at(path)
        if file and file.set_mode(mode & 0o7777):
            return
        self._remote.chmod(path, mode)
        self._update(path, mode=mode & 0o7777)

    def set_mtime(self, path: str, seconds: int) -> None:
        """Set the modification time, or have the upload that is due set it."""
        self.check_writable()
        file = self._open_at(path)
        if file and file.set_mtime(seconds):
            return
        directory = not file and self._tree.lookup(path).kind is Kind.DIRECTORY
        self._remote.set_mtime(path, seconds, directory=directory)
        self._update(path, mtime=seconds)

    def check_writable(self) -> None:
        """Raises ReadOnly on a mount that is."""
        if self._read_only:
            raise errors.ReadOnly("mounted read-only")

    # The end.

    def close(self) -> None:
        """Upload what is dirty, end all streams. After it the file system is not used any more."""
        with self._lock:
            files = list(self._users)
            self._users.clear()
            self._handles.clear()
            self._files.clear()
        for file in files:
            file.flush_quietly()
            file.close()
        self._spool.remove()

    # Inside.

    def _open_at(self, path: str) -> OpenFile | None:
        with self._lock:
            return self._files.get(path)

    def _file(self, handle: int) -> OpenFile:
        with self._lock:
            file = self._handles.get(handle)
        if file is None:
            raise errors.BadHandle(f"no open file has the handle {handle}")
        return file

    def _entry_to_open(self, path: str) -> Entry:
        """The entry of a file about to be opened, looked at again unless it is very fresh."""
        entry = self._tree.lookup(path)
        if entry.kind is Kind.DIRECTORY:
            raise errors.IsADirectory(f"{path}: is a directory")
        if self._tree.age(path) < self._open_ttl:
            return entry
        try:
            entry = self._remote.look_again(path, entry)
        except errors.NotFound:
            self._removed(path)
            raise
        self._tree.put(path, entry)
        return entry

    def _attach(self, path: str) -> int | None:
        """A new handle on the open file at `path`; None when there is none."""
        with self._lock:
            file = self._files.get(path)
            return self._add_handle_locked(file) if file else None

    def _attach_new(self, path: str, entry: Entry | None, mode: int | None = None) -> int:
        """A handle on a file that was not open; if another thread was faster, on that one's."""
        file = OpenFile(
            path,
            entry,
            remote=self._remote,
            cache=self._blocks,
            budget=self._budget,
            spool=self._spool,
            generation=self._generations.of(path),
            mode=mode,
            uploaded=self._uploaded,
        )
        with self._lock:
            return self._add_handle_locked(self._files.setdefault(path, file))

    def _add_handle_locked(self, file: OpenFile) -> int:
        number = next(self._numbers)
        self._handles[number] = file
        self._users[file] = self._users.get(file, 0) + 1
        return number

    def _uploaded(self, path: str, entry: Entry) -> None:
        self._generations.bump(path)
        self._tree.put(path, entry)

    def _removed(self, path: str) -> None:
        self._generations.bump(path)
        self._tree.remove(path)

    def _renamed(self, old: str, new: str) -> None:
        self._generations.bump(old)
        self._generations.bump(new)
        self._tree.rename(old, new)

    def _existing(self, path: str) -> Entry | None:
        try:
            return self.attributes(path)
        except errors.NotFound:
            return None

    def _has_open_files(self, path: str) -> bool:
        with self._lock:
            return any(p.startswith(path + "/") and not f.on_server for p, f in self._files.items())

    def _hide_base(self, file: OpenFile, path: str) -> str | None:
        """Rename a file that is about to lose its name, if its handles need what the server has.

        The hidden name, deleted with the last handle; None where that was not needed.
        """
        if not file.on_server or not file.needs_base:
            return None
        hidden = posixpath.join(
            posixpath.dirname(path), f"{HIDDEN_PREFIX}deleted-{secrets.token_hex(6)}"
        )
        self._remote.rename(path, hidden, replace=False)
        self._removed(path)
        return hidden

    def _rename_on_server(
        self, moving: OpenFile | None, old: str, new: str, *, replaces: bool
    ) -> None:
        if moving is None or moving.on_server:
            self._remote.rename(old, new, replace=replaces)
            self._renamed(old, new)
        if moving is not None:
            moving.moved(new, replaces=replaces and not moving.on_server)

    def _rename_here(self, moving: OpenFile | None, old: str, new: str) -> None:
        """Open files below the old name are below the new one now."""
        with self._lock:
            self._files.pop(new, None)
            below = [(p, f) for p, f in self._files.items() if p.startswith(old + "/")]
            for path, file in below:
                del self._files[path]
                self._files[new + path[len(old) :]] = file
            if moving is not None:
                self._files.pop(old, None)
                self._files[new] = moving
        for path, file in below:
            file.moved(new + path[len(old) :], replaces=False)

    def _server_has(self, path: str) -> bool:
        """Whether there is a file at `path` on the server."""
        try:
            return self._tree.lookup(path).kind is not Kind.DIRECTORY
        except errors.NotFound:
            return False

    def _remove_hidden(self, path: str) -> None:
        try:
            self._remote.remove(path)
        except errors.FtpfsError as error:
            log.warning("%s, deleted while it was open, is left on the server: %s", path, error)

    def _update(self, path: str, *, mode: int | None = None, mtime: int | None = None) -> None:
        entry = self._tree.lookup(path)
        if mode is not None:
            entry = replace(entry, mode=mode)
        if mtime is not None:
            entry = replace(entry, mtime=mtime, exact=True)
        self._tree.put(path, entry)


def _check_name(path: str) -> None:
    name = posixpath.basename(path)
    if any(c in name for c in "\r\n\0"):
        raise errors.InvalidName("FTP cannot carry a name with CR, LF or NUL in it")
    if len(name.encode("utf-8", "surrogateescape")) > NAME_MAX:
        raise errors.NameTooLong(f"a name of more than {NAME_MAX} bytes")


def _check_replaceable(source: Entry, target: Entry, new: str) -> None:
    if target.kind is Kind.DIRECTORY and source.kind is not Kind.DIRECTORY:
        raise errors.IsADirectory(f"{new}: is a directory")
    if source.kind is Kind.DIRECTORY and target.kind is not Kind.DIRECTORY:
        raise errors.NotADirectory(f"{new}: not a directory")
