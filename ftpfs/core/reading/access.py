"""How programs read one content: in order, here and there, or piece by piece.

Remembers the last reads of all handles together. `reader` decides by it whether a stream, a whole
block or a piece is fetched.

Threading: the reader's lock guards it. No I/O.
"""

from __future__ import annotations

from collections import deque

# Recently read blocks that are remembered to recognise sequential readers: some for each of a few.
RECENT = 64
# A read within so many blocks behind a recent one goes on from it: the kernel sends its read-ahead
# out of order.
GAP_BLOCKS = 2
# A small read is sequential if it begins at most this many bytes behind the end of a recent read.
# A limit of two blocks was too far: of 100 random reads in 128 MiB a tenth began a stream, and took
# 95 ms instead of 22 on a link of 20 ms.
GOES_ON_BYTES = 32 << 10
# After this many small reads in one block, the next one fetches the whole block.
MOST_PIECEMEAL = 2


class Access:
    """The last reads of one content."""

    def __init__(self) -> None:
        self._blocks: deque[int] = deque(maxlen=RECENT)
        self._ends: deque[int] = deque(maxlen=RECENT)  # bytes
        self._pieced: deque[int] = deque(maxlen=RECENT)  # blocks of which a piece was fetched

    def note(self, block: int, end: int) -> None:
        """A program read from `block`, up to byte `end`."""
        self._blocks.append(block)
        self._ends.append(end)

    def note_piece(self, block: int) -> None:
        """A piece of `block` is fetched by itself."""
        self._pieced.append(block)

    def read(self, block: int) -> bool:
        """Whether the block was read lately. Needs no lock."""
        return block in self._blocks

    def is_piecemeal(self, block: int) -> bool:
        """Whether enough pieces of the block were fetched by themselves."""
        return self._pieced.count(block) >= MOST_PIECEMEAL

    def reads_on(self, block: int) -> bool:
        """Whether a read of `block` goes on from a recent one."""
        return any(0 < block - read <= GAP_BLOCKS for read in self._blocks)

    def goes_on(self, block: int, offset: int) -> bool:
        """Whether a small read goes on from any recent read, or begins shortly after the last one.

        The latter is a program that skips through a file: a stream serves it better, too.
        """
        if any(0 <= offset - end <= GOES_ON_BYTES for end in self._ends):
            return True
        return bool(self._blocks) and 0 < block - self._blocks[-1] <= GAP_BLOCKS
