"""Looking: listings, single files and folders, and whole trees by concurrent listings.

A failure of the network is always an error: never a missing file, an empty folder or a shorter
tree. What the server refuses is left out of trees if fsspec does so, too.

Threading: any thread.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from hashlib import sha256
from typing import Any

from ftpfs.api import parallel
from ftpfs.api.base import Connected, described
from ftpfs.api.listings import Names
from ftpfs.model.entry import Entry, Kind

OnError = str | Callable[[OSError], object]


class Looking(Connected):
    """The methods that change nothing and read no file."""

    def ls(self, path: str, detail: bool = True, refresh: bool = False, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        try:
            names = self._names(path, refresh=refresh)
        except NotADirectoryError:
            info = self.info(path)
            if info["type"] == "directory":
                raise
            return [info] if detail else [path]
        entries = list(names.values())
        if not detail:
            return sorted(posixpath.join(path, entry.name) for entry in entries)
        return [described(posixpath.join(path, entry.name), entry) for entry in entries]

    def info(self, path: str, refresh: bool = False, **_: Any) -> dict[str, Any]:
        """One file or folder: a link is followed."""
        path = self._strip_protocol(path)
        entry = self._entry(path, max_age=0.0 if refresh else None)
        followed = self._followed(path, entry)[1]
        return described(path, followed, entry if followed is not entry else None)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is something. An error of the network is raised: it is no answer."""
        return self._existing(self._strip_protocol(path)) is not None

    def isdir(self, path: str) -> bool:
        return self._kind(path) is Kind.DIRECTORY

    def isfile(self, path: str) -> bool:
        return self._kind(path) is Kind.FILE

    def _kind(self, path: str) -> Kind | None:
        path = self._strip_protocol(path)
        entry = self._existing(path)
        return None if entry is None else self._followed(path, entry)[1].kind

    # Trees.

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: OnError = "omit",
        detail: bool = False,
        **_: Any,
    ) -> Iterator[tuple[str, Any, Any]]:
        """Folder by folder, as fsspec's `walk`. The next folders are listed meanwhile."""
        _check_depth(maxdepth)
        path = self._strip_protocol(path)
        threads = self._connection().threads
        with ThreadPoolExecutor(threads, thread_name_prefix="ftpfs-api") as pool:
            walk = _Walk(lambda folder: pool.submit(self._names, folder), 2 * threads)
            try:
                for folder, names in walk.run(path, maxdepth, on_error, topdown=topdown):
                    yield folder, *_parts(folder, names, detail=detail, walk=walk)
            finally:
                walk.cancel()

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        on_error: OnError = "omit",
        **_: Any,
    ) -> Any:
        """All files below `path`, by concurrent listings."""
        _check_depth(maxdepth)
        path = self._strip_protocol(path)
        entry = self._existing(path)
        if entry is None:
            return {} if detail else []
        found: dict[str, Entry] = {}
        if self._followed(path, entry)[1].kind is not Kind.DIRECTORY:
            found[path] = entry
        else:
            if withdirs:
                found[path] = entry
            found.update(self._tree(path, maxdepth, on_error, withdirs=withdirs))
        names = sorted(found)
        return {name: described(name, found[name]) for name in names} if detail else names

    def _tree(
        self, top: str, maxdepth: int | None, on_error: OnError, *, withdirs: bool
    ) -> dict[str, Entry]:
        """All entries below a folder, by their paths."""
        found: dict[str, Entry] = {}

        def look(at: tuple[str, int]) -> list[tuple[str, int]]:
            folder, depth = at
            try:
                entries = list(self._names(folder).values())
            except OSError as error:
                _judge(error, on_error)
                return []
            paths = {posixpath.join(folder, entry.name): entry for entry in entries}
            folders = [each for each, entry in paths.items() if entry.kind is Kind.DIRECTORY]
            if not withdirs:
                for each in folders:
                    del paths[each]
            found.update(paths)
            return [(each, depth + 1) for each in folders] if depth != maxdepth else []

        parallel.spread(look, [(top, 1)], threads=self._connection().threads)
        return found

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Bytes of all files below `path`: the sum, or by path."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        sizes = {name: info["size"] or 0 for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    # What tells one content of a file from another.

    def modified(self, path: str) -> datetime:
        """The time of the last change, in UTC. Raises NotImplementedError if none is told."""
        told = self.info(path)["mtime"]
        if told is None:
            raise NotImplementedError(f"the server tells no time of {path}")
        when: datetime = told
        return when

    def created(self, path: str) -> datetime:
        raise NotImplementedError("FTP tells no time of creation")

    def ukey(self, path: str) -> str:
        """Changes with the size or the time of a file. The server is asked now."""
        info = self.info(path, refresh=True)
        return sha256(f"{info['name']} {info['size']} {info['mtime']}".encode()).hexdigest()

    def checksum(self, path: str) -> int:
        """The same as `ukey`, as a number."""
        return int(self.ukey(path), 16)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget the listings of a path and of what is below it, or all of them."""
        self._connection().listings.forget("/" if path is None else self._strip_protocol(path))
        super().invalidate_cache(path)


class _Walk:
    """A walk in depth, with the listings of the next folders under way."""

    def __init__(self, begin: Callable[[str], Future[Names]], ahead: int) -> None:
        """`ahead`: how many of the next folders beside the current one are listed."""
        self.folders: Iterable[str] = ()  # names of the current folder's folders, for the caller
        self._begin = begin
        self._ahead = ahead
        self._under_way: dict[str, Future[Names]] = {}

    def run(
        self, folder: str, maxdepth: int | None, on_error: OnError, *, topdown: bool
    ) -> Iterator[tuple[str, Names]]:
        """Each folder with its entries. `folders` is what the caller wants to go into."""
        try:
            names = (self._under_way.pop(folder, None) or self._begin(folder)).result()
        except OSError as error:
            _judge(error, on_error)
            return
        names = dict(names)
        self.folders = [name for name, each in names.items() if each.kind is Kind.DIRECTORY]
        if topdown:
            yield folder, names
        if maxdepth != 1:
            paths = [posixpath.join(folder, name) for name in self.folders]
            for number, below in enumerate(paths):
                for each in paths[number : number + self._ahead]:
                    if each not in self._under_way:
                        self._under_way[each] = self._begin(each)
                depth = None if maxdepth is None else maxdepth - 1
                yield from self.run(below, depth, on_error, topdown=topdown)
        if not topdown:
            yield folder, names

    def cancel(self) -> None:
        for each in self._under_way.values():
            each.cancel()


def _parts(folder: str, names: Names, *, detail: bool, walk: _Walk) -> tuple[Any, Any]:
    """Folders and files of a folder. Taking names out of the folders keeps the walk out of them."""
    folders: dict[str, Any] = {}
    files: dict[str, Any] = {}
    for name, entry in names.items():
        part = folders if entry.kind is Kind.DIRECTORY else files
        part[name] = described(posixpath.join(folder, name), entry)
    if detail:
        walk.folders = folders
        return folders, files
    walk.folders = list(folders)
    return walk.folders, list(files)


def _judge(error: OSError, on_error: OnError) -> None:
    """Raise the error of a folder, or go on without the folder."""
    if callable(on_error):
        on_error(error)
    elif on_error == "raise" or not isinstance(
        error, (FileNotFoundError, NotADirectoryError, PermissionError)
    ):
        raise error


def _check_depth(maxdepth: int | None) -> None:
    if maxdepth is not None and maxdepth < 1:
        raise ValueError("maxdepth must be at least 1")
