"""The FUSE bindings: which one is used here, its mount options, and the gaps of each.

The only module that imports fusepy (libfuse 2) and mfusepy (libfuse 3). Owns everything in which
the two differ, so that `operations` is one class for both. Owns no policy about errors or files.

Which, on one machine, in one run (an in-memory file system, no network): reading is as fast
(0.7-1.4 against 1.4 GB/s), writing 1.0 against 1.5 GB/s, `ls -l` of 10,000 entries the same. So
libfuse 3 is taken where it is there, and nothing is missing without it.

**Thread states.** Python makes a thread state for each callback on a thread that is not its own,
and throws it away after: two system calls, page faults and an interrupt to the other processor each
time. On libfuse 3 it is kept for the life of the thread: a cold read of 537 MB took 0.71 s on
loopback, and 0.87 s of our CPU, instead of 0.86 and 0.96 (medians of three alternating runs). That
leaks nothing, because libfuse 3, as set up here, lets no thread go before the end. libfuse 2 does,
beyond ten that are idle, and has no option against it; so there it is not done.

**Read-ahead of the kernel** is left at its 128 KiB: with 512 KiB and more (root can have that by
/sys/class/bdi) more requests are under way at once, and their threads take the interpreter from one
another: 465 MB/s with 128 KiB, 400 with 1 MiB, 370 with 2.

Threading: libfuse calls from threads of its own; the operations must be safe for that.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import importlib.util
import operator
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftpfs import errors
from ftpfs.fuse.operations import Stat

FUSE_DEVICE = "/dev/fuse"

# Requests the kernel may have under way at once; its default of 12 throttles parallel readers.
MAX_BACKGROUND = 64
# The largest read request of libfuse 2; libfuse 3 would allow more, but a block is one request.
MAX_READ = 128 << 10
# Threads of libfuse 3. Its own default of 10 lets ten reads of a stalled server block all the rest.
MAX_THREADS = 64

# fuse_common.h and fuse.h of libfuse 3.
CAP_READDIRPLUS_AUTO = 1 << 14
READDIR_PLUS = 1
FILL_DIR_PLUS = 2

_CODEC = "ftpfs-names"


@dataclass(frozen=True)
class Binding:
    """A usable pair of Python module and C library."""

    module: str
    library: str

    @property
    def fuse3(self) -> bool:
        return self.module == "mfusepy"


# In order of preference. Sonames, because that is what is there without the -dev packages.
_CANDIDATES = (
    Binding("mfusepy", "libfuse3.so.3"),
    Binding("mfusepy", "libfuse3.so.4"),
    Binding("fusepy", "libfuse.so.2"),
)
_IMPORT_NAME = {"fusepy": "fuse", "mfusepy": "mfusepy"}


def choose(wanted: str = "auto") -> Binding:
    """The binding to use: `wanted`, or the first that is usable here.

    Raises NotSupported with what to install.
    """
    for binding in _CANDIDATES:
        if wanted in ("auto", binding.module) and _usable(binding):
            return binding
    if wanted == "mfusepy":
        raise errors.NotSupported(
            "mfusepy with libfuse 3 is not there (pip install 'ftpfs[fuse3]'; "
            "apt install libfuse3-3 fuse3)"
        )
    raise errors.NotSupported("libfuse is missing (Debian, Ubuntu: apt install libfuse2 fuse3)")


def _usable(binding: Binding) -> bool:
    if importlib.util.find_spec(_IMPORT_NAME[binding.module]) is None:
        return False
    try:
        ctypes.CDLL(binding.library)
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class MountOptions:
    """What the kernel and libfuse are told. Times in seconds."""

    name: str  # shown by `mount` and `df`
    read_only: bool
    allow_other: bool
    default_permissions: bool
    attr_timeout: float
    kernel_flags: tuple[str, ...]  # exec, nodev, noatime, ...: as they are


def run(binding: Binding, operations: Any, mountpoint: str, options: MountOptions) -> None:
    """Mount, and serve until unmounted or told to stop by SIGINT, SIGTERM or SIGHUP.

    Raises FtpfsError when libfuse could not mount; what it printed went to stderr.
    """
    # Both modules look for their library at import, by this variable first.
    os.environ["FUSE_LIBRARY_PATH"] = binding.library
    kwargs: dict[str, Any] = {
        "foreground": True,  # the daemon is made by mount.py, before any thread exists
        "fsname": options.name.replace(",", "\\,"),
        "subtype": "ftpfs",
        "ro": options.read_only,
        "allow_other": options.allow_other,
        "default_permissions": options.default_permissions,
        "attr_timeout": options.attr_timeout,
        "entry_timeout": options.attr_timeout,
        "negative_timeout": options.attr_timeout,
        # On open, the kernel's cached pages are dropped unless size and mtime are the same.
        "auto_cache": True,
        # Inode numbers are ours: the same in every mount, so that `git status` after a remount
        # does not think that every file was replaced.
        "use_ino": True,
        "max_read": MAX_READ,
        **dict.fromkeys(options.kernel_flags, True),
    }
    try:
        if binding.fuse3:
            _serve_fuse3(binding.library, operations, mountpoint, kwargs)
        else:
            _serve_fuse2(operations, mountpoint, kwargs)
    except RuntimeError as error:
        # All that libfuse returns is a number, and libfuse 3 does so after a signal, too.
        if not operations.mounted:
            raise errors.FtpfsError(f"libfuse could not mount on {mountpoint}") from error


class _StatLayout:
    """How a `Stat` lies in the binding's C structure on this machine: written in one copy.

    The bindings' own way, by name, takes 6 us an entry; this takes 1.
    """

    def __init__(self, c_stat: Any) -> None:
        self._size = ctypes.sizeof(c_stat)
        fields = sorted(Stat._fields, key=lambda field: getattr(c_stat, field).offset)
        self._order = operator.itemgetter(*(Stat._fields.index(field) for field in fields))
        kinds = {entry[0]: entry[1] for entry in c_stat._fields_}
        layout, end = "=", 0
        for field in fields:
            start, size = getattr(c_stat, field).offset, getattr(c_stat, field).size
            letter = _UNSIGNED.get(size, "")
            if hasattr(kinds[field], "tv_sec"):
                size = kinds[field].tv_sec.size  # the nanoseconds behind it stay 0
                letter = _UNSIGNED[size].lower()  # there are times before 1970
            layout += f"{start - end}x{letter}"
            end = start + size
        self._struct = struct.Struct(f"{layout}{self._size - end}x")

    def write(self, where: Any, stat: Stat) -> None:
        ctypes.memmove(where, self._struct.pack(*self._order(stat)), self._size)


_UNSIGNED = {4: "I", 8: "Q"}


def _name(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "surrogateescape")


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


class _QuickWrites:
    """In front of a binding's own: a write, and what the kernel asks before each.

    That is "Has this file capabilities that writing must take away?" There are none. Answered by
    the operations, each of 30,000 writes of 4 KiB cost 61 us of CPU, and so 51.
    """

    def write(self, _path: bytes | None, buffer: Any, size: int, offset: int, fip: Any) -> int:
        # libfuse's memory as it is, for the length of this call; the binding would copy it.
        data = memoryview((ctypes.c_char * size).from_address(ctypes.addressof(buffer.contents)))
        operations = self.operations  # type: ignore[attr-defined]  # of the binding's class
        return int(operations.write(None, data.cast("B"), offset, fip.contents))

    def getxattr(self, path: bytes, name: bytes, *rest: Any) -> int:
        if name == _CAPABILITY:
            return -errno.EOPNOTSUPP
        # Theirs: what comes after this class among the bases below.
        return int(super().getxattr(path, name, *rest))  # type: ignore[misc]


_CAPABILITY = b"security.capability"


def _serve_fuse2(operations: Any, mountpoint: str, kwargs: dict[str, Any]) -> None:
    import fuse

    layout = _StatLayout(fuse.c_stat)

    class Fuse2(_QuickWrites, fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
        """fusepy, with entries and attributes that do not pass through dicts."""

        def fgetattr(self, path: bytes | None, buffer: Any, fip: Any) -> int:
            layout.write(buffer, operations.getattr(_name(path), fip.contents if fip else None))
            return 0

        def readdir(
            self, _path: bytes | None, buffer: Any, filler: Any, _offset: int, fip: Any
        ) -> int:
            # Without offsets: libfuse takes all entries at once, and asks no more than once.
            stat = fuse.c_stat()
            for entry in operations.readdir(None, fip.contents.fh, 0):
                layout.write(ctypes.byref(stat), entry.stat)
                if filler(buffer, _raw(entry.name), stat, 0):
                    break
            return 0

    # fusepy decodes names strictly; one name that is no UTF-8 would make a whole directory fail.
    codecs.register(_names_codec)
    Fuse2(
        _Callable(operations),
        mountpoint,
        raw_fi=True,
        encoding=_CODEC,
        # 4 KiB writes otherwise: 89 MB/s instead of 1 GB/s.
        big_writes=True,
        # O_TRUNC arrives with open, not as a truncate before it: one upload instead of two.
        atomic_o_trunc=True,
        max_background=MAX_BACKGROUND,
        **kwargs,
    )


class _Callable:
    """What fusepy wants of an operations object: to be called with a name (mfusepy warns at it)."""

    def __init__(self, operations: Any) -> None:
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)

    def __call__(self, name: str, *args: Any) -> Any:
        return getattr(self._operations, name)(*args)


def _names_codec(name: str) -> codecs.CodecInfo | None:
    if name.replace("_", "-") != _CODEC:
        return None
    return codecs.CodecInfo(
        name=_CODEC,
        encode=lambda text, _errors="strict": (text.encode("utf-8", "surrogateescape"), len(text)),
        decode=lambda raw, _errors="strict": (
            bytes(raw).decode("utf-8", "surrogateescape"),
            len(raw),
        ),
    )


def _serve_fuse3(library: str, operations: Any, mountpoint: str, kwargs: dict[str, Any]) -> None:
    import mfusepy

    layout = _StatLayout(mfusepy.c_stat)
    kept = threading.local()

    class Fuse3(_QuickWrites, mfusepy.FUSE):  # type: ignore[misc]  # its types are not read
        """mfusepy, with what it drops: the handle of a truncate, the flags of a rename, and the
        path that libfuse leaves out when there is a handle; with the thread state kept after each
        call, and with entries and attributes that do not pass through dicts."""

        def _wrapper(self, func: Callable[..., int], *args: Any, **kwargs: Any) -> int:
            if not hasattr(kept, "state"):
                # Never released: it counts the uses of this thread's state, and so keeps it.
                kept.state = ctypes.pythonapi.PyGILState_Ensure()
            return int(super()._wrapper(func, *args, **kwargs))

        def fgetattr(self, path: bytes | None, buffer: Any, fip: Any) -> int:
            layout.write(buffer, operations.getattr(_name(path), fip.contents if fip else None))
            return 0

        def readdir_fuse_3(
            self, _path: bytes | None, buffer: Any, filler: Any, offset: int, fip: Any, flags: int
        ) -> int:
            # With offsets, so that libfuse asks for each page anew, and entries that were changed
            # since the first are not told as they were then.
            stat = mfusepy.c_stat()
            for entry in operations.readdir(None, fip.contents.fh, offset):
                layout.write(ctypes.byref(stat), entry.stat)
                plus = FILL_DIR_PLUS if entry.complete and flags & READDIR_PLUS else 0
                if filler(buffer, _raw(entry.name), stat, entry.next, plus):
                    break
            return 0

        def truncate_fuse_3(self, path: bytes | None, length: int, fip: Any) -> int:
            handle = fip.contents if fip else None
            return int(self.operations.truncate(_name(path), length, handle) or 0)

        def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
            return int(self.operations.rename(_name(old), _name(new), flags) or 0)

        def chmod_fuse_3(self, path: bytes | None, mode: int, fip: Any) -> int:
            return int(self.operations.chmod(self._path(path, fip), mode) or 0)

        def _path(self, path: bytes | None, fip: Any) -> str | None:
            if path is None and fip:
                return str(self.operations.path_of(fip.contents))
            return _name(path)

    def configure(connection: Any, _config: Any) -> None:
        connection.max_background = MAX_BACKGROUND
        # Has to be said twice: as mount option and here.
        connection.max_read = MAX_READ
        # Attributes always come along. Left to guess, the kernel asks for them only while it sees
        # them used, and `find` and `du` read a directory to its end before they use any.
        connection.want &= ~CAP_READDIRPLUS_AUTO
        operations.init("/")

    # Threads stay until the end. The names of both settings are those of libfuse 3.12 and later;
    # before it there is no most, and threads beyond max_idle_threads (10) would go.
    kwargs["max_idle_threads"] = MAX_THREADS
    if hasattr(ctypes.CDLL(library), "fuse_loop_cfg_create"):
        kwargs["max_threads"] = MAX_THREADS
    Fuse3(_Configured(operations, configure), mountpoint, raw_fi=True, **kwargs)


class _Configured:
    """The operations, with mfusepy's start-up hook for libfuse 3's settings."""

    def __init__(self, operations: Any, configure: Callable[[Any, Any], None]) -> None:
        self._operations = operations
        self.init_with_config = configure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)
