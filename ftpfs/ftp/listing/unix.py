"""Pure: LIST in the format of `ls -l`."""

from __future__ import annotations

import re
from functools import lru_cache

from ftpfs.ftp.listing.collecting import SKIP, Parsed, Rounded, link_target, size_of
from ftpfs.ftp.listing.context import Context, recent_year
from ftpfs.ftp.listing.times import clock_of, midnight, month_of
from ftpfs.ftp.listing.words import Size, size_in
from ftpfs.model.entry import Entry, Kind

_SPACES = rb"[ \t]{1,40}"
_MONTH = rb"(?:[A-Za-z\x80-\xff][^\s\d:]{0,23}|\d{1,2}[\x80-\xff]{1,6}|000)"  # 000: FANUC robots
_DAY_NUMBER = rb"[0-3]?\d\.?"  # German has '31.'
_CLOCK = rb"\d{1,2}:\d\d"
_UNIX_DATE = (
    rb"((?:"
    # Jan 31 12:00, 31 Jan 12:00; Jan 31 2024; and BSD's `ls -lT`: Jan 31 12:00:00 2024
    + (rb"(?:%b%b%b|%b%b%b)" % (_MONTH, _SPACES, _DAY_NUMBER, _DAY_NUMBER, _SPACES, _MONTH))
    + (rb"%b(?:%b(?::\d\d(?:%b\d{4})?)?|\d{4})" % (_SPACES, _CLOCK, _SPACES))
    # GNU's --time-style: full-iso (alone with seconds and a zone), long-iso, and iso for new and
    # old files
    + (rb"|\d{4}-\d\d-\d\d(?:%b%b(?::\d\d(?:\.\d{1,9})?(?: [+-]\d{4})?)?| )" % (_SPACES, _CLOCK))
    + (rb"|\d\d-\d\d%b%b" % (_SPACES, _CLOCK))
    + rb"))[ ]"  # exactly one space: any further one belongs to the name
)
_UNIX_MODE = re.compile(rb"([-A-Za-z?])([-rwxsStTlL]{9})[+.@]?[ \t]*[^ \t]+")
# The look-behind stands after the first digit because re searches faster for a pattern that begins
# with a set of characters (9.4 -> 3.4 us a line). The look-ahead keeps the pattern from trying
# every number of spaces between ids (3.4 -> 2.2 us). Groups of digits are matched loosely, by one
# set without branches; `size_in` checks them.
_UNIX_SIZED = re.compile(
    rb"(\d(?<=[ \t]\d)\d{0,19}(?:[,.'\xa0\xc2\xe2][\x80-\xaf]{0,2}\d{1,3}){0,7})"
    + _SPACES
    + rb"(?![ \t])"
    + _UNIX_DATE
)
# Before a month with a suffix: another such number, so the month is the day of a date that begins
# earlier (2024年 11月 6日 7 7556: the name is `7 7556`).
_DATE_BEFORE = re.compile(rb"[ \t]\d{1,4}[\x80-\xff]{1,6}[ \t]{1,40}\Z")
_GLUED = re.compile(rb"[^ \t]{0,64}?[^\d](\d{1,15})")
_UNIX_UNSIZED = re.compile(rb"(?<=[ \t])()" + _UNIX_DATE)
# A line of a plain listing, including its end: one pattern for the lines that `unix` reads alike.
PLAIN_LINE = re.compile(
    rb"^([-dl])([-rwxsStT]{9})[+.@]? {1,40}\d{1,9} {1,40}[^\s]{1,64} {1,40}[^\s]{1,64}"
    rb" {1,40}(\d{1,18}) "
    rb"((?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d (?:\d\d:\d\d| \d{4})) "
    rb"([^\r\n\0]{1,4096})\r?\n",
    re.MULTILINE,
)
TOTAL = re.compile(
    rb"(?:total|totale|insgesamt|%b):?[ \t]{1,20}\d[\d.,]{0,24}[A-Z]?[ \t]*" % "итого".encode(),
    re.IGNORECASE,
)
UNIX_KINDS = {b"-": Kind.FILE, b"d": Kind.DIRECTORY, b"l": Kind.LINK}
_ARROW = b" -> "


def unix(line: bytes, context: Context) -> Parsed:
    """Parse a line of `ls -l`: mode, links, owner, group, size, date, name.

    Owner and group may be missing, be numbers or contain spaces, so columns are not counted: the
    parser looks for the first size that a date follows.
    """
    mode = _UNIX_MODE.match(line)
    if mode is None:
        return SKIP if TOTAL.fullmatch(line) else None
    if context.columns.dateless:
        return None  # `unix_like` reads it
    # The first column is the count of links. Skipping it keeps `1 user 5 2024 Jan 31 12:00` (group
    # 5, 2024 bytes) from being read as one byte of the 5th of user, 2024.
    found = (
        _UNIX_SIZED.search(line, mode.end())
        or _UNIX_SIZED.search(line, mode.end(2))
        or _unsized(line, mode.end(2), context)
    )
    if found is None or _is_within_date(line, found):
        return None
    letter, permissions = mode.groups()
    digits, date_text = found.groups()
    kind = UNIX_KINDS.get(letter, Kind.OTHER)
    size, rounded = None, False
    if kind is not Kind.OTHER:  # a device shows its numbers there
        if digits.isdigit():
            size = size_of(digits)
        elif told := size_in(digits) if digits else size_before(line, found.start()):
            size, rounded = told
        else:
            context.columns.doubtful += 1
    when = context.times.get(date_text)
    if when is None:
        when = context.times[date_text] = date_in_unix(date_text, context)
    name, target = line[found.end() :], None
    if kind is Kind.LINK:
        name, target = split_arrow(name, size)
    elif kind is Kind.DIRECTORY and name[-1:] == b"/":  # from ls -F and ls -p; no name ends with it
        name = name[:-1]
    link = link_target(context.decode, target) if target else None
    entry = Entry(
        context.name(name), kind, size, when[0], when[1], permissions_of(permissions), link
    )
    return Rounded(entry) if rounded else entry


def _is_within_date(line: bytes, found: re.Match[bytes]) -> bool:
    """Whether the date that was `found` begins within another one. `unix_like` reads that."""
    return found[2][:1].isdigit() and bool(_DATE_BEFORE.search(line[: found.start()]))


def size_before(line: bytes, end: int) -> Size | None:
    """The size in the word before `end`: with a unit, or glued to the word before it."""
    word = line[:end].rstrip(b" \t").rpartition(b" ")[2].rpartition(b"\t")[2]
    if size := size_in(word):
        return size
    glued = _GLUED.fullmatch(word)
    return Size(int(glued[1]), True) if glued else None


def _unsized(line: bytes, start: int, context: Context) -> re.Match[bytes] | None:
    """The first date of `line` that no plain number precedes (`ls -h`, a full column).

    With so little evidence, a word that is no month does not count as a date.
    """
    for found in _UNIX_UNSIZED.finditer(line, start):
        if date_in_unix(found[2], context)[0] is not None:
            return found
    return None


def split_arrow(text: bytes, size: int | None) -> tuple[bytes, bytes | None]:
    """(name, target) of a link.

    Both may contain ' -> '. On Unix, the size of a link is the length of its target, which decides.
    Otherwise the first arrow counts: more targets than names contain an arrow, since a target is a
    path and a path has many names in it.
    """
    first = text.find(_ARROW)
    if first < 0:
        return text, None
    at = first
    exact = len(text) - (size or 0) - len(_ARROW)
    if exact > 0 and text.startswith(_ARROW, exact):
        at = exact
    return text[:at], text[at + len(_ARROW) :]


@lru_cache(maxsize=512)
def permissions_of(text: bytes) -> int | None:
    """The bits of rwxr-x--- with s, S, t, T and l, L (mandatory locking: setgid without x).

    None for ---------: servers without permissions (Windows, OS/2) write that, and a file without
    any permission would be the worse guess.
    """
    if text == b"---------":
        return None
    mode = 0
    for position, letter in enumerate(text):
        bit = 0o400 >> position
        if letter in b"rwxst":
            mode |= bit
        if letter in b"sStTlL":
            mode |= 0o4000 >> (position // 3)
    return mode


def date_in_unix(text: bytes, context: Context) -> tuple[int | None, bool]:
    """(mtime, exact) of the date column; (None, False) for an unknown month or day."""
    words = text.split()
    try:
        if b"-" in words[0]:
            return _iso_time(words, context)
        return _named_time(words, context) - context.zone, False
    except ValueError:
        return None, False


def _named_time(words: list[bytes], context: Context) -> int:
    """Month and day in either order, then a time, a year, or a time and a year."""
    if words[0].rstrip(b".").isdigit():
        day_text, month_text = words[:2]
    else:
        month_text, day_text = words[:2]
    month, day = month_of(month_text), int(day_text.rstrip(b"."))
    clock = clock_of(words[2]) if b":" in words[2] else 0
    if b":" in words[-1]:
        return recent_year(month, day, clock, context)
    return midnight(int(words[-1]), month, day) + clock


def _iso_time(words: list[bytes], context: Context) -> tuple[int, bool]:
    """[YYYY-]MM-DD [HH:MM[:SS[.f]] [+HHMM]]. Exact if it has both seconds and a zone."""
    numbers = [int(part) for part in words[0].split(b"-")]
    clock = clock_of(words[1]) if len(words) > 1 else 0
    if len(numbers) == 2:
        return recent_year(numbers[0], numbers[1], clock, context) - context.zone, False
    when = midnight(numbers[0], numbers[1], numbers[2]) + clock
    if len(words) < 3:
        return when - context.zone, False
    offset = int(words[2])  # +0130 becomes 130
    ahead = (abs(offset) // 100 * 60 + abs(offset) % 100) * 60
    return when - (ahead if offset >= 0 else -ahead), words[1].count(b":") == 2
