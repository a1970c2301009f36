"""The folder that a session is in, and what its replies show about folders and paths.

Pure: no I/O, no lock. `conversation` reports each command with its reply, and asks for the form in
which a command is to be sent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ftpfs.ftp import bare
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.profile import Profile

# For this long (s) ftpfs trusts that a session is in the folder that it entered: other clients may
# rename that folder.
FOLDER_AGE_SECONDS = 5.0

# By their first four characters: commands that enter a folder, commands after which a folder may
# have another name (renames of our own hidden files do not count), and commands that show whether
# the server takes paths.
_ENTERS, _MOVES = ("CWD ", "CDUP", "XCWD", "XCUP"), ("RNTO", "RMD ")
_ABOUT_FOLDERS = frozenset((*_ENTERS, *_MOVES, "RETR", "STOR", "APPE", "RNFR"))
_HIDDEN = "/.ftpfs-"


class CurrentFolder:
    """The current folder of one session.

    - `path`: the folder of the last CWD; "" if unknown.
    """

    def __init__(self, profile: Profile) -> None:
        self.path = ""
        self._profile = profile
        self._entered_at = 0.0  # time.monotonic()
        self._entered_before: object = None  # the profile's `moved` at that time
        self._moves_other = True  # the RNFR in flight is about a file that is not ours

    def is_known_to_be(self, folder: str) -> bool:
        """Whether the session is in that folder for sure."""
        is_there = self.path == folder and self._entered_before is self._profile.names.moved
        return is_there and time.monotonic() - self._entered_at < FOLDER_AGE_SECONDS

    def shortened(self, line: str) -> str:
        """The command in the form for this folder: a bare name in place of a path into it."""
        return bare.in_folder(line, self.path)

    def note(self, wire: Sequence[bytes], lines: Sequence[str], replies: Sequence[Reply]) -> None:
        """Learn from replies where the session is, and whether the server takes paths.

        `wire` holds the commands `lines` as they were sent.
        """
        for sent, line, reply in zip(wire, lines, replies, strict=False):
            verb = line[:4]
            if verb not in _ABOUT_FOLDERS:
                continue
            if verb in _ENTERS:
                known = reply.ok and verb == "CWD "
                self.path = line[4:] if known else ""
                self._entered_at = time.monotonic()
                self._entered_before = self._profile.names.moved
            elif verb in _MOVES and reply.ok and self._moves_other:
                self._profile.names.moved = object()
            elif reply.code < 400 and self._profile.names.paths is None and b" /" in sent:
                self._profile.names.paths = True
            self._moves_other = verb != "RNFR" or not is_ours(line)


def is_ours(line: str) -> bool:
    """Whether a command is about a hidden file, which ftpfs made."""
    return _HIDDEN in line
