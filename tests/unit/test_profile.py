"""What a server can do, read from FEAT and learned from its replies."""

from __future__ import annotations

import pytest

from ftpfs import errors
from ftpfs.ftp.profile import Profile, SetTime

JANUARY, JULY = 1_705_000_000, 1_720_000_000


def profile(*features: str) -> Profile:
    made = Profile()
    made.read_features([f" {feature}" for feature in features])
    return made


@pytest.mark.parametrize(
    ("offered", "sent"),
    [
        ("type*;size*;modify*;UNIX.mode*;", None),
        ("type*;perm*;size*;modify*;unix.mode;", "OPTS MLST type;size;modify;unix.mode;"),
        ("size;type;", "OPTS MLST size;type;"),
        ("", None),
    ],
)
def test_mlst_facts_are_asked_for_where_they_do_not_come_by_themselves(
    offered: str, sent: str | None
) -> None:
    assert profile(f"MLST {offered}").mlst_options == sent


def test_a_server_without_mlst_in_feat_has_no_mlsd() -> None:
    assert profile("SIZE").mlsd is False
    assert profile("MLST size*;").mlsd is None


@pytest.mark.parametrize(
    ("feature", "has"),
    [
        ("MFF modify;UNIX.group;UNIX.mode;", True),
        ("MFF unix.mode", True),
        ("MFF modify;UNIX.group;", False),
        ("MFMT", False),
    ],
)
def test_mff_counts_only_where_it_sets_modes(feature: str, has: bool) -> None:
    assert profile(feature).mff_mode is has


def test_the_ways_to_set_a_time_are_tried_in_turn() -> None:
    server = profile("SIZE")
    assert server.way_to_set_time() is SetTime.MDTM
    assert server.saw_set_time(SetTime.MDTM, 550)
    assert server.way_to_set_time() is SetTime.SITE_UTIME
    assert server.saw_set_time(SetTime.SITE_UTIME, 500)
    assert server.way_to_set_time() is SetTime.NONE


def test_a_way_that_worked_is_kept_whatever_one_file_says() -> None:
    server = profile("MFMT")
    assert not server.saw_set_time(SetTime.MFMT, 213)
    assert not server.saw_set_time(SetTime.MFMT, 550)
    assert server.way_to_set_time() is SetTime.MFMT


def test_a_round_trip_given_as_a_quirk_is_not_measured_otherwise() -> None:
    profile = Profile([("round_trip", "20.5")])
    profile.saw_handshake(0.0001)
    assert profile.round_trip == 0.0205


def test_a_zone_given_as_a_quirk_is_not_learned_otherwise() -> None:
    server = Profile([("times", "-0330")])
    server.saw_clock(1_000_000, 1_000_000)
    assert server.utc_of(1_000_000) == 1_000_000 + 3 * 3600 + 1800
    assert server.set_time_line(SetTime.MFMT, "/x", 0) == "MFMT 19700101000000 /x"
    assert server.set_time_line(SetTime.MDTM, "/x", 86400) == "MDTM 19700101203000 /x"


@pytest.mark.parametrize("quirk", ["times", "list_times"])
@pytest.mark.parametrize("value", ["Mars/Olympus", "../../etc/passwd", "+9900", "yes"])
def test_a_zone_that_is_none_is_refused(quirk: str, value: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        Profile([(quirk, value)])


def test_a_zone_of_list_given_as_a_quirk_beats_what_was_compared() -> None:
    """Berlin's clock is an hour ahead in winter and two in summer."""
    server = Profile([("list_times", "Europe/Berlin")])
    server.saw_list_zones({JANUARY: -3600})
    assert (server.list_zone_at(JANUARY), server.list_zone_at(JULY)) == (3600, 7200)


def test_a_zone_given_as_a_quirk_is_not_asked_the_server_for() -> None:
    assert Profile([("times", "UTC")]).times_seen
    assert not Profile([("list_times", "UTC")]).times_seen
