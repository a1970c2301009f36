"""Pure: LIST of systems with a table of their own, unlike those of Unix and DOS.

OS/2 (IBM TCP/IP for OS/2), NetWare (Novell's ftpserv), HP NonStop (TCP/IP Applications User Guide:
in the format of FUP INFO), OS-9 (Microware, `dir -e`), VxWorks (Wind River's `ll`, also in Nortel's
switches), Nortel's routers (wfFtp), and VShell (VanDyke). Each line is matched as a whole.
"""

from __future__ import annotations

import re

from ftpfs.ftp.listing.collecting import SKIP, Parsed, size_of
from ftpfs.ftp.listing.context import Context
from ftpfs.ftp.listing.dates import date_at, full_year, ordered
from ftpfs.ftp.listing.times import clock_of, midnight
from ftpfs.ftp.listing.unix import date_in_unix
from ftpfs.ftp.listing.words import Words, size_in
from ftpfs.model.entry import Entry, Kind

_NETWARE = re.compile(
    rb"([-d])[ \t]?\[[-RWCEMFAS ]{8}\][ \t]{1,20}\S{1,64}[ \t]{1,40}(\d{1,19})[ \t]{1,20}"
    rb"([A-Za-z]{3}[ \t]{1,4}\d{1,2}[ \t]{1,4}(?:\d{1,2}:\d\d|\d{4}))(?:[ \t]{4}|[ \t])"
)


def netware(line: bytes, context: Context) -> Parsed:
    """`d [RWCEAFMS] owner   512 Jan 16 18:53    name`; four blanks follow the date."""
    found = _NETWARE.match(line)
    if found is None:
        return None
    kind = Kind.DIRECTORY if found[1] == b"d" else Kind.FILE
    mtime, exact = date_in_unix(found[3], context)
    return Entry(context.name(line[found.end() :]), kind, size_of(found[2]), mtime, exact)


_OS2 = re.compile(
    rb"[ \t]{0,40}(\d{1,19})[ \t]{1,20}((?:(?:[RHSA]{1,4}|DIR)[ \t]{1,20}){0,3})"
    rb"(\d\d)-(\d\d)-(\d{2,4})[ \t]{1,8}(\d{1,2}:\d\d)[ \t]{1,2}"
)


def os2(line: bytes, context: Context) -> Parsed:
    """`    612      A          07-28-95   16:45  name`; a folder has DIR among its attributes."""
    found = _OS2.match(line)
    if found is None:
        return None
    try:
        day = midnight(full_year(found[5]), int(found[3]), int(found[4]))
        mtime = day + clock_of(found[6]) - context.zone
    except ValueError:
        mtime = None
    name = context.name(line[found.end() :])
    if b"DIR" in found[2]:
        return Entry(name, Kind.DIRECTORY, None, mtime)
    return Entry(name, Kind.FILE, size_of(found[1]), mtime)


_NONSTOP_HEADER = re.compile(
    rb"[ \t]{0,20}(?:File|Name) {1,20}Code {1,20}EOF {1,20}Last.{0,100}"
    rb"|[ \t]{0,4}(?:\\[A-Z0-9]{1,8}\.)?\$[A-Z0-9]{1,8}\.[A-Z0-9]{1,8}",
    re.IGNORECASE,
)
_NONSTOP = re.compile(
    rb"[ \t]{0,4}([A-Z0-9]\S{0,31})[ \t]{1,12}(?:[A-Z?*+]{1,3}[ \t]{1,8})?(\d{1,5})[A-Z+*]{0,2}"
    rb"[ \t]{1,20}(\d{1,15})[ \t]{1,20}"
    rb"(?:(\d{1,2}-[A-Z]{3}-\d\d(?:\d\d)?)[ \t]{1,8})?(\d{1,2}:\d\d(?::\d\d)?)"
    rb"[ \t]{1,20}\*?\d{1,3},[ \t]{0,3}\d{1,3}[ \t]{1,12}\"?[A-Z*-]{4}\"?[ \t]*.{0,40}",
    re.IGNORECASE,
)


def nonstop(line: bytes, context: Context) -> Parsed:
    """Parse `DATAFILE   101     528  6-Apr-07 14:21:18 255,  0 "oooo"`.

    Columns: name, code, end of file, date, owner, security. FUP omits today's date.
    """
    if _NONSTOP_HEADER.fullmatch(line):
        return SKIP
    found = _NONSTOP.fullmatch(line)
    if found is None:
        return None
    mtime = None
    if found[4]:
        date = date_at(Words(found[4] + b" " + found[5]), 0, context)
        mtime = date.mtime if date else None
    return Entry(context.name(found[1]), Kind.FILE, size_of(found[3]), mtime)


_OS9 = re.compile(
    rb"[ \t]{0,8}\d{1,5}\.\d{1,5}[ \t]{1,12}(\d{2,4})/(\d\d)/(\d\d)"
    rb"[ \t]{1,8}(\d\d):?(\d\d)[ \t]{1,12}([-ds])[-dsewr]{6,7}"
    rb"[ \t]{1,20}[0-9A-Fa-f]{1,8}[ \t]{1,20}(\d{1,15})[ \t]"
)
_OS9_HEADER = re.compile(
    rb"[ \t]{0,40}(?:Directory of .{0,200}|Owner {1,12}Last modified .{0,200}|[- ]{20,200})"
)


def os9(line: bytes, context: Context) -> Parsed:
    """Parse `  0.0   07/03/29 1026  d-ewrewr   2650    85920 name`.

    Columns: owner, date (year first), time, attributes, sector, bytes, name.
    """
    if _OS9_HEADER.fullmatch(line):
        return SKIP
    found = _OS9.match(line)
    if found is None:
        return None
    try:
        day = midnight(full_year(found[1]), int(found[2]), int(found[3]))
        mtime = day + clock_of(found[4] + b":" + found[5]) - context.zone
    except ValueError:
        mtime = None
    kind = Kind.DIRECTORY if found[6] == b"d" else Kind.FILE
    return Entry(context.name(line[found.end() :]), kind, size_of(found[7]), mtime)


_WFFTP = re.compile(
    rb"(\S.{0,250}?)[ \t]{1,80}(\d{1,15})[ \t]{1,20}(\d\d)/(\d\d)/(\d\d(?:\d\d)?)[ \t]{1,8}"
    rb"[A-Z][a-z]{2,8}\.?[ \t]{1,8}(\d\d:\d\d:\d\d)[ \t]*"
)
_WFFTP_HEADER = re.compile(
    rb"[ \t]{0,20}(?:File Name {1,40}Size.{0,80}|Volume - drive.{0,80}|Directory of .{0,80}"
    rb"|-{6,60}[- ]{0,80}|\d{1,15} bytes? - .{0,80}|Contiguous free space.{0,80}|Total .{0,80})",
    re.IGNORECASE,
)


def wfftp(line: bytes, context: Context) -> Parsed:
    """`config       1014196  06/03/04  Thur.   10:20:03`: name, bytes, date, weekday, time."""
    if _WFFTP_HEADER.fullmatch(line):
        return SKIP
    found = _WFFTP.fullmatch(line)
    if found is None:
        return None
    try:
        year, month, day = ordered(found[3], b"/", found[4], found[5], context.order)
        mtime = midnight(year, month, day) + clock_of(found[6]) - context.zone
    except ValueError:
        mtime = None
    return Entry(context.name(found[1]), Kind.FILE, size_of(found[2]), mtime)


_VXWORKS_HEADER = re.compile(
    rb"[ \t]{0,20}size {1,20}date {1,20}time.{0,60}|[ \t]{0,20}-{4}[- \t]{4,120}", re.I
)
_DIR_TAG = b"<DIR>"


def size_first(line: bytes, context: Context) -> Parsed:
    """Lines that begin with a size.

    `206876  Apr 04, 2000 21:06 name` (VShell, folders end with a slash), and
    `   2048    Feb-28-1998  05:23:30   name   <DIR>` (VxWorks).
    """
    if _VXWORKS_HEADER.fullmatch(line):
        return SKIP
    words = Words(line)
    if not words[0].isdigit() or (size := size_in(words[0])) is None:
        return None
    date = date_at(words, 1, context)
    if date is None or not date.dated or date.words < 2 or len(words) < 2 + date.words:
        return None
    name, kind = words.after(date.words), Kind.FILE
    if b"-" in words[1]:  # VxWorks also pads the column behind the name
        name = name.strip(b" \t")
        if name.endswith(_DIR_TAG):
            name, kind = name[: -len(_DIR_TAG)].rstrip(b" \t"), Kind.DIRECTORY
    elif name.endswith(b"/"):
        name, kind = name[:-1], Kind.DIRECTORY
    count = size.value if kind is Kind.FILE else None
    return Entry(context.name(name), kind, count, date.mtime)
