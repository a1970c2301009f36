"""The meaning of the lines of LIST in its formats; bytes that no server should send."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pyftpdlib.filesystems import AbstractedFS

from ftpfs.ftp import listing
from ftpfs.ftp.listing import times
from ftpfs.model.entry import Entry, Kind, Listing
from tests.support.lines import NAMES, at, decode

DIR, FILE, LINK, OTHER = Kind.DIRECTORY, Kind.FILE, Kind.LINK, Kind.OTHER


NOW = at(2024, 6, 15, 12)


def read_list(*lines: bytes | str, now: float = NOW, zone: int = 0) -> Listing:
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    return listing.parse_list(raw, decode, now, zone)


def one(line: bytes | str, now: float = NOW, zone: int = 0) -> Entry:
    found = read_list(line, now=now, zone=zone)
    assert found.rejected == []
    (entry,) = found.entries
    return entry


# LIST: Unix.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (  # vsftpd
            "drwxr-xr-x    2 0        0            4096 Jan 31 12:00 pub",
            Entry("pub", DIR, 4096, at(2024, 1, 31, 12), False, 0o755),
        ),
        (  # proftpd
            "-rw-r--r--   1 ftp      ftp           531 Jan 29  2021 read me",
            Entry("read me", FILE, 531, at(2021, 1, 29), False, 0o644),
        ),
        (  # Serv-U
            "-rw-rw-rw-   1 user     group     5000000000 Feb  4 05:49 big.bin",
            Entry("big.bin", FILE, 5000000000, at(2024, 2, 4, 5, 49), False, 0o666),
        ),
        (  # FileZilla Server 0.9
            "drwxr-xr-x 1 ftp ftp              0 Dec 31  2013 Ordner",
            Entry("Ordner", DIR, 0, at(2013, 12, 31), False, 0o755),
        ),
        (  # no group
            "-rw-------+   1 9469            0 May  6  2011 .Xauthority",
            Entry(".Xauthority", FILE, 0, at(2011, 5, 6), False, 0o600),
        ),
        (  # neither owner nor count of links
            "drwxrwxr-x               folder        2 May 10  1996 network",
            Entry("network", DIR, 2, at(1996, 5, 10), False, 0o775),
        ),
        (
            "-rw-r--r-- 1234 Jan 31 12:00 sizes only",
            Entry("sizes only", FILE, 1234, at(2024, 1, 31, 12), False, 0o644),
        ),
        (
            "-rw-r--r--. 1 CORP\\jan domain users 77 Jan 31 12:00 x",
            Entry("x", FILE, 77, at(2024, 1, 31, 12), False, 0o644),
        ),
        (  # a group that is a number, and a size that could be a year
            "-rw-r--r--@ 1 jan 5 2024 Jan 31 12:00 x",
            Entry("x", FILE, 2024, at(2024, 1, 31, 12), False, 0o644),
        ),
        (
            "-rw-r--r-- 1 5 user 2024 Jan 31 12:00 x",
            Entry("x", FILE, 2024, at(2024, 1, 31, 12), False, 0o644),
        ),
        (
            "crw-rw-rw- 1 root root 1, 3 Jan 31 12:00 null",
            Entry("null", OTHER, None, at(2024, 1, 31, 12), False, 0o666),
        ),
        (
            "brw-rw---- 1 root disk 8,  0 Jan 31  2020 sda",
            Entry("sda", OTHER, None, at(2020, 1, 31), False, 0o660),
        ),
        (
            "prw-r--r-- 1 root root 0 Jan 31 12:00 pipe",
            Entry("pipe", OTHER, None, at(2024, 1, 31, 12), False, 0o644),
        ),
        (  # ls -F
            "drwxr-xr-x 2 a b 0 Jan 31 12:00 sub/",
            Entry("sub", DIR, 0, at(2024, 1, 31, 12), False, 0o755),
        ),
        (
            "-rw-r--r-- 1 a b Jan 31 12:00 x",
            Entry("x", FILE, None, at(2024, 1, 31, 12), False, 0o644),
        ),
        (  # FANUC robots have months named 000
            "-rw-rw-rw- 1 noone nogroup          0 000 17 2025 filename.nam",
            Entry("filename.nam", FILE, 0, None, False, 0o666),
        ),
        (  # an unknown language loses the time
            "-rw-r--r-- 1 a b 5 Xyz 31 12:00 x",
            Entry("x", FILE, 5, None, False, 0o644),
        ),
        (
            "-rw-r--r-- 1 a b 5 Feb 30 12:00 no such day",
            Entry("no such day", FILE, 5, None, False, 0o644),
        ),
        (
            "-rw-r--r-- 1 a b 5 Jan 31 25:00 no such hour",
            Entry("no such hour", FILE, 5, None, False, 0o644),
        ),
    ],
)
def test_unix_line_is_read(line: str, expected: Entry) -> None:
    assert one(line + "\r\n") == expected


@pytest.mark.parametrize(
    ("text", "when", "exact"),
    [
        ("Jan 31 12:34", at(2024, 1, 31, 12, 34), False),
        ("Jan  1  2020", at(2020, 1, 1), False),
        ("mar 17 2020", at(2020, 3, 17), False),
        ("31 Jan 12:34", at(2024, 1, 31, 12, 34), False),
        (" 1 Jan  2020", at(2020, 1, 1), False),
        ("31. Jan 12:34", at(2024, 1, 31, 12, 34), False),
        ("Sep 02  3:47", at(2023, 9, 2, 3, 47), False),
        ("Jan 31 12:34:56 2019", at(2019, 1, 31, 12, 34, 56), False),
        ("2024-01-31 12:34", at(2024, 1, 31, 12, 34), False),
        ("2024-01-31 12:34:56", at(2024, 1, 31, 12, 34, 56), False),
        ("2024-01-31 12:34:56.000000000 +0000", at(2024, 1, 31, 12, 34, 56), True),
        ("2024-01-31 12:34:56.999999999 +0130", at(2024, 1, 31, 11, 4, 56), True),
        ("2024-01-31 12:34:56 -0500", at(2024, 1, 31, 17, 34, 56), True),
        ("2020-01-31 ", at(2020, 1, 31), False),
        ("01-31 12:34", at(2024, 1, 31, 12, 34), False),
    ],
)
def test_unix_date_is_read(text: str, when: int, exact: bool) -> None:
    entry = one(f"-rw-r--r-- 1 a b 5 {text}  name ")
    assert (entry.name, entry.size, entry.mtime, entry.exact) == (" name ", 5, when, exact)


@pytest.mark.parametrize(
    ("word", "month"),
    [
        ("Mär", 3),
        ("Mrz", 3),
        ("Mai", 5),
        ("Okt", 10),
        ("Dez.", 12),
        ("janv.", 1),
        ("févr.", 2),
        ("août", 8),
        ("déc.", 12),
        ("ene", 1),
        ("ago", 8),
        ("dic", 12),
        ("gen", 1),
        ("mag", 5),
        ("ott", 10),
        ("янв", 1),
        ("мая", 5),
        ("СЕН", 9),
        ("Дек", 12),
        ("10月", 10),
        ("1월", 1),
    ],
)
@pytest.mark.parametrize("order", ["{} 2 2020", " 2 {}  2020"])
def test_month_is_read_in_other_languages(word: str, month: int, order: str) -> None:
    assert one(f"-rw-r--r-- 1 a b 5 {order.format(word)} x").mtime == at(2020, month, 2)


@pytest.mark.parametrize(
    ("word", "codec", "month"),
    [("Mär", "latin-1", 3), ("АВГ", "cp1251", 8), ("окт", "koi8-r", 10), ("июл", "cp866", 7)],
)
def test_month_is_read_in_other_encodings(word: str, codec: str, month: int) -> None:
    line = b"-rw-r--r-- 1 a b 5 " + word.encode(codec) + b"  2  2020 x"
    assert one(line).mtime == at(2020, month, 2)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("rwxr-xr-x", 0o755),
        ("rwsr-Sr-T", 0o7744),
        ("rwSr-srwt", 0o7657),
        ("rw-r-lr--", 0o2644),
        ("---------", None),
        ("--x------", 0o100),
    ],
)
def test_unix_mode_is_read(text: str, mode: int | None) -> None:
    assert one(f"-{text} 1 a b 5 Jan 31 12:00 x").mode == mode


@pytest.mark.parametrize(
    ("size", "shown", "name", "target"),
    [
        (7, "link -> usr/bin", "link", "usr/bin"),
        (3, "a -> b -> c", "a", "b -> c"),  # no decision by size: the first arrow
        (1, "a -> b -> c", "a -> b", "c"),
        (6, "a -> b -> c", "a", "b -> c"),
        (0, "a -> b -> c", "a", "b -> c"),
        (99, "a -> b", "a", "b"),
        (5, "no target", "no target", None),
        (0, "empty -> ", "empty", None),
        (8, " sp  ->  target ", " sp ", " target "),
    ],
)
def test_arrow_of_link_separates_name_and_target(
    size: int, shown: str, name: str, target: str | None
) -> None:
    entry = one(f"lrwxrwxrwx 1 a b {size} Jan 31 12:00 {shown}")
    assert (entry.kind, entry.name, entry.target) == (LINK, name, target)


def test_arrow_in_name_of_file_belongs_to_name() -> None:
    assert one("-rw-r--r-- 1 a b 5 Jan 31 12:00 a -> b").name == "a -> b"


def test_date_in_name_belongs_to_name() -> None:
    assert one("-rw-r--r-- 1 a b 5 Jan 31 12:00 7 Feb 1 2001 x").name == "7 Feb 1 2001 x"


@pytest.mark.parametrize("name", ["7 7556 (3", "7 2024 x", "5 6日 7 2024 x"])
def test_name_of_numbers_after_a_date_with_suffixes_belongs_to_the_name(name: str) -> None:
    line = f"-rw-r--r-- 1 jan users 63818 2024年 11月 6日 {name}"
    entry = one(line)
    assert (entry.name, entry.size, entry.mtime) == (name, 63818, 1730851200)


def test_zone_in_name_belongs_to_name() -> None:
    assert one("-rw-r--r-- 1 a b 4 1993-03-20 04:35 +1007 notes").name == "+1007 notes"


def test_list_a_describes_directory_itself() -> None:
    found = read_list(
        "total 12",
        "drwxr-xr-x  3 root root 4096 Jan 31 12:00 .",
        "drwxrwxrwt 11 root root 4096 Jan 31 12:00 ..",
        "",
        "-rw-r--r--  1 root root    0 Jan 31 12:00 ...",
    )
    assert found.self_entry == Entry("", DIR, 4096, at(2024, 1, 31, 12), False, 0o755)
    assert [entry.name for entry in found.entries] == ["..."]
    assert found.rejected == []


@pytest.mark.parametrize("line", ["total 0", "total 1.2M", "insgesamt 12", "итого 4", "Totale 8 "])
def test_total_line_is_skipped(line: str) -> None:
    assert read_list(line) == Listing([], [])


def test_first_of_equal_names_counts() -> None:
    found = read_list("-rw-r--r-- 1 a b 5 Jan 31 12:00 x", "drwxr-xr-x 1 a b 6 Jan 31 12:00 x")
    assert [(entry.name, entry.kind) for entry in found.entries] == [("x", FILE)]


@pytest.mark.parametrize(
    "line",
    [
        b"ls: cannot open directory '.': Permission denied",
        b"\x1b[2Jhello",
        b"-rw-r--r-- 1 a b 5 Jan 31 12:00 a/b",
        b"-rw-r--r-- 1 a b 5 Jan 31 12:00 ",
        b"-rw-r--r-- 1 a b 5 Jan 31 12:00 a\0b",
        b"-rw-r--r-- 1 a b 5 Jan 31 12:00 " + b"x" * 65536,
        b"-rw-r--r--",
        b"   ",
    ],
)
def test_unreadable_line_loses_only_itself(line: bytes) -> None:
    found = read_list(line, "-rw-r--r-- 1 a b 5 Jan 31 12:00 good")
    assert [entry.name for entry in found.entries] == ["good"]
    assert len(found.rejected) == 1
    assert found.rejected[0].isprintable()


def test_undecodable_name_loses_only_its_line() -> None:
    lines = [b"-rw-r--r-- 1 a b 5 Jan 31 12:00 \xff", b"-rw-r--r-- 1 a b 5 Jan 31 12:00 ok"]
    found = listing.parse_list(lines, lambda raw: raw.decode("utf-8"), NOW)
    assert [entry.name for entry in found.entries] == ["ok"]
    assert found.rejected == ["-rw-r--r-- 1 a b 5 Jan 31 12:00 \\xff"]


def test_lines_of_pyftpdlib_are_read(tmp_path: Path) -> None:
    files = [" lead", "a -> b", "trail ", "x; y=z"]
    for name in files:
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "link").symlink_to("some -> where")

    class Channel:
        use_gmt_times = True
        encoding = "utf-8"
        unicode_errors = "surrogateescape"

    server_fs = AbstractedFS(str(tmp_path), Channel())
    names = sorted([*files, "link"])
    lines = list(server_fs.format_list(str(tmp_path), names))
    now = tmp_path.stat().st_mtime
    found = listing.parse_list(lines, decode, now)
    assert [entry.name for entry in found.entries] == names
    assert [entry.target for entry in found.entries if entry.kind is LINK] == ["some -> where"]
    assert all(entry.mtime and abs(entry.mtime - now) <= 120 for entry in found.entries)
    facts = ["type", "size", "modify", "unix.mode"]
    lines = list(server_fs.format_mlsx(str(tmp_path), files, "elradfmw", facts))
    found = listing.parse_mlsd(lines, decode)
    assert [(entry.name, entry.size) for entry in found.entries] == [(name, 5) for name in files]
    assert all(entry.exact and entry.mode for entry in found.entries)


# LIST: the year rule.


@pytest.mark.parametrize(
    ("now", "text", "when"),
    [
        (at(2024, 1, 1, 0, 5), "Dec 31 23:59", at(2023, 12, 31, 23, 59)),
        (at(2024, 1, 1, 0, 5), "Jan  1 00:04", at(2024, 1, 1, 0, 4)),
        (at(2023, 12, 31, 23, 55), "Jan  1 00:01", at(2024, 1, 1, 0, 1)),  # clock ahead
        (at(2024, 6, 15, 12), "Jun 16 12:00", at(2024, 6, 16, 12)),  # a day ahead, not more
        (at(2024, 6, 15, 12), "Jun 16 12:01", at(2023, 6, 16, 12, 1)),
        (at(2024, 6, 15, 12), "Jul  1 00:00", at(2023, 7, 1)),
        (at(2024, 3, 1), "Feb 29 10:00", at(2024, 2, 29, 10)),
        (at(2024, 2, 27), "Feb 29 10:00", at(2020, 2, 29, 10)),
        (at(2023, 6, 1), "Feb 29 10:00", at(2020, 2, 29, 10)),
        (at(2103, 6, 1), "Feb 29 10:00", at(2096, 2, 29, 10)),  # 2100 is no leap year
    ],
)
def test_time_without_year_is_newest_that_is_not_in_future(now: int, text: str, when: int) -> None:
    assert one(f"-rw-r--r-- 1 a b 5 {text} x", now=now).mtime == when


@given(
    st.integers(at(1990, 1, 1), at(2090, 1, 1)),
    st.integers(-86400 // 60, 363 * 1440),
    st.integers(-48, 56),
)
def test_every_time_of_last_363_days_is_recovered(now: int, age: int, quarters: int) -> None:
    zone = quarters * 900
    when = (now // 60 - age) * 60
    assume(when <= now + 86400)
    shown = datetime.fromtimestamp(when + zone, tz=timezone.utc)
    text = f"{shown:%m-%d %H:%M}"
    assert one(f"-rw-r--r-- 1 a b 5 {text} x", now=now, zone=zone).mtime == when


def test_zone_of_server_is_subtracted() -> None:
    zone = 2 * 3600
    line = "-rw-r--r-- 1 a b 5 {} x"
    assert one(line.format("Jan 31 12:00"), zone=zone).mtime == at(2024, 1, 31, 10)
    assert one(line.format("Jan 31  2020"), zone=zone).mtime == at(2020, 1, 30, 22)
    told = line.format("2024-01-31 12:00:00 +0100")
    assert one(told, zone=zone).mtime == at(2024, 1, 31, 11)
    assert one("01-31-24  12:00PM  5 x", zone=zone).mtime == at(2024, 1, 31, 10)


# LIST: DOS.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "01-31-24  12:00PM       <DIR>          My Folder",
            Entry("My Folder", DIR, None, at(2024, 1, 31, 12)),
        ),
        (
            "01-31-24  12:05AM                 1234 file.txt",
            Entry("file.txt", FILE, 1234, at(2024, 1, 31, 0, 5)),
        ),
        (
            "12-31-1999  11:59PM                 12  two spaces ",
            Entry(" two spaces ", FILE, 12, at(1999, 12, 31, 23, 59)),
        ),
        (
            "01-31-2024  15:04       <DIR>            lead",
            Entry("  lead", DIR, None, at(2024, 1, 31, 15, 4)),
        ),
        ("01-31-70  01:00AM  5 x", Entry("x", FILE, 5, at(1970, 1, 31, 1))),
        ("01-31-69  01:00AM  5 x", Entry("x", FILE, 5, at(2069, 1, 31, 1))),
        (
            "01/31/2024  03:04 PM         1,234,567 x",
            Entry("x", FILE, 1234567, at(2024, 1, 31, 15, 4)),
        ),
        (
            "31.01.2024  15:04         1.234.567 x",
            Entry("x", FILE, 1234567, at(2024, 1, 31, 15, 4)),
        ),
        ("31/01/2024  15:04  7 x", Entry("x", FILE, 7, at(2024, 1, 31, 15, 4))),
        ("2024-01-31  15:04  <DIR> x", Entry("x", DIR, None, at(2024, 1, 31, 15, 4))),
        (
            "01-31-24  12:00PM       <JUNCTION>     Docs [C:\\Users\\Docs]",
            Entry("Docs", LINK, None, at(2024, 1, 31, 12), target="C:\\Users\\Docs"),
        ),
        (
            "01-31-24  12:00PM       <SYMLINKD>     a [b] [..\\c]",
            Entry("a [b]", LINK, None, at(2024, 1, 31, 12), target="..\\c"),
        ),
        ("01-31-24  12:00PM       <SYMLINK>      x", Entry("x", LINK, None, at(2024, 1, 31, 12))),
        ("13-32-24  12:00PM  5 no such day", Entry("no such day", FILE, 5)),
    ],
)
def test_dos_line_is_read(line: str, expected: Entry) -> None:
    assert one(line + "\r\n") == expected


# LIST: EPLF.


def test_eplf_line_is_read() -> None:
    found = read_list(
        "+i8388621.48594,m825718503,r,s280,\tdjb.html",
        "+i8388621.50690,m824255907,/,\t514",
        "+i8388621.48598,m824253270,r,s612,up644,\ta\tb ",
    )
    assert found.entries == [
        Entry("djb.html", FILE, 280, 825718503, True),
        Entry("514", DIR, None, 824255907, True),
        Entry("a\tb ", FILE, 612, 824253270, True, 0o644),
    ]


# LIST: systems other than Unix and DOS.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (  # NetWare
            "d [R----F--] supervisor            512       Jan 16 18:53    login",
            Entry("login", DIR, 512, at(2024, 1, 16, 18, 53)),
        ),
        (
            "- [RWCEAFMS] rhesus             214059       Oct 20  2019    cx two.exe",
            Entry("cx two.exe", FILE, 214059, at(2019, 10, 20)),
        ),
        (  # OS/2
            "                 0           DIR   04-11-95   16:26  ADDRESS",
            Entry("ADDRESS", DIR, None, at(1995, 4, 11, 16, 26)),
        ),
        (
            "               612      A          07-28-95   16:45  air tra1.bag",
            Entry("air tra1.bag", FILE, 612, at(1995, 7, 28, 16, 45)),
        ),
        (
            "             77777      RA         07-28-104  16:45  x",
            Entry("x", FILE, 77777, at(2004, 7, 28, 16, 45)),
        ),
        ("0 A DIR 13-31-95 16:45 x", Entry("x", DIR)),
        (  # AS/400
            "QSYS            77824 02/23/00 15:09:55 *DIR       folder/",
            Entry("folder", DIR, None, at(2000, 2, 23, 15, 9, 55)),
        ),
        (
            "ANNA            3486 23/02/24 15:09:55 *STMF      a b.txt",
            Entry("a b.txt", FILE, 3486, at(2024, 2, 23, 15, 9, 55)),
        ),
        ("QSECOFR                              *MEM       QCLSRC.MAIN", Entry("QCLSRC.MAIN", FILE)),
        (
            "ANNA            12288 23.02.24 15:09:55 *FILE      QCLSRC.FILE",
            Entry("QCLSRC.FILE", DIR, None, at(2024, 2, 23, 15, 9, 55)),
        ),
        # MVS
        (
            "B10142 3390   2006/03/20  2   31  F       80    80  PS   MDI.OKL.WORK",
            Entry("MDI.OKL.WORK", FILE, None, at(2006, 3, 20)),
        ),
        (
            "B10142 3390   **NONE**    1   15  VB    2000 27998  PO-E 'ANNA.JCL'",
            Entry("ANNA.JCL", DIR),
        ),
        (
            "Migrated                                                AB.OLD.DATA",
            Entry("AB.OLD.DATA", FILE),
        ),
        (
            " TBSHELF   01.03 2002/09/12 2002/10/11 09:37    11    11     0 KIL001 ",
            Entry("TBSHELF", FILE, None, at(2002, 10, 11, 9, 37)),
        ),
        # VMS
        (
            "CORE.DIR;1          1  8-SEP-1999 22:08 [SOBOL] (RWE,RWED,RE,)",
            Entry("CORE", DIR, None, at(1999, 9, 8, 22, 8)),
        ),
        (
            "CII-MANUAL.TEX;213  29/123  22-JAN-1996 16:46:12.09 [ANONYMOUS] (RWED,RWED,,)",
            Entry("CII-MANUAL.TEX;213", FILE, 29 * 512, at(1996, 1, 22, 16, 46, 12)),
        ),
    ],
)
def test_line_of_other_system_is_read(line: str, expected: Entry) -> None:
    assert one(line + "\r\n") == expected


def test_frame_or_header_of_other_system_is_no_entry() -> None:
    found = read_list(
        "Directory DISK$USER:[ANNA.SRC]",
        "",
        "A_LONG_NAME_THAT_FILLS_THE_LINE.TXT;2",
        "                    5/6   8-SEP-1999 22:08 [ANNA] (RWED,RE,,)",
        "A_LONG_NAME_THAT_FILLS_THE_LINE.TXT;1",
        "                    4/6   7-SEP-1999 22:08 [ANNA] (RWED,RE,,)",
        "LAST.C;1            1/3   8-SEP-1999 22:08 [ANNA] (RWED,RE,,)",
        "",
        "Total of 3 files, 10/15 blocks.",
    )
    assert [e.name for e in found.entries] == ["A_LONG_NAME_THAT_FILLS_THE_LINE.TXT", "LAST.C"]
    assert found.entries[0].mtime == at(1999, 9, 8, 22, 8)
    assert found.rejected == []
    found = read_list(
        "Volume Unit    Referred Ext Used Recfm Lrecl BlkSz Dsorg Dsname",
        " Name     VV.MM   Created       Changed      Size  Init   Mod   Id",
        " MAIN      01.03 2002/09/12 2002/10/11 09:37    11    11     0 ANNA",
    )
    assert ([e.name for e in found.entries], found.rejected) == (["MAIN"], [])


def test_long_name_without_second_line_does_not_take_line_of_other_entry() -> None:
    found = read_list(
        "LOST.TXT;1",
        "FOUND.TXT;1         1/3   8-SEP-1999 22:08 [ANNA] (RWED,RE,,)",
        "                    5/6   8-SEP-1999 22:08 [ANNA] (RWED,RE,,)",
    )
    assert [entry.name for entry in found.entries] == ["FOUND.TXT;1"]
    assert len(found.rejected) == 1


@pytest.mark.parametrize("odd", ["notes;08", "\1 notes;08"])
def test_line_that_may_be_a_name_does_not_take_a_line_of_another_system(odd: str) -> None:
    found = read_list(odd, "2013-06-26  14:09            156786766 Y4627")
    assert [entry.name for entry in found.entries] == ["Y4627"]


def test_format_may_change_within_listing() -> None:
    found = read_list(
        "01-31-24  12:00PM       <DIR>          dos",
        "+/,\teplf",
        "drwxr-xr-x 2 a b 0 Jan 31 12:00 unix",
        "nonsense",
        "01-31-24  12:00PM       <DIR>          dos again",
    )
    assert [entry.name for entry in found.entries] == ["dos", "eplf", "unix", "dos again"]
    assert found.rejected == ["nonsense"]


# Arbitrary bytes.

PIECES = st.sampled_from(
    [b" ", b"  ", b";", b"=", b"type=", b"dir", b"OS.unix=slink:", b"size=", b"modify=", b"total ",
     b"-rw-r--r--", b"lrwxrwxrwx", b"drwxr-xr-x", b"1", b"31", b"2024", b"Jan", b"12:00", b" -> ",
     b"2024-01-31", b"+0130", b"01-31-24", b"12:00PM", b"<DIR>", b"<SYMLINK>", b" [", b"]", b"+i",
     b",", b"\t", b"m99", b"/", b".", b"..", b"\0", b"\r", b"\x0b", b"UNIX.mode=", b"1\xe6"]
)  # fmt: skip
LINES = st.lists(
    st.one_of(st.binary(max_size=80), st.lists(PIECES, max_size=14).map(b"".join)), max_size=5
)


def check_names(found: Listing) -> None:
    names = [entry.name for entry in found.entries]
    assert len(set(names)) == len(names)
    for name in names:
        assert name not in ("", ".", "..")
        assert not set(name) & set("/\0")
    assert found.self_entry is None or found.self_entry.name == ""
    assert all(line.isprintable() for line in found.rejected)


@given(LINES, st.integers(0, at(2100, 1, 1)))
@example([b"-rw-r--r-- 1 1 a\x0bb 1 2024 x", b"-rw-r--r-- 1 1 1-1 1 2024 x"], NOW)
def test_no_input_raises_or_makes_bad_name(lines: list[bytes], now: int) -> None:
    check_names(listing.parse_list(lines, decode, now))
    check_names(listing.parse_mlsd(lines, decode))
    for line in lines:
        entry = listing.parse_mlst(line, decode)
        assert entry is None or not set(entry.name) & set("/\0")


@given(
    NAMES,
    st.sampled_from(["root", "1000", "DOM\\user", "jan"]),
    st.sampled_from(["", "root", "5", "domain users"]),
    st.integers(0, 2**63 - 1),
    st.sampled_from(["Jan 31 12:00", "Jan  3  2020", "31 Jan 12:00", "2024-01-31 12:00"]),
)
def test_any_name_survives_unix_line(
    name: bytes, owner: str, group: str, size: int, when: str
) -> None:
    head = f"-rw-r--r--   1 {owner:8} {group:8} {size:8} {when} "
    entry = one(head.encode() + name + b"\r\n")
    assert (entry.name, entry.size) == (decode(name), size)
    assert entry.mtime is not None


@given(NAMES)
def test_any_name_survives_dos_line(name: bytes) -> None:
    assert one(b"01-31-24  12:00PM                 1234 " + name).name == decode(name)


@given(NAMES, NAMES)
def test_any_link_survives_unix_line_with_its_length(name: bytes, target: bytes) -> None:
    line = b"lrwxrwxrwx 1 a b %d Jan 31 12:00 %b -> %b" % (len(target), name, target)
    entry = one(line)
    assert (entry.name, entry.target) == (decode(name), decode(target))


LINES = st.one_of(
    st.sampled_from(
        [
            b"total 12",
            b"drwxr-xr-x    2 999      995          4096 Jan 31  2024 .",
            b"drwxr-xr-x 2 a b 4096 Feb 29 12:00 dir/",
            b"-rw-r--r-- 1 a b 5 Feb 29 12:00 leap",
            b"-rw-r--r-- 1 a b 5 Nov 31 12:00 no such day",
            b"-rw-r--r--+ 1 domain users 5 Jan 31 12:00 group with a space",
            b"-rw-r--r-- 1 user 5 2024 Jan 31 12:00 group 5",
            b"-rw-r--r-- 1 a b 99999999999999999999 Jan 31 12:00 huge",
            b"---------- 1 a b 5 Dec  1 23:59 no mode",
            b"lrwxrwxrwx 1 a b 9 Jan 31 12:00 link -> /etc/file",
            b"lrwxrwxrwx 1 a b 1 Jan 31 12:00 link without",
            b"crw-r--r-- 1 a b 1, 3 Jan 31 12:00 null",
            b"-rw-r--r-- 1 a b 5 Jan 31 12:00 in/side",
            b"ls: cannot open directory",
            b"",
            b"\r",
        ]
    ),
    NAMES.map(lambda name: b"-rwsr-xr-T 1 a b 5 Aug  9 12:00 " + name),
)


@given(st.lists(LINES), st.sampled_from([b"\n", b"\r\n", b"\r\r\n"]), st.integers(-50000, 50000))
def test_listing_read_as_whole_equals_listing_read_by_lines(
    lines: list[bytes], end: bytes, zone: int
) -> None:
    data = b"".join(line + end for line in lines)
    # NAMES may contain characters that end a line for one parser only: cut lines as the lister
    # does.
    pieces = data.split(b"\n")[:-1]
    now = 1_733_000_000.0
    whole = listing.parse_list_data(data, decode, now, zone)
    assert whole == listing.parse_list(pieces, decode, now, zone)


@pytest.mark.parametrize(
    "line",
    [
        b"-rw-r--r-- 1 " + b"1 " * 32000,
        b"-rw-r--r-- 1 " + b"1 a " * 16000,
        b"-rw-r--r-- 1 " + (b"1" * 19 + b" " * 39) * 1100,
        b"-rw-r--r--" + b" " * 65000,
        b"type=OS.unix=slink:" + b";unix." * 10000,
        b"a=;" * 21000,
        b"+" + b"," * 65000 + b"\tx",
    ],
)
def test_longest_line_takes_linear_time(line: bytes) -> None:
    """Measured: 35 ms at most. Quadratic work would take minutes."""
    start = time.process_time()
    check_names(read_list(line))
    check_names(listing.parse_mlsd([line], decode))
    assert time.process_time() - start < 2


def test_no_bytes_mean_two_months() -> None:
    seen: dict[bytes, int] = {}
    for number, names in enumerate(times.MONTH_NAMES, 1):
        for name in names.split():
            for form in (name, name.title(), name.upper()):
                for raw in times.encodings(form):
                    assert seen.setdefault(raw.lower(), number) == number
