"""A run: the threads of one piece of work on trees, its end, and what became of it.

Owns: how a run is stopped, in two steps, and when it gives up. `copying` and `removing` say what is
done with each name.

Threading: one thread starts a run, waits for it and stops it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ftpfs import errors
from ftpfs.trees.crew import Crew
from ftpfs.trees.outcome import Outcome, Running, Tally
from ftpfs.trees.ways import Stopped

log = logging.getLogger(__name__)

# A run gives up after this many failures of the network in a row for each of its threads. Each of
# them had several attempts.
_FAILURES_IN_A_ROW = 3


class Run:
    """Work on trees by several threads.

    - `start` is the subclass's: it adds the first tasks and calls `crew.start`.
    - `halted`: transfers in progress are to end now.
    """

    def __init__(self, jobs: int, name: str) -> None:
        self.crew = Crew(jobs, name)
        self.tally = Tally()
        self.halted = threading.Event()
        self._jobs = jobs
        self._broken = 0  # failures of the network in a row; a miscount among threads does no harm

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; False: the run goes on after that time. Raises nothing."""
        return self.crew.wait(seconds)

    def stop(self) -> None:
        """Begin nothing more. Transfers in progress go on to their ends."""
        self.tally.interrupt()
        self.crew.stop()

    def halt(self) -> None:
        """`stop`, and end the transfers in progress. They leave nothing half done."""
        self.halted.set()
        self.stop()

    def outcome(self) -> Outcome:
        """What was done until now."""
        return self.tally.now()

    def running(self) -> list[Running]:
        """The large files on their way."""
        return self.tally.running()

    def attempt(self, path: str, work: Callable[[], None], *, listing: bool = False) -> bool:
        """Do `work` on a path, and note its failure. Returns whether it was done."""
        try:
            work()
        except Stopped:
            return False
        except (errors.FtpfsError, OSError, UnicodeError, ValueError) as error:
            if not self.halted.is_set():
                self.tally.fail(path, error, listing=listing)
                self._note_failure(error)
            return False
        self._broken = 0
        return True

    def _note_failure(self, error: BaseException) -> None:
        if not isinstance(error, (errors.NetworkError, errors.LoginFailed)):
            return
        self._broken += 1
        if self._broken == _FAILURES_IN_A_ROW * self._jobs:
            self.tally.fail("", f"given up, the rest was not tried: {error}", listing=True)
            self.crew.stop()
