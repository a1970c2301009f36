"""Which times a server reports, in which zone, and how fast."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from ftpfs.ftp import clock
from ftpfs.ftp.dated import SLOW_SECONDS, SLOW_SERIES_SECONDS, Dated
from ftpfs.ftp.profile.facts import SWITCH, ZONE, Facts, fact, maybe_known, zone_name

log = logging.getLogger(__name__)

# LIST shows the time of day for half a year, or a year.
_WEEK, _MOST_WEEKS = 7 * 86400, 54


def _zones(value: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        raise TypeError(f"no zones: {value!r}")
    if not all(isinstance(n, int) and abs(n) < 1 << 40 for each in value for n in each):
        raise ValueError("zones are pairs of whole seconds")
    return tuple((when, ahead) for when, ahead in value)


@dataclass(eq=False)
class Times(Facts):
    """MDTM and the zones of the server's clocks."""

    mdtm: bool | None = field(default=None, metadata=fact(kept=maybe_known, quirk=SWITCH))
    # MDTM is so slow that a listing does not wait for all times.
    are_slow: bool | None = field(default=None, metadata=fact("slow_times", kept=maybe_known))
    dated: Dated = field(default_factory=Dated)
    # The zone that MDTM, MLSD and MLST use, as `clock` names it. None: not seen yet, taken as UTC.
    zone: str | None = field(default=None, metadata=fact("times", kept=zone_name, quirk=ZONE))
    # Whether this mount has seen that zone. A zone seen by an earlier mount is the best guess until
    # the first upload, but the clocks may have changed to summer time since.
    zone_seen: bool = False
    # LIST's zone, if the user has stated it.
    list_zone: str | None = field(default=None, metadata=fact("list_times", quirk=ZONE))
    # By how many seconds LIST's clock is ahead of UTC: pairs of (a time, the distance at that
    # time), sorted by time. There are several, because clocks change to summer time and back.
    list_zones: tuple[tuple[int, int], ...] = field(default=(), metadata=fact(kept=_zones))

    def saw_pace(self, seconds: float, count: int) -> None:
        """Note that the server reported `count` times within `seconds`."""
        pace = self.dated.pace = max(seconds / count, 1e-6)
        slow = pace > SLOW_SECONDS and seconds > SLOW_SERIES_SECONDS
        if slow and not self.are_slow:
            log.info("this server takes %.1f ms to report a time", 1000 * pace)
        self.are_slow = slow

    def saw_list_zones(self, seen: dict[int, int]) -> None:
        """Learn how far LIST's clock was ahead (seconds), by time. One value per week is stored."""
        weeks = {when // _WEEK: (when, ahead) for when, ahead in (*self.list_zones, *seen.items())}
        self.list_zones = tuple(sorted(weeks.values())[-_MOST_WEEKS:])

    def list_zone_at(self, shown: int) -> int:
        """How far LIST's clock is ahead of UTC (seconds) when it shows `shown`.

        As far as at the nearest known time; if none is known, as far as MDTM's clock.
        """
        if self.list_zone:
            return shown - clock.to_utc(shown, self.list_zone)
        if not self.list_zones:
            return shown - self.utc_of(shown)
        return min(self.list_zones, key=lambda zone: abs(sum(zone) - shown))[1]

    def saw_clock(self, shown: int | None, now: float) -> None:
        """Learn the server's zone from the time it shows for a file written right now."""
        before = self.zone or clock.UTC
        self.zone = clock.UTC if shown is None else clock.told_by(shown, now)
        self.zone_seen = True
        if self.zone != before:
            self.list_zones = ()  # these zones were derived from times in an unknown zone
            self.dated = Dated()
            log.warning(
                "this server reports times in its own zone (%s); times seen so far were off by it",
                self.zone,
            )

    @property
    def are_utc(self) -> bool:
        """Whether times are shown in UTC, as far as is known."""
        return self.zone in (None, clock.UTC)

    def utc_of(self, shown: int) -> int:
        """The UTC time (seconds since the epoch) that MDTM, MLSD or MLST show as `shown`."""
        return shown if self.are_utc else clock.to_utc(shown, self.zone or "")

    def shown_at(self, seconds: int) -> int:
        """What MDTM, MLSD and MLST show at this UTC time: the reverse of `utc_of`."""
        return seconds if self.are_utc else clock.shown_at(seconds, self.zone or "")
