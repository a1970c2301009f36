"""Turning a name over to another inode, while handles have the old one.

The problem: the kernel reads a stored file for some handles by itself (passthrough), and then the
file changes: on the server, or because a program here opens it for writing. The kernel takes no
other backing file for an inode that has one, and no open without one: it would answer EIO. So the
next open needs an inode of its own. libfuse gives one to each name, and keeps it as long as the
kernel knows the inode.

The obvious solution is to have the kernel forget the name. It does, and asks libfuse for it again,
and gets the same inode.

What we do: libfuse gives a name another inode if the file that had it was renamed. So a thread of
ours renames it through the mount, to a hidden name that is never sent to the server:

1. The open is answered with ESTALE. The kernel then looks the name up once more, and tries again.
2. The thread calls rename(2). libfuse waits until that open is answered, because it locks the name
   meanwhile, and asks `Operations.rename`, which knows the hidden name.
3. The kernel's second look-up waits here until the rename is done. libfuse finds no inode under the
   name by then, and makes one.

libfuse calls the old inode by the hidden name from then on: it stands for the path, as the names do
that libfuse makes up by itself (`files.table`). The hidden name alone tells our rename from all
others, so nothing of a user is ever renamed by mistake.

The thread waits for the kernel, which waits for the daemon. So it has no descriptors, as those of
`fuse.kernel` have none.

Owns: which names are being turned over. Knows neither files nor the server.

Threading: any. `_lock` is a leaf; nothing waits under it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ftpfs.model.names import HIDDEN_PREFIX, folder_of, name_of

log = logging.getLogger(__name__)

# How long a look-up waits for the rename (s): that waits for others who change the same folder.
LONGEST_WAIT_SECONDS = 10.0
# How long a failure is remembered (s), for those who try again.
REMEMBERED_SECONDS = 20.0


@dataclass
class _Turn:
    """One name that is being turned over."""

    hidden: str
    callers: set[int]  # that were told to try again
    began: float = field(default_factory=time.monotonic)
    thread: int = 0  # which renames it
    done: threading.Event = field(default_factory=threading.Event)

    def is_remembered(self) -> bool:
        return time.monotonic() - self.began < REMEMBERED_SECONDS


class Turning:
    """The names of one mount that are being turned over."""

    def __init__(self, mountpoint: str, give_files_up: Callable[[], bool]) -> None:
        """`give_files_up`: closes all descriptors of the calling thread, and only of that."""
        self._mountpoint = mountpoint.rstrip("/")
        self._give_files_up = give_files_up
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._prefix = f"{HIDDEN_PREFIX}inode-{secrets.token_hex(8)}-"
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._turns: dict[str, _Turn] = {}
        self._count = 0

    def begin(self, path: str, caller: int) -> bool:
        """Turn `path` over, for `caller`, whose open is answered with ESTALE afterwards. False: it
        was told so before, and the name could not be turned over."""
        with self._lock:
            if (turn := self._turns.get(path)) is not None and not turn.done.is_set():
                is_new = caller not in turn.callers
                turn.callers.add(caller)
                return is_new
            if turn is not None and caller in turn.callers and turn.is_remembered():
                turn.callers.discard(caller)
                return False
            self._count += 1
            hidden = f"{folder_of(path).rstrip('/')}/{self._prefix}{self._count}"
            turn = self._turns[path] = _Turn(hidden, {caller})
        try:
            threading.Thread(
                target=self._run, args=(path, turn), name="ftpfs-turn", daemon=True
            ).start()
        except RuntimeError:  # no thread can be started
            self._end(path, turn, is_done=False)
            return False
        return True

    def is_hidden(self, path: str) -> bool:
        """Whether libfuse may call an old inode by this name."""
        return name_of(path).startswith(self._prefix)

    def is_ours(self, old: str, new: str) -> bool:
        """Whether this rename is one of ours."""
        with self._lock:
            turn = self._turns.get(old)
            return turn is not None and turn.hidden == new

    def is_needless(self, path: str) -> None:
        """The name can keep its inode: nothing is lent by now."""
        with self._lock:
            self._turns.pop(path, None)

    def is_to_be_made(self, path: str) -> bool:
        """Whether this is a hidden name that a rename of ours is about to make."""
        if not self._turns:
            return False
        with self._lock:
            return any(each.hidden == path for each in self._turns.values())

    def wait(self, path: str, caller: Callable[[], int]) -> None:
        """Return when `path` is not being turned over. `caller`: who asks for the name; our own
        thread does not wait."""
        if not self._turns:  # the usual case needs no lock
            return
        with self._lock:
            turn = self._turns.get(path)
        if turn is not None and turn.thread != caller():
            turn.done.wait(LONGEST_WAIT_SECONDS)

    def _run(self, path: str, turn: _Turn) -> None:
        turn.thread = threading.get_native_id()
        is_done = False
        try:
            if self._give_files_up():
                old, new = (os.fsencode(self._mountpoint + each) for each in (path, turn.hidden))
                is_done = self._libc.rename(old, new) == 0
        except OSError as error:  # no /proc
            log.debug("%s got no other inode: %s", path, error)
        finally:
            self._end(path, turn, is_done=is_done)

    def _end(self, path: str, turn: _Turn, *, is_done: bool) -> None:
        """If it failed, it is remembered until those hear of it who were told to try again."""
        with self._lock:
            if is_done:
                self._turns.pop(path, None)
        turn.done.set()
