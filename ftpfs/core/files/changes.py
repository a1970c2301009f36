"""How the content of an open file differs from the server's file.

Owns: the sizes of both, the ranges that are unsent, how they came about, and what earlier uploads
may have left on the server. From that it says which way an upload can take. Pure: no I/O, no lock.

Threading: guarded by `changed` of the open file.
"""

from __future__ import annotations

from collections.abc import Iterable

from ftpfs import errors
from ftpfs.core.writing.ranges import RangeSet
from ftpfs.model.entry import Entry, Trace

# Least bytes that a patch has to save. Below that an upload of the whole file is as fast, and
# atomic.
WORTH_PATCHING = 256 << 10
# A file is sent while it is written, if so many bytes were written from its start on. A smaller one
# is closed before a connection is ready.
STREAM_FROM = 1 << 20
# Most bytes that a program can give a file: as many as ext4 takes. A local disk may take more,
# because zeros need no room there. On the wire each of them is a byte.
MOST_BYTES = 16 << 40


class Changes:
    """What of one file the server does not have.

    The content beyond `base_size`, where nothing was written, is zeros.
    """

    def __init__(self, base_size: int, *, is_new: bool) -> None:
        self.size = base_size
        self.base_size = base_size  # where the server's file ends for this content
        self.unsent = RangeSet()  # what differs from the server's file
        self.is_streamable = is_new  # written from its start on, in order
        # Since it was clean: it was written through handles with O_APPEND alone, as far as known.
        self.is_only_appended = True
        # It was truncated, or sent whole and the reply was lost. What that left may hold the unsent
        # range already: appended to that, it would be there twice.
        self.goes_whole = False
        # An append arrived, and its reply was lost.
        self.has_arrived = False
        # Something was written at an offset since a change in place broke off. So the bytes do not
        # show any more how much of an append arrived.
        self.is_rewritten = False
        self.uncertain: set[Trace] = set()  # uploads whose result nobody knows

    def restore(self, size: int, base_size: int, present: Iterable[tuple[int, int]]) -> None:
        """The file was closed by an earlier mount, with these ranges in the spool file."""
        self.size, self.base_size = size, base_size
        self.is_streamable = self.is_only_appended = False
        for start, end in present:
            self.unsent.add(start, end)
        # Beyond the base, what was never written is zeros. The server need not have them.
        self.unsent.add(base_size, size)

    def write(self, offset: int, end: int) -> bool:
        """The range was written. Returns whether sending should begin now, while it goes on."""
        size = self.size
        if offset != size:
            self.is_streamable = False
        # A gap before the range is zeros that the server does not have either.
        self.unsent.add(min(offset, size), end)
        if end > size:
            self.size = end
        return self.is_streamable and self.size >= STREAM_FROM

    def check_end(self, end: int) -> None:
        """Raises FileTooLarge if the file would get longer than any server's disk allows."""
        if end > max(self.size, MOST_BYTES):
            raise errors.FileTooLarge(f"a file of {end} bytes cannot be sent")

    def cut(self, size: int) -> None:
        """The file was truncated to `size`, which may be longer."""
        self.goes_whole = True
        self.unsent.cut(size)
        self.unsent.add(self.size, size)
        self.base_size = min(self.base_size, size)
        self.is_streamable = size == 0
        self.size = size

    def limit_base(self, size: int) -> None:
        """The server's file has `size` bytes now. What lay behind that is unsent."""
        self.base_size = min(self.base_size, size)
        self.unsent.add(self.base_size, self.size)

    def take(self) -> RangeSet:
        """The unsent ranges, for an upload. What is written from now on is for the next one."""
        taken, self.unsent = self.unsent, RangeSet()
        return taken

    def give_back(self, ranges: Iterable[tuple[int, int]]) -> None:
        """These ranges did not arrive."""
        for start, end in ranges:
            self.unsent.add(start, end)

    def end_behind(self, base_size: int, size: int) -> None:
        """All but the end of the file, from `base_size` on, is the server's."""
        self.size, self.base_size = size, base_size
        self.unsent = RangeSet()
        self.unsent.add(base_size, size)

    def begin_anew(self) -> None:
        """The server has all of the file."""
        self.is_only_appended, self.goes_whole, self.is_rewritten = True, False, False

    # Which way an upload can take.

    def appended_to(self, base: Entry | None, *, is_placed: bool) -> tuple[int, int] | None:
        """The range that was appended to the server's file `base`, if nothing else was done to it.
        The range is empty if all of it is there already.

        `is_placed`: a program wrote at offsets of its own. It would go on there, although others
        may have appended before what it wrote.
        """
        if base is None or base.size is None or self.goes_whole or is_placed:
            return None
        # What is written into an empty file may be meant to be all of it.
        if not (base.size or self.is_only_appended):
            return None
        ranges = list(self.unsent)
        if ranges == [(base.size, self.size)] or (not ranges and self.has_arrived):
            return base.size, self.size
        return None

    def is_patch_of(self, base: Entry | None) -> bool:
        """Whether `base` becomes this content if the unsent ranges are written into it, and whether
        that saves enough."""
        if base is None or base.size is None or base.size > self.size:
            return False
        return self.size - self.unsent.total() >= WORTH_PATCHING
