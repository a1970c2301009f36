"""Several pieces of work at once, in threads that end with the call.

Owns: how work is handed to threads, and what a failure stops. Does not own how many connections
there are: the pool lets threads wait.

The calling thread takes part, so a single piece of work needs no other thread.

Threading: `Rank.AT_ONCE` guards what is left to do. Nothing is called under it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from ftpfs.model.locks import Rank, ranked_condition

A = TypeVar("A")
R = TypeVar("R")


def outcomes(
    work: Callable[[A], R], items: Sequence[A], *, threads: int
) -> list[R | BaseException]:
    """The result of `work` for each item, in their order; an exception where it failed."""
    found: list[R | BaseException] = [AssertionError("not done")] * len(items)

    def do(number: int) -> None:
        try:
            found[number] = work(items[number])
        except Exception as error:  # noqa: BLE001 - the caller decides about each of them
            found[number] = error

    _Crew(do, range(len(items)), threads).run()
    return found


def results(work: Callable[[A], R], items: Sequence[A], *, threads: int) -> list[R]:
    """Like `outcomes`, but the first exception is raised, and stops what has not begun."""
    found: dict[int, R] = {}

    def do(number: int) -> None:
        found[number] = work(items[number])

    _Crew(do, range(len(items)), threads).run()
    return [found[number] for number in range(len(items))]


def spread(work: Callable[[A], Iterable[A]], first: Iterable[A], *, threads: int) -> None:
    """Do `work` for the first items, and for all that it returns, as the folders of a tree.

    The first exception is raised, and stops what has not begun.
    """
    _Crew(work, first, threads).run()


class _Crew(Generic[A]):
    """Threads that share a queue. It is over when the queue is empty and no thread works.

    Guarded by the lock of `_changed`: `_left`, the items; `_busy`, how many threads work; `_hands`,
    how many threads there are; `_error`, the first failure.
    """

    def __init__(
        self, work: Callable[[A], Iterable[A] | None], first: Iterable[A], threads: int
    ) -> None:
        self._work = work
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._changed = ranked_condition(Rank.AT_ONCE)
        self._left = deque(first)
        self._busy = 0
        self._hands = 1
        self._error: BaseException | None = None

    def run(self) -> None:
        """Work until nothing is left. Raises the first failure."""
        try:
            self._take_part()
        except BaseException as error:  # an interrupt of the calling thread, above all
            self._stop(error)
            raise
        finally:
            for thread in self._threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _take_part(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._left or not self._busy or self._error)
                if self._error or not self._left:
                    return
                item = self._left.popleft()
                self._busy += 1
                help_is_wanted = bool(self._left) and self._hands < self._most
                self._hands += help_is_wanted
            found: Iterable[A] | None = None
            try:
                if help_is_wanted:
                    thread = threading.Thread(target=self._help, name="ftpfs-api", daemon=True)
                    thread.start()
                    self._threads.append(thread)
                found = self._work(item)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._left.extend(found or ())
                    self._changed.notify_all()

    def _help(self) -> None:
        try:
            self._take_part()
        except BaseException as error:  # noqa: BLE001 - the calling thread raises it
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._left.clear()
            self._changed.notify_all()
