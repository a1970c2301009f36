"""Trees of a server, walked through: the work of `ftpfs ls -R`, `find` and `du`.

A folder that cannot be listed is told at the end, and the others are shown. Each function returns
the exit code.

Threading: the main thread.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Callable, Iterator
from typing import TextIO

from ftpfs import errors
from ftpfs.commands import runs
from ftpfs.commands.files import Look, emit, human_size, list_folder, print_entries
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from ftpfs.trees.outcome import Tally
from ftpfs.trees.server import Server
from ftpfs.trees.walking import Folder, walk

_JOBS = 8
_KINDS = {"f": Kind.FILE, "d": Kind.DIRECTORY, "l": Kind.LINK}


def list_tree(remote: Remote, path: str, out: TextIO, look: Look) -> int:
    """Print each folder with its entries, in the format of `ls -R`."""
    if _is_file(remote, path):
        list_folder(remote, path, out, look)
        return 0
    tally = Tally()
    is_first = True
    for folder in _listed(remote, path, tally, _shown(look)):
        emit(out, f"{folder.path}:" if is_first else f"\n{folder.path}:")
        print_entries(folder.entries, out, look)
        is_first = False
    return runs.report(tally.now())


def _shown(look: Look) -> Callable[[Entry], bool]:
    return lambda entry: look.dotfiles or not entry.name.startswith(".")


def find(remote: Remote, path: str, out: TextIO, *, name: str | None, kind: str | None) -> int:
    """Print the path of each entry that matches, `path` itself included."""

    def show(where: str, entry: Entry) -> None:
        if kind is not None and entry.kind is not _KINDS[kind]:
            return
        if name is None or fnmatch.fnmatchcase(posixpath.basename(where), name):
            emit(out, where)

    root = remote.stat(path)
    show(path, root)
    if root.kind is Kind.FILE:
        return 0
    tally = Tally()
    for folder in _listed(remote, path, tally):
        for entry in folder.entries:
            show(posixpath.join(folder.path, entry.name), entry)
    return runs.report(tally.now())


def sizes(remote: Remote, path: str, out: TextIO, *, human: bool, summary: bool) -> int:
    """Print the sum of bytes for each folder, those in it first."""

    def show(where: str, size: int) -> None:
        emit(out, f"{human_size(size) if human else size}\t{where}")

    if _is_file(remote, path):
        show(path, remote.stat(path).size or 0)
        return 0
    tally = Tally()
    open_folders: list[tuple[Folder, int]] = []  # from the root to the one at hand; their sums

    def close(level: int) -> None:
        """The walk has left the folders from this level on."""
        while len(open_folders) > level:
            folder, size = open_folders.pop()
            if not summary or not open_folders:
                show(folder.path, size)
            if open_folders:
                above, others = open_folders[-1]
                open_folders[-1] = above, others + size

    for folder in _listed(remote, path, tally):
        close(folder.level)
        own = sum(entry.size or 0 for entry in folder.entries if entry.kind is Kind.FILE)
        open_folders.append((folder, own))
    close(0)
    return runs.report(tally.now())


def _is_file(remote: Remote, path: str) -> bool:
    return remote.stat(path).kind is Kind.FILE


def _listed(
    remote: Remote, path: str, tally: Tally, enters: Callable[[Entry], bool] = lambda _: True
) -> Iterator[Folder]:
    """The folders that were listed. The others are noted as failures."""
    for folder in walk(Server(remote), path, _JOBS, enters=enters):
        if folder.why is None:
            yield folder
        elif isinstance(folder.why, errors.NetworkError) or not folder.level:
            raise folder.why
        else:
            tally.fail(folder.path, folder.why)
