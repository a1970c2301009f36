"""Wildcards in paths on a server, as a shell expands them on this machine.

A pattern that matches nothing stays as it is: it may be a name with brackets in it.

Threading: one thread.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re

from ftpfs import errors
from ftpfs.model.entry import Entry, Kind
from ftpfs.trees.sides import Side

_WILD = re.compile(r"[*?[]")


def has_wildcards(path: str) -> bool:
    return bool(_WILD.search(path))


def expand(side: Side, path: str) -> list[tuple[str, Entry | None]]:
    """The paths that match, sorted, each with its entry if it is known.

    One listing for each folder that a wildcard looks into.
    """
    found: list[tuple[str, Entry | None]] = [("/", None)]
    parts = [part for part in path.split("/") if part]
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if has_wildcards(part):
            found = [
                (posixpath.join(folder, entry.name), entry)
                for folder, _ in found
                for entry in _matching(side, folder, part, folders_only=not is_last)
            ]
            continue
        found = [(posixpath.join(folder, part), None) for folder, _ in found]
        if any(map(has_wildcards, parts[:number])):
            looked = [(where, side.stat(where)) for where, _ in found]
            found = [each for each in looked if each[1] is not None]
    return sorted(found, key=lambda each: each[0]) or [(path, None)]


def _matching(side: Side, folder: str, pattern: str, *, folders_only: bool) -> list[Entry]:
    try:
        entries = side.list(folder)
    except (errors.NotFound, errors.NotADirectory, FileNotFoundError, NotADirectoryError):
        return []
    return [
        entry
        for entry in entries
        if fnmatch.fnmatchcase(entry.name, pattern)
        and (pattern.startswith(".") or not entry.name.startswith("."))
        and not (folders_only and entry.kind is Kind.FILE)
    ]
