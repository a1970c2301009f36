"""Pure: LIST of IBM's systems: data sets and members (z/OS), minidisks (z/VM), objects (IBM i).

z/OS: Communications Server, IP User's Guide and Commands, "DIr subcommand"; the same book describes
the statistics of members, which ISPF keeps. z/VM: TCP/IP User's Guide, "DIR". IBM i: TCP/IP File
Transfer Protocol, "LIST", list format 0.

An object that holds others is a directory: a partitioned data set, a library, a database file.
These systems show sizes in tracks and records, not in bytes. The date of a data set is the date of
its last use; there is no other.
"""

from __future__ import annotations

import re

from ftpfs.ftp.listing.collecting import SKIP, Parsed, Rounded, size_of
from ftpfs.ftp.listing.context import Context
from ftpfs.ftp.listing.dates import clock_at, date_at, ordered
from ftpfs.ftp.listing.times import midnight
from ftpfs.ftp.listing.words import Words
from ftpfs.model.entry import Entry, Kind

_MVS_HEADER = re.compile(
    rb" ?(?:Volume {1,9}(?:Unit|Referred) .{0,200}|Name {1,9}VV\.MM .{0,200}"
    rb"|Name {1,9}Size {1,9}TTR .{0,200}|Data Set Name.{0,200})",
    re.IGNORECASE,
)
_VOLUME = re.compile(rb"[A-Z0-9@#$*?-]{1,6}")
_UNIT = re.compile(rb"[A-Z0-9/*?-]{3,8}", re.IGNORECASE)
_REFERRED = re.compile(rb"(\d{4})/(\d\d)/(\d\d)|\*\*NONE\*\*|[?+*-]{4,10}")
_ORGANISATION = re.compile(rb"PS(?:-[EL])?|PO(?:-E)?|VS(?:AM)?|DA|IS|GDG|\?{2,4}")
# Texts in place of all columns: the data set is archived, or cannot be examined.
_NO_COLUMNS = re.compile(
    rb"(?:Migrated|MIGRAT|ARCIVE(?: Not Direct Access Device)?|Error determining attributes"
    rb"|Not Mounted|(Pseudo Directory))[ \t]{1,80}"
    rb"'?([^\s']{1,64})'?[ \t]*",
    re.IGNORECASE,
)
_ON_A_VOLUME = re.compile(
    rb"[A-Z0-9@#$]{1,6}[ \t]{1,9}(?:Tape|[A-Z0-9]{4}[ \t]{1,9}VSAM)[ \t]{1,80}"
    rb"'?([^\s']{1,64})'?[ \t]*",
    re.IGNORECASE,
)
_MEMBER = rb" ?([A-Z@#$0-9][^\s]{0,63})"
# Name, VV.MM, created, changed (with a time), size, init, mod, id.
_STATISTICS = re.compile(
    _MEMBER + rb" {1,9}\d\d\.\d\d {1,9}\d{4}/\d\d/\d\d {1,9}(\d{4})/(\d\d)/(\d\d) {1,9}"
    rb"(\d\d:\d\d(?::\d\d)?)(?: {1,9}\d{1,9}){3}(?: {1,9}\S{1,8})? {0,8}"
)
# Name, size, TTR, alias-of, AC, attributes, amode, rmode: a load module, its size in hexadecimal.
_LOAD_MODULE = re.compile(_MEMBER + rb" {1,9}([0-9A-F]{6,8}) {1,9}[0-9A-F]{6}(?: .{0,100})?")
_BARE_MEMBER = re.compile(rb" ?([A-Z@#$][A-Z0-9@#$]{0,7}) {0,80}")


def mvs(line: bytes, context: Context) -> Parsed:
    """Data sets (`B1 3390 2006/03/20 2 31 F 80 80 PS A.B`; PO holds members), and members."""
    if _MVS_HEADER.fullmatch(line):
        context.lists_members = b"Name" in line[:6]
        return SKIP
    if special := _NO_COLUMNS.fullmatch(line):
        kind = Kind.DIRECTORY if special[1] else Kind.FILE
        return Entry(context.name(special[2]), kind)
    if on_a_volume := _ON_A_VOLUME.fullmatch(line):
        return Entry(context.name(on_a_volume[1]), Kind.FILE)
    if member := _STATISTICS.fullmatch(line):
        context.lists_members = True
        mtime = _at(context, member[2], member[3], member[4], member[5])
        return Entry(context.name(member[1]), Kind.FILE, None, mtime)
    if module := _LOAD_MODULE.fullmatch(line):
        context.lists_members = True
        return Rounded(Entry(context.name(module[1]), Kind.FILE, int(module[2], 16)))
    return _data_set(line, context)


def bare_member(line: bytes, context: Context) -> Parsed:
    """A member without statistics: only its name."""
    found = _BARE_MEMBER.fullmatch(line)
    return Entry(context.name(found[1]), Kind.FILE) if found else None


def _data_set(line: bytes, context: Context) -> Parsed:
    """Volume, unit, referred, ext, used, recfm, lrecl, blksz, dsorg, dsname.

    Wide columns run into each other, and `????` or `++++` replace numbers that do not fit: anything
    may stand between the date and the organisation.
    """
    words = Words(line)
    count = len(words)
    if count < 6 or not (_VOLUME.fullmatch(words[0]) and _UNIT.fullmatch(words[1])):
        return None
    referred, organisation = (
        _REFERRED.fullmatch(words[2]),
        _ORGANISATION.fullmatch(words[count - 2]),
    )
    if referred is None or organisation is None:
        return None
    mtime = _at(context, referred[1], referred[2], referred[3]) if referred[1] else None
    kind = Kind.DIRECTORY if organisation[0].startswith(b"PO") else Kind.FILE
    return Entry(context.name(words[count - 1].strip(b"'")), kind, None, mtime)


def _at(
    context: Context, year: bytes, month: bytes, day: bytes, clock: bytes = b"00:00"
) -> int | None:
    time = clock_at(Words(clock), 0)
    try:
        return midnight(int(year), int(month), int(day)) + (time[0] if time else 0) - context.zone
    except ValueError:
        return None


_ZVM = re.compile(
    rb"([A-Z0-9@#$+_:-]{1,16})[ \t]{1,12}([A-Z0-9@#$+_:-]{1,8})[ \t]{1,12}"
    rb"(?:([FV])[ \t]{1,12}(\d{1,9})[ \t]{1,12}(\d{1,12})[ \t]{1,12}\d{1,12}"
    rb"|-(?:[ \t]{1,12}-){2,3})"
    rb"[ \t]{1,12}(\S{6,10}[ \t]{1,4}\d{1,2}:\d\d:\d\d)(?:[ \t]{1,8}\S{1,8})?[ \t]*"
)


def zvm(line: bytes, context: Context) -> Parsed:
    """Parse `NOTES    SCRIPT   V     65    107     2 2005-10-04 15:28:42 ANNA191`.

    Columns: name, type, format, record length, records, blocks, date, owner. A directory (SFS) has
    the type DIR.
    """
    found = _ZVM.fullmatch(line)
    if found is None:
        return None
    date = date_at(Words(found[6]), 0, context)
    mtime = date.mtime if date else None
    if found[3] is None:
        kind = Kind.DIRECTORY if found[2] == b"DIR" else Kind.FILE
        return Entry(
            context.name(found[1] if found[2] == b"DIR" else b"%b.%b" % found.group(1, 2)),
            kind,
            None,
            mtime,
        )
    name = context.name(b"%b.%b" % found.group(1, 2))
    return Rounded(Entry(name, Kind.FILE, int(found[4]) * int(found[5]), mtime))


_AS400 = re.compile(
    rb"(\S{1,10})[ \t]{1,40}"
    rb"(?:(\d{1,19})[ \t]{1,20}(\d\d)([/.-])(\d\d)[/.-](\d\d(?:\d\d)?)[ \t]{1,8}"
    rb"(\d\d[:.]\d\d[:.]\d\d)[ \t]{1,20})?"
    rb"\*([A-Z][A-Z0-9]{0,9})[ \t]{1,20}(\S.*)"
)
_AS400_FOLDERS = {b"DIR", b"DDIR", b"LIB", b"FLR"}


def as400(line: bytes, context: Context) -> Parsed:
    """`QSYS   77824 02/23/00 15:09:55 *DIR   folder/`; `QSYS   *MEM   FILE.MEMBER`.

    The order of a date depends on the job's settings: the listing as a whole shows it.
    """
    found = _AS400.fullmatch(line)
    if found is None:
        return None
    raw = found[9]
    # A database file holds members; a save file does not, and its name has no such suffix.
    holds = found[8] in _AS400_FOLDERS or (
        found[8] == b"FILE" and raw.rstrip(b"/").endswith(b".FILE")
    )
    kind = Kind.DIRECTORY if holds or raw.endswith(b"/") else Kind.FILE
    name = context.name(raw.rstrip(b"/").rpartition(b"/")[2])
    mtime = None
    if found[2]:
        year, month, day = ordered(found[3], found[4], found[5], found[6], context.order)
        time = clock_at(Words(found[7].replace(b".", b":")), 0)
        try:
            mtime = midnight(year, month, day) + (time[0] if time else 0) - context.zone
        except ValueError:
            mtime = None
    size = size_of(found[2]) if found[2] and kind is Kind.FILE else None
    return Entry(name, kind, size, mtime)
