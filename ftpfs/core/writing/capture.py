"""What one upload sends of a file that a program may write meanwhile.

Owns which content the upload sends, how far the upload may send, and the detection of a write to
what was promised. Before the capture the content is what was written without a gap; after it, the
content of one moment. Does not know the file, nor servers. The file reports each write, cut and
close, and asks for the result. The upload pulls the bytes through `model.remote.Content`.

Threading: `changed` is the file's own condition and guards everything. `..._locked` methods are for
the file, which holds it. The others are for the uploading thread, which waits on it for the writer.
"""

from __future__ import annotations

import enum
import threading
import time
from dataclasses import replace
from typing import IO, Protocol

from ftpfs import errors
from ftpfs.core.writing.ranges import RangeSet
from ftpfs.core.writing.spool import SpoolFile
from ftpfs.model.entry import Entry

# Modification time (s) and mode bits; None: not to be set.
Attributes = tuple[int | None, int | None]

# How many bytes an upload sends before it asks again. Within that, it notices that a program has
# overwritten what it sends, and `sent` is accurate. 1 MiB costs less than 1 % in calls at 1 GB/s.
CHUNK_BYTES = 1 << 20
# A streamed upload sends less than a chunk when its writer took so long (seconds). It gives its
# connection back when nothing came in the second time.
STREAM_PAUSE, STREAM_PATIENCE = 1.0, 10.0


class Way(enum.Enum):
    """How a content reaches the server."""

    WHOLE = "whole"  # as a new file, which gets its name when it is complete
    PATCH = "patch"  # the unsent ranges alone, written into the server's file
    APPEND = "append"  # the unsent range alone, behind all that the server's file has


class Sender(Protocol):
    """What a capture asks of the upload that sends it. It is called with no lock held."""

    def attributes_for(self, capture: Capture) -> Attributes:
        """The attributes to set, now that all was sent."""

    def mode_for(self, capture: Capture) -> int | None:
        """The mode that would be set now."""

    def note_accepted(self) -> None:
        """The server takes the upload."""

    def note_progress(self) -> None:
        """Some bytes were sent."""

    def note_promised(self, start: int, end: int) -> None:
        """This range is sent now, although a program may still write the file."""


class Capture:
    """One upload's content (`model.remote.Content`).

    What was captured or promised, and is written over afterwards, makes `ready` raise Superseded.
    """

    def __init__(
        self,
        name: str,
        file: SpoolFile,
        size: int,
        changed: threading.Condition,
        sender: Sender,
        *,
        way: Way = Way.WHOLE,
        copy: IO[bytes] | None = None,
    ) -> None:
        """`name`: for messages. `size`: the file's now. `copy`: holds what is sent, if that is not
        the spool file itself."""
        # Constant:
        self.way = way
        self.is_in_place = way is not Way.WHOLE
        self._name = name
        self._file = file
        self._copy = copy
        self._changed = changed
        self._sender = sender
        # Guarded by `changed`:
        self.captured = False
        self.end = 0  # of what was captured
        self.writes = -1  # of the file, that are in what was captured
        self.lowest = 0  # the smallest size of the file since then
        self.sent = 0  # bytes
        self.is_accepted = False
        # if a program overwrites the content, it goes on with the new bytes
        self.is_insistent = False
        # the attributes that the upload was told to set
        self.attributes_given: Attributes | None = None
        self.mtime_shown: int | None = None  # the file's time on the server, if it was set since
        self.is_corrected = False  # the attributes were set once more, after the upload
        self._size = size  # of the file, until it is captured
        self._taken = RangeSet()  # the ranges that were unsent at the capture
        self._promised = 0  # the end of what the upload may have sent
        self._superseded = self._cancelled = False
        self._wanted: int | None = None  # how far the writer has to come

    # By the file, with its lock held.

    def capture_locked(self, size: int, writes: int, unsent: RangeSet) -> None:
        """Fix what is sent: the file of `size` after so many `writes`. `unsent` belongs to the
        capture from now on."""
        self.captured = True
        self.end = self.lowest = size
        self.writes = writes
        self._taken = unsent
        self._changed.notify_all()

    def unsent_locked(self) -> list[tuple[int, int]]:
        """The ranges that are unsent again, because they did not arrive."""
        return [(start, min(end, self.lowest)) for start, end in self._taken]

    def cancel_locked(self) -> None:
        """Have the upload end by Superseded, soon."""
        self._cancelled = True
        self._changed.notify_all()

    def is_whole_locked(self, file: SpoolFile, writes: int) -> bool:
        """Whether this is all of the file as it still is. Then what the server got of it counts."""
        same = self.writes == writes and file is self._file
        return same and not self.is_in_place and not self._cancelled

    def written_locked(self, start: int, end: int) -> None:
        self._size = max(self._size, end)
        # All that was captured is promised. A part that the upload did not ask for yet would be
        # sent with the new bytes in it, and what was cut off would be sent as zeros.
        if start < (self.end if self.captured else self._promised) and not self.is_in_place:
            if self.captured:
                self._superseded = True
            else:
                self._cancelled = True  # the bytes on their way never were the content
            self._changed.notify_all()
        elif self._wanted is not None and end >= self._wanted:
            self._changed.notify_all()

    def cut_locked(self, size: int) -> None:
        self.lowest = min(self.lowest, size)
        # Else a change in place would go on with zeros. Nobody would know the file again by them.
        self._cancelled = self._cancelled or (self.is_in_place and size < self.end)
        self.written_locked(size, size)
        self._size = size

    def total_locked(self) -> int:
        """How many bytes there are to send, as far as is known."""
        if self.is_in_place:
            return self._taken.total()
        return self.end if self.captured else self._size

    def trace_locked(self, mtime: int | None) -> tuple[int, int | None]:
        """The size and time by which the content would be known on the server. `mtime`: the time,
        if the upload was given none yet."""
        return self.end, self.attributes_given[0] if self.attributes_given else mtime

    # By the upload.

    def with_attributes(self, entry: Entry) -> Entry:
        """`entry` with the attributes that were set after the upload itself had set some."""
        if not self.is_corrected or self.attributes_given is None:
            return entry
        mode = self.attributes_given[1]
        return replace(
            entry,
            mtime=entry.mtime if self.mtime_shown is None else self.mtime_shown,
            mode=entry.mode if mode is None else mode,
        )

    def fileno(self) -> int:
        return (self._copy or self._file).fileno()

    def ready(self, offset: int) -> int:
        end, is_captured = self._ready(offset)
        if not is_captured:
            self._sender.note_promised(offset, end)
        return end

    def _ready(self, offset: int) -> tuple[int, bool]:
        """What `ready` returns, and whether that was captured."""
        self._sender.note_progress()
        with self._changed:
            self.sent = offset
            if self.is_in_place:
                self._check_locked()
                return max(offset, self.end), True
            came, since = -1, time.monotonic()
            while True:
                self._check_locked()
                end = self.end if self.captured else self._written_from_locked(offset)
                waited = time.monotonic() - since
                enough = end >= offset + CHUNK_BYTES or (end > offset and waited >= STREAM_PAUSE)
                if self.captured or enough:
                    end = max(offset, min(end, offset + CHUNK_BYTES))
                    self._promised = max(self._promised, end)
                    return end, self.captured
                if end > came:
                    came, since = end, time.monotonic()
                elif waited >= STREAM_PATIENCE:
                    raise errors.Superseded(f"{self._name}: its writer pauses")
                self._wanted = offset + CHUNK_BYTES
                self._changed.wait(STREAM_PAUSE)
                self._wanted = None

    def whole(self) -> int | None:
        with self._changed:
            return self.end if self.captured else None

    def accepted(self) -> None:
        self._sender.note_accepted()
        with self._changed:
            self.is_accepted = True
            self._changed.notify_all()

    def mode(self) -> int | None:
        return self._sender.mode_for(self)

    def check(self) -> None:
        """Raises Superseded if this is not to be sent any more."""
        with self._changed:
            self._check_locked()

    def attributes(self) -> Attributes:
        return self._sender.attributes_for(self)

    def _check_locked(self) -> None:
        # An insistent upload has no room for a copy. If it ended here, it would never arrive.
        overtaken = self._superseded and not (self.is_insistent or self._copy is not None)
        if self._cancelled or overtaken:
            raise errors.Superseded(f"{self._name}: written over while it was sent")

    def _written_from_locked(self, offset: int) -> int:
        """The end of what was written from `offset` on without a gap."""
        gaps = self._file.present.missing(offset, self._size)
        return gaps[0][0] if gaps else self._size
