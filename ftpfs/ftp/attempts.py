"""Attempts: an operation on a path goes through the pool, and its refusal is explained.

FTP has one code, 550, for six different errnos. So after a refusal the caller's `why` looks at the
path and says what is wrong; if it finds nothing, only a missing permission is left.

Owns: the pauses for files in use, the second attempt by names on a server that may refuse paths,
and the error that a caller gets. The retries after a broken connection are the pool's.

Threading: any thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from ftpfs import errors
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.connections.pool import Pool
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.profile.names import Names

# A file that a program on the server has open (a virus scanner, an indexer) is often free a moment
# later: the command is repeated after these pauses. Uploads wait in their queue instead.
BUSY_PAUSES_SECONDS = (0.2, 0.5, 1.0)

T = TypeVar("T")
# Looks for the reason of a refusal. None: only a missing permission is left.
Why = Callable[[], errors.FtpfsError | None]


class Attempts:
    """Operations on the paths of one server. `Root.on_server` has made the paths absolute."""

    def __init__(self, pool: Pool, profile: Profile) -> None:
        self._pool = pool
        self._profile = profile

    def run(
        self,
        work: Callable[[Session], T],
        why: Why,
        again: Callable[[Session], T] | None = None,
        use: Use = Use.METADATA,
    ) -> T:
        """Do `work` on a session. Later attempts do `again` (see `Pool.run`).

        Any refusal is explained: pure-ftpd says 451 where others say 550.
        """
        # For a listing the folder is entered anyway.
        explained = Explained(self._profile.names, why, tries_names=use is not Use.LISTING)
        while True:
            with explained:
                return self._patiently(work, again, use)

    def _patiently(
        self, work: Callable[[Session], T], again: Callable[[Session], T] | None, use: Use
    ) -> T:
        """Do it, also if a program has the file open for a moment."""
        for pause in BUSY_PAUSES_SECONDS:
            try:
                return self._pool.run(work, again=again, use=use)
            except errors.Busy:
                time.sleep(pause)
        return self._pool.run(work, again=again, use=use)

    def begin(
        self,
        start: Callable[[Session, Callable[[], None]], T],
        why: Why,
        give_way: Callable[[], None] | None = None,
        use: Use = Use.TRANSFER,
    ) -> T:
        """Start a transfer (see `Pool.begin`)."""
        explained = self.explained(why)
        while True:
            with explained:
                return self._pool.begin(start, use=use, give_way=give_way)

    def explained(self, why: Why) -> Explained:
        """An operation whose refusal is explained: see `Explained`."""
        return Explained(self._profile.names, why, tries_names=True)


class Explained:
    """One operation, whose refusal is explained. Its attempts are `with` blocks in an endless loop:

        explained = attempts.explained(why)
        while True:
            with explained:
                return work()

    If nothing explains a refusal, and the server has not taken a path yet, the server may take bare
    names only. Then the block ends without an error, and so do the next ones: the second attempt
    goes by the path again, because the reason may have passed before it was looked for (another
    thread has made the folder). The third goes by names. The profile learns from its result.
    """

    def __init__(self, names: Names, why: Why, *, tries_names: bool) -> None:
        self._names = names
        self._why = why
        self._tries_names = tries_names
        self._is_repeated = False
        self._refusal: errors.Refused | None = None  # of the path; set: this attempt is by names

    def __enter__(self) -> None:
        if self._refusal is not None:
            self._names.trying = True

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if self._refusal is not None:
            self._end_by_name(self._refusal, error)
        elif isinstance(error, errors.Refused):
            reason = self._reason()
            is_explained = reason is not None or isinstance(error, errors.Busy)
            if is_explained or not (self._tries_names and self._names.may_be_bare_only):
                raise reason or _denied(error) from error
            self._refusal = error if self._is_repeated else None
            self._is_repeated = True
            return True
        return False

    def _reason(self) -> errors.FtpfsError | None:
        """What `why` finds, or None if the server refuses to tell: the first refusal counts."""
        with contextlib.suppress(errors.Refused):
            return self._why()
        return None

    def _end_by_name(self, refusal: errors.Refused, error: BaseException | None) -> None:
        self._names.trying = False
        if isinstance(error, errors.Refused):
            raise _denied(refusal) from refusal
        if error is None or isinstance(error, errors.CrossesFolders):  # its source was found
            self._names.saw_bare()


def _denied(refusal: errors.Refused) -> errors.FtpfsError:
    """The error for a refusal that nothing explains.

    For 550 that is PermissionDenied. Other codes stay as they are, unless their text is about a
    permission (pure-ftpd: "451 Rename/move failure: Permission denied").
    """
    if isinstance(refusal, errors.Unavailable) or "permission denied" in refusal.text.lower():
        return errors.PermissionDenied(str(refusal))
    return refusal
