"""Pipelined questions: what was sent, what was answered, how much is in flight.

Pure: no I/O, no lock. The session sends what `next_batch` gives and reports each answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftpfs.ftp.manners import kind_of


class Questions:
    """Which questions were sent, and which of those were answered."""

    def __init__(self, wire: Sequence[bytes], window: int) -> None:
        """`wire`: the questions as they are sent. `window`: limit of unanswered bytes."""
        self._wire = wire
        self._window = window
        self._sent = self._got = 0
        self._in_flight = 0  # bytes

    @property
    def count(self) -> int:
        return len(self._wire)

    @property
    def done(self) -> bool:
        return self._got == len(self._wire)

    @property
    def open(self) -> int:
        """How many questions were sent and not answered yet."""
        return self._sent - self._got

    def next_batch(self) -> bytes:
        """The questions to send now. None while more than half of the window is in flight."""
        start = self._sent
        if self._in_flight <= self._window // 2:
            while self._sent < len(self._wire) and self._in_flight < self._window:
                self._in_flight += len(self._wire[self._sent])
                self._sent += 1
        return b"".join(self._wire[start : self._sent])

    @property
    def next_kind(self) -> str:
        """The kind of the question that the next answer belongs to."""
        return kind_of(self._wire[self._got].decode("latin-1").rstrip())

    def answered(self) -> bytes:
        """The question that the next answer belongs to."""
        question = self._wire[self._got]
        self._in_flight -= len(question)
        self._got += 1
        return question
