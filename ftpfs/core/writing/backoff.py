"""Backoff: what follows a failed upload: a retry after a pause, a retry at once, or none. Pure.

- This process has no descriptor left (OutOfDescriptors): the file is retried until there is one.
- The server is unreachable (NetworkError): the file waits, and all others with it (`Absence`).
- The server is full (NoSpace, QuotaExceeded): the file counts as failed, and is retried rarely.
- A program on the server has the file open (Busy): the file is retried for minutes.
- The server's answer was odd (a 4xx, a wrong size): the file is retried a few times.
- Any other failure lasts until a program changes the file again.

Pure: no lock, no clock, no I/O.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from ftpfs import errors

# Pause between two tries of an unreachable server, doubled up to the second value.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
# Pause between two tries of a file for which the server had no room.
FULL_PAUSE_SECONDS = 60.0
# If a program on the server has the file open: how long the file is retried, and the longest pause
# between two tries.
BUSY_PATIENCE_SECONDS, BUSY_PAUSE_SECONDS = 600.0, 15.0
# Limit of tries after a refusal that may be temporary (4xx; a wrong size).
TRIES = 4

NO_ROOM = (errors.NoSpace, errors.QuotaExceeded)


@dataclass(frozen=True, slots=True)
class Absence:
    """Whether the server is unreachable (`pause` > 0), and when an upload tries it again."""

    pause: float = 0.0
    until: float = 0.0

    def after_failure(self, now: float, running: int, jitter: float) -> Absence:
        """The network failed, with `running` other uploads under way.

        If a hurried file fails within a pause, that is nothing new and does not lengthen the pause.
        Otherwise programs that wait for their files would lengthen it to minutes within a second.
        """
        if now < self.until or (running and self.pause):
            return self
        pause = _longer(self.pause)
        return Absence(pause, now + pause * jitter)

    def retried_now(self) -> Absence:
        """The next upload tries the server at once."""
        return Absence(min(self.pause, FIRST_PAUSE_SECONDS))


@dataclass(frozen=True, slots=True)
class Tries:
    """The failed tries of one file. Times are of the queue's clock.

    Attributes:
        count: how many failed in a row.
        pause: the last pause, before jitter (seconds).
        paused_until: the end of the last pause.
        busy_since: when a program on the server was first found to have the file open.
    """

    count: int = 0
    pause: float = 0.0
    paused_until: float = 0.0
    busy_since: float | None = None


class Then(enum.Enum):
    """What happens to the file next."""

    PAUSE = "tried again after a pause"
    AT_ONCE = "tried again at once"
    FAILED = "failed, until a program changes it"
    FULL = "failed, and tried again after a pause"


class Notice(enum.Enum):
    """The log line about a failure, with the path and the error."""

    AWAY = "uploads wait: %s: %s"
    DESCRIPTORS = "%s waits: %s"
    BUSY = "%s waits for a program on the server that has it open: %s"
    ODD = "%s could not be uploaded, trying again: %s"


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows a failure. `told`: the programs that use the file have to hear of it."""

    then: Then
    tries: Tries
    notice: Notice | None = None
    told: bool = False


def after(
    error: errors.FtpfsError, tries: Tries, now: float, jitter: float, *, asked_again: bool
) -> Consequence:
    """What follows the next failure of a file.

    `asked_again`: the file was closed or hurried during this try. The caller that did so may have
    come too late to hear of this failure.
    """
    count = tries.count + 1
    if isinstance(error, errors.NetworkError):
        # A hurried file that fails within its pause does not lengthen it.
        pause = _longer(tries.pause) if now >= tries.paused_until else tries.pause
        paused = replace(tries, count=count, pause=pause, paused_until=now + pause * jitter)
        return Consequence(Then.PAUSE, paused, Notice.AWAY)
    pause = _longer(tries.pause)
    paused = Tries(count, pause, now + pause * jitter)
    if isinstance(error, errors.OutOfDescriptors):
        return Consequence(Then.PAUSE, paused, Notice.DESCRIPTORS)
    if isinstance(error, errors.Busy):
        since = now if tries.busy_since is None else tries.busy_since
        if now - since < BUSY_PATIENCE_SECONDS:
            pause = min(pause, BUSY_PAUSE_SECONDS)
            paused = Tries(count, pause, now + pause * jitter, since)
            return Consequence(Then.PAUSE, paused, None if tries.busy_since else Notice.BUSY)
    is_odd = _is_odd(error)
    if is_odd and count < TRIES:
        return Consequence(Then.PAUSE, paused, Notice.ODD)
    if asked_again:
        return Consequence(Then.AT_ONCE, replace(tries, count=0, busy_since=None))
    told = count == 1 or is_odd
    if isinstance(error, NO_ROOM):
        full = Tries(count, tries.pause, now + FULL_PAUSE_SECONDS * jitter)
        return Consequence(Then.FULL, full, told=told)
    return Consequence(Then.FAILED, replace(tries, count=count, busy_since=None), told=told)


def _longer(pause: float) -> float:
    return min(pause * 2 or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)


def _is_odd(error: errors.FtpfsError) -> bool:
    """Whether the server may answer differently next time."""
    if isinstance(error, errors.Refused):
        return 400 <= error.code < 500
    return isinstance(error, (errors.DataMismatch, errors.ProtocolError))
