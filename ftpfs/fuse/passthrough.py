"""Passthrough: the kernel reads and writes local files itself, without waking ftpfs.

Since Linux 6.9, the reply to an open may name a *backing file*: a local file that the kernel uses
for each read, write and memory map of that handle. Which files are lent that way, and what follows
from it, is up to `core.files.lending`. This module owns whether the kernel can be asked at all, the
reason if it cannot, and the two calls on the FUSE device.

It needs four things: a process with CAP_SYS_ADMIN, Linux 6.9 or later, libfuse 3.17 or later, and
mfusepy, as fusepy knows libfuse 2 only. Where one is missing, nothing changes for anybody.

Threading: any. `begin` is called once, before the mount answers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import platform
import re
import struct
import threading
from pathlib import Path
from typing import Any

from ftpfs.model.status import PassthroughStatus

log = logging.getLogger(__name__)

# linux/capability.h; libfuse's fuse_common.h.
CAP_SYS_ADMIN = 21
FUSE_CAP_PASSTHROUGH = 1 << 29
# A backing file lies on a file system that stands on no other one.
STACK_DEPTH = 1
LEAST_KERNEL, LEAST_LIBFUSE = (6, 9), (3, 17)

# linux/fuse.h: FUSE_DEV_IOC_BACKING_OPEN and _CLOSE, and their arguments.
_OPEN, _CLOSE = 0x4010E501, 0x4004E502
_OPENED = struct.Struct("=iIQ")
_CLOSED = struct.Struct("=I")
_BACKING_ID_AT = 36

# What the kernel says if it takes no file of that disk, now or later.
_NEVER = (errno.ELOOP, errno.EOPNOTSUPP, errno.EPERM, errno.ENOTTY)


def obstacle(*, wanted: bool, module: str, library: str, libfuse: tuple[int, int]) -> str:
    """Why the kernel cannot be asked to read and write local files itself; "": it can, perhaps.

    `module`, `library`, `libfuse`: the binding, its library, and the version of that.
    """
    if not wanted:
        return "switched off by passthrough=no"
    if module != "mfusepy":
        return f"mfusepy and libfuse 3.17 or later are needed, and this is {module} ({library})"
    if libfuse < LEAST_LIBFUSE:
        return f"libfuse {_dotted(libfuse)} is too old: {_dotted(LEAST_LIBFUSE)} or later is needed"
    kernel = kernel_version()
    if kernel < LEAST_KERNEL:
        return f"Linux {_dotted(kernel)} is too old: {_dotted(LEAST_KERNEL)} or later is needed"
    if not has_admin_rights():
        return "the process lacks CAP_SYS_ADMIN: mount it as root, by fstab or by systemd"
    return ""


def kernel_version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def has_admin_rights() -> bool:
    """Whether this process has CAP_SYS_ADMIN."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        mask = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
        return bool(int(mask, 16) >> CAP_SYS_ADMIN & 1)
    return False


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def name_backing_file(info: Any, number: int) -> None:
    """Name it in the reply to an open: `backing_id` of libfuse's `fuse_file_info`, which mfusepy's
    structure does not name."""
    ctypes.c_int32.from_buffer(info, _BACKING_ID_AT).value = number


class Passthrough:
    """The backing files of one mount (`core.files.lending.Lender`)."""

    def __init__(self, why: str) -> None:
        """`why`: what `obstacle` has found."""
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._why = why
        self._device = -1  # the descriptor of the FUSE device
        self._count = 0

    def ask(self, connection: Any) -> bool:
        """Ask the kernel for it, in libfuse's `init`. Returns whether it can."""
        if not self._why:
            if connection.capable_ext & FUSE_CAP_PASSTHROUGH:
                connection.want_ext |= FUSE_CAP_PASSTHROUGH
                connection.max_backing_stack_depth = STACK_DEPTH
            else:
                self._stop("the kernel does not offer it")
        return not self._why

    def begin(self, device: int) -> None:
        """The mount is made, and `device` is its descriptor of the FUSE device."""
        with self._lock:
            self._device = device

    def end(self) -> None:
        """The mount has ended, and libfuse closes the device."""
        with self._lock:
            self._device = -1

    @property
    def is_on(self) -> bool:
        with self._lock:
            return not self._why and self._device >= 0

    def status(self) -> PassthroughStatus:
        with self._lock:
            return PassthroughStatus(
                on=not self._why and self._device >= 0, why=self._why, files=self._count
            )

    def lend(self, fd: int) -> int:
        """Have the kernel take the open file `fd`. Returns its number; 0: it takes none."""
        if not self.is_on:
            return 0
        try:
            # A mutable argument: only then is the result what the kernel returns.
            asked = bytearray(_OPENED.pack(fd, 0, 0))
            number = int(fcntl.ioctl(self._device, _OPEN, asked, True))
        except OSError as error:
            if error.errno in _NEVER:
                self._stop(f"the kernel does not take files of that disk: {error.strerror}")
            return 0
        with self._lock:
            self._count += 1
        return number

    def take_back(self, number: int) -> None:
        """The kernel needs the number no more. What it has open stays open."""
        with contextlib.suppress(OSError):  # unmounted meanwhile
            fcntl.ioctl(self._device, _CLOSE, _CLOSED.pack(number))

    def _stop(self, why: str) -> None:
        log.info("passthrough is off: %s", why)
        with self._lock:
            self._why = why
