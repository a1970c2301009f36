"""Looks behind answers: a listing that has just answered a program is made again, if it is old.

A scanner drops a file into a folder that a program lists again and again. The program is answered
from memory, at once; behind the answer the folder is listed anew, and the next `ls` or `stat` shows
the file. What has changed is reported, for the kernel to hear of it (`fuse.kernel`).

Nobody waits for such a look, so it takes what nobody else needs: one look at a time, on a
connection that is there and idle, while no one else waits for one. No connection is made for it. A
program that needs the same listing waits for this one in place of making another (`tree`). After a
network failure there is a pause, longer after each one.

Owns: the folders that wait for a look, and the thread that takes them in turn. Does not own which
folder is due (`belief`). Raises nothing to a caller.

Threading: any thread calls `wanted`, with no lock held. `_changed` (Rank.BEHIND) guards everything;
no call under it waits. The thread is a daemon: one that hangs in the network delays no unmount. It
reports a change with no lock and no lease held.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ftpfs import errors
from ftpfs.model.locks import Rank, ranked_condition

log = logging.getLogger(__name__)

# Limit of folders that wait for a look. A walk through thousands of folders that were listed before
# leaves the last ones, and no tail of listings that nobody needs any more.
MOST_WAITING = 32
# The pause after a network failure (seconds); it doubles with each further one, up to the second
# figure.
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 60.0
# A thread without work ends after this time (seconds).
IDLE_SECONDS = 2.0


class Changes(NamedTuple):
    """What a look has found: the names in `folder` that came, went or have other attributes."""

    folder: str
    names: frozenset[str]


Choose = Callable[[], "str | None"]


class Behind:
    """The looks behind answers of one mount."""

    def __init__(
        self,
        look: Callable[[Choose], Changes | None],
        *,
        report: Callable[[Changes], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look(choose)` calls `choose` when a connection is free, and lists the folder that it
        returns, or nothing for None. It returns None if it has listed nothing."""
        self._look = look
        self._report = report
        self._clock = clock
        self._changed = ranked_condition(Rank.BEHIND)
        # Guarded by _changed:
        self._waiting: dict[str, None] = {}  # the folders, in the order of the answers
        self._runs = False  # there is a thread
        self._pause = PAUSE_SECONDS
        self._quiet_until = float("-inf")  # after a failure
        self._closed = False

    def wanted(self, folder: str) -> None:
        """Look at `folder` soon: a program has been answered from its old listing."""
        with self._changed:
            if self._closed or self._clock() < self._quiet_until:
                return
            self._waiting[folder] = None
            while len(self._waiting) > MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
            self._changed.notify()
            starts, self._runs = not self._runs, True
        if starts:
            self._start()

    def close(self) -> None:
        """Begin no more looks. Does not wait for the one under way."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    # The thread.

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="ftpfs-behind", daemon=True).start()
        except RuntimeError as error:  # no more threads
            log.info("no thread can be started to look behind answers: %s", error)
            with self._changed:
                self._runs = False

    def _run(self) -> None:
        try:
            while self._has_work():
                self._look_once()
        except Exception:
            log.exception("looking behind an answer failed: unexpected error")
            with self._changed:
                self._runs = False

    def _has_work(self) -> bool:
        """Wait for a folder. False: none came for a while, and this thread ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting, IDLE_SECONDS)
            self._runs = bool(self._waiting)
            return self._runs

    def _look_once(self) -> None:
        try:
            changes = self._look(self._choose)
        except errors.NetworkError as error:
            log.info("not looked at again behind an answer: %s", error)
            with self._changed:
                self._waiting.clear()
                self._quiet_until = self._clock() + self._pause
                self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
            return
        except errors.FtpfsError as error:
            log.debug("not looked at again behind an answer: %s", error)
            return
        with self._changed:
            self._pause = PAUSE_SECONDS
        if changes is not None and changes.names:
            log.debug("%s: %d names were changed by others", changes.folder, len(changes.names))
            self._report(changes)

    def _choose(self) -> str | None:
        with self._changed:
            folder = next(iter(self._waiting), None)
            if folder is not None:
                del self._waiting[folder]
            return folder
