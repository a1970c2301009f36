"""Folders: modes and times of folders made here, sent to the server in the background.

Owns: the modes and times that programs set and the server does not have yet, and the order in which
they are sent. `tar x` sets the mode of each folder twice and its time once. Sent one by one, each
would cost a round trip that the program waits for. So ftpfs notes them, and sends only the last of
each. What is noted is visible at once, and a row in the journal keeps it if the daemon is killed.

The order of sending:

- A mode that takes rights away from others (0700) is sent before anything is put into the folder,
  in the same write as the MKD of the first folder below it. If the folder already has an entry,
  the mode is not noted: the program that sets it waits for the server.
- A mode that gives rights to the owner is not noted either, because the program's next call in the
  folder may need them (`chmod -R u+w t && rm -rf t`).
- All other modes and times are sent after the files that were closed in the folder before. Each
  upload changes the time of its folder, and a mode without `w` would refuse the upload.

ftpfs notes only what the server is known to support. The program waits for the first `chmod`, and
for the first time set on a folder, so that it hears of a server without such a command.

Threading: any. `_changed` (Rank.FOLDERS) guards everything, and is released before the queue or the
journal is called. While a thread exchanges commands about a folder, the folder is `busy`, and other
threads wait.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.names.known import KnownNames
from ftpfs.core.writing.journal import Journal
from ftpfs.model.entry import Entry, FolderAttributes
from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.model.names import folder_of, name_of
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# The rights of all others, and those of the owner. The owner's rights are kept while files are put
# into a folder. Pure-FTPd also needs the owner's right to read a folder before it changes the mode.
_OTHERS, _OWNER = 0o077, 0o700
# Limit of folders that are known to be made here (300 bytes each). The oldest are forgotten first.
MOST_KNOWN = 50_000


class Folder:
    """A folder that was made here, as a job in the queue of uploads. Guarded by `Folders`."""

    has_content = changes_in_place = False
    unsent_bytes = sent_bytes = uploaded_bytes = 0

    def __init__(self, path: str) -> None:
        self.path = path
        self.mode: int | None = None  # to be set
        self.mtime: int | None = None
        self.sent: int | None = None  # the mode that was set last; None: the server's default
        self.being_set: int | None = None  # the mode that a thread is sending now
        # False: an earlier mount may have set a mode that this mount does not know
        self.is_sure = True
        self.filled = False  # an entry was put into it, or is about to be
        self.busy = False
        self.behind: set[OpenFile] = set()  # closed files to be sent before the mode and time
        self.row: tuple[int | None, int | None] = (None, None)  # mode and time in the journal's row

    @property
    def waits(self) -> bool:
        """Whether a mode or time can be sent now."""
        return self.noted and not self.behind

    @property
    def noted(self) -> bool:
        return self.mode is not None or self.mtime is not None

    @property
    def first(self) -> int | None:
        """The mode that has to be set before an entry is put into the folder; None: no mode."""
        if self.mode is None or not self.takes_away(self.mode):
            return None
        return self.mode | _OWNER

    def takes_away(self, mode: int) -> bool:
        """Whether `mode` takes away a right that others may have now."""
        others = _OTHERS if self.sent is None else self.sent & _OTHERS
        return bool(others & ~mode)

    def gives(self, mode: int) -> bool:
        """Whether `mode` gives the owner a right that the owner does not surely have.

        Compares with the mode on the server, and with the mode that is being set.
        """
        now = _OWNER if self.sent is None else self.sent
        if self.being_set is not None:
            now &= self.being_set
        return bool(mode & _OWNER & ~(now if self.is_sure else 0))

    def cancel(self) -> None:
        """Do nothing: a mode or time is one round trip, too short to be worth stopping."""

    def give_up(self, error: errors.FtpfsError) -> None:
        log.error("mode and time of %s were not set: %s", self.path, error)


Job: TypeAlias = OpenFile | Folder  # one item in the queue of uploads


class Folders:
    """The modes and times to be set on the folders of one mount."""

    def __init__(
        self,
        remote: Remote,
        journal: Journal,
        known: KnownNames,
        *,
        add: Callable[[Folder], None],
    ) -> None:
        """`add`: puts a folder with a mode or time to be sent into the queue."""
        self._remote = remote
        self._journal = journal
        self._add = add
        self._known = known
        self._changed = ranked_condition(Rank.FOLDERS)
        # Guarded by _changed:
        self._made: dict[str, Folder] = {}
        self._waiting: dict[str, Folder] = {}  # the folders in _made with a mode or time to be sent

    # Questions.

    def is_ours(self, path: str) -> bool:
        """Whether this mount made the folder."""
        return path in self._made

    def waiting(self, path: str) -> bool:
        """Whether a mode or time waits for a folder at or below `path`."""
        with self._changed:
            return any(_is_below(each, path) for each in self._waiting)

    def count(self) -> int:
        """How many folders have a mode or time to be sent."""
        return len(self._waiting)

    def names_in(self, path: str) -> list[str]:
        """The names of the folders in `path` that look different on the server."""
        if not self._waiting:
            return []
        with self._changed:
            return [name_of(p) for p in self._waiting if folder_of(p) == path]

    def shown(self, path: str, entry: Entry) -> Entry:
        """The `entry` of a directory, with the mode and time that were set here."""
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

    # Events.

    def made(self, path: str, mode: int | None) -> None:
        """Remember a folder that was just made; `mode` is to be set on it.

        No program waits for the answer to `mode`.
        """
        with self._changed:
            if len(self._made) >= MOST_KNOWN:
                self._forget_oldest_locked()
            folder = self._made[path] = Folder(path)
        if mode is not None and self._remote.sets_on_folders()[0] is not False:
            with self._changed:
                self._note_locked(folder, mode, None)
            self._write_down(folder)

    def _forget_oldest_locked(self) -> None:
        """Forget the oldest tenth, except folders with a mode or time to be sent."""
        quiet = (path for path, each in self._made.items() if not (each.noted or each.busy))
        for path in list(itertools.islice(quiet, MOST_KNOWN // 10)):
            del self._made[path]

    def set(
        self, path: str, waiting: Iterable[OpenFile], *, mode: int | None, mtime: int | None
    ) -> bool:
        """Note a mode or a time, to be sent after the files in `waiting`.

        Returns False if it must not be noted: the caller has to set it now.
        """
        modes, times = self._remote.sets_on_folders()
        if (mode is not None and not modes) or (mtime is not None and not times):
            return False
        with self._changed:
            folder = self._made.get(path)
            if folder is None:
                return False
            if mode is not None and folder.filled and folder.takes_away(mode):
                return False
            if mode is not None and folder.gives(mode):
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
            log.error("a crash now would lose mode and time of %s: %s", path, error)
        if not held:
            self._add(folder)

    def release(self, path: str) -> None:
        """Stop waiting for files in folders at or below `path`: they will not be sent soon."""
        with self._changed:
            held = [f for p, f in self._waiting.items() if f.behind and _is_below(p, path)]
            for folder in held:
                folder.behind.clear()
        for folder in held:
            self._add(folder)

    def file_ended(self, file: OpenFile) -> None:
        """Stop waiting for `file`: the server has it, or will not have it soon."""
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
        """Follow a rename. The caller holds `still`, and has renamed the journal's rows."""
        with self._changed:
            for known in (self._made, self._waiting):
                for path in [path for path in known if _is_below(path, new)]:
                    _void(known.pop(path))
                for path in [path for path in known if _is_below(path, old)]:
                    folder = known.pop(path)
                    folder.path = new + path[len(old) :]
                    known[folder.path] = folder

    def removed(self, path: str) -> None:
        """Forget a folder that was deleted, and its row in the journal."""
        with self._changed:
            folder = self._made.pop(path, None)
            self._waiting.pop(path, None)
            row = _void(folder) if folder is not None else None
        if row:
            self._journal.drop_folder(path, *row)

    def restore(
        self, rows: Iterable[tuple[str, int | None, int | None]], unsent: Iterable[OpenFile]
    ) -> None:
        """Take over the rows of an earlier mount.

        Each is sent after the files of `unsent` that go into its folder.
        """
        files = list(unsent)
        with self._changed:
            for path, mode, mtime in rows:
                folder = self._made[path] = self._waiting[path] = Folder(path)
                folder.mode, folder.mtime = folder.row = mode, mtime
                folder.filled, folder.is_sure = True, False  # not known, so assume the worse
                folder.behind = {file for file in files if folder_of(file.path) == path}
            free = [folder for folder in self._waiting.values() if not folder.behind]
        for folder in free:
            self._add(folder)

    # Exclusive use.

    @contextlib.contextmanager
    def filling(self, path: str) -> Iterator[FolderAttributes | None]:
        """An entry is being put into the folder at `path`.

        Yields the mode that the caller has to set on the folder first, or None.
        """
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
                folder.busy, folder.being_set = True, mode
        if mode is None:
            yield None
            return
        done = FolderAttributes(folder.path, mode, None)
        with self._speaking([folder]):
            yield done
            self._were_set([(folder, done)])

    @contextlib.contextmanager
    def still(self, *paths: str) -> Iterator[None]:
        """Send nothing about these folders, nor about folders below them, until the block ends."""
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
        """The caller sets a mode or a time by itself: drop the one that was noted before."""
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
                    folder.mode, folder.sent, folder.is_sure = None, mode, True
                if mtime is not None:
                    folder.mtime = None
            if noted:
                self._forget_row(folder)

    # Sending.

    def send(self, folder: Folder) -> None:
        """Set what waits for this folder, and for all others that are ready, in one exchange.

        Raises NetworkError. If the server refuses a mode or time, the log says so.
        """
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
            # Deepest first: a folder's new mode may make the folders below it unreachable.
            folders.sort(key=lambda each: each.path.count("/"), reverse=True)
            wanted = [FolderAttributes(each.path, each.mode, each.mtime) for each in folders]
            for each in folders:
                each.busy, each.being_set = True, each.mode
        with self._speaking(folders):
            refused = self._set_each(wanted)
            self._were_set(list(zip(folders, wanted, strict=True)))
        for path, why in refused:
            log.warning("mode or time of %s was not set: %s", path, why)
            self._known.outdated(path)

    def _set_each(self, wanted: Sequence[FolderAttributes]) -> Sequence[tuple[str, str]]:
        """Set `wanted`. Returns the paths that the server refused, and why.

        If one of them raises, the others are tried one by one.
        """
        try:
            return self._remote.set_on_folders(wanted)
        except errors.NetworkError:
            raise
        except Exception as error:
            if len(wanted) == 1:
                log.exception("mode or time of %s cannot be asked for", wanted[0].path)
                return [(wanted[0].path, f"{type(error).__name__}: {error}")]
        return [each for one in wanted for each in self._set_each([one])]

    def send_now(self, path: str) -> None:
        """Like `send`, if the folder waits for no file."""
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
                    folder.busy, folder.being_set = False, None
                self._changed.notify_all()

    def _were_set(self, what: list[tuple[Folder, FolderAttributes]]) -> None:
        with self._changed:
            for folder, told in what:
                if told.mode is not None:
                    folder.sent, folder.is_sure = told.mode, True
                    if folder.mode == told.mode:  # else a program set another mode meanwhile
                        folder.mode = None
                if told.mtime is not None and folder.mtime == told.mtime:
                    folder.mtime = None
        for folder, told in what:
            self._forget_row(folder)
            self._known.tree.update(told.path, mode=told.mode, mtime=told.mtime)

    def _forget_row(self, folder: Folder) -> None:
        """Remove from the journal's row what has been set, and the row if nothing is left."""
        with self._changed:
            path, row = folder.path, folder.row
            left = folder.row = folder.mode, folder.mtime
            if not folder.noted:
                self._waiting.pop(path, None)
                folder.behind.clear()
        if left == (None, None):
            self._journal.drop_folder(path, *row)
        elif left != row:
            with contextlib.suppress(errors.FtpfsError):  # then the next mount sets it again
                self._journal.note_folder(path, *left)


def _void(folder: Folder) -> tuple[int | None, int | None] | None:
    """Drop what was to be set on a folder that is gone. Returns its row in the journal, if any."""
    row = folder.row if folder.noted else None
    folder.mode = folder.mtime = None
    return row


def _is_below(path: str, top: str) -> bool:
    """Whether `path` is `top` or below it."""
    return path == top or path.startswith(top.rstrip("/") + "/")
