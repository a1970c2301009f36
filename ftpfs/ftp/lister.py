"""Lists one directory, with the best command this server has.

Owns the choice between MLSD, `LIST -a` and LIST; exact times by MDTM where LIST has only minutes;
and noting in the profile what works. `listing` parses the replies, and `session` is the wire.

CWD comes first, and the listing command has no path. Some servers take LIST's argument for a
glob or an option; pure-ftpd finds nothing under `[x]`; vsftpd and pure-ftpd answer 226 and nothing
for a path that does not exist. The CWD is sent even if the session is in that folder already:
another client may have renamed the folder and made a new one in its place. The CWD leaves together
with the command that opens the data connection, so it costs no round trip. If the CWD failed, the
listing is discarded. A server that refuses to enter even the folder in which the session
began, or never answers a CWD, lists folders by their path.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import posixpath
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ftpfs import errors
from ftpfs.ftp import clock, listing
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.dated import PIECE_GROWTH
from ftpfs.ftp.profile import Profile
from ftpfs.model.entry import Entry, Kind, Listing
from ftpfs.model.names import HIDDEN_PREFIX

log = logging.getLogger(__name__)

# Maximum number of lines of one listing that the log quotes.
MAX_TOLD = 10

_WEEK = 7 * 86400
# proftpd 1.3.8 crashes on MLSD in a folder whose path has 2048 bytes or more. LIST works there.
_LONG_PATH = 2000


def list_directory(session: Session, path: str, *, hidden: bool = False) -> list[Entry]:
    """The entries of `path` (absolute on the server), without `.` and `..`.

    Hidden names of ftpfs are left out unless `hidden`.

    Raises Unavailable when the server refuses the CWD (the folder is missing, is no directory, or
    may not be entered: the caller finds out which), PermissionDenied when the folder may be entered
    but not read, and network errors. A listing that was cut short raises an error; it never passes
    for a short directory.
    """
    try:
        try:
            found = _listed_surely(session, path)
        except errors.NotPrepared:
            if not _lacks_cwd(session):
                raise
            found = _listed_surely(session, path)
    except errors.NotPrepared as not_entered:
        raise not_entered.refusal from None
    for line in found.rejected[:MAX_TOLD]:
        log.warning("a line of the listing of %s was not understood: %s", path, line)
    if len(found.rejected) > MAX_TOLD:
        more = len(found.rejected) - MAX_TOLD
        log.warning("at least %d more lines of the listing of %s were not understood", more, path)
    return [e for e in found.entries if hidden or not e.name.startswith(HIDDEN_PREFIX)]


def _listed_surely(session: Session, path: str) -> Listing:
    found, is_sure = _listed(session, path)
    if not is_sure and _learns_above(session, path):
        found, _ = _listed(session, path)
    return found


def _listed(session: Session, path: str) -> tuple[Listing, bool]:
    """The listing, and whether it is reliable.

    An empty listing is unreliable until the profile knows whether this server's listings show at
    least the folder itself: the folder may be unreadable.
    """
    profile = session.profile
    found = _by_mlsd(session, path) if _may_mlsd(session, path) else None
    if found is not None:
        knows = profile.listings.mlsd_shows_itself is not None
    else:
        found = _without_wrong_sizes(_by_list(session, path, exact=True), profile)
        knows = profile.listings.list_all is not None
    return found, bool(knows or found.entries or found.rejected)


def _learns_above(session: Session, path: str) -> bool:
    """Learn what listings of this server show, from the parent folder, which cannot be empty.

    Happens once per server. Returns False if the parent folder cannot be listed either.
    """
    above = posixpath.dirname(path)
    if above == path:
        return False
    try:
        _, learned = _listed(session, above)
    except (errors.Refused, errors.PermissionDenied, errors.NotPrepared):
        return False
    return learned


def _without_wrong_sizes(found: Listing, profile: Profile) -> Listing:
    """The same listing without file sizes, if the listed sizes are wrong: then SIZE is asked."""
    if not profile.listings.sizes_wrap:
        return found
    entries = [replace(e, size=None) if e.kind is Kind.FILE else e for e in found.entries]
    return replace(found, entries=entries)


def list_links(session: Session, path: str) -> list[Entry]:
    """The links in `path` with their targets, by LIST: MLSD need not show targets."""
    try:
        return [entry for entry in _by_list(session, path).entries if entry.kind is Kind.LINK]
    except errors.NotPrepared as not_entered:
        raise not_entered.refusal from None


def look_at(session: Session, path: str) -> Entry | None:
    """The entry that MLST reports for `path`; None if this server has no MLST.

    Raises Unavailable when the server refuses.
    """
    profile, entry = session.profile, None
    if profile.listings.mlst is False:
        return None
    reply = session.command(f"MLST {path}")
    if reply.code not in (500, 501, 502, 504):
        entry = entry_in(session, reply.check())
    # Once MLST has worked, a refusal is about this name, also with 501.
    if entry is not None:
        profile.listings.mlst = True
        entry = _named(session, entry, posixpath.basename(path))
    elif not profile.listings.mlst and reply.code != 501:
        profile.listings.is_missing("mlst", False, reply.code)
    return entry


def _named(session: Session, entry: Entry, name: str) -> Entry:
    """The entry that MLST reports for `name`. Raises Retreat if it is the reply about another one.

    Servers show a name in other ways, too. But if replies are out of step, another one follows.
    """
    if entry.name != name and not session.profile.listings.mlst_renames:
        session.check_in_step()
        session.profile.listings.mlst_renames = True
    return replace(entry, name=name) if name else entry


def entry_in(session: Session, reply: Reply) -> Entry | None:
    """The entry in a reply to MLST (RFC 3659, 7.2), None if there is none."""
    facts = [line for line in reply.lines[1:-1] if line.strip()] if reply.ok else []
    entry = listing.parse_mlst(facts[0].encode("latin-1"), session.decode_bytes) if facts else None
    return _told_in_utc([entry], session.profile)[0] if entry else None


def _lacks_cwd(session: Session) -> bool:
    """Whether the server refuses each CWD, after it refused one. Learns it.

    That refusal may have been about its folder. Each session may enter the one that it began in.
    Only a permanent refusal of the command or the folder teaches it: 50x and 55x (RFC 959, 4.2.1).
    4xx may pass, and 53x is about the login.
    """
    known, names = session.profile.listings, session.profile.names
    if known.enters is not None or names.foreign:
        return False
    reply = session.command(f"CWD {names.home or '/'}")
    if reply.ok:
        known.enters = True
    elif reply.code // 10 in (50, 55):
        known.is_missing("enters", False, reply.code)
        log.warning("this server enters no folders: ftpfs lists them by their path")
    return known.enters is False


def _enters(profile: Profile) -> bool:
    return profile.listings.enters is not False and "CWD" not in profile.wire.manners.avoided


def _data_of(
    session: Session,
    command: str,
    path: str,
    questions: Callable[[bytes], Sequence[str]] | None = None,
) -> tuple[bytes, str, list[str]]:
    """What this listing command brings of the folder: see `Session.listing`."""
    if not _enters(session.profile):
        return session.listing(f"{command} {path}", (), questions)
    told = session.listing(command, [f"CWD {path}"], questions)
    session.profile.listings.enters = True
    return told


def _may_mlsd(session: Session, path: str) -> bool:
    known = session.profile.listings.mlsd is not False
    return known and (len(path) <= _LONG_PATH // 4 or len(os.fsencode(path)) <= _LONG_PATH)


def _by_mlsd(session: Session, path: str) -> Listing | None:
    """The MLSD listing; None if the server turns out not to have MLSD."""
    known = session.profile.listings
    try:
        data, said, _ = _data_of(session, "MLSD", path)
    except (errors.NotSupported, errors.InvalidArgument) as refusal:
        # Once MLSD has worked, a refusal is about this folder.
        if not known.mlsd and isinstance(refusal, errors.NotSupported):
            known.mlsd = False
        return None
    except errors.Unavailable as refusal:
        if known.mlsd:
            return _empty_or_denied(refusal, session.profile)
        # MLSD was never seen to work: LIST shall show whether the folder or the command is at
        # fault.
        return None
    if not data and known.mlsd_shows_itself:
        raise _nothing("MLSD", said)
    found = listing.parse_mlsd(_lines(data), session.decode_bytes)
    if found.rejected and not found.entries:
        log.warning("the MLSD listing of %s cannot be read; using LIST", path)
        if not known.mlsd:  # perhaps in this folder alone: the next mount asks again
            known.believe_briefly("mlsd", False)
        return None
    known.mlsd = True
    if data:
        known.mlsd_shows_itself = found.self_entry is not None
    return replace(found, entries=_told_in_utc(found.entries, session.profile))


def _by_list(session: Session, path: str, *, exact: bool = False) -> Listing:
    """List by `LIST -a` if the server takes -a as an option, else by LIST.

    Without -a, vsftpd hides dot files.

    With `exact`, pipelined MDTM brings the files' times to the second in UTC: LIST shows minutes at
    best, in the server's own zone. MDTM works on files; directories and links keep LIST's time,
    corrected by the zone that the files' two times reveal.
    """
    profile = session.profile
    command = "LIST" if profile.listings.list_all is False else "LIST -a"
    found = Listing(entries=[], rejected=[])
    asked: list[Entry] = []
    later: list[Entry] = []
    known: dict[str, int] = {}
    changes = profile.times.dated.changes

    def read(data: bytes) -> list[str]:
        nonlocal found, asked, later, known
        found = _in_bytes(listing.parse_list_data(data, session.decode_bytes, time.time()))
        if not exact or profile.times.mdtm is False:
            return []
        files = _files(session, path, found)
        known = profile.times.dated.known(path, files) if profile.times.are_slow else {}
        files = [e for e in files if e.name not in known]
        asked, later = profile.times.dated.first(files, are_slow=profile.times.are_slow)
        return _questions(path, asked)

    try:
        data, said, times = _data_of(session, command, path, read)
    except (errors.NotSupported, errors.InvalidArgument, errors.Refused) as refusal:
        if profile.listings.list_all is None:
            return _by_plain_list(session, path, exact=exact)
        if isinstance(refusal, errors.Unavailable):
            return _empty_or_denied(refusal, profile)
        raise
    if not data and profile.listings.list_all and profile.listings.list_shows_itself:
        raise _nothing(command, said)
    if not data and command == "LIST" and _tells_denial(said):
        raise errors.PermissionDenied(errors.printable(said))
    if found.rejected and not found.entries:
        # The server sent an error such as `ls: cannot open directory` as if it were a listing.
        raise errors.PermissionDenied(f"not a listing: {found.rejected[0]}")
    if profile.listings.list_all is None:
        if data:
            profile.listings.list_all = True
            profile.listings.list_shows_itself = found.self_entry is not None
        else:
            # With -a, even an empty folder shows `.` and `..`. An empty reply may mean that the
            # server looked for a file called "-a".
            return _by_plain_list(session, path, exact=exact)
    if not exact:
        return found
    later = _ask_while_fast(session, path, asked, later, times)
    told = _told(asked, times, profile)
    if profile.times.are_slow:
        profile.times.dated.keep(path, asked, told, changes)
        profile.times.dated.leave(path, later)
    return _with_exact_times(found, known | told, profile)


def _ask_while_fast(
    session: Session, path: str, asked: list[Entry], later: list[Entry], times: list[str]
) -> list[Entry]:
    """Ask for the times of `later`, as long as the server shows that it is fast.

    Adds to `asked` and `times`. Returns the files that are still to be asked for.
    """
    while later and not session.profile.times.are_slow:
        piece, later = later[: len(asked) * PIECE_GROWTH], later[len(asked) * PIECE_GROWTH :]
        times += session.ask(_questions(path, piece))
        asked += piece
    return later


def ask_times(session: Session, path: str, files: Sequence[Entry]) -> None:
    """Ask for the times of files that a listing did not wait for."""
    changes = session.profile.times.dated.changes
    told = _told(files, session.ask(_questions(path, files)), session.profile)
    session.profile.times.dated.keep(path, files, told, changes)


def _by_plain_list(session: Session, path: str, *, exact: bool) -> Listing:
    """List by plain LIST, after `LIST -a` brought nothing.

    If plain LIST shows entries, -a is no option on this server. A folder that is empty or
    unreadable teaches nothing.
    """
    session.profile.listings.list_all, found = False, None
    try:
        found = _by_list(session, path, exact=exact)
    finally:
        if not (found and found.entries):
            session.profile.listings.list_all = None
    return found


def _in_bytes(found: Listing) -> Listing:
    """The same listing without sizes in blocks or kilobytes: SIZE is asked for those files."""
    if not found.rounded:
        return found
    entries = [replace(e, size=None) if e.name in found.rounded else e for e in found.entries]
    return replace(found, entries=entries)


def _files(session: Session, path: str, found: Listing) -> list[Entry]:
    """The files whose times MDTM can ask for.

    A CR may be part of a name but not of a command, and a path may be longer than a command.
    """
    files = [e for e in found.entries if e.kind is Kind.FILE]
    return [e for e in files if session.takes(f"MDTM {path.rstrip('/')}/{e.name}")]


def _questions(path: str, files: Sequence[Entry]) -> list[str]:
    prefix = "MDTM " + path.rstrip("/") + "/"
    return [prefix + entry.name for entry in files]


def _nothing(command: str, said: str) -> errors.FtpfsError:
    """The error for an empty listing that should show at least `.`, although the server said 226.

    vsftpd says "226 Transfer done (but failed to open directory).", pure-ftpd "unable to read".
    Otherwise the data connection was cut, which pyftpdlib also answers with 226.
    """
    if _tells_denial(said):
        return errors.PermissionDenied(errors.printable(said))
    return errors.DataConnectionFailed(f"{command} brought nothing, not even the folder itself")


def _tells_denial(said: str) -> bool:
    return any(word in said.lower() for word in ("fail", "unable", "denied", "cannot"))


def _empty_or_denied(refusal: errors.Unavailable, profile: Profile) -> Listing:
    """The empty listing, or PermissionDenied: what a refusal after a successful CWD means.

    Both come as 450 or 550, and only the text tells them apart. Without a CWD, the refusal is
    raised as it is: the folder may be missing.
    """
    if not _enters(profile):
        raise refusal
    text = str(refusal).lower()
    if any(phrase in text for phrase in _NOTHING_THERE):
        return Listing(entries=[], rejected=[])
    raise errors.PermissionDenied(str(refusal)) from refusal


# "No data sets found", "No members found": z/OS.
_NOTHING_THERE = ("no files", "no such file", "not found", "empty", "no data sets", "no members")


def _told(files: Sequence[Entry], replies: Sequence[str], profile: Profile) -> dict[str, int]:
    """The times in these replies to MDTM of `files`, by name. Without replies: none was asked."""
    if not replies:
        return {}
    answers = ((e, _time_of(reply, profile)) for e, reply in zip(files, replies, strict=True))
    told = {e.name: when for e, when in answers if when is not None}
    if told:
        profile.times.mdtm = True
    elif all(reply.startswith(("500", "502", "504")) for reply in replies):
        profile.times.mdtm = profile.times.mdtm or False
    profile.times.saw_list_zones(_zones(files, told))
    return told


def _with_exact_times(found: Listing, exact: dict[str, int], profile: Profile) -> Listing:
    """The same listing with these times, by name."""
    entries = [
        Entry(e.name, e.kind, e.size, exact[e.name], True, e.mode)
        if e.kind is Kind.FILE and e.name in exact
        else _in_utc(e, profile)
        for e in found.entries
    ]
    return replace(found, entries=entries)


def _told_in_utc(entries: list[Entry], profile: Profile) -> list[Entry]:
    """Entries of MLSD or MLST, which were parsed as if in UTC, converted to UTC."""
    if profile.times.are_utc:
        return entries
    return [
        e if e.mtime is None else replace(e, mtime=profile.times.utc_of(e.mtime)) for e in entries
    ]


def _in_utc(entry: Entry, profile: Profile) -> Entry:
    """An entry of LIST, which was parsed as if the server's clock were in UTC, converted to UTC."""
    if entry.mtime is None or entry.exact or not (ahead := profile.times.list_zone_at(entry.mtime)):
        return entry
    return replace(entry, mtime=entry.mtime - ahead)


def _time_of(line: str, profile: Profile) -> int | None:
    """The time in a reply line to MDTM: `213 YYYYMMDDHHMMSS`."""
    if not line.startswith("213"):
        return None
    try:
        return profile.times.utc_of(listing.parse_time_val(line[4:].strip()))
    except ValueError:
        return None


def time_in(reply: Reply, profile: Profile) -> int | None:
    """The time in a reply to MDTM (RFC 3659, 3.1: `213 YYYYMMDDHHMMSS`), None if there is none."""
    return _time_of(reply.lines[-1], profile)


def _zones(files: Sequence[Entry], exact: dict[str, int]) -> dict[int, int]:
    """How far (s) this listing's clock is ahead of UTC, by time, from the two times of each file.

    Only files younger than 150 days count: older entries show no time of day.
    """
    zones: dict[int, int] = {}
    weeks = set()  # one file per week is enough
    recent = time.time() - 150 * 86400
    for entry in files:
        true = exact.get(entry.name)
        if true is None or entry.mtime is None or true < recent or true // _WEEK in weeks:
            continue
        ahead = round((entry.mtime - true // 60 * 60) / clock.STEP_SECONDS) * clock.STEP_SECONDS
        if abs(ahead) <= 15 * 3600:
            zones[true] = ahead
            weeks.add(true // _WEEK)
    return zones


def _lines(data: bytes) -> Iterable[bytes]:
    """The lines of a listing, one at a time.

    Lines end with CRLF; only LF counts, as a CR may be part of a name. As a list, the lines of a
    large listing take more memory than the listing.
    """
    return io.BytesIO(data)


# Whether a name exists. Called when a reply does not tell, on a session that is leased already.


def find(session: Session, where: str) -> Entry | None:
    """The entry of `where` in a fresh listing of its folder, or None; hidden names count too.

    Raises Unavailable and PermissionDenied as `list_directory` does: then the answer is unknown.
    """
    parent, name = posixpath.split(where)
    entries = list_directory(session, parent, hidden=True)
    return next((entry for entry in entries if entry.name == name), None)


def is_empty_folder(session: Session, where: str) -> bool:
    """Whether `where` is a folder that can be listed and is empty."""
    try:
        return not list_directory(session, where, hidden=True)
    except (errors.Refused, errors.PermissionDenied):
        return False


def check_name_kept(session: Session, where: str) -> None:
    """Check that the server kept a new name as it was sent, for names that some servers change.

    pure-ftpd turns control characters and a trailing space into underscores, and reports success.
    Ordinary names are not checked, and cost nothing.
    """
    name = posixpath.basename(where)
    if name.endswith(" ") or any(c < " " or c == "\x7f" for c in name):
        check_present(session, where)


def check_present(session: Session, where: str) -> None:
    """Raises InvalidName when the folder can be listed and `where` is not in it."""
    parent, name = posixpath.split(where)
    with contextlib.suppress(errors.Refused, errors.PermissionDenied):
        entries = list_directory(session, parent, hidden=True)
        if all(entry.name != name for entry in entries):
            raise errors.InvalidName(
                f"the server stored {errors.printable(where)} under another name"
            )
