"""Paths on servers whose systems write them without slashes: OpenVMS, and the data sets of MVS.

Owns: how a path of ours is written to such a server, told by what PWD answers. Below the login
folder only. Servers of such systems that show a Unix side (PWD begins with a slash) need nothing.

OpenVMS User's Manual, 4.2 (`DISK$USER:[SMITH.SUB]FILE.TXT`); z/OS Communications Server, IP User's
Guide, "Naming MVS data sets" (`'SMITH.A.DATA'`, a member of a library is `'SMITH.A.LIB(MEMBER)'`).
Neither was at hand to be tried.

Pure: no I/O, no state.
"""

from __future__ import annotations

import enum
import posixpath
import re
from dataclasses import dataclass

# What takes a folder, and what takes a file (or either).
_FOLDER_VERBS = {"CWD", "MKD", "RMD"}
_FILE_VERBS = {"RETR", "STOR", "APPE", "DELE", "RNFR", "RNTO", "SIZE", "MDTM", "MLST"}

_VMS = re.compile(r"([^\x00-\x20\x7f:\[\]]{1,255}:)\[([^\x00-\x20\x7f\[\]]{1,255})\]")
_MVS = re.compile(r"'([A-Za-z0-9@#$.-]{1,46})'")


class System(enum.Enum):
    VMS = "OpenVMS"
    MVS = "MVS"


@dataclass(frozen=True)
class Foreign:
    """One such server: its system, and the folder that login lands in."""

    system: System
    device: str  # VMS: "DISK$USER:"
    home: str  # VMS: "SMITH.SUB"; MVS: "SMITH." or "SMITH.A.LIB"

    def line(self, command: str) -> str:
        """`command`, with the path in it, if there is one, as that system writes it."""
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
    """The system whose PWD answers with `home`; None for paths with slashes."""
    if found := _VMS.fullmatch(home):
        return Foreign(System.VMS, found[1], found[2])
    if found := _MVS.fullmatch(home):
        return Foreign(System.MVS, "", found[1])
    return None
