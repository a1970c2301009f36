"""The facts of MLSD and MLST (RFC 3659), and their times."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftpfs.ftp import listing
from ftpfs.model.entry import Entry, Kind, Listing
from tests.support.lines import NAMES, at, decode

DIR, FILE, LINK, OTHER = Kind.DIRECTORY, Kind.FILE, Kind.LINK, Kind.OTHER


def read_mlsd(*lines: bytes) -> Listing:
    return listing.parse_mlsd(lines, decode)


def one_fact_line(line: bytes) -> Entry:
    found = read_mlsd(line)
    assert found.rejected == []
    (entry,) = found.entries
    return entry


# Times of RFC 3659.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("19700101000000", 0),
        ("20240131120001", at(2024, 1, 31, 12, 0, 1)),
        ("20240131120001.999", at(2024, 1, 31, 12, 0, 1)),
        ("19691231235959.5", -1),
        ("20161231235960", at(2017, 1, 1)),  # a leap second
        ("191000131120000", at(2000, 1, 31, 12)),  # '19' and 100 years since 1900
        ("191240131120000", at(2024, 1, 31, 12)),
    ],
)
def test_time_val_is_read_as_utc_seconds(text: str, seconds: int) -> None:
    assert listing.parse_time_val(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024013112000",
        "20240131120000.",
        "20240131120000.x",
        "20241331120000",
        "20240230120000",
        "20240131240000",
        "00000101000000",
        "+2240131120000",
        "２０２４0131120000",
        "2024013112000²",
        "192000131120000",
        " 20240131120000",
    ],
)
def test_invalid_time_val_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        listing.parse_time_val(text)


@given(st.integers(at(1, 1, 1), at(9999, 12, 31, 23, 59, 59)))
def test_time_val_survives_round_trip(seconds: int) -> None:
    assert listing.parse_time_val(listing.format_time_val(seconds)) == seconds


def test_time_val_is_rounded_down() -> None:
    assert listing.format_time_val(0.999) == "19700101000000"
    assert listing.format_time_val(-0.001) == "19691231235959"


@pytest.mark.parametrize("seconds", [1e18, -1e18, float("inf"), float("nan"), at(1, 1, 1) - 1])
def test_time_outside_range_of_time_vals_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError):
        listing.format_time_val(seconds)


# MLSD.


def test_mlsd_of_proftpd_is_read() -> None:
    found = read_mlsd(
        b"modify=20240131120000;perm=flcdmpe;type=cdir;unique=FD02U1;UNIX.group=0;"
        b"UNIX.groupname=root;UNIX.mode=0755;UNIX.owner=0;UNIX.ownername=root; .\r\n",
        b"modify=20240131120000;perm=flcdmpe;type=pdir;unique=FD02U2;UNIX.mode=0755; ..\r\n",
        b"modify=20220803180421;perm=adfrw;size=281;type=file;unique=FD02U240A37;UNIX.group=1051;"
        b"UNIX.groupname=domain users;UNIX.mode=0600;UNIX.owner=1039733;"
        b"UNIX.ownername=homologftp; .bash_history\r\n",
        b"modify=20240131120000;perm=adfrw;size=3;type=OS.unix=symlink;UNIX.mode=0777; a link\r\n",
    )
    when = at(2024, 1, 31, 12)
    assert found.self_entry == Entry("", DIR, None, when, True, 0o755)
    assert found.entries == [
        Entry(".bash_history", FILE, 281, at(2022, 8, 3, 18, 4, 21), True, 0o600),
        Entry("a link", LINK, 3, when, True, 0o777),
    ]
    assert found.rejected == []


def test_mlsd_of_pure_ftpd_is_read() -> None:
    found = read_mlsd(
        b"type=cdir;sizd=4096;modify=20240131120000;UNIX.mode=0755;UNIX.uid=0;unique=fe00g1; .",
        b"type=dir;sizd=4096;modify=20240131120000;UNIX.mode=02755;UNIX.uid=0;unique=fe00g2; sub",
        b"type=OS.unix=slink:to/Where;size=8;modify=20240131120000;UNIX.mode=0777;unique=f1; l",
    )
    when = at(2024, 1, 31, 12)
    assert found.entries == [
        Entry("sub", DIR, 4096, when, True, 0o2755),
        Entry("l", LINK, 8, when, True, 0o777, "to/Where"),
    ]
    assert found.self_entry == Entry("", DIR, 4096, when, True, 0o755)


@pytest.mark.parametrize(
    ("line", "name", "target"),
    [
        (b"type=OS.unix=slink:a b;size=3;modify=20240131120000; l", "l", "a b"),
        (b"type=OS.unix=slink:a; b;c;size=3; l; size=4", "l; size=4", "a; b;c"),
        (b"size=3;type=OS.UNIX=slink:A b; my link", "my link", "A b"),
        (b"type=OS.unix=slink:t;UNIX.groupname=domain users;size=1; l m", "l m", "t"),
        (b"type=OS.unix=slink:;size=0; l", "l", None),
        (b"type=OS.unix=slink;size=0; l", "l", None),
    ],
)
def test_link_target_may_contain_any_character(line: bytes, name: str, target: str | None) -> None:
    entry = one_fact_line(line)
    assert (entry.kind, entry.name, entry.target) == (LINK, name, target)


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (b"type=file;", FILE),
        (b"TYPE=File;", FILE),
        (b"Type=DIR;", DIR),
        (b"type=OS.unix=chr-13/29;", OTHER),
        (b"type=OS.unix=blk-8/0;", OTHER),
        (b"type=OS.unix=fifo;", OTHER),
        (b"size=1;", FILE),
        (b"", FILE),
        (b"media-type=dir;", FILE),
        (b"x.type=dir;", FILE),
    ],
)
def test_mlsd_type_is_read_as_kind(facts: bytes, kind: Kind) -> None:
    assert one_fact_line(facts + b" name").kind is kind


@pytest.mark.parametrize(
    ("fact", "mode"),
    [
        (b"UNIX.mode=0644", 0o644),
        (b"unix.mode=100644", 0o644),
        (b"UNIX.mode=0o755", 0o755),  # pyftpdlib on Python 3
        (b"UNIX.mode=rw", None),
        (b"UNIX.mode=", None),
        (b"perm=adfrw", None),
    ],
)
def test_mlsd_mode_is_read(fact: bytes, mode: int | None) -> None:
    assert one_fact_line(b"type=file;" + fact + b"; name").mode == mode


@pytest.mark.parametrize("size", [b"", b"-1", b"x", b"9" * 19, b"1" * 5000])
def test_invalid_fact_loses_only_itself(size: bytes) -> None:
    entry = one_fact_line(b"type=file;size=" + size + b";modify=today; name")
    assert entry == Entry("name", FILE)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"type=file;  two leading", " two leading"),
        (b"type=file; trailing ", "trailing "),
        (b"type=file;size=1;\ta tab before it", "a tab before it"),
        (b"type=file; a; b=c; d", "a; b=c; d"),
        (b"type=file; size=9; x", "size=9; x"),
        (b"type=file;size=1 no last semicolon;x", "no last semicolon;x"),
        (b" type=file;", "type=file;"),
    ],
)
def test_mlsd_name_keeps_every_character(line: bytes, name: str) -> None:
    assert one_fact_line(line).name == name


def test_cdir_with_full_path_is_directory_itself() -> None:
    found = read_mlsd(b"type=cdir;modify=20240131120000; /home/me", b"type=pdir; /home")
    assert found == Listing([], [], Entry("", DIR, None, at(2024, 1, 31, 12), True))


def test_cdir_with_plain_name_is_directory_itself() -> None:
    found = read_mlsd(b"type=cdir; tmp", b"type=file; x")
    assert found == Listing([Entry("x", FILE)], [], Entry("", DIR))


@pytest.mark.parametrize("itself", [b"type=dir;size=1; .", b"type=cdir;size=1; /a"])
def test_cdir_with_plain_name_is_child_when_other_line_describes_directory(
    itself: bytes,
) -> None:
    found = read_mlsd(b"type=cdir; tmp", itself)
    assert found == Listing([Entry("tmp", DIR)], [], Entry("", DIR, 1))


@pytest.mark.parametrize(
    "line",
    [
        b"type=OS.unix=slink:no end",
        b"type=file; a/b",
        b"type=dir; /a",
        b"type=file; ",
        b"type=file; a\0b",
        b"type=file;",
        b"name",
        b"Sorry; no listing",
        b"drwxr-xr-x   2 0        0            4096 Jan 31 12:00 sub",
        b"x" * 65537,
    ],
)
def test_invalid_mlsd_line_loses_only_itself(line: bytes) -> None:
    found = read_mlsd(line, b"type=file; good")
    assert [entry.name for entry in found.entries] == ["good"]
    assert len(found.rejected) == 1
    assert len(found.rejected[0]) <= 1000
    assert found.rejected[0].isprintable()


def test_mlst_entry_has_last_component_of_path() -> None:
    line = b" type=file;size=5;modify=20240131120000;UNIX.mode=0644; /a dir/the; file\r\n"
    assert listing.parse_mlst(line, decode) == Entry(
        "the; file", FILE, 5, at(2024, 1, 31, 12), True, 0o644
    )


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b" type=cdir; /", ""),
        (b" type=dir; .", ""),
        (b" type=dir; /a/b/", "b"),
        (b"type=dir; /no/leading space", "leading space"),
        (b"  /no facts", "no facts"),
    ],
)
def test_mlst_path_is_read(line: bytes, name: str) -> None:
    entry = listing.parse_mlst(line, decode)
    assert entry is not None
    assert entry.name == name


@pytest.mark.parametrize("line", [b"", b" ", b"End", b" type=file;", b" type=file; ", b" a=b; \0"])
def test_invalid_mlst_line_is_none(line: bytes) -> None:
    assert listing.parse_mlst(line, decode) is None


def test_mlst_with_undecodable_name_is_none() -> None:
    assert listing.parse_mlst(b" type=dir; /a/\xff", lambda raw: raw.decode("utf-8")) is None


@given(NAMES, st.sampled_from([b"", b"type=file;", b"UNIX.groupname=domain users;type=file;"]))
@example(b"a; b=c; d", b"UNIX.groupname=domain users;")
def test_any_name_survives_mlsd_line(name: bytes, facts: bytes) -> None:
    assert one_fact_line(facts + b" " + name + b"\r\n").name == decode(name)
