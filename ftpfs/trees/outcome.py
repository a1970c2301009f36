"""The outcome of work on trees: counts, what failed and why, and what runs now.

Threading: any thread; one lock (Rank.TALLY), and nothing is called under it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ftpfs.errors import FtpfsError
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.trees.plan import Action

# Failures of which path and reason are kept; the others are counted.
MOST_FAILURES = 1000


@dataclass(frozen=True)
class Failure:
    """A path that was not copied or deleted, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Running:
    """A file on its way. `total` None: the size is not known."""

    path: str
    done: int
    total: int | None


@dataclass
class Outcome:
    """What was done so far. `found`, `found_bytes`: files that are to be copied, as far as known.

    `failures` has the first MOST_FAILURES of the `failed` ones.
    """

    copied: int = 0
    bytes: int = 0
    same: int = 0
    folders: int = 0
    deleted: int = 0
    failed: int = 0
    found: int = 0
    found_bytes: int = 0
    unlisted: int = 0  # folders that could not be listed; counted among `failed`, too
    interrupted: bool = False
    failures: list[Failure] = field(default_factory=list)


# Called for each step that is done: the action, the path at the destination, and
# the size in bytes of a file that was copied.
Tell = Callable[[Action, str, int | None], None]


def tell_nobody(_action: Action, _path: str, _size: int | None) -> None:
    """For runs of which nobody hears each step."""


class Tally:
    """Counts what the threads of one run do."""

    def __init__(self) -> None:
        self._lock = ranked_lock(Rank.TALLY)
        # Guarded by _lock:
        self._now = Outcome()
        self._running: dict[int, Running] = {}

    def add(
        self,
        *,
        copied: int = 0,
        same: int = 0,
        folders: int = 0,
        deleted: int = 0,
        found: int = 0,
        found_bytes: int = 0,
        moved: int = 0,
    ) -> None:
        now = self._now
        with self._lock:
            now.copied += copied
            now.same += same
            now.folders += folders
            now.deleted += deleted
            now.found += found
            now.found_bytes += found_bytes
            now.bytes += moved

    def fail(self, path: str, why: BaseException | str, *, listing: bool = False) -> None:
        with self._lock:
            self._now.failed += 1
            self._now.unlisted += listing
            if len(self._now.failures) < MOST_FAILURES:
                self._now.failures.append(Failure(path, _words(path, why)))

    def take_over(self, other: Outcome) -> None:
        """Add the deletions and failures of another run."""
        with self._lock:
            now = self._now
            now.deleted += other.deleted
            now.failed += other.failed
            now.interrupted |= other.interrupted
            now.failures += other.failures[: MOST_FAILURES - len(now.failures)]

    def interrupt(self) -> None:
        with self._lock:
            self._now.interrupted = True

    def runs(self, key: int, path: str, done: int, total: int | None) -> None:
        """Note how far the file of the thread `key` has come."""
        with self._lock:
            self._running[key] = Running(path, done, total)

    def ends(self, key: int) -> None:
        with self._lock:
            self._running.pop(key, None)

    def now(self) -> Outcome:
        with self._lock:
            return replace(self._now, failures=list(self._now.failures))

    def running(self) -> list[Running]:
        with self._lock:
            return list(self._running.values())


def _words(path: str, why: BaseException | str) -> str:
    """The reason for people, without the path, which is told beside it."""
    if isinstance(why, OSError) and not isinstance(why, FtpfsError) and why.strerror:
        return why.strerror
    return str(why).removeprefix(f"{path}: ") or type(why).__name__
