"""What a server tells of single files: the work of `ftpfs stat`, in the format of stat(1).

Threading: the main thread.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Sequence
from typing import TextIO

from ftpfs import errors
from ftpfs.commands import runs
from ftpfs.commands.arguments import Misuse
from ftpfs.commands.files import emit, mode_in_letters, utc
from ftpfs.commands.trees import expand
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from ftpfs.trees.outcome import Tally

_KINDS = {
    Kind.FILE: "regular file",
    Kind.DIRECTORY: "directory",
    Kind.LINK: "symbolic link",
    Kind.OTHER: "other",
}
_DEFAULT = "  File: %N\n  Size: %s\t%F\nAccess: (%a/%A)\nModify: %y"

_Field = Callable[[str, Entry], object]
_FIELDS: dict[str, _Field] = {
    "n": lambda path, _entry: path,
    "N": lambda path, entry: f"{path} -> {entry.target}" if entry.target else path,
    "s": lambda _path, entry: entry.size,
    "F": lambda _path, entry: _KINDS[entry.kind],
    "a": lambda _path, entry: None if entry.mode is None else f"{stat.S_IMODE(entry.mode):o}",
    "A": lambda _path, entry: mode_in_letters(entry),
    "Y": lambda _path, entry: entry.mtime,
    "y": lambda _path, entry: None if entry.mtime is None else utc(entry.mtime),
    "%": lambda _path, _entry: "%",
}


def show(remote: Remote, paths: Sequence[str], out: TextIO, form: str | None) -> int:
    """Print the facts of each path. Raises Misuse for an unknown field. Returns the exit code."""
    form = _DEFAULT if form is None else form
    for name in re.findall("%(.?)", form, re.DOTALL):
        if name not in _FIELDS:
            raise Misuse(f"%{name} is none of {' '.join(f'%{each}' for each in _FIELDS)}")
    tally = Tally()
    for path, known in expand(remote, paths):
        try:
            # A listing may tell a time to the minute only.
            entry = remote.stat(path) if known is None else remote.look_again(path, known)
        except errors.NetworkError:
            raise
        except errors.FtpfsError as error:
            tally.fail(path, error)
            continue
        for line in _filled(form, path, entry).split("\n"):
            emit(out, line)
    return runs.report(tally.now())


def _filled(form: str, path: str, entry: Entry) -> str:
    def fill(match: re.Match[str]) -> str:
        value = _FIELDS[match[1]](path, entry)
        return "?" if value is None else str(value)

    return re.sub("%(.)", fill, form, flags=re.DOTALL)
