"""What one upload sends of a file that may be written meanwhile.

Owns: which content it is (captured, and from then on of one moment; before that, as far as it was
written without a gap), how far it may be sent, and that a write to what was promised is noticed.
Does not know the file that it is of, nor servers: the file tells it of each write, cut and close,
and asks what became of it; `ftp.upload` pulls it through `core.remote.Content`.

Threading: `changed` is the file's own condition, and guards everything. `..._locked` is for the
file, that holds it; the rest is for the thread that uploads, which waits on it for the writer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import IO

from ftpfs import errors
from ftpfs.core.ranges import RangeSet
from ftpfs.core.writer import SpoolFile
from ftpfs.ftp.listing import Entry

Attributes = tuple[
    int | None, int | None
]  # modification time (s) and mode bits; None: not to be set

# How much an upload is handed at a time: what was sent is known, and what was overtaken is noticed,
# to within that. 1 MiB costs less than 1 % in calls at 1 GB/s.
PIECE = 1 << 20
# A streamed upload sends what there is when the writer took so long for a piece (seconds), and
# gives its connection back when nothing came for the second time.
STREAM_PAUSE, STREAM_PATIENCE = 1.0, 10.0


class Sending:
    """One upload's content (`core.remote.Content`).

    What was captured or promised, and is written over afterwards, makes `ready` raise Superseded.
    """

    def __init__(
        self,
        name: str,
        file: SpoolFile,
        size: int,
        changed: threading.Condition,
        *,
        ask: Callable[[Sending], Attributes],
        accepted: Callable[[], None],
        progress: Callable[[], None],
        copy: IO[bytes] | None = None,
        patches: bool = False,
    ) -> None:
        """`name`: for messages. `size`: the file's now. `copy`: what is sent, where that is not in
        the file itself. `patches`: only what is unsent of it, in place.

        `ask` tells the attributes that are to be set, once all was sent; `accepted` is called when
        the server takes it, `progress` with each piece; all with no lock held.
        """
        # Constant.
        self.patches = patches
        self._name = name
        self._file = file
        self._copy = copy
        self._changed = changed
        self._ask = ask
        self._tell_accepted = accepted
        self._progress = progress
        # Guarded by `changed`:
        self.captured = False
        self.end = 0  # of what was captured
        self.writes = -1  # of the file, that are in what was captured
        self.lowest = 0  # the smallest size of the file since then
        self.sent = 0
        self.is_accepted = False
        self.lasts = False  # it is sent as it is by then, though it is written over
        self.told: Attributes | None = None  # when it asked
        self.corrected = False  # they were set once more, by themselves
        self._size = size  # of the file, until it is captured
        self._taken = RangeSet()  # what was unsent
        self._promised = 0
        self._superseded = self._cancelled = False
        self._wanted: int | None = None  # how far the writer has to come

    # By the file, with its lock held.

    def capture_locked(self, size: int, writes: int, unsent: RangeSet) -> None:
        """This is what is sent: the file of `size` after so many `writes`. `unsent` is its own from
        now on."""
        self.captured = True
        self.end = self.lowest = size
        self.writes = writes
        self._taken = unsent
        self._changed.notify_all()

    def unsent_locked(self) -> list[tuple[int, int]]:
        """What is unsent again, as it did not arrive."""
        return [(start, min(end, self.lowest)) for start, end in self._taken]

    def cancel_locked(self) -> None:
        """Have it end by Superseded, soon."""
        self._cancelled = True
        self._changed.notify_all()

    def is_whole_locked(self, file: SpoolFile, writes: int) -> bool:
        """Whether it is all of the file, as it is still: then what the server got of it counts."""
        same = self.writes == writes and file is self._file
        return same and not self.patches and not self._cancelled

    def written_locked(self, start: int, end: int) -> None:
        self._size = max(self._size, end)
        # All that was captured is promised: a part that was not asked for yet would be sent as it
        # is by then, and what was cut off as zeros.
        if start < (self.end if self.captured else self._promised) and not self.patches:
            if self.captured:
                self._superseded = True
            else:
                self._cancelled = True  # what is on its way never was the content
            self._changed.notify_all()
        elif self._wanted is not None and end >= self._wanted:
            self._changed.notify_all()

    def cut_locked(self, size: int) -> None:
        self.lowest = min(self.lowest, size)
        self.written_locked(size, size)
        self._size = size

    def total_locked(self) -> int:
        """How much there is to send, as far as is known (bytes)."""
        if self.patches:
            return self._taken.total()
        return self.end if self.captured else self._size

    def trace_locked(self, mtime: int | None) -> tuple[int, int | None]:
        """By what it would be known on the server: size and time (`mtime`, if it did not ask)."""
        return self.end, self.told[0] if self.told else mtime

    # By the upload.

    def with_attributes(self, entry: Entry) -> Entry:
        """`entry` with what was set after the upload itself had set them."""
        if not self.corrected or self.told is None:
            return entry
        mtime, mode = self.told
        return replace(
            entry,
            mtime=entry.mtime if mtime is None else mtime,
            mode=entry.mode if mode is None else mode,
        )

    def fileno(self) -> int:
        return (self._copy or self._file).fileno()

    def ready(self, offset: int) -> int:
        self._progress()
        with self._changed:
            self.sent = offset
            if self.patches:
                self._check_locked()
                return max(offset, self.end)
            came, since = -1, time.monotonic()
            while True:
                self._check_locked()
                end = self.end if self.captured else self._written_from_locked(offset)
                waited = time.monotonic() - since
                enough = end >= offset + PIECE or (end > offset and waited >= STREAM_PAUSE)
                if self.captured or enough:
                    end = max(offset, min(end, offset + PIECE))
                    self._promised = max(self._promised, end)
                    return end
                if end > came:
                    came, since = end, time.monotonic()
                elif waited >= STREAM_PATIENCE:
                    raise errors.Superseded(f"{self._name}: its writer pauses")
                self._wanted = offset + PIECE
                self._changed.wait(STREAM_PAUSE)
                self._wanted = None

    def whole(self) -> int | None:
        with self._changed:
            return self.end if self.captured else None

    def accepted(self) -> None:
        self._tell_accepted()
        with self._changed:
            self.is_accepted = True
            self._changed.notify_all()

    def attributes(self) -> Attributes:
        return self._ask(self)

    def _check_locked(self) -> None:
        # Without room for a copy it is sent as it is, else it would never arrive.
        overtaken = self._superseded and not (self.lasts or self._copy is not None)
        if self._cancelled or overtaken:
            raise errors.Superseded(f"{self._name}: written over while it was sent")

    def _written_from_locked(self, offset: int) -> int:
        """How far it was written without a gap."""
        gaps = self._file.present.missing(offset, self._size)
        return gaps[0][0] if gaps else self._size
