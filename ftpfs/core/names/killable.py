"""Lets a program that waits for a listing, or for a file of unknown size, be killed.

The kernel ends a killed program only when the request that it waits for is answered. libfuse does
not pass the kernel's interrupts on to a thread that reads from a socket. So the request's thread
does not list by itself: another thread lists, and the request's thread waits, and looks whether its
program was killed. The listing goes on for other programs that wait for it. Work that is done for
one program alone ends with it.

Threading: any thread.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ftpfs.core import processes
from ftpfs.core.names.listings import Fetch
from ftpfs.model.locks import Rank, ranked_condition

T = TypeVar("T")

# How often a waiting request looks whether its program was killed.
LOOK_SECONDS = 0.5


class StillListed(Exception):
    """A listing takes longer than the thread that waits for it wants to wait."""


class _Work(Generic[T]):
    """Work that another thread does for one request."""

    def __init__(self) -> None:
        self.changed = ranked_condition(Rank.REQUEST)
        self.left = False  # the program was killed
        # Guarded by changed:
        self.done = False
        self.results: list[T] = []  # one, if the work succeeded
        self.error: BaseException | None = None

    def run(self, work: Callable[[Callable[[], bool]], T]) -> None:
        results, error = list[T](), None
        try:
            results.append(work(lambda: self.left))
        except BaseException as failure:  # noqa: BLE001 (raised in the request's thread)
            error = failure
        with self.changed:
            self.results, self.error, self.done = results, error, True
            self.changed.notify_all()


class Requests:
    """The kernel's requests that wait for the server.

    `caller()`: the thread that the kernel asks for, in the calling thread; 0: none is known. Set
    once, by the mount.
    """

    def __init__(self) -> None:
        self.caller: Callable[[], int] = lambda: 0

    def run(self, work: Callable[[], None]) -> None:
        """Do `work`; in a request, begin it in a thread of its own."""
        if self.caller():
            begin(work)
        else:
            work()

    def result(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """What `work` returns; in a request, a thread of its own does it.

        `work` gets a function that tells whether the program was killed, and nobody wants the
        result any more. Raises what `work` raises, and InterruptedError if the program was killed.
        """
        each = _Work[T]()
        self.run(lambda: each.run(work))
        with each.changed:
            try:
                self.wait_until(each.changed, lambda: each.done)
            except InterruptedError:
                each.left = True
                raise
        if each.error is not None:
            raise each.error
        return each.results[0]

    def wait(self, changed: threading.Condition, fetch: Fetch, until: float | None = None) -> None:
        """Wait for the end of `fetch`, with `changed` held.

        Raises InterruptedError if the program was killed, and StillListed if the listing is under
        way at `until` (`time.monotonic()`).
        """
        self.wait_until(changed, lambda: fetch.done, until)

    def wait_until(
        self,
        changed: threading.Condition,
        done: Callable[[], bool],
        until: float | None = None,
    ) -> None:
        """Like `wait`, for anything that becomes `done` and then notifies `changed`."""
        caller = self.caller()
        while not done():
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise StillListed
            pause = LOOK_SECONDS if caller else None
            changed.wait(pause if left is None else min(left, pause or left))
            if not done() and processes.is_killed(caller):
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))


def begin(work: Callable[[], None]) -> None:
    """Do `work` in a thread of its own; if none can be started, in this one."""
    try:
        threading.Thread(target=work, name="ftpfs-request", daemon=True).start()
    except RuntimeError:
        work()
