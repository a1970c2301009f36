"""LIST in the dialects of many servers, read back; an odd line loses only itself."""

from __future__ import annotations

from datetime import datetime, timezone
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftpfs.ftp import listing
from ftpfs.ftp.listing.words import size_in
from ftpfs.model.entry import Entry, Kind, Listing
from tests.support import listings
from tests.support.lines import at, decode
from tests.support.listings import DIALECTS

DIR, FILE, LINK, OTHER = Kind.DIRECTORY, Kind.FILE, Kind.LINK, Kind.OTHER


NOW = at(2031, 6, 15, 12)


def read(*lines: bytes | str, now: float = NOW) -> Listing:
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    return listing.parse_list_data(b"".join(line + b"\r\n" for line in raw), decode, now)


def one(line: bytes | str, now: float = NOW) -> Entry:
    found = read(line, now=now)
    assert found.rejected == []
    (entry,) = found.entries
    return entry


# Single lines.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # Dates in lines like those of `ls -l`.
        (
            "-rw-r--r-- 1 jan users 77 5 17 04:05 notes",
            Entry("notes", FILE, 77, at(2031, 5, 17, 4, 5), False, 0o644),
        ),
        (
            "-rw-r--r-- 1 0 0 77 5 17 2019 notes",
            Entry("notes", FILE, 77, at(2019, 5, 17), False, 0o644),
        ),
        (
            "drwxr-xr-x 2 jan users 512 05-17 2019 old things",
            Entry("old things", DIR, 512, at(2019, 5, 17), False, 0o755),
        ),
        (
            "-rw-r--r-- 1 jan users 77 May 17, 2019 04:05 notes",
            Entry("notes", FILE, 77, at(2019, 5, 17, 4, 5), False, 0o644),
        ),
        (
            "-rw-r--r-- 1 jan users 77 17. Mai, 04:05 notes",
            Entry("notes", FILE, 77, at(2031, 5, 17, 4, 5), False, 0o644),
        ),
        (
            "-rw-r--r-- 1 jan users 77 May 17 04:05PM notes",
            Entry("notes", FILE, 77, at(2031, 5, 17, 16, 5), False, 0o644),
        ),
        (  # the end of that day
            "-rw-r--r-- 1 jan users 77 May 17 24:00 notes",
            Entry("notes", FILE, 77, at(2031, 5, 18), False, 0o644),
        ),
        (
            "-rw-r--r-- 1 jan users 77 17-may-19 notes",
            Entry("notes", FILE, 77, at(2019, 5, 17), False, 0o644),
        ),
        (
            "-rw-r--r-- 1 jan users 77 17-05-2019 04:05 notes",
            Entry("notes", FILE, 77, at(2019, 5, 17, 4, 5), False, 0o644),
        ),
        (  # the name begins with a year
            "drwxr-xr-x 1 0 0 0 17 May 04:05 2019 reports",
            Entry("2019 reports", DIR, 0, at(2031, 5, 17, 4, 5), False, 0o755),
        ),
        (
            "-rw-r--r-- 1 jan users 77 notes",
            Entry("notes", FILE, 77, None, False, 0o644),
        ),
        (
            "-rw-r--r--\t1\tjan\tusers\t77\tMay 17  2019\tnotes of\tmine",
            Entry("notes of\tmine", FILE, 77, at(2019, 5, 17), False, 0o644),
        ),
        # Columns before the date.
        (
            "-rw-r--r-- 1 jan users 1,234,567 May 17  2019 notes",
            Entry("notes", FILE, 1234567, at(2019, 5, 17), False, 0o644),
        ),
        (
            "-rw-r--r-- 1 jan users 1.800 May 17  2019 notes",
            Entry("notes", FILE, 1800, at(2019, 5, 17), False, 0o644),
        ),
        (
            "  4711   8 -rw-r--r-- 1 jan users 77 May 17  2019 notes",
            Entry("notes", FILE, 77, at(2019, 5, 17), False, 0o644),
        ),
        (
            "-A--B-----SRV C MBX       9001   77 May 17  2019 notes",
            Entry("notes", FILE, 77, at(2019, 5, 17), False, None),
        ),
        (
            "0120777 500 101 5 1558065900 way -> there",
            Entry("way", LINK, 5, at(2019, 5, 17, 4, 5), True, 0o777, "there"),
        ),
        (
            "644 jan users 77 May 17  2019 notes",
            Entry("notes", FILE, 77, at(2019, 5, 17), False, 0o644),
        ),
        (
            "crw-rw-rw- 1 root sys 3, 17 May 17, 2019 04:05 tty",
            Entry("tty", OTHER, None, at(2019, 5, 17, 4, 5), False, 0o666),
        ),
        (
            "lrwxrwxrwx 1 jan users 5 May 17, 2019 04:05 way -> there",
            Entry("way", LINK, 5, at(2019, 5, 17, 4, 5), False, 0o777, "there"),
        ),
        # Systems other than Unix.
        (
            "  77  DIR  A    05-17-119  04:05  folder",
            Entry("folder", DIR, None, at(2019, 5, 17, 4, 5)),
        ),
        ("05-17-19  24:00   77 notes", Entry("notes", FILE, 77, at(2019, 5, 18))),
        ("VOL001 Tape                                   A.B.C", Entry("A.B.C", FILE)),
        ("VOL001 3390   VSAM A.B.CLUSTER", Entry("A.B.CLUSTER", FILE)),
        ("Migrated\t\tA.B.C", Entry("A.B.C", FILE)),
        ("Pseudo Directory                 A.B", Entry("A.B", DIR)),
        ("Error determining attributes     A.B.C", Entry("A.B.C", FILE)),
        (
            "VOL001 3390   2019/05/17  1 ++++  VB   32756 32760  PO-E  A.LIB",
            Entry("A.LIB", DIR, None, at(2019, 5, 17)),
        ),
        (
            "VOL001 3390   2019/05/17 112345 U 0 6144 PO A.LOAD",
            Entry("A.LOAD", DIR, None, at(2019, 5, 17)),
        ),
        ("VOL001 3390   **NONE**    1   15  ????     ?     ?  PS  A.B", Entry("A.B", FILE)),
        (
            "ANNA   1234 17/05/19 04:05:06 *STMF notes",
            Entry("notes", FILE, 1234, at(2019, 5, 17, 4, 5, 6)),
        ),
        (
            "SRC      DIR      -   -   -    2019-05-17 04:05:06 -",
            Entry("SRC", DIR, None, at(2019, 5, 17, 4, 5, 6)),
        ),
        ("NOTES    101   77   4:05:06 100, 12 \"nunu\"", Entry("NOTES", FILE, 77)),
        (
            "Type=dir;Modify=20190517040506; folder",
            Entry("folder", DIR, None, at(2019, 5, 17, 4, 5, 6), True),
        ),
    ],
)  # fmt: skip
def test_line_of_dialect_is_read(line: str, expected: Entry) -> None:
    assert one(line) == expected


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("-rw-r--r-- 1 jan users 33.5k May 17  2019 notes", 34304),
        ("-rw-r--r-- 1 jan users 4.0K May 17 04:05 notes", 4096),
        ("-rw-r--r-- 1 jan users 2M May 17, 2019 04:05 notes", 2 << 20),
        ("-rw-r--r-- jan averylonggroup123456 May 17 04:05 notes", 123456),
        ("NOTES.TXT;1   6/9   17-MAY-2019 04:05 [ANNA] (RWED,,,)", 3072),
        ("NOTES.TXT;1   2KB   17-MAY-2019 04:05", 2048),
        (" NOTES    00B308 000411  00 FO                31    ANY", 0xB308),
        ("NOTES SCRIPT V 80 10 1 2019-05-17 04:05:06 A191", 800),
    ],
)
def test_size_in_larger_units_is_marked_as_rounded(line: str, size: int) -> None:
    found = read(line)
    assert [entry.size for entry in found.entries] == [size]
    assert found.rounded == {found.entries[0].name}


@given(
    st.integers(0, 2**63 - 1), st.sampled_from(["", ",", ".", "'", "\u2019", "\u00a0", "\u202f"])
)
def test_size_with_thousands_separators_is_read(size: int, separator: str) -> None:
    text = f"{size:,}".replace(",", separator)
    entry = one(f"-rw-r--r--   1 jan users {text:>8} May 17 04:05 notes")
    assert (entry.name, entry.size) == ("notes", size)
    told = size_in(text.encode())
    assert told is not None
    assert (told.value, told.rounded) == (size, False)


# Whole listings.


@pytest.mark.parametrize(
    ("lines", "days"),
    [
        (["05-03-19  04:05AM  1 a", "05-17-19  04:05AM  1 b"], [(5, 3), (5, 17)]),
        (["05-03-19  04:05AM  1 a", "17-05-19  04:05AM  1 b"], [(3, 5), (5, 17)]),
        (["05-03-19  04:05AM  1 a", "05-04-19  04:05AM  1 b"], [(5, 3), (5, 4)]),
        (
            ["ANNA 1 05/03/19 04:05:06 *STMF a", "ANNA 1 17/05/19 04:05:06 *STMF b"],
            [(3, 5), (5, 17)],
        ),
        (["ANNA 1 19/05/03 04:05:06 *STMF a", "ANNA 1 99/05/03 04:05:06 *STMF b"], None),
        (
            ["-rw-r--r-- 1 a b 1 05/03/2019 04:05 a", "-rw-r--r-- 1 a b 1 17/05/2019 04:05 b"],
            [(3, 5), (5, 17)],
        ),
    ],
)
def test_whole_listing_decides_order_of_date(
    lines: list[str], days: list[tuple[int, int]] | None
) -> None:
    found = read(*lines)
    assert [entry.name for entry in found.entries] == ["a", "b"]
    seen = [datetime.fromtimestamp(e.mtime or 0, tz=timezone.utc) for e in found.entries]
    if days is None:
        assert [(when.year, when.month, when.day) for when in seen] == [(2019, 5, 3), (1999, 5, 3)]
    else:
        assert [(when.month, when.day) for when in seen] == days


def test_blanks_before_every_name_belong_to_layout() -> None:
    line = "-rw-r--r-- 1 jan users 5 May 17 04:05    {}"
    found = read(line.format("a"), line.format(" b"), line.format("c d"))
    assert [entry.name for entry in found.entries] == ["a", " b", "c d"]
    found = read(line.format("a"), "-rw-r--r-- 1 jan users 5 May 17 04:05 b")
    assert [entry.name for entry in found.entries] == ["   a", "b"]
    assert one(line.format("a")).name == "   a"


def test_members_without_statistics_are_read_alone_and_among_others() -> None:
    with_some = read(
        " ANNA      01.03 2002/09/12 2019/05/17 04:05    11    11     0 ANNA", " BETA", " $GAMMA1"
    )
    assert [entry.name for entry in with_some.entries] == ["ANNA", "BETA", "$GAMMA1"]
    alone = read(" ANNA", " BETA")
    assert [entry.name for entry in alone.entries] == ["ANNA", "BETA"]
    for said in ("PERMISSION DENIED", "permission", "ls: no such file"):
        assert read(said).entries == []


def test_version_stays_in_name_without_vms_frame() -> None:
    lines = ["NOTES.TXT;2  5/6  17-MAY-2019 04:05", "NOTES.TXT;1  5/6  16-MAY-2019 04:05"]
    assert [entry.name for entry in read(*lines).entries] == ["NOTES.TXT;2", "NOTES.TXT;1"]
    framed = read("Directory DISK$USER:[ANNA]", "", *lines)
    assert [(e.name, e.mtime) for e in framed.entries] == [("NOTES.TXT", at(2019, 5, 17, 4, 5))]


DATED_NAMES = [
    *("release 2024.4.1 notes.txt", "report 12-31-2023 final.doc", "2024-01-31 12:00 log"),
    *("minutes of Jan 31 2024 v2", "v2 31-Jan-2024 a", "a 5 Jan 31 12:00 b", "on 5 17 2019 c"),
]


@pytest.mark.parametrize("kind", ["-rw-r--r--", "drwxr-xr-x"])
@pytest.mark.parametrize("owners", ["jan users", "0 0", "jan"])
def test_date_in_a_name_belongs_to_it_where_other_lines_have_no_date(
    owners: str, kind: str
) -> None:
    for dated in DATED_NAMES:
        names = ["first", "a b", dated]
        found = read(*(f"{kind} 1 {owners} 66662071 {name}" for name in names))
        assert [entry.name for entry in found.entries] == names
        assert {(entry.mtime, entry.size) for entry in found.entries} == {(None, 66662071)}


def test_one_line_without_date_changes_nothing_for_those_with_dates() -> None:
    odd = "-rw-r--r-- 1 jan 500 77 odd"
    for good in ("drwxr-xr-x 2 0 500 - 2019-05-17 04:05 {}", "-rw-r--r-- 1 0 500 7 May 17 2019 {}"):
        found = read(good.format("a"), odd, good.format("b c"))
        assert [entry.name for entry in found.entries] == ["a", "odd", "b c"]
        assert [entry.mtime is None for entry in found.entries] == [False, True, False]


# Every dialect, written and read back.


@pytest.mark.parametrize("kind", DIALECTS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_generated_listing_is_read_back(kind: str, seed: int) -> None:
    dialect = DIALECTS[kind]
    files = listings.some_files(Random(seed), dialect)
    found = read(*listings.listing(dialect, files))
    assert found.rejected == []
    assert [entry.name for entry in found.entries] == [file.name for file in files]
    for file, entry in zip(files, found.entries, strict=True):
        assert (entry.kind is DIR) == file.is_directory
        assert entry.mtime == dialect.shown(file)
        if dialect.sizes and not file.is_directory:
            assert entry.size == file.size
            assert file.name not in found.rounded


# One odd line among good ones.


@pytest.mark.parametrize("kind", DIALECTS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
@example(436)  # a name with a date in it, in a listing without dates
def test_odd_line_loses_at_most_itself(kind: str, seed: int) -> None:
    damaged = listings.damaged(Random(seed), DIALECTS[kind])
    damaged.check({entry.name: entry.kind is DIR for entry in read(*damaged.lines).entries})


def test_odd_line_that_looks_like_half_an_entry_loses_no_other_entry() -> None:
    """OpenVMS writes a name that fills its column like this; found by fuzzing."""
    found = read(
        b"         9    Feb-04-2012  21:41:00   first",
        b"OTHER.TXT;108",
        b"         5    Aug-18-2021  02:52:00   Y",
    )
    assert [entry.name for entry in found.entries] == ["first", "Y"]
