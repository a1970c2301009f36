"""Checksums of what was sent of a file while the kernel was writing it.

A program may write over what was sent already, and with passthrough nobody is told. So each part is
summed up before it is sent, and all of them once more at the end. If a part has another sum then,
what was sent is not the content of the file.

Owns: the sums of one upload. Threading: the uploading thread.
"""

from __future__ import annotations

import zlib

from ftpfs.core.writing.spool import SpoolFile


class SentSums:
    """The sums of the parts of one upload."""

    def __init__(self, file: SpoolFile | None = None) -> None:
        self._file = file
        self._sums: list[tuple[int, int, int]] = []  # start, end, CRC-32

    def add(self, start: int, end: int) -> None:
        """Sum up a part that is about to be sent."""
        if self._file is not None and end > start:
            self._sums.append((start, end, self._sum(self._file, start, end)))

    def still_hold(self) -> bool:
        """Whether the file has the same bytes where it was summed up."""
        file = self._file
        return file is None or all(
            self._sum(file, start, end) == known for start, end, known in self._sums
        )

    def _sum(self, file: SpoolFile, start: int, end: int) -> int:
        return zlib.crc32(file.read(start, end - start))
