"""Trees as pictures: the work of `ftpfs tree`, in the looks of tree(1).

Threading: the main thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

from ftpfs import errors
from ftpfs.commands import runs
from ftpfs.commands.files import emit
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from ftpfs.trees.outcome import Tally
from ftpfs.trees.server import Server
from ftpfs.trees.walking import Folder, walk

_JOBS = 8


@dataclass(frozen=True)
class Looks:
    """What is drawn. `levels`: None: all."""

    dotfiles: bool = False
    folders_only: bool = False
    levels: int | None = None

    def shows(self, entry: Entry) -> bool:
        if self.folders_only and entry.kind is not Kind.DIRECTORY:
            return False
        return self.dotfiles or not entry.name.startswith(".")


def draw(remote: Remote, path: str, out: TextIO, looks: Looks) -> int:
    """Draw the tree below `path`. Returns the exit code."""
    folders = walk(Server(remote), path, _JOBS, enters=looks.shows, levels=looks.levels)
    picture = _Picture(folders, out, looks)
    picture.draw(path)
    return runs.report(picture.tally.now())


@dataclass
class _Picture:
    """Draws folders in the order in which the walk brings them, which is that of the picture."""

    walked: Iterator[Folder]
    out: TextIO
    looks: Looks
    tally: Tally = field(default_factory=Tally)
    folders: int = 0
    files: int = 0

    def draw(self, path: str) -> None:
        root = next(self.walked)
        if root.why is not None:
            raise root.why
        emit(self.out, path)
        self._draw_inside(root, "")
        parts = [_count(self.folders, "directory", "directories")]
        if not self.looks.folders_only:
            parts.append(_count(self.files, "file", "files"))
        emit(self.out, f"\n{', '.join(parts)}")

    def _draw_inside(self, folder: Folder, indent: str) -> None:
        shown = [entry for entry in folder.entries if self.looks.shows(entry)]
        is_last_level = self.looks.levels is not None and folder.level + 1 >= self.looks.levels
        for number, entry in enumerate(shown, 1):
            is_last = number == len(shown)
            name = f"{entry.name} -> {entry.target}" if entry.target else entry.name
            branch = "└── " if is_last else "├── "
            if entry.kind is not Kind.DIRECTORY:
                self.files += 1
                emit(self.out, f"{indent}{branch}{name}")
                continue
            self.folders += 1
            below = None if is_last_level else next(self.walked)
            if below is not None and below.why is not None:
                self._note(below.path, below.why)
                name += "  [not listed]"
            emit(self.out, f"{indent}{branch}{name}")
            if below is not None and below.why is None:
                self._draw_inside(below, indent + ("    " if is_last else "│   "))

    def _note(self, path: str, why: errors.FtpfsError | OSError) -> None:
        if isinstance(why, errors.NetworkError):
            raise why
        self.tally.fail(path, why)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
