"""One directory, listed the best way this server can.

Owns: the choice between MLSD, `LIST -a` and LIST; exact times by MDTM where LIST has only minutes;
which of these work (into the profile). Parsing is `listing`'s, the wire is `session`'s.

Always CWD first and a listing command without a path: LIST takes its argument for a glob or an
option on some servers, pure-ftpd finds nothing under `[x]`, and vsftpd and pure-ftpd answer 226 and
nothing for a path that does not exist. The CWD is sent even if the session is there already: the
folder may have been renamed and another made in its place. It goes out together with what opens the
data connection, so it costs no round trip; a listing whose CWD failed is not believed.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import time
from collections.abc import Sequence
from dataclasses import replace

from ftpfs import errors
from ftpfs.ftp import clock, listing
from ftpfs.ftp.control import Reply
from ftpfs.ftp.listing import Entry, Kind, Listing
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.session import Session

log = logging.getLogger(__name__)

# Our own files: uploads under way and files deleted while open. Other clients see them, we do not.
HIDDEN_PREFIX = ".ftpfs-"

_WEEK = 7 * 86400


def list_directory(session: Session, path: str, *, hidden: bool = False) -> list[Entry]:
    """The entries of `path` (absolute on the server), without `.` and `..`.

    Our own files are left out unless `hidden`.

    Raises Unavailable when the CWD is refused (missing, no directory, or no permission: the caller
    settles which), PermissionDenied when it may be entered but not read, and what a broken
    conversation raises. A listing that was cut short is an error, never a short directory.
    """
    try:
        found = _by_mlsd(session, path) if session.profile.mlsd is not False else None
        if found is None:
            found = _by_list(session, path, exact=True)
    except errors.NotPrepared as not_entered:
        raise not_entered.refusal from None
    for line in found.rejected:
        log.warning("a line of the listing of %s was not understood: %s", path, line)
    return [e for e in found.entries if hidden or not e.name.startswith(HIDDEN_PREFIX)]


def list_links(session: Session, path: str) -> list[Entry]:
    """The links of `path` with their targets, by LIST: MLSD need not tell them."""
    try:
        return [entry for entry in _by_list(session, path).entries if entry.kind is Kind.LINK]
    except errors.NotPrepared as not_entered:
        raise not_entered.refusal from None


def look_at(session: Session, path: str) -> Entry | None:
    """What MLST says about `path`; None where this server has no MLST.

    Raises Unavailable when it refuses.
    """
    profile, entry = session.profile, None
    if profile.mlst is False:
        return None
    reply = session.command(f"MLST {path}")
    if reply.code not in (500, 501, 502, 504):
        entry = entry_in(session, reply.check())
    # Once it has worked, it is the name that the server cannot read.
    profile.mlst = profile.mlst or entry is not None
    return entry


def entry_in(session: Session, reply: Reply) -> Entry | None:
    """The entry in a reply to MLST (RFC 3659, 7.2), None if there is none."""
    facts = [line for line in reply.lines[1:-1] if line.strip()] if reply.ok else []
    entry = listing.parse_mlst(facts[0].encode("latin-1"), session.decode_bytes) if facts else None
    return _told_in_utc([entry], session.profile)[0] if entry else None


def _by_mlsd(session: Session, path: str) -> Listing | None:
    """The MLSD listing; None when the server turns out not to have it after all."""
    try:
        data, said, _ = session.listing("MLSD", [f"CWD {path}"])
    except (errors.NotSupported, errors.InvalidArgument):
        session.profile.mlsd = False
        return None
    except errors.Unavailable as refusal:
        if session.profile.mlsd:
            return _empty_or_denied(refusal)
        # Never seen to work: LIST shall say whether this folder or the command is at fault.
        return None
    if not data and session.profile.mlsd_shows_itself:
        raise _nothing("MLSD", said)
    found = listing.parse_mlsd(_lines(data), session.decode_bytes)
    if found.rejected and not found.entries:
        log.warning("MLSD of this server makes no sense, using LIST")
        session.profile.mlsd = False
        return None
    session.profile.mlsd = True
    session.profile.mlsd_shows_itself = found.self_entry is not None
    return replace(found, entries=_told_in_utc(found.entries, session.profile))


def _by_list(session: Session, path: str, *, exact: bool = False) -> Listing:
    """LIST -a where it is taken for an option (vsftpd hides dot files without), else LIST.

    With `exact` the files have their times to the second, in UTC, by pipelined MDTM: LIST shows
    minutes at best, in the server's own zone. MDTM is for files; directories and links keep LIST's
    time, corrected by the zone that the files' two times reveal.
    """
    profile = session.profile
    command = "LIST" if profile.list_all is False else "LIST -a"
    found = Listing(entries=[], rejected=[])

    def read(data: bytes) -> list[str]:
        nonlocal found
        found = listing.parse_list_data(data, session.decode_bytes, time.time())
        prefix = path.rstrip("/")
        asks = exact and profile.mdtm is not False
        return [f"MDTM {prefix}/{e.name}" for e in _files(found)] if asks else []

    try:
        data, said, times = session.listing(command, [f"CWD {path}"], read)
    except (errors.NotSupported, errors.InvalidArgument, errors.Refused) as refusal:
        if profile.list_all is None:
            profile.list_all = False
            return _by_list(session, path, exact=exact)
        if isinstance(refusal, errors.Unavailable):
            return _empty_or_denied(refusal)
        raise
    if not data and profile.list_all and profile.list_shows_itself:
        raise _nothing(command, said)
    if found.rejected and not found.entries:
        # `ls: cannot open directory` and the like, sent as if it were a listing.
        raise errors.PermissionDenied(f"not a listing: {found.rejected[0]}")
    if profile.list_all is None:
        if data:
            profile.list_all = True
            profile.list_shows_itself = found.self_entry is not None
        else:
            # With -a even an empty folder shows `.` and `..`; nothing at all may mean that the
            # server looked for a file called "-a".
            profile.list_all = False
            again = _by_list(session, path, exact=exact)
            if not again.entries:
                profile.list_all = None  # an empty folder has taught nothing
            return again
    return _with_exact_times(found, times, profile) if exact else found


def _files(found: Listing) -> list[Entry]:
    """Those that can be asked about: a CR may belong to a name, but not to a command."""
    return [e for e in found.entries if e.kind is Kind.FILE and "\r" not in e.name]


def _nothing(command: str, said: str) -> errors.FtpfsError:
    """Why a listing that always shows at least `.` is empty though the server said 226.

    vsftpd: "226 Transfer done (but failed to open directory)."; pure-ftpd: "unable to read". Else
    the data connection was cut, which pyftpdlib answers with 226, too.
    """
    if any(word in said.lower() for word in ("fail", "unable", "denied", "cannot")):
        return errors.PermissionDenied(errors.printable(said))
    return errors.DataConnectionFailed(f"{command} brought nothing, not even the folder itself")


def _empty_or_denied(refusal: errors.Unavailable) -> Listing:
    """A refusal of LIST after the CWD went well: an empty folder, or one that may not be read.

    Both come as 450 or 550, and nothing but the text tells them apart.
    """
    text = str(refusal).lower()
    if any(phrase in text for phrase in _NOTHING_THERE):
        return Listing(entries=[], rejected=[])
    raise errors.PermissionDenied(str(refusal)) from refusal


# "No data sets found", "No members found": z/OS.
_NOTHING_THERE = ("no files", "no such file", "not found", "empty", "no data sets", "no members")


def _with_exact_times(found: Listing, replies: Sequence[str], profile: Profile) -> Listing:
    """The same with the times in these replies to MDTM of its files (none: it was not asked)."""
    exact: dict[str, int] = {}
    if replies:
        files = _files(found)
        answers = ((e, _time_of(reply, profile)) for e, reply in zip(files, replies, strict=True))
        exact = {e.name: when for e, when in answers if when is not None}
        if all(reply.startswith(("500", "502", "504")) for reply in replies):
            profile.mdtm = False
        profile.saw_list_zones(_zones(files, exact))
    entries = [
        Entry(e.name, e.kind, e.size, exact[e.name], True, e.mode)
        if e.kind is Kind.FILE and e.name in exact
        else _in_utc(e, profile)
        for e in found.entries
    ]
    return replace(found, entries=entries)


def _told_in_utc(entries: list[Entry], profile: Profile) -> list[Entry]:
    """Entries of MLSD or MLST, whose times were read as if they were in UTC."""
    if profile.times in (None, clock.UTC):
        return entries
    return [e if e.mtime is None else replace(e, mtime=profile.utc_of(e.mtime)) for e in entries]


def _in_utc(entry: Entry, profile: Profile) -> Entry:
    """An entry whose time was read as if the server's clock told UTC."""
    if entry.mtime is None or entry.exact or not (ahead := profile.list_zone_at(entry.mtime)):
        return entry
    return replace(entry, mtime=entry.mtime - ahead)


def _time_of(line: str, profile: Profile) -> int | None:
    """The time in the reply to an MDTM, given as its line: `213 YYYYMMDDHHMMSS`."""
    if not line.startswith("213"):
        return None
    try:
        return profile.utc_of(listing.parse_time_val(line[4:].strip()))
    except ValueError:
        return None


def time_in(reply: Reply, profile: Profile) -> int | None:
    """The time in a reply to MDTM (RFC 3659, 3.1: `213 YYYYMMDDHHMMSS`), None if there is none."""
    return _time_of(reply.lines[-1], profile)


def _zones(files: Sequence[Entry], exact: dict[str, int]) -> dict[int, int]:
    """How far (s) this listing's clock is ahead of UTC, by time: what two times of a file tell.

    Only entries younger than half a year count: older ones show no time of day.
    """
    zones: dict[int, int] = {}
    weeks = set()  # one file of each is enough
    recent = time.time() - 150 * 86400
    for entry in files:
        true = exact.get(entry.name)
        if true is None or entry.mtime is None or true < recent or true // _WEEK in weeks:
            continue
        ahead = round((entry.mtime - true // 60 * 60) / clock.STEP) * clock.STEP
        if abs(ahead) <= 15 * 3600:
            zones[true] = ahead
            weeks.add(true // _WEEK)
    return zones


def _lines(data: bytes) -> list[bytes]:
    """Lines end with CRLF; only LF counts, as a CR may belong to a name."""
    return data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n") if data else []


# Whether a name is there. Asked where a reply does not tell, and on a session already leased.


def is_present(session: Session, where: str) -> bool:
    parent, name = posixpath.split(where)
    try:
        entries = list_directory(session, parent, hidden=True)
    except errors.Unavailable:
        return False
    return any(entry.name == name for entry in entries)


def check_name_kept(session: Session, where: str) -> None:
    """Look whether the server has what it said to have made, for names that some change.

    pure-ftpd makes underscores of control characters and of a space at the end, and says that all
    went well. Ordinary names are not looked at, and cost nothing.
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
