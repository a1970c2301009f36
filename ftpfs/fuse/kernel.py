"""What the kernel believes about files, and how ftpfs corrects it.

The problem: ftpfs answers a look-up from a listing that may be a minute old, and the kernel
believes that answer for `attr_timeout`. Right afterwards comes the open, for which ftpfs asks the
server, and the server may report another size. A reply to an open has no room for a size, so the
kernel does not learn it. Programs would read the new content only up to its old length (`cp`, `wc
-c`), or write beyond an end that has moved (`>>`, SEEK_END).

The obvious solution is libfuse's `fuse_invalidate_path`. It fails twice: libfuse 2 does not have
it, and the kernel keeps the old size until a program asks for the attributes. Appending,
sendfile(2), copy_file_range(2) and a memory map do not ask.

What we do: before the open returns, a thread of ftpfs calls statx(2) on the file, through the
mount, with AT_STATX_FORCE_SYNC. The kernel asks ftpfs, and takes over the answered size with all
consequences: it drops pages beyond the end, and pages of another content. This costs some 0.3 ms,
and only for files that another client changed.

That call may block: on pages that another program is reading, or on a folder in which a file is
being made. Therefore the open waits for it no longer than the kernel believes its old attributes;
after that the kernel asks by itself.

The daemon may also be killed meanwhile. The thread waits for the kernel, which waits for the
daemon; an open device would keep the kernel waiting endlessly. Therefore the thread closes all its
descriptors before it asks: close_range(2) with CLOSE_RANGE_UNSHARE, or unshare(2). Closing every
number up to the limit would take minutes if the limit is a thousand million, as in many containers.

**What others changed, as a look behind an answer has found** (`core.names.behind`). Here nobody
waits, and `fuse_invalidate_path` of libfuse 3 is the right call: at the next use, the kernel asks.
(With libfuse 2 the kernel asks when its `attr_timeout` is over.) Three things can go wrong with it:

- It drops the file's pages, and waits for those that are being read. If the daemon is killed
  meanwhile, the thread that waits holds the device open, and both stay for ever. Only an open file
  has such pages, so open files are left out (`core.filesystem`).
- libfuse destroys its tables, and closes its device, when its loop has ended, without a call to us
  before. A thread of ours would use them after that. So the call is made inside a callback: while
  one runs, the loop cannot end.
- A callback must not make the call while the kernel holds a lock for the program that it serves. So
  it is a callback of our own: a thread reads the attribute `user.ftpfs.outdated` of the mount's
  folder. For that the kernel holds no lock. The thread has closed all its descriptors, as above.

Owns: the sizes and times of files that the kernel was told lately, and the paths about which it
should ask. Knows neither entries nor servers.

Threading: any. `_lock` is a leaf; nothing waits under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

log = logging.getLogger(__name__)

Shape: TypeAlias = tuple[int, int]  # size (bytes) and modification time (s) of a file

# Minimum time (seconds) for which answers are remembered, even if `attr_timeout` is shorter: the
# kernel keeps a size until it asks again.
SHORTEST_MEMORY_SECONDS = 1.0
# Maximum files in one generation: 250 bytes each.
MOST_FILES = 50_000
# Maximum time (seconds) that an open waits for a kernel that cannot be corrected.
LONGEST_WAIT_SECONDS = 2.0

# Reading it makes the kernel ask about the paths that are outdated.
OUTDATED_ATTRIBUTE = "user.ftpfs.outdated"

# fcntl.h, linux/stat.h, sched.h, resource.h
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_STATX_FORCE_SYNC = -100, 0x100, 0x2000
_STATX_BASIC_STATS = 0x7FF
_STATX_SIZE, _STATX_SIZE_AT, _STATX_MTIME_AT = 256, 40, 112
_CLONE_FILES = 0x400
# Not all C libraries have close_range; its number is the same on all machines.
_SYS_CLOSE_RANGE, _CLOSE_RANGE_UNSHARE = 436, 2
_LAST_FILE = (1 << 32) - 1


class KernelView:
    """What the kernel believes about the files of one mount."""

    def __init__(
        self,
        mountpoint: str,
        believes_for: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`believes_for`: the mount's `attr_timeout`, in seconds."""
        # Makes the kernel ask about a path when it is used next; only called inside a callback. The
        # binding sets it if its libfuse has the call.
        self.invalidate: Callable[[str], None] | None = None
        self.mountpoint = mountpoint.rstrip("/")
        self._believes_for = believes_for
        self._generation = max(believes_for, SHORTEST_MEMORY_SECONDS)
        self._clock = clock
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._lock = threading.Lock()
        # Guarded by _lock. There are two generations, so that each entry lives for at least one:
        self._new: dict[str, Shape] = {}
        self._old: dict[str, Shape] = {}
        self._since = clock()
        # With which size and time each file was opened last, whose pages the kernel may have.
        self._opened: dict[str, Shape] = {}
        self._outdated: set[str] = set()  # paths about which the kernel should ask
        self._asks_for_outdated = False  # a thread does

    # What the kernel believes.

    def told(self, path: str, size: int, mtime: int) -> None:
        """Note the size and time that ftpfs is about to tell the kernel."""
        with self._lock:
            self._turn_locked()
            self._new[path] = (size, mtime)

    def believes(self, path: str) -> Shape | None:
        """The size and time that the kernel was last told; None if nothing lately."""
        with self._lock:
            self._turn_locked()
            return self._new.get(path) or self._old.get(path)

    def knows_better(self, path: str) -> None:
        """Forget a file that was written through the mount: the kernel itself knows its size."""
        with self._lock:
            self._new.pop(path, None)
            self._old.pop(path, None)

    def renamed(self, old: str, new: str) -> None:
        """Move what the kernel believes about files at and below `old` to `new`."""
        with self._lock:
            is_file = old in self._old or old in self._new  # nothing lies below it
            if not is_file:
                self._opened.clear()
            self._opened.pop(old, None)
            self._opened.pop(new, None)
            for known in (self._old, self._new):
                known.pop(new, None)
                below = () if is_file else [each for each in known if each.startswith(old + "/")]
                for path in (old, *below):
                    if (shape := known.pop(path, None)) is not None:
                        known[new + path[len(old) :]] = shape

    def _turn_locked(self) -> None:
        now = self._clock()
        if now - self._since >= self._generation or len(self._new) >= MOST_FILES:
            self._old = self._new if now - self._since < 2 * self._generation else {}
            self._new, self._since = {}, now

    # Which pages it keeps at an open, if libfuse does not decide that.

    def keeps_pages(self, path: str, shape: Shape) -> bool:
        """Whether the file is opened as it was opened last, so that its pages may be kept."""
        with self._lock:
            if len(self._opened) >= MOST_FILES:
                self._opened.clear()
            before, self._opened[path] = self._opened.get(path), shape
            return before == shape

    def forget_pages(self, path: str) -> None:
        """The file is read and written without the kernel's pages of it."""
        with self._lock:
            self._opened.pop(path, None)

    # What others changed.

    def outdated(self, paths: Iterable[str]) -> None:
        """Make the kernel ask about these entries when they are used next. Returns at once.

        None of them may be open.
        """
        if self.invalidate is None:
            return
        with self._lock:
            if len(self._outdated) < MOST_FILES:
                self._outdated.update(paths)
            starts = bool(self._outdated) and not self._asks_for_outdated
            self._asks_for_outdated = self._asks_for_outdated or starts
        if starts:
            try:
                threading.Thread(
                    target=self._have_outdated_invalidated, name="ftpfs-outdated", daemon=True
                ).start()
            except RuntimeError:  # no thread can be started: the next change tries again
                with self._lock:
                    self._asks_for_outdated = False

    def invalidate_outdated(self) -> None:
        """The callback: what OUTDATED_ATTRIBUTE is read for."""
        while paths := self._take_outdated():
            for path in paths:
                if self.invalidate is not None:
                    self.invalidate(path)

    def _take_outdated(self) -> set[str]:
        with self._lock:
            paths, self._outdated = self._outdated, set()
            return paths

    def _have_outdated_invalidated(self) -> None:
        """Read the attribute until nothing is outdated. Run it in a thread of its own."""
        place, name = os.fsencode(self.mountpoint), OUTDATED_ATTRIBUTE.encode()
        able = False
        with contextlib.suppress(OSError):  # no /proc
            able = self.give_files_up()
        while True:
            if not able or self._libc.getxattr(place, name, None, 0) < 0:
                self._take_outdated()  # the kernel asks by itself soon
            with self._lock:
                if not self._outdated:
                    self._asks_for_outdated = False
                    return

    # How to correct it.

    def correct(self, path: str, shape: Shape) -> None:
        """Return when the kernel believes that the file at `path` has this size and time.

        Call it with no lock held; getattr must already answer with this size and time.
        """
        begun = self._clock()
        seen = self._ask_in_a_thread(path)
        if seen != shape:
            rest = begun + min(self._believes_for, LONGEST_WAIT_SECONDS) - self._clock()
            log.debug("%s: the kernel shows %s in place of %s", path, seen, shape)
            time.sleep(max(0.0, rest))

    def _ask_in_a_thread(self, path: str) -> Shape | None:
        seen: list[Shape | None] = []
        done = threading.Event()

        def ask() -> None:
            try:
                with contextlib.suppress(OSError):  # no /proc
                    seen.append(self._ask_the_kernel(path))
            finally:
                done.set()

        try:
            threading.Thread(target=ask, name="ftpfs-correct", daemon=True).start()
        except RuntimeError:  # no thread can be started
            return None
        done.wait(min(self._generation, LONGEST_WAIT_SECONDS))
        return seen[0] if seen else None

    def _ask_the_kernel(self, path: str) -> Shape | None:
        """What the kernel shows of a file after it asked ftpfs; None if that is not known.

        Run it in a thread of its own, which has no descriptors afterwards.
        """
        if not self.give_files_up():
            return None
        buffer = ctypes.create_string_buffer(_STATX_SIZE)
        failed = self._libc.statx(
            _AT_FDCWD,
            os.fsencode(self.mountpoint + path),
            _AT_SYMLINK_NOFOLLOW | _AT_STATX_FORCE_SYNC,
            _STATX_BASIC_STATS,
            buffer,
        )
        if failed:
            return None
        [size] = struct.unpack_from("=Q", buffer, _STATX_SIZE_AT)
        [mtime] = struct.unpack_from("=q", buffer, _STATX_MTIME_AT)
        return size, mtime

    def give_files_up(self) -> bool:
        """Unshare and close the descriptors of this thread; False if that is not possible."""
        numbers = (0, _LAST_FILE, _CLOSE_RANGE_UNSHARE)
        if not self._libc.syscall(_SYS_CLOSE_RANGE, *map(ctypes.c_long, numbers)):
            return True
        if self._libc.unshare(_CLONE_FILES):  # Linux before 5.9
            return False
        for each in os.listdir("/proc/thread-self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of this listing
                os.close(int(each))
        return True
