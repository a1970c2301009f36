"""Running mounts, seen and told from outside: the work of status, sync, forget, umount, recover.

Owns the choice of the daemons that a command is about, and what it reports of one that is dead,
stuck or cannot go on. `daemon.control_socket` talks to a daemon, `daemon.mountpoints` reads the
mount table, `show` prints.

Threading: one thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rich.filesize import decimal

from ftpfs import errors
from ftpfs.daemon import control_socket, mountpoints, spools
from ftpfs.daemon.control_socket import Daemon, Reply, Report
from ftpfs.daemon.spools import Waiting
from ftpfs.model.status import PendingFile, UploadStatus
from ftpfs.settings.config import Config

# `umount` and `sync` give up if nothing was sent for this long and an attempt failed. A connect and
# its second attempt fail in less.
STUCK_SECONDS = 30.0
NOT_MOUNTED = "not mounted"
_RECOVERY_PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class Mount:
    """A mount as seen from outside, or the files that a mount of the past left."""

    path: str  # "": not mounted
    source: str
    report: Report | None  # None: the daemon did not answer
    trouble: str = ""  # why
    waiting: tuple[Waiting, ...] = ()  # files that killed daemons of this server left
    unseen: bool = False  # no report, and the daemon may well be alive: another user's, say

    @property
    def is_well(self) -> bool:
        report = self.report
        if self.waiting:
            return False
        if report is None or report.lost or report.held:
            return False
        return not failed(report.status.uploads)


def failed(uploads: UploadStatus) -> list[PendingFile]:
    """The files, and the changes of names, that ftpfs does not retry by itself."""
    return [each for each in uploads.pending if each.state == "failed"]


def to_go(uploads: UploadStatus) -> tuple[int, int]:
    """The number of files and bytes still to upload, without those that failed."""
    lost = failed(uploads)
    return uploads.files - len(lost), uploads.bytes - sum(each.size - each.sent for each in lost)


def count(files: int) -> str:
    return f"{files:,} file{'' if files == 1 else 's'}"


def left(uploads: UploadStatus) -> str:
    """What is still to be done on the server, in words; "" for nothing."""
    files, size = to_go(uploads)
    changes = uploads.changes - sum(bool(each.change) for each in failed(uploads))
    words = []
    if files > changes:
        words.append(f"{count(files - changes)}, {decimal(size)}")
    if changes:
        words.append(f"{changes:,} change{'' if changes == 1 else 's'} of names")
    return ", ".join(words)


def why_not(each: PendingFile) -> str:
    """What was not done about a file or a name, and why, in words."""
    if each.change:
        return f"{each.change}: not done: {each.error or 'not tried'}"
    return f"not uploaded: {each.error or 'not tried'}"


# Finding.


def mounts(only: str | None = None) -> list[Mount]:
    """The mounts of this user, or those at `only`.

    Includes daemons that still upload after they were unmounted. Raises InvalidArgument if there is
    none at `only`.
    """
    if only is not None:
        only = mountpoints.absolute(only)
    here = {each.path: each for each in _mounted(only)}
    found = []
    trouble: dict[str, errors.FtpfsError] = {}
    for daemon in control_socket.daemons(only):
        try:
            report = _report(daemon)
        except errors.ConnectionLost:
            continue  # the daemon ended meanwhile
        except errors.FtpfsError as error:
            trouble.update((path, error) for path in here if daemon.serves(path))
            continue
        if report.state == "mounted":
            here.pop(report.mountpoint, None)
        found.append(Mount(report.mountpoint, report.status.source, report))
    for path, each in here.items():
        found.append(_silent(each, trouble.get(path)))
    if only is not None and not found:
        raise errors.InvalidArgument(f"{only}: nothing of ftpfs is mounted there")
    return _with_what_waits(sorted(found, key=lambda mount: mount.path), everything=only is None)


def _silent(mounted: mountpoints.Mountpoint, error: errors.FtpfsError | None) -> Mount:
    """A mount whose daemon told nothing; `error`: what came of asking, if it has a socket."""
    if error is None:
        dead = mountpoints.crashed(mounted.path)
        return Mount(mounted.path, mounted.source, None, _why_silent(mounted.path), unseen=not dead)
    stuck = isinstance(error, errors.DeadlineExceeded)
    return Mount(mounted.path, mounted.source, None, str(error), unseen=not stuck)


def _with_what_waits(found: list[Mount], *, everything: bool) -> list[Mount]:
    """The same mounts; the first of each server also has what killed daemons of it left.

    `everything`: adds what daemons of other servers left.
    """
    left: dict[str, list[Waiting]] = {}
    for each in spools.waiting():
        left.setdefault(each.source, []).append(each)
    mounts = []
    for mount in found:
        told = mount.report is not None and mount.report.note  # a read-only mount tells it itself
        waiting = () if told else tuple(left.pop(mount.source, ()))
        mounts.append(replace(mount, waiting=waiting))
    known = {mount.source for mount in found}
    for source, each_left in left.items():
        if everything and source not in known:
            mounts.append(Mount("", source, None, NOT_MOUNTED, tuple(each_left)))
    return mounts


def _mounted(only: str | None) -> list[mountpoints.Mountpoint]:
    """The entries of the mount table at `only`, or all of this user."""
    return [
        each
        for each in mountpoints.table()
        if (each.uid == os.geteuid() if only is None else each.path == only)
    ]


def _report(daemon: Daemon) -> Report:
    for reply in control_socket.ask(daemon, "status"):
        return Report.from_reply(reply)
    raise errors.ProtocolError("the daemon said nothing")


def _why_silent(path: str) -> str:
    if mountpoints.crashed(path):
        return (
            "its daemon died; what was written waits in the spool. Mount here again to clean up "
            "and go on"
        )
    return f"its daemon has no socket in {control_socket.default_folder()}"


def _daemons(path: str) -> list[Daemon]:
    """The daemons of a mountpoint. Raises FtpfsError if there is none."""
    found = control_socket.daemons(path)
    if not found:
        raise errors.FtpfsError(f"{path}: {_why_silent(path)}")
    return found


def _places(path: str | None) -> tuple[list[tuple[Daemon, str]], list[str]]:
    """The daemons that `path` is about, each with a path inside its mount; None: all daemons.

    And a line for each mount of this user whose daemon has no socket. Raises FtpfsError if the
    mount of `path` has none.
    """
    if path:
        holder, inside = mountpoints.holding(path)
        return [(daemon, inside) for daemon in _daemons(holder)], []
    daemons = control_socket.daemons()
    silent = [
        f"{each.path}: {_why_silent(each.path)}"
        for each in _mounted(None)
        if not any(daemon.serves(each.path) for daemon in daemons)
    ]
    return [(daemon, "/") for daemon in daemons], silent


def queued(path: str | None) -> tuple[list[tuple[str, PendingFile]], list[str]]:
    """What waits at and below `path` (None: on all mounts), each with its local path.

    A daemon names 1,000 files at most, failures first. And a line for each mount that does not
    answer. Raises FtpfsError.
    """
    places, silent = _places(path)
    found = []
    for daemon, inside in places:
        report = _report(daemon)
        root = report.mountpoint.rstrip("/")
        found += [
            (root + each.path, each)
            for each in report.status.uploads.pending
            if inside == "/" or (each.path + "/").startswith(inside + "/")
        ]
    return found, silent


# Telling.


def retry(path: str | None) -> list[str]:
    """Send now what failed, or waits for its next attempt, at and below `path`; None: everywhere.

    Returns a line for each mount that does not answer. Raises FtpfsError.
    """
    places, silent = _places(path)
    for daemon, inside in places:
        for _reply in control_socket.ask(daemon, "retry", path=inside):
            pass
    return silent


def forget(path: str | None) -> None:
    """Discard the caches of the mount that contains `path`, below `path`; None: of all mounts.

    Raises FtpfsError.
    """
    places = [mountpoints.holding(path)] if path else [(each.path, "/") for each in _mounted(None)]
    for holder, inside in places:
        for daemon in _daemons(holder):
            for _ in control_socket.ask(daemon, "forget", path=inside):
                pass


def change(path: str, values: dict[str, str]) -> None:
    """Change options of the mount that contains `path`. Raises FtpfsError."""
    holder, _ = mountpoints.holding(path)
    for daemon in _daemons(holder):
        for _reply in control_socket.ask(daemon, "set", values=values):
            pass


# Waiting.

# Shows the state of uploads; called at each change.
Progress = Callable[[UploadStatus], None]


class Patience:
    """Tells when waiting for uploads is useless: the server is away.

    That is so if nothing was sent for STUCK_SECONDS, and an attempt failed.
    """

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._moved = time.monotonic()

    def is_over(self, uploads: UploadStatus) -> bool:
        state = to_go(uploads)
        if state != self._seen:
            self._seen, self._moved = state, time.monotonic()
        return time.monotonic() - self._moved > STUCK_SECONDS and any(
            each.error and each.state != "failed" for each in uploads.pending
        )


def sync(path: str | None, progress: Progress) -> list[str]:
    """Wait until the server has everything below `path`; None: of all mounts.

    Returns a line for each failure. Raises FtpfsError if the mount of `path` does not answer.
    """
    places, failures = _places(path)
    for daemon, inside in places:
        patience = Patience()
        with contextlib.closing(control_socket.ask(daemon, "sync", path=inside)) as replies:
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
    """Unmount, and wait until the daemon has uploaded everything.

    Returns a line for each thing that is left. `now`: do not wait, the next mount uploads the rest.
    Raises FtpfsError. Ctrl-C raises KeyboardInterrupt with a line about the uploads that go on in
    the background.
    """
    path = mountpoints.absolute(path)
    if not _mounted(path):
        raise errors.InvalidArgument(f"{path}: nothing of ftpfs is mounted there")
    daemons = control_socket.daemons(path)
    if not daemons:
        # The mount of a dead daemon is never busy, but it may be a program's working folder.
        (mounted, *_) = _mounted(path)[::-1]
        mountpoints.unmount(path, lazy=mountpoints.crashed(path))
        return [f"{path}: {each.line()}" for each in spools.waiting(mounted.source)]
    daemon = daemons[-1]
    with contextlib.closing(control_socket.ask(daemon, "follow")) as replies:
        last = Report.from_reply(next(replies))  # after this reply no other is missed
        mountpoints.unmount(path)
        if now:
            with contextlib.suppress(errors.ConnectionLost):
                list(control_socket.ask(daemon, "hurry"))
        with progress() as show:
            try:
                for last in _until_uploaded(replies):
                    show(last.status.uploads)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_in_background(last)) from None
            except errors.ConnectionLost:
                left = [each.line() for each in spools.waiting(last.status.source)]
                waits = f"what it had not uploaded waits in {last.spool} for the next mount"
                return [f"{path}: the daemon died; {each}" for each in left or [waits]]
    return [*_failures(last), *_waiting(last)]


def _until_uploaded(replies: Iterator[Reply]) -> Iterator[Report]:
    """What a daemon reports, until it ends or its uploads get nowhere."""
    patience = Patience()
    for reply in replies:
        report = Report.from_reply(reply)
        yield report
        if patience.is_over(report.status.uploads):
            return


def recover(config: Config, progress: Progress) -> list[str]:
    """Upload what earlier mounts of this server left in the spool.

    Returns a line for each thing that is still left. Raises FtpfsError.
    """
    from ftpfs.daemon import mount

    with mount.spooled(config) as filesystem:
        patience = Patience()
        uploads = filesystem.upload_status()
        while to_go(uploads)[0] and not patience.is_over(uploads):
            with contextlib.suppress(errors.FtpfsError):  # the next status has it
                filesystem.sync("/", _RECOVERY_PAUSE_SECONDS)
            uploads = filesystem.upload_status()
            progress(uploads)
        return [
            f"{each.path}: {why_not(each)}"
            + ("" if each.change and each.state == "failed" else "; it stays in the spool")
            for each in uploads.pending
        ]


def _in_background(last: Report) -> str:
    words = left(last.status.uploads) or "nothing"
    return (
        f"{last.mountpoint}: unmounted; {words}, left to the background"
        f" (ftpfs status {last.mountpoint})"
    )


def _failures(last: Report) -> Iterator[str]:
    for each in failed(last.status.uploads):
        if each.change:
            yield f"{last.mountpoint}{each.path}: {why_not(each)}"
        else:
            yield f"{last.mountpoint}{each.path}: not uploaded ({each.error}); kept in {last.spool}"


def _waiting(last: Report) -> Iterator[str]:
    """A line about files that are not on the server yet, if there are any."""
    if not (words := left(last.status.uploads)):
        return
    what = f"{last.mountpoint}: not on the server yet: {words}"
    where = f"waiting in {last.spool}"
    if last.state == "left":
        yield f"{what}, {where} for the next mount, or ftpfs recover {last.status.source}"
    else:
        why = next((each.error for each in last.status.uploads.pending if each.error), None)
        yield f"{what}, {where}; the daemon goes on trying ({why})"
