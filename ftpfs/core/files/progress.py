"""How far an open file is on its way: what was written, closed, is due, and is on the server.

Owns counts of writes, and who writes. Pure: no I/O, no lock, no clock.

Each write makes a new content. The counts say how many writes each content has in it:

    due <= committed <= writes, sent <= writes

What is *committed* is closed, and in the journal. What is *due* is to be sent now. An upload sends
all that was written by then, so `sent` may pass the two. A program that has the file open for
writing (a *writer*) holds back what it wrote: a file is due when its last writer is gone, or when
somebody demands it.

Threading: guarded by `changed` of the open file.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


# Of a file that has its name:
#
#              write             commit              no writer, or a demand
#     CLEAN ──────────> WRITTEN ─────────> COMMITTED ───────────────────────> DUE
#       ^                  ^                   ^                               │
#       │                  └───────────────────┴── sent, and written to since ─┤
#       └───────────────────────────────────────── sent ───────────────────────┘
#
# A write does not lead back: what is due stays due while a program writes on. From each stage a
# deletion leads to DELETED, which is the end: nothing more of the file is sent.
class Stage(enum.Enum):
    """How far the file is, for the content that is furthest."""

    CLEAN = "clean"  # the server has all of it
    WRITTEN = "written"  # nothing that was written since the last upload is committed
    COMMITTED = "committed"  # held back for its writers
    DUE = "due"
    DELETED = "deleted"


class Snapshot(NamedTuple):
    """A file's progress at one moment."""

    stage: Stage
    is_dirty: bool  # the server does not have all of it
    is_held: bool  # a program is in the middle of writing it
    writes: int


class Progress:
    """The counts of one open file's writes, and the handles that write it.

    Counts, each of writes:
    - `writes`: all so far. A new file begins with one: its creation.
    - `committed`: those in the journal.
    - `due`: those to be sent.
    - `demanded`: those to be sent though writers are there.
    - `sent`: those that the server has.
    """

    def __init__(self, *, is_new: bool) -> None:
        self.writes = 1 if is_new else 0
        self.committed = self.due = self.sent = 0
        self.demanded = 0
        self.since = 0.0  # when it was first committed after it was clean (s since the epoch)
        self.is_deleted = False  # it has lost its name, and lives on in its handles only
        self.is_closed = False  # the last handle is gone, or the mount
        self.waiting = 0  # threads that wait until it is sent
        self._writers: set[int] = set()  # numbers of open handles that changed it
        self._placers: set[int] = set()  # those of them that wrote at offsets of their own

    def restore(self, writes: int, since: float) -> None:
        """The file was closed by an earlier mount, and is due."""
        self.writes = self.committed = self.due = max(1, writes)
        self.since = since

    # Answers.

    def snapshot(self) -> Snapshot:
        return Snapshot(self.stage, self.is_dirty, self.is_held, self.writes)

    @property
    def stage(self) -> Stage:
        if self.is_deleted:
            return Stage.DELETED
        if self.sent < self.due:
            return Stage.DUE
        if self.sent < self.committed:
            return Stage.COMMITTED
        return Stage.WRITTEN if self.is_dirty else Stage.CLEAN

    @property
    def is_dirty(self) -> bool:
        """Whether the server does not have all of it. So it stays when a dirty file is deleted."""
        return self.sent != self.writes

    @property
    def is_held(self) -> bool:
        """Whether a program is in the middle of writing it, and nobody demands what there is."""
        return bool(self._writers) and self.sent >= self.demanded

    @property
    def is_to_be_sent(self) -> bool:
        """Whether an upload may send something of it now."""
        return self.stage is Stage.DUE and not self.is_held

    @property
    def is_placed(self) -> bool:
        """Whether an open handle wrote at offsets of its own, and will go on there."""
        return bool(self._placers)

    def has_other_writer(self, writer: int) -> bool:
        return bool(self._writers - {writer})

    # Writers.

    def begin_writing(self, writer: int) -> None:
        self._writers.add(writer)

    def place(self, writer: int) -> None:
        """The handle writes at an offset of its own."""
        self._placers.add(writer)

    def write(self, writer: int | None) -> None:
        """The content changed. `writer`: the handle, if a program did it."""
        self.writes += 1
        if writer is not None:
            if not (self._writers or self.waiting):
                self.end_demand()
            self._writers.add(writer)

    def end_writing(self, writer: int) -> bool:
        """The handle is closed. Returns whether it was the last writer."""
        self._writers.discard(writer)
        self._placers.discard(writer)
        return not self._writers

    # The way to the server.

    def commit(self, now: float) -> None:
        """All that was written is in the journal. `now`: seconds since the epoch."""
        if self.committed <= self.sent:
            self.since = now
        self.committed = self.writes

    def make_due(self) -> bool:
        """Have what is committed sent. Returns whether something of it was not due before."""
        if self.is_deleted or max(self.sent, self.due) >= self.committed:
            return False
        self.due = self.committed
        return True

    def demand(self) -> None:
        """Have what was written sent, although writers are there."""
        self.demanded = self.writes

    def end_demand(self) -> None:
        """Nobody waits any more. From now on the file is held back for its writers again, although
        what was demanded is not sent yet."""
        self.demanded = min(self.demanded, self.sent)

    def arrive(self, writes: int) -> None:
        """The server has the content of so many writes."""
        self.sent = writes
