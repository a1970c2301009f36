"""What a server reported about one name, and about a directory, as plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Kind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"  # device, socket, fifo, door...: FTP can only list it


@dataclass(slots=True, unsafe_hash=True)
class Entry:
    """What a server reported about one name. None means: not reported.

    An entry never changes after it was made. (`frozen` would enforce that, but each of a million
    entries would then cost 1.0 us instead of 0.2.)

    - `name` is never '', '.' or '..' and contains neither '/' nor NUL, with one exception: an entry
      for a directory itself (`Listing.self_entry`, MLST of the root) has the name ''.
    - `size` is in bytes; for a directory it is whatever the server calls its size.
    - `mtime` is in seconds since the epoch, UTC.
    - `exact`: the time is right to the second, and free of any guess about the server's zone or the
      year.
    - `mode` has permission bits only (0o7777).
    - `target` is the target of a link, as the server reported it.
    """

    name: str
    kind: Kind
    size: int | None = None
    mtime: int | None = None
    exact: bool = False
    mode: int | None = None
    target: str | None = None


# By which an upload is known on the server: its size and its time (None: the server shows none).
Trace = tuple[int, int | None]


class FolderAttributes(NamedTuple):
    """Attributes to set on the folder at `path`: permission bits, seconds since the epoch."""

    path: str
    mode: int | None
    mtime: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory: its entries in the server's order, only the first of any with equal names.

    - `rejected`: the first lines that could not be read, printable and shortened for the log.
    - `self_entry`: the directory itself: MLSD's type=cdir, or '.' in LIST -a.
    - `rounded`: names whose sizes are shown in blocks, kilobytes or records: good enough for
      people, but not exact enough for a file system.
    """

    entries: list[Entry]
    rejected: list[str]
    self_entry: Entry | None = None
    rounded: frozenset[str] = frozenset()
