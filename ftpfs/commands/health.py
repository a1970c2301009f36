"""The health of mounts in one line and one exit code, as monitoring plug-ins report it.

Owns the verdict (`Verdict`) on what `mounts` found. The form is that of the Monitoring Plugins
Development Guidelines, which Nagios, Icinga and others read: "SERVICE STATE: words | numbers" on
stdout, and the exit code of the state. Asks no daemon.

Threading: none of its own.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence

from ftpfs.commands import mounts
from ftpfs.commands.mounts import Mount
from ftpfs.daemon.control_socket import Report
from ftpfs.errors import printable
from ftpfs.model.status import PendingFile

_WORDS_OF_MOUNT = 300  # characters; a line that is too long is cut by a monitor, at any place


class Verdict(enum.IntEnum):
    """The exit codes of monitoring plug-ins."""

    OK = 0
    WARNING = 1  # something is not as it should be, and ftpfs goes on by itself
    CRITICAL = 2  # a person must look
    UNKNOWN = 3  # nobody here can say


# The worst first. What is known to be broken counts more than what cannot be seen.
_ORDER = (Verdict.CRITICAL, Verdict.WARNING, Verdict.UNKNOWN, Verdict.OK)


def check(found: Sequence[Mount]) -> tuple[Verdict, str]:
    """The verdict on these mounts, and the line that tells it."""
    if not found:
        return unknown("nothing is mounted")
    judged = [(*_judge(mount), mount) for mount in found]
    judged.sort(key=lambda each: _ORDER.index(each[0]))
    worst = judged[0][0]
    told = [
        f"{mount.path or mount.source}: {words}"[:_WORDS_OF_MOUNT]
        for verdict, words, mount in judged
        if verdict is worst or verdict is not Verdict.OK
    ]
    return worst, f"{_line(worst, '; '.join(told))} | {_numbers(found)}"


def unknown(why: str) -> tuple[Verdict, str]:
    """The verdict if the mounts could not be looked at."""
    return Verdict.UNKNOWN, _line(Verdict.UNKNOWN, why)


def missing(why: str) -> tuple[Verdict, str]:
    """The verdict if nothing is mounted where a mount should be."""
    return Verdict.CRITICAL, _line(Verdict.CRITICAL, why)


def _line(verdict: Verdict, words: str) -> str:
    # A server chose the names and the words of its refusals. A bar would begin the numbers.
    return f"FTPFS {verdict.name}: {printable(words).replace('|', '¦')}"


def _judge(mount: Mount) -> tuple[Verdict, str]:
    report = mount.report
    if report is None and mount.path:
        return (Verdict.UNKNOWN if mount.unseen else Verdict.CRITICAL), mount.trouble
    needs = [each.line() for each in mount.waiting]
    if report is not None:
        needs = [*_failures(report), *report.lost, *report.held, *needs]
    if needs:
        more = f", and {len(needs) - 1:,} more" if len(needs) > 1 else ""
        return Verdict.CRITICAL, f"{needs[0]}{more}"
    return _judge_running(report) if report else (Verdict.UNKNOWN, mount.trouble)


def _failures(report: Report) -> list[str]:
    return [f"{each.path}: {mounts.why_not(each)}" for each in mounts.failed(report.status.uploads)]


def _judge_running(report: Report) -> tuple[Verdict, str]:
    status = report.status
    to_go = mounts.left(status.uploads)
    waits = f"{to_go} to go" if to_go else "nothing waits"
    if status.offline_since is not None:
        away = max(0, int(time.time() - status.offline_since))
        return Verdict.WARNING, f"the server is away for {away:,} s, {waits}"
    if report.note:
        return Verdict.WARNING, report.note
    if error := next((each.error for each in status.uploads.pending if each.error), None):
        return Verdict.WARNING, f"{waits}, last error: {error}"
    return Verdict.OK, waits


def _numbers(found: Sequence[Mount]) -> str:
    """Sums over all mounts, as performance data: files, bytes, seconds."""
    uploads = [mount.report.status.uploads for mount in found if mount.report]
    closed = [each.since for each in _pending(found)]
    oldest = max(0, int(time.time() - min(closed))) if closed else 0
    left = sum(each.files for mount in found for each in mount.waiting)
    return (
        f"files={sum(each.files for each in uploads) + left} "
        f"failed={sum(len(mounts.failed(each)) for each in uploads)} "
        f"bytes={sum(each.bytes for each in uploads)}B "
        f"oldest={oldest}s"
    )


def _pending(found: Sequence[Mount]) -> list[PendingFile]:
    return [each for mount in found if mount.report for each in mount.report.status.uploads.pending]
