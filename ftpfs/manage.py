"""Running mounts, asked and told from outside: what status, sync, forget and umount do.

Owns: which daemons a command is about, and what is said when one is dead, stuck or cannot go on.
Owns neither the conversation (`control`), nor the mount table (`mountpoints`), nor how a report
looks (`show`).

Threading: one thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.filesize import decimal

from ftpfs import control, errors, mountpoints
from ftpfs.config import Config
from ftpfs.control import Daemon, Report
from ftpfs.core.status import PendingFile, UploadStatus

# `umount` and `sync` say that they cannot go on when for so long (seconds) nothing was sent and
# what was tried failed. Longer than a connect and its second attempt take to fail.
STUCK = 30.0
RECOVERY_PAUSE = 0.25  # seconds between two looks at how far it is


@dataclass(frozen=True)
class Mount:
    """A mount, as far as it can be told from outside."""

    path: str
    source: str
    report: Report | None  # None: its daemon did not answer
    trouble: str = ""  # why

    @property
    def is_well(self) -> bool:
        return self.report is not None and not failed(self.report.status.uploads)


def failed(uploads: UploadStatus) -> list[PendingFile]:
    """The files that are not tried again by themselves."""
    return [each for each in uploads.pending if each.state == "failed"]


def to_go(uploads: UploadStatus) -> tuple[int, int]:
    """Files and bytes on their way to the server: those that failed are not."""
    lost = failed(uploads)
    return uploads.files - len(lost), uploads.bytes - sum(each.size - each.sent for each in lost)


def count(files: int) -> str:
    return f"{files:,} file{'' if files == 1 else 's'}"


# Finding.


def mounts(only: str | None = None) -> list[Mount]:
    """The mounts of this user, or what is at `only`; those that still upload after they were
    unmounted among them. Raises InvalidArgument when there is none at `only`."""
    if only is not None:
        only = mountpoints.absolute(only)
    here = {each.path: each for each in _mounted(only)}
    found = []
    trouble: dict[str, str] = {}
    for daemon in control.daemons(only):
        try:
            report = _report(daemon)
        except errors.ConnectionLost:
            continue  # it ended while it was asked
        except errors.FtpfsError as error:
            trouble.update((path, str(error)) for path in here if daemon.serves(path))
            continue
        if report.state == "mounted":
            here.pop(report.mountpoint, None)
        found.append(Mount(report.mountpoint, report.status.source, report))
    for path, each in here.items():
        found.append(Mount(path, each.source, None, trouble.get(path) or _why_silent(path)))
    if only is not None and not found:
        raise errors.InvalidArgument(f"{only}: nothing of ftpfs is mounted there")
    return sorted(found, key=lambda mount: mount.path)


def _mounted(only: str | None) -> list[mountpoints.Mountpoint]:
    """What the system has mounted at `only`, or all that is this user's."""
    return [
        each
        for each in mountpoints.table()
        if (each.uid == os.geteuid() if only is None else each.path == only)
    ]


def _report(daemon: Daemon) -> Report:
    for reply in control.ask(daemon, "status"):
        return Report.from_reply(reply)
    raise errors.ProtocolError("the daemon said nothing")


def _why_silent(path: str) -> str:
    if mountpoints.crashed(path):
        return (
            "its daemon died; what was written waits in the spool. Mounting here again cleans up "
            "and goes on"
        )
    return f"its daemon has no socket in {control.default_folder()}"


def _daemons(path: str) -> list[Daemon]:
    """Those for a mountpoint. Raises FtpfsError where there is none to ask."""
    found = control.daemons(path)
    if not found:
        raise errors.FtpfsError(f"{path}: {_why_silent(path)}")
    return found


# Telling.


def forget(path: str | None) -> None:
    """Let the mount that `path` is in, or all of them, look again at what others may have
    changed. Raises FtpfsError."""
    places = [mountpoints.holding(path)] if path else [(each.path, "/") for each in _mounted(None)]
    for holder, inside in places:
        for daemon in _daemons(holder):
            for _ in control.ask(daemon, "forget", path=inside):
                pass


# Waiting.

# Told of the state of uploads as it changes, to show it.
Progress = Callable[[UploadStatus], None]


class Patience:
    """Whether uploads get on. They do not when nothing was sent for STUCK seconds and what was
    tried failed: the server is away, and nobody knows for how long."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._moved = time.monotonic()

    def is_over(self, uploads: UploadStatus) -> bool:
        state = to_go(uploads)
        if state != self._seen:
            self._seen, self._moved = state, time.monotonic()
        return time.monotonic() - self._moved > STUCK and any(
            each.error and each.state != "failed" for each in uploads.pending
        )


def sync(path: str | None, progress: Progress) -> list[str]:
    """Wait until the server has everything (that is below `path`); a line for each failure.

    Raises FtpfsError when the mount of `path` cannot be asked.
    """
    failures = []
    if path:
        holder, inside = mountpoints.holding(path)
        places = [(daemon, inside) for daemon in _daemons(holder)]
    else:
        places = [(daemon, "/") for daemon in control.daemons()]
        failures += [
            f"{each.path}: {_why_silent(each.path)}"
            for each in _mounted(None)
            if not any(daemon.serves(each.path) for daemon, _ in places)
        ]
    for daemon, inside in places:
        patience = Patience()
        with contextlib.closing(control.ask(daemon, "sync", path=inside)) as replies:
            for reply in replies:
                report = Report.from_reply(reply["report"])
                progress(report.status.uploads)
                root = report.mountpoint.rstrip("/")
                failures += [f"{root}{name}: {why}" for name, why in reply.get("failures", ())]
                if patience.is_over(report.status.uploads):
                    failures += _waiting(report)
                    break
    return failures


def umount(
    path: str, progress: Callable[[], contextlib.AbstractContextManager[Progress]], *, now: bool
) -> list[str]:
    """Unmount, and wait until the daemon has uploaded everything; a line for each thing that is
    left. `now`: let it leave the rest to the next mount instead.

    Raises FtpfsError; KeyboardInterrupt with a line about what goes on in the background.
    """
    path = mountpoints.absolute(path)
    if not _mounted(path):
        raise errors.InvalidArgument(f"{path}: nothing of ftpfs is mounted there")
    daemons = control.daemons(path)
    if not daemons:
        # A dead daemon's mount is never busy, but programs may still stand in it.
        mountpoints.unmount(path, lazy=mountpoints.crashed(path))
        return []
    daemon = daemons[-1]
    with contextlib.closing(control.ask(daemon, "follow")) as replies:
        last = Report.from_reply(next(replies))  # it listens: no word is missed from here on
        mountpoints.unmount(path)
        if now:
            with contextlib.suppress(errors.ConnectionLost):
                list(control.ask(daemon, "hurry"))
        with progress() as show:
            patience = Patience()
            try:
                for reply in replies:
                    last = Report.from_reply(reply)
                    show(last.status.uploads)
                    if patience.is_over(last.status.uploads):
                        break
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_in_background(last)) from None
            except errors.ConnectionLost:
                return [
                    f"{path}: the daemon died; what it had not uploaded waits in {last.spool} "
                    f"for the next mount"
                ]
    return [*_failures(last), *_waiting(last)]


def recover(config: Config, progress: Progress) -> list[str]:
    """Upload what earlier mounts of this server left in the spool; a line for each thing that is
    still left. Raises FtpfsError."""
    from ftpfs import mount

    with mount.spooled(config) as filesystem:
        patience = Patience()
        uploads = filesystem.upload_status()
        while to_go(uploads)[0] and not patience.is_over(uploads):
            with contextlib.suppress(errors.FtpfsError):  # told by the next status
                filesystem.sync("/", RECOVERY_PAUSE)
            uploads = filesystem.upload_status()
            progress(uploads)
        return [
            f"{each.path}: not uploaded: {each.error or 'not tried'}; it stays in the spool"
            for each in uploads.pending
        ]


def _in_background(last: Report) -> str:
    files, size = to_go(last.status.uploads)
    return (
        f"{last.mountpoint}: unmounted; {count(files)}, {decimal(size)}, left to the background"
        f" (ftpfs status {last.mountpoint})"
    )


def _failures(last: Report) -> Iterator[str]:
    for each in failed(last.status.uploads):
        yield f"{last.mountpoint}{each.path}: not uploaded ({each.error}); kept in {last.spool}"


def _waiting(last: Report) -> Iterator[str]:
    """A line about what is not on the server yet, if anything."""
    files, size = to_go(last.status.uploads)
    if not files:
        return
    what = f"{last.mountpoint}: not on the server yet: {count(files)}, {decimal(size)}"
    where = f"waiting in {last.spool}"
    if last.state == "left":
        yield f"{what}, {where} for the next mount, or ftpfs recover {last.status.source}"
    else:
        why = next((each.error for each in last.status.uploads.pending if each.error), None)
        yield f"{what}, {where}; the daemon goes on trying ({why})"
