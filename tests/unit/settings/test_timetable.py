"""Limits of the rate as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpfs.errors import InvalidArgument
from ftpfs.settings.options import OPTIONS
from ftpfs.settings.timetable import NO_LIMIT, Timetable

MIB, KIB = 1 << 20, 1 << 10


def read(text: str) -> Timetable:
    value = OPTIONS["limit_up"].read(text)
    assert isinstance(value, Timetable)
    return value


def at(text: str, *times: str) -> list[int]:
    """The rates at these times of the day."""
    table = read(text)
    return [table.rate_at(int(time[:2]) * 60 + int(time[3:])) for time in times]


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("2M", [2 * MIB] * 4),
        ("1.5MiB/s", [MIB * 3 // 2] * 4),
        ("off", [0] * 4),
        ("0", [0] * 4),
        ("08:00-18:00=1M", [0, MIB, MIB, 0]),
        ("08:00-18:00=1M;4M", [4 * MIB, MIB, MIB, 4 * MIB]),
        ("18:00-08:00=off 1M", [0, MIB, MIB, 0]),
        ("18:00-8:00=64K;12:00-24:00=off", None),
        ("08:00,512K 18:00,off", [0, 512 * KIB, 512 * KIB, 0]),
        ("18:00,off;08:00,512K", [0, 512 * KIB, 512 * KIB, 0]),
        ("00:00-24:00=1M", [MIB] * 4),
        ("12:00-24:00=1M", [0, 0, MIB, MIB]),
    ],
)
def test_limit_has_the_rate_of_each_time(text: str, rates: list[int] | None) -> None:
    if rates is None:
        with pytest.raises(InvalidArgument, match="overlap"):
            read(text)
        return
    assert at(text, "07:59", "08:00", "17:59", "18:00") == rates
    assert read(str(read(text))) == read(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "fast", "-1", "1K;2K", "08:00-18:00", "08:00-18:00=", "25:00-26:00=1M"),
        *("08:61,1M", "08:00-08:00=1M", "08:00,1M 2M", "500", "08:00-09:00=1", "1M\n1M", "off;off"),
    ],
)
def test_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        read(text)


def test_no_limit_is_the_default() -> None:
    assert not NO_LIMIT.limits
    assert read("off") == NO_LIMIT


@given(st.integers(0, 1438), st.integers(1, 1439), st.integers(0, 1439))
def test_next_change_is_where_the_rate_changes(start: int, length: int, minute: int) -> None:
    end = (start + length) % 1440
    table = read(f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}=1M")
    following = table.next_change(minute)
    assert minute < following <= 1440
    assert {table.rate_at(each) for each in range(minute, following)} == {table.rate_at(minute)}
