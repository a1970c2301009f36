"""Listings that are remembered, for all file systems of one server in this process.

Owns how long a listing counts, and what a change of ours makes of it. Fetches nothing.

Threading: any thread; `Rank.LISTINGS` guards everything.
"""

from __future__ import annotations

import posixpath
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_lock

# Folders that are remembered; the oldest are forgotten first.
MOST_FOLDERS = 10_000

Names = Mapping[str, Entry]


class _Listing(NamedTuple):
    at: float  # time.monotonic()
    names: dict[str, Entry]


class Listings:
    """What the folders of one server hold, as far as it is known.

    A listing that was asked for before a change of ours is never remembered after it. `changes`
    counts the changes; whoever asks the server takes the number before, and gives it to `put` or
    `made`.

    - `_changed`: the last change in each folder; a folder that is not there had none after
      `_floor`.
    """

    def __init__(self) -> None:
        self._lock = ranked_lock(Rank.LISTINGS)
        self._folders: OrderedDict[str, _Listing] = OrderedDict()
        self._changes = self._floor = 0
        self._changed: OrderedDict[str, int] = OrderedDict()

    @property
    def changes(self) -> int:
        """How many changes there were, to be taken before the server is asked."""
        with self._lock:
            return self._changes

    def get(self, folder: str, max_age: float) -> Names | None:
        """The names of a folder, if they were listed within `max_age` seconds.

        They change with later changes of ours: take `list(names.values())` before a loop.
        """
        with self._lock:
            known = self._folders.get(folder)
        if known is None or time.monotonic() - known.at > max_age:
            return None
        return known.names

    def put(self, folder: str, names: dict[str, Entry], changes: int) -> None:
        """Remember a listing, unless something was changed there since `changes` was taken."""
        with self._lock:
            self._keep_locked(folder, names, changes)

    def made(self, folder: str, changes: int) -> None:
        """A folder was made: there is nothing in it, unless others were faster than the caller."""
        with self._lock:
            self._change_locked(folder, Entry(posixpath.basename(folder), Kind.DIRECTORY))
            self._keep_locked(folder, {}, changes)

    def stored(self, path: str, entry: Entry) -> None:
        """A file was stored at `path`."""
        with self._lock:
            self._change_locked(path, entry)

    def removed(self, path: str) -> None:
        """A file or an empty folder was removed."""
        with self._lock:
            self._change_locked(path, None)
            self._folders.pop(path, None)
            self._changed[path] = self._changes

    def forget(self, path: str = "/") -> None:
        """Forget what is known of a path, of what is below it, and of the folder that it is in."""
        with self._lock:
            self._changes += 1
            self._floor = self._changes
            self._changed.clear()
            if path == "/":
                self._folders.clear()
            self._folders.pop(posixpath.dirname(path), None)
            below = path + "/"
            for folder in [each for each in self._folders if (each + "/").startswith(below)]:
                del self._folders[folder]

    def _keep_locked(self, folder: str, names: dict[str, Entry], changes: int) -> None:
        if self._changed.get(folder, self._floor) > changes:
            return
        self._folders[folder] = _Listing(time.monotonic(), names)
        self._folders.move_to_end(folder)
        if len(self._folders) > MOST_FOLDERS:
            self._folders.popitem(last=False)

    def _change_locked(self, path: str, entry: Entry | None) -> None:
        """Change one name of a folder. None: the name is gone."""
        above, name = posixpath.split(path)
        self._changes += 1
        self._changed[above] = self._changes
        self._changed.move_to_end(above)
        if len(self._changed) > MOST_FOLDERS:
            _, self._floor = self._changed.popitem(last=False)
        if above in self._folders:
            names = self._folders[above].names
            if entry is None:
                names.pop(name, None)
            else:
                names[name] = entry
