"""What libfuse calls: paths, numbers, dicts and bytes in and out; errors become errnos here only.

Owns: the translation between the kernel's view and `core.filesystem`. Holds no policy of its own
beyond how entries look as `stat` results.

Every exception leaves as an OSError with a positive errno: the bindings return garbage for
anything else. What nobody foresaw is EIO, with its traceback in the log.

Threading: libfuse's threads, any number at once.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from ftpfs import errors
from ftpfs.core.filesystem import NAME_MAX, Filesystem
from ftpfs.core.inode import inode
from ftpfs.core.tree import ROOT
from ftpfs.ftp.listing import Entry, Kind

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# linux/stat.h; libfuse passes them with zero seconds, so as nanoseconds since 1970 they are one
# second and a bit: a time that no file has to the nanosecond.
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

# The one extended attribute: "clean", "dirty", "uploading" or "failed".
STATE_ATTRIBUTE = "user.ftpfs.state"

# libfuse renames a file that is deleted while open to this, and deletes that later.
LIBFUSE_HIDDEN = ".fuse_hidden"

# What a server that does not tell has free: more than anybody copies, and a number that file
# managers take for a disk (0 makes them refuse, 2^63 makes some of them overflow).
PLENTY = 8 << 40
STATFS_BLOCK = 4096
# st_blksize: programs that go by it read a block at a time.
PREFERRED_SIZE = 128 << 10

_TYPE_BITS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.LINK: stat.S_IFLNK,
    Kind.OTHER: stat.S_IFREG,
}


class Stat(NamedTuple):
    """What stat(2) tells of a name, by its fields' names in C. Times are in whole seconds."""

    st_mode: int
    st_ino: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int
    st_blocks: int
    st_blksize: int
    st_atimespec: int
    st_mtimespec: int
    st_ctimespec: int


class Listed(NamedTuple):
    """One entry of a directory on its way to the kernel."""

    name: str
    stat: Stat
    complete: bool  # False: nothing but type and inode number is known for sure
    next: int  # the offset behind it


@dataclass(frozen=True)
class Look:
    """How entries look to this machine."""

    uid: int
    gid: int
    umask: int  # taken from the modes of entries whose server tells none
    ignore_attribute_errors: bool


# No attribute of that name: answers, not troubles.
_ORDINARY = (errno.ENODATA, errno.EOPNOTSUPP)


def _answered(
    method: Callable[Concatenate[Operations, P], R],
) -> Callable[Concatenate[Operations, P], R]:
    """Let nothing out of an operation but an OSError with an errno, and log what a person can act
    on once."""

    @functools.wraps(method)
    def operation(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except errors.NetworkError as error:
            log.warning("%s: %s", method.__name__, error)
            raise OSError(error.errno, str(error)) from error
        except errors.FtpfsError as error:
            log.debug("%s: %s", method.__name__, error)
            raise OSError(error.errno, str(error)) from error
        except OSError as error:
            if error.errno not in _ORDINARY:
                log.warning("%s: %s", method.__name__, error)
            raise OSError(errors.errno_of(error), str(error)) from error
        except Exception as error:
            log.exception("%s failed in a way nobody foresaw", method.__name__)
            raise OSError(errno.EIO, str(error)) from error

    return operation


class Operations:
    """One mount's file system, as fusepy and mfusepy call it (with raw_fi, use_ns)."""

    use_ns = True
    # libfuse 2 reads these: no paths are made for operations that have a handle.
    flag_nullpath_ok = 1
    flag_nopath = 1
    flag_utime_omit_ok = 1

    def __init__(
        self,
        filesystem: Filesystem,
        look: Look,
        *,
        started: Callable[[], None],
        stopped: Callable[[], None],
    ) -> None:
        self.mounted = False  # the kernel has accepted us
        self._fs = filesystem
        self._look = look
        self._started = started
        self._stopped = stopped
        self._began = int(time.time())
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._directories: dict[int, _OpenDirectory] = {}  # by handle; guarded by _lock

    # Life.

    def init(self, _path: str) -> None:
        """Mounted; threads may be started from here on (never before the fork)."""
        self.mounted = True
        self._started()

    def destroy(self, _path: str) -> None:
        """Unmounted: nobody can be told anything any more."""
        self._stopped()

    # Looking.

    @_answered
    def getattr(self, path: str | None, info: Any = None) -> Stat:
        if path is None:
            path = self._fs.path_of(info.fh)
            return self._stat(path, self._fs.handle_attributes(info.fh))
        return self._stat(path, self._fs.attributes(path))

    @_answered
    def readlink(self, path: str) -> str:
        return self._fs.read_link(path)

    @_answered
    def opendir(self, path: str) -> int:
        with self._lock:
            number = next(self._numbers)
            self._directories[number] = _OpenDirectory(path)
        return number

    @_answered
    def readdir(self, _path: str | None, handle: int, offset: int) -> Iterator[Listed]:
        """The entries from the one numbered `offset` on, each as it is now.

        Which there are is decided when `offset` is 0: they are listed before the first goes out, so
        that an error is an error and not a short directory.
        """
        with self._lock:
            directory = self._directories[handle]
        if not offset:
            directory.listed = self._fs.children(directory.path)
        return self._entries(directory.path, directory.listed, offset)

    def _entries(self, path: str, listed: list[Entry], offset: int) -> Iterator[Listed]:
        if offset < 1:
            yield Listed(".", self._stat(path, ROOT), False, 1)
        if offset < 2:
            yield Listed("..", self._stat("", ROOT), False, 2)
        prefix = path.rstrip("/") + "/"
        look = self._fs.glance(path)
        for number in range(max(0, offset - 2), len(listed)):
            entry, complete = look(listed[number])
            if entry is not None:  # else it was removed meanwhile
                stat = self._stat(prefix + entry.name, entry)
                yield Listed(entry.name, stat, complete, number + 3)

    @_answered
    def releasedir(self, _path: str | None, handle: int) -> int:
        with self._lock:
            self._directories.pop(handle, None)
        return 0

    @_answered
    def statfs(self, _path: str) -> dict[str, int]:
        space = self._fs.space()
        blocks = (space.free if space else PLENTY) // STATFS_BLOCK
        return {
            "f_bsize": STATFS_BLOCK,
            "f_frsize": STATFS_BLOCK,
            "f_blocks": blocks,
            "f_bfree": blocks,
            "f_bavail": blocks,
            "f_files": 1 << 32,
            "f_ffree": 1 << 32,
            "f_favail": 1 << 32,
            "f_namemax": NAME_MAX,
        }

    # Files.

    @_answered
    def open(self, path: str, info: Any) -> int:
        info.fh = self._fs.open(path, info.flags)
        # Then the kernel asks us for every read, whatever size it has in mind.
        info.direct_io = self._fs.is_unsized(path)
        return 0

    @_answered
    def create(self, path: str, mode: int, info: Any) -> int:
        info.fh = self._fs.create(path, mode, info.flags)
        return 0

    @_answered
    def mknod(self, path: str, mode: int, _device: int) -> int:
        if not stat.S_ISREG(mode):
            raise errors.NotPermitted("FTP knows neither devices nor FIFOs nor sockets")
        handle = self._fs.create(path, mode, os.O_WRONLY)
        try:
            self._fs.flush(handle)
        finally:
            self._fs.release(handle)
        return 0

    @_answered
    def read(self, _path: str | None, size: int, offset: int, info: Any) -> bytes:
        return self._fs.read(info.fh, offset, size)

    @_answered
    def write(self, _path: str | None, data: bytes | memoryview, offset: int, info: Any) -> int:
        return self._fs.write(info.fh, offset, data)

    @_answered
    def truncate(self, path: str | None, length: int, info: Any = None) -> int:
        if info is not None:
            self._fs.truncate_handle(info.fh, length)
        else:
            self._fs.truncate(path or "", length)
        return 0

    @_answered
    def flush(self, _path: str | None, info: Any) -> int:
        self._fs.flush(info.fh)
        return 0

    @_answered
    def fsync(self, _path: str | None, _datasync: int, info: Any) -> int:
        self._fs.fsync(info.fh)
        return 0

    @_answered
    def release(self, _path: str | None, info: Any) -> int:
        self._fs.release(info.fh)
        return 0

    @_answered
    def fsyncdir(self, _path: str | None, _datasync: int, handle: int) -> int:
        with self._lock:
            directory = self._directories[handle]
        self._fs.fsync_folder(directory.path)  # names are changed on the server at once
        return 0

    # Names.

    @_answered
    def mkdir(self, path: str, mode: int) -> int:
        self._fs.mkdir(path, mode)
        return 0

    @_answered
    def rmdir(self, path: str) -> int:
        self._fs.rmdir(path)
        return 0

    @_answered
    def unlink(self, path: str) -> int:
        self._fs.unlink(path)
        return 0

    @_answered
    def rename(self, old: str, new: str, flags: int = 0) -> int:
        if new.rpartition("/")[2].startswith(LIBFUSE_HIDDEN):
            self._fs.hide(old, new)
        else:
            self._fs.rename(old, new, flags)
        return 0

    @_answered
    def symlink(self, _path: str, _target: str) -> int:
        raise errors.NotPermitted("FTP cannot make symbolic links")

    @_answered
    def link(self, _path: str, _target: str) -> int:
        raise errors.NotPermitted("FTP cannot make hard links")

    # Attributes.

    @_answered
    def chmod(self, path: str, mode: int) -> int:
        return self._attempt(lambda: self._fs.chmod(path, mode))

    @_answered
    def chown(self, _path: str, uid: int, gid: int) -> int:
        self._fs.check_writable()
        if uid in (-1, self._look.uid) and gid in (-1, self._look.gid):
            return 0
        return self._attempt(_refuse_chown)

    @_answered
    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        modified = times[1] if times else UTIME_NOW
        if modified == UTIME_OMIT:
            return 0  # the access time alone: FTP has none
        if modified == UTIME_NOW:
            modified = time.time_ns()
        return self._attempt(lambda: self._fs.set_mtime(path, modified // 10**9))

    @_answered
    def getxattr(self, path: str, name: str, _position: int = 0) -> bytes:
        """How far a file, or everything in a folder, is on its way to the server.

        EOPNOTSUPP for the rest, and not "no such attribute": `ls` then stops asking for ACLs.
        """
        if name != STATE_ATTRIBUTE:
            if name.startswith("user."):
                raise OSError(errno.ENODATA, f"no attribute {name}")
            raise OSError(errno.EOPNOTSUPP, "no attributes but one")
        return self._fs.state(path).encode()

    @_answered
    def listxattr(self, _path: str) -> list[str]:
        return [STATE_ATTRIBUTE]

    # Inside.

    def path_of(self, info: Any) -> str:
        """The path of an open file, where libfuse has only the handle."""
        return self._fs.path_of(info.fh)

    def _attempt(self, change: Callable[[], None]) -> int:
        """Change an attribute. What the server has no command for counts as done, if so configured:
        `cp -p` and `rsync -a` would report failure for a copy that is whole."""
        try:
            change()
        except errors.NotSupported as error:
            if not self._look.ignore_attribute_errors:
                raise
            log.debug("ignored: %s", error)
        return 0

    def _stat(self, path: str, entry: Entry) -> Stat:
        look, kind, mode, size = self._look, entry.kind, entry.mode, entry.size or 0
        if mode is None:
            mode = (0o777 if kind is Kind.DIRECTORY else 0o666) & ~look.umask
        when = self._began if entry.mtime is None else entry.mtime
        return Stat(
            _TYPE_BITS[kind] | mode,
            inode(path),
            1,  # also for directories: tools that count on links (find) then look by themselves
            look.uid,
            look.gid,
            size,
            -(-size // 512),
            PREFERRED_SIZE,
            when,
            when,
            when,
        )


@dataclass
class _OpenDirectory:
    path: str
    listed: list[Entry] = field(default_factory=list)  # as its reading began


def _refuse_chown() -> None:
    raise errors.NotSupported("FTP cannot change owners")
