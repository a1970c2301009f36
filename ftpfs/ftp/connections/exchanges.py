"""Exchanges as a server needs them: what has to go ahead of a command.

Owns the TYPE that SIZE and transfers need, and the CWD ahead of commands on servers that take names
but no paths. There the session enters the folder first. A command with a bare name never leaves
before the reply to its CWD: in another folder that name is another file.

Threading: the thread that uses the session.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ftpfs import errors
from ftpfs.ftp import bare
from ftpfs.ftp.connections.channels import Channels
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.conversation import Conversation
from ftpfs.ftp.connections.current_folder import is_ours


class Exchanges:
    """Sends commands about paths on one session."""

    def __init__(self, conversation: Conversation, channels: Channels) -> None:
        self._conversation = conversation
        self._channels = channels
        self._folder = conversation.folder
        self._profile = conversation.profile

    def exchange(
        self, lines: Sequence[str], extra: float = 0.0, *, arm: bool = False
    ) -> list[Reply]:
        """See `Session.exchange`."""
        if self._conversation.hearing.text_mode and any(line.startswith("SIZE ") for line in lines):
            self.set_type(text=False)  # otherwise many servers answer SIZE with 550
        if self._profile.names.are_bare:
            for line in lines:
                self._conversation.encode(line)  # raises for a bad name before anything is sent
            return self._exchange_by_name(lines, extra, arm=arm)
        return self._channels.exchange(lines, extra, arm=arm)

    def set_type(self, *, text: bool) -> None:
        """Have the server send and store files as text, or as they are. Raises a refusal."""
        hearing = self._conversation.hearing
        if hearing.text_mode is not text:
            (reply,) = self.exchange(["TYPE A" if text else "TYPE I"])
            reply.check()
            hearing.text_mode = text

    def enter_for(self, line: str) -> Reply | None:
        """Enter the folder of the path in a command, on a server that takes names only.

        Returns the refusal if the server denies it.
        """
        return self._enter(bare.folder_of(line)) if self._profile.names.are_bare else None

    def _enter(self, folder: str) -> Reply | None:
        """Enter this folder ("": any will do); return the refusal if the server denies it."""
        if not folder or self._folder.is_known_to_be(folder):
            return None
        (reply,) = self._channels.exchange([f"CWD {folder}"])
        return None if reply.ok else reply

    def _exchange_by_name(self, lines: Sequence[str], extra: float, *, arm: bool) -> list[Reply]:
        if crossing := bare.crossing(lines):
            return self._cross(crossing, lines, extra, arm=arm)
        ours = [n for n, line in enumerate(lines) if line.startswith("RNFR ") and is_ours(line)]
        confirms = bool(ours) and self._profile.names.is_unsure
        if confirms:
            by_path = self._renamed_by_path(lines, extra, arm=arm)
            if by_path is not None:
                return by_path
        groups = bare.grouped(lines)
        replies: list[Reply] = []
        for number, (folder, together) in enumerate(groups, 1):
            if refusal := self._enter(folder):
                replies += [refusal] * len(together)
            else:
                last = number == len(groups)
                replies += self._channels.exchange(together, extra, arm=arm and last)
        if confirms and any(replies[n].ok for n in ours):
            self._profile.names.saw_path(known=False)
        return replies

    def _renamed_by_path(
        self, lines: Sequence[str], extra: float, *, arm: bool
    ) -> list[Reply] | None:
        """Try renames by path after all.

        Returns the replies if the server carries one out; None: it takes no paths.
        """
        folder, self._folder.path = self._folder.path, ""  # so that no path is shortened
        replies = self._channels.exchange(lines, extra, arm=arm)
        self._folder.path = self._folder.path or folder
        moves = zip(lines, itertools.pairwise(replies), strict=False)
        if any(line.startswith("RNFR ") and a.ok and b.ok for line, (a, b) in moves):
            self._profile.names.saw_path(known=True)
            return replies
        return None

    def _cross(self, source: str, lines: Sequence[str], extra: float, *, arm: bool) -> list[Reply]:
        """Rename between two folders, which needs paths.

        The rename is tried: a refusal that passed may have taught that the server takes no paths.

        Raises CrossesFolders. Exception: while nobody knows yet whether the server takes bare
        names, and it refuses this one too, return that refusal.
        """
        if self._profile.names.may_take_paths:
            replies = self._renamed_by_path(lines, extra, arm=arm)
            if replies is not None:
                return replies
        if self._profile.names.paths is not False:
            refusal = self._enter(bare.folder_of(source))
            (reply,) = [refusal] if refusal else self._channels.exchange([source])
            if not reply.ok:
                return [reply] * len(lines)
            self._conversation.drop()  # proftpd and others take nothing but RNTO after RNFR
        raise errors.CrossesFolders("the server takes no paths, and so renames in one folder only")
