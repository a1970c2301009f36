"""Timetables: a transfer rate for each time of the day, as the user wrote it.

    2M                               at any time
    08:00-18:00=1M                   by day; unlimited otherwise
    08:00-18:00=1M;22:00-06:00=off;4M   4M at all other times
    08:00,512K 19:00,off             as rclone writes it: each rate counts until the next time

Owns the syntax, and which rate holds at which minute. Pure. Times are those of this machine's zone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_DAY_MINUTES = 24 * 60
_HINT = "expected a rate such as 2M or off, or times such as 08:00-18:00=1M"
_SPAN = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)=(.+)")
_MOMENT = re.compile(r"(\d{1,2}):(\d\d),(.+)")


@dataclass(frozen=True)
class Timetable:
    """Rates in bytes a second; 0: no limit.

    - `text`: how the user wrote it.
    - `changes`: (minute of the day, the rate from then on), sorted; the first one is minute 0.
    """

    text: str = "off"
    changes: tuple[tuple[int, int], ...] = ((0, 0),)

    def __str__(self) -> str:
        return self.text

    @property
    def limits(self) -> bool:
        """Whether there is a limit at any time of the day."""
        return any(rate for _, rate in self.changes)

    def rate_at(self, minute: int) -> int:
        """The rate at this minute of the day."""
        return next(rate for start, rate in reversed(self.changes) if start <= minute)

    def next_change(self, minute: int) -> int:
        """The minute of the next change; that of the next day's first one counts on from 1440."""
        later = [start for start, _ in self.changes if start > minute]
        return later[0] if later else _DAY_MINUTES


NO_LIMIT = Timetable()


def read(text: str, rate: Callable[[str], int]) -> Timetable:
    """Read a timetable. `rate` reads a rate. Raises ValueError, also from `rate`."""
    items = [item for item in re.split(r"[;\s]+", text) if item]
    if not items:
        raise ValueError(_HINT)
    if all(_MOMENT.fullmatch(item) for item in items):
        minutes = _from_moments(items, rate)
    else:
        minutes = _from_spans(items, rate)
    changes = [
        (minute, value)
        for minute, value in enumerate(minutes)
        if not minute or value != minutes[minute - 1]
    ]
    return Timetable(" ".join(items) if len(items) == 1 else ";".join(items), tuple(changes))


def _from_spans(items: list[str], rate: Callable[[str], int]) -> list[int]:
    """The rate of each minute. An item without times is the rate of all other times."""
    spans: list[int | None] = [None] * _DAY_MINUTES
    otherwise: int | None = None
    for item in items:
        match = _SPAN.fullmatch(item)
        if match is None:
            if otherwise is not None or not re.match(r"\d|off$", item) or ":" in item:
                raise ValueError(_HINT)
            otherwise = rate(item)
            continue
        start, end = _minute(match[1], match[2]), _minute(match[3], match[4])
        if start == end and match[3] != "24":
            raise ValueError("a time that begins and ends at the same minute")
        value = rate(match[5])
        for minute in range(start, end if end > start else end + _DAY_MINUTES):
            if spans[minute % _DAY_MINUTES] is not None:
                raise ValueError("two of the times overlap")
            spans[minute % _DAY_MINUTES] = value
    return [(otherwise or 0) if value is None else value for value in spans]


def _from_moments(items: list[str], rate: Callable[[str], int]) -> list[int]:
    """The rate of each minute. Before the first time of the day, the last one's rate counts."""
    moments = {}
    for item in items:
        match = _MOMENT.fullmatch(item)
        if match is not None:
            moments[_minute(match[1], match[2])] = rate(match[3])
    value = moments[max(moments)]
    minutes = []
    for minute in range(_DAY_MINUTES):
        value = moments.get(minute, value)
        minutes.append(value)
    return minutes


def _minute(hour: str, minute: str) -> int:
    """The minute of the day; 24:00 is 0:00."""
    if int(minute) > 59 or int(hour) * 60 + int(minute) > _DAY_MINUTES:
        raise ValueError(f"{hour}:{minute} is no time of the day")
    return (int(hour) * 60 + int(minute)) % _DAY_MINUTES
