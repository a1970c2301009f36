"""Listings in the formats of servers: each dialect renders the same files, with the facts it has.

Owns: the dialects' grammars, written a second time, from their documentation and not from the
parser. Knows nothing of ftpfs. The unit tests and `scripts/fuzz` use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from random import Random


@dataclass(frozen=True)
class File:
    name: str
    is_directory: bool
    size: int
    when: datetime  # UTC, whole minutes


@dataclass(frozen=True)
class Dialect:
    """How one kind of server writes a listing: the lines of each file, between frame lines."""

    write: Callable[[File], list[str]]
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    strict_names: bool = False  # upper-case letters and digits only, 8 at most
    typed_names: bool = False  # two of those, joined by a point
    directories: bool = True
    sizes: bool = True  # in bytes
    clock: bool = True  # to the minute; else days
    dates: bool = True
    encoding: str = "utf-8"

    def shown(self, file: File) -> int | None:
        """The time that the listing shows, in seconds since the epoch."""
        if not self.dates:
            return None
        when = file.when if self.clock else file.when.replace(hour=0, minute=0)
        return int(when.timestamp())

    def lines_of(self, file: File) -> list[bytes]:
        return [line.encode(self.encoding, "surrogateescape") for line in self.write(file)]


def listing(dialect: Dialect, files: Sequence[File]) -> list[bytes]:
    """The whole listing, with its frame."""
    frame = [[line.encode() for line in lines] for lines in (dialect.before, dialect.after)]
    return [*frame[0], *(line for each in files for line in dialect.lines_of(each)), *frame[1]]


def _mode(file: File) -> str:
    return "drwxr-xr-x" if file.is_directory else "-rw-r--r--"


def _unix(date: str, *, size: str = "{0}") -> Callable[[File], list[str]]:
    def write(file: File) -> list[str]:
        told, when = size.format(file.size), file.when.strftime(date)
        return [f"{_mode(file)}   1 jan      users    {told:>12} {when} {file.name}"]

    return write


def _months(names: str, date: str) -> Callable[[File], list[str]]:
    """`ls` in another language: {0} is the day, {1} the month, {2} the year."""
    words = names.split()

    def write(file: File) -> list[str]:
        when = date.format(file.when.day, words[file.when.month - 1], file.when.year)
        return [f"{_mode(file)} 1 jan users {file.size} {when} {file.name}"]

    return write


def _dos(date: str) -> Callable[[File], list[str]]:
    def write(file: File) -> list[str]:
        what = "<DIR>         " if file.is_directory else f"{file.size:>14}"
        return [f"{file.when.strftime(date)}       {what} {file.name}"]

    return write


def _os2(file: File) -> list[str]:
    size, attributes = (0, "DIR") if file.is_directory else (file.size, "A  ")
    return [
        f"{size:>18}      {attributes}    {file.when:%m-%d-%y}   {file.when:%H:%M}  {file.name}"
    ]


def _netware(file: File) -> list[str]:
    letter = "d" if file.is_directory else "-"
    return [f"{letter} [RWCEAFMS] anna  {file.size:>18}       {file.when:%b %d  %Y}    {file.name}"]


def _vms_date(file: File) -> str:
    return f"{file.when.day:>2}-{file.when:%b-%Y %H:%M:%S}".upper() + ".00"


def _vms(file: File) -> list[str]:
    name = f"{file.name}.DIR;1" if file.is_directory else f"{file.name};3"
    blocks = f"{-(-file.size // 512)}/{-(-file.size // 512) + 3}"
    facts = f"{blocks:>14}  {_vms_date(file)}  [STAFF,ANNA]   (RWED,RWED,RE,)"
    return [f"{name:<19}{facts}"] if len(name) < 19 else [name, f"{'':<19}{facts}"]


def _vms_owner_first(file: File) -> list[str]:
    name = f"{file.name}.DIR;1" if file.is_directory else f"{file.name};3"
    return [f"{name:<30} [ANNA]   (RWED,RWED,RE,)  {_vms_date(file)}  {-(-file.size // 512):>8}"]


def _mvs(file: File) -> list[str]:
    kind = "PO" if file.is_directory else "PS"
    used = "????" if file.size > 9999 else str(file.size)
    return [
        f"WORK01 3390   {file.when:%Y/%m/%d}  1 {used:>4}  FB      80 27920  {kind}  {file.name}"
    ]


def _mvs_member(file: File) -> list[str]:
    changed = f"{file.when:%Y/%m/%d %H:%M}"
    return [f" {file.name:<8}  01.07 2001/02/03 {changed} {file.size % 99999:>5}    10     0 ANNA"]


def _zvm(file: File) -> list[str]:
    name, _, type_ = file.name.partition(".")
    return [
        f"{name:<8} {type_:<8} V  {80:>9} {file.size:>8} {7:>8} {file.when:%Y-%m-%d %H:%M:%S} A191"
    ]


def _as400(file: File) -> list[str]:
    type_, end = ("*DIR", "/") if file.is_directory else ("*STMF", "")
    when = f"{file.when:%d.%m.%y %H:%M:%S}"
    return [f"ANNA     {file.size:>12} {when} {type_:<10} {file.name}{end}"]


def _nonstop(file: File) -> list[str]:
    date = f"{file.when.day}-{file.when:%b-%y %H:%M:%S}"
    return [f'{file.name:<10}  101 {file.size:>18} {date:>19} 100, 12 "nunu"']


def _os9(file: File) -> list[str]:
    attributes = "d-ewrewr" if file.is_directory else "----r-wr"
    when = f"{file.when:%y/%m/%d %H%M}"
    return [f"  12.7    {when}   {attributes}     {0x2650:>5X} {file.size:>12} {file.name}"]


def _vxworks(file: File) -> list[str]:
    tag = "  <DIR>" if file.is_directory else ""
    return [f"{file.size:>10}    {file.when:%b-%d-%Y  %H:%M:%S}   {file.name:<16}{tag}"]


def _wfftp(file: File) -> list[str]:
    return [f"{file.name:<20} {file.size:>10}  {file.when:%m/%d/%y  %a.   %H:%M:%S}"]


def _vshell(file: File) -> list[str]:
    end = "/" if file.is_directory else ""
    return [f"{file.size}  {file.when:%b %d, %Y %H:%M} {file.name}{end}"]


def _eplf(file: File) -> list[str]:
    kind = "/" if file.is_directory else f"r,s{file.size}"
    return [f"+i837.12,m{int(file.when.timestamp())},{kind},\t{file.name}"]


def _octal(file: File) -> list[str]:
    mode = "0040755" if file.is_directory else "0100644"
    when = int(file.when.timestamp())
    return [f"{mode}   500  101  {file.size:>10}   {when}       {file.name}"]


_JAPANESE = " ".join(f"{month}月" for month in range(1, 13))
_HUNGARIAN = "jan febr márc ápr máj jún júl aug szept okt nov dec"
_GERMAN = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"


def _vms_listing(write: Callable[[File], list[str]]) -> Dialect:
    before, after = ("", "Directory DISK$USER:[ANNA]", ""), ("", "Total of 9 files.")
    return Dialect(write, before, after, strict_names=True, sizes=False)


DIALECTS: dict[str, Dialect] = {
    "unix with years": Dialect(_unix("%b %d  %Y"), before=("total 12",), clock=False),
    "unix, long-iso": Dialect(_unix("%Y-%m-%d %H:%M")),
    "unix, full-iso": Dialect(_unix("%Y-%m-%d %H:%M:%S.000000000 +0000")),
    "unix, slashes": Dialect(_unix("%Y/%m/%d %H:%M")),
    "unix, points": Dialect(_unix("%d.%m.%Y %H:%M")),
    "unix, a day alone": Dialect(_unix("%Y.%m.%d"), clock=False),
    "unix, year and time": Dialect(_unix("%b %d, %Y %H:%M")),
    "unix, year and half a day": Dialect(_unix("%b %d, %Y %I:%M%p")),
    "unix, short month": Dialect(_unix("%d-%b-%y"), clock=False),
    "unix, thousands": Dialect(_unix("%b %d  %Y", size="{0:,}"), clock=False),
    "unix without dates": Dialect(
        lambda file: [f"{_mode(file)} 1 jan users {file.size} {file.name}"], dates=False
    ),
    "unix with blocks and inodes": Dialect(
        lambda file: ["123456  8 " + _unix("%b %d  %Y")(file)[0]], clock=False
    ),
    "unix, Japanese": Dialect(_months(_JAPANESE, "{2}年 {1} {0}日"), clock=False),
    "unix, Shift-JIS": Dialect(
        _months(_JAPANESE, "{1} {0}日 {2}年"), clock=False, encoding="shift_jis"
    ),
    "unix, Hungarian": Dialect(_months(_HUNGARIAN, "{1} {0} {2}"), clock=False),
    "unix, German": Dialect(_months(_GERMAN, "{0}. {1} {2}"), clock=False),
    "unix, numbers": Dialect(_octal),
    "dos": Dialect(_dos("%m-%d-%y  %I:%M%p")),
    "dos, long years": Dialect(_dos("%Y-%m-%d  %H:%M")),
    "dos, German": Dialect(_dos("%d.%m.%Y  %H:%M")),
    "os/2": Dialect(_os2),
    "netware": Dialect(_netware, clock=False),
    "eplf": Dialect(_eplf),
    "vshell": Dialect(_vshell),
    "vms": _vms_listing(_vms),
    "vms, owner first": _vms_listing(_vms_owner_first),
    "mvs": Dialect(
        _mvs,
        before=("Volume Unit    Referred Ext Used Recfm Lrecl BlkSz Dsorg Dsname",),
        strict_names=True,
        sizes=False,
        clock=False,
    ),
    "mvs members": Dialect(
        _mvs_member,
        before=(" Name     VV.MM   Created       Changed      Size  Init   Mod   Id",),
        strict_names=True,
        directories=False,
        sizes=False,
    ),
    "mvs members without statistics": Dialect(
        lambda file: [f" {file.name}"],
        before=(" Name     VV.MM   Created       Changed      Size  Init   Mod   Id",),
        strict_names=True,
        directories=False,
        sizes=False,
        dates=False,
    ),
    "z/vm": Dialect(_zvm, directories=False, sizes=False, typed_names=True),
    "ibm i": Dialect(_as400),
    "nonstop": Dialect(
        _nonstop,
        before=(
            "$WORK.ANNA",
            "",
            "File         Code             EOF   Last Modification Owner RWEP",
        ),
        strict_names=True,
        directories=False,
    ),
    "os-9": Dialect(
        _os9,
        before=(
            "                            Directory of . 14:25:32",
            " Owner    Last modified  Attributes Sector Bytecount Name",
            "-------   -------------  ---------- ------ --------- ----",
        ),
    ),
    "vxworks": Dialect(
        _vxworks,
        before=(
            "  size          date       time       name",
            "--------       ------     ------    ----",
        ),
    ),
    "wfftp": Dialect(_wfftp, directories=False),
}


# Some files, and a listing of them with an odd line.

_LETTERS = "abcxyzABCXYZ0123456789-_.,()'+=äßж日"
_STRICT = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_EARLIEST, _LATEST = (
    int(datetime(year, 1, 1, tzinfo=timezone.utc).timestamp()) for year in (1990, 2031)
)


def some_files(random: Random, dialect: Dialect) -> list[File]:
    """Two to six files with names that the dialect can express."""
    names = {_name(random, dialect) for _ in range(random.randrange(2, 7))}
    return [
        File(
            name,
            dialect.directories and random.random() < 0.3,
            random.randrange(10 ** random.randrange(1, 10)),
            datetime.fromtimestamp(
                random.randrange(_EARLIEST, _LATEST) // 60 * 60, tz=timezone.utc
            ),
        )
        for name in sorted(names)
    ]


def _name(random: Random, dialect: Dialect) -> str:
    def word(letters: str, most: int) -> str:
        return "".join(random.choice(letters) for _ in range(random.randrange(1, most + 1)))

    if dialect.typed_names:
        return f"{word(_STRICT, 8)}.{word(_STRICT, 8)}"
    if dialect.strict_names or dialect.encoding != "utf-8":
        return word(_STRICT, 8)
    name = " ".join(word(_LETTERS, 8) for _ in range(random.randrange(1, 4)))
    return name if name.strip(".") else "x" + name


@dataclass(frozen=True)
class Damaged:
    """A listing with an odd line, and the files that the other lines describe."""

    lines: list[bytes]
    odd: list[bytes]  # the lines of the file that should be there
    others: list[File]

    def check(self, found: Mapping[str, bool]) -> None:
        """Check the result: the other files are there, with the right kinds.

        `found`: the names that were read, and whether each is a directory. A file may differ if the
        odd line contains its name too.
        """
        for file in self.others:
            if any(file.name.encode() in line for line in self.odd):
                continue
            assert file.name in found, (file, self.lines, found)
            assert found[file.name] == file.is_directory, (file, self.lines)
        assert len(found) <= len(self.others) + len(self.odd), (self.lines, found)


def damaged(random: Random, dialect: Dialect) -> Damaged:
    """A listing of the dialect with one odd line."""
    files = some_files(random, dialect)
    victim = files.pop(random.randrange(len(files)))
    odd = dialect.lines_of(victim)
    which = random.randrange(len(odd))
    odd[which] = random.choice(_DAMAGES)(odd[which], random.randrange(200))
    at = random.randrange(len(files) + 1)
    before = [line for file in files[:at] for line in dialect.lines_of(file)]
    after = [line for file in files[at:] for line in dialect.lines_of(file)]
    frame = [[line.encode() for line in part] for part in (dialect.before, dialect.after)]
    return Damaged([*frame[0], *before, *odd, *after, *frame[1]], odd, files)


_DAMAGES: tuple[Callable[[bytes, int], bytes], ...] = (
    lambda line, where: line[: where % (len(line) + 1)],
    lambda line, _: line.replace(b" ", b"\t", 1),
    lambda line, _: b"\t".join(line.split()),
    lambda line, where: line.replace(b" ", b"   ", 1 + where % 9),
    lambda line, where: b" ".join(
        word for number, word in enumerate(line.split(b" ")) if number != where % 9
    ),
    lambda line, where: line[: where % (len(line) + 1)] + b"\xff\x00\x07?" + line[5:],
    lambda line, where: line[: where % (len(line) + 1)] + b"31" + line[where % (len(line) + 1) :],
    lambda line, _: re.sub(rb"(\d\d:\d\d)", rb"\1AM", line, count=1),
    lambda _line, _where: b"ls: cannot access 'odd': Input/output error",
    lambda _line, _where: b"05-17-19  04:05PM       <DIR>          odd one out",
    lambda _line, _where: b"-rw-r--r--   1 jan users     5 Jan 31 10:11AM odd one out",
)
