"""Pure: collects the entries of one listing: which lines count, and which names are left out."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from ftpfs.errors import printable
from ftpfs.model.entry import Entry, Listing

Decode = Callable[[bytes], str]


class Skip(enum.Enum):
    SKIP = "a line that is understood and stands for no entry"


SKIP: Final = Skip.SKIP


@dataclass(frozen=True, slots=True)
class Rounded:
    """An entry whose size is shown in blocks or larger units, so it does not count bytes."""

    entry: Entry


Parsed = Entry | Rounded | Literal[Skip.SKIP] | None  # None: not in this dialect

LINE_MAX = 65536  # PATH_MAX is 4096 and facts are short: a longer line is no listing
_REJECTED_SHOWN = 200  # maximum characters of a rejected line in the log
MAX_REJECTED = 1000  # maximum number of rejected lines that are stored
SIZE_MAX = 2**63 - 1  # off_t


class Collector:
    """Collects the entries of one listing; leaves out names that a file system cannot have."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._rejected: list[str] = []
        self._names: set[str] = set()
        self._rounded: set[str] = set()
        self._self_entry: Entry | None = None

    def clean(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """`lines` without their ends (some servers send CR CR LF), blank and overlong ones."""
        for raw in lines:
            line = raw.rstrip(b"\r\n")
            if len(line) > LINE_MAX:
                self._reject(line)
            elif line:
                yield line

    def add(self, parsed: Parsed, line: bytes) -> None:
        """Add the result of parsing `line`. '.' is the listed directory itself, '..' is ignored."""
        if isinstance(parsed, Rounded):
            parsed = parsed.entry
            self._rounded.add(parsed.name)
        elif parsed is SKIP:
            return
        elif parsed is None:
            self._reject(line)
            return
        self.take(parsed, line)

    def take(self, parsed: Entry, line: bytes) -> None:
        """`add`, for a result that is known to be an entry."""
        name = parsed.name
        if name == ".":
            self._self_entry = self._self_entry or replace(parsed, name="")
        elif not name or "/" in name or "\0" in name:
            self._reject(line)
        elif name != ".." and name not in self._names:
            self._names.add(name)
            self._entries.append(parsed)

    def has_entries(self) -> bool:
        return bool(self._entries)

    def knows_itself(self) -> bool:
        return self._self_entry is not None

    def listing(self) -> Listing:
        return Listing(self._entries, self._rejected, self._self_entry, frozenset(self._rounded))

    def _reject(self, line: bytes) -> None:
        if len(self._rejected) >= MAX_REJECTED:
            return
        shown = line.rstrip(b"\r")[:_REJECTED_SHOWN]
        self._rejected.append(printable(shown.decode("utf-8", "backslashreplace")))


def decoded(decode: Decode, raw: bytes) -> str:
    """`raw` decoded; '' (which is no valid name) if it cannot be decoded."""
    try:
        return decode(raw)
    except UnicodeError:
        return ""


def size_of(digits: bytes) -> int | None:
    """A size in digits; None for -1, '-' or nothing: some servers send that if unknown."""
    if not digits.isdigit() or len(digits) > 19:  # 19 digits hold every off_t
        return None
    value = int(digits)
    return value if value <= SIZE_MAX else None


def link_target(decode: Decode, raw: bytes) -> str | None:
    return (decoded(decode, raw) or None) if raw else None
