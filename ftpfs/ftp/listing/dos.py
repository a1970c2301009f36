"""Pure: LIST in the format of DOS's `dir`: IIS, and other servers for Windows."""

from __future__ import annotations

import re

from ftpfs.ftp.listing.collecting import SIZE_MAX, Parsed, link_target
from ftpfs.ftp.listing.context import Context
from ftpfs.ftp.listing.dates import ordered
from ftpfs.ftp.listing.times import clock_of, midnight
from ftpfs.model.entry import Entry, Kind

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


def dos(line: bytes, context: Context) -> Parsed:
    """`01-31-24  12:00PM       <DIR>          name`, or a size and one space before the name."""
    found = _DOS.match(line)
    if found is None:
        return None
    tag, rest = found[7], line[found.end() :]
    mtime = _dos_time(found, context)
    if not tag.startswith(b"<"):
        size = int(re.sub(rb"\D", b"", tag))
        return Entry(context.name(rest), Kind.FILE, size if size <= SIZE_MAX else None, mtime)
    kind = _DOS_KINDS.get(tag.upper(), Kind.OTHER)
    name, target = _dos_name(rest, _DOS_TAG_WIDTH - len(tag) - 1), None
    if kind is Kind.LINK and name.endswith(b"]"):
        name, _, target = name[:-1].rpartition(b" [")
    link = link_target(context.decode, target) if target else None
    return Entry(context.name(name), kind, None, mtime, target=link)


def _dos_name(text: bytes, padding: int) -> bytes:
    """The name behind a tag: after the whole padding if it is there, else from its first letter."""
    if len(text) > padding and not text[:padding].strip(b" "):
        return text[padding:]
    return text.lstrip(b" ")


def _dos_time(found: re.Match[bytes], context: Context) -> int | None:
    """The time of a `_DOS` match, None if there is no such day or time."""
    half = (found[6] or b"").upper()
    try:
        year, month, day = ordered(found[1], found[2], found[3], found[4], context.order)
        clock = clock_of(found[5])
        if half:
            # 12AM is midnight and 12PM is noon
            clock = clock % 43200 + (43200 if half == b"P" else 0)
        return midnight(year, month, day) + clock - context.zone
    except ValueError:
        return None
