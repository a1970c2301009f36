"""Pure: LIST of servers that write something like `ls -l`, with differences.

VShell, Connect:Enterprise, NetPresenz, embedded systems and localised ones: numeric months, commas
and weekdays in dates, no date at all, permissions as numbers, `ls -lsi` with blocks and inodes in
front. These formats are not documented. They share the grammar

    [inode] [blocks] mode [links] [owner] [group] size [date] name

`unix` reads the ordinary lines, and faster; this module gets the lines that `unix` could not read.
"""

from __future__ import annotations

import re

from ftpfs.ftp.listing.collecting import Parsed, Rounded, link_target
from ftpfs.ftp.listing.context import Context
from ftpfs.ftp.listing.dates import Date, date_at
from ftpfs.ftp.listing.unix import UNIX_KINDS, permissions_of, size_before, split_arrow
from ftpfs.ftp.listing.words import Size, Words, size_in
from ftpfs.model.entry import Entry, Kind

_MODE = re.compile(rb"([-A-Za-z?|])([-rwxsStTlL]{9})[+.@*]?")
_ODD_MODE = re.compile(rb"([-dlbcps])[-A-Za-z]{8,14}[+.@*]?")  # -C--E-----FTP
_LEAST_DASHES = 3
_OCTAL_MODE = re.compile(rb"0?[01]?[0-7]{5}|0?[0-7]{3}")
_TYPE_BITS = {0o04: Kind.DIRECTORY, 0o12: Kind.LINK, 0o10: Kind.FILE, 0: Kind.FILE}
# Positions of the date, counted from the mode; `ls -l`'s position comes first.
_DATE_PLACES = (5, 4, 6, 3, 2, 7, 8, 9)
_EPOCH = re.compile(rb"\d{8,11}")
MOST_PREFIXES = 2  # inode and blocks


def unix_like(line: bytes, context: Context) -> Parsed:
    """A line that begins with a mode, in letters or in numbers, whatever follows."""
    words = Words(line)
    for at in range(min(MOST_PREFIXES + 1, len(words))):
        if (told := _mode_in(words[at])) is not None:
            break
        if not words[at].isdigit():
            return None
    else:
        return None
    kind, mode = told
    return _after_the_mode(words, at, kind, mode, context)


def _mode_in(word: bytes) -> tuple[Kind, int | None] | None:
    if found := _MODE.fullmatch(word):
        return UNIX_KINDS.get(found[1], Kind.OTHER), permissions_of(found[2])
    found = _ODD_MODE.fullmatch(word)
    if found and word.count(b"-") >= _LEAST_DASHES:
        return UNIX_KINDS.get(found[1], Kind.OTHER), None
    return None


def octal_mode(line: bytes, context: Context) -> Parsed:
    """`0100644   500  101   12345    1700000000       name`, or with a date in words."""
    words = Words(line)
    if not _OCTAL_MODE.fullmatch(words[0]):
        return None
    bits = int(words[0], 8)
    kind, mode = _TYPE_BITS.get(bits >> 12, Kind.OTHER), bits & 0o7777
    for at in (4, 5):
        numbers = [words[number] for number in range(1, at)]
        if all(map(bytes.isdigit, numbers)) and _EPOCH.fullmatch(words[at]) and len(words) > at + 1:
            date = Date(int(words[at]), 1, True)
            name = words.since(at + 1)
            return _entry(name, kind, mode, size_in(words[at - 1]), date, context, exact=True)
    found = _dated(words, 0, context)
    if found is None or found[1] is None:
        return None
    at, size, date = found
    return _entry(words.after(at + date.words - 1), kind, mode, size, date, context)


def _after_the_mode(
    words: Words, start: int, kind: Kind, mode: int | None, context: Context
) -> Parsed:
    columns = context.columns
    if columns.dateless and (without := _undated(words, start, kind, mode, context)):
        return without
    found = _dated(words, start, context)
    if found is None:
        without = _undated(words, start, kind, mode, context)
        columns.undated += without is not None
        return without
    at, size, date = found
    columns.doubtful += size is None and kind is not Kind.OTHER
    name = words.after(at + date.words - 1)
    if date.words == 1:
        name = name.lstrip(b" \t")  # the columns of a time of day are empty
    return _entry(name, kind, mode, size, date, context)


def _undated(words: Words, start: int, kind: Kind, mode: int | None, context: Context) -> Parsed:
    """Mode, links and owner precede the size, and most servers show the group too."""
    for at in (start + 4, start + 3):
        if words[start + 1].isdigit() and (size := size_in(words[at])) and len(words) > at + 1:
            return _entry(words.after(at), kind, mode, size, None, context)
    return None


def _dated(words: Words, start: int, context: Context) -> tuple[int, Size | None, Date] | None:
    """The position of the date, the size before it, and the date."""
    for bare in (False, True):
        for place in _DATE_PLACES:
            at = start + place
            if not len(words) > at:
                continue
            size = size_in(words[at - 1])
            date = date_at(words, at, context, bare=bare) if size or not bare else None
            if date is not None and len(words) > at + date.words:
                return at, size or size_before(words.before(at), len(words.line)), date
    return None


def _entry(
    name: bytes,
    kind: Kind,
    mode: int | None,
    size: Size | None,
    date: Date | None,
    context: Context,
    *,
    exact: bool = False,
) -> Parsed:
    count = size.value if size and kind is not Kind.OTHER else None
    target = None
    if kind is Kind.LINK:
        name, target = split_arrow(name, count)
    elif name[-1:] == b"/":  # no name ends with a slash, whatever the mode says
        name, kind = name[:-1], Kind.DIRECTORY if kind is Kind.FILE else kind
    link = link_target(context.decode, target) if target else None
    entry = Entry(context.name(name), kind, count, date and date.mtime, exact, mode, link)
    return Rounded(entry) if size and size.rounded else entry
