"""The schedule of uploads: which file goes next, when, and how many at a time. A pure decision.

The queue looks at its first jobs under its lock, `decide` says what happens, and the queue does it.

**Order.** A file that a caller waits for goes first, then small files before large ones. A file
that waits counts as smaller by AGEING_BYTES each second, so no file waits without end.

**Lingering.** A file that was just closed lingers a moment. A program that writes, closes, sets
times and renames is done by then, and all of that is one upload.

**Bursts.** A burst is many closes of small files without a pause. Where the processor is the
bottleneck, and not the network, uploads slow down the program that writes: it and the workers take
turns at the interpreter, and pay for that. So the files of a burst are held back until it pauses,
for LONGEST_LINGER_SECONDS at most, and up to HELD_BYTES. From then on one worker sends them, and
all workers do after the burst. `cp -r` of 1,000 files of 4 KiB onto vsftpd on loopback took 1.4 s
of CPU before it returned and everything was on the server; with this, 0.45 s before it returned and
1.1 s in all. With 4,000 files on a busy machine: 15 s each before, then 9 and 15 s.

**An unreachable server** pauses all uploads. One of them tries now and then (`backoff.Absence`).

Pure: no lock, no clock, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftpfs.core.writing.backoff import Absence

NEVER = float("-inf")

# Seconds from a close to its upload. Each further close puts the upload off again, up to the
# longest linger: a loop of `echo >> file` is one upload every two seconds, not one for each line.
LINGER_SECONDS, LONGEST_LINGER_SECONDS = 0.1, 2.0
# A file that was changed in place is not renamed and touched next, as new files are.
SHORT_LINGER_SECONDS = 0.01
# A burst: at least this many closes, of files of this average size at most, without such a pause.
BURST_CLOSES, BURST_AVERAGE_BYTES, BURST_PAUSE_SECONDS = 5, 64 << 10, 0.03
HELD_BYTES = 32 << 20
AGEING_BYTES = 8 << 20  # bytes a second: 1 GiB waits at most two minutes for smaller files


@dataclass(frozen=True, slots=True)
class Burst:
    """The closes without a pause, up to the last one. Times are of the queue's clock."""

    began: float = NEVER
    last: float = NEVER
    closes: int = 0
    bytes: int = 0

    def with_close(self, now: float, size: int) -> Burst:
        if now - self.last > BURST_PAUSE_SECONDS:
            return Burst(now, now, 1, size)
        return Burst(self.began, now, self.closes + 1, self.bytes + size)

    @property
    def counts(self) -> bool:
        """Whether there are enough closes, of small enough files."""
        return BURST_CLOSES <= self.closes > self.bytes // BURST_AVERAGE_BYTES


@dataclass(frozen=True, slots=True)
class Situation:
    """The queue at one moment. Times are of its clock.

    `yields` means that uploads leave the processor to the programs that are still writing.
    """

    now: float
    workers: int
    running: int  # uploads under way
    linger: float  # seconds
    burst: Burst
    absence: Absence
    yields: bool

    @property
    def burst_until(self) -> float:
        """The end of the time (see `now`) in which one worker is enough: files still come in."""
        if not (self.yields and self.burst.counts):
            return NEVER
        return self.burst.last + min(self.linger, BURST_PAUSE_SECONDS)

    @property
    def held_until(self) -> float:
        """The time (see `now`) before which no lingering file is begun."""
        if self.burst.bytes > HELD_BYTES:
            return NEVER
        return min(self.burst_until, self.burst.began + LONGEST_LINGER_SECONDS)


@dataclass(frozen=True, slots=True)
class First:
    """The first file that does not linger any more."""

    hurried: bool = False  # a caller waits for it
    streamed: bool = False  # a program is still writing it


@dataclass(frozen=True, slots=True)
class Decision:
    """Begin the first upload now, or look again at `at` (None: when something changes)."""

    begin: bool
    at: float | None = None


BEGIN = Decision(begin=True)


def decide(first: First | None, due: float | None, situation: Situation) -> Decision:
    """Whether the first file begins now. `due`: when the next file has lingered."""
    if first is not None and _may_begin(first, situation):
        return BEGIN
    times = []
    if due is not None:
        times.append(max(due, situation.held_until))
    if first is not None:
        if situation.burst_until > situation.now:
            times.append(situation.burst_until)
        if situation.absence.pause and not situation.running:
            times.append(situation.absence.until)
    return Decision(begin=False, at=min(times, default=None))


def _may_begin(first: First, situation: Situation) -> bool:
    if first.hurried:
        return True
    if situation.absence.pause and (situation.now < situation.absence.until or situation.running):
        return False  # one upload at a time tries whether the server is back
    in_burst = situation.now < situation.burst_until
    return first.streamed or not (in_burst and situation.running)


def may_stream(streams: int, situation: Situation) -> bool:
    """Whether an upload of a file that is still being written would keep no other file waiting.

    One worker is left for files that were closed.
    """
    return (
        not situation.absence.pause
        and streams < situation.workers - 1
        and situation.running < situation.workers
    )


def lingers_until(now: float, entered: float, linger: float) -> float:
    """When a file that was closed now begins, if it entered the queue at `entered`."""
    return min(now + linger, entered + max(linger, LONGEST_LINGER_SECONDS))


def rank(size: int, entered: float, first: First) -> float:
    """The order of the files that may begin: the lowest first.

    All files age alike, so their order does not change while they wait.
    """
    return NEVER if first.hurried or first.streamed else size + entered * AGEING_BYTES
