"""Jobs: the files in the upload queue, in the order in which they are sent.

Owns a file's state in the queue, and two heaps: the files that wait for a moment in time, and the
files that may begin. Decides nothing (`schedule` and `backoff` do).

Threading: the queue's lock guards everything here.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from ftpfs import errors
from ftpfs.core.writing import schedule
from ftpfs.core.writing.backoff import Tries


class File(Protocol):
    """What the queue needs of a file."""

    @property
    def path(self) -> str: ...

    @property
    def waits(self) -> bool:
        """Whether the file has closed content that is not on the server yet."""

    @property
    def has_content(self) -> bool:
        """False if only a mode or time is to be set. That does not count as an uploaded file."""

    @property
    def changes_in_place(self) -> bool:
        """Whether the upload sends only parts of the file."""

    @property
    def unsent_bytes(self) -> int: ...

    @property
    def sent_bytes(self) -> int:
        """Bytes sent by the upload under way."""

    @property
    def uploaded_bytes(self) -> int:
        """Bytes sent by the last upload that succeeded."""

    def give_up(self, error: errors.FtpfsError) -> None:
        """The upload failed permanently. Reports that to the programs that use the file."""


# closed --> LATER --> READY --> RUNNING --> (uploaded: leaves the queue)
#              ^         ^          |
#              |         |          +--> LATER   closed again meanwhile; failed, and pauses
#              |         |          +--> READY   hurried meanwhile
#              |         |          +--> FAILED  refused; the server is full
#              |         |
#              |         +-- hurried, retried, the server is back; FAILED for want of room: a pause
#              +------------ FAILED and closed again
class State(enum.Enum):
    """Where a file of the queue is."""

    LATER = "later"  # lingers, or pauses after a failure
    READY = "ready"
    RUNNING = "running"
    FAILED = "failed"  # until a program closes the file again, or asks for a retry


F = TypeVar("F", bound=File)


class Job(Generic[F]):
    """A file in the queue.

    Attributes:
        since: when the file was closed (wall clock).
        entered: likewise, on the queue's clock; what the file's age is counted from.
        streamed: the upload began while a program was still writing the file.
        ticket: of the job's valid place in a heap; 0: none.
        size: bytes to send, when the job became READY.
        hurried: a thread waits for the file.
        touched: the file was closed again while it was RUNNING.
        paused: LATER because of a failure, and not because the file lingers.
        tries: the failed tries in a row.
        error: the last failure.
    """

    def __init__(self, file: F, since: float, now: float, *, streamed: bool = False) -> None:
        self.file = file
        self.since = since
        self.entered = now
        self.streamed = streamed
        self.state = State.LATER
        self.ticket = 0
        self.size = 0
        self.hurried = False
        self.touched = False
        self.paused = False
        self.tries = Tries()
        self.error: errors.FtpfsError | None = None

    @property
    def told_state(self) -> str:
        """As in PendingFile."""
        if self.state is State.RUNNING:
            return "uploading"
        return "failed" if self.state is State.FAILED else "dirty"

    @property
    def place(self) -> schedule.First:
        """What `schedule` has to know about this job when it is the first."""
        return schedule.First(self.hurried, self.streamed)

    @property
    def rank(self) -> float:
        return schedule.rank(self.size, self.entered, self.place)


class Jobs(Generic[F]):
    """All jobs by file, and the heaps.

    An entry of a heap is valid only if its number is the ticket of its job. So a job moves without
    a search for its old entry.
    """

    def __init__(self) -> None:
        self._by_file: dict[F, Job[F]] = {}
        # ordered by the time that the jobs wait for
        self._later: list[tuple[float, int, Job[F]]] = []
        self._ready: list[tuple[float, int, Job[F]]] = []  # ordered by rank
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._by_file)

    def __iter__(self) -> Iterator[Job[F]]:
        return iter(self._by_file.values())

    def get(self, file: F) -> Job[F] | None:
        return self._by_file.get(file)

    def in_state(self, state: State) -> list[Job[F]]:
        return [job for job in self._by_file.values() if job.state is state]

    @property
    def streams(self) -> int:
        return sum(job.streamed for job in self._by_file.values())

    def enter(self, job: Job[F]) -> Job[F]:
        self._by_file[job.file] = job
        return job

    def drop(self, job: Job[F]) -> None:
        job.ticket = 0
        self._by_file.pop(job.file, None)

    def put_off(self, job: Job[F], due: float) -> bool:
        """Make the job wait until `due`. Returns whether no other job is due earlier."""
        job.state = State.LATER
        job.ticket = next(self._numbers)
        heapq.heappush(self._later, (due, job.ticket, job))
        return self._later[0][1] == job.ticket

    def make_ready(self, job: Job[F]) -> None:
        job.state, job.paused = State.READY, False
        job.size = job.file.unsent_bytes
        job.ticket = next(self._numbers)
        heapq.heappush(self._ready, (job.rank, job.ticket, job))

    def first(self, now: float, *, held: bool) -> Job[F] | None:
        """The first job that may begin. `held`: jobs that linger stay where they are."""
        later, ready = self._later, self._ready
        while later and (_is_void(later[0]) or (later[0][0] <= now and not held)):
            entry = heapq.heappop(later)
            if not _is_void(entry):
                self.make_ready(entry[2])
        while ready and _is_void(ready[0]):
            heapq.heappop(ready)
        return ready[0][2] if ready else None

    @property
    def due(self) -> float | None:
        """When the next job after `first` has lingered or paused.

        A job that is held back has done so already: its moment is past.
        """
        return self._later[0][0] if self._later else None

    @property
    def has_waiting(self) -> bool:
        return bool(self._ready or self._later)

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    def begin(self, job: Job[F]) -> None:
        """The first job begins."""
        heapq.heappop(self._ready)
        job.state, job.hurried, job.touched, job.ticket = State.RUNNING, False, False, 0


def _is_void(entry: tuple[float, int, Job[F]]) -> bool:
    return entry[2].ticket != entry[1]
