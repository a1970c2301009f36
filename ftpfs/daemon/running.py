"""Running: a mount while it runs, and how it leaves.

Owns the housekeeper, the answers for the control socket, the measured rates, and the *drain*: how
long uploads may go on once no program can use the mount any more.

- After an unmount: as long as uploads make progress, and `leave_after` seconds longer, because an
  unreachable server may never come back.
- After SIGTERM or SIGINT: the grace time. Their sender (systemd, a shutdown, Ctrl-C) will kill the
  process soon.
- After a second signal, or `ftpfs umount --now`: no time at all.

The journal keeps what is not uploaded then, for the next mount.

Threading: libfuse calls `start` and `stop` (`init`, `destroy`). The housekeeper, the control socket
and the signals have a thread each. `_lock` guards the samples.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.store.presence import Presence
from ftpfs.core.writing import spool
from ftpfs.daemon import control_socket, keeping, limits, mountpoints
from ftpfs.daemon.control_socket import Control, Reply, Report, Request, path_in
from ftpfs.daemon.status_text import StatusText
from ftpfs.ftp.remote import Remote
from ftpfs.model.status import ConnectionStatus, MountStatus, PassthroughStatus, PendingFile

log = logging.getLogger(__name__)

# The interval at which idle sessions are closed and the profile is saved.
HOUSEKEEPING_SECONDS = 5.0
# How often a mount looks whether the kernel has given it up.
END_CHECK_SECONDS = 1.0
# A rate is an average over at least this time, if the mount has run for so long.
RATE_SECONDS = 5.0
# How often a client that watches the mount, or waits for a sync, gets a report.
FOLLOW_SECONDS = 0.25
SYNC_SECONDS = 0.5
# How long libfuse may take to leave its loop before it is woken once more.
POKE_SECONDS = 0.5
# When a mount is told to end, libfuse leaves its loop after the last call has been answered. Calls
# that still wait for the server after this time are cut off.
CALL_SECONDS = 1.0
# When the mount stops waiting for uploads, the process ends after this time, whatever holds it.
FORCE_SECONDS = 8.0
# How long after an unmount libfuse may take to report it.
HURRY_SECONDS = 5.0
# Limit of pending files in a report (their number is reported in full), and of files that a power
# loss took.
PENDING_SHOWN = 1000
LOST_SHOWN = 100
END_SIGNALS = {signal.SIGTERM, signal.SIGINT}


class _Sample(NamedTuple):
    when: float
    uploaded: int
    downloaded: int


class LeftBehind(NamedTuple):
    """Where earlier mounts may have left files that a read-only mount does not send."""

    folder: Path
    cure: str

    def line(self) -> str:
        """A line about the files that wait there; "" if there are none."""
        files = spool.left_behind(self.folder)
        if not files:
            return ""
        return (
            f"not sent by this read-only mount: {files} {'file' if files == 1 else 'files'} that "
            f"earlier mounts left in {self.folder} ({self.cure})"
        )


class Progress:
    """Measures for how long uploads have made no progress."""

    def __init__(self) -> None:
        self._best: tuple[int, ...] = ()
        self._since = 0.0

    def stands_still_for(self, status: MountStatus, now: float) -> float:
        """Seconds since the last progress.

        If an upload breaks off and begins anew, its bytes count only beyond the most that were ever
        sent. Bytes that are fetched because an upload needs them count, too.
        """
        uploads = status.uploads
        sent = uploads.uploaded_bytes + sum(each.sent for each in uploads.pending)
        # Changes of names that are done wait no more.
        come = uploads.uploaded_files, sent, status.cache.downloaded, -uploads.changes
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
        has_ended: Callable[[], bool] = lambda: False,
        presence: Presence | None = None,
        passthrough: Callable[[], PassthroughStatus] | None = None,
    ) -> None:
        """`grace`: seconds for uploads after a signal.

        `leave_after`: seconds without progress after which an unmounted file system stops waiting
        for uploads. `left_behind`: for a read-only mount. `has_ended()`: whether no program can use
        the mount any more. `presence`: whether the server is here, of a mount that goes on without.
        `passthrough`: whether the kernel reads and writes local files itself.
        """
        self._presence = presence
        self._passthrough = passthrough
        self._filesystem = filesystem
        self._remote = remote
        self._source = source
        self._mountpoint = mountpoint
        self._binding = binding
        self._spool = spool
        self._grace = grace
        self._leave_after = leave_after
        self._left_behind = left_behind
        self._has_ended = has_ended
        self._since = time.time()
        self._control: Control | None = None
        self._leaving = threading.Event()  # set when the mount is unmounted
        self._hurried = threading.Event()  # set when the mount stops waiting for uploads
        self._left = threading.Event()
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque()

    def hear_signals(self) -> None:
        """Start to listen for signals. A signal ends the mount, even one that still recovers files
        and has not answered the kernel yet."""
        threading.Thread(target=self._hear_signals, name="ftpfs-signals", daemon=True).start()

    def start(self) -> None:
        """The kernel has accepted the mount. Without a control socket the mount runs, too."""
        if line := self._told_of_left_behind():
            log.warning("%s: %s", self._mountpoint, line)
        for task, name in (
            (self._keep_house, "housekeeper"),
            (self._watch_for_end, "end-watch"),
        ):
            threading.Thread(target=task, name=f"ftpfs-{name}", daemon=True).start()
        try:
            self._control = Control(
                control_socket.default_folder(),
                self._mountpoint,
                {
                    "status": self._tell_status,
                    "follow": self._tell_until_the_end,
                    "sync": self._tell_sync,
                    "forget": self._forget,
                    "retry": self._retry,
                    "fetch": self._fetch,
                    **keeping.answers(self._filesystem),
                    "hurry": self._hurry,
                    "set": limits.changer(self._remote.rates),
                },
            )
        except OSError as error:
            log.warning(
                "there is no control socket, so ftpfs status and sync do not work: %s", error
            )
        else:
            self._control.start()

    def stop(self) -> None:
        """The mount is unmounted: upload what is left, as long as that may take, and end."""
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
        text = StatusText(self._source, self._mountpoint)
        while not self._left.wait(HOUSEKEEPING_SECONDS):
            self._remote.tidy()
            status = self._status()
            self._sample(status)
            text.tell(status)
            if self._leaving.is_set() and not self._hurried.is_set():
                self._leave_if_stuck(status, progress)

    # Leaving.

    @contextlib.contextmanager
    def signals_heard(self) -> Iterator[None]:
        """Around libfuse's loop, in the main thread: SIGTERM and SIGINT end the mount in order.

        libfuse has handlers of its own for SIGHUP, SIGINT and SIGTERM. They end its loop, but do
        not tell which signal it was. libfuse removes them before it calls `destroy`, so a later
        signal would kill the daemon in the middle of its last uploads. So SIGINT and SIGTERM are
        blocked, a thread receives them, and sends SIGHUP to libfuse while the loop runs.

        SIGPIPE is blocked, too. At its end libfuse restores the default action, which Python had
        replaced. Then the first connection that a server closes during the last uploads would kill
        the daemon.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*END_SIGNALS, signal.SIGPIPE})
        try:
            yield
        finally:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _leave_if_stuck(self, status: MountStatus, progress: Progress) -> None:
        """Stop waiting if uploads have made no progress for `leave_after`.

        Otherwise this process could wait forever, and nothing would end it.
        """
        if progress.stands_still_for(status, time.monotonic()) < self._leave_after:
            return
        log.error(
            "%s: %d files (%d bytes) are not on the server, and none moved for %g s (leave_after); "
            "they are left in %s for the next mount, or ftpfs recover",
            *(self._mountpoint, status.uploads.files, status.uploads.bytes, self._leave_after),
            self._spool,
        )
        self._stop_waiting()

    def _watch_for_end(self) -> None:
        """Cut off calls of a mount that has ended while the kernel still reads ahead.

        libfuse reports the unmount only after those calls are answered, and a server or a network
        may take arbitrarily long.
        """
        while not self._leaving.wait(END_CHECK_SECONDS):
            if self._has_ended():
                self._remote.cut_off_calls(CALL_SECONDS)

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
        """Make libfuse leave its loop: send a signal to the thread that waits in it.

        In any other thread the handler would run as well, but wake nobody. The signal has no effect
        if the thread has just checked for it and is about to wait. Then a request that the kernel
        always passes on wakes a worker, which sees that the end was asked for.

        A call that waits for the server would keep the loop busy. So its connection is cut off.
        """
        if not self._leaving.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
        poke: threading.Thread | None = None
        cut_off_at = time.monotonic() + CALL_SECONDS
        while not self._leaving.wait(POKE_SECONDS):
            if time.monotonic() >= cut_off_at:
                self._remote.cut_off_calls(CALL_SECONDS)
            if poke is None or not poke.is_alive():
                poke = threading.Thread(target=self._poke, name="ftpfs-poke", daemon=True)
                poke.start()

    def _poke(self) -> None:
        with contextlib.suppress(OSError):
            os.statvfs(self._mountpoint)

    def _stop_waiting(self) -> None:
        if not self._hurried.is_set():
            self._hurried.set()
            last = threading.Thread(target=self._end_by_force, name="ftpfs-end", daemon=True)
            last.start()
        self._filesystem.stop_waiting()

    def _end_by_force(self) -> None:
        """End the process, whatever holds it.

        The journal keeps what was not uploaded, as after a kill.
        """
        if self._left.wait(FORCE_SECONDS):
            return
        log.error(
            "%s: something still waits for the server; this process ends without it, and what is "
            "not uploaded is left in %s for the next mount",
            *(self._mountpoint, self._spool),
        )
        if not self._leaving.is_set():
            with contextlib.suppress(OSError, errors.FtpfsError):
                mountpoints.unmount(self._mountpoint, lazy=True)
        logging.shutdown()
        os._exit(1)

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
            lost=self._filesystem.lost_files()[:LOST_SHOWN],
            held=self._filesystem.held_files()[:LOST_SHOWN],
        )

    def _told_of_left_behind(self) -> str:
        return self._left_behind.line() if self._left_behind else ""

    def _tell_status(self, _request: Request) -> Iterator[Reply]:
        yield replace(self.report(), note=self._told_of_left_behind()).to_reply()

    def _tell_until_the_end(self, _request: Request) -> Iterator[Reply]:
        while not self._left.is_set():
            yield self.report().to_reply()
            self._left.wait(FOLLOW_SECONDS)
        yield self.report().to_reply()

    def _tell_sync(self, request: Request) -> Iterator[Reply]:
        path = path_in(request)
        # Retry once only: two failures that alternate would be retried endlessly.
        self._filesystem.retry(path)
        # Demand once only: a file that a program writes all the time would be sent again and again.
        if (refused := self._filesystem.demand(path)) is not None:
            log.error(
                "an open file could not be journalled, a crash now would lose it: %s", refused
            )
        while not self._filesystem.drain(path, SYNC_SECONDS):
            yield {"report": self.report().to_reply()}
        failures = [
            [each.path, _told(each)]
            for each in self._pending(path)
            if each.state == "failed" or self._hurried.is_set()
        ]
        yield {"report": self.report().to_reply(), "failures": failures}

    def _pending(self, path: str) -> list[PendingFile]:
        return [
            each
            for each in self._filesystem.upload_status().pending
            if path == "/" or (each.path + "/").startswith(path + "/")
        ]

    def _forget(self, request: Request) -> Iterator[Reply]:
        self._filesystem.forget(path_in(request))
        yield {}

    def _retry(self, request: Request) -> Iterator[Reply]:
        self._filesystem.retry(path_in(request))
        yield {}

    def _fetch(self, request: Request) -> Iterator[Reply]:
        told = 0.0
        for come in self._filesystem.fetch(path_in(request)):
            if time.monotonic() - told >= FOLLOW_SECONDS:
                told = time.monotonic()
                yield {"bytes": come}

    def _hurry(self, _request: Request) -> Iterator[Reply]:
        if not self._leaving.wait(HURRY_SECONDS):
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
                others=tuple(other.line() for other in connections.others),
                allowed=connections.allowed,
            ),
            uploads=self._filesystem.upload_status(),
            cache=self._filesystem.cache_status(),
            store=self._filesystem.store_status(),
            limits=limits.status_of(self._remote.rates),
            passthrough=self._passthrough() if self._passthrough else None,
            offline_since=self._presence.since if self._presence else None,
        )

    def _sample(self, status: MountStatus) -> _Sample:
        """Note how much was transferred by now. Keeps as many samples as a rate needs."""
        uploads = status.uploads
        sent = uploads.uploaded_bytes + sum(each.sent for each in uploads.pending)
        sample = _Sample(time.monotonic(), sent, status.cache.downloaded)
        with self._lock:
            while len(self._samples) > 1 and sample.when - self._samples[1].when >= RATE_SECONDS:
                self._samples.popleft()
            self._samples.append(sample)
        return sample

    def _rates(self, now: _Sample) -> tuple[float, float]:
        """Bytes a second, up and down, since the oldest sample."""
        with self._lock:
            then = self._samples[0]
        seconds = now.when - then.when
        if seconds <= 0:
            return 0.0, 0.0
        # The count falls when an upload begins anew.
        up = max(0, now.uploaded - then.uploaded)
        return up / seconds, (now.downloaded - then.downloaded) / seconds


def _told(each: PendingFile) -> str:
    """Why something is not on the server."""
    why = each.error or "left to the next mount"
    return f"{each.change}: not done: {why}" if each.change else why


def _shortened(status: MountStatus) -> MountStatus:
    """The status with at most PENDING_SHOWN pending files: failures first, then by turn."""
    pending = status.uploads.pending
    if len(pending) <= PENDING_SHOWN:
        return status
    # The sort is stable: the others keep the order in which they will be sent.
    shown = tuple(sorted(pending, key=lambda each: each.state != "failed")[:PENDING_SHOWN])
    return replace(status, uploads=replace(status.uploads, pending=shown))
