"""Known names: what this mount knows of the server's names. A change touches all of it at once.

Owns: the listings (`tree`), the generation of each path, and which folders have taken a file of
this mount, or let it delete a name. Does not know open files.

If a folder took one file, it takes the next one: the program need not wait for the server's answer.
The same holds for deleting and replacing names.

Threading: any. `_lock` (Rank.KNOWN) guards the sets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ftpfs import errors
from ftpfs.core.names.tree import Tree
from ftpfs.core.reading.blocks import Generations
from ftpfs.model.entry import Entry
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.names import folder_of, is_within

# Limit of remembered empty files that this mount uploaded. To read an empty file that is not
# remembered costs a round trip, because the server may generate its content.
MOST_EMPTIED = 10_000


class KnownNames:
    """Listings, generations and permissions of one server's names."""

    def __init__(self, tree: Tree) -> None:
        # Dependencies:
        self.tree = tree
        self.generations = Generations()
        self._lock = ranked_lock(Rank.KNOWN)
        # Guarded by _lock:
        self._taking: set[str] = set()  # folders that took a file
        self._losing: set[str] = set()  # folders in which a name was deleted or replaced
        self._emptied: set[str] = set()  # files that were uploaded as empty ones

    # Folders.

    def takes_files(self, folder: str) -> bool:
        """Whether the folder took a file of this mount before."""
        with self._lock:
            return folder in self._taking

    def lets_go(self, folder: str) -> bool:
        """Whether the folder let this mount delete or replace a name before."""
        with self._lock:
            return folder in self._taking or folder in self._losing

    def note_takes(self, folder: str) -> None:
        with self._lock:
            self._taking.add(folder)

    def note_refused(self, folder: str) -> None:
        """The folder refused a file: ask again before the next one."""
        with self._lock:
            self._taking.discard(folder)

    def note_lost(self, folder: str) -> None:
        """A name in the folder was deleted or replaced."""
        with self._lock:
            self._losing.add(folder)

    # Changes.

    @contextlib.contextmanager
    def changing(self, *paths: str) -> Iterator[None]:
        """Change names on the server. If that fails, drop their listings.

        The server may have done it though the reply was lost, or the listing may have been wrong.
        """
        try:
            yield
        except errors.FtpfsError:
            for path in paths:
                self.is_uncertain(path)
            raise

    def is_uncertain(self, path: str) -> None:
        """It is not known what the server has at `path`: look again when asked."""
        self.generations.bump(path)
        self.outdated(path)

    def outdated(self, path: str) -> None:
        """The server has something else at `path` than its folder's listing says."""
        self.tree.forget(folder_of(path))

    def accepted(self, path: str) -> None:
        """The server accepts an upload to `path`."""
        self.note_takes(folder_of(path))

    def uploaded(self, path: str, entry: Entry) -> int:
        """The server has new content at `path`. Returns its generation."""
        self.generations.bump(path)
        self.tree.put(path, entry)
        with self._lock:
            if entry.size == 0 and len(self._emptied) < MOST_EMPTIED:
                self._emptied.add(path)
            else:
                self._emptied.discard(path)
        self.accepted(path)
        return self.generations.of(path)

    def was_emptied(self, path: str) -> bool:
        """Whether this mount uploaded the file with no content."""
        with self._lock:
            return path in self._emptied

    def removed(self, path: str) -> None:
        """The server deleted the name."""
        with self._lock:
            self._taking.discard(path)
            self._losing.discard(path)
        self.generations.bump(path)
        self.tree.remove(path)

    def renamed(self, old: str, new: str) -> None:
        """The server renamed `old` to `new`."""
        with self._lock:
            self._taking = {folder for folder in self._taking if not is_within(folder, old)}
            self._losing = {folder for folder in self._losing if not is_within(folder, old)}
        self.generations.bump(old)
        self.generations.bump(new)
        self.tree.rename(old, new)

    def renamed_here(self, old: str, new: str) -> None:
        """A file that the server does not have yet got another name."""
        for folder in {folder_of(old), folder_of(new)}:
            self.tree.names_changed(folder)

    def forget(self, path: str) -> None:
        """Drop all that is cached of `path` and of everything below it."""
        self.generations.bump(path)
        self.tree.forget_below(path)
        self.outdated(path)
