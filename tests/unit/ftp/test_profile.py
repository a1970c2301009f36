"""What a server can do, read from FEAT and learned from its replies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpfs import errors
from ftpfs.ftp import listing
from ftpfs.ftp.profile import PROBE_TIME, Profile, SetTime

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
def test_mlst_facts_are_requested_when_server_does_not_send_them(
    offered: str, sent: str | None
) -> None:
    assert profile(f"MLST {offered}").identity.mlst_options == sent


def test_server_without_mlst_in_feat_has_no_mlsd() -> None:
    assert profile("SIZE").listings.mlsd is False
    assert profile("MLST size*;").listings.mlsd is None


@pytest.mark.parametrize(
    ("feature", "has"),
    [
        ("MFF modify;UNIX.group;UNIX.mode;", True),
        ("MFF unix.mode", True),
        ("MFF modify;UNIX.group;", False),
        ("MFMT", False),
    ],
)
def test_mff_is_used_only_when_it_sets_modes(feature: str, has: bool) -> None:
    assert profile(feature).identity.mff_mode is has


def test_commands_that_set_times_are_tried_in_turn() -> None:
    server = profile("SIZE")
    assert server.setting.way_to_set_time() is SetTime.MDTM
    assert server.setting.saw_set_time(SetTime.MDTM, 550, ours=True)
    assert server.setting.way_to_set_time() is SetTime.SITE_UTIME
    assert server.setting.saw_set_time(SetTime.SITE_UTIME, 500)
    assert server.setting.way_to_set_time() is SetTime.NONE


@pytest.mark.parametrize("code", [450, 501, 550, 553])
def test_refusal_on_file_of_other_user_teaches_nothing(code: int) -> None:
    server = profile("SIZE")
    before = server.learned()
    server.setting.saw_chmod(code)
    assert server.setting.way_to_set_time() is SetTime.MDTM
    assert not server.setting.saw_set_time(SetTime.MDTM, code)
    assert server.learned() == {**before, "set_time": "MDTM"}


@pytest.mark.parametrize(
    ("code", "ours", "kept"),
    [(500, False, True), (502, False, True), (504, False, False), (504, True, True)],
)
def test_missing_command_is_stored_only_when_it_is_certain(
    code: int, ours: bool, kept: bool
) -> None:
    server = profile("SIZE")
    server.setting.saw_chmod(code, ours=ours)
    assert server.setting.saw_set_time(SetTime.MDTM, code, ours=ours)
    assert (server.setting.chmod, server.setting.way_to_set_time()) == (False, SetTime.SITE_UTIME)
    assert ("chmod" in server.learned(), "set_time" in server.learned()) == (kept, kept)


@pytest.mark.parametrize("zone", [0, 3600, -4 * 3600 - 1800, 14 * 3600])
@pytest.mark.parametrize(
    ("keeps", "grain"),
    [
        (lambda told: told, 1),
        (lambda told: told // 2 * 2, 2),
        (lambda told: -(-told // 2) * 2, 2),
        (lambda told: told // 60 * 60, 60),
        (lambda told: round(told / 60) * 60, 60),
    ],
)
def test_time_precision_follows_from_one_time_in_every_zone(
    zone: int, keeps: Callable[[int], int], grain: int
) -> None:
    server = profile("MFMT")
    server.setting.saw_time_kept(PROBE_TIME, keeps(PROBE_TIME) + zone)
    assert server.setting.time_grain == grain
    assert server.setting.is_same_time(1_000, 1_000 + grain - 1)
    assert not server.setting.is_same_time(1_000, 1_000 + grain)
    assert server.setting.way_to_set_time() is SetTime.MFMT


def test_time_command_without_effect_is_not_used() -> None:
    server = profile("MFMT")
    server.setting.saw_time_kept(PROBE_TIME, 1_700_000_000)
    assert server.setting.way_to_set_time() is SetTime.NONE
    assert server.learned()["set_time"] == "NONE"


def test_time_command_that_worked_survives_one_refusal() -> None:
    server = profile("MFMT")
    assert not server.setting.saw_set_time(SetTime.MFMT, 213)
    assert not server.setting.saw_set_time(SetTime.MFMT, 550)
    assert server.setting.way_to_set_time() is SetTime.MFMT


def test_round_trip_quirk_overrides_measurement() -> None:
    profile = Profile([("round_trip", "20.5")])
    profile.wire.saw_handshake(0.0001)
    assert profile.wire.round_trip == 0.0205


def test_zone_quirk_is_not_overwritten_by_learning() -> None:
    server = Profile([("times", "-0330")])
    server.times.saw_clock(1_000_000, 1_000_000)
    assert server.times.utc_of(1_000_000) == 1_000_000 + 3 * 3600 + 1800
    assert server.setting.set_time_line(SetTime.MFMT, "/x", 0) == "MFMT 19700101000000 /x"
    assert server.setting.set_time_line(SetTime.MDTM, "/x", 86400) == "MDTM 19700101203000 /x"


@pytest.mark.parametrize("quirk", ["times", "list_times"])
@pytest.mark.parametrize("value", ["Mars/Olympus", "../../etc/passwd", "+9900", "yes"])
def test_unknown_zone_is_refused(quirk: str, value: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        Profile([(quirk, value)])


def test_list_zone_quirk_overrides_learned_zone() -> None:
    """Berlin's clock is an hour ahead in winter and two in summer."""
    server = Profile([("list_times", "Europe/Berlin")])
    server.times.saw_list_zones({JANUARY: -3600})
    assert (server.times.list_zone_at(JANUARY), server.times.list_zone_at(JULY)) == (3600, 7200)


def test_zone_quirk_saves_asking_server() -> None:
    assert Profile([("times", "UTC")]).times.zone_seen
    assert not Profile([("list_times", "UTC")]).times.zone_seen


@given(
    seconds=st.integers(-(1 << 63), (1 << 63) - 1),
    way=st.sampled_from([SetTime.MFMT, SetTime.MDTM, SetTime.SITE_UTIME]),
    zone=st.sampled_from(["UTC", "+1400", "-1200", "Europe/Berlin"]),
)
def test_every_time_becomes_valid_command(seconds: int, way: SetTime, zone: str) -> None:
    server = Profile([("times", zone)])
    words = server.setting.set_time_line(way, "/x y", seconds).split(" ")
    shown = listing.parse_time_val(next(word for word in words if word.isdigit()))
    told = shown if way is SetTime.MFMT else server.times.utc_of(shown)
    if 0 <= seconds < 1 << 33 and zone != "Europe/Berlin":  # this zone has one hour twice
        assert told == seconds
    assert server.setting.is_kept(seconds) is False, "not known yet"
