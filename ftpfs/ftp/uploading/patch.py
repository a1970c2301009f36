"""Patches: ranges of a file, written in place.

FTP has two commands that leave the rest of a file alone: APPE, and STOR after REST. A probe finds
out what STOR after REST keeps. Each range inside the file is read back in full. The size does not
tell whether a 226 was true, and the last bytes of the range do not either: a change in the middle
may leave them as they were.

Threading: the thread of the upload only.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from ftpfs import errors
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.connections.transfers import Upload
from ftpfs.ftp.profile import Restart
from ftpfs.ftp.uploading.attributes import Attributes
from ftpfs.ftp.uploading.checks import Seen, seen_in
from ftpfs.ftp.uploading.content import CHUNK_BYTES, finish_unless_reset, send_range
from ftpfs.ftp.uploading.context import Context
from ftpfs.ftp.uploading.target import Target
from ftpfs.model.entry import Entry
from ftpfs.model.remote import Content

log = logging.getLogger(__name__)

# The time that one range costs, in bytes of a transfer. EPSV, REST and STOR and the 226 are two or
# three round trips, and at 20 ms a link of 100 Mbit/s carries 250 KB in each.
RANGE_COST_BYTES = 512 << 10
# The time that the probe of REST costs, in ranges: two transfers, a question and a deletion.
PROBE_COST_RANGES = 3


class Patch:
    """Some ranges of one file, sent in attempts. Each `run` is one of them."""

    def __init__(
        self,
        context: Context,
        path: str,
        content: Content,
        ranges: Sequence[tuple[int, int]],
        base: Entry,
    ) -> None:
        """Raises NotSupported if FTP cannot write the ranges, or if the whole file costs less."""
        if base.size is None or not ranges or not 0 < ranges[0][0] <= base.size:
            # No command writes at the start of a file and keeps the rest; proftpd and pyftpdlib
            # refuse a hole behind the end.
            raise errors.NotSupported("not a change that FTP can carry")
        # Dependencies and constants:
        self._context = context
        self._profile = context.profile
        self._content = content
        self._target = Target(context, path, content)
        self._base = base
        self._base_size = base.size
        self._size = max(base.size, ranges[-1][1])
        # Progress, kept from attempt to attempt:
        self._left = list(ranges)  # ranges that the server has not confirmed
        self._begun = False
        if self._costs_more_than_the_file():
            raise errors.NotSupported("the whole file costs less")

    def _costs_more_than_the_file(self) -> bool:
        inside = [r for r in self._left if r[0] < self._base_size]
        ranges = len(inside)
        if inside and self._profile.contents.restart is None:
            ranges += PROBE_COST_RANGES
        moved = sum(end - start for start, end in self._left)
        moved += sum(end - start for start, end in inside)  # read back
        return moved + ranges * RANGE_COST_BYTES >= self._size

    def run(self, session: Session) -> Entry:
        """One attempt, with the ranges that are not confirmed yet.

        Raises NotSupported only if no byte of a range was sent: then the server's file is the base.
        """
        self._context.temporaries.delete_left(session)
        attributes: Attributes | None = None
        replies: Sequence[Reply] = ()
        while self._left:
            try:
                attributes, replies = self._write_surely(session, *self._left[0])
            except errors.NotSupported as error:
                if self._begun:
                    # REST may be given up at any time, for what another transfer saw.
                    raise errors.DataMismatch(f"a change in place broke off: {error}") from error
                raise
            del self._left[0]
        if attributes is None:
            return self._target.finish(session, self._size)
        return self._target.finished(session, self._size, attributes, replies)

    def _write_surely(
        self, session: Session, start: int, end: int
    ) -> tuple[Attributes | None, Sequence[Reply]]:
        """Send one range and read it back; if the server has something else, once more.

        Together with the last reading, the last exchange of the patch costs no round trip. Then
        this returns the attributes, and the replies to `Target.last_lines`.
        """
        attributes: Attributes | None = None
        for number in (1, 2):
            sent = self._send(session, start, end)
            # For an append the size is proof enough, unless the user wants contents compared.
            if start == self._base_size and not self._context.checksums.verify_content:
                return None, ()
            if len(self._left) == 1:
                attributes = self._target.attributes()
            before = self._target.last_lines(attributes) if attributes else []
            there, replies = self._read_back(session, start, end, before)
            if there == sent:
                return attributes, replies
            if number == 1:
                log.warning("sending bytes %d to %d of %s again", start, end, self._target.path)
        raise errors.DataMismatch(f"{self._target.path} has not what was written into it")

    def _read_back(
        self, session: Session, start: int, end: int, before: Sequence[str]
    ) -> tuple[bytes, Sequence[Reply]]:
        """The digest of the server's bytes, and the replies to the commands `before`."""
        digest = hashlib.blake2b()
        with session.download(self._target.path, start, before=before) as download:
            while start < end and (chunk := download.read(min(CHUNK_BYTES, end - start))):
                digest.update(chunk)
                start += len(chunk)
        return digest.digest(), download.replies

    def _send(self, session: Session, start: int, end: int) -> bytes:
        """Send one range. Returns its digest."""
        path = self._target.path
        # An append that was not interrupted works without REST.
        append = start == self._base_size and not self._begun
        if append and not self._context.probes.appends(session, path):
            raise errors.NotSupported("the server is not known to append to a file")
        if not append:
            self._need_restart(session, end)
        before = [] if self._begun else self._target.questions()
        if before and not append and self._profile.contents.restart is not Restart.ALL:
            # On pure-ftpd STOR itself cuts the file off here, so the answer has to come first.
            self._expect_base(session, self._target.look(session))
            before = []
        try:
            upload = session.upload(path, 0 if append else start, append=append, before=before)
        except errors.Refused:
            if before:
                self._check_there(session)
            if not append:
                session.drop()  # the REST may wait for the next transfer (pyftpdlib)
            raise
        with upload:
            if before:
                self._expect_base(session, seen_in(session, upload.before), upload)
            self._begun = True
            sent = send_range(self._content, upload, start, end)
            finish_unless_reset(upload)
        return sent

    def _need_restart(self, session: Session, end: int) -> None:
        """Raises NotSupported if REST and STOR would lose a part of the file."""
        restart = self._context.probes.restart(session, self._target.path)
        last = len(self._left) == 1 and end >= self._size
        if restart is Restart.ALL or (restart is Restart.HEAD and last):
            return
        raise errors.NotSupported("the server does not keep what lies around a change")

    def _expect_base(self, session: Session, seen: Seen, upload: Upload | None = None) -> None:
        """Raises Conflict for another file, and NotSupported if the file is gone or was not seen.

        Closes `upload` first.
        """
        gone = seen.there is False
        if not gone and not seen.busy and not seen.is_other_than(self._base, self._profile):
            return
        if upload:
            upload.close()
        if seen.busy:
            raise errors.NotSupported("a busy server does not tell which file is there")
        if not gone:
            raise self._target.conflict(seen)
        if upload and session.alive:
            self._check_there(session)
        raise errors.NotSupported("the file is not there any more")

    def _check_there(self, session: Session) -> None:
        """Raises NotSupported if the file is gone.

        If it was, APPE has made an empty file, and on proftpd so has a STOR that was refused
        because of its REST. This deletes the empty file.
        """
        seen = self._target.look(session)
        if seen.size == 0 and self._base_size:
            session.command(f"DELE {self._target.path}")
            seen = Seen(False)
        self._expect_base(session, seen)
