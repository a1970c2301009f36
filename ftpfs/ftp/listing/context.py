"""Pure: what the parsing of a LIST line depends on besides the line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ftpfs.ftp.listing.collecting import Decode, Parsed, decoded
from ftpfs.ftp.listing.times import DAY, midnight


@dataclass(slots=True)
class Order:
    """The order in which a listing writes days that are all numbers, as far as it is known."""

    day_first: bool = False
    year_first: bool = False
    saw_day_first: bool = False
    saw_month_first: bool = False
    saw_year_first: bool = False
    ambiguous: bool = False  # only the assumed order decided how a day was read

    def revised(self) -> Order | None:
        """The order by which the listing must be read again; None if it was read well."""
        if not self.ambiguous:
            return None
        if self.saw_year_first and not self.year_first:
            return Order(year_first=True)
        if self.saw_day_first and not self.saw_month_first and not self.day_first:
            return Order(day_first=True)
        return None


@dataclass(slots=True)
class Columns:
    """Whether a listing like that of `ls -l` has a column for dates, as far as it is known.

    The parser finds a date by its form, wherever it stands. So if the listing has no dates, a name
    that contains one (`release 2024.4.1 notes.txt`) would lose its beginning.
    """

    dateless: bool = False  # look for a date only if the line makes no sense without one
    undated: int = 0  # lines without a date
    doubtful: int = 0  # lines with a date that no size precedes

    def revised(self, dated: int) -> Columns | None:
        """How a listing with `dated` dated entries must be read again; None if it was read well.

        The lines without a date must outnumber those that surely have one. One odd line is no
        reason to change how several others are read.
        """
        if self.undated <= dated - self.doubtful or self.undated < self.doubtful:
            return None
        return Columns(dateless=True)


@dataclass(slots=True)
class Context:
    """What the parsing of a LIST line may depend on besides the line.

    `zone`: seconds that the server's clock is ahead of UTC. `latest`: the newest time, by the
    server's clock, that a line without a year can mean.
    """

    decode: Decode
    zone: int
    latest: float
    latest_year: int
    times: dict[bytes, tuple[int | None, bool]] = field(default_factory=dict)  # date text -> mtime
    begun: bytes = b""  # a name whose facts are on the next line (VMS)
    order: Order = field(default_factory=Order)
    columns: Columns = field(default_factory=Columns)
    framed: bool = False  # by the header lines of DIRECTORY (VMS)
    lists_members: bool = False  # of a partitioned data set (MVS)

    def name(self, raw: bytes) -> str:
        return decoded(self.decode, raw)


def context_at(decode: Decode, now: float, zone: int) -> Context:
    latest = now + zone + DAY
    return Context(decode, zone, latest, datetime.fromtimestamp(latest, tz=timezone.utc).year)


Format = Callable[[bytes, Context], Parsed]


def recent_year(month: int, day: int, clock: int, context: Context) -> int:
    """The time by the server's clock (s), by the year rule of `parse_list`.

    Raises ValueError if there is no such day.
    """
    for year in range(context.latest_year, context.latest_year - 9, -1):  # 1896 and 1904 are leap
        try:
            when = midnight(year, month, day) + clock
        except ValueError:
            continue
        if when <= context.latest:
            return when
    raise ValueError("no such day")
