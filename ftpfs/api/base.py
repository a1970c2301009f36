"""What all methods of a file system share: its connection, entries of paths, and errors.

Owns: how a path is looked up, in remembered listings or at the server. Threading: any thread.
"""

from __future__ import annotations

import functools
import os
import posixpath
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.utils import stringify_path

from ftpfs.api import arguments, connections, refusals
from ftpfs.api.connections import Connection
from ftpfs.api.listings import Names
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind

T = TypeVar("T")

# How long a listing counts, and for the size of a file that is opened, as in a mount (seconds).
LISTING_SECONDS, OPEN_SECONDS = 60.0, 2.0
# Links to links that are followed, as by the kernel.
MOST_LINKS = 40

_ROOT = Entry("", Kind.DIRECTORY)
_TYPES = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.LINK: "link", Kind.OTHER: "other"}


class Connected(AbstractFileSystem):
    """A file system with a server behind it. Subclasses set `_arguments` and `_max_age`.

    Paths are those of the server, from its root (or from the folder of a named server): "/a/b".
    """

    root_marker = "/"

    _arguments: arguments.Arguments
    _max_age: float  # seconds for which a listing counts
    # The process that `_connected` belongs to, and the connection. A tuple, so that it is set at
    # once.
    _connected: tuple[int, Connection] | None = None

    # Paths.

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """The path on the server, of a path or URL, or of each in a list.

        Nothing is decoded: fsspec's URLs hold names as they are.
        """
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        _, _, inside = arguments.split_url(stringify_path(path))
        return "/" + inside.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(urlpath: str) -> dict[str, Any]:
        return arguments.in_url(urlpath)

    # The server.

    def _connection(self) -> Connection:
        process = os.getpid()
        if self._connected is None or self._connected[0] != process:
            with refusals.told():
                self._connected = process, connections.here.to(arguments.config(self._arguments))
        return self._connected[1]

    def _ask(self, path: str, work: Callable[[Remote], T]) -> T:
        """Do `work` on the server. Raises OSError, about `path`."""
        connection = self._connection()
        with refusals.told(path):
            return connection.run(work)

    # Entries.

    def _names(self, folder: str, *, refresh: bool = False) -> Names:
        """The entries of a folder by name, from a remembered listing if that counts still."""
        listings = self._connection().listings
        known = None if refresh else listings.get(folder, self._max_age)
        if known is None:
            changes = listings.changes
            found = self._ask(folder, lambda remote: remote.list(folder))
            names = {entry.name: entry for entry in found}
            listings.put(folder, names, changes)
            return names
        return known

    def _entry(self, path: str, *, max_age: float | None = None) -> Entry:
        """What the server has at `path`; a link is not followed. Raises FileNotFoundError.

        A remembered listing counts for `max_age` seconds (None: as for all that is listed). A name
        that it lacks is asked for, because others may have made it.
        """
        if path == "/":
            return _ROOT
        folder, name = posixpath.split(path)
        age = self._max_age if max_age is None else min(max_age, self._max_age)
        known = self._connection().listings.get(folder, age)
        entry = known.get(name) if known is not None else None
        if entry is None:
            entry = self._ask(path, lambda remote: remote.peek(path))
        if entry is None:
            try:
                entry = self._names(folder, refresh=True).get(name)
            except PermissionError:  # a folder that may be entered, but not listed
                entry = self._ask(path, lambda remote: remote.stat(path))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise type(error)(error.errno, error.strerror, path) from error
        if entry is None:
            raise refusals.missing(path)
        return entry

    def _followed(self, path: str, entry: Entry) -> tuple[str, Entry]:
        """The file or folder behind a link, and its path; the link itself if it leads nowhere."""
        found, where = entry, path
        for _ in range(MOST_LINKS):
            if found.kind is not Kind.LINK:
                return where, found
            try:
                read = functools.partial(Remote.read_link, path=where, target=found.target)
                inside = self._ask(where, read)
                where = posixpath.normpath(posixpath.join(posixpath.dirname(where), inside))
                found = self._entry(where)
            except OSError as error:
                if isinstance(error, (ConnectionError, TimeoutError)):
                    raise
                break
        return path, entry

    def _opened(self, path: str, *, max_age: float = OPEN_SECONDS) -> tuple[str, Entry]:
        """The file at `path` with its size, if the server tells any, and where links lead to.

        The file is as it was `max_age` seconds ago or later.
        """
        path, entry = self._followed(path, self._entry(path, max_age=max_age))
        if entry.kind is Kind.DIRECTORY:
            raise refusals.is_folder(path)
        known = entry

        def look(remote: Remote) -> Entry:
            unsure = known.size is None or remote.doubts_size(known)
            return remote.look_again(path, known) if unsure else known

        return path, self._ask(path, look)

    def _existing(self, path: str) -> Entry | None:
        """What the server has at `path`; None: nothing."""
        try:
            return self._entry(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


def described(path: str, entry: Entry, link: Entry | None = None) -> dict[str, Any]:
    """An entry as fsspec tells it. `link`: the link at `path` that leads to the entry."""
    mtime: datetime | None = None
    if entry.mtime is not None:
        try:
            mtime = datetime.fromtimestamp(entry.mtime, timezone.utc)
        except (OverflowError, ValueError, OSError):  # a server may say any year
            mtime = None
    is_folder = entry.kind is Kind.DIRECTORY
    told = {
        "name": path,
        "size": 0 if is_folder else entry.size,
        "type": _TYPES[entry.kind],
        "mtime": mtime,
        "mode": entry.mode,
    }
    if link is not None or entry.kind is Kind.LINK:
        told["islink"] = True
        told["destination"] = (link or entry).target
    return told
