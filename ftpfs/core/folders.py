"""Modes and times of folders that were made here: noted, and sent behind the program's back.

Owns: what was set on a folder and the server does not have yet, and the order in which it gets it.
`tar x` sets the mode of each folder twice and its time once, and would wait a round trip for each;
only the last of each counts. What is noted shows at once, is in the journal, and outlives a kill.

The order is what makes it true:

- A mode that takes rights from others (0700) goes out before anything is put into the folder; with
  the MKD of the first folder below it, in the same write. Where something is in it already, it is
  not noted: whoever sets it waits.
- All else goes out after the files that were closed in that folder before: a file changes the time
  of its folder, and a mode without `w` would keep it out.

Noted is only what the server was seen to do: the first `chmod` of a server, and the first time set
on a folder, are waited for, so that "the server has no such command" reaches the program.

Threading: any. `_changed` guards everything, and is taken after the queue's lock; the queue and the
journal are called without it. A folder that is spoken of with the server is `busy`: one at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import posixpath
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from ftpfs import errors
from ftpfs.core.journal import Journal
from ftpfs.core.openfile import OpenFile
from ftpfs.core.remote import Remote
from ftpfs.ftp.listing import Entry, FolderAttributes

log = logging.getLogger(__name__)

# What everybody but the owner may do, and what the owner needs to put something in.
_OTHERS, _ENTRY = 0o077, 0o300
# How many folders are known to have been made here: programs come back to those they made last.
# 300 bytes each.
MOST_KNOWN = 50_000


class Folder:
    """A folder that was made here, as the queue of uploads sees it. Guarded by `Folders`."""

    has_content = changes_in_place = False
    unsent_bytes = sent_bytes = uploaded_bytes = 0

    def __init__(self, path: str) -> None:
        self.path = path
        self.mode: int | None = None  # to be set
        self.mtime: int | None = None
        self.sent: int | None = None  # the mode that was set last; None: the server's own
        self.filled = False  # something was put into it, or is about to be
        self.busy = False
        self.behind: set[OpenFile] = set()  # closed files that are to be sent before
        self.row: tuple[int | None, int | None] = (None, None)  # what the journal says

    @property
    def waits(self) -> bool:
        """Whether it has something to be sent now."""
        return self.noted and not self.behind

    @property
    def noted(self) -> bool:
        return self.mode is not None or self.mtime is not None

    @property
    def first(self) -> int | None:
        """The mode that has to be set before anything is put in; None: none has."""
        if self.mode is None or not self.takes_away(self.mode):
            return None
        return self.mode | _ENTRY

    def takes_away(self, mode: int) -> bool:
        """Whether others may do less with `mode` than they can be able to now."""
        others = _OTHERS if self.sent is None else self.sent & _OTHERS
        return bool(others & ~mode)

    def cancel(self) -> None:
        """A round trip is not worth it."""

    def give_up(self, error: errors.FtpfsError) -> None:
        log.error("mode and time of %s were not set: %s", self.path, error)


class Folders:
    """What waits to be set on the folders of one mount."""

    def __init__(
        self,
        remote: Remote,
        journal: Journal,
        *,
        add: Callable[[Folder], None],
        told: Callable[[FolderAttributes], None],
        refused: Callable[[str], None],
    ) -> None:
        """`add`: a folder has something to be sent. `told`: the server has it now. `refused`: it
        was not set, by path."""
        self._remote = remote
        self._journal = journal
        self._add = add
        self._told = told
        self._refused = refused
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._made: dict[str, Folder] = {}
        self._waiting: dict[str, Folder] = {}  # of them

    # What is asked.

    def is_ours(self, path: str) -> bool:
        """Whether it was made by this mount."""
        return path in self._made

    def waiting(self, path: str) -> bool:
        """Whether something waits at or below `path`."""
        with self._changed:
            return any(_is_below(each, path) for each in self._waiting)

    def count(self) -> int:
        """How many folders something waits for."""
        return len(self._waiting)

    def names_in(self, path: str) -> list[str]:
        """The names of the folders in `path` that are shown as they are not on the server yet."""
        if not self._waiting:
            return []
        with self._changed:
            return [posixpath.basename(p) for p in self._waiting if posixpath.dirname(p) == path]

    def shown(self, path: str, entry: Entry) -> Entry:
        """`entry` of a directory, with what was set on it here."""
        if not self._waiting:
            return entry
        with self._changed:
            folder = self._waiting.get(path)
            if folder is None:
                return entry
            if folder.mode is not None:
                entry = replace(entry, mode=folder.mode)
            if folder.mtime is not None:
                entry = replace(entry, mtime=folder.mtime, exact=True)
        return entry

    # What is told.

    def made(self, path: str, mode: int | None) -> None:
        """A folder was made; `mode` is to be set, and nobody waits to hear whether it was."""
        with self._changed:
            if len(self._made) >= MOST_KNOWN:
                self._forget_oldest_locked()
            folder = self._made[path] = Folder(path)
        if mode is not None and self._remote.sets_on_folders()[0] is not False:
            with self._changed:
                self._note_locked(folder, mode, None)
            self._write_down(folder)

    def _forget_oldest_locked(self) -> None:
        """A tenth of them, but for those of which something waits or is being said."""
        quiet = (path for path, each in self._made.items() if not (each.noted or each.busy))
        for path in list(itertools.islice(quiet, MOST_KNOWN // 10)):
            del self._made[path]

    def set(
        self, path: str, waiting: Iterable[OpenFile], *, mode: int | None, mtime: int | None
    ) -> bool:
        """Note a mode or a time, to be set after the files in the folder that are `waiting`; False:
        it has to be set now."""
        modes, times = self._remote.sets_on_folders()
        if (mode is not None and not modes) or (mtime is not None and not times):
            return False
        with self._changed:
            folder = self._made.get(path)
            if folder is None:
                return False
            if mode is not None and folder.filled and folder.takes_away(mode):
                return False
            folder.behind.update(waiting)
            self._note_locked(folder, mode, mtime)
        self._write_down(folder)
        return True

    def _note_locked(self, folder: Folder, mode: int | None, mtime: int | None) -> None:
        if mode is not None:
            folder.mode = mode
        if mtime is not None:
            folder.mtime = mtime
        folder.row = folder.mode, folder.mtime
        self._waiting[folder.path] = folder

    def _write_down(self, folder: Folder) -> None:
        with self._changed:
            path, row, held = folder.path, folder.row, bool(folder.behind)
        try:
            self._journal.note_folder(path, *row)
        except errors.FtpfsError as error:
            log.error("killed now, mode and time of %s would be lost: %s", path, error)
        if not held:
            self._add(folder)

    def release(self, path: str) -> None:
        """The files that folders at or below `path` still wait for are not sent soon."""
        with self._changed:
            held = [f for p, f in self._waiting.items() if f.behind and _is_below(p, path)]
            for folder in held:
                folder.behind.clear()
        for folder in held:
            self._add(folder)

    def file_ended(self, file: OpenFile) -> None:
        """A file is on the server, or will not be there soon."""
        if not self._waiting:
            return
        with self._changed:
            freed = [f for f in self._waiting.values() if file in f.behind]
            for folder in freed:
                folder.behind.remove(file)
            freed = [folder for folder in freed if not folder.behind]
        for folder in freed:
            self._add(folder)

    def renamed(self, old: str, new: str) -> None:
        """With `still` held, and the journal renamed."""
        with self._changed:
            for known in (self._made, self._waiting):
                for path in [path for path in known if _is_below(path, new)]:
                    _void(known.pop(path))
                for path in [path for path in known if _is_below(path, old)]:
                    folder = known.pop(path)
                    folder.path = new + path[len(old) :]
                    known[folder.path] = folder

    def removed(self, path: str) -> None:
        with self._changed:
            folder = self._made.pop(path, None)
            self._waiting.pop(path, None)
            row = _void(folder) if folder is not None else None
        if row:
            self._journal.drop_folder(path, *row)

    def restore(
        self, rows: Iterable[tuple[str, int | None, int | None]], unsent: Iterable[OpenFile]
    ) -> None:
        """Take over what an earlier mount left, to follow the files that it left in each."""
        files = list(unsent)
        with self._changed:
            for path, mode, mtime in rows:
                folder = self._made[path] = self._waiting[path] = Folder(path)
                folder.mode, folder.mtime = folder.row = mode, mtime
                folder.filled = True  # as far as we know
                folder.behind = {file for file in files if posixpath.dirname(file.path) == path}
            free = [folder for folder in self._waiting.values() if not folder.behind]
        for folder in free:
            self._add(folder)

    # Turns.

    @contextlib.contextmanager
    def filling(self, path: str) -> Iterator[FolderAttributes | None]:
        """Something is about to be put into the folder at `path`: what has to be set before, by
        whoever comes first."""
        folder = self._made.get(path)
        if folder is None:
            yield None
            return
        with self._changed:
            folder.filled = True
            while folder.first is not None and folder.busy:
                self._changed.wait()
            mode = folder.first
            if mode is not None:
                folder.busy = True
        if mode is None:
            yield None
            return
        done = FolderAttributes(folder.path, mode, None)
        with self._speaking([folder]):
            yield done
            self._were_set([(folder, done)])

    @contextlib.contextmanager
    def still(self, *paths: str) -> Iterator[None]:
        """Nothing is said to the server about these folders, and what is below them, meanwhile."""
        with self._changed:
            while True:
                folders = [
                    folder
                    for known, folder in self._waiting.items()
                    if any(_is_below(known, path) for path in paths)
                ]
                if not any(folder.busy for folder in folders):
                    break
                self._changed.wait()
            for folder in folders:
                folder.busy = True
        with self._speaking(folders):
            yield

    @contextlib.contextmanager
    def setting(
        self, path: str, *, mode: int | None = None, mtime: int | None = None
    ) -> Iterator[None]:
        """The caller sets this by itself: what was noted before is void."""
        folder = self._made.get(path)
        if folder is None:
            yield
            return
        with self._changed:
            while folder.busy:
                self._changed.wait()
            folder.busy = True
        with self._speaking([folder]):
            yield
            with self._changed:
                noted = folder.noted
                if mode is not None:
                    folder.mode, folder.sent = None, mode
                if mtime is not None:
                    folder.mtime = None
            if noted:
                self._forget_row(folder)

    # Sending.

    def send(self, folder: Folder) -> None:
        """Set what waits on this folder, and on all others that may have it by now, in one
        exchange. Raises NetworkError; what is refused is a line in the log."""
        with self._changed:
            while folder.busy:
                self._changed.wait()
            if not folder.waits:
                return
            folders = [folder] + [
                other
                for other in self._waiting.values()
                if other is not folder and not other.busy and not other.behind
            ]
            # What is below another may be out of reach once that has its mode.
            folders.sort(key=lambda each: each.path.count("/"), reverse=True)
            wanted = [FolderAttributes(each.path, each.mode, each.mtime) for each in folders]
            for each in folders:
                each.busy = True
        with self._speaking(folders):
            refused = self._remote.set_on_folders(wanted)
            self._were_set(list(zip(folders, wanted, strict=True)))
        for path, why in refused:
            log.warning("mode or time of %s was not set: %s", path, why)
            self._refused(path)

    def send_now(self, path: str) -> None:
        """As `send`, where nothing has to be sent before."""
        with self._changed:
            folder = self._waiting.get(path)
        if folder is not None and not folder.behind:
            self.send(folder)

    @contextlib.contextmanager
    def _speaking(self, folders: Iterable[Folder]) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                for folder in folders:
                    folder.busy = False
                self._changed.notify_all()

    def _were_set(self, what: list[tuple[Folder, FolderAttributes]]) -> None:
        with self._changed:
            for folder, told in what:
                if told.mode is not None:
                    folder.sent = told.mode
                    if folder.mode == told.mode:  # else another one was noted meanwhile
                        folder.mode = None
                if told.mtime is not None and folder.mtime == told.mtime:
                    folder.mtime = None
        for folder, told in what:
            self._forget_row(folder)
            self._told(told)

    def _forget_row(self, folder: Folder) -> None:
        """What the journal says of the folder is done, in part or all of it."""
        with self._changed:
            path, row = folder.path, folder.row
            left = folder.row = folder.mode, folder.mtime
            if not folder.noted:
                self._waiting.pop(path, None)
                folder.behind.clear()
        if left == (None, None):
            self._journal.drop_folder(path, *row)
        elif left != row:
            with contextlib.suppress(errors.FtpfsError):  # then it is done once more
                self._journal.note_folder(path, *left)


def _void(folder: Folder) -> tuple[int | None, int | None] | None:
    """It is gone: nothing of it is to be set; what the journal still says, if anything."""
    row = folder.row if folder.noted else None
    folder.mode = folder.mtime = None
    return row


def _is_below(path: str, top: str) -> bool:
    """At `top`, or below it."""
    return path == top or path.startswith(top.rstrip("/") + "/")
