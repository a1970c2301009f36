"""Directory listings: MLSD and MLST facts, LIST lines, and the times in them.

Owns: what a server's words about a file mean. Owns no command and no policy: who asks, in which
encoding names travel and how far the server's clock is off is decided by the caller and passed in.

Pure: no I/O, no clock, no state but memoised conversions; safe from any thread. Structure is read
from bytes and only names are decoded, so no odd byte in a name can disturb the reading of a line.
No input raises: a line nobody understands costs that line (`Listing.rejected`). Every pattern is
either anchored or bounded in what it repeats, so the work is linear in the length of a line.

A format of LIST is one function `(line, context) -> Entry | SKIP | None`; `_FORMATS` lists them.
Measured on 2 cores, Python 3.11, 100,000 entries, CPU time: Unix 0.85 s, MLSD 0.9 s, DOS 0.6 s.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from ftpfs.errors import printable

Decode = Callable[[bytes], str]


class Kind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"  # device, socket, fifo, door...: FTP can list it and do nothing else with it


@dataclass(slots=True, unsafe_hash=True)
class Entry:
    """What a server said about one name. None means that it did not say. Never changed once made
    (`frozen` would see to it, but makes each of a million cost 1.0 us instead of 0.2).

    `name` is never '', '.' or '..' and holds neither '/' nor NUL, with one exception: an entry
    that speaks of a directory itself (`Listing.self_entry`, MLST of the root) is named ''.
    `size` is in bytes; of a directory it is whatever the server calls its size.
    `mtime` is in seconds since the epoch, UTC; `exact` says it is right to the second and free of
    any guess about the server's zone or the year.
    `mode` holds permission bits only (0o7777). `target` is a link's, as the server told it.
    """

    name: str
    kind: Kind
    size: int | None = None
    mtime: int | None = None
    exact: bool = False
    mode: int | None = None
    target: str | None = None


class FolderAttributes(NamedTuple):
    """What is to be set on the folder at `path`: permission bits, seconds since the epoch."""

    path: str
    mode: int | None
    mtime: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory: its entries in the server's order, and the first of any with equal names.

    `rejected` holds the lines that were not understood, made printable and cut short for the log.
    `self_entry` is the directory itself: MLSD's type=cdir, or '.' in LIST -a.
    """

    entries: list[Entry]
    rejected: list[str]
    self_entry: Entry | None = None


class _Skip(enum.Enum):
    SKIP = "a line that is understood and stands for no entry"


_SKIP: Final = _Skip.SKIP
_Parsed = Entry | Literal[_Skip.SKIP] | None  # None: not my format

_LINE_MAX = 65536  # PATH_MAX is 4096 and facts are short: anything longer is no listing
_REJECTED_SHOWN = 200  # characters of a rejected line worth a place in the log
_SIZE_MAX = 2**63 - 1  # off_t


class _Collector:
    """Gathers the entries of one listing and keeps out the names a file system cannot have."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._rejected: list[str] = []
        self._names: set[str] = set()
        self._self_entry: Entry | None = None

    def clean(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """`lines` without line ends (servers send CR CR LF, too), blank and overlong ones."""
        for raw in lines:
            line = raw.rstrip(b"\r\n")
            if len(line) > _LINE_MAX:
                self._reject(line)
            elif line:
                yield line

    def add(self, parsed: _Parsed, line: bytes) -> None:
        """Take what was made of `line`. '.' is the directory itself, '..' is nobody's business."""
        if parsed is _SKIP:
            return
        if parsed is None:
            self._reject(line)
            return
        name = parsed.name
        if name == ".":
            self._self_entry = self._self_entry or replace(parsed, name="")
        elif not name or "/" in name or "\0" in name:
            self._reject(line)
        elif name != ".." and name not in self._names:
            self._names.add(name)
            self._entries.append(parsed)

    def knows_itself(self) -> bool:
        return self._self_entry is not None

    def listing(self) -> Listing:
        return Listing(self._entries, self._rejected, self._self_entry)

    def _reject(self, line: bytes) -> None:
        shown = line.rstrip(b"\r")[:_REJECTED_SHOWN]
        self._rejected.append(printable(shown.decode("utf-8", "backslashreplace")))


def _decoded(decode: Decode, raw: bytes) -> str:
    """`raw` as the caller reads names; '' (which no name can be) where it cannot be read."""
    try:
        return decode(raw)
    except UnicodeError:
        return ""


def _size(digits: bytes) -> int | None:
    """A size as digits, or None: some servers say -1, '-' or nothing for what they do not know."""
    if not digits.isdigit() or len(digits) > 19:  # 19 digits hold every off_t
        return None
    value = int(digits)
    return value if value <= _SIZE_MAX else None


# Times.

_DAY = 86400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@lru_cache(maxsize=4096)
def _midnight(year: int, month: int, day: int) -> int:
    """Seconds from the epoch to the start of that day; ValueError if there is no such day."""
    return (date(year, month, day).toordinal() - _EPOCH_ORDINAL) * _DAY


def _seconds(hour: int, minute: int, second: int = 0) -> int:
    """Seconds into a day. Second 60 is legal (RFC 3659, 2.3: a leap second)."""
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second <= 60):
        raise ValueError("no such time of day")
    return hour * 3600 + minute * 60 + second


@lru_cache(maxsize=4096)
def _time_val_day(digits: str) -> int:
    """The midnight of YYYYMMDD, or of 19100MMDD and the like: '19' + years since 1900."""
    year = int(digits[:4]) if len(digits) == 8 else 1900 + int(digits[2:5])
    return _midnight(year, int(digits[-4:-2]), int(digits[-2:]))


def parse_time_val(text: str) -> int:
    """Seconds since the epoch of a time-val, YYYYMMDDHHMMSS[.fff] in UTC (RFC 3659, 2.3).

    A fraction is cut off. The year-2000 bug of old servers, which write 19100 for 2000, is
    understood. Raises ValueError for everything else.
    """
    if len(text) == 14 and text.isascii() and text.isdigit():  # nearly all of them
        return _time_val_day(text[:8]) + _clock_digits(text[8:])
    digits, point, fraction = text.partition(".")
    if point and not (fraction.isascii() and fraction.isdigit()):
        raise ValueError(f"not a time-val: {text[:40]!r}")
    plain = len(digits) == 14 or (len(digits) == 15 and digits.startswith("191"))
    if not (plain and digits.isascii() and digits.isdigit()):
        raise ValueError(f"not a time-val: {text[:40]!r}")
    return _time_val_day(digits[:-6]) + _clock_digits(digits[-6:])


def _clock_digits(digits: str) -> int:
    """Seconds into a day of HHMMSS."""
    return _seconds(int(digits[:2]), int(digits[2:4]), int(digits[4:]))


def format_time_val(seconds: float) -> str:
    """The time-val of a time in seconds since the epoch, whole seconds, rounded down.

    Raises ValueError for a time outside the years 1 to 9999, which a time-val cannot say.
    """
    try:
        when = _EPOCH + timedelta(seconds=math.floor(seconds))
    except OverflowError as error:
        raise ValueError("no time-val for that time") from error
    # strftime's %Y does not pad years below 1000 on every system
    return f"{when.year:04d}{when:%m%d%H%M%S}"


# MLSD and MLST: RFC 3659, section 7.

_FACT_BLOCK = re.compile(rb"(?:[A-Za-z][^=; ]{0,63}=[^;]*;)+(?= )")
# pure-ftpd sends a link's target as it is, with any spaces and semicolons: it ends where a known
# fact begins, and only where none follows does the first '; ' end it.
_SLINK = b"type=os.unix=slink:"
_AFTER_TARGET = re.compile(
    rb";(?:siz[ed]|modify|create|perm|unique|lang|media-type|charset|unix\.[a-z]{1,16})=",
    re.IGNORECASE,
)
_TYPES = {
    b"": Kind.FILE,  # not said, and most names are files
    b"file": Kind.FILE,
    b"dir": Kind.DIRECTORY,
    b"cdir": Kind.DIRECTORY,
    b"pdir": Kind.DIRECTORY,
    b"os.unix=slink": Kind.LINK,  # target unknown
    b"os.unix=slink:": Kind.LINK,  # target taken out by _split_facts
    b"os.unix=symlink": Kind.LINK,
}


def parse_mlsd(lines: Iterable[bytes], decode: Decode) -> Listing:
    """The listing that MLSD sent (RFC 3659, 7.2), one line an element, line ends allowed.

    A type=cdir with a plain name is the listed directory under its own name (RFC 3659, 7.7), or,
    from an old proftpd, a child that happens to be the working directory (its bug 4198).
    It is taken for a child where another line already speaks of the directory itself.
    """
    found = _Collector()
    doubtful: list[tuple[Entry, bytes]] = []
    for line in found.clean(lines):
        parsed = _mlsd_line(line, decode)
        if isinstance(parsed, _PlainCdir):
            doubtful.append((parsed.entry, line))
        else:
            found.add(parsed, line)
    for entry, line in doubtful:
        found.add(entry if found.knows_itself() else replace(entry, name="."), line)
    return found.listing()


def parse_mlst(line: bytes, decode: Decode) -> Entry | None:
    """The entry in a 250 reply to MLST (RFC 3659, 7.2): one space, facts, a space, the path.

    The name is the path's last component: '' where that is none ('/', '.'). None if `line` is
    something else.
    """
    line = line.rstrip(b"\r\n")
    parts = _split_facts(line[1:] if line[:1] == b" " else line)
    if parts is None or len(line) > _LINE_MAX:
        return None
    facts, target, path = parts
    raw = path.rstrip(b"/").rpartition(b"/")[2]
    name = _decoded(decode, raw)
    if "\0" in name or "/" in name or not path or (raw and not name):
        return None
    name = "" if name in (".", "..") else name
    return _fact_entry(_facts(facts), name, _link_target(decode, target))


@dataclass(frozen=True, slots=True)
class _PlainCdir:
    entry: Entry


def _mlsd_line(line: bytes, decode: Decode) -> _Parsed | _PlainCdir:
    parts = _split_facts(line)
    if parts is None:
        return None
    facts = _facts(parts[0])
    type_ = facts.get(b"type")
    if type_ == b"pdir":
        return _SKIP
    entry = _fact_entry(facts, _decoded(decode, parts[2]), _link_target(decode, parts[1]))
    if type_ != b"cdir" or entry.name == ".":
        return entry
    if not entry.name or "/" in entry.name:
        return replace(entry, name=".")  # '' or the full path: itself, and no child, for sure
    return _PlainCdir(entry)


def _split_facts(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """(facts in lower case, link target, name); None if `line` has another shape."""
    start = line.lower().find(_SLINK, 0, line.find(b" "))
    if start < 0:
        facts, name = _split_name(line)
        return None if name is None else (facts, b"", name)
    start += len(_SLINK)
    after = _AFTER_TARGET.search(line, start)
    end = after.start() if after else line.find(b"; ", start)
    if end < 0:
        return None
    facts, name = _split_name(line[:start] + line[end:])
    return None if name is None else (facts, line[start:end], name)


def _split_name(line: bytes) -> tuple[bytes, bytes | None]:
    """(facts in lower case, name): what RFC 3659, 7.2 has on either side of the first space.

    No fact may hold a space, but proftpd's do: `UNIX.groupname=domain users;`. So where the first
    space does not follow a semicolon, it is the one behind the last thing shaped like a fact.
    """
    facts, space, name = line.partition(b" ")
    if facts and facts[-1:] != b";" and (block := _FACT_BLOCK.match(line)):
        facts, name = block[0], line[block.end() + 1 :]
    # A line without facts is legal; one that starts with a word instead is no answer to MLSD.
    understood = space and (not facts or b"=" in facts)
    return facts.lower(), name if understood else None


def _facts(text: bytes) -> dict[bytes, bytes]:
    facts = {}
    for fact in text.split(b";"):
        name, _, value = fact.partition(b"=")
        facts[name] = value
    return facts


def _fact_entry(facts: dict[bytes, bytes], name: str, target: str | None) -> Entry:
    kind = _TYPES.get(facts.get(b"type", b""), Kind.OTHER)
    mtime = _modify(facts.get(b"modify", b""))
    size = _size(facts.get(b"size") or facts.get(b"sizd") or b"")
    mode = _octal(facts.get(b"unix.mode", b""))
    return Entry(name, kind, size, mtime, mtime is not None, mode, target)


def _link_target(decode: Decode, raw: bytes) -> str | None:
    return (_decoded(decode, raw) or None) if raw else None


def _modify(value: bytes) -> int | None:
    try:
        return parse_time_val(value.decode("latin-1"))
    except ValueError:
        return None


@lru_cache(maxsize=512)
def _octal(digits: bytes) -> int | None:
    """Permission bits as digits; what some servers put before them (the file type) is cut off."""
    try:
        return int(digits, 8) & 0o7777
    except ValueError:
        return None


# LIST.


@dataclass(slots=True)
class _Context:
    """What the reading of a LIST line may depend on besides the line."""

    decode: Decode
    zone: int
    latest: float  # the newest time, by the server's clock, that a line without a year can mean
    latest_year: int
    times: dict[bytes, tuple[int | None, bool]] = field(default_factory=dict)  # date text -> mtime
    begun: bytes = b""  # a name whose facts are on the next line (VMS)

    def name(self, raw: bytes) -> str:
        return _decoded(self.decode, raw)


def _context(decode: Decode, now: float, zone: int) -> _Context:
    latest = now + zone + _DAY
    return _Context(decode, zone, latest, datetime.fromtimestamp(latest, tz=timezone.utc).year)


_Format = Callable[[bytes, _Context], _Parsed]


def parse_list(lines: Iterable[bytes], decode: Decode, now: float, zone: int = 0) -> Listing:
    """The listing that LIST sent, in whichever format; lines as `parse_mlsd` takes them.

    `now` is the time in seconds since the epoch; `zone` is by how many seconds the server's
    clock in LIST is ahead of UTC, and is subtracted from every time that does not tell its zone.

    A time without a year ('Jan 31 12:00') is given the most recent year that does not put it
    more than a day after the server's `now`. ls leaves the year out for the last six months, some
    servers for the last twelve; the day makes room for clocks and zones that are off. A 29
    February goes back to the last leap year that fits.
    """
    context = _context(decode, now, zone)
    found = _Collector()
    recent: _Format = _FORMATS[0]
    for line in found.clean(lines):
        parsed = recent(line, context)
        if parsed is None:
            recent, parsed = _first_to_understand(line, context, recent)
        found.add(parsed, line)
    return found.listing()


def parse_list_data(data: bytes, decode: Decode, now: float, zone: int = 0) -> Listing:
    """`parse_list` of all that LIST sent. A listing as `ls -l` has it, in English, with nothing odd
    in it, is read by one pattern, at 2 us a line."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if _TOTAL.match(data):
        lines, data = lines[1:], data[data.index(b"\n") + 1 :]
    fields = _PLAIN_LINE.findall(data)
    if len(fields) != len(lines):
        return parse_list(lines, decode, now, zone)
    context = _context(decode, now, zone)
    found = _Collector()
    add, times = found.add, context.times
    for line, (letter, permissions, digits, date_text, raw) in zip(lines, fields, strict=True):
        if letter == b"l" or b"/" in raw:
            found.add(_unix(line.rstrip(b"\r"), context), line)
            continue
        when = times.get(date_text)
        if when is None:
            when = times[date_text] = _unix_time(date_text, context)
        kind = Kind.FILE if letter == b"-" else Kind.DIRECTORY
        mode = _unix_permissions(permissions)
        add(Entry(context.name(raw), kind, int(digits), when[0], when[1], mode), line)
    return found.listing()


def _first_to_understand(
    line: bytes, context: _Context, recent: _Format
) -> tuple[_Format, _Parsed]:
    """The format that reads `line`, with its result; `recent`, which could not, if none can."""
    for each in _FORMATS:
        if each is not recent and (parsed := each(line, context)) is not None:
            return each, parsed
    return recent, None


def _recent_year(month: int, day: int, clock: int, context: _Context) -> int:
    """The time by the server's clock, under the year rule of `parse_list`."""
    for year in range(context.latest_year, context.latest_year - 9, -1):  # 1896 and 1904 are leap
        try:
            when = _midnight(year, month, day) + clock
        except ValueError:
            continue
        if when <= context.latest:
            return when
    raise ValueError("no such day")


# LIST as `ls -l` has it.

_SPACES = rb"[ \t]{1,40}"
_MONTH = rb"(?:[A-Za-z\x80-\xff][^\s\d:]{0,23}|\d{1,2}[\x80-\xff]{1,6}|000)"  # 000: FANUC robots
_DAY_NUMBER = rb"[0-3]?\d\.?"  # German has '31.'
_CLOCK = rb"\d{1,2}:\d\d"
_UNIX_DATE = (
    rb"((?:"
    # Jan 31 12:00, 31 Jan 12:00; Jan 31 2024; and BSD's `ls -lT`: Jan 31 12:00:00 2024
    + (rb"(?:%b%b%b|%b%b%b)" % (_MONTH, _SPACES, _DAY_NUMBER, _DAY_NUMBER, _SPACES, _MONTH))
    + (rb"%b(?:%b(?::\d\d(?:%b\d{4})?)?|\d{4})" % (_SPACES, _CLOCK, _SPACES))
    # GNU's --time-style: full-iso, long-iso, and iso for new and old files
    + (rb"|\d{4}-\d\d-\d\d(?:%b%b(?::\d\d(?:\.\d{1,9})?)?(?: [+-]\d{4})?| )" % (_SPACES, _CLOCK))
    + (rb"|\d\d-\d\d%b%b" % (_SPACES, _CLOCK))
    + rb"))[ ]"  # exactly one: any further space belongs to the name
)
_UNIX_MODE = re.compile(rb"([-A-Za-z?])([-rwxsStTlL]{9})[+.@]?[ \t]*[^ \t]+")
# The look-behind stands after the first digit because re searches faster for a pattern that begins
# with a set of characters (9.4 -> 3.4 us a line); the look-ahead keeps it from trying every number
# of spaces between ids (3.4 -> 2.2 us).
_UNIX_SIZED = re.compile(rb"(\d(?<=[ \t,]\d)\d{0,19})" + _SPACES + rb"(?![ \t])" + _UNIX_DATE)
_UNIX_UNSIZED = re.compile(rb"(?<=[ \t])()" + _UNIX_DATE)
# A line of a plain listing, end and all: what `_unix` reads the same, in one go.
_PLAIN_LINE = re.compile(
    rb"^([-dl])([-rwxsStT]{9})[+.@]? {1,40}\d{1,9} {1,40}[^\s]{1,64} {1,40}[^\s]{1,64}"
    rb" {1,40}(\d{1,18}) "
    rb"((?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d (?:\d\d:\d\d| \d{4})) "
    rb"([^\r\n\0]{1,4096})\r?\n",
    re.MULTILINE,
)
_TOTAL = re.compile(
    rb"(?:total|totale|insgesamt|%b):?[ \t]{1,20}\d[\d.,]{0,24}[A-Z]?[ \t]*" % "итого".encode(),
    re.IGNORECASE,
)
_UNIX_KINDS = {b"-": Kind.FILE, b"d": Kind.DIRECTORY, b"l": Kind.LINK}
_ARROW = b" -> "


def _unix(line: bytes, context: _Context) -> _Parsed:
    """`ls -l`: mode, links, owner, group, size, date, name.

    Owner and group may be missing, be numbers or hold spaces, so the columns are not counted:
    the line is read around the first size that has a date behind it.
    """
    mode = _UNIX_MODE.match(line)
    if mode is None:
        return _SKIP if _TOTAL.fullmatch(line) else None
    # The first column is the count of links. Not looking at it keeps `1 user 5 2024 Jan 31 12:00`
    # (group 5, 2024 bytes) from being read as one byte of the 5th of user, 2024.
    found = (
        _UNIX_SIZED.search(line, mode.end())
        or _UNIX_SIZED.search(line, mode.end(2))
        or _unsized(line, mode.end(2), context)
    )
    if found is None:
        return None
    letter, permissions = mode.groups()
    digits, date_text = found.groups()
    kind = _UNIX_KINDS.get(letter, Kind.OTHER)
    size = None if kind is Kind.OTHER else _size(digits)  # a device has its numbers there
    when = context.times.get(date_text)
    if when is None:
        when = context.times[date_text] = _unix_time(date_text, context)
    name, target = line[found.end() :], None
    if kind is Kind.LINK:
        name, target = _split_arrow(name, size)
    elif kind is Kind.DIRECTORY and name[-1:] == b"/":  # ls -F and ls -p; no name ends so
        name = name[:-1]
    link = _link_target(context.decode, target) if target else None
    return Entry(
        context.name(name), kind, size, when[0], when[1], _unix_permissions(permissions), link
    )


def _unsized(line: bytes, start: int, context: _Context) -> re.Match[bytes] | None:
    """The first date of `line` where no plain number stands before it (`ls -h`, a full column).

    With so little to go by, a word that is no month does not make a date.
    """
    for found in _UNIX_UNSIZED.finditer(line, start):
        if _unix_time(found[2], context)[0] is not None:
            return found
    return None


def _split_arrow(text: bytes, size: int | None) -> tuple[bytes, bytes | None]:
    """(name, target) of a link.

    Both may hold ' -> '. A link's size is the length of its target on Unix, which settles it;
    where it does not, the first arrow is taken: more targets than names hold one, since a target
    is a path and a path has many names in it.
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
def _unix_permissions(text: bytes) -> int | None:
    """The bits of rwxr-x--- with s, S, t, T and l, L (mandatory locking: setgid without x).

    None for ---------: servers without permissions (Windows, OS/2) write that, and a file one
    can do nothing with is the worse guess for it.
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


def _unix_time(text: bytes, context: _Context) -> tuple[int | None, bool]:
    """(mtime, exact) of the date column; (None, False) for a month or a day nobody knows."""
    words = text.split()
    try:
        if b"-" in words[0]:
            return _iso_time(words, context)
        return _named_time(words, context) - context.zone, False
    except ValueError:
        return None, False


def _named_time(words: list[bytes], context: _Context) -> int:
    """Month and day in either order, then a time, a year, or a time and a year."""
    if words[0].rstrip(b".").isdigit():
        day_text, month_text = words[:2]
    else:
        month_text, day_text = words[:2]
    month, day = _month(month_text), int(day_text.rstrip(b"."))
    clock = _clock(words[2]) if b":" in words[2] else 0
    if b":" in words[-1]:
        return _recent_year(month, day, clock, context)
    return _midnight(int(words[-1]), month, day) + clock


def _iso_time(words: list[bytes], context: _Context) -> tuple[int, bool]:
    """[YYYY-]MM-DD [HH:MM[:SS[.f]] [+HHMM]]. Exact if it tells both its seconds and its zone."""
    numbers = [int(part) for part in words[0].split(b"-")]
    clock = _clock(words[1]) if len(words) > 1 else 0
    if len(numbers) == 2:
        return _recent_year(numbers[0], numbers[1], clock, context) - context.zone, False
    when = _midnight(numbers[0], numbers[1], numbers[2]) + clock
    if len(words) < 3:
        return when - context.zone, False
    offset = int(words[2])  # +0130 is 130
    ahead = (abs(offset) // 100 * 60 + abs(offset) % 100) * 60
    return when - (ahead if offset >= 0 else -ahead), words[1].count(b":") == 2


@lru_cache(maxsize=2048)  # a day has 1440 minutes
def _clock(text: bytes) -> int:
    numbers = [int(part) for part in text.partition(b".")[0].split(b":")]
    return _seconds(*numbers)


# The months as ls abbreviates them in English, German, French, Spanish, Italian, Portuguese,
# Dutch, Danish, Norwegian, Swedish and Russian. Polish is left out: its 'lip' is July where the
# Croatian one is June, and no time is better than a wrong one.
_MONTH_NAMES = (
    "jan janv jän ene gen янв",
    "feb febr fév févr fev фев февр",
    "mar mär märz mrz mars mrt мар марта",
    "apr avr avril abr апр",
    "may mai mayo mag maj mei май мая",
    "jun june juni juin giu июн июня",
    "jul july juli juil lug июл июля",
    "aug août aoû ago авг",
    "sep sept set сен сент",
    "oct okt ott out окт",
    "nov ноя нояб",
    "dec dez déc dic des дек",
)
_MONTH_CODECS = ("utf-8", "latin-1", "cp1251", "koi8-r", "cp866")


def _month_table() -> dict[bytes, int]:
    """Every known month's bytes, ASCII in lower case (bytes.lower() does no more) -> 1..12."""
    table: dict[bytes, int] = {}
    for number, names in enumerate(_MONTH_NAMES, 1):
        for name in names.split():
            for form in (name, name.title(), name.upper()):
                for raw in _encodings(form):
                    table.setdefault(raw.lower(), number)
    return table


def _encodings(text: str) -> Iterator[bytes]:
    for codec in _MONTH_CODECS:
        try:
            yield text.encode(codec)
        except UnicodeEncodeError:
            continue


_MONTHS = _month_table()
_NUMBERED_MONTH = re.compile(rb"(\d{1,2})[\x80-\xff]+")  # 1月, 1월: the month as a number


@lru_cache(maxsize=256)
def _month(word: bytes) -> int:
    """1 to 12, or ValueError."""
    numbered = _NUMBERED_MONTH.fullmatch(word)
    number = int(numbered[1]) if numbered else _MONTHS.get(word.rstrip(b".").lower())
    if number is None:
        raise ValueError("no month of a known language")
    return number


# LIST as DOS's `dir` has it: IIS, and other servers for Windows.

_DOS = re.compile(
    rb"(\d{1,4})([-/.])(\d{1,2})[-/.](\d{4}|\d\d)[ \t]{1,20}"
    rb"(\d{1,2}:\d\d(?::\d\d)?)(?:[ \t]?([AaPp])\.?[Mm]\.?)?[ \t]{1,64}"
    rb"(<[A-Za-z]{1,16}>|\d{1,20}|\d{1,3}(?:[,.'\xa0]\d{2,3}){1,8})[ ]"
)
_DOS_KINDS = {
    b"<DIR>": Kind.DIRECTORY,
    b"<JUNCTION>": Kind.LINK,
    b"<SYMLINK>": Kind.LINK,
    b"<SYMLINKD>": Kind.LINK,
}
_DOS_TAG_WIDTH = 15  # '<DIR>' and ten spaces; the longer tags have fewer
_CENTURY_PIVOT = 70  # a file of 1969 there never was


def _dos(line: bytes, context: _Context) -> _Parsed:
    """`01-31-24  12:00PM       <DIR>          name`, or a size and one space before the name."""
    found = _DOS.match(line)
    if found is None:
        return None
    tag, rest = found[7], line[found.end() :]
    mtime = _dos_time(found, context)
    if not tag.startswith(b"<"):
        size = int(re.sub(rb"\D", b"", tag))
        return Entry(context.name(rest), Kind.FILE, size if size <= _SIZE_MAX else None, mtime)
    kind = _DOS_KINDS.get(tag.upper(), Kind.OTHER)
    name, target = _dos_name(rest, _DOS_TAG_WIDTH - len(tag) - 1), None
    if kind is Kind.LINK and name.endswith(b"]"):
        name, _, target = name[:-1].rpartition(b" [")
    link = _link_target(context.decode, target) if target else None
    return Entry(context.name(name), kind, None, mtime, target=link)


def _dos_name(text: bytes, padding: int) -> bytes:
    """The name behind a tag: after all of its padding where it is there, else where it starts."""
    if len(text) > padding and not text[:padding].strip(b" "):
        return text[padding:]
    return text.lstrip(b" ")


def _dos_time(found: re.Match[bytes], context: _Context) -> int | None:
    """The time of a `_DOS` match. None if there is no such day or time."""
    half = (found[6] or b"").upper()
    try:
        year, month, day = _dos_date(found)
        clock = _clock(found[5])
        if half:
            # 12AM is midnight and 12PM is noon
            clock = clock % 43200 + (43200 if half == b"P" else 0)
        return _midnight(year, month, day) + clock - context.zone
    except ValueError:
        return None


def _dos_date(found: re.Match[bytes]) -> tuple[int, int, int]:
    """(year, month, day): year first if it has four digits, else as in the United States.

    Day first behind points, which is how those who write points write dates, and where the
    first number can be no month.
    """
    first, second, third = int(found[1]), int(found[3]), int(found[4])
    if len(found[1]) == 4:
        return first, second, third
    if len(found[4]) == 2:
        third += 2000 if third < _CENTURY_PIVOT else 1900
    if found[2] == b"." or first > 12:
        return third, second, first
    return third, first, second


# LIST as EPLF (Bernstein, 1996: easily parsed LIST format) has it.


def _eplf(line: bytes, context: _Context) -> _Parsed:
    """`+i8388621.48594,m825718503,r,s280,<tab>name`. m is in seconds UTC, so it is exact."""
    facts, tab, name = line.partition(b"\t")
    if not tab or not facts.startswith(b"+"):
        return None
    kind, size, mtime, mode = Kind.FILE, None, None, None
    for fact in facts[1:].split(b","):
        letter, value = fact[:1], fact[1:]
        if letter == b"/":
            kind = Kind.DIRECTORY
        elif letter == b"s":
            size = _size(value)
        elif letter == b"m":
            mtime = _size(value)
        elif fact[:2] == b"up":
            mode = _octal(fact[2:])
    return Entry(context.name(name), kind, size, mtime, mtime is not None, mode)


# LIST of systems that are no Unix and no DOS. Names, kinds and sizes in bytes are read; what is
# told in blocks, tracks or records is no size (SIZE is asked for it). Dates that have no one order
# of day, month and year, or no time of day, are left out: MDTM is asked.

_NETWARE = re.compile(
    rb"([-d])[ \t]?\[[-RWCEMFAS ]{8}\][ \t]{1,20}\S{1,64}[ \t]{1,40}(\d{1,19})[ \t]{1,20}"
    rb"([A-Za-z]{3}[ \t]{1,4}\d{1,2}[ \t]{1,4}(?:\d{1,2}:\d\d|\d{4}))(?:[ \t]{4}|[ \t])"
)


def _netware(line: bytes, context: _Context) -> _Parsed:
    """`d [RWCEAFMS] owner   512 Jan 16 18:53    name`; the date is followed by four blanks."""
    found = _NETWARE.match(line)
    if found is None:
        return None
    kind = Kind.DIRECTORY if found[1] == b"d" else Kind.FILE
    mtime, exact = _unix_time(found[3], context)
    return Entry(context.name(line[found.end() :]), kind, _size(found[2]), mtime, exact)


_OS2 = re.compile(
    rb"[ \t]{0,20}(\d{1,19})[ \t]{1,20}((?:[RHSA]{1,4}[ \t]{1,10})?)((?:DIR[ \t]{1,10})?)"
    rb"(\d\d)-(\d\d)-(\d{2,4})[ \t]{1,8}(\d{1,2}:\d\d)[ \t]{1,2}"
)


def _os2(line: bytes, context: _Context) -> _Parsed:
    """`    612      A          07-28-95   16:45  name`; a folder has DIR behind its attributes."""
    found = _OS2.match(line)
    if found is None:
        return None
    year = int(found[6])
    if year < 100 or len(found[6]) == 3:  # 3: programs that print years since 1900
        year += 1900 if year >= _CENTURY_PIVOT else 2000
    try:
        mtime = _midnight(year, int(found[4]), int(found[5])) + _clock(found[7]) - context.zone
    except ValueError:
        mtime = None
    name = context.name(line[found.end() :])
    if found[3]:
        return Entry(name, Kind.DIRECTORY, None, mtime)
    return Entry(name, Kind.FILE, _size(found[1]), mtime)


_AS400 = re.compile(
    rb"\S{1,10}[ \t]{1,40}"
    rb"(?:(\d{1,19})[ \t]{1,20}[\d/.-]{6,10}[ \t]{1,8}\d\d:\d\d:\d\d[ \t]{1,20})?"
    rb"\*([A-Z]{1,10})[ \t]{1,20}(\S.*)"
)
# Objects that hold others: libraries, folders, and files, whose members are what can be read.
_AS400_FOLDERS = {b"DIR", b"DDIR", b"LIB", b"FLR", b"FILE"}


def _as400(line: bytes, context: _Context) -> _Parsed:
    """`QSYS   77824 02/23/00 15:09:55 *DIR   folder/`; `QSYS   *MEM   FILE.MEMBER`."""
    found = _AS400.fullmatch(line)
    if found is None:
        return None
    kind = Kind.DIRECTORY if found[2] in _AS400_FOLDERS else Kind.FILE
    name = context.name(found[3].rstrip(b"/").rpartition(b"/")[2])
    size = _size(found[1]) if found[1] and kind is Kind.FILE else None
    return Entry(name, kind, size)


_MVS_HEADER = re.compile(
    rb" ?(?:Volume {1,9}Unit {1,9}Referred|Name {1,9}VV\.MM|Name {1,9}Size {1,9}TTR) .{0,200}"
)
_MVS_DATASET = re.compile(
    rb"(?:\S{1,6} {1,9}\S{1,8} {1,9}(?:\d{4}/\d\d/\d\d|\*\*NONE\*\*)(?: {1,9}\d{1,9}){2}"
    rb" {1,9}[A-Z]{1,4}(?: {1,9}\d{1,9}){2} {1,9}(PS|PO|PO-E|PS-E|VS|DA|IS)"
    rb"|Migrated|MIGRAT|ARCIVE\b.{0,60}?) {1,80}'?([A-Z0-9@#$.-]{1,44})'?"
)
_MVS_MEMBER = re.compile(
    rb" ?([A-Z@#$][A-Z0-9@#$]{0,7}) {1,9}\d\d\.\d\d(?: {1,9}\d{4}/\d\d/\d\d){2} {1,9}\d\d:\d\d"
    rb"(?: {1,9}\d{1,9}){3} {1,9}\S{1,8} {0,8}"
)


def _mvs(line: bytes, context: _Context) -> _Parsed:
    """Data sets (`B1 3390 2006/03/20 2 31 F 80 80 PS A.B`; PO holds members), and members."""
    if _MVS_HEADER.fullmatch(line):
        return _SKIP
    if dataset := _MVS_DATASET.fullmatch(line):
        folder = (dataset[1] or b"").startswith(b"PO")
        return Entry(context.name(dataset[2]), Kind.DIRECTORY if folder else Kind.FILE)
    if member := _MVS_MEMBER.fullmatch(line):
        return Entry(context.name(member[1]), Kind.FILE)
    return None


_VMS_FRAME = re.compile(
    rb"Directory \S{1,250}:?\[.{0,250}\] ?|Total of \d.{0,200}|Grand total.{0,200}"
)
_VMS_NAME = re.compile(rb"([^\s;]{1,250});\d{1,5}")
_VMS_FACTS = re.compile(
    rb"[ \t]{1,60}\d{1,12}(?:/\d{1,12})?[ \t]{1,20}(\d{1,2})-([A-Za-z]{3})-(\d{4})[ \t]{1,8}"
    rb"(\d{1,2}:\d\d(?::\d\d(?:\.\d\d)?)?).{0,200}"
)


def _vms(line: bytes, context: _Context) -> _Parsed:
    """`NAME.TXT;1   5/6  8-SEP-1999 22:08 [OWNER] (RWED,RE,,)`; a long name has a line of its own.

    The newest version is listed first and stands for the file; sizes are in blocks.
    """
    if _VMS_FRAME.fullmatch(line):
        return _SKIP
    named = _VMS_NAME.match(line)
    begun, context.begun = context.begun, b""
    if named and not line[named.end() :].strip():
        context.begun = named[1]
        return _SKIP
    name, rest = (named[1], line[named.end() :]) if named else (begun, line)
    facts = _VMS_FACTS.fullmatch(rest) if name else None
    if facts is None:
        return None
    try:
        day = _midnight(int(facts[3]), _month(facts[2]), int(facts[1]))
        mtime = day + _clock(facts[4]) - context.zone
    except ValueError:
        mtime = None
    if name.upper().endswith(b".DIR"):
        return Entry(context.name(name[:-4]), Kind.DIRECTORY, None, mtime)
    return Entry(context.name(name), Kind.FILE, None, mtime)


_FORMATS: tuple[_Format, ...] = (_unix, _dos, _eplf, _netware, _os2, _as400, _mvs, _vms)
