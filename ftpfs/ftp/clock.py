"""Pure: the time zone of a server's times: its names, and conversion from and to it.

MDTM, MLSD and MLST should use UTC (RFC 3659, 2.3). vsftpd with use_localtime=YES and pyftpdlib with
use_gmt_times=False do not. LIST shows the same times, so only a file that was just written reveals
the zone: its time is now.

Times are seconds since the epoch. A time that a server *shows* is parsed as if the server used UTC.
Zones are named "UTC", "+0530" (a fixed distance ahead of UTC all year: vsftpd uses the distance
that was right when it started) or "Europe/Berlin" (pyftpdlib: with summer time).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ftpfs import errors

UTC = "UTC"
STEP_SECONDS = 15 * 60  # every zone is a multiple of this ahead of UTC
# Tolerance (s). The server's time of a file just written is off by the duration of the transfer's
# end (a few round trips) and by the difference of the two clocks. Beyond this, the server's clock
# is wrong.
_TOLERANCE_SECONDS = 45
_MOST_AHEAD, _MOST_BEHIND = 14 * 3600, -12 * 3600


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """The zone of that name. Raises InvalidArgument if there is none."""
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
    """The UTC time that the server shows as `shown`. In the hour that comes twice, the first."""
    try:
        told = datetime.fromtimestamp(shown, timezone.utc)
        return int(told.replace(tzinfo=zone_of(name)).timestamp())
    except (ValueError, OverflowError, OSError):  # at the ends of the calendar
        return shown


def shown_at(seconds: int, name: str) -> int:
    """How the server shows that UTC time."""
    try:
        there = datetime.fromtimestamp(seconds, zone_of(name))
        return int(there.replace(tzinfo=timezone.utc).timestamp())
    except (ValueError, OverflowError, OSError):
        return seconds


def told_by(shown: int, now: float) -> str:
    """The zone, as a distance from UTC, that shows `now` as `shown`; UTC if none fits."""
    ahead = round((shown - now) / STEP_SECONDS) * STEP_SECONDS
    if abs(shown - now - ahead) > _TOLERANCE_SECONDS or not _MOST_BEHIND <= ahead <= _MOST_AHEAD:
        return UTC
    sign, minutes = "-" if ahead < 0 else "+", abs(ahead) // 60
    return f"{sign}{minutes // 60:02}{minutes % 60:02}" if ahead else UTC
