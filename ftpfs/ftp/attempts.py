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

        Any refusal is explained: pure-ftpd says 451 where others say 550. A NetworkError tells
        whether a command may have reached the server.
        """
        asked = False

        def noted(do: Callable[[Session], T]) -> Callable[[Session], T]:
            def doing(session: Session) -> T:
                nonlocal asked
                asked = True
                return do(session)

            return doing

        def attempt() -> T:
            for pause in BUSY_PAUSES_SECONDS:
                with contextlib.suppress(errors.Busy):
                    return self._pool.run(noted(work), again=noted(again or work), use=use)
                time.sleep(pause)
            return self._pool.run(noted(work), again=noted(again or work), use=use)

        try:
            if use is not Use.LISTING:
                return self.explain(attempt, why)
            return attempt()
        except errors.NetworkError as error:
            error.asked = asked
            raise
        except errors.Refused as refusal:  # of a listing, for which the folder is entered anyway
            raise self._reason(why) or _denied(refusal) from refusal

    def begin(
        self,
        start: Callable[[Session, Callable[[], None]], T],
        why: Why,
        give_way: Callable[[], None] | None = None,
        use: Use = Use.TRANSFER,
    ) -> T:
        """Start a transfer (see `Pool.begin`)."""
        return self.explain(lambda: self._pool.begin(start, use=use, give_way=give_way), why)

    def explain(self, attempt: Callable[[], T], why: Why) -> T:
        """Run `attempt`, and explain its refusal.

        If nothing explains it, and the server has not taken a path yet, the server may take bare
        names only. Then the attempt is repeated with names, and the profile learns from the result.
        """
        try:
            return attempt()
        except errors.Refused as refusal:
            reason = self._reason(why)
            explained = reason is not None or isinstance(refusal, errors.Busy)
            if self._profile.names.may_be_bare_only and not explained:
                with contextlib.suppress(errors.Refused):
                    return self._by_name(attempt)
            raise reason or _denied(refusal) from refusal

    def _reason(self, why: Why) -> errors.FtpfsError | None:
        """What `why` finds, or None if the server refuses to tell: the first refusal counts."""
        with contextlib.suppress(errors.Refused):
            return why()
        return None

    def _by_name(self, attempt: Callable[[], T]) -> T:
        self._profile.names.trying = True
        try:
            done = attempt()
        except errors.CrossesFolders:  # its source was found
            self._profile.names.saw_bare()
            raise
        finally:
            self._profile.names.trying = False
        self._profile.names.saw_bare()
        return done


def _denied(refusal: errors.Refused) -> errors.FtpfsError:
    """The error for a refusal that nothing explains.

    For 550 that is PermissionDenied. Other codes stay as they are, unless their text is about a
    permission (pure-ftpd: "451 Rename/move failure: Permission denied").
    """
    if isinstance(refusal, errors.Unavailable) or "permission denied" in refusal.text.lower():
        return errors.PermissionDenied(str(refusal))
    return refusal
