"""The zone of a server's times: names for it, reading and writing times in it, telling it.

MDTM, MLSD and MLST tell UTC (RFC 3659, 2.3), but not where vsftpd has use_localtime=YES and
pyftpdlib use_gmt_times=False. Nothing shows it, as LIST agrees, but a file that was just written:
its time is now.

Times are seconds since the epoch; one that a server `shows` is what they would be if it told UTC.
Zones are named "UTC", "+0530" (so far ahead of UTC, the year round: vsftpd counts so, by what was
right when it started) or "Europe/Berlin" (pyftpdlib: with summer time). Pure functions.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ftpfs import errors

UTC = "UTC"
STEP = 15 * 60  # seconds; every zone is a multiple of it ahead of UTC
# The server's time of a file just written is off by what the transfer's end took (a few round
# trips) and by how well the two clocks agree. More than this (s) is a clock that is wrong.
_TOLERANCE = 45
_MOST_AHEAD, _MOST_BEHIND = 14 * 3600, -12 * 3600


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """The zone of that name. Raises InvalidArgument where there is none."""
    if name.upper() == UTC:
        return timezone.utc
    if ahead := re.fullmatch(r"([+-])([01][0-9]):?([0-5][0-9])?", name):
        minutes = int(ahead[2]) * 60 + int(ahead[3] or 0)
        return timezone(timedelta(minutes=-minutes if ahead[1] == "-" else minutes))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise errors.InvalidArgument(
            f"times are in UTC, a zone like Europe/Berlin, or +HHMM, not {name!r}"
        ) from None


def to_utc(shown: int, name: str) -> int:
    """The time that the server shows so. In the hour that comes twice, the first."""
    try:
        told = datetime.fromtimestamp(shown, timezone.utc)
        return int(told.replace(tzinfo=zone_of(name)).timestamp())
    except (ValueError, OverflowError, OSError):  # at the ends of the calendar
        return shown


def shown_at(seconds: int, name: str) -> int:
    """How the server shows that time."""
    try:
        there = datetime.fromtimestamp(seconds, zone_of(name))
        return int(there.replace(tzinfo=timezone.utc).timestamp())
    except (ValueError, OverflowError, OSError):
        return seconds


def told_by(shown: int, now: float) -> str:
    """The zone, as a distance from UTC, in which `now` is shown so; UTC where none is."""
    ahead = round((shown - now) / STEP) * STEP
    if abs(shown - now - ahead) > _TOLERANCE or not _MOST_BEHIND <= ahead <= _MOST_AHEAD:
        return UTC
    sign, minutes = "-" if ahead < 0 else "+", abs(ahead) // 60
    return f"{sign}{minutes // 60:02}{minutes % 60:02}" if ahead else UTC
