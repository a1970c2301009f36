"""The target: a file under its final name, and the end of an upload there.

Owns: the last exchange of an upload, which sets time and mode and checks the size; and the entry
that the caller gets. Does not own which file is expected there before (`expectation`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ftpfs import errors
from ftpfs.ftp import lister
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.uploading.attributes import Attributes
from ftpfs.ftp.uploading.checks import Seen, check_size, questions, seen_in
from ftpfs.ftp.uploading.context import Context
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import folder_of, name_of
from ftpfs.model.remote import Content


class Target:
    """The final name of one upload, on the server."""

    def __init__(self, context: Context, path: str, content: Content) -> None:
        self.context = context
        self.path = path
        self.folder = folder_of(path)
        self.name = name_of(path)
        self.content = content
        self._profile = context.profile

    @property
    def sets_time(self) -> bool:
        """Whether the content has a time. If not, the file gets that of its writing."""
        return self.content.attributes()[0] is not None

    def questions(self) -> list[str]:
        return questions(self._profile, self.path)

    def look(self, session: Session) -> Seen:
        return seen_in(session, session.exchange(self.questions()))

    def attributes(self) -> Attributes:
        return Attributes(self._profile, self.content)

    def finish(self, session: Session, size: int) -> Entry:
        """Set time and mode, and check the size, in one exchange."""
        attributes = self.attributes()
        replies = session.exchange(self.last_lines(attributes), arm=True)
        return self.finished(session, size, attributes, replies)

    def last_lines(self, attributes: Attributes) -> list[str]:
        """The commands of `finish`."""
        path = self.path
        return [*attributes.lines(path), f"SIZE {path}", *attributes.questions(path)]

    def finished(
        self, session: Session, size: int, attributes: Attributes, replies: Sequence[Reply]
    ) -> Entry:
        """The entry, from the replies to `last_lines`. Raises DataMismatch for another size."""
        count = len(attributes.lines(self.path))
        set_, final, answers = replies[:count], replies[count], replies[count + 1 :]
        self.check(session, final, size)
        return self.entry(size, *attributes.learn(session, set_, answers, self.path, ours=False))

    def check(self, session: Session, reply: Reply, size: int) -> None:
        """Check the file by the reply to SIZE of its final name.

        Checks the size, and that the server has kept the name as it was sent.
        """
        check_size(reply, size, self.path)
        if reply.code == 550 and "SIZE" in self._profile.identity.features:
            # The file is gone, or the server refuses to show it (a drop folder).
            lister.check_present(session, self.path)
        else:
            lister.check_name_kept(session, self.path)

    def entry(self, size: int, mtime: int | None, mode: int | None) -> Entry:
        """The file as the server has it now."""
        return Entry(
            name=self.name,
            kind=Kind.FILE,
            size=size,
            mtime=mtime,
            exact=mtime is not None,
            mode=mode,
            target=None,
        )

    def conflict(self, seen: Seen) -> errors.Conflict:
        now = "a folder" if seen.directory else f"now {seen.size} bytes"
        return errors.Conflict(f"{self.path} was changed by somebody else ({now})")
