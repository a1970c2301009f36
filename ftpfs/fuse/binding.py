"""The FUSE bindings: which one is used here, its mount options, and what each lacks.

The only module that imports fusepy (libfuse 2) and mfusepy (libfuse 3). Owns all differences
between the two, so that `operations` is one class for both. Owns no policy about errors or files.

**Choice.** Measured on one machine, in one run (an in-memory file system, no network): the two read
equally fast (0.7-1.4 against 1.4 GB/s), write at 1.0 against 1.5 GB/s, and take the same time for
`ls -l` of 10,000 entries. Therefore ftpfs uses libfuse 3 if it is installed, and nothing is
missing with libfuse 2. With libfuse 2 it uses fusepy: mfusepy could drive that, too, but fusepy is
installed wherever mfusepy is, so a third pair would help nobody.

**Thread states.** For each callback on a foreign thread, Python makes a thread state and discards
it afterwards: two system calls, page faults and an interrupt to the other processor each time. On
libfuse 3, ftpfs keeps the thread state as long as the thread lives: on loopback, a cold read of
537 MB took 0.71 s, and 0.87 s of ftpfs's CPU time, instead of 0.86 and 0.96 (medians of three
alternating runs). That leaks nothing, because libfuse 3, as configured here, ends no thread before
the end. libfuse 2 ends idle threads beyond ten, and has no option against that, so there ftpfs does
not keep them.

**Read-ahead of the kernel** stays at its 128 KiB. With 512 KiB and more (root can set that in
/sys/class/bdi) more requests are in flight at once, and their threads compete for the interpreter:
465 MB/s with 128 KiB, 400 with 1 MiB, 370 with 2.

Threading: libfuse calls from threads of its own; the operations must be safe for that.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import errno
import importlib
import importlib.util
import operator
import os
import select
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftpfs import errors
from ftpfs.fuse import packages, passthrough
from ftpfs.fuse.operations import Stat

FUSE_DEVICE = "/dev/fuse"

# Maximum background requests of the kernel in flight; its default of 12 throttles parallel readers.
# Beyond the limit, reads wait in the kernel, even reads of cached content: with 64, that many
# readers of a dead server kept all other programs from reading cached files.
MAX_BACKGROUND = 500
# Maximum read request (bytes) of libfuse 2. libfuse 3 would allow more, but a block is one request.
MAX_READ = 128 << 10
# Maximum threads of libfuse 3; it starts them on demand. A call that waits for the server occupies
# one. When all are occupied, the next call waits, even if its answer is cached: with 64, a hundred
# readers of a dead server kept a cached `stat` waiting for 18 s. A waiting program takes more
# memory than its waiting thread. libfuse 2 has no limit.
MAX_THREADS = 1000

# fuse_common.h and fuse.h of libfuse 3.
CAP_READDIRPLUS_AUTO = 1 << 14
CAP_HANDLE_KILLPRIV_V2 = 1 << 21
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


# In order of preference. Sonames, because only those exist without the -dev packages.
_CANDIDATES = (
    Binding("mfusepy", "libfuse3.so.4"),  # as of libfuse 3.17
    Binding("mfusepy", "libfuse3.so.3"),
    Binding("fusepy", "libfuse.so.2"),
)
# By what name it is imported: Debian's fusepy is `fusepy`, for its `fuse` is another library.
_IMPORT_NAMES = {"fusepy": ("fusepy", "fuse"), "mfusepy": ("mfusepy",)}


def choose(wanted: str = "auto") -> Binding:
    """The binding to use: `wanted`, or the first usable one.

    Raises NotSupported with what to install.
    """
    for binding in _CANDIDATES:
        if wanted in ("auto", binding.module) and _usable(binding):
            return binding
    raise errors.NotSupported(_missing(wanted))


def _missing(wanted: str) -> str:
    """What is missing for `wanted`, and what to type."""
    modules = [name for name in ("mfusepy", "fusepy") if wanted in ("auto", name)]
    present = [name for name in modules if _importable(name)]
    if not present:
        what = "libraries fusepy and mfusepy are" if wanted == "auto" else f"library {wanted} is"
        return f"the Python {what} missing (pip install {' '.join(reversed(modules))})"
    version = 3 if present[0] == "mfusepy" else 2
    which = "libfuse" if wanted == "auto" else f"libfuse {version}"
    return f"{which} is missing ({packages.here(version)})"


def _usable(binding: Binding) -> bool:
    if not _importable(binding.module):
        return False
    try:
        ctypes.CDLL(binding.library)
    except OSError:
        return False
    return True


def _importable(module: str) -> bool:
    return any(importlib.util.find_spec(name) for name in _IMPORT_NAMES[module])


def passthrough_obstacle(binding: Binding, wanted: str) -> str:
    """Why the kernel would not read and write local files itself with this binding; "": it would.

    `wanted`: the option.
    """
    version = ctypes.CDLL(binding.library).fuse_version()
    version = divmod(version, 100) if version >= 100 else divmod(version, 10)  # 317, and 29
    return passthrough.obstacle(
        wanted=wanted != "no", module=binding.module, library=binding.library, libfuse=version
    )


@dataclass(frozen=True)
class MountOptions:
    """Options for the kernel and libfuse. Times in seconds."""

    name: str  # shown by `mount` and `df`
    read_only: bool
    allow_other: bool
    default_permissions: bool
    attr_timeout: float
    kernel_flags: tuple[str, ...]  # exec, nodev, noatime, ...: passed on unchanged


def run(binding: Binding, operations: Any, mountpoint: str, options: MountOptions) -> None:
    """Mount, and serve until unmounted or stopped by SIGINT, SIGTERM or SIGHUP.

    Raises FtpfsError if libfuse could not mount; libfuse's own message went to stderr.
    """
    # Both modules load their library at import, and look at this variable first.
    os.environ["FUSE_LIBRARY_PATH"] = binding.library
    kwargs: dict[str, Any] = {
        "foreground": True,  # daemon/mount.py makes the daemon, before any thread exists
        "fsname": options.name.replace(",", "\\,"),
        "subtype": "ftpfs",
        "ro": options.read_only,
        "allow_other": options.allow_other,
        "default_permissions": options.default_permissions,
        "attr_timeout": options.attr_timeout,
        "entry_timeout": options.attr_timeout,
        "negative_timeout": options.attr_timeout,
        # On open, the kernel drops its cached pages unless size and mtime are unchanged.
        "auto_cache": True,
        # ftpfs chooses the inode numbers: they are the same in every mount, so that `git status`
        # after a remount does not take every file for replaced.
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
        # libfuse returns only a number, and libfuse 3 returns one after a signal too.
        if not operations.mounted:
            raise errors.FtpfsError(f"libfuse could not mount on {mountpoint}") from error


class _StatLayout:
    """Writes a `Stat` into the binding's C structure of this machine, in one copy.

    The bindings' own way, field by field by name, takes 6 us an entry; this takes 1 us.
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
                letter = _UNSIGNED[size].lower()  # signed: there are times before 1970
            layout += f"{start - end}x{letter}"
            end = start + size
        self._struct = struct.Struct(f"{layout}{self._size - end}x")

    def write(self, where: Any, stat: Stat) -> None:
        ctypes.memmove(where, self._struct.pack(*self._order(stat)), self._size)


_UNSIGNED = {4: "I", 8: "Q"}


def has_ended() -> bool:
    """Whether the kernel has ended this process's mount, so that no program can use it any more.

    A mount that was detached lazily, and is still in use, has not ended.
    """
    poller, devices = select.poll(), 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(f"/proc/self/fd/{descriptor}") == FUSE_DEVICE:
                poller.register(int(descriptor), 0)  # errors are always reported
                devices += 1
    return devices > 0 and len(poller.poll(0)) == devices


def _name(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "surrogateescape")


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


class _QuickWrites:
    """In front of a binding's own methods: writes, and the kernel's question before each write.

    The question is "Does this file have capabilities that the write must remove?" It has none. With
    answers from the operations, each of 30,000 writes of 4 KiB cost 61 us of CPU; with this one, 51
    us.
    """

    def write(self, _path: bytes | None, buffer: Any, size: int, offset: int, fip: Any) -> int:
        # libfuse's own memory, valid during this call; the binding would copy it.
        data = memoryview((ctypes.c_char * size).from_address(ctypes.addressof(buffer.contents)))
        operations = self.operations  # type: ignore[attr-defined]  # of the binding's class
        return int(operations.write(None, data.cast("B"), offset, fip.contents))

    def getxattr(self, path: bytes, name: bytes, *rest: Any) -> int:
        if name == _CAPABILITY:
            return -errno.EOPNOTSUPP
        # The binding's: it follows this class among the bases below.
        return int(super().getxattr(path, name, *rest))  # type: ignore[misc]


_CAPABILITY = b"security.capability"


def _fusepy() -> Any:
    """The module of fusepy, by whichever name it is installed."""
    if importlib.util.find_spec("fusepy"):
        return importlib.import_module("fusepy")
    return importlib.import_module("fuse")


def _serve_fuse2(operations: Any, mountpoint: str, kwargs: dict[str, Any]) -> None:
    fuse = _fusepy()
    base: Any = fuse.FUSE
    layout = _StatLayout(fuse.c_stat)

    class Fuse2(_QuickWrites, base):  # type: ignore[misc]  # fusepy has no types
        """fusepy, with entries and attributes that bypass its dicts."""

        def fgetattr(self, path: bytes | None, buffer: Any, fip: Any) -> int:
            layout.write(buffer, operations.getattr(_name(path), fip.contents if fip else None))
            return 0

        def readdir(
            self, _path: bytes | None, buffer: Any, filler: Any, _offset: int, fip: Any
        ) -> int:
            # Without offsets: libfuse takes all entries at once, and asks only once.
            stat = fuse.c_stat()
            for entry in operations.readdir(None, fip.contents.fh, 0):
                layout.write(ctypes.byref(stat), entry.stat)
                if filler(buffer, _raw(entry.name), stat, 0):
                    break
            return 0

    operations.caller = lambda: fuse.fuse_get_context()[2]
    # fusepy decodes names strictly: one name that is not UTF-8 would make a whole directory fail.
    codecs.register(_names_codec)
    Fuse2(
        _Callable(operations),
        mountpoint,
        raw_fi=True,
        encoding=_CODEC,
        # Without it, writes come in 4 KiB: 89 MB/s instead of 1 GB/s.
        big_writes=True,
        # O_TRUNC arrives with open, not as a truncate before it: one upload instead of two.
        atomic_o_trunc=True,
        max_background=MAX_BACKGROUND,
        **kwargs,
    )


class _Callable:
    """The operations as fusepy wants them: callable with a name (mfusepy warns about that)."""

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


def _fuse3(operations: Any) -> Any:
    """mfusepy's class, with what it drops."""
    import mfusepy

    layout = _StatLayout(mfusepy.c_stat)
    kept = threading.local()

    class Fuse3(_QuickWrites, mfusepy.FUSE):  # type: ignore[misc]  # its types are not read
        """mfusepy's class, with what it drops.

        Adds the handle of a truncate, the flags of a rename, and the path that libfuse leaves out
        if there is a handle. Keeps the thread state after each call. Entries and attributes bypass
        dicts.
        """

        def _wrapper(self, func: Callable[..., int], *args: Any, **kwargs: Any) -> int:
            if not hasattr(kept, "state"):
                # Never released: this counts one more use of the thread's state, and so keeps it.
                kept.state = ctypes.pythonapi.PyGILState_Ensure()
            return int(super()._wrapper(func, *args, **kwargs))

        def fgetattr(self, path: bytes | None, buffer: Any, fip: Any) -> int:
            layout.write(buffer, operations.getattr(_name(path), fip.contents if fip else None))
            return 0

        def readdir_fuse_3(
            self, _path: bytes | None, buffer: Any, filler: Any, offset: int, fip: Any, flags: int
        ) -> int:
            # With offsets, libfuse asks for each page anew, so a later page shows entries as they
            # are then.
            stat = mfusepy.c_stat()
            wanted = bool(flags & READDIR_PLUS)
            for entry in operations.readdir(None, fip.contents.fh, offset, plus=wanted):
                layout.write(ctypes.byref(stat), entry.stat)
                plus = FILL_DIR_PLUS if entry.complete else 0
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

    return Fuse3


def _serve_fuse3(library: str, operations: Any, mountpoint: str, kwargs: dict[str, Any]) -> None:
    import mfusepy

    def configure(connection: Any, config: Any) -> None:
        connection.max_background = MAX_BACKGROUND
        # libfuse wants it twice: as a mount option and here.
        connection.max_read = MAX_READ
        # Always send attributes. Otherwise the kernel guesses: it asks for them only while it sees
        # them used, and `find` and `du` read a directory to its end before they use any.
        # libfuse 3.17 has a wider field, and refuses changes of both.
        wanted = "want_ext" if hasattr(connection, "want_ext") else "want"
        flags = getattr(connection, wanted) & ~CAP_READDIRPLUS_AUTO
        # A write takes setuid away here (`core.files.state`). Otherwise the kernel asks before each
        # write whether there is something to take away.
        flags |= connection.capable & CAP_HANDLE_KILLPRIV_V2
        setattr(connection, wanted, flags)
        if operations.passthrough.ask(connection):
            operations.passthrough.begin(_device(library))
            config.auto_cache = 0  # see `Backing.lend`
        operations.kernel.invalidate = _invalidation(library)
        operations.init("/")

    operations.caller = lambda: mfusepy.fuse_get_context()[2]
    # Threads stay until the end. Both settings have the names of libfuse 3.12 and later. Earlier
    # versions have no maximum, and end threads beyond max_idle_threads (10).
    kwargs["max_idle_threads"] = MAX_THREADS
    if hasattr(ctypes.CDLL(library), "fuse_loop_cfg_create"):
        kwargs["max_threads"] = MAX_THREADS
    serve = _fuse3(operations)
    serve(_Configured(operations, configure), mountpoint, raw_fi=True, **kwargs)


def _invalidation(library: str) -> Callable[[str], None] | None:
    """`fuse_invalidate_path` for this mount; None if this libfuse lacks it (before 3.2).

    To be made, and to be called, inside a callback.
    """
    import mfusepy

    libfuse = ctypes.CDLL(library)
    if not hasattr(libfuse, "fuse_invalidate_path"):
        return None
    call = libfuse.fuse_invalidate_path
    call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_char_p), ctypes.c_int
    fuse = mfusepy._libfuse.fuse_get_context().contents.fuse

    def invalidate(path: str) -> None:
        call(fuse, _raw(path))  # fails if the kernel does not know the path: then all is well

    return invalidate


def _device(library: str) -> int:
    """This mount's descriptor of the FUSE device. To be called inside a callback."""
    import mfusepy

    libfuse = ctypes.CDLL(library)
    libfuse.fuse_get_session.argtypes = (ctypes.c_void_p,)
    libfuse.fuse_get_session.restype = ctypes.c_void_p
    libfuse.fuse_session_fd.argtypes = (ctypes.c_void_p,)
    fuse = mfusepy._libfuse.fuse_get_context().contents.fuse
    return int(libfuse.fuse_session_fd(libfuse.fuse_get_session(fuse)))


class _Configured:
    """The operations with mfusepy's start-up hook, for libfuse 3's settings."""

    def __init__(self, operations: Any, configure: Callable[[Any, Any], None]) -> None:
        self._operations = operations
        self.init_with_config = configure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)
