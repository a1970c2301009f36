"""What went wrong with the uploads of one open file, and which program still has to hear of it.

Owns: the failures and the refusal. Pure: no I/O, no lock. Does not decide what is tried again
(`writing.queue`).

A failed attempt is told to those who wait for it at that moment. A failure for good is told once
more, to the next program that opens or closes the file: nobody may have waited. A refusal is told
to the program that made the file. If nothing was written to it, nothing will be: writes raise it.

Threading: guarded by `changed` of the open file.
"""

from __future__ import annotations

from ftpfs import errors


class Failures:
    """The failed uploads of one file."""

    def __init__(self) -> None:
        self.count = 0  # of failed attempts
        self.for_good: errors.FtpfsError | None = None  # nothing is tried until the next write
        self.refusal: errors.FtpfsError | None = None  # of a new file that is still empty
        self._last: errors.FtpfsError | None = None
        self._reported: errors.FtpfsError | None = None  # a program was told this one

    def note(self, error: errors.FtpfsError) -> None:
        """An attempt failed."""
        self.count += 1
        self._last = error

    def report_since(self, count: int) -> errors.FtpfsError | None:
        """The last failure, for a program that waits since there were `count`. None: there was no
        further one."""
        if self.count == count or self._last is None:
            return None
        self._reported = self._last
        return self._last

    def report_for_good(self, *, again: bool) -> errors.FtpfsError | None:
        """The failure for good, for a program. None: there is none, or a program was told, unless
        it is to be told `again`."""
        error = self.for_good
        if error is None or (error is self._reported and not again):
            return None
        self._reported = error
        return error

    def forget(self) -> None:
        """The server has all of the file."""
        self.for_good = self.refusal = None
