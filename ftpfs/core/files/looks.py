"""Looks: what a path shows: an open file as it is here, everything else as the server has it.

Owns: when the server is asked again about a file that is opened or open, and how to find out the
size of a file that no listing tells. Does not own listings (`names.known`) or contents.

Threading: any. `_lock` (Rank.LOOKS) guards two small tables. The server is asked with no lock held.
"""

from __future__ import annotations

import functools
import logging
import posixpath
from collections.abc import Callable
from dataclasses import replace

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.table import OpenFiles
from ftpfs.core.names.known import KnownNames
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.core.writing.folders import Folders
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import folder_of, is_hidden, is_too_long, name_of
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# When a program asks for the size of an open file, the server is asked again if its last answer is
# older than the first figure (seconds). That is a little less than the second that `tail -f` waits.
# After a failure, the server is asked again only after the second figure.
FOLLOWED_AFTER, NOT_FOLLOWED_FOR = 0.9, 5.0

# An entry of this age (seconds) is as good as one that is asked for now.
FRESH_SECONDS = 0.1

# A file whose size the server tells nowhere is counted up to this size (bytes). No server without
# SIZE is known to hold larger files; a longer one is a fault, or has no end.
MOST_COUNTED_BYTES = 64 << 30

# After this many looks at open files of one folder within that time, the folder is listed instead,
# if that is cheaper. `ls -l` asks for each file, and paid a round trip for each open one.
MOST_LOOKS = 4


def peek(remote: Remote, path: str) -> Entry | None:
    """Ask the server about a single name; None if only its folder's listing can tell."""
    if is_hidden(path) or is_too_long(name_of(path)):
        return None
    return remote.peek(path)


class Looks:
    """Looks at the files and folders of one mount."""

    def __init__(
        self,
        remote: Remote,
        known: KnownNames,
        files: OpenFiles,
        folders: Folders,
        open_ttl: float,
        list_ttl: float,
        clock: Callable[[], float],
    ) -> None:
        """`open_ttl`: the greatest age of an entry at an open (seconds).

        `list_ttl`: how long a listing counts (seconds).
        """
        # Dependencies and constants:
        self._remote = remote
        self._known = known
        self._files = files
        self._folders = folders
        self._open_ttl = open_ttl
        self._followed_after = min(FOLLOWED_AFTER, list_ttl)
        self._clock = clock
        self._lock = ranked_lock(Rank.LOOKS)
        # Guarded by _lock:
        self._looks: dict[str, tuple[float, int]] = {}  # folder -> since when, and how many looks
        self._unsized: set[str] = set()  # files whose size had to be counted

    # Looking at a path.

    def attributes(self, path: str) -> Entry:
        """The entry of the open file at `path` as it is here, else as the server told it last."""
        file = self._files.at(path)
        if file is not None:
            self.follow(file)
            return file.attributes()
        tree = self._known.tree
        entry = tree.lookup(path)
        if entry.kind is Kind.FILE and entry.size is None:
            # The listing has no sizes, and programs read no further than the size that they see.
            return tree.look_again(path, lambda: self._remote.look_again(path, entry))
        return self._folders.shown(path, entry) if entry.kind is Kind.DIRECTORY else entry

    def existing(self, path: str) -> Entry | None:
        """Like `attributes`; None if nothing exists there."""
        try:
            return self.attributes(path)
        except errors.NotFound:
            return None

    def children(self, folder: str) -> list[Entry]:
        """The entries of a folder, with the files that exist only here so far."""
        listed = {entry.name: entry for entry in self._known.tree.children(folder)}
        for name in self._folders.names_in(folder):
            if name in listed:
                listed[name] = self._folders.shown(posixpath.join(folder, name), listed[name])
        for file in self._files.in_folder(folder).values():
            # An open file that was not changed here exists if the server says so.
            if not file.is_deleted and not file.follows_server:
                shown = file.attributes()
                listed[shown.name] = shown
        return list(listed.values())

    def glance(
        self, folder: str, *, in_doubt: bool
    ) -> Callable[[Entry], tuple[Entry | None, bool]]:
        """A function that tells how an entry from `children` is now. No I/O.

        It returns the entry (None: it is gone), and whether `attributes` would say the same. That
        is False for an open file, after the listing has become old, and while a name is `in_doubt`.
        """
        listed = None if in_doubt else self._known.tree.fresh(folder)
        here = {*self._files.in_folder(folder), *self._folders.names_in(folder)}

        def look(entry: Entry) -> tuple[Entry | None, bool]:
            if listed is None or entry.name in here:
                return entry, False
            now = listed.get(entry.name)
            return now, now is not None and (now.size is not None or now.kind is not Kind.FILE)

        return look

    def entry_to_open(self, path: str) -> Entry:
        """The entry of a file that is about to be opened.

        Asks the server again, unless the entry is very fresh.
        """
        entry = self._known.tree.lookup(path)
        if entry.kind is Kind.DIRECTORY:
            raise errors.IsADirectory(f"{path}: is a directory")
        if entry.kind is Kind.LINK:
            raise errors.LinkLoop(f"{path}: a link; the kernel opens what it leads to")
        if entry.kind is Kind.OTHER:
            raise errors.NotSupported(f"{path}: FTP can only list what is no plain file")
        fresh = self._known.tree.age(path) < self._open_ttl
        if entry.size is not None and fresh and not self._remote.doubts_size(entry):
            return entry
        return self._known.tree.look_again(path, lambda: self.measured(path, entry))

    def measured(self, path: str, entry: Entry) -> Entry:
        """Stat the file. If the server reports no size, download it once to count the bytes."""
        entry = self._remote.look_again(path, entry)
        if entry.size is not None or entry.kind is not Kind.FILE:
            return entry
        count = functools.partial(self._count, path)
        size = self._known.tree.requests.result(count)
        with self._lock:
            self._unsized.add(path)
        return replace(entry, size=size)

    def _count(self, path: str, is_left: Callable[[], bool]) -> int:
        """Bytes of the file, by download. Ends early, with some count, when `is_left()`."""
        size = 0
        download = self._remote.open_read(path)
        try:
            while not is_left() and (block := download.read(BLOCK_SIZE)):
                size += len(block)
                if size > MOST_COUNTED_BYTES:
                    raise errors.TooLong(
                        f"the server tells no size, and sent more than {MOST_COUNTED_BYTES} bytes"
                    )
        finally:
            download.close()
        return size

    def is_unsized(self, path: str) -> bool:
        """Whether the size of the file had to be counted.

        A program that looked before may believe that the file is empty.
        """
        with self._lock:
            return path in self._unsized

    def is_called_empty(self, file: OpenFile) -> bool:
        """Whether the server says that the file is empty, and this mount did not make it so.

        The server may generate the content when the file is read.
        """
        entry = file.followed()
        if entry is None or entry.size != 0:
            return False
        return not self._known.was_emptied(file.path)

    # Following the server.

    def follow(self, file: OpenFile) -> None:
        """Let a file that was only read here show what the server has by now.

        A program asks for its size, as `tail -f` does each second. If the last answer is old, ask
        the server. If that fails, the open file stays as it is.
        """
        path = file.path
        generation = self._known.generations.of(path)
        entry, since = self._known.tree.seen(path)
        old = self._clock() - since > self._followed_after
        if old and file.basis.is_due_for_a_look():
            entry, since = self._look_at_open(file, path)
        if entry is not None and self._known.generations.of(path) == generation:
            _let_follow(file, entry, generation, since)
        try:
            file.grow()
        except errors.FtpfsError as error:
            log.debug("%s: what it has grown by was not fetched: %s", path, error)

    def opened(self, file: OpenFile, path: str, entry: Entry, generation: int) -> None:
        """The file was opened as `entry` shows it, so the next look can wait."""
        _let_follow(file, entry, generation, self._known.tree.seen(path)[1])
        file.basis.look_no_more_for(self._followed_after)

    def look_again_at(self, file: OpenFile) -> None:
        """Ask the server about an open file now, and let the file show the answer. Raises what the
        network raises."""
        path, known, now = file.path, file.entry, self._clock()
        generation = self._known.generations.of(path)
        if known is not None:
            look = functools.partial(self._remote.look_again, path, known)
            entry = self._known.tree.look_again(path, look)
            _let_follow(file, entry, generation, now)
            file.basis.look_no_more_for(self._followed_after)

    def is_fresh(self, path: str) -> bool:
        """Whether the entry of `path` is at most FRESH_SECONDS old."""
        return self._known.tree.age(path) < FRESH_SECONDS

    def _look_at_open(self, file: OpenFile, path: str) -> tuple[Entry | None, float]:
        """What the server has of an open file, and when it was asked."""
        known, pause, now = file.entry, NOT_FOLLOWED_FOR, self._clock()
        folder, tree = folder_of(path), self._known.tree
        try:
            if known is None:
                return None, now
            if self._is_listed_for_less(folder):
                tree.list_since(folder, now - self._followed_after)
                found = tree.seen(path)
            else:
                again = tree.look_again(path, lambda: self._remote.look_again(path, known))
                found = again, now
            pause = self._followed_after
        except errors.FtpfsError as error:
            log.debug("%s, open here, was not looked at: %s", path, error)
            return None, now
        finally:
            file.basis.look_no_more_for(pause)
        return found

    def _is_listed_for_less(self, folder: str) -> bool:
        """Whether the folder's listing costs less than a look at each of its open files."""
        now = self._clock()
        with self._lock:
            since, count = self._looks.get(folder, (now, 0))
            if now - since > self._followed_after:
                self._looks, since, count = {}, now, 0
            self._looks[folder] = since, count + 1
        if count < MOST_LOOKS:
            return False
        looks = len(self._files.in_folder(folder)) * self._remote.round_trip()
        return self._known.tree.took(folder) < looks


def _let_follow(file: OpenFile, entry: Entry, generation: int, since: float) -> None:
    if entry.kind is Kind.FILE and entry.size is not None:
        file.basis.follow(entry, generation, since)
