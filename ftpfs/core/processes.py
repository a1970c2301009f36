"""Finds the process of a thread: the kernel names the thread that makes a request.

Owns the look-up in /proc, made when a caller needs it. Does not know files.

Threading: any thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Collection
from pathlib import Path

# Open files of a process that are looked at.
MOST_FILES = 1000
_FDINFO = re.compile(rb"^(pos|ino):\t(\d+)$", re.MULTILINE)


def are_one(opener: int, caller: int) -> bool:
    """Whether two threads, or processes, belong to one process.

    Also true if the kernel does not tell: the number is 0 (another namespace), the thread is gone,
    or /proc is hidden.
    """
    if not opener or not caller or opener == caller:
        return True
    process = _process_of(caller)
    if process is None or process == opener:
        return True
    other = _process_of(opener)
    return other is None or other == process


def is_killed(thread: int) -> bool:
    """Whether a thread that waits in the kernel will end as soon as its wait is over.

    The kernel marks each thread of a process with SIGKILL for any signal that ends the process,
    Ctrl-C included. False if the kernel does not tell.
    """
    pending = _field(thread, b"SigPnd:") if thread else None
    return pending is not None and int(pending, 16) >> (signal.SIGKILL - 1) & 1 == 1


def reads_before(numbers: Collection[int], process: int, size: int) -> bool:
    """Whether a process has a file of one of these inode numbers open, and is before `size` in it.

    False if the kernel does not tell, or if it has too many files open to look at all of them.
    """
    folder, places = Path(f"/proc/{process}/fdinfo"), []
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    for name in names if len(names) <= MOST_FILES else ():
        with contextlib.suppress(OSError):  # closed meanwhile
            told = dict(_FDINFO.findall((folder / name).read_bytes()))
            if int(told.get(b"ino", -1)) in numbers:
                places.append(int(told[b"pos"]))
    return bool(places) and max(places) < size


def _process_of(thread: int) -> int | None:
    process = _field(thread, b"Tgid:")
    return None if process is None else int(process)


def _field(thread: int, name: bytes) -> bytes | None:
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(name):
            return line[len(name) :]
    return None
