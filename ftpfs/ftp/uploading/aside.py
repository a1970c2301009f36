"""The old file, on servers that do not rename over a file: moved aside, put back, or deleted.

Threading: the thread of the upload only.
"""

from __future__ import annotations

import logging

from ftpfs import errors
from ftpfs.ftp import lister, replacing
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.uploading.checks import Seen, surely_not_renamed
from ftpfs.ftp.uploading.expectation import Expectation
from ftpfs.ftp.uploading.target import Target
from ftpfs.ftp.uploading.temporaries import beside

log = logging.getLogger(__name__)


class OldFile:
    """The file that one upload replaces.

    `aside`: the hidden name that it may have now; empty: it has its own name.
    """

    def __init__(self, target: Target, expectation: Expectation, aside: str) -> None:
        self.aside = aside
        self._target = target
        self._expectation = expectation

    def make_way(self, session: Session, temporary: str, why: str) -> Reply | None:
        """Move the old file aside and rename `temporary` into its place.

        If the server refuses that, too, move the old file back. Returns the reply to SIZE of the
        final name, or None if the file was not renamed. `why`: why the server did not rename over
        the file, for the log.
        """
        path, expectation = self._target.path, self._expectation
        if self.aside:  # an attempt before this one broke off
            self.put_back(session)
            expectation.seen = Seen(None)
        if expectation.seen.there is None:
            expectation.seen = self._target.look(session)
        seen = expectation.seen
        if not seen.there or seen.directory or seen.size is None:
            log.info("%s cannot be renamed into place: %s", path, why)
            return None
        name = self._target.context.temporaries.aside_name(self._target.name)
        self.aside = beside(path, name)
        _, moved, first, second, final, left = session.exchange(
            [
                f"RNFR {path}",
                f"RNTO {self.aside}",
                f"RNFR {temporary}",
                f"RNTO {path}",
                f"SIZE {path}",
                f"SIZE {temporary}",
            ]
        )
        still = surely_not_renamed(session, first, second, left)
        if not still:
            log.info("this server does not rename over a file: %s was moved aside", path)
            return final
        log.info("%s cannot be renamed into place: %s; then: %s", path, why, still)
        if moved.ok:
            self.put_back(session)
        self.aside = ""
        return None

    def put_back(self, session: Session) -> None:
        """Give the old file its name again, if no other file has that name now. Never raises."""
        path = self._target.path
        if not self.aside or not session.alive:
            return
        try:
            if lister.find(session, self.aside) and not lister.find(session, path):
                replacing.give_back(session, self.aside, path)
        except errors.FtpfsError as error:
            log.error("the old content of %s may be %s: %s", path, self.aside, error)
            return  # the next attempt puts it back
        self.aside = ""

    def delete(self, session: Session) -> None:
        """Delete the old file if it was moved aside, because the new file is in its place."""
        if not self.aside:
            return
        reply = session.command(f"DELE {self.aside}")
        if not reply.ok and reply.code != 550:
            # The upload itself has succeeded.
            log.warning("the old content is left as %s: %s", self.aside, reply.code)
