"""Changing: folders made and removed, files removed and renamed.

Owns: what to do if a reply was lost and the server may have carried out the command. Each method's
contract is in `remote.Remote`. Does not own how a rename replaces a file (`replacing`).

Threading: any thread; each call leases a session of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ftpfs import errors
from ftpfs.ftp import digest, lister, replacing
from ftpfs.ftp.attempts import Attempts, Why
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.reasons import Reasons
from ftpfs.ftp.root import Root
from ftpfs.ftp.setting import Setting
from ftpfs.model.entry import FolderAttributes

log = logging.getLogger(__name__)


class Changing:
    """Changes the names of one mount's paths."""

    def __init__(
        self,
        root: Root,
        attempts: Attempts,
        reasons: Reasons,
        setting: Setting,
        replaces: Callable[[Session, str], bool | None],
    ) -> None:
        """`replaces`: see `Probes.replaces`."""
        self._root = root
        self._attempts = attempts
        self._reasons = reasons
        self._setting = setting
        self._replaces = replaces

    def mkdir(self, path: str, *, before: FolderAttributes | None = None) -> None:
        where = self._root.on_server(path)

        def again(session: Session) -> None:
            try:
                mkdir(session)
            except errors.Refused:
                if not lister.is_empty_folder(session, where):
                    raise

        def mkdir(session: Session) -> None:
            lines = self._setting.lines(before) if before else []
            *first, made = session.exchange([*lines, f"MKD {where}"])
            if before and (why := self._setting.why_not_set(before, first)):
                log.warning("the mode of %s was not set: %s", before.path, why)
            made.check()
            lister.check_name_kept(session, where)

        self._attempts.run(mkdir, lambda: self._reasons.not_made(path), again)

    def rmdir(self, path: str) -> None:
        self._delete("RMD", path, lambda: self._reasons.folder_not_removed(path))

    def remove(self, path: str) -> None:
        self._delete("DELE", path, lambda: self._reasons.not_removed(path))

    def _delete(self, verb: str, path: str, why: Why) -> None:
        where = self._root.on_server(path)

        def delete(session: Session) -> None:
            session.require(f"{verb} {where}")

        def again(session: Session) -> None:
            try:
                delete(session)
            except errors.Refused:
                if lister.find(session, where):
                    raise  # else: the first attempt had been carried out

        self._attempts.run(delete, why, again)

    def rename(self, old: str, new: str, *, replace: bool, aside: str, keep: bool) -> None:
        source, target = self._root.on_server(old), self._root.on_server(new)
        replacement = replacing.Replacement(
            source, target, self._root.on_server(aside), keep=keep, replaces=self._replaces
        )

        def rename(session: Session) -> None:
            if replace:
                replacement.begin(session)
            else:
                replacing.rename(session, source, target)
            lister.check_name_kept(session, target)

        def again(session: Session) -> None:
            if replace:
                replacement.go_on(session)
                lister.check_name_kept(session, target)
                return
            try:
                rename(session)
            except errors.Refused:
                if lister.find(session, source) or not lister.find(session, target):
                    raise  # else: the first attempt had been carried out

        self._attempts.run(rename, lambda: self._reasons.not_renamed(old, new), again)

    def copy(self, old: str, new: str, size: int) -> bool:
        source, target = self._root.on_server(old), self._root.on_server(new)
        extra = size / digest.SLOWEST_BYTES_A_SECOND  # seconds

        def copy(session: Session) -> bool:
            if not (session.command(f"SITE CPFR {source}")).ok:
                return False
            return session.exchange([f"SITE CPTO {target}"], extra)[0].ok

        return self._attempts.run(copy, lambda: None)

    def check_removable(self, path: str, aside: str) -> None:
        where, hidden = self._root.on_server(path), self._root.on_server(aside)

        def again(session: Session) -> None:
            if not lister.find(session, where) and lister.find(session, hidden):
                replacing.rename(session, hidden, where)
            else:
                replacing.can_be_moved(session, where, hidden)

        self._attempts.run(
            lambda session: replacing.can_be_moved(session, where, hidden),
            lambda: self._reasons.not_removed(path),
            again,
        )
