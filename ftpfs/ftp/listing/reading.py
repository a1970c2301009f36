"""Pure: parses the output of LIST, in any dialect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ftpfs.ftp.listing.collecting import SKIP, Collector, Decode, Parsed, Rounded
from ftpfs.ftp.listing.context import Context, Format, context_at
from ftpfs.ftp.listing.dos import dos
from ftpfs.ftp.listing.eplf import eplf
from ftpfs.ftp.listing.facts import facts_line
from ftpfs.ftp.listing.mainframe import as400, bare_member, mvs, zvm
from ftpfs.ftp.listing.sized import netware, nonstop, os2, os9, size_first, wfftp
from ftpfs.ftp.listing.unix import PLAIN_LINE, TOTAL, date_in_unix, permissions_of, unix
from ftpfs.ftp.listing.unixlike import octal_mode, unix_like
from ftpfs.ftp.listing.vms import vms
from ftpfs.model.entry import Entry, Kind, Listing


def parse_list(lines: Iterable[bytes], decode: Decode, now: float, zone: int = 0) -> Listing:
    """Parse the output of LIST, in any dialect; lines as for `parse_mlsd`.

    `now` is the time in seconds since the epoch. `zone` is the number of seconds by which the
    server's clock in LIST is ahead of UTC; it is subtracted from every time without a zone of its
    own.

    A time without a year ('Jan 31 12:00') gets the most recent year that does not put it more than
    a day after the server's `now`. ls omits the year for the last six months, some servers for the
    last twelve; the day allows for wrong clocks and zones. A 29 February goes back to the last leap
    year that fits.
    """
    kept = list(lines)
    context = context_at(decode, now, zone)
    found = _read(kept, context, _FORMATS)
    if order := context.order.revised():
        context = replace(context_at(decode, now, zone), order=order)
        found = _read(kept, context, _FORMATS)
    dated = sum(entry.mtime is not None for entry in found.entries)
    if columns := context.columns.revised(dated):
        context = replace(context_at(decode, now, zone), order=context.order, columns=columns)
        found = _read(kept, context, _FORMATS)
    if found.rejected and _are_members(kept, context, found):
        found = _read(kept, context_at(decode, now, zone), (*_FORMATS, bare_member))
    return _without_padding(found)


def parse_list_data(data: bytes, decode: Decode, now: float, zone: int = 0) -> Listing:
    """`parse_list` of the whole output of LIST, as bytes.

    A listing in the format of `ls -l`, in English and without oddities, is read by one pattern, at
    2 us a line.
    """
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if TOTAL.match(data):
        lines, data = lines[1:], data[data.index(b"\n") + 1 :]
    fields = PLAIN_LINE.findall(data)
    if len(fields) != len(lines):
        return parse_list(lines, decode, now, zone)
    context = context_at(decode, now, zone)
    found = Collector()
    take, times = found.take, context.times
    for line, (letter, permissions, digits, date_text, raw) in zip(lines, fields, strict=True):
        if letter == b"l" or b"/" in raw:
            found.add(unix(line.rstrip(b"\r"), context), line)
            continue
        when = times.get(date_text)
        if when is None:
            when = times[date_text] = date_in_unix(date_text, context)
        kind = Kind.FILE if letter == b"-" else Kind.DIRECTORY
        mode = permissions_of(permissions)
        take(Entry(context.name(raw), kind, int(digits), when[0], when[1], mode), line)
    return _without_padding(found.listing())


def _read(lines: Iterable[bytes], context: Context, formats: Sequence[Format]) -> Listing:
    found = Collector()
    recent = formats[0]
    for line in found.clean(lines):
        parsed = recent(line, context)
        if parsed is None:
            reader, parsed = _first_to_understand(line, context, recent, formats)
            # If entries were read already, a frame or the first half of an entry is no reason to
            # switch the dialect: an odd line that looks like one would swallow the next entry.
            if parsed is not SKIP or not found.has_entries():
                recent = reader
        found.add(parsed, line)
    return found.listing()


def _first_to_understand(
    line: bytes, context: Context, recent: Format, formats: Sequence[Format]
) -> tuple[Format, Parsed]:
    """The dialect to try first from now on, and the result of the first dialect that reads `line`.

    The first stays `recent` if `line` is in a dialect that also reads odd lines among ordinary
    ones.
    """
    for each in formats:
        if each is not recent and (parsed := each(line, context)) is not None:
            return (recent if each in _LENIENT else each), parsed
    return recent, None


def _are_members(lines: Sequence[bytes], context: Context, found: Listing) -> bool:
    """Whether lines that are only a name are members without statistics.

    They are if other members have statistics, or if the listing has no other lines.
    """
    if context.lists_members:
        return True
    bare = [line.rstrip(b"\r\n") for line in lines if line.rstrip(b"\r\n")]
    return not found.entries and all(bare_member(line, context) is not None for line in bare)


def _without_padding(found: Listing) -> Listing:
    """`found` without the blanks that precede every name: such blanks belong to the layout.

    A server that shows `.` shows its padding there; and one name alone is no evidence.
    """
    entries = found.entries
    if len(entries) < 2 or found.self_entry is not None or entries[0].name[:1] != " ":
        return found
    blanks = min(len(entry.name) - len(entry.name.lstrip(" ")) for entry in entries)
    if not blanks or any(len(entry.name) == blanks for entry in entries):
        return found
    again = Collector()
    for entry in entries:
        shorter = replace(entry, name=entry.name[blanks:])
        again.add(Rounded(shorter) if entry.name in found.rounded else shorter, b"")
    return replace(again.listing(), rejected=found.rejected)


def _facts(line: bytes, context: Context) -> Parsed:
    return facts_line(line, context.decode)


_LENIENT = (unix_like, octal_mode)
_FORMATS: tuple[Format, ...] = (
    *(unix, unix_like, dos, eplf, netware, os2, as400, vms, mvs, nonstop, zvm, os9, wfftp),
    *(size_first, _facts, octal_mode),
)
