"""Pure: paths on servers that write them without slashes: OpenVMS, and the data sets of MVS.

Owns the translation of ftpfs's paths for such a server, which the reply to PWD reveals. Paths lie
below the login folder only. Servers on such systems that show a Unix side (PWD begins with a slash)
need none of this.

OpenVMS User's Manual, 4.2 (`DISK$USER:[SMITH.SUB]FILE.TXT`); z/OS Communications Server, IP User's
Guide, "Naming MVS data sets" (`'SMITH.A.DATA'`, a member of a library is `'SMITH.A.LIB(MEMBER)'`).
Neither system was available for a test.
"""

from __future__ import annotations

import enum
import posixpath
import re
from dataclasses import dataclass

# Commands that take a folder, and commands that take a file (or either).
_FOLDER_VERBS = {"CWD", "MKD", "RMD"}
_FILE_VERBS = {"RETR", "STOR", "APPE", "DELE", "RNFR", "RNTO", "SIZE", "MDTM", "MLST"}

_VMS = re.compile(r"([^\x00-\x20\x7f:\[\]]{1,255}:)\[([^\x00-\x20\x7f\[\]]{1,255})\]")
_MVS = re.compile(r"'([A-Za-z0-9@#$.-]{1,46})'")


class System(enum.Enum):
    VMS = "OpenVMS"
    MVS = "MVS"


@dataclass(frozen=True)
class Foreign:
    """One such server: its system, and the folder after login."""

    system: System
    device: str  # VMS: "DISK$USER:"
    home: str  # VMS: "SMITH.SUB"; MVS: "SMITH." or "SMITH.A.LIB"

    def line(self, command: str) -> str:
        """The command, with its path, if it has one, in the system's own syntax."""
        verb, _, path = command.partition(" ")
        if not path.startswith("/"):
            return command
        if verb in _FOLDER_VERBS:
            return f"{verb} {self.folder(path)}"
        return f"{verb} {self.file(path)}" if verb in _FILE_VERBS else command

    def folder(self, path: str) -> str:
        parts = [part for part in path.split("/") if part]
        if self.system is System.VMS:
            return f"{self.device}[{'.'.join([self.home, *parts])}]"
        if not parts:
            return f"'{self.home}'"
        return f"'{'.'.join([self.home.rstrip('.'), *parts])}'"

    def file(self, path: str) -> str:
        above, name = posixpath.split(path)
        if self.system is System.VMS:
            return f"{self.folder(above)}{name}"
        if above == "/" and self.home.endswith("."):
            return f"'{self.home}{name}'"
        return f"'{self.folder(above)[1:-1]}({name})'"


def told_by(home: str) -> Foreign | None:
    """The system whose reply to PWD is `home`; None for paths with slashes."""
    if found := _VMS.fullmatch(home):
        return Foreign(System.VMS, found[1], found[2])
    if found := _MVS.fullmatch(home):
        return Foreign(System.MVS, "", found[1])
    return None
