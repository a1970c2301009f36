"""Names: folders made and removed, files removed and renamed; whole trees by several connections.

Threading: any thread.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Collection
from itertools import groupby
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.utils import other_paths

from ftpfs import errors
from ftpfs.api import parallel, refusals
from ftpfs.api.looking import Looking
from ftpfs.model.entry import Entry, Kind

T = TypeVar("T")


class Naming(Looking):
    """The methods that change names."""

    # Folders.

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a folder. Raises FileExistsError if there is something."""
        path = self._strip_protocol(path)
        if path == "/":
            raise refusals.exists(path)

        def make() -> None:
            listings = self._connection().listings
            changes = listings.changes
            self._ask(path, lambda remote: remote.mkdir(path))
            listings.made(path, changes)

        if create_parents:
            self._with_folder(path, make)
        else:
            make()

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and those above it."""
        path = self._strip_protocol(path)
        try:
            self.mkdir(path)
        except FileExistsError:
            # Another thread or client may have made it a moment ago.
            if not (exist_ok and self.isdir(path)):
                raise

    def _make_all(self, folders: Collection[str]) -> None:
        """Make all of these folders, those above before those below.

        So no thread asks for a folder that another one is about to make.
        """
        threads = self._connection().threads
        above = {posixpath.dirname(each) for each in folders}.difference(folders)
        for each in sorted(above, key=_depth):
            if self._existing(each) is None:
                self.makedirs(each, exist_ok=True)
        for _, level in groupby(sorted(folders, key=_depth), key=_depth):
            parallel.results(
                lambda each: self.makedirs(each, exist_ok=True), list(level), threads=threads
            )

    def _with_folder(self, path: str, work: Callable[[], T]) -> T:
        """Do `work`, which makes `path`; if the folder of `path` is missing, make it first."""
        folder = posixpath.dirname(path)
        was_there = self._connection().listings.get(folder, math.inf) is not None
        try:
            return work()
        except FileNotFoundError:
            self.makedirs(folder, exist_ok=True)
        except PermissionError:
            # Another thread or client may have made the folder after the refusal, and before the
            # look for its reason: then only a missing permission was left.
            if was_there:
                raise
        return work()

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        path = self._strip_protocol(path)
        self._remove(path, Kind.DIRECTORY)

    # Files.

    def rm_file(self, path: str) -> None:
        path = self._strip_protocol(path)
        self._remove(path, Kind.FILE)

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files and empty folders; with `recursive`, trees. Links are not followed."""
        tops = {each: self._entry(each) for each in self.expand_path(path)}
        found: dict[str, Entry] = dict(tops)
        for top, entry in tops.items():
            if recursive and entry.kind is Kind.DIRECTORY:
                found.update(self._tree(top, maxdepth, "raise", withdirs=True))
        threads = self._connection().threads
        files = [each for each, entry in found.items() if entry.kind is not Kind.DIRECTORY]
        folders = [each for each, entry in found.items() if entry.kind is Kind.DIRECTORY]

        def remove(each: str) -> None:
            try:
                self._remove(each, found[each].kind)
            except FileNotFoundError:
                if each in tops:
                    raise  # else: another client was faster

        parallel.results(remove, files, threads=threads)
        for _, level in groupby(sorted(folders, key=_depth, reverse=True), key=_depth):
            parallel.results(remove, list(level), threads=threads)

    def _remove(self, path: str, kind: Kind) -> None:
        if kind is Kind.DIRECTORY:
            self._ask(path, lambda remote: remote.rmdir(path))
        else:
            self._ask(path, lambda remote: remote.remove(path))
        self._connection().listings.removed(path)

    # Renaming.

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Rename on the server: one file or folder, or several into a folder.

        If the server cannot rename between two folders, the content is copied.
        """
        sources = self.expand_path(path1)
        target = self._strip_protocol(path2)
        if isinstance(target, str):
            into = str(path2).endswith("/") or len(sources) > 1 or self.isdir(target)
            target = other_paths(sources, target, exists=into, flatten=into)
        for source, to in zip(sources, target, strict=True):
            if source == to:
                continue
            try:
                self._rename(source, to)
            except OSError as error:
                if not isinstance(error.__cause__, errors.CrossesFolders):
                    raise
                AbstractFileSystem.mv(
                    self, source, to, recursive=recursive, maxdepth=maxdepth, **kwargs
                )

    def _rename(self, source: str, target: str) -> None:
        old = self._existing(target)
        if old is not None and old.kind is Kind.DIRECTORY:
            raise refusals.exists(target)
        try:
            self._ask(source, lambda remote: remote.rename(source, target, replace=old is not None))
        finally:
            self._connection().listings.forget(source)
            self._connection().listings.forget(target)


def _depth(path: str) -> int:
    return path.count("/")
