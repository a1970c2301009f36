"""The table of open files: which are open, under which names, and by how many handles.

Owns the tables of open files and handles, and exclusive use of several files at once. Does not know
what a name or a handle means to the server, nor when a file may leave the tables (`endings`).

A file is in the tables while it has handles. It also stays while it *lingers*: closed here, and not
on the server yet. A file that lost its name is found only by its handles.

**Names that libfuse makes up.** libfuse renames a file that is to be deleted or replaced while it
is open, and calls it by that name (an *alias*) from then on. If the deletion or the replacing then
fails, libfuse goes on with the alias as long as the kernel remembers the file, also for programs
that open it later, and it makes up no second one. So an alias means whatever is at a path, until
that path gets another file. In that moment it begins to mean the one file that was open there.

Threading: any thread. `_lock` (Rank.TABLE) guards the tables. It is held only for look-ups.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.server_file import View
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import folder_of, name_of

# Limit of remembered names that libfuse has made up. There is one for each file that libfuse
# renamed and that has kept its own name.
MOST_ALIASES = 1000


@dataclass
class Handle:
    """What one open(2) returned."""

    file: OpenFile
    appends: bool
    writes: bool
    opener: int  # the process (or thread) that opened it; 0: unknown
    view: View = field(default_factory=View)
    changed: bool = False  # the program wrote through it


@dataclass
class _Alias:
    """What a name made up by libfuse means: what is at `path`, or `lost`, which was open there."""

    path: str
    lost: OpenFile | None = None


class OpenFiles:
    """The open files of one mount."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = ranked_lock(Rank.TABLE)
        # Guarded by _lock:
        self._files: dict[str, OpenFile] = {}  # by name
        self._handles: dict[int, Handle] = {}
        self._users: dict[OpenFile, int] = {}  # number of handles; 0: the file lingers
        self._aliases: dict[str, _Alias] = {}  # by libfuse's name

    # Look-ups.

    def at(self, path: str) -> OpenFile | None:
        with self._lock:
            return self._at_locked(path)

    def _at_locked(self, path: str) -> OpenFile | None:
        file = self._files.get(path)
        if file is None and self._aliases and (alias := self._aliases.get(path)) is not None:
            return alias.lost
        return file

    def __contains__(self, path: str) -> bool:
        return self.at(path) is not None

    def all(self) -> list[OpenFile]:
        """All files in the tables, also those without a name."""
        with self._lock:
            return list(self._users)

    def in_folder(self, folder: str) -> dict[str, OpenFile]:
        """The files that have a name directly in `folder`, by that name."""
        with self._lock:
            return {
                name_of(path): file
                for path, file in self._files.items()
                if folder_of(path) == folder
            }

    def below(self, folder: str) -> list[OpenFile]:
        """The files that have a name anywhere below `folder`."""
        inside = folder.rstrip("/") + "/"
        with self._lock:
            return [file for path, file in self._files.items() if path.startswith(inside)]

    def is_used(self, file: OpenFile) -> bool:
        """Whether the file has handles."""
        with self._lock:
            return bool(self._users.get(file))

    def handle(self, number: int) -> Handle:
        known = self._handles.get(number)  # each read and write calls this: no lock for one look
        if known is None:
            raise _bad_handle(number)
        return known

    # Adding and removing.

    def attach(
        self,
        path: str,
        choose: Callable[[OpenFile | None], OpenFile],
        *,
        appends: bool,
        writes: bool,
        opener: int = 0,
    ) -> int:
        """Make a handle, and return its number.

        `choose` gets the file that has the name now, or None, and returns the file to be opened. An
        error of `choose` is passed on.
        """
        with self._lock:
            file = self._files[path] = choose(self._at_locked(path))
            number = next(self._numbers)
            self._handles[number] = Handle(file, appends, writes, opener)
            self._users[file] = self._users.get(file, 0) + 1
            return number

    def detach(self, number: int) -> tuple[Handle, bool]:
        """Remove a handle. Returns it, and whether its file has no handle left."""
        with self._lock:
            known = self._handles.pop(number, None)
            if known is None:
                raise _bad_handle(number)
            self._users[known.file] -= 1
            return known, not self._users[known.file]

    def linger(self, path: str, file: OpenFile) -> None:
        """Add a file that no program opened: an earlier mount left it for upload."""
        with self._lock:
            self._files[path] = file
            self._users[file] = 0

    def let_go(self, file: OpenFile) -> bool:
        """Remove a file that has no handles and is clean. Returns whether it was removed."""
        with self._lock:
            if self._users.get(file) != 0 or file.dirty:
                return False
            self._remove_locked(file)
            return True

    def drop(self, file: OpenFile) -> bool:
        """Remove a file that has no handles, dirty or not. Returns whether it was removed."""
        with self._lock:
            if self._users.get(file) != 0:
                return False
            self._remove_locked(file)
            return True

    def _remove_locked(self, file: OpenFile) -> None:
        del self._users[file]
        names = [file.path]
        if file.is_deleted:  # it may have several names that libfuse made up
            names = [name for name, each in self._files.items() if each is file]
        for name in names:
            if self._files.get(name) is file:
                del self._files[name]
        for name in [name for name, alias in self._aliases.items() if alias.lost is file]:
            del self._aliases[name]

    def clear(self) -> list[OpenFile]:
        """Remove all files and handles. Returns the files."""
        with self._lock:
            files = list(self._users)
            self._users.clear()
            self._handles.clear()
            self._files.clear()
            return files

    # Names.

    def unname(self, path: str) -> OpenFile | None:
        """What is at `path` loses that name. Returns the file that is open there, or None.

        The aliases of `path` mean that file from now on. If none is open, they mean nothing.
        """
        with self._lock:
            return self._unname_locked(path)

    def _unname_locked(self, path: str) -> OpenFile | None:
        file = self._files.pop(path, None)
        for name in [n for n, a in self._aliases.items() if a.path == path and a.lost is None]:
            if file is None:
                del self._aliases[name]
            else:
                self._aliases[name].lost = file
        return file

    def rename_one(self, old: str, new: str, file: OpenFile) -> None:
        """If the file is at `old`, move it to `new`. No other file moves."""
        with self._lock:
            if self._files.get(old) is file:
                del self._files[old]
                self._files[new] = file
                for alias in self._aliases.values():
                    # Only handles know it by libfuse's name. Others look for what is at `old` now.
                    if alias.path == old and self._users.get(file):
                        alias.path = new

    def stand_for(self, hidden: str, path: str) -> None:
        """Note that libfuse calls the file at `path` by the name `hidden`, which it has made up.

        After the file is deleted or replaced, `hidden` is its only name (`show_hidden`).
        """
        with self._lock:
            self._aliases[hidden] = _Alias(path)
            if len(self._aliases) > MOST_ALIASES:
                idle = [
                    name
                    for name, alias in self._aliases.items()
                    if alias.lost is None and alias.path not in self._files
                ]
                for name in idle[: len(idle) // 2]:
                    del self._aliases[name]

    def known_as(self, path: str) -> str:
        """The name that a file has here, for any name by which libfuse may call it."""
        if not self._aliases:  # the usual case: a lock at each look-up would cost too much
            return path
        with self._lock:
            alias = self._aliases.get(path)
            return path if alias is None or alias.lost is not None else alias.path

    def show_hidden(self, file: OpenFile) -> None:
        """Give a deleted or replaced file the name that libfuse made up, if there is one.

        It keeps this name until its last handle is closed.
        """
        with self._lock:
            for name in [name for name, alias in self._aliases.items() if alias.lost is file]:
                del self._aliases[name]
                if file in self._users:
                    file.basis.shown_as(name)
                    self._files[name] = file

    def rename(self, old: str, new: str) -> tuple[list[OpenFile], OpenFile | None]:
        """Move the files at and below `old` to `new`.

        Returns the files that moved, and the file that was open at `new`, which loses its name.
        """
        inside = old + "/"
        with self._lock:
            replaced = self._unname_locked(new)
            if self._aliases:  # libfuse's names move with their folder, too
                self._aliases = {
                    _moved(name, old, new): alias for name, alias in self._aliases.items()
                }
            for alias in self._aliases.values():
                if alias.lost is None:
                    alias.path = _moved(alias.path, old, new)
            if (file := self._files.pop(old, None)) is not None:
                moved = {new: file}  # a file has nothing below it
            else:
                moved = {
                    new + path[len(old) :]: self._files.pop(path)
                    for path in [p for p in self._files if p.startswith(inside)]
                }
                for each in self._users:
                    each.basis.directory_moved(old, new)
            for path, file in moved.items():
                self._files[path] = file
                file.basis.moved(path)
        return list(moved.values()), replaced

    # Exclusive use.

    @contextlib.contextmanager
    def exclusive(self, *paths: str, below: bool = False) -> Iterator[list[OpenFile | None]]:
        """Use the files open at `paths` (and `below` them, if wanted) exclusively.

        Yields the file at each path, or None. Their uploads wait meanwhile. Waits for uploads that
        are under way, with no lock held.
        """
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
                if same:  # else a file was opened or closed during the wait: try again
                    yield files
                    return


def _moved(path: str, old: str, new: str) -> str:
    at_or_below = path == old or path.startswith(old + "/")
    return new + path[len(old) :] if at_or_below else path


def _bad_handle(number: int) -> errors.FtpfsError:
    return errors.BadHandle(f"no open file has the handle {number}")
