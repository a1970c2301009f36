"""Which files are open, under which names, and by how many handles.

Owns: the tables of open files and handles, and the turns at several files at once. Does not know
what a name or a handle means to the server, nor when a file may go (`filesystem`).

A file is in the tables while it has handles, and while it *lingers*: closed, but not on the server
yet. It may have lost its name, and then is only found by its handles.

Threading: any. `_lock` guards the tables; it is held for look-ups only, and taken before a file's
own lock, never the other way round.
"""

from __future__ import annotations

import contextlib
import itertools
import posixpath
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ftpfs import errors
from ftpfs.core.base import View
from ftpfs.core.openfile import OpenFile


class Handle(NamedTuple):
    """What one open(2) is about."""

    file: OpenFile
    appends: bool
    writes: bool
    view: View


class OpenFiles:
    """The open files of one mount."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._files: dict[str, OpenFile] = {}  # by name
        self._handles: dict[int, Handle] = {}
        self._users: dict[OpenFile, int] = {}  # how many handles; 0: it lingers

    # Looking.

    def at(self, path: str) -> OpenFile | None:
        with self._lock:
            return self._files.get(path)

    def __contains__(self, path: str) -> bool:
        return self.at(path) is not None

    def all(self) -> list[OpenFile]:
        """Those without a name, too."""
        with self._lock:
            return list(self._users)

    def in_folder(self, folder: str) -> dict[str, OpenFile]:
        """The files that have a name right in a folder, by that name."""
        with self._lock:
            return {
                posixpath.basename(path): file
                for path, file in self._files.items()
                if posixpath.dirname(path) == folder
            }

    def below(self, folder: str) -> list[OpenFile]:
        """The files that have a name anywhere below."""
        inside = folder.rstrip("/") + "/"
        with self._lock:
            return [file for path, file in self._files.items() if path.startswith(inside)]

    def is_used(self, file: OpenFile) -> bool:
        """Whether it has handles."""
        with self._lock:
            return bool(self._users.get(file))

    def handle(self, number: int) -> Handle:
        with self._lock:
            known = self._handles.get(number)
        if known is None:
            raise _bad_handle(number)
        return known

    # Coming and going.

    def attach(
        self,
        path: str,
        choose: Callable[[OpenFile | None], OpenFile],
        *,
        appends: bool,
        writes: bool,
    ) -> int:
        """A new handle on the file that `choose` makes of the one that has the name now, or of
        none. What it raises is passed on."""
        with self._lock:
            file = self._files[path] = choose(self._files.get(path))
            number = next(self._numbers)
            self._handles[number] = Handle(file, appends, writes, View())
            self._users[file] = self._users.get(file, 0) + 1
            return number

    def detach(self, number: int) -> tuple[OpenFile, bool]:
        """Take a handle away; its file, and whether that has none any more."""
        with self._lock:
            known = self._handles.pop(number, None)
            if known is None:
                raise _bad_handle(number)
            self._users[known.file] -= 1
            return known.file, not self._users[known.file]

    def linger(self, path: str, file: OpenFile) -> None:
        """A file that nobody opened here: an earlier mount left it."""
        with self._lock:
            self._files[path] = file
            self._users[file] = 0

    def let_go(self, file: OpenFile) -> bool:
        """Take a file out that has no handles and nothing to be sent; whether it was that."""
        with self._lock:
            if self._users.get(file) != 0 or file.dirty:
                return False
            del self._users[file]
            if self._files.get(file.path) is file:
                del self._files[file.path]
            return True

    def clear(self) -> list[OpenFile]:
        """Take all out."""
        with self._lock:
            files = list(self._users)
            self._users.clear()
            self._handles.clear()
            self._files.clear()
            return files

    # Names.

    def unname(self, path: str, file: OpenFile) -> bool:
        """The file has this name no more; whether it had."""
        with self._lock:
            if self._files.get(path) is not file:
                return False
            del self._files[path]
            return True

    def rename_one(self, old: str, new: str, file: OpenFile) -> None:
        """The file, and no other, is at `new`, if it was at `old`."""
        with self._lock:
            if self._files.get(old) is file:
                del self._files[old]
                self._files[new] = file

    def show(self, path: str, file: OpenFile) -> bool:
        """Let a file that was deleted be found under a name that exists only here; False: its last
        handle went meanwhile."""
        with self._lock:
            if file not in self._users or not file.is_deleted:
                return False
            file.shown_as(path)
            self._files[path] = file
            return True

    def rename(self, old: str, new: str) -> list[OpenFile]:
        """What is at and below the old name is at and below the new one; those files."""
        inside = old + "/"
        with self._lock:
            self._files.pop(new, None)
            if (file := self._files.pop(old, None)) is not None:
                moved = {new: file}  # below a file there is nothing
            else:
                moved = {
                    new + path[len(old) :]: self._files.pop(path)
                    for path in [p for p in self._files if p.startswith(inside)]
                }
                for each in self._users:
                    each.directory_moved(old, new)
            for path, file in moved.items():
                self._files[path] = file
                file.moved(path)
        return list(moved.values())

    # Turns.

    @contextlib.contextmanager
    def turns(self, *paths: str, below: bool = False) -> Iterator[list[OpenFile | None]]:
        """Take turns with the uploads of the files open at `paths`, and `below` them if wanted; the
        files that are open at `paths`. Waits, with no lock held."""
        while True:
            with self._lock:
                files = [self._files.get(path) for path in paths]
                chosen = {file for file in files if file is not None}
                if below:
                    insides = tuple(path + "/" for path in paths)
                    chosen |= {f for p, f in self._files.items() if p.startswith(insides)}
            with contextlib.ExitStack() as stack:
                for file in sorted(chosen, key=id):
                    stack.enter_context(file.exclusive(moving=True))
                with self._lock:
                    same = files == [self._files.get(path) for path in paths]
                if same:  # else one came or went while we waited
                    yield files
                    return


def _bad_handle(number: int) -> errors.FtpfsError:
    return errors.BadHandle(f"no open file has the handle {number}")
