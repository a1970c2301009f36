"""What one server can do: what it reports (FEAT, SYST), and what ftpfs learned by using it.

Owns the facts, and the questions that other modules ask about them. Does not talk to the server.

Threading: all sessions of one server share it. Every attribute is a plain value that is only
replaced as a whole, and learning the same fact twice is harmless, so no lock is needed.
"""

from __future__ import annotations

import enum
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Sequence

from ftpfs import errors
from ftpfs.ftp import clock, digest, listing
from ftpfs.ftp.dated import SLOW_SECONDS, SLOW_SERIES_SECONDS, Dated
from ftpfs.ftp.foreign import Foreign
from ftpfs.ftp.manners import Manners

log = logging.getLogger(__name__)

# Number of failed connections made ahead, in a row, after which no more are made. One can fail
# because a firewall forgot it, or because the server is busy; two in a row show that the server or
# the network never takes them.
MOST_ARMED_FAILURES = 2
# Limits of a stored greeting and FEAT reply. Proftpd with every module names 40 features. Both are
# compared at each mount, and written to the disk.
MAX_WELCOME = 16 << 10  # characters
MAX_FEATURES, MAX_FEATURE = 250, 1000  # lines, characters of each
# Number of failures in a row after which logins are no longer sent in one write. A failure: the
# login ended in silence, or the connection broke.
MOST_LOGIN_FAILURES = 2


class Passive(enum.Enum):
    """The command that opens a passive data connection."""

    EPSV = "EPSV"  # RFC 2428: a port only, so NAT and IPv6 cannot spoil it
    PASV = "PASV"  # RFC 959: an address and a port; the address is ignored, see session.py


class SetTime(enum.Enum):
    """The command that sets a file's modification time."""

    MFMT = "MFMT {time} {path}"  # draft-somers-ftp-mfxx: proftpd, pure-ftpd, pyftpdlib, FileZilla
    MDTM = "MDTM {time} {path}"  # vsftpd, Serv-U and others overload the query
    SITE_UTIME = "SITE UTIME {time} {path}"
    NONE = ""


class Placing(enum.Enum):
    """How a file gets its name on the server."""

    TEMPORARY = "whole under a temporary name, then renamed"
    # For folders from which another program takes each file away: written once, under its own name,
    # and not looked at afterwards.
    IN_PLACE = "written under its own name, once"


class Restart(enum.Enum):
    """What REST n and STOR leave of an existing file."""

    ALL = "keeps what lies before and behind"  # vsftpd, proftpd, pyftpdlib
    HEAD = "keeps what lies before"  # pure-ftpd: STOR truncates the file at n
    NOTHING = "cannot be relied on"


class Profile:
    """One server's abilities. `None` in a learned attribute means: not tried yet."""

    def __init__(self, quirks: Sequence[tuple[str, str]] = ()) -> None:
        """`quirks`: (name, value) of facts that the user states; nothing learned overrides them."""
        # From FEAT and SYST; empty until `read_features`.
        self.features: dict[str, str] = {}
        self.system = ""
        self.welcome = ""
        # The folder after login; relative paths of the mount begin there.
        self.home = ""
        # Set if the server's system writes its paths without slashes; then `home` is "/".
        self.foreign: Foreign | None = None
        # Learned by use:
        # The shortest TCP handshake seen, in seconds: the link's round trip, without the server's
        # own time. (Through a tunnel, it is the handshake with the tunnel's near end: then only the
        # user knows the round trip.)
        self.round_trip = float("inf")
        self.known = False  # a session has logged in and asked what the server can do
        self.recalled = False  # its facts were learned by an earlier mount
        self.passive: Passive | None = None
        self.arming = True  # data connections made ahead work
        self.armed_failures = 0  # of connections made ahead, in a row
        self.failed_logins_at_once = 0  # in a row
        self.mlsd: bool | None = None
        # `type=cdir` is in its listings, so no listing is ever empty.
        self.mlsd_shows_itself: bool | None = None
        self.mlst: bool | None = None
        self.list_all: bool | None = None  # the server takes LIST -a as an option, not as a name
        self.list_shows_itself = False  # `.` is in its listings, so no listing is ever empty
        self.mdtm: bool | None = None
        self.chmod: bool | None = None
        # MDTM is so slow that a listing does not wait for all times.
        self.slow_times: bool | None = None
        self.dated = Dated()
        self.set_time: SetTime | None = None  # the command to try; None: not chosen yet
        self.set_time_works = False  # that command was seen to work
        # The precision (s) with which the server's disk stores a time: 1, 2 (FAT), 60. None: not
        # seen yet. Unless it is 1, ftpfs asks the server for the time after each time that it sets.
        self.time_grain: int | None = None
        self.folder_times: bool | None = None  # the server also sets times of folders
        self.rest: bool | None = None
        self.restart: Restart | None = None  # of uploads; probed when first needed
        self.appends: bool | None = None  # APPE adds to a file; see `is_measured`
        self.replaces: bool | None = None  # RNTO replaces a file; probed when first needed
        self.renames: bool | None = None  # False: the server has no RNFR, or no RNTO
        # RETR, STOR and the rest take paths. False: they take only names in the folder of the last
        # CWD.
        self.paths: bool | None = None
        self.trying_names = False  # an operation is tried by bare names, to see whether that works
        self.moved = object()  # replaced whenever a folder may have a new name
        self.upload: Placing | None = None  # only ever set by the user
        # Commands that may report a file's checksum, the one to use first; None: not chosen yet.
        self.digests: tuple[str, ...] | None = None
        self.pipelining = True
        # Commands that the server does not answer, see `manners`.
        self.manners = Manners()
        # How many connections the server allows at once; None: it was not seen to refuse one.
        self.connections: int | None = None
        # ftpfs saw a file whose listed size falls short of its SIZE by a multiple of 4 GiB.
        self.list_sizes_wrap = False
        self.close_notify = False  # its TLS data connections were seen to end with close_notify
        # Whether the server reads commands as Telnet. None: decided by its greeting, see
        # control.py.
        self.telnet: bool | None = None
        # The zone that MDTM, MLSD and MLST use, as `clock` names it. None: not seen yet, taken as
        # UTC.
        self.times: str | None = None
        # Whether this mount has seen that zone. A zone seen by an earlier mount is the best guess
        # until the first upload, but the clocks may have changed to summer time since.
        self.times_seen = False
        # LIST's zone, if the user has stated it.
        self.list_times: str | None = None
        # Bytes of the longest command line, if the user has stated it: see `longest_line`.
        self.line_limit: int | None = None
        # By how many seconds LIST's clock is ahead of UTC: pairs of (a time, the distance at that
        # time), sorted by time. There are several, because clocks change to summer time and back.
        self.list_zones: tuple[tuple[int, int], ...] = ()
        for name, value in quirks:
            setattr(self, name, quirk_of(name, value))
        if any(name == "set_time" for name, _ in quirks):
            self.set_time_works = True
        self.times_seen = any(name == "times" for name, _ in quirks)
        # Facts that only this mount believes: the next one asks again.
        self._brief: set[str] = set()
        self._pinned = frozenset(name for name, _ in quirks)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.__dict__.get("_pinned", ()):
            super().__setattr__(name, value)

    def in_quirks(self) -> tuple[dict[str, str], dict[str, str]]:
        """The known facts in the words of `--quirk`: those learned, and those the user stated.

        The user's facts win.
        """
        words = {
            name: _word(getattr(self, name))
            for name in (*_QUIRKS, *_ZONES)
            if getattr(self, name) is not None
        }
        said = {name: word for name, word in words.items() if name in self._pinned}
        return {name: word for name, word in words.items() if name not in said}, said

    def learned(self) -> dict[str, object]:
        """What an earlier mount can tell a later one, as JSON values.

        Leaves out what the user stated, and the round trip: that belongs to the link, and links
        change.
        """
        unkept = self._pinned | self._brief
        return {name: _as_json(getattr(self, name)) for name in _KEPT if name not in unkept}

    def recall(self, learned: dict[str, object]) -> None:
        """Take over what `learned` returned once.

        Raises ValueError or TypeError if the data is invalid, and then recalls nothing.
        """
        recalled = {
            name: from_json(learned[name]) for name, from_json in _KEPT.items() if name in learned
        }
        for name, value in recalled.items():
            setattr(self, name, value)
        if Passive.EPSV.value in self.manners.avoided:
            self.passive = Passive.PASV
        self.recalled = True

    def is_recalled_for(self, welcome: str) -> bool:
        """Whether the recalled facts may belong to the server that greets like this.

        Numbers in a greeting (of users, the time of day) differ each time, so they are not
        compared.
        """
        greets = _NUMBER.sub("0", welcome[:MAX_WELCOME])
        return self.recalled and _NUMBER.sub("0", self.welcome) == greets

    def forget(self) -> None:
        """Forget recalled facts, because they belong to another server."""
        fresh = Profile()
        for name in _KEPT:
            setattr(self, name, getattr(fresh, name))
        self.recalled = False

    def saw_handshake(self, seconds: float) -> None:
        """Note how long a TCP connect took."""
        self.round_trip = min(self.round_trip, seconds)

    def saw_armed_failure(self, why: str) -> None:
        """A data connection made ahead was useless. After two in a row, no more are made."""
        self.armed_failures += 1
        log.info("a data connection made ahead failed: %s", why)
        if self.armed_failures >= MOST_ARMED_FAILURES and self.arming:
            self.arming = False
            log.warning(
                "data connections made ahead do not work with this server; transfers cost more"
            )

    def saw_login_at_once_fail(self, why: str) -> None:
        """A login in one write failed. After two in a row, no more are tried."""
        self.failed_logins_at_once += 1
        log.info("logging in by one write failed: %s", why)
        if self.failed_logins_at_once == MOST_LOGIN_FAILURES:
            log.warning(
                "logins in one write do not work with this server; further sessions cost more"
            )

    @property
    def by_name(self) -> bool:
        """Whether commands name a file in the session's current folder, without a path.

        Servers that take paths take that too.
        """
        return self.paths is False or self.trying_names

    @property
    def may_know_names_only(self) -> bool:
        return self.paths is None and self.foreign is None

    def saw_names(self) -> None:
        """Note that the server did by a name what it had refused by a path.

        The refusal may have passed between the two, so only this mount believes it, until the
        server refuses the path of a file of ours, too (`saw_path`).
        """
        if self.paths is None:
            self.paths = False
            self._brief.add("paths")
            log.warning("this server takes names but no paths: ftpfs enters each folder first")

    @property
    def is_unsure_of_names(self) -> bool:
        """Whether a file of ours has to show that the server takes no paths."""
        return self.paths is False and "paths" in self._brief

    @property
    def may_take_paths(self) -> bool:
        """Whether a rename that needs a path is worth a try: unless the user says it is not."""
        return "paths" not in self._pinned

    def saw_path(self, *, known: bool) -> None:
        """Note whether the server knew a file, which is there for sure, by its path."""
        if known and self.paths is False:
            log.warning("this server takes paths after all")
        self.paths = known
        self._brief.discard("paths")

    def saw_size(self, listed: int | None, told: int | None) -> None:
        """Learn from one file's two sizes whether listings show only the lower 32 bits of a size.

        If so, listed sizes of long files are wrong.
        """
        if listed is None or told is None or told <= listed or (told - listed) % (1 << 32):
            return
        if not self.list_sizes_wrap:
            log.warning(
                "listings of this server show wrong sizes of long files; asking SIZE instead"
            )
        self.list_sizes_wrap = True

    def may_be_wrapped(self, size: int | None) -> bool:
        """Whether a listed size may lack its upper bits. Nearly all sizes that do are long: a file
        of a MiB and more costs a round trip less than its transfer, others are not asked for."""
        if size is None or size < _LONG_FILE:
            return False
        return not (self.is_measured or self.mlsd or self.list_sizes_wrap)

    def saw_pace(self, seconds: float, count: int) -> None:
        """Note that the server reported `count` times within `seconds`."""
        self.dated.pace = max(seconds / count, 1e-6)
        slow = self.dated.pace > SLOW_SECONDS and seconds > SLOW_SERIES_SECONDS
        if slow and not self.slow_times:
            log.info("this server takes %.0f ms to report a time", 1000 * self.dated.pace)
        self.slow_times = slow

    def saw_list_zones(self, seen: dict[int, int]) -> None:
        """Learn how far LIST's clock was ahead (seconds), by time. One value per week is stored."""
        weeks = {when // _WEEK: (when, ahead) for when, ahead in (*self.list_zones, *seen.items())}
        self.list_zones = tuple(sorted(weeks.values())[-_MOST_WEEKS:])

    def list_zone_at(self, shown: int) -> int:
        """How far LIST's clock is ahead of UTC (seconds) when it shows `shown`.

        As far as at the nearest known time; if none is known, as far as MDTM's clock.
        """
        if self.list_times:
            return shown - clock.to_utc(shown, self.list_times)
        if not self.list_zones:
            return shown - self.utc_of(shown)
        return min(self.list_zones, key=lambda zone: abs(sum(zone) - shown))[1]

    def saw_clock(self, shown: int | None, now: float) -> None:
        """Learn the server's zone from the time it shows for a file written right now."""
        before = self.times or clock.UTC
        self.times = clock.UTC if shown is None else clock.told_by(shown, now)
        self.times_seen = True
        if self.times != before:
            self.list_zones = ()  # these zones were derived from times in an unknown zone
            self.dated = Dated()
            log.warning(
                "this server reports times in its own zone (%s); times seen so far were off by it",
                self.times,
            )

    def utc_of(self, shown: int) -> int:
        """The UTC time (seconds since the epoch) that MDTM, MLSD or MLST show as `shown`."""
        return shown if self.times in (None, clock.UTC) else clock.to_utc(shown, self.times or "")

    def shown_at(self, seconds: int) -> int:
        """What MDTM, MLSD and MLST show at this UTC time: the reverse of `utc_of`."""
        return (
            seconds
            if self.times in (None, clock.UTC)
            else clock.shown_at(seconds, self.times or "")
        )

    def saw_time_kept(self, told: int, shown: int) -> None:
        """Learn the precision of times from a file of ours whose time was set to `PROBE_TIME`.

        `told` is the time in the command, `shown` what the server shows afterwards. The two may be
        in different zones, which are multiples of `clock.STEP_SECONDS` apart.
        """
        off = (shown - told) % clock.STEP_SECONDS
        off = min(off, clock.STEP_SECONDS - off)
        if abs(shown - told) < _MOST_APART and off < 60:
            self.time_grain = next(grain for grain in _GRAINS if off < grain)
            if self.time_grain > 1:
                log.info("this server stores times in steps of %d seconds", self.time_grain)
            return
        log.warning("this server confirms times that are set, but does not store them")
        self.set_time = SetTime.NONE
        self.time_grain = 1 if self.set_time is SetTime.NONE else 60  # the user states that it does

    def saw_no_time_kept(self) -> None:
        """Note that this mount cannot find the precision of times.

        The server sets no times, shows none, or refuses to set one on a file of ours.
        """
        if self.time_grain is None:
            self._brief.add("time_grain")
            self.time_grain = 1

    def is_kept(self, seconds: int) -> bool:
        """Whether the server is known to store this time exactly."""
        return self.time_grain == 1 and seconds in _SURE_TIMES

    def is_same_time(self, first: int, second: int) -> bool:
        """Whether the server's disk may show one of these times for the other."""
        return abs(first - second) < (self.time_grain or 1)

    def set_time_line(self, way: SetTime, path: str, seconds: int) -> str:
        """The command that sets that time.

        MFMT takes UTC (draft-somers-ftp-mfxx, 3.1), even if MDTM uses another zone (pyftpdlib).
        MDTM sets what MDTM shows (vsftpd).
        """
        seconds = min(max(seconds, _FIRST_TIME), _LAST_TIME)
        told = seconds if way is SetTime.MFMT else self.shown_at(seconds)
        return way.value.format(time=listing.format_time_val(told), path=path)

    def read_features(self, lines: Iterable[str]) -> None:
        """Take the lines between 211- and 211 of a FEAT reply (RFC 2389, 3.2)."""
        self.features = features = features_in(lines)
        if "MLST" not in features:  # RFC 3659, 7.8: FEAT names MLST for both
            self.mlst = False
            if "MLSD" not in features:  # some servers name MLSD alone, and have no MLST
                self.mlsd = False
        if "MDTM" in features:
            self.mdtm = True

    @property
    def mlst_options(self) -> str | None:
        """The OPTS MLST line that requests the facts ftpfs needs; None if they come already.

        FEAT marks facts with `*` that are sent already (RFC 3659, 7.8); pyftpdlib, for one, sends
        UNIX.mode only when asked.
        """
        offered = self.features.get("MLST", "")
        facts = [fact for fact in offered.split(";") if fact]
        wanted = [f for f in facts if f.rstrip("*").lower() in _WANTED_FACTS]
        if all(fact.endswith("*") for fact in wanted):
            return None
        return "OPTS MLST " + "".join(f"{fact.rstrip('*')};" for fact in wanted)

    def is_missing(self, name: str, value: object, code: int, *, ours: bool = False) -> None:
        """Note that a command is missing, by its reply `code`: attribute `name` becomes `value`.

        The next mount takes this over only if it was found on a file of `ours`, or if the server
        does not know the command at all: any other refusal may concern one name.
        """
        setattr(self, name, value)
        if not (ours or code in (500, 502)):
            self._brief.add(name)

    def cannot_restart(self) -> None:
        """Note that the server refused a REST and STOR.

        That may have other reasons than a missing command (a full disk), so the next mount tries
        again.
        """
        if self.restart is not Restart.NOTHING:
            self.restart = Restart.NOTHING
            self._brief.add("restart")

    def saw_chmod(self, code: int, *, ours: bool = False) -> None:
        """Learn from a reply whether the server has a command that sets a mode.

        `ours`: the file is one that this mount has just made. Once the command has worked, a
        refusal is about the name or the mode.
        """
        if code < 400:
            self.chmod = True
        elif not self.chmod and (code in _UNKNOWN or (ours and code == 501)):
            self.is_missing("chmod", False, code, ours=ours)

    def way_to_set_time(self) -> SetTime:
        """The command that sets a time: one that works, or the most promising one left."""
        if self.set_time is None:
            self.set_time = SetTime.MFMT if "MFMT" in self.features else SetTime.MDTM
        return self.set_time

    def saw_set_time(self, way: SetTime, code: int, *, ours: bool = False) -> bool:
        """Learn from the reply to `way` on an existing file; return whether to try another way.

        Servers that take "time name" for a name refuse MDTM with a time with 550. That counts only
        on a file of `ours`: for other files, the user may not be the owner.
        """
        if code < 400:
            self.set_time, self.set_time_works = way, True
            return False
        unknown = code in _UNKNOWN or (
            ours and (code == 501 or (way is SetTime.MDTM and code == 550))
        )
        if self.set_time_works or not unknown:
            return False
        self.is_missing("set_time", _NEXT_WAY[way], code, ours=ours)
        return True

    def digest_command(self) -> str:
        """The command for a checksum: one that works, or the most promising one left; "": none.

        A server's FEAT is trusted if there is one.
        """
        if self.digests is None:
            named = tuple(each for each in digest.COMMANDS if each in self.features)
            self.digests = named if self.features else tuple(digest.COMMANDS)
        return self.digests[0] if self.digests else ""

    def saw_digest(self, command: str, code: int) -> bool:
        """Learn from the reply to `command`; return whether to try another command."""
        if code < 400:
            self.digests = (command,)
            return False
        if code not in _UNKNOWN:
            return False  # the refusal is about this file
        self.digests = tuple(each for each in self.digests or () if each != command)
        return bool(self.digests)

    @property
    def is_measured(self) -> bool:
        """Whether this is one of the servers that ftpfs was measured with, by its greeting."""
        return any(name in self.welcome.lower() for name in _MEASURED)

    @property
    def appends_by_seeking(self) -> bool:
        """Whether APPE seeks the end only when it opens the file, and overwrites later appends.

        Measured of these two; vsftpd locks the file meanwhile, and pyftpdlib opens it with
        O_APPEND.
        """
        return any(name in self.welcome.lower() for name in ("proftpd", "pure-ftpd"))

    @property
    def in_order(self) -> bool:
        """Whether the server reads a command behind a running transfer only after its end.

        Known of vsftpd only. proftpd hangs, pyftpdlib drops the connection, and pure-ftpd answers
        500 to what it finds while the transfer is running.
        """
        return "vsftpd" in self.welcome.lower()

    @property
    def takes_content_ahead(self) -> bool:
        """Whether a whole content, including its end, may reach the server before it reads STOR.

        With pyftpdlib it is a race: it may drop the connection that ended, and wait for another.
        """
        return any(name in self.welcome.lower() for name in _MEASURED if name != "pyftpdlib")

    @property
    def takes_login_at_once(self) -> bool:
        """Whether a whole login may come in one write: tried with the measured servers only."""
        fails = self.failed_logins_at_once >= MOST_LOGIN_FAILURES
        return not fails and self.is_measured

    @property
    def longest_line(self) -> int:
        """Bytes of the longest command line that the server takes whole, including its CRLF.

        Longer lines are dangerous: vsftpd and pure-ftpd hang up, proftpd takes the next command for
        the rest of the line, and pyftpdlib answers twice.
        """
        if self.line_limit is not None:
            return self.line_limit
        welcome = self.welcome.lower()
        return _LONG_LINE if any(name in welcome for name in _TAKE_LONG_LINES) else _SAFE_LINE

    @property
    def mff_mode(self) -> bool:
        """Whether MFF sets mode bits (draft-somers-ftp-mfxx, 6)."""
        facts = self.features.get("MFF", "").lower().split(";")
        return "unix.mode" in facts

    @property
    def utf8(self) -> bool:
        return "UTF8" in self.features


def features_in(lines: Iterable[str]) -> dict[str, str]:
    """The features in the lines of a FEAT reply, and their parameters.

    Anything beyond MAX_FEATURES and MAX_FEATURE is left out.
    """
    features: dict[str, str] = {}
    for line in itertools.islice(lines, MAX_FEATURES):
        name, _, rest = line.strip()[:MAX_FEATURE].partition(" ")
        if name:
            features[name.upper()] = rest
    return features


# What `learned` consists of, and how it is read back from JSON.


def _as_json(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Manners):
        return value.learned()
    if isinstance(value, tuple):
        return [list(each) if isinstance(each, tuple) else each for each in value]
    return value


def _known(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"neither true nor false: {value!r}")
    return value


def _maybe_known(value: object) -> bool | None:
    return None if value is None else _known(value)


def _count(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"no number of connections: {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r}")
    return value


def _zone(value: object) -> str | None:
    if value is None:
        return None
    try:
        clock.zone_of(_text(value))
    except errors.InvalidArgument as error:
        raise ValueError(str(error)) from None
    return _text(value)


def _features(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"no features: {value!r}")
    return {_text(name): _text(rest) for name, rest in value.items()}


def _digests(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(word in digest.COMMANDS for word in value):
        raise ValueError(f"no commands for checksums: {value!r}")
    return tuple(value)


def _one_of(choices: type[enum.Enum]) -> Callable[[object], object]:
    def choose(value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, str) or value not in choices.__members__:
            raise ValueError(f"no {choices.__name__}: {value!r}")
        return choices[value]

    return choose


def _grain(value: object) -> int | None:
    if value not in (None, *_GRAINS):
        raise ValueError(f"no grain of times: {value!r}")
    return value if isinstance(value, int) else None


def _zones(value: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        raise TypeError(f"no zones: {value!r}")
    if not all(isinstance(n, int) and abs(n) < 1 << 40 for zone in value for n in zone):
        raise ValueError("zones are pairs of whole seconds")
    return tuple((when, ahead) for when, ahead in value)


_KEPT: dict[str, Callable[[object], object]] = {
    "welcome": _text,
    "features": _features,
    "system": _text,
    "passive": _one_of(Passive),
    "set_time": _one_of(SetTime),
    "restart": _one_of(Restart),
    "list_zones": _zones,
    "times": _zone,
    "digests": _digests,
    "time_grain": _grain,
    "connections": _count,
    **dict.fromkeys(("arming", "pipelining", "set_time_works", "list_sizes_wrap"), _known),
    "manners": Manners.recalled,
    "mlsd_shows_itself": _maybe_known,
    "list_shows_itself": _known,
    **dict.fromkeys(
        (
            "mlsd",
            "mlst",
            "list_all",
            "mdtm",
            "chmod",
            "folder_times",
            "rest",
            "renames",
            "appends",
            "paths",
            "slow_times",
        ),
        _maybe_known,
    ),
}

# The server does not know a command, or a form of it. (501 is about its argument: a name, a mode.)
_UNKNOWN = (500, 502, 504)
_NUMBER = re.compile(r"\d+")
_MILLISECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")

_MEASURED = ("vsftpd", "proftpd", "pure-ftpd", "pyftpdlib")
# Measured: 4096 bytes (vsftpd), 4091 (proftpd), 4092 (pure-ftpd), 2050 (pyftpdlib); pure-ftpd never
# ends its reply to an MLST of 4037 bytes and more. Of other servers nothing is known.
_TAKE_LONG_LINES = ("vsftpd", "proftpd", "pure-ftpd")
_LONG_LINE, _SAFE_LINE = 4000, 2048
_SHORTEST_LIMIT = 128  # with less, no temporary name could be written
_SWITCHES = {"yes": True, "no": False}
# The values that `--quirk name=value` takes, and what each sets.
_QUIRKS: dict[str, dict[str, object]] = {
    **{name: dict(_SWITCHES) for name in ("mlsd", "mlst", "list_all", "mdtm", "chmod", "rest")},
    "paths": dict(_SWITCHES),
    "pipelining": dict(_SWITCHES),
    "arming": dict(_SWITCHES),
    "close_notify": dict(_SWITCHES),
    "telnet": dict(_SWITCHES),
    "passive": {way.name: way for way in Passive},
    "set_time": {way.name: way for way in SetTime},
    "restart": {what.name: what for what in Restart},
    "upload": {what.name.replace("_", "-").lower(): what for what in Placing},
    "time_grain": {str(grain): grain for grain in (1, 2, 60)},
    "digests": {"no": (), **{command: (command,) for command in digest.COMMANDS}},
}
# Quirks whose value is a zone.
_ZONES = ("times", "list_times")


def _word(value: object) -> str:
    """The word that `quirk_of` reads as `value`."""
    if isinstance(value, enum.Enum):
        return (
            value.name if not isinstance(value, Placing) else value.name.replace("_", "-").lower()
        )
    if isinstance(value, tuple):
        return str(value[0]) if value else "no"
    return next((word for word, meaning in _SWITCHES.items() if meaning is value), str(value))


def quirk_of(name: str, value: str) -> object:
    """The value that a quirk's word stands for. Raises InvalidArgument with the choices."""
    if name in _ZONES:
        clock.zone_of(value)  # raises for an unknown zone
        return value
    if name == "round_trip":
        if not _MILLISECONDS.fullmatch(value):
            raise errors.InvalidArgument("quirk round_trip must be a number of milliseconds")
        return float(value) / 1000
    if name == "line_limit":
        if not (value.isascii() and value.isdigit() and int(value) >= _SHORTEST_LIMIT):
            raise errors.InvalidArgument(
                f"quirk line_limit must be a number of bytes, {_SHORTEST_LIMIT} or more"
            )
        return int(value)
    if name not in _QUIRKS:
        names = (*_QUIRKS, "round_trip", "line_limit", *_ZONES)
        raise errors.InvalidArgument(f"a quirk is one of {', '.join(names)}")
    choices = {word.lower(): meaning for word, meaning in _QUIRKS[name].items()}
    if value.lower() not in choices:
        raise errors.InvalidArgument(f"quirk {name} must be one of {', '.join(_QUIRKS[name])}")
    return choices[value.lower()]


_NEXT_WAY = {
    SetTime.MFMT: SetTime.MDTM,
    SetTime.MDTM: SetTime.SITE_UTIME,
    SetTime.SITE_UTIME: SetTime.NONE,
    SetTime.NONE: SetTime.NONE,
}

# The range of YYYYMMDDHHMMSS in any zone; times outside are set to the nearest one inside.
_FIRST_TIME, _LAST_TIME = -62_135_424_000, 253_402_128_000
# Some servers count seconds in 32 bits.
_SURE_TIMES = range(1 << 31)

# Precisions (s) of servers' disks: most; FAT; those that drop the seconds.
_GRAINS = (1, 2, 60)
# The time that a probe sets to find the precision: long past, and at least half a step away from a
# multiple of each. 2000-02-28 22:22:29 UTC.
PROBE_TIME = 951776549
# A time that is set and the time shown for it differ at most by their zones and the precision (s).
_MOST_APART = 28 * 3600

# Files from here on (bytes) are asked for their size where listings may show it wrong.
_LONG_FILE = 1 << 20

# LIST shows the time of day for half a year, or a year.
_WEEK, _MOST_WEEKS = 7 * 86400, 54

_WANTED_FACTS = {"type", "size", "modify", "unix.mode"}
