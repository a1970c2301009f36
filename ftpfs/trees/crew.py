"""The crew: threads that work off the files and folders of a tree.

**How memory stays bounded.** A tree of a million files must not be listed before the first file is
copied. So files come before folders: a folder is listed only while fewer files than threads wait.
Of the folders, the one found last comes first, so as many wait as lie beside the path to it.

Owns: the threads, and what waits for them. Does not own what a task does, or what its failure
means: a task catches its own errors.

Threading: any thread; the lock of `_changed` (Rank.CREW) guards the state. No task runs under it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from ftpfs.model.locks import Rank, ranked_condition

log = logging.getLogger(__name__)

Task = Callable[[], None]


class Crew:
    """Runs tasks in `jobs` threads, from `start` until none is left, or until `stop`."""

    def __init__(self, jobs: int, name: str) -> None:
        # Constants:
        self._jobs = jobs
        self._name = name
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()  # a token when all threads ended
        # Guarded by the lock of `_changed`:
        self._changed = ranked_condition(Rank.CREW)
        self._files: deque[Task] = deque()
        self._folders: list[Task] = []
        self._busy = 0  # threads that run a task, which may add others
        self._waiting = 0  # threads that wait for a task
        self._alive = 0
        self._stopped = False

    def add_files(self, tasks: Sequence[Task]) -> None:
        with self._changed:
            if not self._stopped:
                self._files.extend(tasks)
                self._wake_locked(len(tasks))

    def add_folder(self, task: Task) -> None:
        with self._changed:
            if not self._stopped:
                self._folders.append(task)
                self._wake_locked(1)

    def start(self) -> None:
        with self._changed:
            self._alive = self._jobs
        for number in range(self._jobs):
            name = f"{self._name}-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def stop(self) -> None:
        """Begin no further task. Those that run go on."""
        with self._changed:
            self._stopped = True
            self._files.clear()
            self._folders.clear()
            self._changed.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of all threads. False: they still run after that time.

        Handlers of signals run meanwhile.
        """
        try:
            self._ended.get(timeout=seconds)
        except queue.Empty:
            return False
        self._ended.put(None)  # for the next caller
        return True

    def _work(self) -> None:
        try:
            while (task := self._next()) is not None:
                self._run(task)
        finally:
            with self._changed:
                self._alive -= 1
                last = not self._alive
            if last:
                self._ended.put(None)

    def _run(self, task: Task) -> None:
        try:
            task()
        except BaseException:
            log.exception("unexpected error")
        finally:
            with self._changed:
                self._busy -= 1

    def _next(self) -> Task | None:
        """The next task; None at the end."""
        with self._changed:
            while not self._stopped:
                if task := self._take_locked():
                    self._busy += 1
                    return task
                if not self._busy:
                    break
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1
            self._changed.notify_all()
            return None

    def _take_locked(self) -> Task | None:
        if self._folders and len(self._files) < self._jobs:
            return self._folders.pop()
        return self._files.popleft() if self._files else None

    def _wake_locked(self, count: int) -> None:
        if self._waiting:
            self._changed.notify(min(count, self._waiting))
