"""How a server sets times and modes, and how precisely it stores a time."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, field

from ftpfs.ftp import clock, listing
from ftpfs.ftp.profile.facts import (
    SWITCH,
    UNKNOWN,
    Facts,
    choice,
    fact,
    known,
    maybe_known,
    members,
    one_of,
)
from ftpfs.ftp.profile.identity import Identity
from ftpfs.ftp.profile.times import Times

log = logging.getLogger(__name__)

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


class SetTime(enum.Enum):
    """The command that sets a file's modification time."""

    MFMT = "MFMT {time} {path}"  # draft-somers-ftp-mfxx: proftpd, pure-ftpd, pyftpdlib, FileZilla
    MDTM = "MDTM {time} {path}"  # vsftpd, Serv-U and others overload the query
    SITE_UTIME = "SITE UTIME {time} {path}"
    NONE = ""


_NEXT_WAY = {
    SetTime.MFMT: SetTime.MDTM,
    SetTime.MDTM: SetTime.SITE_UTIME,
    SetTime.SITE_UTIME: SetTime.NONE,
    SetTime.NONE: SetTime.NONE,
}


def _grain(value: object) -> int | None:
    if value not in (None, *_GRAINS):
        raise ValueError(f"no grain of times: {value!r}")
    return value if isinstance(value, int) else None


@dataclass(eq=False)
class Setting(Facts):
    """MFMT, MDTM, SITE UTIME, MFF and SITE CHMOD."""

    identity: Identity
    times: Times
    # The command to try; None: not chosen yet.
    set_time: SetTime | None = field(
        default=None, metadata=fact(kept=one_of(SetTime), quirk=members(SetTime))
    )
    # That command was seen to work.
    set_time_works: bool = field(default=False, metadata=fact(kept=known))
    # The precision (s) with which the server's disk stores a time: 1, 2 (FAT), 60. None: not seen
    # yet. Unless it is 1, ftpfs asks the server for the time after each time that it sets.
    time_grain: int | None = field(
        default=None,
        metadata=fact(kept=_grain, quirk=choice({str(grain): grain for grain in _GRAINS})),
    )
    # The server also sets times of folders.
    folder_times: bool | None = field(default=None, metadata=fact(kept=maybe_known))
    chmod: bool | None = field(default=None, metadata=fact(kept=maybe_known, quirk=SWITCH))

    def way_to_set_time(self) -> SetTime:
        """The command that sets a time: one that works, or the most promising one left."""
        if self.set_time is None:
            self.set_time = SetTime.MFMT if "MFMT" in self.identity.features else SetTime.MDTM
        return self.set_time

    def set_time_line(self, way: SetTime, path: str, seconds: int) -> str:
        """The command that sets that time.

        MFMT takes UTC (draft-somers-ftp-mfxx, 3.1), even if MDTM uses another zone (pyftpdlib).
        MDTM sets what MDTM shows (vsftpd).
        """
        seconds = min(max(seconds, _FIRST_TIME), _LAST_TIME)
        told = seconds if way is SetTime.MFMT else self.times.shown_at(seconds)
        return way.value.format(time=listing.format_time_val(told), path=path)

    def saw_set_time(self, way: SetTime, code: int, *, ours: bool = False) -> bool:
        """Learn from the reply to `way` on an existing file; return whether to try another way.

        Servers that take "time name" for a name refuse MDTM with a time with 550. That counts only
        on a file of `ours`: for other files, the user may not be the owner.
        """
        if code < 400:
            self.set_time, self.set_time_works = way, True
            return False
        unknown = code in UNKNOWN or (
            ours and (code == 501 or (way is SetTime.MDTM and code == 550))
        )
        if self.set_time_works or not unknown:
            return False
        self.is_missing("set_time", _NEXT_WAY[way], code, ours=ours)
        return True

    def saw_chmod(self, code: int, *, ours: bool = False) -> None:
        """Learn from a reply whether the server has a command that sets a mode.

        `ours`: the file is one that this mount has just made. Once the command has worked, a
        refusal is about the name or the mode.
        """
        if code < 400:
            self.chmod = True
        elif not self.chmod and (code in UNKNOWN or (ours and code == 501)):
            self.is_missing("chmod", False, code, ours=ours)

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
            self.believe_briefly("time_grain", 1)

    def is_kept(self, seconds: int) -> bool:
        """Whether the server is known to store this time exactly."""
        return self.time_grain == 1 and seconds in _SURE_TIMES

    def is_same_time(self, first: int, second: int) -> bool:
        """Whether the server's disk may show one of these times for the other."""
        return abs(first - second) < (self.time_grain or 1)
