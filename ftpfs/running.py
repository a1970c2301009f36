"""A mount while it runs, and how it leaves.

Owns: the housekeeper, what the control socket answers, the measured rates, and the drain: how long
uploads may take once nobody can use the mount any more. After an unmount that is as long as
anything moves, and `leave_after` longer: a server that is away may never come back. After SIGTERM
or SIGINT it is the grace time, for whoever sends them (systemd, a shutdown, Ctrl-C) kills soon;
after a second signal, or `ftpfs umount --now`, no time at all. What is left then is in the journal
for the next mount.

Threading: `start` and `stop` are called by libfuse (`init`, `destroy`); the housekeeper, the
control socket and the signals have a thread each. `_lock` guards the samples.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ftpfs import control, errors
from ftpfs.control import Control, Reply, Report, Request
from ftpfs.core import writer
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.status import ConnectionStatus, MountStatus, PendingFile
from ftpfs.ftp.remote import Remote

log = logging.getLogger(__name__)

HOUSEKEEPING = 5.0  # seconds between rounds: idle sessions are closed to within that
RATE_TIME = 5.0  # seconds: rates are averages over at least so long, where there is as much
FOLLOW_PAUSE = 0.25  # seconds between two reports to somebody who watches
SYNC_PAUSE = 0.5  # and to somebody who waits
POKE_PAUSE = 0.5  # seconds that libfuse has to leave its loop before it is reminded
HURRY_DEADLINE = 5.0  # seconds from an unmount until libfuse tells us of it, at most
# Pending files that a report names; how many there are in all stands beside them.
PENDING_SHOWN = 1000
END_SIGNALS = {signal.SIGTERM, signal.SIGINT}


class _Sample(NamedTuple):
    when: float
    uploaded: int
    downloaded: int


class LeftBehind(NamedTuple):
    """Where earlier mounts may have left files that a read-only one does not send; who does."""

    folder: Path
    cure: str

    def line(self) -> str:
        """What waits there, "" where nothing does."""
        files = writer.left_behind(self.folder)
        if not files:
            return ""
        return (
            f"not sent by this read-only mount: {files} {'file' if files == 1 else 'files'} that "
            f"earlier mounts left in {self.folder} ({self.cure})"
        )


class Progress:
    """How far uploads have come, and since when they have come no further."""

    def __init__(self) -> None:
        self._best: tuple[int, ...] = ()
        self._since = 0.0

    def stands_still_for(self, status: MountStatus, now: float) -> float:
        """Seconds. What was sent once more after it broke off is no progress before it is more than
        ever before; what is fetched, to be sent with the rest of its file, is."""
        uploads = status.uploads
        sent = uploads.uploaded_bytes + sum(each.sent for each in uploads.pending)
        come = uploads.uploaded_files, sent, status.cache.downloaded
        if not self._best or any(more > most for more, most in zip(come, self._best, strict=True)):
            self._best = tuple(map(max, come, self._best or come))
            self._since = now
        return now - self._since


class Running:
    """One mount, from the moment that the kernel has accepted it."""

    def __init__(
        self,
        filesystem: Filesystem,
        remote: Remote,
        *,
        source: str,
        mountpoint: str,
        binding: str,
        spool: Path,
        grace: float,
        leave_after: float,
        left_behind: LeftBehind | None = None,
    ) -> None:
        """`grace`: seconds for uploads after a signal. `leave_after`: seconds without progress
        after which an unmounted file system is not waited for any more. `left_behind`: of a
        read-only mount."""
        self._filesystem = filesystem
        self._remote = remote
        self._source = source
        self._mountpoint = mountpoint
        self._binding = binding
        self._spool = spool
        self._grace = grace
        self._leave_after = leave_after
        self._left_behind = left_behind
        self._since = time.time()
        self._control: Control | None = None
        self._leaving = threading.Event()  # unmounted
        self._hurried = threading.Event()  # uploads are not waited for any more
        self._left = threading.Event()
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque()

    def start(self) -> None:
        """The mount answers. A control socket that cannot be had does not stop it."""
        if line := self._told_of_left_behind():
            log.warning("%s: %s", self._mountpoint, line)
        for task, name in ((self._keep_house, "housekeeper"), (self._hear_signals, "signals")):
            threading.Thread(target=task, name=f"ftpfs-{name}", daemon=True).start()
        try:
            self._control = Control(
                control.default_folder(),
                self._mountpoint,
                {
                    "status": self._tell_status,
                    "follow": self._tell_until_the_end,
                    "sync": self._tell_sync,
                    "forget": self._forget,
                    "hurry": self._hurry,
                },
            )
        except OSError as error:
            log.warning("this mount cannot be asked anything (ftpfs status, sync): %s", error)
        else:
            self._control.start()

    def stop(self) -> None:
        """Unmounted: upload what is left, as long as it may take, and say good-bye."""
        self._leaving.set()
        waiting = self._filesystem.upload_status()
        if waiting.files:
            log.info(
                "%s: unmounted; %d files (%d bytes) are still to be uploaded",
                *(self._mountpoint, waiting.files, waiting.bytes),
            )
        self._filesystem.close()
        self._left.set()
        if self._control:
            self._control.close()
        log.info("unmounted %s", self._mountpoint)

    def _keep_house(self) -> None:
        progress = Progress()
        while not self._left.wait(HOUSEKEEPING):
            self._remote.tidy()
            status = self._status()
            self._sample(status)
            if self._leaving.is_set() and not self._hurried.is_set():
                self._leave_if_stuck(status, progress)

    # Leaving.

    @contextlib.contextmanager
    def signals_heard(self) -> Iterator[None]:
        """Around libfuse's loop, in the main thread: SIGTERM and SIGINT end the mount, and what
        comes after it, in order.

        libfuse has handlers of its own for SIGHUP, SIGINT and SIGTERM. They end its loop, but do
        not tell which it was; and they are gone when it calls `destroy`, so that a signal would
        kill the daemon in the middle of its last uploads. So SIGINT and SIGTERM are blocked, a
        thread takes them, and passes them on as SIGHUP as long as there is a loop to be ended.

        SIGPIPE is blocked, too: at its end libfuse gives it back its default action, which Python
        had taken away, and the first connection that a server closes while the last files are
        uploaded would kill the daemon.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*END_SIGNALS, signal.SIGPIPE})
        try:
            yield
        finally:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _leave_if_stuck(self, status: MountStatus, progress: Progress) -> None:
        """Wait no longer for a server that takes nothing: nobody would end this process."""
        if progress.stands_still_for(status, time.monotonic()) < self._leave_after:
            return
        log.error(
            "%s: %d files (%d bytes) are not on the server, and none moved for %g s (leave_after); "
            "they are left in %s for the next mount, or ftpfs recover",
            *(self._mountpoint, status.uploads.files, status.uploads.bytes, self._leave_after),
            self._spool,
        )
        self._stop_waiting()

    def _hear_signals(self) -> None:
        number = signal.sigwait(END_SIGNALS)
        log.info("told to end by %s; uploads have %g s", signal.Signals(number).name, self._grace)
        timer = threading.Timer(self._grace, self._stop_waiting)
        timer.daemon = True
        timer.start()
        self._end_loop()
        signal.sigwait(END_SIGNALS)
        self._stop_waiting()

    def _end_loop(self) -> None:
        """Have libfuse leave its loop, once by a signal to the thread that waits in it: any other
        would run the handler, too, and wake nobody.

        It comes to nothing when that thread has just looked and is about to wait. Then a request
        that the kernel always passes on wakes a worker, which sees that the end was asked for.
        """
        if not self._leaving.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
        poke: threading.Thread | None = None
        while not self._leaving.wait(POKE_PAUSE):
            if poke is None or not poke.is_alive():
                poke = threading.Thread(target=self._poke, name="ftpfs-poke", daemon=True)
                poke.start()

    def _poke(self) -> None:
        with contextlib.suppress(OSError):
            os.statvfs(self._mountpoint)

    def _stop_waiting(self) -> None:
        self._hurried.set()
        self._filesystem.stop_waiting()

    # Answers.

    def report(self) -> Report:
        status = self._status()
        up, down = self._rates(self._sample(status))
        state = (
            "left" if self._left.is_set() else "leaving" if self._leaving.is_set() else "mounted"
        )
        return Report(
            mountpoint=self._mountpoint,
            pid=os.getpid(),
            state=state,
            since=self._since,
            binding=self._binding,
            spool=str(self._spool),
            upload_rate=up,
            download_rate=down,
            status=_shortened(status),
        )

    def _told_of_left_behind(self) -> str:
        return self._left_behind.line() if self._left_behind else ""

    def _tell_status(self, _request: Request) -> Iterator[Reply]:
        yield replace(self.report(), note=self._told_of_left_behind()).to_reply()

    def _tell_until_the_end(self, _request: Request) -> Iterator[Reply]:
        while not self._left.is_set():
            yield self.report().to_reply()
            self._left.wait(FOLLOW_PAUSE)
        yield self.report().to_reply()

    def _tell_sync(self, request: Request) -> Iterator[Reply]:
        path = _path_in(request)
        # Once: two that fail out of step would be tried for ever.
        self._filesystem.retry(path)
        while not self._synced(path):
            yield {"report": self.report().to_reply()}
        failures = [
            [each.path, each.error or "left to the next mount"]
            for each in self._pending(path)
            if each.state == "failed" or self._hurried.is_set()
        ]
        yield {"report": self.report().to_reply(), "failures": failures}

    def _synced(self, path: str) -> bool:
        """Wait a while; whether nothing at and below `path` is on its way any more."""
        try:
            self._filesystem.sync(path, SYNC_PAUSE)
        except errors.FtpfsError:
            # Not yet, or something failed: that must not hide what else is still to come.
            return all(each.state == "failed" for each in self._pending(path))
        return True

    def _pending(self, path: str) -> list[PendingFile]:
        return [
            each
            for each in self._filesystem.upload_status().pending
            if path == "/" or (each.path + "/").startswith(path + "/")
        ]

    def _forget(self, request: Request) -> Iterator[Reply]:
        self._filesystem.forget(_path_in(request))
        yield {}

    def _hurry(self, _request: Request) -> Iterator[Reply]:
        if not self._leaving.wait(HURRY_DEADLINE):
            raise errors.InvalidArgument(f"{self._mountpoint} is mounted and in use")
        log.info("told not to wait for uploads")
        self._stop_waiting()
        yield {}

    def _status(self) -> MountStatus:
        connections = self._remote.status()
        return MountStatus(
            source=self._source,
            connections=ConnectionStatus(
                idle=connections.idle,
                busy=connections.leased,
                limit=connections.cap,
                waiting=connections.waiting,
            ),
            uploads=self._filesystem.upload_status(),
            cache=self._filesystem.cache_status(),
        )

    def _sample(self, status: MountStatus) -> _Sample:
        """Note how much was transferred by now; as many samples are kept as a rate needs."""
        uploads = status.uploads
        sent = uploads.uploaded_bytes + sum(each.sent for each in uploads.pending)
        sample = _Sample(time.monotonic(), sent, status.cache.downloaded)
        with self._lock:
            while len(self._samples) > 1 and sample.when - self._samples[1].when >= RATE_TIME:
                self._samples.popleft()
            self._samples.append(sample)
        return sample

    def _rates(self, now: _Sample) -> tuple[float, float]:
        """Bytes a second, up and down, since the oldest sample that is kept."""
        with self._lock:
            then = self._samples[0]
        seconds = now.when - then.when
        if seconds <= 0:
            return 0.0, 0.0
        # An upload that begins anew has sent less than before.
        up = max(0, now.uploaded - then.uploaded)
        return up / seconds, (now.downloaded - then.downloaded) / seconds


def _path_in(request: Request) -> str:
    path = request.get("path", "/")
    if not isinstance(path, str) or not path.startswith("/"):
        raise errors.InvalidArgument("the question has no path in it")
    return path


def _shortened(status: MountStatus) -> MountStatus:
    """With so many of the pending files as fit into an answer: failures, and those next."""
    pending = status.uploads.pending
    if len(pending) <= PENDING_SHOWN:
        return status
    # A stable sort: the others stay in the order of their turns.
    shown = tuple(sorted(pending, key=lambda each: each.state != "failed")[:PENDING_SHOWN])
    return replace(status, uploads=replace(status.uploads, pending=shown))
