"""The callbacks of libfuse: paths, numbers, dicts and bytes; errors become errnos only here.

Owns the translation between the kernel's view and `core.filesystem`. Has no policy of its own,
except how entries look as `stat` results.

Every exception leaves as an OSError with a positive errno: the bindings return garbage for anything
else. An unexpected exception becomes EIO, with its traceback in the log.

Threading: libfuse's threads, any number at once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.names.inode import inode
from ftpfs.core.names.listings import ROOT
from ftpfs.fuse.backing import Backing
from ftpfs.fuse.kernel import OUTDATED_ATTRIBUTE, KernelView, Shape
from ftpfs.fuse.passthrough import Passthrough
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import NAME_MAX

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# linux/stat.h. libfuse passes them with zero seconds, so as nanoseconds since 1970 they are a time
# of about one second: no file has that time to the nanosecond.
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
# The time (s) of a file whose time the server does not tell. It is old, so that `cp -u` and `make`
# do not take the file for news. It is the same in each mount, so that rsync sends nothing again.
UNDATED = 0

# The only extended attribute: "clean", "dirty", "uploading" or "failed".
STATE_ATTRIBUTE = "user.ftpfs.state"
# "kept", "cached" or "remote": whether a file's content is on this machine. Not listed: `cp -a` and
# `rsync -X` ask for the value of each attribute that is, and copy it.
STORED_ATTRIBUTE = "user.ftpfs.stored"

# libfuse renames a file that is deleted while open to this name, and deletes it later.
LIBFUSE_HIDDEN = ".fuse_hidden"

# Free space (bytes) of a server that does not report it: more than a program copies, and a number
# that file managers take for a disk (0 makes them refuse, 2^63 makes some of them overflow).
PLENTY_BYTES = 8 << 40
STATFS_BLOCK_BYTES = 4096
# st_blksize: programs that respect it read a block at a time.
PREFERRED_BYTES = 128 << 10

# After a StaleName, the kernel looks the name up and opens it once more, within this time
# (seconds).
RETRIED_WITHIN_SECONDS = 1.0

# How long (s) the listing made when a directory is opened serves for its first reading.
AHEAD_SECONDS = 1.0

_TYPE_BITS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.LINK: stat.S_IFLNK,
    Kind.OTHER: stat.S_IFREG,
}


# The flags of open(2) with which a program may change a file.
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC

# The kernel takes no larger file, whatever size a server reports.
_MOST_BYTES = (1 << 63) - 1


class Stat(NamedTuple):
    """The result of stat(2), with the names of the fields in C. Times are in whole seconds."""

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
    """One entry of a directory for the kernel."""

    name: str
    stat: Stat
    complete: bool  # False: only type and inode number are certain
    next: int  # the offset of the next entry


@dataclass(frozen=True)
class Look:
    """How entries look on this machine."""

    uid: int
    gid: int
    umask: int  # applied to the modes of entries whose server reports none
    ignore_attribute_errors: bool


# The attribute does not exist, or the program was killed: ordinary answers, not logged as faults.
_ORDINARY = (errno.ENODATA, errno.EOPNOTSUPP, errno.EINTR)
# Other ordinary answers: facts about a name, and what FTP cannot do.
_ANSWERS = (
    errors.NotFound,
    errors.StaleName,
    errors.Exists,
    errors.NotADirectory,
    errors.IsADirectory,
    errors.NotEmpty,
    errors.LinkLoop,
    errors.NotPermitted,
    errors.ReadOnly,
    errors.NameTooLong,
    errors.BadHandle,
)


def _answered(
    method: Callable[Concatenate[Operations, P], R],
) -> Callable[Concatenate[Operations, P], R]:
    """Let only an OSError leave an operation, and log once what a person can act on."""
    may_follow_a_hiding = method.__name__ == "rename"

    @functools.wraps(method)
    def operation(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            if not may_follow_a_hiding:
                self._fs.begin_request()
            return method(self, *args, **kwargs)
        except _ANSWERS as error:
            log.debug("%s %s: %s", method.__name__, self._about(args), error)
            raise OSError(error.errno, str(error)) from error
        except errors.FtpfsError as error:
            name = errno.errorcode.get(error.errno, "?")
            log.warning("%s %s: %s (%s)", method.__name__, self._about(args), error, name)
            raise OSError(error.errno, str(error)) from error
        except OSError as error:
            if error.errno not in _ORDINARY:
                log.warning("%s %s: %s", method.__name__, self._about(args), error)
            raise OSError(errors.errno_of(error), str(error)) from error
        except Exception as error:
            log.exception("%s failed: unexpected error", method.__name__)
            raise OSError(errno.EIO, str(error)) from error

    return operation


class Operations:
    """One mount's file system in the form that fusepy and mfusepy call (with raw_fi, use_ns).

    - `mounted`: the kernel has accepted the mount.
    - `caller`: returns the calling process (or thread), 0 if unknown; the binding sets it.
    - `kernel`: what the kernel believes of this mount.
    - `passthrough`: the local files that it reads and writes itself.
    """

    use_ns = True
    # Read by libfuse 2: it computes no paths for operations that have a handle.
    flag_nullpath_ok = 1
    flag_nopath = 1
    flag_utime_omit_ok = 1

    def __init__(
        self,
        filesystem: Filesystem,
        look: Look,
        kernel: KernelView,
        passthrough: Passthrough | None = None,
        *,
        started: Callable[[], None],
        stopped: Callable[[], None],
    ) -> None:
        self.mounted = False
        self.caller: Callable[[], int] = lambda: 0
        self._fs = filesystem
        self._look = look
        self.kernel = kernel
        self.passthrough = passthrough or Passthrough("nobody has asked for it")
        self._backing = Backing(filesystem, kernel, self.passthrough)
        self._started = started
        self._stopped = stopped
        self._began = int(time.time())
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._directories: dict[int, _OpenDirectory] = {}  # by handle
        # Opens that got StaleName, by path and thread; the time.monotonic() of each.
        self._stale: dict[tuple[str, int], float] = {}

    # Start and end.

    def init(self, _path: str) -> None:
        """Called when mounted; threads may be started from now on (never before the fork)."""
        self.mounted = True
        self._fs.tell_changed = self.kernel.outdated
        self._fs.know_callers(self._caller_here)
        self._backing.caller = self.caller
        self._backing.begin()
        self._started()

    def _caller_here(self) -> int:
        """The calling process in a thread of libfuse; 0 in any other."""
        try:
            return self.caller()
        except ValueError:  # libfuse 3 knows no request there
            return 0

    def destroy(self, _path: str) -> None:
        """Called when unmounted: the kernel takes no more answers."""
        self.passthrough.end()
        self._stopped()

    def _about(self, args: Sequence[Any]) -> str:
        """The path that an operation was called for, for the log.

        libfuse passes the path first; or None, and last an object with the handle of a file, or
        second the handle of a directory.
        """
        path, info = args[0], args[-1]
        if path is not None:
            return str(path)
        if isinstance(info, int):
            with self._lock:
                directory = self._directories.get(args[1])
            return directory.path if directory else "a folder that is not open"
        with contextlib.suppress(errors.FtpfsError):  # no such handle: that is the error itself
            return self._fs.path_of(info.fh)
        return "a file that is not open"

    # Lookups and directories.

    @_answered
    def getattr(self, path: str | None, info: Any = None) -> Stat:
        if path is None:
            path, entry = self._fs.path_of(info.fh), self._fs.handle_attributes(info.fh)
        else:
            self._backing.wait_for_inode(path)
            entry = self._fs.attributes(path)
        told = self._stat(path, entry)
        self._told(path, entry, told)
        return told

    @_answered
    def readlink(self, path: str) -> str:
        return self._fs.read_link(path)

    @_answered
    def opendir(self, path: str) -> int:
        with self._lock:
            number = next(self._numbers)
            directory = self._directories[number] = _OpenDirectory(path)
        if not self._fs.knows_children(path):
            directory.list_ahead(self._fs.children)
        return number

    @_answered
    def readdir(
        self, _path: str | None, handle: int, offset: int, *, plus: bool = False
    ) -> Iterator[Listed]:
        """The entries from offset `offset` on, each with its current attributes.

        `plus`: the kernel also takes the attributes.

        Offset 0 fixes which entries there are: the whole directory is listed before the first entry
        leaves, so that a failure is an error and not a short directory.
        """
        with self._lock:
            directory = self._directories[handle]
        if not offset:
            listed = directory.take_ahead()
            directory.listed = self._fs.children(directory.path) if listed is None else listed
        return self._entries(directory.path, directory.listed, offset, plus=plus)

    def _entries(
        self, path: str, listed: list[Entry], offset: int, *, plus: bool
    ) -> Iterator[Listed]:
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
                yield Listed(entry.name, stat, complete and plus, number + 3)
                if complete and plus:  # not reached if the page was full before this entry
                    self._told(prefix + entry.name, entry, stat)

    @_answered
    def releasedir(self, _path: str | None, handle: int) -> int:
        with self._lock:
            self._directories.pop(handle, None)
        return 0

    @_answered
    def statfs(self, _path: str) -> dict[str, int]:
        space = self._fs.space()
        blocks = (space.free if space else PLENTY_BYTES) // STATFS_BLOCK_BYTES
        return {
            "f_bsize": STATFS_BLOCK_BYTES,
            "f_frsize": STATFS_BLOCK_BYTES,
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
        believed = self.kernel.believes(path)
        with self._backing.opening(path, info.flags):
            try:
                caller = self.caller() if info.flags & _WRITING else 0
                info.fh = self._fs.open(path, info.flags, caller)
            except errors.NotFound as error:
                raise self._gone(path, error) from error
            self._correct(path, info.fh, believed)
            # With direct_io, the kernel passes on every read, whatever size it believes.
            info.direct_io = self._fs.is_unsized(info.fh)
            self._backing.lend(path, info, lambda: self._shape(path, info.fh))
        return 0

    def _shape(self, path: str, handle: int) -> Shape:
        told = self._stat(path, self._fs.handle_attributes(handle))
        return told.st_size, told.st_mtimespec

    @_answered
    def create(self, path: str, mode: int, info: Any) -> int:
        with self._backing.opening(path, info.flags):
            info.fh = self._fs.create(path, mode, info.flags, self.caller())
            self._backing.lend(path, info, None)
        return 0

    @_answered
    def mknod(self, path: str, mode: int, _device: int) -> int:
        if not stat.S_ISREG(mode):
            raise errors.NotPermitted("FTP knows neither devices nor FIFOs nor sockets")
        self._fs.make(path, mode)
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
        if self._fs.writes(info.fh):
            self._fs.flush(info.fh, self.caller())
            if self._fs.followed(info.fh) is None:
                self.kernel.knows_better(self._fs.path_of(info.fh))
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
        self._fs.fsync_folder(directory.path)  # the server has renames and deletions already
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
        try:
            self._fs.unlink(path)
        except errors.NotFound:
            # libfuse deletes a hidden name at the last close, and libfuse 3.17 does so twice. The
            # second error would reach the program that closes the file or unlinks its name.
            if not _is_libfuses(path):
                raise
        return 0

    @_answered
    def rename(self, old: str, new: str, flags: int = 0) -> int:
        if self._backing.renames(old, new):
            return 0
        if _is_libfuses(new):
            self._fs.hide(old, new)
        else:
            self._fs.rename(old, new, flags)
        self.kernel.renamed(old, new)
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
        """The upload state of a file, or of everything in a folder; what is stored of a file.

        EOPNOTSUPP for all names outside "user.", and not "no such attribute": `ls` then stops
        asking for ACLs.
        """
        if name == OUTDATED_ATTRIBUTE:
            self.kernel.invalidate_outdated()
            return b""
        if name == STORED_ATTRIBUTE and (holding := self._fs.holding(path)) is not None:
            return holding.value.encode()
        if name != STATE_ATTRIBUTE:
            if name.startswith("user."):
                raise OSError(errno.ENODATA, f"no attribute {name}")
            raise OSError(errno.EOPNOTSUPP, "no such attributes")
        return self._fs.state(path).encode()

    @_answered
    def listxattr(self, _path: str) -> list[str]:
        return [STATE_ATTRIBUTE]

    # Internal.

    def path_of(self, info: Any) -> str:
        """The path of an open file, if libfuse passes only the handle."""
        return self._fs.path_of(info.fh)

    def _gone(self, path: str, error: errors.NotFound) -> errors.FtpfsError:
        """The error for an open of a missing name: StaleName at first, then NotFound.

        At StaleName, the kernel looks the name up once more, and if the open may create a file, it
        creates it. At a second StaleName, the kernel would pass the error to the program, which
        does not know it.
        """
        who, now = (path, self.caller()), time.monotonic()
        with self._lock:
            self._stale = {
                each: when
                for each, when in self._stale.items()
                if now - when < RETRIED_WITHIN_SECONDS
            }
            if self._stale.pop(who, None) is not None:
                return error
            self._stale[who] = now
        return errors.StaleName(f"{error} any more")

    def _told(self, path: str, entry: Entry, told: Stat) -> None:
        if entry.kind is Kind.FILE:
            self.kernel.told(path, told.st_size, told.st_mtimespec)

    def _correct(self, path: str, handle: int, believed: Shape | None) -> None:
        """Correct the kernel if it believes a size and time that another client has changed."""
        entry = self._fs.followed(handle)
        believed = self.kernel.believes(path) or believed
        if entry is not None and believed is not None:
            now = _size(entry), UNDATED if entry.mtime is None else entry.mtime
            if believed != now:
                self.kernel.correct(path, now)

    def _attempt(self, change: Callable[[], None]) -> int:
        """Change an attribute.

        With `ignore_attribute_errors`, a change that the server has no command for counts as done:
        otherwise `cp -p` and `rsync -a` would report failure for a complete copy.
        """
        try:
            change()
        except errors.NotSupported as error:
            if not self._look.ignore_attribute_errors:
                raise
            log.debug("ignored: %s", error)
        return 0

    def _stat(self, path: str, entry: Entry) -> Stat:
        look, kind, mode = self._look, entry.kind, entry.mode
        size = _size(entry)
        if mode is None:
            mode = (0o777 if kind is Kind.DIRECTORY else 0o666) & ~look.umask
        unknown = self._began if entry is ROOT else UNDATED
        when = unknown if entry.mtime is None else entry.mtime
        return Stat(
            _TYPE_BITS[kind] | (mode & 0o7777),
            inode(path),
            1,  # also for directories: tools that count links (find) then look by themselves
            look.uid,
            look.gid,
            size,
            -(-size // 512),
            PREFERRED_BYTES,
            when,
            when,
            when,
        )


def _size(entry: Entry) -> int:
    return min(max(entry.size or 0, 0), _MOST_BYTES)


@dataclass
class _OpenDirectory:
    """An open directory. If its entries are not known, it is listed when it is opened.

    Its first `readdir` follows at once. But while the kernel waits for a `readdir`, it locks the
    directory: no name is made in it, and with libfuse 2 none is looked up.
    """

    path: str
    listed: list[Entry] = field(default_factory=list)  # the entries when its reading began
    # The outcome of the listing at the opening, for the first reading, and its time.monotonic().
    _ahead: list[Entry] | errors.FtpfsError | None = None
    _ahead_at: float = 0.0

    def list_ahead(self, list_it: Callable[[str], list[Entry]]) -> None:
        try:
            self._ahead = list_it(self.path)
        except errors.FtpfsError as error:
            self._ahead = errors.again(error)  # without the frames of this one
        self._ahead_at = time.monotonic()

    def take_ahead(self) -> list[Entry] | None:
        """The entries of the listing at the opening, once, and within a second.

        Raises its error.
        """
        ahead, self._ahead = self._ahead, None
        if time.monotonic() - self._ahead_at > AHEAD_SECONDS:
            return None
        if isinstance(ahead, errors.FtpfsError):
            raise ahead
        return ahead


def _is_libfuses(path: str) -> bool:
    return path.rpartition("/")[2].startswith(LIBFUSE_HIDDEN)


def _refuse_chown() -> None:
    raise errors.NotSupported("FTP cannot change owners")
