"""The queue of files whose content is to go to the server, and the threads that send it.

Owns the lock and the workers, and what others learn of the queue. `schedule` decides which file is
next, when, and how many go at a time; `backoff` decides what follows a failure; `jobs` holds the
files in their order. The queue does not know what a file is made of: it calls `deliver(file)`.

Threading: any thread. `_changed` (Rank.QUEUE) guards everything; files are asked under it. Workers
start when there is something to do; they are daemons, ended by `stop`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Generic

from ftpfs import errors
from ftpfs.core.writing import backoff, schedule
from ftpfs.core.writing.backoff import Absence, Then, Tries
from ftpfs.core.writing.jobs import F, Job, Jobs, State
from ftpfs.core.writing.schedule import Burst, Situation
from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.model.status import PendingFile, UploadStatus

log = logging.getLogger(__name__)

_random = random.Random()  # noqa: S311 (nothing secret about it)


class UploadQueue(Generic[F]):
    """Files on their way to the server, `workers` at a time.

    Attributes:
        deliver: `deliver(file)` returns when the server has what was closed of the file. It raises
            Superseded if a program wrote to the file meanwhile: then the file waits for its next
            close. Set once, before the first file.
        _workers, _linger, _short_linger, _holds_bursts, _clock: constant.

        Guarded by `_changed`:
        _jobs: the files.
        _threads: the workers that were started. `_idle` of them wait, `_running` of them upload.
        _has_timekeeper: one of the idle workers waits for the next moment; the others, for a call.
        _drains: threads that wait for all files. Files do not linger meanwhile.
        _stopped: nothing begins any more.
        _burst, _absence: what `schedule` has to know of the past.
        _uploaded_files, _uploaded_bytes: since the start.
    """

    def __init__(
        self,
        *,
        workers: int,
        linger: float = schedule.LINGER_SECONDS,
        holds_bursts: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`holds_bursts()`: whether uploads slow down the programs that are still writing."""
        self.deliver: Callable[[F], None]
        self._workers = workers
        self._linger = linger
        self._short_linger = min(linger, schedule.SHORT_LINGER_SECONDS)
        self._holds_bursts = holds_bursts
        self._clock = clock
        self._changed = ranked_condition(Rank.QUEUE)
        self._jobs: Jobs[F] = Jobs()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._running = 0
        self._has_timekeeper = False
        self._drains = 0
        self._stopped = False
        self._burst = Burst()
        self._absence = Absence()
        self._uploaded_files = 0
        self._uploaded_bytes = 0

    # Events.

    def add(self, file: F, since: float | None = None) -> None:
        """A program closed `file` (`since`, on the wall clock): send it, also if it had failed."""
        now = self._clock()
        with self._changed:
            if self._stopped:
                return
            self._burst = self._burst.with_close(now, file.unsent_bytes)
            job = self._jobs.get(file)
            if job is None:
                job = self._jobs.enter(Job(file, since or time.time(), now))
            elif job.state is State.RUNNING or job.hurried:
                job.touched = True  # the end of its upload checks this
                return
            elif job.state is State.FAILED or job.paused:
                job.paused, job.entered = False, now
                job.tries = replace(job.tries, count=0, pause=0.0)
            linger = self._short_linger if file.changes_in_place else self._linger
            due = now if self._drains else schedule.lingers_until(now, job.entered, linger)
            self._put_off_locked(job, due)

    def stream(self, file: F) -> bool:
        """Begin to send a file that is still being written, if that keeps no other file waiting."""
        with self._changed:
            if (
                self._stopped
                or self._jobs.get(file) is not None
                or not schedule.may_stream(self._jobs.streams, self._situation_locked())
            ):
                return False
            job = self._jobs.enter(Job(file, time.time(), self._clock(), streamed=True))
            self._make_ready_locked(job)
            return True

    def renew(self, file: F) -> None:
        """The file has another name, mode or time: if it had failed, it is sent again."""
        with self._changed:
            job = self._jobs.get(file)
            failed = job is not None and job.state is State.FAILED
        if failed:
            self.add(file)

    def hurry(self, file: F) -> None:
        """A thread waits for this file: send it next, without lingering or pausing."""
        with self._changed:
            job = self._jobs.get(file)
            if job is None or self._stopped:
                return
            job.hurried = True
            # else it is sent again after its upload, if necessary
            if job.state is not State.RUNNING:
                self._make_ready_locked(job)

    def retry(self, concerns: Callable[[F], bool]) -> None:
        """Retry at once the files for which `concerns` is true, if they failed.

        Also those that wait for an unreachable server.
        """
        with self._changed:
            self._absence = self._absence.retried_now()
            for job in self._jobs:
                if (job.state is State.FAILED or job.paused) and concerns(job.file):
                    job.tries = replace(job.tries, count=0, pause=0.0)
                    self._make_ready_locked(job)

    def forget(self, file: F) -> None:
        """Send nothing of `file` any more."""
        with self._changed:
            job = self._jobs.get(file)
            if job is not None and job.state is not State.RUNNING:
                self._drop_locked(job)

    # Waiting, and the end.

    def drain(self, timeout: float | None, concerns: Callable[[F], bool]) -> bool:
        """Wait until no file is to be sent for which `concerns` is true.

        Returns False after `timeout` seconds. Does not wait for files that failed, nor for a file
        that is sent while a program is writing it.
        """
        deadline = None if timeout is None else self._clock() + timeout

        def done() -> bool:
            return self._stopped or not any(
                job.state is not State.FAILED
                and concerns(job.file)
                and (job.file.waits or not job.streamed)
                for job in self._jobs
            )

        with self._changed:
            self._drains += 1
            try:
                for job in self._jobs.in_state(State.LATER):
                    if not job.paused:
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
        """Make every `drain` return. No upload begins any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stop(self, cancel: Callable[[F], None], patience: float) -> list[F]:
        """Begin no upload, cancel those under way, and wait until they have ended.

        Returns the files that are still being sent after `patience` seconds. Their threads wait for
        the network, and will touch the files again.
        """
        deadline = time.monotonic() + patience
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            threads, self._threads = self._threads, []
            running = [job.file for job in self._jobs.in_state(State.RUNNING)]
        for file in running:
            cancel(file)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            return [job.file for job in self._jobs.in_state(State.RUNNING)]

    # Questions.

    def failures(self, concerns: Callable[[F], bool]) -> list[tuple[str, errors.FtpfsError]]:
        """Path and error of the files that failed permanently."""
        with self._changed:
            return [
                (job.file.path, job.error)
                for job in self._jobs.in_state(State.FAILED)
                if job.error and concerns(job.file)
            ]

    def state_of(self, file: F) -> str | None:
        """As in PendingFile. None: the file is not in the queue."""
        with self._changed:
            job = self._jobs.get(file)
            return None if job is None else job.told_state

    @property
    def count(self) -> int:
        """The number of files in the queue, including failed ones."""
        with self._changed:
            return len(self._jobs)

    def status(self, spool_used: int, spool_limit: int | None) -> UploadStatus:
        with self._changed:
            jobs = sorted(self._jobs, key=lambda job: (job.state is not State.RUNNING, job.rank))
            uploaded = self._uploaded_files, self._uploaded_bytes
            facts = [
                (job.file, job.told_state, job.tries.count, job.error, job.since) for job in jobs
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

    # Inside: moving jobs, and waking workers.

    def _put_off_locked(self, job: Job[F], due: float) -> None:
        self._wake_locked(new_earliest=self._jobs.put_off(job, due))

    def _make_ready_locked(self, job: Job[F]) -> None:
        self._jobs.make_ready(job)
        self._wake_locked(new_earliest=True)

    def _drop_locked(self, job: Job[F]) -> None:
        self._jobs.drop(job)
        self._changed.notify_all()

    def _wake_locked(self, *, new_earliest: bool) -> None:
        """Make sure that a worker is awake when the next job is due."""
        if self._stopped:
            return
        if self._idle:
            if new_earliest or not self._has_timekeeper:
                self._changed.notify_all()
        elif len(self._threads) < self._workers:
            thread = threading.Thread(
                target=self._work, name=f"ftpfs-upload-{len(self._threads) + 1}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    # Inside: the workers.

    def _work(self) -> None:
        while (job := self._next()) is not None:
            error: errors.FtpfsError | None = None
            try:
                self.deliver(job.file)
            except errors.FtpfsError as failure:
                error = failure
            except Exception as failure:
                log.exception("uploading %s failed: unexpected error", job.file.path)
                error = errors.FtpfsError(f"{type(failure).__name__}: {failure}")
            try:
                self._ended(job, error, job.file.uploaded_bytes)
            except Exception:  # this thread has other files to send
                log.exception("the result of uploading %s could not be told", job.file.path)

    def _next(self) -> Job[F] | None:
        """The job that this worker has to do now; None at the end of the queue's life."""
        with self._changed:
            while not self._stopped:
                situation = self._situation_locked()
                now = situation.now
                job = self._jobs.first(now, held=now < situation.held_until)
                first = None if job is None else job.place
                decision = schedule.decide(first, self._jobs.due, situation)
                if job is not None and decision.begin:
                    self._jobs.begin(job)
                    self._running += 1
                    if self._jobs.has_waiting:
                        self._wake_locked(new_earliest=self._jobs.has_ready)
                    return job
                self._wait_locked(decision.at)
            return None

    def _wait_locked(self, at: float | None) -> None:
        """Wait for a change, or until `at` unless another worker waits for that."""
        timeout = None
        if at is not None and not self._has_timekeeper:
            timeout = max(0.0, at - self._clock())
            self._has_timekeeper = True
        self._idle += 1
        try:
            self._changed.wait(timeout)
        finally:
            self._idle -= 1
            if timeout is not None:
                self._has_timekeeper = False

    def _situation_locked(self) -> Situation:
        burst = self._burst
        return Situation(
            now=self._clock(),
            workers=self._workers,
            running=self._running,
            linger=self._linger,
            burst=burst,
            absence=self._absence,
            yields=burst.counts and not self._drains and self._holds_bursts(),
        )

    def _ended(self, job: Job[F], error: errors.FtpfsError | None, sent: int) -> None:
        """An upload has ended. Programs and the log hear of it after the lock is released."""
        tell: Callable[[], None] | None = None
        with self._changed:
            self._running -= 1
            job.streamed = False
            waits = job.file.waits
            if error is None or isinstance(error, errors.Superseded):
                if error is None and self._note_success_locked(job, sent):
                    tell = _tell_server_is_back
                if waits:
                    self._send_more_locked(job, at_once=error is None)
                else:
                    self._drop_locked(job)
            elif waits:
                tell = self._note_failure_locked(job, error)
            else:
                self._drop_locked(job)  # a program still writes the file, or has deleted it
            self._changed.notify_all()
        if tell is not None:
            tell()

    def _send_more_locked(self, job: Job[F], *, at_once: bool) -> None:
        """The file has closed content that the upload did not send.

        Without `at_once`, a program is still writing the file, and a `drain` would begin it again
        and again.
        """
        if job.hurried:
            self._make_ready_locked(job)
            return
        job.entered = self._clock()
        linger = 0.0 if self._drains and at_once else self._linger
        self._put_off_locked(job, job.entered + linger)

    def _note_success_locked(self, job: Job[F], sent: int) -> bool:
        """Note a success. Returns whether the server had been unreachable."""
        self._uploaded_files += job.file.has_content
        self._uploaded_bytes += sent
        was_away, self._absence = self._absence.pause > 0, Absence()
        if was_away:
            for other in self._jobs.in_state(State.LATER):
                # A file that fails repeatedly while others succeed waits until its pause is over.
                if other.paused and other.tries.count <= backoff.TRIES:
                    self._make_ready_locked(other)
        job.tries, job.error = Tries(), None
        return was_away

    def _note_failure_locked(
        self, job: Job[F], error: errors.FtpfsError
    ) -> Callable[[], None] | None:
        """Note a failure. Returns the log line, if any."""
        now = self._clock()
        asked_again = job.touched or job.hurried
        follows = backoff.after(error, job.tries, now, _jitter(), asked_again=asked_again)
        notice = follows.notice
        if isinstance(error, errors.NetworkError):
            if self._absence.pause:
                notice = None  # the log has this line already
            self._absence = self._absence.after_failure(now, self._running, _jitter())
        job.error, job.tries = error, follows.tries
        if follows.then is Then.AT_ONCE:
            self._make_ready_locked(job)
        elif follows.then is not Then.FAILED:
            job.paused = True
            self._put_off_locked(job, job.tries.paused_until)
        if follows.then in (Then.FAILED, Then.FULL):
            job.state = State.FAILED
        if notice is not None:
            return lambda: log.warning(notice.value, job.file.path, error)
        return (lambda: job.file.give_up(error)) if follows.told else None


def _jitter() -> float:
    return _random.uniform(0.75, 1.25)


def _tell_server_is_back() -> None:
    log.warning("the server takes uploads again")
