"""Groomers: daemon threads that do a pool's chores, so that no caller waits for them.

A chore starts a thread if none is idle. A thread ends after it has been idle for a while, or after
`close`. If no thread can be started, the caller does the chore itself.

Threading: one lock of its own (Rank.GROOMERS); no chore runs under it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ftpfs.model.locks import Rank, ranked_condition

C = TypeVar("C")

# A groomer ends after it has been idle for this time.
IDLE_SECONDS = 5.0


class Groomers(Generic[C]):
    """Up to `most` threads that call `work(chore)`, in the order the chores come."""

    def __init__(self, work: Callable[[C], None], *, most: int) -> None:
        """`work` must not raise."""
        self._work = work
        self._most = most
        self._changed = ranked_condition(Rank.GROOMERS)
        # Guarded by that lock:
        self._chores: deque[C] = deque()
        self._threads = 0
        self._resting = 0  # number of idle threads
        self._closed = False

    def put(self, chore: C) -> None:
        with self._changed:
            self._chores.append(chore)
            start = self._resting < len(self._chores) and self._threads < self._most
            if start:
                self._threads += 1
            else:
                self._changed.notify()
        if not start:
            return
        try:
            threading.Thread(target=self._run, name="ftpfs-groomer", daemon=True).start()
        except RuntimeError:  # no more threads
            self._run(patience=0)

    def close(self) -> None:
        """End idle threads now, and the others after their chores. Does not wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self, patience: float | None = None) -> None:
        while True:
            with self._changed:
                self._resting += 1
                self._changed.wait_for(
                    lambda: self._chores or self._closed,
                    IDLE_SECONDS if patience is None else patience,
                )
                self._resting -= 1
                if not self._chores:
                    self._threads -= 1
                    return
                chore = self._chores.popleft()
            self._work(chore)
