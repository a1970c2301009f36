"""Pure: names and paths: which are hidden, which are too long, which lie below which.

A path is absolute within the mount, with `/` between names and none at its end.
"""

from __future__ import annotations

import os
import posixpath
import time

from ftpfs import errors

# Prefix of ftpfs's own files on the server: uploads in progress, files moved aside, probes. Other
# clients see them; the mount does not show them, and no program can make one.
HIDDEN_PREFIX = ".ftpfs-"

NAME_MAX = 255  # bytes; the limit of the disks of all four measured servers

# FTP ends a command at CR and LF, and C ends a string at NUL: no command can carry such a name.
_UNSENDABLE = frozenset("\r\n\0")


def split(path: str) -> tuple[str, str]:
    """The folder above a path, and its last name: posixpath.split in a third of the time.

    Each `stat` calls it, and so do the next two.
    """
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def folder_of(path: str) -> str:
    """The folder above a path; "/" for "/"."""
    return path.rpartition("/")[0] or "/"


def name_of(path: str) -> str:
    """The last name of a path; "" for "/"."""
    return path.rpartition("/")[2]


def is_hidden(path: str) -> bool:
    """Whether the last name of `path` is a hidden name of ftpfs."""
    return name_of(path).startswith(HIDDEN_PREFIX)


def is_within(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def is_too_long(name: str) -> bool:
    # A character has at most four bytes, so most names need not be encoded.
    return len(name) > NAME_MAX // 4 and len(name.encode("utf-8", "surrogateescape")) > NAME_MAX


def check_length(name: str) -> None:
    """Raises NameTooLong for a name that is too long for a disk, as every file system does."""
    if is_too_long(name):
        raise errors.NameTooLong(f"a name of more than {NAME_MAX} bytes")


def check_name(path: str) -> None:
    """Raises unless a program may give the last name of `path` to a new file or folder."""
    name = name_of(path)
    if not _UNSENDABLE.isdisjoint(name):
        raise errors.InvalidName("FTP cannot carry a name with CR, LF or NUL in it")
    check_length(name)
    if name.startswith(HIDDEN_PREFIX):
        raise errors.NotPermitted(f"names that begin with {HIDDEN_PREFIX} are reserved for ftpfs")


def conflict_name(path: str, number: str = "") -> str:
    """The path of the conflict copy beside `path`; hardly any other file has that name."""
    folder, name = split(path)
    stem, dot, ending = name.rpartition(".")
    if not stem:  # the name has no dot, or only its first character is a dot
        stem, dot, ending = name, "", ""
    words = time.strftime(f" (conflict copy %Y-%m-%d %H%M%S{number})")
    ending = dot + ending
    room = NAME_MAX - len(os.fsencode(words + ending))
    stem = os.fsdecode(os.fsencode(stem)[: max(1, room)])
    return posixpath.join(folder, stem + words + ending)
