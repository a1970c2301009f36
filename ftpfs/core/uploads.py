"""The queue of files whose content is to go to the server, and the threads that send it.

Owns: whose turn it is, how many go at once, when a failed one is tried again, and what is told of
all that. Does not know what a file is made of: it calls `upload(file)`.

Order: somebody waits for it, then small before large; waiting makes a file smaller, as it were, by
AGEING bytes a second, so that none waits for ever. A file that was just closed lingers a moment: a
program that writes, closes, sets times and renames is done by then, and all of that is one upload.
On a short link all that lingers waits for a burst of closes to pause.

Failures are of four sorts. The server is away (NetworkError): all uploads pause, one is tried now
and then, and the log says so once. It is full (NoSpace, QuotaExceeded): the file counts as failed,
and is tried again now and then. It answered something odd (a 4xx, a wrong size): tried a few times.
Anything else is for good, until the file is touched again.

Threading: any. `_changed` guards everything; taken before a file's lock, and never while one is
held. Workers are started when there is something to do; they are daemons, ended by `stop`.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ftpfs import errors
from ftpfs.core.status import PendingFile, UploadStatus

log = logging.getLogger(__name__)

# Seconds after a close before its upload begins, and how often that may be put off by further
# closes: a loop of `echo >> file` is one upload every two seconds, not one for each line.
LINGER, LONGEST_LINGER = 0.1, 2.0
# What was changed inside a large file lingers so long: it is not what is renamed and touched next.
SHORT_LINGER = 0.01
# A burst: so many closes, of files of so many bytes on the average, without such a pause (seconds).
# Where processors, not the network, are what there is too little of, its files are held back until
# it pauses: for LONGEST_LINGER at most, and so many bytes; then one worker sends them, and all do
# after the burst. Who wants the interpreter pays for taking turns: `cp -r` of 1,000 files of 4 KiB
# onto vsftpd on loopback cost 1.4 s of CPU until it returned, and all was there; so 0.45 and 1.1.
# Of 4,000, on a busy machine: it returned after 15 s, and all was there; so after 9 and 15.
BURST, BURST_AVERAGE, BURST_PAUSE = 5, 64 << 10, 0.03
HELD_BYTES = 32 << 20
AGEING = 8 << 20  # bytes a second; 1 GiB waits two minutes at most for smaller ones
# Between tries while the server is away (seconds): doubled, with jitter, up to the second.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
# Between tries of a file for which the server had no room.
FULL_PAUSE = 60.0
# A refusal that may be a mood of the server (4xx; a wrong size): so many tries.
TRIES = 4

_jitter = random.Random()  # noqa: S311 (nothing secret about it)

NO_ROOM = (errors.NoSpace, errors.QuotaExceeded)


class File(Protocol):
    """What the queue needs of a file."""

    @property
    def path(self) -> str: ...

    @property
    def waits(self) -> bool:
        """Whether closed content of it is not on the server yet."""

    @property
    def has_content(self) -> bool:
        """Not so: nothing but attributes is to be set, which counts as no file."""

    @property
    def changes_in_place(self) -> bool:
        """Whether only parts of what the server has are to be sent."""

    @property
    def unsent_bytes(self) -> int: ...

    @property
    def sent_bytes(self) -> int:
        """Of the upload under way."""

    @property
    def uploaded_bytes(self) -> int:
        """Of the last upload that succeeded."""

    def give_up(self, error: errors.FtpfsError) -> None:
        """It failed for good; who uses the file is to be told."""


class State(enum.Enum):
    LATER = "later"  # lingers, or pauses after a failure
    READY = "ready"
    RUNNING = "running"
    FAILED = "failed"  # for good: nothing happens until it is touched


F = TypeVar("F", bound=File)


class _Job(Generic[F]):
    """A file in the queue. Guarded by the queue's lock."""

    def __init__(self, file: F, since: float, now: float, *, streamed: bool = False) -> None:
        self.file = file
        self.since = since  # wall clock
        self.entered = now
        self.streamed = streamed  # begun while the file was still being written
        self.state = State.LATER
        self.ticket = 0  # of its valid place in a heap
        self.size = 0
        self.hurried = False
        self.touched = False  # closed again while it was RUNNING
        self.paused = False  # LATER because of a failure, not for lingering
        self.pause = FIRST_PAUSE
        self.paused_until = 0.0
        self.attempts = 0
        self.error: errors.FtpfsError | None = None


class Uploads(Generic[F]):
    """Files on their way to the server, `workers` at a time."""

    def __init__(
        self,
        upload: Callable[[F], None],
        *,
        workers: int,
        linger: float = LINGER,
        holds_bursts: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`upload(file)` returns when the server has what was closed of it, or raises; Superseded
        when it was written to meanwhile and has to wait for its next close.

        `holds_bursts()`: whether uploads would take the processor from who is still writing.
        """
        self._upload = upload
        self._workers = workers
        self._linger, self._short_linger = linger, min(linger, SHORT_LINGER)
        self._holds_bursts = holds_bursts
        self._clock = clock
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._jobs: dict[F, _Job[F]] = {}
        self._later: list[tuple[float, int, _Job[F]]] = []  # heaps; a place whose number is not its
        self._ready: list[tuple[float, int, _Job[F]]] = []  # job's ticket is void
        self._threads: list[threading.Thread] = []
        self._idle = 0  # workers that wait
        self._running = 0
        self._timekeeper = False  # one of them waits for the next job that is due
        self._drains = 0  # lingering is over while somebody waits for all
        self._stopped = False
        self._closed_at = self._burst_since = float("-inf")  # the last close, the first of a burst
        self._burst_closes = self._burst_bytes = 0
        self._away_until = 0.0
        self._away_pause = 0.0  # 0: the server is there
        self._uploaded_files = 0
        self._uploaded_bytes = 0

    # What comes in.

    def add(self, file: F, since: float | None = None) -> None:
        """Content of `file` was closed (`since`, on the wall clock). It will be sent; if it had
        failed, again."""
        now = self._clock()
        with self._changed:
            if self._stopped:
                return
            self._note_close_locked(file, now)
            job = self._jobs.get(file)
            if job is None:
                job = self._jobs[file] = _Job(file, since or time.time(), now)
            elif job.state is State.RUNNING or job.hurried:
                job.touched = True  # it is looked at again at the end
                return
            elif job.state is State.FAILED or job.paused:
                job.state, job.paused, job.pause = State.LATER, False, FIRST_PAUSE
                job.attempts, job.entered = 0, now
            linger = self._short_linger if file.changes_in_place else self._linger
            latest = job.entered + max(linger, LONGEST_LINGER)
            due = now if self._drains else min(now + linger, latest)
            self._schedule_locked(job, due)

    def stream(self, file: F) -> bool:
        """Begin to send a file that is still being written, if that keeps nobody else waiting."""
        with self._changed:
            streams = sum(job.streamed for job in self._jobs.values()) if self._jobs else 0
            if (
                self._stopped
                or self._away_pause
                or file in self._jobs
                or streams >= self._workers - 1  # one is left for files that were closed
                or self._running >= self._workers
            ):
                return False
            job = self._jobs[file] = _Job(file, time.time(), self._clock(), streamed=True)
            self._make_ready_locked(job)
            return True

    def hurry(self, file: F) -> None:
        """Somebody waits for this file: next, whatever it was waiting for."""
        with self._changed:
            job = self._jobs.get(file)
            if job is None or self._stopped:
                return
            job.hurried = True
            if job.state is not State.RUNNING:  # else: at its end, if more has to be sent
                self._make_ready_locked(job)

    def retry(self, concerns: Callable[[F], bool]) -> None:
        """Try again at once what failed, or waits for a server that is away, of the files that
        `concerns` approves of."""
        with self._changed:
            self._away_until, self._away_pause = 0.0, min(self._away_pause, FIRST_PAUSE)
            for job in self._jobs.values():
                if (job.state is State.FAILED or job.paused) and concerns(job.file):
                    job.attempts, job.pause = 0, FIRST_PAUSE
                    self._make_ready_locked(job)

    def forget(self, file: F) -> None:
        """Nothing of `file` is to be sent any more."""
        with self._changed:
            job = self._jobs.get(file)
            if job is not None and job.state is not State.RUNNING:
                self._drop_locked(job)

    # The end, and other waits.

    def drain(self, timeout: float | None, concerns: Callable[[F], bool]) -> bool:
        """Wait until no file that `concerns` approves of is on its way; False: it took too long.

        What failed is not waited for.
        """
        deadline = None if timeout is None else self._clock() + timeout

        def done() -> bool:
            return self._stopped or not any(
                job.state is not State.FAILED and concerns(job.file) for job in self._jobs.values()
            )

        with self._changed:
            self._drains += 1
            try:
                for job in list(self._jobs.values()):
                    if job.state is State.LATER and not job.paused:
                        self._make_ready_locked(job)
                while not done():
                    left = None if deadline is None else deadline - self._clock()
                    if left is not None and left <= 0:
                        return False
                    self._changed.wait(left)
            finally:
                self._drains -= 1
        return True

    def give_up_waiting(self) -> None:
        """Have every `drain` return. Nothing is begun any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stop(self, cancel: Callable[[F], None], patience: float) -> list[F]:
        """Begin nothing more, cancel what is under way, and return when that is over, or after
        `patience` seconds: the files that are still being sent then, by threads that wait for the
        network and will touch them again."""
        deadline = time.monotonic() + patience
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            threads, self._threads = self._threads, []
            running = [job.file for job in self._jobs.values() if job.state is State.RUNNING]
        for file in running:
            cancel(file)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            return [job.file for job in self._jobs.values() if job.state is State.RUNNING]

    # What is told.

    def failures(self, concerns: Callable[[F], bool]) -> list[tuple[str, errors.FtpfsError]]:
        """Path and error of the files that failed for good."""
        with self._changed:
            return [
                (job.file.path, job.error)
                for job in self._jobs.values()
                if job.state is State.FAILED and job.error and concerns(job.file)
            ]

    def state_of(self, file: F) -> str | None:
        """As in PendingFile; None: it is not in the queue."""
        with self._changed:
            job = self._jobs.get(file)
            return None if job is None else _state_told(job)

    @property
    def count(self) -> int:
        """Files in the queue, those that failed among them."""
        with self._changed:
            return len(self._jobs)

    def status(self, spool_used: int, spool_limit: int | None) -> UploadStatus:
        with self._changed:
            jobs = sorted(
                self._jobs.values(),
                key=lambda job: (job.state is not State.RUNNING, self._rank(job)),
            )
            uploaded = self._uploaded_files, self._uploaded_bytes
            facts = [
                (job.file, _state_told(job), job.attempts, job.error, job.since) for job in jobs
            ]
        pending = tuple(
            PendingFile(
                path=file.path,
                state=state,
                size=file.unsent_bytes,
                sent=file.sent_bytes,
                attempts=attempts,
                error=errors.printable(str(error)) if error else None,
                since=since,
            )
            for file, state, attempts, error, since in facts
        )
        return UploadStatus(
            pending=pending,
            files=len(pending),
            bytes=sum(max(0, each.size - each.sent) for each in pending),
            uploaded_files=uploaded[0],
            uploaded_bytes=uploaded[1],
            spool_used=spool_used,
            spool_limit=spool_limit,
        )

    # Inside: bursts.

    def _note_close_locked(self, file: F, now: float) -> None:
        if now - self._closed_at > BURST_PAUSE:
            self._burst_since, self._burst_closes, self._burst_bytes = now, 0, 0
        self._closed_at = now
        self._burst_closes += 1
        self._burst_bytes += file.unsent_bytes

    def _burst_until_locked(self) -> float:
        """Until when one worker has to do, as far as is known."""
        small = BURST <= self._burst_closes > self._burst_bytes // BURST_AVERAGE
        if not small or self._drains or not self._holds_bursts():
            return float("-inf")
        return self._closed_at + min(self._linger, BURST_PAUSE)

    def _held_until_locked(self) -> float:
        """Until when nothing that lingers is begun."""
        if self._burst_bytes > HELD_BYTES:
            return float("-inf")
        return min(self._burst_until_locked(), self._burst_since + LONGEST_LINGER)

    # Inside: the heaps.

    @staticmethod
    def _rank(job: _Job[F]) -> float:
        """All age alike, so their order does not change while they wait."""
        return float("-inf") if job.hurried or job.streamed else job.size + job.entered * AGEING

    def _schedule_locked(self, job: _Job[F], due: float) -> None:
        job.state = State.LATER
        job.ticket = next(self._numbers)
        heapq.heappush(self._later, (due, job.ticket, job))
        self._see_to_workers_locked(new_earliest=self._later[0][1] == job.ticket)

    def _make_ready_locked(self, job: _Job[F]) -> None:
        self._push_ready_locked(job)
        self._see_to_workers_locked(new_earliest=True)

    def _push_ready_locked(self, job: _Job[F]) -> None:
        job.state, job.paused = State.READY, False
        job.size = job.file.unsent_bytes
        job.ticket = next(self._numbers)
        heapq.heappush(self._ready, (self._rank(job), job.ticket, job))

    def _drop_locked(self, job: _Job[F]) -> None:
        job.ticket = 0
        self._jobs.pop(job.file, None)
        self._changed.notify_all()

    def _see_to_workers_locked(self, *, new_earliest: bool) -> None:
        """Have somebody awake when the next job is due."""
        if self._stopped:
            return
        if self._idle:
            if new_earliest or not self._timekeeper:
                self._changed.notify_all()
        elif len(self._threads) < self._workers:
            thread = threading.Thread(
                target=self._work, name=f"ftpfs-upload-{len(self._threads) + 1}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _pick_locked(self) -> _Job[F] | None:
        """The job whose turn it is, if any may be begun now."""
        now = self._clock()
        held = now < self._held_until_locked()
        while self._later and (
            self._later[0][2].ticket != self._later[0][1] or (self._later[0][0] <= now and not held)
        ):
            _, ticket, job = heapq.heappop(self._later)
            if job.ticket == ticket:
                self._push_ready_locked(job)
        while self._ready and self._ready[0][2].ticket != self._ready[0][1]:
            heapq.heappop(self._ready)
        if not self._ready:
            return None
        job = self._ready[0][2]
        in_burst = now < self._burst_until_locked() and not (job.hurried or job.streamed)
        if in_burst and self._running:
            return None
        if self._away_pause and not job.hurried and (now < self._away_until or self._running):
            return None  # the server is away: one at a time asks whether it is back
        heapq.heappop(self._ready)
        return job

    def _next_due_locked(self) -> float | None:
        """When something may have to be begun that may not be now; None: nothing is known to."""
        times = [max(self._later[0][0], self._held_until_locked())] if self._later else []
        if self._ready and (burst_end := self._burst_until_locked()) > self._clock():
            times.append(burst_end)
        if self._ready and self._away_pause and not self._running:
            times.append(self._away_until)
        return min(times) if times else None

    # Inside: the workers.

    def _work(self) -> None:
        while (job := self._next()) is not None:
            error: errors.FtpfsError | None = None
            try:
                self._upload(job.file)
            except errors.FtpfsError as failure:
                error = failure
            except Exception as failure:
                log.exception("uploading %s failed in a way nobody foresaw", job.file.path)
                error = errors.FtpfsError(f"{type(failure).__name__}: {failure}")
            self._ended(job, error, job.file.uploaded_bytes)

    def _next(self) -> _Job[F] | None:
        with self._changed:
            while not self._stopped:
                job = self._pick_locked()
                if job is not None:
                    job.state, job.hurried, job.touched = State.RUNNING, False, False
                    job.ticket = 0
                    self._running += 1
                    if self._ready or self._later:
                        self._see_to_workers_locked(new_earliest=bool(self._ready))
                    return job
                due = None if self._timekeeper else self._next_due_locked()
                if due is not None:
                    self._timekeeper = True
                self._idle += 1
                try:
                    self._changed.wait(None if due is None else max(0.0, due - self._clock()))
                finally:
                    self._idle -= 1
                    if due is not None:
                        self._timekeeper = False
            return None

    def _ended(self, job: _Job[F], error: errors.FtpfsError | None, sent: int) -> None:
        tell = _say_nothing  # once the lock is free
        with self._changed:
            self._running -= 1
            job.streamed = False
            waits = job.file.waits
            now = self._clock()
            if error is None or isinstance(error, errors.Superseded):
                if error is None and self._note_success_locked(job, sent):
                    tell = _say_back
                if waits and job.hurried:
                    self._make_ready_locked(job)
                elif waits:
                    job.entered = now
                    # It is still being written: to look at once would be to do nothing else.
                    at_once = self._drains and error is None
                    self._schedule_locked(job, now if at_once else now + self._linger)
                else:
                    self._drop_locked(job)
            elif not waits:
                self._drop_locked(job)  # not closed yet, or deleted: nobody wants it for now
            else:
                tell = self._note_failure_locked(job, error, now)
            self._changed.notify_all()
        tell()

    def _note_success_locked(self, job: _Job[F], sent: int) -> bool:
        """Whether the server had been away."""
        self._uploaded_files += job.file.has_content
        self._uploaded_bytes += sent
        was_away, self._away_pause = self._away_pause, 0.0
        if was_away:
            for other in self._jobs.values():
                # One that fails again and again while others get through waits out its pause.
                if other.paused and other.state is State.LATER and other.attempts <= TRIES:
                    self._make_ready_locked(other)
        job.attempts, job.pause, job.error = 0, FIRST_PAUSE, None
        return was_away > 0

    def _note_failure_locked(
        self, job: _Job[F], error: errors.FtpfsError, now: float
    ) -> Callable[[], None]:
        job.attempts += 1
        job.error = error
        odd = isinstance(error, (errors.DataMismatch, errors.ProtocolError)) or (
            isinstance(error, errors.Refused) and 400 <= error.code < 500
        )
        if isinstance(error, errors.NetworkError):
            was_away = self._away_pause
            # What was hurried and failed within a pause says nothing new: programs that wait for
            # their files would make minutes of the pause within a second.
            if now >= self._away_until and (self._running == 0 or not was_away):
                self._away_pause = min(was_away * 2 or FIRST_PAUSE, LONGEST_PAUSE)
                self._away_until = now + self._away_pause * _jitter.uniform(0.75, 1.25)
            waited = now >= job.paused_until
            self._pause_locked(job, now, job.pause)
            if waited:
                job.pause = min(job.pause * 2, LONGEST_PAUSE)

            def tell_away() -> None:
                if not was_away:
                    log.warning("uploads wait: %s: %s", job.file.path, error)

            return tell_away
        if odd and job.attempts < TRIES:
            self._pause_locked(job, now, job.pause)
            job.pause *= 2
            return lambda: log.warning(
                "%s could not be uploaded, trying again: %s", job.file.path, error
            )
        if job.touched or job.hurried:
            # Who came during this try may have come too late to be told how it ended.
            job.attempts = 0
            self._make_ready_locked(job)
            return _say_nothing
        first = job.attempts == 1 or odd
        if isinstance(error, NO_ROOM):
            self._pause_locked(job, now, FULL_PAUSE)
        job.state = State.FAILED

        def tell_failed() -> None:
            if first:
                job.file.give_up(error)

        return tell_failed

    def _pause_locked(self, job: _Job[F], now: float, pause: float) -> None:
        job.paused = True
        job.paused_until = now + pause * _jitter.uniform(0.75, 1.25)
        self._schedule_locked(job, job.paused_until)


def _say_nothing() -> None:
    """Nothing happened that a person should know."""


def _say_back() -> None:
    log.warning("the server takes uploads again")


def _state_told(job: _Job[F]) -> str:
    if job.state is State.RUNNING:
        return "uploading"
    return "failed" if job.state is State.FAILED else "dirty"
