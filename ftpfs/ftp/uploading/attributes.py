"""Time and mode of one uploaded file: the commands that set them, and what the server did.

They are set under the temporary name, before the rename, so that no client sees the file with wrong
ones. If the server refuses the rename, the old file keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile, SetTime
from ftpfs.ftp.uploading.checks import questions, seen_in
from ftpfs.model.remote import Content


class Attributes:
    """The attributes of one content, at the moment when all of it was sent."""

    def __init__(self, profile: Profile, content: Content) -> None:
        self._profile = profile
        self._mtime, self._mode = content.attributes()
        # Read once, because another thread may change the profile between the commands and their
        # replies.
        self._way = profile.setting.way_to_set_time() if self._mtime is not None else SetTime.NONE
        self._sets_mode = self._mode is not None and profile.setting.chmod is not False
        # The server is asked for the time afterwards if none is set, or if it is not known to keep
        # times to the second.
        sure = self._mtime is not None and profile.setting.is_kept(self._mtime)
        self._asks = self._way is SetTime.NONE or not sure

    @property
    def mtime(self) -> int | None:
        """The time (s) that is set; None: no time is set."""
        return None if self._way is SetTime.NONE else self._mtime

    def lines(self, path: str) -> list[str]:
        """The commands that set the attributes of the file at `path`."""
        lines = []
        if self._sets_mode and self._mode is not None:
            lines.append(chmod_line(self._profile, path, self._mode))
        if self._way is not SetTime.NONE and self._mtime is not None:
            lines.append(self._profile.setting.set_time_line(self._way, path, self._mtime))
        return lines

    def questions(self, path: str) -> list[str]:
        """The questions about the file at its final name `path`, after all is set."""
        return questions(self._profile, path) if self._asks else []

    def learn(
        self,
        session: Session,
        replies: Sequence[Reply],
        answers: Sequence[Reply],
        path: str,
        *,
        ours: bool,
    ) -> tuple[int | None, int | None]:
        """The file's time, and its mode if it was set.

        Read from the replies to `lines` and the `answers` to `questions`. `ours`: `lines` were
        about a file that no other client knows. If the server turns out not to have the command for
        times, the next one is tried at once.
        """
        waiting = iter(replies)
        mode = None
        if self._sets_mode:
            reply = next(waiting)
            self._profile.setting.saw_chmod(reply.code, ours=ours)
            mode = self._mode if reply.ok else None
        way, set_, late = self._way, False, False
        if way is not SetTime.NONE and self._mtime is not None:
            reply = next(waiting)
            while self._profile.setting.saw_set_time(way, reply.code, ours=ours):
                way = self._profile.setting.way_to_set_time()
                if way is SetTime.NONE:
                    break
                reply = session.command(self._profile.setting.set_time_line(way, path, self._mtime))
                late = True
            set_ = reply.ok
        if set_ and not self._asks:
            return self._mtime, mode
        if late or not answers:
            answers = session.exchange(questions(self._profile, path))
        return seen_in(session, answers).mtime, mode


def chmod_line(profile: Profile, path: str, mode: int) -> str:
    """The command that sets a mode.

    MFF if the server has it: proftpd splits SITE CHMOD into words, and so takes the name "a " for
    "a".
    """
    bits = mode & 0o7777
    if profile.identity.mff_mode:
        return f"MFF UNIX.mode={bits:04o}; {path}"
    return f"SITE CHMOD {bits:03o} {path}"
