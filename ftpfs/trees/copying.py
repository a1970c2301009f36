"""Copying: trees from one side to the other, several files at a time.

A task lists a folder on both sides, compares the two listings (`plan`), and adds a task for each
file and each folder in it. When the last of these has ended, the folder gets its time and mode: the
files in it would change the time, and the mode may forbid to write.

Owns: the order of the steps, and what is left to do of each folder. Does not delete: `deletions` is
the list for `removing`, to be used after all folders were listed without a failure.

Threading: see `run`. `_lock` (Rank.TREE_FOLDERS) guards what is left of the folders, and the lists.
"""

from __future__ import annotations

import functools
import posixpath
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ftpfs import errors
from ftpfs.model.entry import Entry, FolderAttributes, Kind
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.trees.outcome import Tell, tell_nobody
from ftpfs.trees.plan import Action, Rules, Step, compare, is_changed, judge
from ftpfs.trees.run import Run
from ftpfs.trees.sides import Side
from ftpfs.trees.ways import Item, Progress, Stopped, Way

# How deep a tree may be. Some servers show a link to a folder above as a folder: such a tree has no
# end.
_MOST_LEVELS = 100
# Folders that get their times and modes in one exchange.
_FOLDERS_AT_ONCE = 64
# Folders and files that most trees have at least: so many connections are made at once.
_EXPECTED_FOLDERS = 4
# Files from this size (bytes) on are shown by themselves while they are on their way.
_SHOWN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Root:
    """A file or folder that is copied to exactly the path `target`.

    `entry`: that of the source, if it is known already. Then `old` is that of the destination, or
    None: nothing is there.
    """

    source: str
    target: str
    entry: Entry | None = None
    old: Entry | None = None


@dataclass(eq=False)
class _Folder:
    """A folder that is copied.

    - `path`: relative to the tree, '' for its root.
    - `root`: the tree at the source.
    - `left`: its own listing, files and folders in it that are not done yet. Under Copying._lock.
    - `touched`: something in it was changed, or it was made.
    """

    source: str
    target: str
    path: str
    root: str
    entry: Entry
    old: Entry | None
    above: _Folder | None
    left: int = 1
    touched: bool = False
    levels: int = field(init=False)

    def __post_init__(self) -> None:
        self.levels = self.above.levels + 1 if self.above else 0


class Copying(Run):
    """One copy of trees."""

    def __init__(
        self,
        way: Way,
        rules: Rules,
        *,
        jobs: int,
        recursive: bool = True,
        dry: bool = False,
        tell: Tell = tell_nobody,
    ) -> None:
        """`jobs`: files at a time. `recursive`: folders, too. `dry`: only tell what would be done.

        `tell`: see `Tell`.
        """
        super().__init__(jobs, "ftpfs-copy")
        self._way = way
        self._rules = rules
        self._recursive = recursive
        self._dry = dry
        self._tell = tell
        self._lock = ranked_lock(Rank.TREE_FOLDERS)
        # Guarded by _lock:
        self._deletions: list[tuple[str, Entry]] = []
        self._finished: list[FolderAttributes] = []  # to be set at the destination

    def start(self, roots: Iterable[Root]) -> None:
        begin = [functools.partial(self._begin, root) for root in roots]
        self.tally.add(found=len(begin))
        self.crew.add_files(begin)
        self.crew.start()

    def finish(self) -> None:
        """After the end: set the times and modes of the last folders."""
        with self._lock:
            batch, self._finished = self._finished, []
        self._set_on_folders(batch)

    def deletions(self) -> list[tuple[str, Entry]]:
        """What the destination has and the source does not: of a folder only its own path.

        Raises NotPermitted if a folder was not listed: the source may have what the list has.
        """
        outcome = self.outcome()
        with self._lock:
            if self._deletions and (outcome.unlisted or outcome.interrupted):
                raise errors.NotPermitted("nothing is deleted: not every folder was listed")
            return list(self._deletions)

    # Roots.

    def _begin(self, root: Root) -> None:
        self.attempt(root.source, functools.partial(self._enter_root, root), listing=True)

    def _enter_root(self, root: Root) -> None:
        entry, old = root.entry, root.old
        if entry is None:
            entry = self._way.source.stat(root.source)
            if entry is None:
                raise errors.NotFound("no such file or folder")
            old = self._way.target.stat(root.target)
        is_over_folder = old is not None and old.kind is Kind.DIRECTORY
        if entry.kind is Kind.DIRECTORY:
            self.tally.add(found=-1)  # counted as a file until now
            if not self._recursive:
                raise errors.IsADirectory("a folder; -r copies folders")
            if old is not None and not is_over_folder:
                raise errors.NotADirectory(f"{root.target} is a file")
            self._way.expect(_EXPECTED_FOLDERS)
            self._add_folder(_Folder(root.source, root.target, "", root.source, entry, old, None))
            return
        if is_over_folder:
            raise errors.IsADirectory(f"{root.target} is a folder")
        if entry.kind is Kind.OTHER:
            raise errors.NotSupported("neither a file nor a folder")
        self.tally.add(found_bytes=entry.size or 0)
        action = Action.COPY
        if self._rules.changed_only and old is not None and old.kind is Kind.FILE:
            action = judge(entry, old, self._rules)
        if action is Action.SAME:
            self.tally.add(same=1, found=-1, found_bytes=-(entry.size or 0))
            return
        self._carry_out(action, Item(entry, root.source, root.target, old, root.source))

    # Folders.

    def _add_folder(self, folder: _Folder) -> None:
        self.crew.add_folder(functools.partial(self._walk, folder))

    def _walk(self, folder: _Folder) -> None:
        self.attempt(folder.source, functools.partial(self._list, folder), listing=True)
        self._one_less(folder)

    def _list(self, folder: _Folder) -> None:
        if folder.levels > _MOST_LEVELS:
            raise errors.LinkLoop(f"more than {_MOST_LEVELS} levels deep: a loop of links?")
        source = self._way.source.list(folder.source)
        there = self._make(folder) if folder.old is None else self._list_target(folder)
        steps = list(compare(folder.path, source, there, self._rules))
        with self._lock:
            folder.left += sum(step.action in _TASKS for step in steps)
            folder.touched |= any(step.action in (Action.COPY, Action.DELETE) for step in steps)
        self._tell_found(steps)
        self._way.expect(folder.left)
        self.crew.add_files(
            [functools.partial(self._do, folder, step) for step in steps if step.action in _FILES]
        )
        for step in reversed(steps):
            self._take(folder, step)

    def _list_target(self, folder: _Folder) -> list[Entry]:
        try:
            return self._way.target.list(folder.target)
        except (errors.FtpfsError, OSError) as error:
            raise _told(error, f"{folder.target}: not listed") from error

    def _make(self, folder: _Folder) -> list[Entry]:
        """Make a folder at the destination. Returns what is in it."""
        folder.touched = True
        if self._dry:
            self._tell(Action.MAKE, folder.target, None)
            return []
        try:
            self._way.target.make_folder(folder.target, folder.entry.mode)
        except (errors.Exists, FileExistsError):
            return self._list_target(folder)  # another program has made it just now
        self.tally.add(folders=1)
        self._tell(Action.MAKE, folder.target, None)
        return []

    def _take(self, folder: _Folder, step: Step) -> None:
        """Carry out a step that needs no task, or begin a folder."""
        source, target = self._paths(folder, step)
        if step.action in (Action.MAKE, Action.ENTER) and step.entry is not None:
            path = posixpath.join(folder.path, step.name)
            self._add_folder(
                _Folder(source, target, path, folder.root, step.entry, step.old, folder)
            )
        elif step.action is Action.SAME:
            self.tally.add(same=1)
        elif step.action is Action.REFUSE:
            self.tally.fail(source, step.why)
        elif step.action is Action.DELETE and step.old is not None:
            with self._lock:
                self._deletions.append((target, step.old))

    def _one_less(self, folder: _Folder | None) -> None:
        """Something in this folder is done. The last one ends the folder, and may end those above.

        A folder gets its attributes even if some of what is in it failed.
        """
        batch: list[FolderAttributes] = []
        with self._lock:
            while folder is not None:
                folder.left -= 1
                if folder.left:
                    break
                if wanted := self._attributes(folder):
                    self._finished.append(wanted)
                folder = folder.above
            if len(self._finished) >= _FOLDERS_AT_ONCE:
                batch, self._finished = self._finished, []
        self._set_on_folders(batch)

    def _attributes(self, folder: _Folder) -> FolderAttributes | None:
        """What to set on a folder that is done; None: nothing."""
        entry, old = folder.entry, folder.old
        if old is None:
            return FolderAttributes(folder.target, entry.mode, entry.mtime)
        if not self._rules.changed_only:
            return None
        mode = entry.mode if entry.mode != old.mode else None
        mtime = entry.mtime if folder.touched or entry.mtime != old.mtime else None
        if mode is None and mtime is None:
            return None
        return FolderAttributes(folder.target, mode, mtime)

    def _set_on_folders(self, batch: Sequence[FolderAttributes]) -> None:
        if batch and not self._dry and not self.halted.is_set():
            self.attempt(batch[0].path, lambda: self._way.target.set_on_folders(batch))

    # Files.

    def _do(self, folder: _Folder, step: Step) -> None:
        """The task of a file."""
        source, target = self._paths(folder, step)
        if step.entry is not None:
            item = Item(step.entry, source, target, step.old, folder.root)
            self.attempt(source, functools.partial(self._carry_out, step.action, item))
        self._one_less(folder)

    def _paths(self, folder: _Folder, step: Step) -> tuple[str, str]:
        # On a disk that folds case, the old name stays.
        name = step.old.name if step.old is not None else step.name
        return (
            self._way.source.join(folder.source, step.name),
            self._way.target.join(folder.target, name),
        )

    def _carry_out(self, action: Action, item: Item) -> None:
        if action is Action.LINK:
            self._link(item)
            return
        if action is Action.ASK:
            item, is_same = self._ask(item)
            if is_same:
                self.tally.add(same=1, found=-1, found_bytes=-(item.entry.size or 0))
                return
        if self._dry:
            self._tell(Action.COPY, item.target, item.entry.size)
            return
        key = threading.get_ident()
        try:
            progress = self._progress(key, item.source, item.entry.size)
            size = self._way.copy(item, self._mode(item), progress)
        finally:
            self.tally.ends(key)
        self.tally.add(copied=1)
        self._tell(Action.COPY, item.target, size)

    def _ask(self, item: Item) -> tuple[Item, bool]:
        """The item as a closer look shows it, and whether its copy is up to date."""
        rules = self._rules
        if rules.checksum and (is_same := self._way.is_same_content(item)) is not None:
            return item, is_same
        if rules.can_ask:
            item = self._way.look(item)
        return item, item.old is not None and not is_changed(item.entry, item.old, rules)

    def _mode(self, item: Item) -> int | None:
        """The mode of the copy."""
        old = item.old
        if old is not None and old.kind is Kind.FILE and not self._rules.changed_only:
            return old.mode
        return self._way.new_mode(item.entry)

    def _progress(self, key: int, path: str, total: int | None) -> Progress:
        last = 0
        is_shown = total is None or total >= _SHOWN_BYTES

        def progress(done: int) -> None:
            nonlocal last
            if self.halted.is_set():
                raise Stopped
            if done != last:
                self.tally.add(moved=done - last)
                last = done
                if is_shown:
                    self.tally.runs(key, path, done, total)

        return progress

    def _link(self, item: Item) -> None:
        if self._dry:
            self._tell(Action.LINK, item.target, None)
        elif self._way.link(item):
            self.tally.add(copied=1)
            self._tell(Action.LINK, item.target, None)
        else:
            self.tally.add(same=1, found=-1)

    def _tell_found(self, steps: Sequence[Step]) -> None:
        files = [step.entry for step in steps if step.action in _FILES and step.entry]
        if files:
            sizes = sum(entry.size or 0 for entry in files if entry.kind is Kind.FILE)
            self.tally.add(found=len(files), found_bytes=sizes)


_FILES = (Action.COPY, Action.ASK, Action.LINK)
_TASKS = (*_FILES, Action.MAKE, Action.ENTER)


def _told(error: Exception, where: str) -> Exception:
    """The same kind of error, with a message that names the destination."""
    if isinstance(error, errors.NetworkError):
        return error
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return errors.PermissionDenied(f"{where}: {reason}")


def make_parents(side: Side, path: str) -> None:
    """Make the folder at `path` and those above it that are missing.

    Raises NotADirectory if there is a file among them.
    """
    entry = side.stat(path)
    if entry is not None:
        if entry.kind is not Kind.DIRECTORY:
            raise errors.NotADirectory(f"{path} is a file")
        return
    above = posixpath.dirname(path)
    if above != path:
        make_parents(side, above)
    try:
        side.make_folder(path, None)
    except (errors.Exists, FileExistsError):
        pass
