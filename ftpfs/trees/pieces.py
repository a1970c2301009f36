"""Pieces: which part of a file each stream receives. Book-keeping without I/O.

The pieces lie side by side and cover the file. Each has a begin, a position up to which its bytes
are here, and an end. A stream without work takes a piece that no other stream works on, or the
second half of the largest rest. The first half's stream then stops at its new end.

A piece whose first byte has not come yet is given back to the stream before it, if that one arrives
at its begin: so a slow login, or a server that refuses one more connection, holds up nothing.

Threading: any thread; one lock (Rank.PIECES), and nothing is called under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftpfs.model.locks import Rank, ranked_lock

# A rest below twice this (bytes, and share of the file) is not divided: a transfer takes some round
# trips to begin, and one that ends early wastes what is on its way, up to some MB on a long link.
LEAST_BYTES, _LEAST_SHARE = 2 << 20, 16

# Where bytes are missing: begin and end of each gap.
Gaps = Sequence[tuple[int, int]]


@dataclass(eq=False)
class Piece:
    """A part of the file. Only `Pieces` changes it.

    - `position`: the bytes from `begin` up to here are on the disk.
    - `owned`: a stream works on it.
    - `begun`: that stream has received something, so no other may take the piece back.
    - `gone`: the stream before it has taken it back.
    - `is_doubtful`: an earlier run has received what is here. Its end is to be compared.
    """

    begin: int
    position: int
    end: int
    owned: bool = False
    begun: bool = False
    gone: bool = False
    is_doubtful: bool = False

    @property
    def left(self) -> int:
        return self.end - self.position


class Pieces:
    """The pieces of one file of `size` bytes."""

    def __init__(self, size: int, gaps: Gaps) -> None:
        """`gaps`: what is missing, in order."""
        self.size = size
        self._least = max(LEAST_BYTES, size // _LEAST_SHARE)
        self._lock = ranked_lock(Rank.PIECES)
        # Guarded by _lock:
        begin = 0
        self._pieces = []
        for start, end in gaps:
            self._pieces.append(Piece(begin, start, end, is_doubtful=start > begin))
            begin = end
        self._missing = sum(piece.left for piece in self._pieces)
        self._stopped = False

    def take(self) -> Piece | None:
        """A piece to work on; None: there is none for one more stream."""
        with self._lock:
            if self._stopped:
                return None
            piece = self._free_locked() or self._half_locked()
            if piece is not None:
                piece.owned = True
            return piece

    def room(self, piece: Piece) -> int:
        """How many bytes the stream of this piece still has to receive."""
        with self._lock:
            while not piece.left and self._takes_back_locked(piece):
                pass
            return 0 if piece.gone or self._stopped else piece.left

    def claim(self, piece: Piece) -> bool:
        """Whether the stream of `piece` may write what it has received."""
        with self._lock:
            piece.begun = not (piece.gone or self._stopped)
            return piece.begun

    def is_compared(self, piece: Piece) -> None:
        """What an earlier run left of the piece fits."""
        with self._lock:
            piece.is_doubtful = False

    def arrived(self, piece: Piece, count: int) -> None:
        with self._lock:
            piece.position += count
            self._missing -= count

    def give_back(self, piece: Piece) -> None:
        """The stream of this piece is over."""
        with self._lock:
            piece.owned = piece.begun = False

    def stop(self) -> None:
        """No stream may write any more."""
        with self._lock:
            self._stopped = True

    @property
    def missing(self) -> int:
        """Bytes that are not here yet."""
        with self._lock:
            return self._missing

    def gaps(self) -> Gaps:
        """What is missing now."""
        with self._lock:
            return [(piece.position, piece.end) for piece in self._pieces if piece.left]

    def _free_locked(self) -> Piece | None:
        return next((each for each in self._pieces if each.left and not each.owned), None)

    def _half_locked(self) -> Piece | None:
        """The second half of the largest rest, as a new piece."""
        number, largest = max(
            enumerate(self._pieces), key=lambda each: each[1].left, default=(0, None)
        )
        if largest is None or largest.left < 2 * self._least:
            return None
        middle = largest.position + largest.left // 2
        half = Piece(middle, middle, largest.end)
        largest.end = middle
        self._pieces.insert(number + 1, half)
        return half

    def _takes_back_locked(self, piece: Piece) -> bool:
        """Join the next piece to one that is done, if nothing of the next one has come."""
        number = self._pieces.index(piece) + 1 if not piece.gone else len(self._pieces)
        if number == len(self._pieces):
            return False
        after = self._pieces[number]
        if after.begun or after.position > after.begin:
            return False
        after.gone = True
        piece.end = after.end
        del self._pieces[number]
        return True
