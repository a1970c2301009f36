"""The sender: it moves the bytes of one content into the data connection.

Owns: how much of the content was sent, and the report to the content that the server accepts it.

Threading: the thread of the upload only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.connections.transfers import Upload
from ftpfs.ftp.uploading.content import CHUNK_BYTES, local_bytes
from ftpfs.model.remote import Content

# A content up to this size is verified after its rename. If the server said 226 to a truncated one,
# that has its name for a round trip, and is sent again. For a larger content, the round trip of
# looking first is small beside the transfer.
SMALL_BYTES = 64 << 10
# An upload counts as accepted after a 1xx reply, when this many bytes were sent and the server has
# not refused them by then. The 1xx alone would be enough for the four servers that were tried,
# which open the file first. But servers that open it when data comes, or that ask a store behind
# them, say 150 first and then 550 or 553. A new connection takes several round trips for a MiB, and
# within these the refusal arrives.
ACCEPTED_BYTES = 1 << 20
# If a limit makes the upload slow, this time (s) without a refusal is enough: a program must not
# wait for a MiB at 1 KiB/s.
ACCEPTED_SECONDS = 2.0


class Sender:
    """Sends one content. `handed`: the number of bytes given to the connection so far."""

    def __init__(self, content: Content) -> None:
        self.handed = 0
        self._content = content
        self._told_accepted = False  # the content knows that the server accepts it

    def small_content(self) -> bytes | None:
        """All of a small content that no program writes any more; None for any other.

        It counts as handed over: the bytes may leave together with the command.
        """
        size = self._content.whole()
        if size is None or size > SMALL_BYTES or self._content.ready(0) != size:
            return None
        self.handed = size
        return local_bytes(self._content, 0, size)

    def pump(self, upload: Upload, position: int, *, new: bool) -> int:
        """Send the content from `position` to its end. Returns the position of the end.

        `new`: no file under the final name can make the server refuse the upload later. Only then
        the content is told that the server accepts it. In a folder with the sticky bit, the server
        takes a temporary file although the file to be replaced belongs to another user.
        """
        fd, begin, since = self._content.fileno(), position, time.monotonic()
        while (end := self._content.ready(position)) > position:
            count = upload.share(min(CHUNK_BYTES, end - position))
            self.handed = max(self.handed, position + count)
            upload.send_file(fd, position, count)
            position += count
            if new and not self._told_accepted:
                is_enough = position - begin >= ACCEPTED_BYTES
                waited = time.monotonic() - since if upload.is_limited else 0.0
                if is_enough or waited >= ACCEPTED_SECONDS:
                    self._tell_accepted(upload)
        return position

    def _tell_accepted(self, upload: Upload) -> None:
        if upload.is_unopposed():
            self._told_accepted = True
            self._content.accepted()


def store_at_once(
    session: Session, path: str, data: bytes, offset: int = 0, before: Sequence[str] = ()
) -> Sequence[Reply]:
    """Store a few bytes, together with the command if the server allows that.

    Returns the replies to `before`.
    """
    with session.upload(path, offset, before=before, ahead=data) as upload:
        if not upload.complete:
            upload.write(data)
        upload.finish()
    return upload.before
