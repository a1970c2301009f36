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
from ftpfs.control import Daemon, Report
from ftpfs.core.status import PendingFile, UploadStatus

# `umount` and `sync` say that they cannot go on when for so long (seconds) nothing was sent and
# what was tried failed. Longer than a connect and its second attempt take to fail.
STUCK = 30.0


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


def _place(path: str) -> tuple[str, str]:
    """The mountpoint that `path` lies below, and its path in there."""
    holder = mountpoints.holding(path).path
    inside = mountpoints.absolute(path)[len(holder) :]
    return holder, "/" + inside.strip("/")


# Telling.


def forget(path: str | None) -> None:
    """Let the mount that `path` is in, or all of them, look again at what others may have
    changed. Raises FtpfsError."""
    places = [_place(path)] if path else [(each.path, "/") for each in _mounted(None)]
    for holder, inside in places:
        for daemon in _daemons(holder):
            for _ in control.ask(daemon, "forget", path=inside):
                pass


# Waiting.

# Told of the state of uploads as it changes, to show it.
Progress = Callable[[UploadStatus], None]


def sync(path: str | None, progress: Progress) -> list[str]:
    """Wait until the server has everything (that is below `path`); a line for each failure.

    Raises FtpfsError when a mount cannot be asked.
    """
    if path:
        holder, inside = _place(path)
        places = [(daemon, inside) for daemon in _daemons(holder)]
    else:
        for each in _mounted(None):
            _daemons(each.path)  # there is one
        places = [(daemon, "/") for daemon in control.daemons()]
    failures = []
    for daemon, inside in places:
        for reply in control.ask(daemon, "sync", path=inside):
            report = Report.from_reply(reply["report"])
            progress(report.status.uploads)
            failures += [
                f"{report.mountpoint}{name}: {why}" for name, why in reply.get("failures", ())
            ]
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
            try:
                for last in _until_stuck(map(Report.from_reply, replies)):
                    show(last.status.uploads)
            except KeyboardInterrupt:
                files, size = to_go(last.status.uploads)
                raise KeyboardInterrupt(
                    f"{files} files ({decimal(size)}) go on in the background"
                ) from None
            except errors.ConnectionLost:
                return [
                    f"{path}: the daemon died; what it had not uploaded waits in {last.spool} "
                    f"for the next mount"
                ]
    return list(_left(last))


def _until_stuck(reports: Iterator[Report]) -> Iterator[Report]:
    """The reports, until they show no progress any more, but a reason for it."""
    moved, state = time.monotonic(), None
    for report in reports:
        uploads = report.status.uploads
        if state != (state := (uploads.files, uploads.bytes)):
            moved = time.monotonic()
        yield report
        if time.monotonic() - moved > STUCK and any(each.error for each in uploads.pending):
            return


def _left(last: Report) -> Iterator[str]:
    uploads = last.status.uploads
    for each in failed(uploads):
        yield f"{last.mountpoint}{each.path}: not uploaded: {each.error}"
    files, size = to_go(uploads)
    if not files:
        return
    what = f"{last.mountpoint}: {files} files ({decimal(size)}) are not on the server yet"
    where = f"they wait in {last.spool}"
    if last.state == "left":
        yield f"{what}; {where} for the next mount"
    else:
        why = next((each.error for each in uploads.pending if each.error), None)
        yield f"{what} ({why}); {where}, and the background goes on trying"
