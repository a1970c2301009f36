"""Pure: the facts of MLSD and MLST (RFC 3659, section 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from ftpfs.ftp.listing.collecting import (
    LINE_MAX,
    SKIP,
    Collector,
    Decode,
    Parsed,
    decoded,
    link_target,
    size_of,
)
from ftpfs.ftp.listing.times import parse_time_val
from ftpfs.model.entry import Entry, Kind, Listing

_FACT_BLOCK = re.compile(rb"(?:[A-Za-z][^=; ]{0,63}=[^;]*;)+(?=[ \t])")
# pure-ftpd sends a link's target unescaped, including spaces and semicolons. The target ends where
# a known fact begins; only if none follows, the first '; ' ends it.
_SLINK = b"type=os.unix=slink:"
_AFTER_TARGET = re.compile(
    rb";(?:siz[ed]|modify|create|perm|unique|lang|media-type|charset|unix\.[a-z]{1,16})=",
    re.IGNORECASE,
)
_TYPES = {
    b"": Kind.FILE,  # not told, and most names are files
    b"file": Kind.FILE,
    b"dir": Kind.DIRECTORY,
    b"cdir": Kind.DIRECTORY,
    b"pdir": Kind.DIRECTORY,
    b"os.unix=slink": Kind.LINK,  # target unknown
    b"os.unix=slink:": Kind.LINK,  # _split_facts removes the target
    b"os.unix=symlink": Kind.LINK,
}


def parse_mlsd(lines: Iterable[bytes], decode: Decode) -> Listing:
    """Parse an MLSD listing (RFC 3659, 7.2): one line per element, with or without line ends.

    A type=cdir with a plain name is the listed directory under its own name (RFC 3659, 7.7), or,
    from an old proftpd, a child that happens to be the working directory (its bug 4198). It counts
    as a child if another line already describes the directory itself.
    """
    found = Collector()
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

    Its name is the path's last component: '' if there is none ('/', '.'). None if `line` has
    another format.
    """
    line = line.rstrip(b"\r\n")
    parts = _split_facts(line[1:] if line[:1] == b" " else line)
    if parts is None or len(line) > LINE_MAX:
        return None
    facts, target, path = parts
    raw = path.rstrip(b"/").rpartition(b"/")[2]
    name = decoded(decode, raw)
    if "\0" in name or "/" in name or not path or (raw and not name):
        return None
    name = "" if name in (".", "..") else name
    return _fact_entry(_facts(facts), name, link_target(decode, target))


@dataclass(frozen=True, slots=True)
class _PlainCdir:
    entry: Entry


def _mlsd_line(line: bytes, decode: Decode) -> Parsed | _PlainCdir:
    parts = _split_facts(line)
    if parts is None:
        return None
    facts = _facts(parts[0])
    type_ = facts.get(b"type")
    if type_ == b"pdir":
        return SKIP
    entry = _fact_entry(facts, decoded(decode, parts[2]), link_target(decode, parts[1]))
    if type_ != b"cdir" or entry.name == ".":
        return entry
    if not entry.name or "/" in entry.name:
        return replace(entry, name=".")  # '' or the full path: certainly the directory itself
    return _PlainCdir(entry)


def facts_line(line: bytes, decode: Decode) -> Parsed:
    """A line of MLSD that came in reply to LIST."""
    if b"type=" not in line[: line.find(b" ")].lower():
        return None
    parsed = _mlsd_line(line, decode)
    return replace(parsed.entry, name=".") if isinstance(parsed, _PlainCdir) else parsed


def _split_facts(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """(facts in lower case, link target, name); None if `line` has another format."""
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
    """(facts in lower case, name): the two sides of the first space (RFC 3659, 7.2).

    No fact may hold a space, but proftpd's do: `UNIX.groupname=domain users;`. So if the first
    space does not follow a semicolon, the name begins after the last text that has the form of a
    fact.
    """
    facts, space, name = line.partition(b" ")
    if facts and facts[-1:] != b";" and (block := _FACT_BLOCK.match(line)):
        facts, name = block[0], line[block.end() + 1 :]
    # A line without facts is legal; a line that starts with a word instead is no MLSD line.
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
    size = size_of(facts.get(b"size") or facts.get(b"sizd") or b"")
    mode = octal(facts.get(b"unix.mode", b""))
    return Entry(name, kind, size, mtime, mtime is not None, mode, target)


def _modify(value: bytes) -> int | None:
    try:
        return parse_time_val(value.decode("latin-1"))
    except ValueError:
        return None


@lru_cache(maxsize=512)
def octal(digits: bytes) -> int | None:
    """Permission bits from octal digits, without the file type that some servers put in front."""
    try:
        return int(digits, 8) & 0o7777
    except ValueError:
        return None
