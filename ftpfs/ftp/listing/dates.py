"""Pure: dates in LIST, in every order in which servers write them.

A date is a day; a time of day or a year may follow it:

    day    2024-01-31   31.01.2024   01/31/24   31-Jan-2024   Jan-31-2024
           Jan 31   31. Januar   1 31   2024 Jan 31   2024年 1月 31日   2024年1月31日
    tail   12:34   12:34:56 2024   2024   2024, 12:34   10:11AM   24:00

If every number of a day could be the month, the listing as a whole decides: one day above 12
determines the order of all (`context.Order`). If there is no such day, points mean day first, and
every other separator means the order of the United States, which IIS and DOS use.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ftpfs.ftp.listing.context import Context, Order, recent_year
from ftpfs.ftp.listing.times import CENTURY_PIVOT, DAY, midnight, month_of
from ftpfs.ftp.listing.words import Words

# 年, 月, 日 and their Korean counterparts in any encoding; in Shift-JIS a second byte may be ASCII.
_SUFFIX = rb"(?:[\x80-\xff]{1,4}|[\x80-\xff][\x40-\x7e])"
_YEAR = re.compile(rb"(?P<year>(?:19|20|21)\d\d)(?:%b)?(?P<comma>,?)" % _SUFFIX)
_DAY = re.compile(rb"(?P<day>[0-3]?\d)(?:%b)?\.?(?P<comma>,?)" % _SUFFIX)
_NUMBER_MONTH = re.compile(rb"([01]?\d)(?:%b)?" % _SUFFIX)
_WHOLE_CJK = re.compile(rb"(\d{4})%b(\d{1,2})%b(\d{1,2})%b" % (_SUFFIX, _SUFFIX, _SUFFIX))
_THREE = re.compile(rb"(\d{1,4})([-/.])(\d{1,2})\2(\d{1,4})\.?,?")
_TWO = re.compile(rb"(\d\d)[-/](\d\d)")
_DAY_NAME_YEAR = re.compile(rb"(\d{1,2})[-/.]([A-Za-z\x80-\xff]{3,15})\.?[-/.](\d{4}|\d\d),?")
_NAME_DAY_YEAR = re.compile(rb"([A-Za-z\x80-\xff]{3,15})\.?[-/.](\d{1,2})[-/.](\d{4}|\d\d),?")
_CLOCK = re.compile(rb"(\d{1,2}):(\d\d)(?:[:.](\d\d)(?:[.,]\d{1,9})?)?(?:([AaPp])\.?[Mm]\.?)?,?")
_HALF = re.compile(rb"([AaPp])\.?[Mm]\.?")


class Date(NamedTuple):
    """A date, and the number of words it takes. `dated`: it includes its year."""

    mtime: int | None
    words: int
    dated: bool


class _Day(NamedTuple):
    year: int | None
    month: int
    day: int
    words: int
    comma: bool = False  # a comma follows, so more of the date comes


def date_at(words: Words, at: int, context: Context, *, bare: bool = False) -> Date | None:
    """The date that begins at word `at`; None if none does.

    `bare`: accept a month that is a number of its own; owners, groups and sizes are numbers too.

    A day that is in no calendar still counts as a date, with an unknown time: the name follows it.
    """
    day = _day_at(words, at, context.order, bare=bare)
    if day is None:
        return None
    year, end, clock = day.year, at + day.words, None
    told_year = None if year is not None else _YEAR.fullmatch(words[end])
    comma = day.comma
    if told_year:
        year, comma = int(told_year["year"]), bool(told_year["comma"])
        end += 1
    if (not told_year or comma or day.comma) and (time := clock_at(words, end)) is not None:
        clock, taken, seconds_told = time
        end += taken
        if year is None and seconds_told and (behind := _YEAR.fullmatch(words[end])):
            year = int(behind["year"])
            end += 1
    if year is None and clock is None:
        return None
    mtime = _time(year, day.month, day.day, clock or 0, context)
    return Date(mtime, end - at, year is not None)


def clock_at(words: Words, at: int) -> tuple[int, int, bool] | None:
    """(seconds into the day, words taken, whether it has seconds) of a time of day, or None."""
    found = _CLOCK.fullmatch(words[at])
    if found is None:
        return None
    half, taken = found[4], 1
    if half is None and (apart := _HALF.fullmatch(words[at + 1])):
        half, taken = apart[1], 2
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    if hour > 24 or minute > 59 or second > 60 or (hour == 24 and minute + second):
        return None
    if half is not None:
        # 12AM is midnight and 12PM is noon.
        hour = hour % 12 + (12 if half in b"pP" else 0)
    return hour * 3600 + minute * 60 + second, taken, found[3] is not None


def _time(year: int | None, month: int, day: int, clock: int, context: Context) -> int | None:
    try:
        if year is not None:
            return midnight(year, month, day) + clock - context.zone
        # 24:00 is the end of its day, and belongs to that day's year.
        later = clock // DAY * DAY
        return recent_year(month, day, clock - later, context) + later - context.zone
    except ValueError:
        return None


def _day_at(words: Words, at: int, order: Order, *, bare: bool) -> _Day | None:
    word = words[at]
    if word[:1].isdigit():
        return (
            _numbers(word, order)
            or _with_a_name(word)
            or _year_first(words, at)
            or _day_and_month(words, at)
            or (_two_numbers(words, at) if bare else None)
        )
    return _with_a_name(word) or _month_and_day(words, at)


def _numbers(word: bytes, order: Order) -> _Day | None:
    """A day in one word, all numbers."""
    if cjk := _WHOLE_CJK.fullmatch(word):
        return _Day(int(cjk[1]), int(cjk[2]), int(cjk[3]), 1)
    if two := _TWO.fullmatch(word):
        return _Day(None, int(two[1]), int(two[2]), 1)
    found = _THREE.fullmatch(word)
    if found is None or len(found[1]) == 3:
        return None
    return _Day(*ordered(found[1], found[2], found[3], found[4], order), 1, word.endswith(b","))


def ordered(
    first: bytes, separator: bytes, second: bytes, third: bytes, order: Order
) -> tuple[int, int, int]:
    """(year, month, day) of three numbers."""
    one, two, three = int(first), int(second), int(third)
    if len(first) == 4:
        return one, two, three
    if len(third) <= 2 and (one > 31 or (first == b"00" and two)):
        order.saw_year_first = True
        return full_year(first), two, three
    if order.year_first and len(third) <= 2:
        return full_year(first), two, three
    year = full_year(third)
    if one > 12:
        order.saw_day_first = True
        order.ambiguous = order.ambiguous or len(third) <= 2  # two digits may also be a year
        return year, two, one
    if two > 12:
        order.saw_month_first = True
        return year, one, two
    order.ambiguous = order.ambiguous or separator != b"."
    if separator == b"." or order.day_first:
        return year, two, one
    return year, one, two


def full_year(digits: bytes) -> int:
    """Two digits mean 1970 to 2069; three, as in old programs, are years since 1900."""
    year = int(digits)
    if len(digits) == 4:
        return year
    if len(digits) == 3:
        return 1900 + year
    return year + (1900 if year >= CENTURY_PIVOT else 2000)


def _with_a_name(word: bytes) -> _Day | None:
    """A day in one word that contains the month's name."""
    if found := _DAY_NAME_YEAR.fullmatch(word):
        day, name, year = found.groups()
    elif found := _NAME_DAY_YEAR.fullmatch(word):
        name, day, year = found.groups()
    else:
        return None
    month = _month(name)
    return _Day(full_year(year), month, int(day), 1, word.endswith(b",")) if month else None


def _month(word: bytes) -> int | None:
    try:
        return month_of(word.rstrip(b".,"))
    except ValueError:
        return None


def _year_first(words: Words, at: int) -> _Day | None:
    """2024 Jan 31; with suffixes, the month may be a number."""
    year = _YEAR.fullmatch(words[at])
    if year is None:
        return None
    if (month := _month(words[at + 1]) or _suffixed_month(words[at], words[at + 1])) is None:
        return None
    day = _DAY.fullmatch(words[at + 2])
    return _Day(int(year["year"]), month, int(day["day"]), 3, bool(day["comma"])) if day else None


def _suffixed_month(year: bytes, word: bytes) -> int | None:
    found = _NUMBER_MONTH.fullmatch(word)
    return int(found[1]) if found and (len(year) > 4 or len(word) > 2) else None


def _month_and_day(words: Words, at: int) -> _Day | None:
    """Jan 31."""
    month, day = _month(words[at]), _DAY.fullmatch(words[at + 1])
    return _Day(None, month, int(day["day"]), 2, bool(day["comma"])) if month and day else None


def _day_and_month(words: Words, at: int) -> _Day | None:
    """31 Jan; or 1月 31日, whose month is a number with a suffix."""
    day, name = _DAY.fullmatch(words[at]), words[at + 1]
    if day is None:
        return None
    if not name[:1].isdigit():
        month = _month(name)
        return _Day(None, month, int(day["day"]), 2, name.endswith(b",")) if month else None
    if len(words[at]) > 2 and words[at][-1] >= 0x40 and (month_number := _month(words[at])):
        behind = _DAY.fullmatch(name)
        if behind:
            return _Day(None, month_number, int(behind["day"]), 2, bool(behind["comma"]))
    return None


def _two_numbers(words: Words, at: int) -> _Day | None:
    """1 31, if a time or a year follows."""
    month, day = words[at], words[at + 1]
    if not (month.isdigit() and day.isdigit() and len(month) <= 2 and len(day) <= 2):
        return None
    if not (0 < int(month) <= 12 and 0 < int(day) <= 31):
        return None
    return _Day(None, int(month), int(day), 2)
