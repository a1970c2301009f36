"""Pure: LIST of OpenVMS, in the format of its DIRECTORY command.

The OpenVMS DCL Dictionary describes it. Multinet, UCX and TCPware send it, each with qualifiers of
its own. A size, a date, an owner and protections follow the name in any order. A name that fills
its column has a line of its own.
"""

from __future__ import annotations

import re

from ftpfs.ftp.listing.collecting import SKIP, Parsed, Rounded
from ftpfs.ftp.listing.context import Context
from ftpfs.ftp.listing.dates import date_at
from ftpfs.ftp.listing.words import Words, size_in
from ftpfs.model.entry import Entry, Kind

_FRAME = re.compile(
    rb"Directory .{0,200}[\]:].{0,50}|(?:Grand )?Total of \d.{0,200}|Grand total.{0,200}",
    re.IGNORECASE,
)
_NAME = re.compile(rb"([^;\x00-\x1f\x7f]{1,250};\d{1,5})(?=[ \t]|$)")
_BLOCK = 512
# Blocks used, or used/allocated; or a number with its unit.
_BLOCKS = re.compile(rb"(\d{1,12})(?:/\d{1,12})?")
_IN_BYTES = re.compile(rb"\d{1,12}(?:[.,]\d{1,3})?[KMGT]?B", re.IGNORECASE)
_OWNER = re.compile(rb"\[[^\]]{0,80}\]?|[^\]]{0,80}\]")
_PROTECTION = re.compile(rb"\([RWEDrwed, ]{0,40}\)?|[RWEDrwed, ]{0,40}\)")
_PLAIN_OWNER = re.compile(rb"[A-Z$_][A-Z0-9$_,]{0,31}")
# "No privilege for attempted operation": the file exists, and no facts about it are shown.
_NOTHING_TOLD = re.compile(
    rb"[ \t]{1,60}%?(?:[A-Z-]{1,20}, )?(?:no privilege|insufficient).{0,200}", re.I
)


def vms(line: bytes, context: Context) -> Parsed:
    """`NAME.TXT;1   5/6  8-SEP-1999 22:08 [OWNER] (RWED,RE,,)`, the columns in any order.

    If the listing has DIRECTORY's frame, the newest version comes first and stands for the file.
    Without the frame, the name keeps its version number, because nothing shows that the server
    accepts a name without one. Sizes are in blocks.
    """
    if _FRAME.fullmatch(line):
        context.framed = True
        return SKIP
    named = _NAME.match(line)
    begun, context.begun = context.begun, b""
    if named and not line[named.end() :].strip():
        context.begun = named[1]
        return SKIP
    if not named and line[:1] not in b" \t":
        return None  # what belongs to the line above is indented
    name, rest = (named[1], line[named.end() :]) if named else (begun, line)
    if not name:
        return None
    if _NOTHING_TOLD.fullmatch(rest):
        return _entry(name, None, None, context)
    return _with_facts(name, Words(rest), context)


def _with_facts(name: bytes, words: Words, context: Context) -> Parsed:
    size, mtime, dated, at = None, None, False, 0
    while at < len(words):
        word = words[at]
        date = None if dated else date_at(words, at, context)
        if date is not None:
            mtime, dated = date.mtime, True
            at += date.words
            continue
        blocks = _BLOCKS.fullmatch(word)
        if size is None and blocks:
            size = int(blocks[1]) * _BLOCK
        elif size is None and _IN_BYTES.fullmatch(word) and (told := size_in(word)):
            size = told.value
        elif not (
            _OWNER.fullmatch(word) or _PROTECTION.fullmatch(word) or _PLAIN_OWNER.fullmatch(word)
        ):
            return None
        at += 1
    return _entry(name, size, mtime, context) if dated or size is not None else None


def _entry(name: bytes, size: int | None, mtime: int | None, context: Context) -> Parsed:
    bare = name.rpartition(b";")[0]
    if bare.upper().endswith(b".DIR"):
        return Entry(context.name(bare[:-4]), Kind.DIRECTORY, None, mtime)
    if context.framed:
        name = bare
    entry = Entry(context.name(name), Kind.FILE, size, mtime)
    return entry if size is None else Rounded(entry)
