"""Lets a program that waits for a listing be killed.

The kernel ends a killed program only when the request that it waits for is answered. libfuse does
not pass the kernel's interrupts on to a thread that reads from a socket. So the request's thread
does not list by itself: another thread lists, and the request's thread waits, and looks whether its
program was killed. The listing goes on for other programs that wait for it.

Threading: any thread.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

from ftpfs.core import processes
from ftpfs.core.names.listings import Fetch

# How often a waiting request looks whether its program was killed.
LOOK_SECONDS = 0.5


class StillListed(Exception):
    """A listing takes longer than the thread that waits for it wants to wait."""


class Requests:
    """The kernel's requests that wait for a listing.

    `caller()`: the thread that the kernel asks for, in the calling thread; 0: none is known. Set
    once, by the mount.
    """

    def __init__(self) -> None:
        self.caller: Callable[[], int] = lambda: 0

    def run(self, work: Callable[[], None]) -> None:
        """Do `work`; in a request, begin it in a thread of its own."""
        if not self.caller():
            work()
            return
        try:
            threading.Thread(target=work, name="ftpfs-list", daemon=True).start()
        except RuntimeError:  # no thread can be started
            work()

    def wait(self, changed: threading.Condition, fetch: Fetch, until: float | None = None) -> None:
        """Wait for the end of `fetch`, with `changed` held.

        Raises InterruptedError if the program was killed, and StillListed if the listing is under
        way at `until` (`time.monotonic()`).
        """
        caller = self.caller()
        while not fetch.done:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise StillListed
            pause = LOOK_SECONDS if caller else None
            changed.wait(pause if left is None else min(left, pause or left))
            if not fetch.done and processes.is_killed(caller):
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
