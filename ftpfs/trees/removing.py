"""Removing: files and whole folders of one side, several at a time.

A folder is removed when everything in it is. What a filter leaves out stays, and so do the folders
above it.

**A link to a folder is removed itself.** In MLSD, pyftpdlib shows such a link as a folder. Whoever
goes into it deletes files outside of the tree. So the names that LIST calls links are not entered:
one LIST for each folder that has folders in it.

Threading: see `run`. `_lock` (Rank.TREE_FOLDERS) guards what is left of the folders.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from ftpfs import errors
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.trees.outcome import Tell, tell_nobody
from ftpfs.trees.plan import Action
from ftpfs.trees.run import Run
from ftpfs.trees.sides import Side


@dataclass(eq=False)
class _Folder:
    """A folder that is removed. `left`: as in `copying`; `stays`: something in it was not removed.

    Both are guarded by Removing._lock.
    """

    path: str
    relative: str
    above: _Folder | None
    left: int = 1
    stays: bool = False


class Removing(Run):
    """One removal of trees."""

    def __init__(
        self,
        side: Side,
        *,
        jobs: int,
        tell: Tell = tell_nobody,
        takes: Callable[[str, bool], bool] = lambda _path, _is_folder: True,
    ) -> None:
        """`takes`: see `plan.Rules`."""
        super().__init__(jobs, "ftpfs-remove")
        self._side = side
        self._tell = tell
        self._takes = takes
        self._lock = ranked_lock(Rank.TREE_FOLDERS)

    def start(self, wanted: Iterable[tuple[str, Entry]], root: str) -> None:
        """Remove these. `root`: the folder to which the filter's paths are relative."""
        beside: dict[str, list[tuple[str, Entry]]] = {}
        for path, entry in wanted:
            beside.setdefault(posixpath.dirname(path), []).append((path, entry))
        for folder, found in beside.items():
            self.crew.add_folder(functools.partial(self._begin, folder, found, root))
        self.crew.start()

    def _begin(self, folder: str, found: list[tuple[str, Entry]], root: str) -> None:
        """Begin with what lies in one folder that stays."""

        def begin() -> None:
            links = self._links(folder, (entry for _, entry in found))
            for path, entry in found:
                relative = posixpath.relpath(path, root)
                is_folder = _is_folder(entry) and posixpath.basename(path) not in links
                self._add(_Folder(path, relative, None) if is_folder else path, None)

        self.attempt(folder, begin, listing=True)

    def _links(self, folder: str, entries: Iterable[Entry]) -> Set[str]:
        return self._side.links_in(folder) if any(map(_is_folder, entries)) else frozenset()

    def _add(self, what: _Folder | str, above: _Folder | None) -> None:
        if isinstance(what, _Folder):
            self.crew.add_folder(functools.partial(self._walk, what))
        else:
            self.crew.add_files([functools.partial(self._remove, what, above)])

    def _walk(self, folder: _Folder) -> None:
        listed = self.attempt(folder.path, functools.partial(self._list, folder), listing=True)
        self._one_less(folder, stays=not listed)

    def _list(self, folder: _Folder) -> None:
        found: list[_Folder | str] = []
        left_out = False
        entries = self._side.list(folder.path)
        links = self._links(folder.path, entries)
        for entry in entries:
            relative = posixpath.join(folder.relative, entry.name)
            path = self._side.join(folder.path, entry.name)
            is_folder = _is_folder(entry) and entry.name not in links
            if not self._takes(relative, is_folder):
                left_out = True
            elif is_folder:
                found.append(_Folder(path, relative, folder))
            else:
                found.append(path)
        with self._lock:
            folder.left += len(found)
            folder.stays |= left_out
        for each in found:
            self._add(each, folder)

    def _remove(self, path: str, above: _Folder | None) -> None:
        removed = self.attempt(path, lambda: self._side.remove(path))
        if removed:
            self._note(path)
        self._one_less(above, stays=not removed)

    def _note(self, path: str) -> None:
        self.tally.add(deleted=1)
        self._tell(Action.DELETE, path, None)

    def _one_less(self, folder: _Folder | None, *, stays: bool) -> None:
        """Something in this folder is done: remove the folder after the last."""
        while folder is not None:
            with self._lock:
                folder.left -= 1
                folder.stays |= stays
                if folder.left:
                    return
                stays = folder.stays
            path = folder.path
            if not stays and self.attempt(path, functools.partial(self._remove_folder, path)):
                self._note(path)
            else:
                stays = True
            folder = folder.above

    def _remove_folder(self, path: str) -> None:
        try:
            self._side.remove_folder(path)
        except (errors.NotFound, FileNotFoundError):
            return  # another program was quicker


def _is_folder(entry: Entry) -> bool:
    return entry.kind is Kind.DIRECTORY
