"""Setting: modes and times of files and folders that exist on the server.

Owns: which command sets them, and what a refusal shows about the server. Each method's contract is
in `remote.Remote`. The attributes of a file that is uploaded are set by the upload.

Threading: any thread; each call leases a session of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ftpfs import errors
from ftpfs.ftp.attempts import Attempts
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.pool import Pool
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile, SetTime
from ftpfs.ftp.reasons import Reasons
from ftpfs.ftp.root import Root
from ftpfs.ftp.uploading.attributes import chmod_line
from ftpfs.ftp.uploading.checks import questions, seen_in
from ftpfs.ftp.uploading.probes import Probes
from ftpfs.model.entry import FolderAttributes


class Setting:
    """The attributes of one mount's paths. Callers forget times that were told (`dated`)."""

    def __init__(
        self,
        pool: Pool,
        profile: Profile,
        root: Root,
        attempts: Attempts,
        reasons: Reasons,
        probes: Probes,
    ) -> None:
        self._pool = pool
        self._profile = profile
        self._root = root
        self._attempts = attempts
        self._reasons = reasons
        self._probes = probes

    def chmod(self, path: str, mode: int) -> None:
        if self._profile.setting.chmod is False:
            raise errors.NotSupported("the server has no command that sets a mode")
        where = self._root.on_server(path)

        def chmod(session: Session) -> None:
            reply = session.command(chmod_line(self._profile, where, mode))
            self._profile.setting.saw_chmod(reply.code)
            reply.check()

        self._attempts.run(chmod, lambda: self._reasons.not_changed(path))

    def set_mtime(self, path: str, seconds: int, *, directory: bool = False) -> int:
        where = self._root.on_server(path)
        work = self._set_folder_time if directory else self._set_file_time
        return self._attempts.run(
            lambda s: work(s, where, seconds), lambda: self._reasons.not_changed(path)
        )

    def _set_file_time(self, session: Session, where: str, seconds: int) -> int:
        """Set a file's time.

        If the server is known to set times, a refusal is about this file. If not, a scratch file
        shows which command sets times, if any.
        """
        setting = self._profile.setting
        tried = set()
        while (way := setting.way_to_set_time()) is not SetTime.NONE and way not in tried:
            tried.add(way)
            asks = [] if setting.is_kept(seconds) else questions(self._profile, where)
            reply, *answers = session.exchange([setting.set_time_line(way, where, seconds), *asks])
            if reply.ok:
                setting.saw_set_time(way, reply.code)
                shown = seen_in(session, answers).mtime if answers else None
                return seconds if shown is None else shown
            if not setting.saw_set_time(way, reply.code):
                if not setting.set_time_works:
                    self._probes.learn_times(session, where)
                if setting.way_to_set_time() is way:
                    reply.check()
        raise errors.NotSupported("the server has no command that sets a time")

    def _set_folder_time(self, session: Session, where: str, seconds: int) -> int:
        setting = self._profile.setting
        way = setting.way_to_set_time()
        if setting.folder_times is False or way is SetTime.NONE:
            raise errors.NotSupported("the server sets no times on directories")
        reply, there = session.exchange(
            [setting.set_time_line(way, where, seconds), f"CWD {where}"]
        )
        if not reply.ok and there.ok and setting.folder_times is None and setting.set_time_works:
            # The refusal may concern this folder alone.
            setting.folder_times = self._probes.folder_times(session, where)
        if reply.ok:
            setting.folder_times = True
            return seconds
        if setting.folder_times:
            reply.check()
        raise errors.NotSupported("the server sets no times on directories")

    # Many folders at once.

    def set_on_folders(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        lines = [self.lines(each) for each in wanted]
        sendable: list[bool] = []

        def send(session: Session) -> Sequence[Reply]:
            sendable[:] = [all(map(session.takes, its)) for its in lines]
            return session.exchange(list(itertools.chain(*itertools.compress(lines, sendable))))

        self._root.on_server("/")
        replies = iter(self._pool.run(send))
        refused = []
        for each, its, sent in zip(wanted, lines, sendable, strict=True):
            if not sent:
                refused.append((each.path, "its path is longer than the server's commands"))
                continue
            if why := self.why_not_set(each, list(itertools.islice(replies, len(its)))):
                refused.append((each.path, why))
        return refused

    def lines(self, wanted: FolderAttributes) -> Sequence[str]:
        """The commands that set the attributes of one folder."""
        where, lines = self._root.on_server(wanted.path), []
        if wanted.mode is not None:
            lines.append(chmod_line(self._profile, where, wanted.mode))
        way = self._profile.setting.way_to_set_time()
        if wanted.mtime is not None and way is not SetTime.NONE:
            lines.append(self._profile.setting.set_time_line(way, where, wanted.mtime))
        return lines

    def why_not_set(self, wanted: FolderAttributes, replies: Sequence[Reply]) -> str:
        """Why something was not set, by the replies to `lines`; empty: all was set."""
        if wanted.mode is not None:
            self._profile.setting.saw_chmod(replies[0].code)
        for reply in replies:
            if not reply.ok:
                return f"{reply.code} {errors.printable(reply.text)}"
        return ""
