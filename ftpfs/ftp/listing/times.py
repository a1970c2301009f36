"""Pure: times in listings and replies, as seconds since the epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache

DAY = 86400
CENTURY_PIVOT = 70  # no file dates from 1969
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@lru_cache(maxsize=4096)
def midnight(year: int, month: int, day: int) -> int:
    """Seconds from the epoch to the start of that day; ValueError if there is no such day."""
    return (date(year, month, day).toordinal() - _EPOCH_ORDINAL) * DAY


def seconds_into_day(hour: int, minute: int, second: int = 0) -> int:
    """Seconds into a day, or ValueError. Second 60 is legal (RFC 3659, 2.3: a leap second)."""
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second <= 60):
        raise ValueError("no such time of day")
    return hour * 3600 + minute * 60 + second


@lru_cache(maxsize=4096)
def _time_val_day(digits: str) -> int:
    """The midnight of YYYYMMDD, or of 19100MMDD and similar: '19' + years since 1900."""
    year = int(digits[:4]) if len(digits) == 8 else 1900 + int(digits[2:5])
    return midnight(year, int(digits[-4:-2]), int(digits[-2:]))


def parse_time_val(text: str) -> int:
    """Seconds since the epoch of a time-val, YYYYMMDDHHMMSS[.fff] in UTC (RFC 3659, 2.3).

    A fraction is cut off. The year-2000 bug of old servers, which write 19100 for 2000, is
    accepted. Raises ValueError for everything else.
    """
    if len(text) == 14 and text.isascii() and text.isdigit():  # nearly all time-vals
        return _time_val_day(text[:8]) + _clock_digits(text[8:])
    digits, point, fraction = text.partition(".")
    if point and not (fraction.isascii() and fraction.isdigit()):
        raise ValueError(f"not a time-val: {text[:40]!r}")
    plain = len(digits) == 14 or (len(digits) == 15 and digits.startswith("191"))
    if not (plain and digits.isascii() and digits.isdigit()):
        raise ValueError(f"not a time-val: {text[:40]!r}")
    return _time_val_day(digits[:-6]) + _clock_digits(digits[-6:])


def _clock_digits(digits: str) -> int:
    """Seconds into a day of HHMMSS."""
    return seconds_into_day(int(digits[:2]), int(digits[2:4]), int(digits[4:]))


@lru_cache(maxsize=64)  # files of one copy are often of the same second
def format_time_val(seconds: float) -> str:
    """The time-val of a time in seconds since the epoch, rounded down to whole seconds.

    Raises ValueError for a time outside the years 1 to 9999, which a time-val cannot express.
    """
    try:
        when = _EPOCH + timedelta(seconds=math.floor(seconds))
    except OverflowError as error:
        raise ValueError("no time-val for that time") from error
    # strftime's %Y does not pad years below 1000 on every system.
    return f"{when.year:04d}{when:%m%d%H%M%S}"


@lru_cache(maxsize=2048)  # a day has 1440 minutes
def clock_of(text: bytes) -> int:
    if text == b"24:00":
        return DAY  # the end of its day
    numbers = [int(part) for part in text.partition(b".")[0].split(b":")]
    return seconds_into_day(*numbers)


# The months as ls and servers write them, short and in full, in English, German, French, Spanish,
# Italian, Portuguese, Dutch, Danish, Norwegian, Swedish, Russian, Hungarian, Polish, Finnish,
# Turkish and Romanian. A word that means two months (Polish and Croatian 'lip', Czech 'srp') is
# left out: an unknown time is better than a wrong one. 'jui' is July on French systems with three
# letters.
MONTH_NAMES = (
    "jan janv jän ene gen янв january januar janvier enero gennaio janeiro januari január"
    " sty tammi oca ian января",
    "feb febr fév févr fev фев февр february februar février febrero febbraio fevereiro"
    " februari február lut helmi şub февраля",
    "mar mär märz mrz mars mrt мар марта march marzo março maart márc március maalis",
    "apr avr avril abr апр april abril aprile ápr április kwi huhti nis апреля",
    "may mai mayo mag maj mei май мая maggio maio máj május touko",
    "jun june juni juin giu июн июня junio giugno junho jún június cze kesä haz iun",
    "jul july juli juil lug июл июля juillet julio luglio julho júl július jui heinä tem iul",
    "aug août aoû ago авг august agosto augustus augusti augusztus sie elo ağu августа",
    "sep sept set сен сент september septembre septiembre settembre setembro szept szeptember"
    " wrz syys eyl сентября",
    "oct okt ott out окт october oktober octobre octubre ottobre outubro október paź loka eki"
    " октября",
    "nov ноя нояб november novembre noviembre novembro marras kas noi ноября",
    "dec dez déc dic des дек december dezember décembre diciembre dicembre dezembro gru joulu ara"
    " декабря",
)
_MONTH_CODECS = ("utf-8", "latin-1", "cp1251", "koi8-r", "cp866")


def _month_table() -> dict[bytes, int]:
    """From each known month's bytes, ASCII in lower case (as bytes.lower() does it), to 1..12."""
    table: dict[bytes, int] = {}
    for number, names in enumerate(MONTH_NAMES, 1):
        for name in names.split():
            for form in (name, name.title(), name.upper()):
                for raw in encodings(form):
                    table.setdefault(raw.lower(), number)
    return table


def encodings(text: str) -> Iterator[bytes]:
    for codec in _MONTH_CODECS:
        try:
            yield text.encode(codec)
        except UnicodeEncodeError:
            continue


_MONTHS = _month_table()
_NUMBERED_MONTH = re.compile(rb"(\d{1,2})[\x80-\xff]+")  # 1月, 1월: the month as a number


@lru_cache(maxsize=256)
def month_of(word: bytes) -> int:
    """1 to 12, or ValueError."""
    numbered = _NUMBERED_MONTH.fullmatch(word)
    number = int(numbered[1]) if numbered else _MONTHS.get(word.rstrip(b".,").lower())
    if number is None:
        raise ValueError("no month of a known language")
    return number
