"""Small files that are longer on the server than they were listed.

Small files are fetched in one piece, and the server is not asked for their size and time in
addition. Others may have replaced the file since it was listed, and the beginning of the new
content is no content. So a fetch looks whether more bytes follow, which costs no round trip.

But others may also write at the end of the file all the time, as to a log: then each look is too
old when the bytes arrive. If the bytes of the last look are there again, this is what happens, and
what was listed is a content that the file had.

Threading: a fetch at a time uses an `Overrun`.
"""

from __future__ import annotations

from ftpfs import errors
from ftpfs.model.remote import Download


class Overrun:
    """What was read of one content of a small file before more bytes followed."""

    def __init__(self, before: bytes = b"") -> None:
        """`before`: what was read of the content before this one."""
        self._before = before
        self.read = b""

    def check(self, path: str, download: Download, offset: int, data: bytes) -> None:
        """Raise Changed if bytes follow `data`, which begins at `offset` and should be the last."""
        if not download.goes_on():
            return
        if offset == 0:
            self.read = data
            if self._before and data.startswith(self._before):
                return
        raise errors.Changed(f"{path}: is longer now; it was changed on the server")
