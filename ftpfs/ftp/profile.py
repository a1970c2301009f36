"""What one server can do: what it says (FEAT, SYST) and what was learned by using it.

Owns: the facts, and the questions other modules ask of them. Does not talk to the server itself.

Threading: shared by all sessions of one server. Every attribute is a plain value that is only ever
replaced whole, and learning the same thing twice is harmless, so no lock is needed.
"""

from __future__ import annotations

import enum
import logging
import re
from collections.abc import Callable, Iterable, Sequence

from ftpfs import errors
from ftpfs.ftp import clock, digest, listing
from ftpfs.ftp.foreign import Foreign

log = logging.getLogger(__name__)

# One can fail because a firewall forgot it, or the server is busy; two in a row are the rule here.
MOST_ARMED_FAILURES = 2
# Likewise logins in one write, that ended in silence or broke off.
MOST_LOGIN_FAILURES = 2


class Passive(enum.Enum):
    """How a passive data connection is asked for."""

    EPSV = "EPSV"  # RFC 2428: a port only, so NAT and IPv6 cannot spoil it
    PASV = "PASV"  # RFC 959: an address and a port; the address is ignored, see session.py


class SetTime(enum.Enum):
    """The command that sets a file's modification time."""

    MFMT = "MFMT {time} {path}"  # draft-somers-ftp-mfxx: proftpd, pure-ftpd, pyftpdlib, FileZilla
    MDTM = "MDTM {time} {path}"  # vsftpd, Serv-U and others overload the query
    SITE_UTIME = "SITE UTIME {time} {path}"
    NONE = ""


class Restart(enum.Enum):
    """What REST n and STOR leave of a file that was there."""

    ALL = "keeps what lies before and behind"  # vsftpd, proftpd, pyftpdlib
    HEAD = "keeps what lies before"  # pure-ftpd: STOR cuts the file off at n
    NOTHING = "cannot be relied on"


class Profile:
    """One server's abilities. `None` in a learned attribute means: not tried yet."""

    def __init__(self, quirks: Sequence[tuple[str, str]] = ()) -> None:
        """`quirks`: what the user knows better, as `quirk_of` takes it; never learned otherwise."""
        # From FEAT and SYST; empty until `read_features`.
        self.features: dict[str, str] = {}
        self.system = ""
        self.welcome = ""
        # The folder that login lands in; where relative paths of the mount begin.
        self.home = ""
        # Set where that system writes its paths without slashes; `home` is "/" then.
        self.foreign: Foreign | None = None
        # Learned by use.
        # The shortest TCP handshake seen, in seconds: the link's round trip, and nothing of the
        # server's own time. (Of the nearest end of a tunnel, where the way leads through one: then
        # only the user can tell.)
        self.round_trip = float("inf")
        self.known = False  # a session has logged in and looked around
        self.recalled = False  # what it knows was learned by an earlier mount
        self.passive: Passive | None = None
        self.arming = True  # data connections made ahead work
        self.armed_failures = 0  # of them, in a row
        self.failed_logins_at_once = 0  # in a row
        self.mlsd: bool | None = None
        self.mlsd_shows_itself = False  # `type=cdir` is in its listings, so none is ever empty
        self.mlst: bool | None = None
        self.list_all: bool | None = None  # LIST -a is taken for an option, not for a name
        self.list_shows_itself = False  # `.` is in its listings, so none is ever empty
        self.mdtm: bool | None = None
        self.chmod: bool | None = None
        self.set_time: SetTime | None = None  # the command to try; None: not thought about yet
        self.set_time_works = False  # that command was seen to work
        self.folder_times: bool | None = None  # it sets the times of folders, too
        self.rest: bool | None = None
        self.restart: Restart | None = None  # of uploads; probed when first needed
        # Commands that may tell a file's checksum, the one to use first; None: not thought about.
        self.digests: tuple[str, ...] | None = None
        self.pipelining = True
        self.close_notify = False  # TLS data connections of it were seen to end properly
        # Whether the server reads commands as Telnet. None: by its greeting, see control.py.
        self.telnet: bool | None = None
        # The zone that MDTM, MLSD and MLST tell times in, as `clock` names it. None: not seen yet,
        # and taken for UTC.
        self.times: str | None = None
        # Whether that was seen by this mount. What an earlier one saw is the best there is until
        # the first upload, but the clocks may have changed to summer time since.
        self.times_seen = False
        # LIST's zone, where the user has said it.
        self.list_times: str | None = None
        # By how many seconds LIST's clock is ahead of UTC: (a time, what it was then), by time.
        # More than one, because clocks change to summer time and back.
        self.list_zones: tuple[tuple[int, int], ...] = ()
        for name, value in quirks:
            setattr(self, name, quirk_of(name, value))
        if any(name == "set_time" for name, _ in quirks):
            self.set_time_works = True
        self.times_seen = any(name == "times" for name, _ in quirks)
        self._pinned = frozenset(name for name, _ in quirks)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.__dict__.get("_pinned", ()):
            super().__setattr__(name, value)

    def in_quirks(self) -> tuple[dict[str, str], dict[str, str]]:
        """What is known by now, in the words of `--quirk`: what was learned, and what the user said
        (which counts)."""
        words = {
            name: _word(getattr(self, name))
            for name in (*_QUIRKS, *_ZONES)
            if getattr(self, name) is not None
        }
        said = {name: word for name, word in words.items() if name in self._pinned}
        return {name: word for name, word in words.items() if name not in said}, said

    def learned(self) -> dict[str, object]:
        """What an earlier mount can tell a later one, as JSON has it.

        Not what the user has said, nor the round trip: that is the link's, and links change.
        """
        return {name: _as_json(getattr(self, name)) for name in _KEPT if name not in self._pinned}

    def recall(self, learned: dict[str, object]) -> None:
        """Know what `learned` said once. Raises ValueError or TypeError when it is none of it, and
        then nothing is recalled."""
        recalled = {
            name: from_json(learned[name]) for name, from_json in _KEPT.items() if name in learned
        }
        for name, value in recalled.items():
            setattr(self, name, value)
        self.recalled = True

    def is_recalled_for(self, welcome: str) -> bool:
        """Whether what is recalled may be of the server that greets like this: in its numbers (of
        users, the time of day) greetings differ each time."""
        return self.recalled and _NUMBER.sub("0", self.welcome) == _NUMBER.sub("0", welcome)

    def forget(self) -> None:
        """What was recalled is another server's."""
        fresh = Profile()
        for name in _KEPT:
            setattr(self, name, getattr(fresh, name))
        self.recalled = False

    def saw_handshake(self, seconds: float) -> None:
        """How long a connect took."""
        self.round_trip = min(self.round_trip, seconds)

    def saw_armed_failure(self, why: str) -> None:
        """A data connection made ahead was of no use. Two in a row, and no more are made."""
        self.armed_failures += 1
        log.info("a data connection made ahead failed: %s", why)
        if self.armed_failures >= MOST_ARMED_FAILURES and self.arming:
            self.arming = False
            log.warning("this server takes no data connections made ahead; transfers cost more")

    def saw_login_at_once_fail(self, why: str) -> None:
        """Logging in by one write broke off. Twice in a row, and it is done no more."""
        self.failed_logins_at_once += 1
        log.info("logging in by one write failed: %s", why)
        if self.failed_logins_at_once == MOST_LOGIN_FAILURES:
            log.warning("this server takes no login in one write; further sessions cost more")

    def saw_list_zones(self, seen: dict[int, int]) -> None:
        """Learn how far LIST's clock was ahead (seconds), by time. One for each week is kept."""
        weeks = {when // _WEEK: (when, ahead) for when, ahead in (*self.list_zones, *seen.items())}
        self.list_zones = tuple(sorted(weeks.values())[-_MOST_WEEKS:])

    def list_zone_at(self, shown: int) -> int:
        """How far LIST's clock is ahead of UTC (seconds) where it shows `shown`: as far as it was
        at the nearest time known; where none is, as far as MDTM's."""
        if self.list_times:
            return shown - clock.to_utc(shown, self.list_times)
        if not self.list_zones:
            return shown - self.utc_of(shown)
        return min(self.list_zones, key=lambda zone: abs(sum(zone) - shown))[1]

    def saw_clock(self, shown: int | None, now: float) -> None:
        """Learn the zone of times from what the server shows for a file written right now."""
        before = self.times or clock.UTC
        self.times = clock.UTC if shown is None else clock.told_by(shown, now)
        self.times_seen = True
        if self.times != before:
            self.list_zones = ()  # they were compared with times not understood
            log.warning(
                "this server tells times in its own zone (%s): times seen so far were off by it",
                self.times,
            )

    def utc_of(self, shown: int) -> int:
        """The time (seconds since the epoch) that MDTM, MLSD or MLST show as `shown`."""
        return shown if self.times in (None, clock.UTC) else clock.to_utc(shown, self.times or "")

    def shown_at(self, seconds: int) -> int:
        """What MDTM, MLSD and MLST show at this time: the reverse of `utc_of`."""
        return (
            seconds
            if self.times in (None, clock.UTC)
            else clock.shown_at(seconds, self.times or "")
        )

    def set_time_line(self, way: SetTime, path: str, seconds: int) -> str:
        """The command that sets that time. MFMT takes UTC (draft-somers-ftp-mfxx, 3.1), also where
        MDTM tells another zone (pyftpdlib); what is set by MDTM is what MDTM shows (vsftpd)."""
        told = seconds if way is SetTime.MFMT else self.shown_at(seconds)
        return way.value.format(time=listing.format_time_val(told), path=path)

    def read_features(self, lines: Iterable[str]) -> None:
        """Take the lines between 211- and 211 of a FEAT reply (RFC 2389, 3.2)."""
        self.features = features = features_in(lines)
        if "MLST" not in features:  # RFC 3659, 7.8: FEAT names MLST for both
            self.mlsd = self.mlst = False
        if "MDTM" in features:
            self.mdtm = True

    @property
    def mlst_options(self) -> str | None:
        """The OPTS MLST line that makes listings carry what a file system wants to know.

        None when the server sends those facts by itself. FEAT marks with `*` what is sent already
        (RFC 3659, 7.8); pyftpdlib, for one, sends UNIX.mode only when asked.
        """
        offered = self.features.get("MLST", "")
        facts = [fact for fact in offered.split(";") if fact]
        wanted = [f for f in facts if f.rstrip("*").lower() in _WANTED_FACTS]
        if all(fact.endswith("*") for fact in wanted):
            return None
        return "OPTS MLST " + "".join(f"{fact.rstrip('*')};" for fact in wanted)

    def saw_chmod(self, code: int) -> None:
        """Learn whether there is a command that sets a mode. Once it has worked, it is the name or
        the mode that the server cannot read."""
        if code < 400:
            self.chmod = True
        elif code in (500, 501, 502, 504):
            self.chmod = self.chmod or False

    def way_to_set_time(self) -> SetTime:
        """The command that sets a time: known to work, or the most promising one left."""
        if self.set_time is None:
            self.set_time = SetTime.MFMT if "MFMT" in self.features else SetTime.MDTM
        return self.set_time

    def saw_set_time(self, way: SetTime, code: int) -> bool:
        """Learn from the reply to `way` on an existing file; whether another way is worth a try.

        MDTM with a time is refused with 550 by servers that take "time name" for a name.
        """
        if code < 400:
            self.set_time, self.set_time_works = way, True
            return False
        unknown = code in (500, 501, 502, 504) or (way is SetTime.MDTM and code == 550)
        if self.set_time_works or not unknown:
            return False
        self.set_time = _NEXT_WAY[way]
        return True

    def digest_command(self) -> str:
        """The command that tells a file's checksum: known to work, or the most promising one left;
        "" where there is none. FEAT is believed where there is one."""
        if self.digests is None:
            named = tuple(each for each in digest.COMMANDS if each in self.features)
            self.digests = named if self.features else tuple(digest.COMMANDS)
        return self.digests[0] if self.digests else ""

    def saw_digest(self, command: str, code: int) -> bool:
        """Learn from the reply to `command`; whether another one is worth a try."""
        if code < 400:
            self.digests = (command,)
            return False
        if code not in (500, 501, 502, 504):
            return False  # about this file
        self.digests = tuple(each for each in self.digests or () if each != command)
        return bool(self.digests)

    @property
    def in_order(self) -> bool:
        """Whether a command sent behind a transfer in flight is read when that is over, and not
        before: known of vsftpd only. proftpd hangs, pyftpdlib drops the connection, and pure-ftpd
        says 500 to what it finds while the transfer goes on."""
        return "vsftpd" in self.welcome.lower()

    @property
    def takes_content_ahead(self) -> bool:
        """Whether a whole content, and its end, may reach the server before it reads STOR. With
        pyftpdlib it is a race: it may drop the connection that ended, and wait for another."""
        return any(name in self.welcome.lower() for name in _MEASURED if name != "pyftpdlib")

    @property
    def takes_login_at_once(self) -> bool:
        """Whether USER, PASS and what follows may come in one write: tried with these only."""
        fails = self.failed_logins_at_once >= MOST_LOGIN_FAILURES
        return not fails and any(name in self.welcome.lower() for name in _MEASURED)

    @property
    def mff_mode(self) -> bool:
        """Whether MFF sets mode bits (draft-somers-ftp-mfxx, 6)."""
        facts = self.features.get("MFF", "").lower().split(";")
        return "unix.mode" in facts

    @property
    def utf8(self) -> bool:
        return "UTF8" in self.features


def features_in(lines: Iterable[str]) -> dict[str, str]:
    """The features that the lines of a FEAT reply name, and what they say of each."""
    features: dict[str, str] = {}
    for line in lines:
        name, _, rest = line.strip().partition(" ")
        if name:
            features[name.upper()] = rest
    return features


# What `learned` is made of, and how it comes back from JSON.


def _as_json(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, tuple):
        return [list(each) if isinstance(each, tuple) else each for each in value]
    return value


def _known(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"neither true nor false: {value!r}")
    return value


def _maybe_known(value: object) -> bool | None:
    return None if value is None else _known(value)


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
    **dict.fromkeys(("arming", "pipelining", "set_time_works"), _known),
    **dict.fromkeys(("mlsd_shows_itself", "list_shows_itself"), _known),
    **dict.fromkeys(
        ("mlsd", "mlst", "list_all", "mdtm", "chmod", "folder_times", "rest"), _maybe_known
    ),
}

_NUMBER = re.compile(r"\d+")
_MILLISECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")

_MEASURED = ("vsftpd", "proftpd", "pure-ftpd", "pyftpdlib")
_SWITCHES = {"yes": True, "no": False}
# What `--quirk name=value` can say, and what it sets.
_QUIRKS: dict[str, dict[str, object]] = {
    **{name: dict(_SWITCHES) for name in ("mlsd", "mlst", "list_all", "mdtm", "chmod", "rest")},
    "pipelining": dict(_SWITCHES),
    "arming": dict(_SWITCHES),
    "close_notify": dict(_SWITCHES),
    "telnet": dict(_SWITCHES),
    "passive": {way.name: way for way in Passive},
    "set_time": {way.name: way for way in SetTime},
    "restart": {what.name: what for what in Restart},
    "digests": {"no": (), **{command: (command,) for command in digest.COMMANDS}},
}
# Those whose value is a zone.
_ZONES = ("times", "list_times")


def _word(value: object) -> str:
    """What `quirk_of` reads as `value`."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, tuple):
        return str(value[0]) if value else "no"
    return next((word for word, meaning in _SWITCHES.items() if meaning is value), str(value))


def quirk_of(name: str, value: str) -> object:
    """What a quirk's value stands for. Raises InvalidArgument with the choices."""
    if name in _ZONES:
        clock.zone_of(value)  # raises for what is no zone
        return value
    if name == "round_trip":
        if not _MILLISECONDS.fullmatch(value):
            raise errors.InvalidArgument("quirk round_trip must be a number of milliseconds")
        return float(value) / 1000
    if name not in _QUIRKS:
        names = (*_QUIRKS, "round_trip", *_ZONES)
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

# LIST shows the time of day for half a year, or a year.
_WEEK, _MOST_WEEKS = 7 * 86400, 54

_WANTED_FACTS = {"type", "size", "modify", "unix.mode"}
