"""Pure: rewrites a command about a path as a command about a bare name in a folder.

Some servers take names but no paths in RETR, STOR and the rest. For them, CWD comes first, then the
command with the name.

Owns which folder a command must be sent in, and the command with the bare name. `current_folder`
knows in which folder a session is. Every path is absolute, and the last part of its line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from ftpfs.ftp import digest

_COMMANDS = "|".join(
    (
        *("RETR", "STOR", "APPE", "DELE", "RNFR", "RNTO", "MKD", "RMD", "SIZE", "MLST"),
        *(r"MDTM(?: \d{14})?", r"MFMT \S+", r"MFF \S+", r"SITE (?:CHMOD|UTIME) \S+"),
        *digest.COMMANDS,
    )
)
_ABOUT_A_NAME = re.compile(rf'((?:{_COMMANDS}) "?)(/.*/|/)([^/]+)', re.DOTALL)


def folder_of(line: str) -> str:
    """The folder of the path in a command; "" if it has no path, or the path is the root."""
    found = _ABOUT_A_NAME.fullmatch(line)
    return (found[2].rstrip("/") or "/") if found else ""


def in_folder(line: str, folder: str) -> str:
    """The command in the form for a session that is in that folder."""
    found = _ABOUT_A_NAME.fullmatch(line)
    if found is None or (found[2].rstrip("/") or "/") != folder:
        return line
    return found[1] + found[3]


def grouped(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Commands grouped by the folder that each must be sent in, in order.

    A CWD from the caller begins a new group.
    """
    groups: list[tuple[str, list[str]]] = []
    for line in lines:
        folder = folder_of(line)
        enters = line.startswith("CWD ")
        if groups and not enters and folder in ("", groups[-1][0]):
            groups[-1][1].append(line)
        else:
            groups.append((folder, [line]))
    return groups


def crossing(lines: Sequence[str]) -> str:
    """The RNFR of a rename from one folder to another, which needs paths; "" if there is none."""
    for first, second in itertools.pairwise(lines):
        is_rename = first.startswith("RNFR ") and second.startswith("RNTO ")
        if is_rename and folder_of(first) != folder_of(second):
            return first
    return ""
