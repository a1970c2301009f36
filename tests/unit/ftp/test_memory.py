"""What mounts learn about a server, stored for the next mount."""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs.ftp import clock
from ftpfs.ftp.memory import FORMAT, MAX_AGE_SECONDS, Memory
from ftpfs.ftp.profile import Passive, Profile, Restart, SetTime
from ftpfs.ftp.profile.facts import Facts
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir, StartServer
from tests.support.relay import Command, Relay
from tests.support.servers import CannotDo, Kind, Options

pytestmark = pytest.mark.far

NOW = 1_800_000_000.0
NOON = 1_700_049_600


def learned_profile() -> Profile:
    """A profile in which every fact differs from a new one's."""
    profile = Profile()
    profile.identity.welcome, profile.identity.system = "220 me", "UNIX"
    profile.read_features([" MLST size*;", " UTF8"])
    profile.wire.passive, profile.contents.restart = Passive.PASV, Restart.HEAD
    profile.setting.set_time, profile.setting.set_time_works = SetTime.MDTM, True
    profile.setting.folder_times = False
    profile.times.list_zones = ((1_700_000_000, 3600), (1_750_000_000, 7200))
    profile.times.zone, profile.setting.time_grain = "+0100", 2
    profile.contents.digests = ("XCRC", "XMD5")
    profile.wire.connections = 5
    profile.names.renames = False
    profile.wire.manners.avoid("MLST")
    profile.wire.arming = profile.wire.pipelining = False
    listings = profile.listings
    listings.mlsd_shows_itself = listings.list_shows_itself = listings.sizes_wrap = True
    listings.mlsd = listings.mlst = listings.list_all = listings.enters = False
    profile.times.are_slow, profile.times.mdtm = True, False
    profile.contents.rest = profile.contents.appends = False
    profile.setting.chmod = profile.names.paths = False
    profile.known = True
    return profile


# What every version writes for that profile: a later version reads the files of an earlier one.
STORED = {
    "welcome": "220 me",
    "features": {"MLST": "size*;", "UTF8": ""},
    "system": "UNIX",
    "passive": "PASV",
    "pipelining": False,
    "arming": False,
    "manners": {
        "avoided": ["MLST"],
        "pipelines": False,
        "wary": False,
        "once": [],
        "answered": [],
    },
    "connections": 5,
    "paths": False,
    "renames": False,
    "mlsd": False,
    "mlsd_shows_itself": True,
    "mlst": False,
    "list_all": False,
    "list_shows_itself": True,
    "enters": False,
    "list_sizes_wrap": True,
    "mdtm": False,
    "slow_times": True,
    "times": "+0100",
    "list_zones": [[1_700_000_000, 3600], [1_750_000_000, 7200]],
    "set_time": "MDTM",
    "set_time_works": True,
    "time_grain": 2,
    "folder_times": False,
    "chmod": False,
    "rest": False,
    "restart": "HEAD",
    "appends": False,
    "digests": ["XCRC", "XMD5"],
}


def kept(path: Path, profile: Profile) -> dict[str, object]:
    Memory(path, lambda: NOW).save(profile)
    content: dict[str, object] = json.loads(path.read_text())
    return content


def recalled(path: Path, *, quirks: tuple[tuple[str, str], ...] = (), now: float = NOW) -> Profile:
    profile = Profile(quirks)
    Memory(path, lambda: now).load(profile)
    return profile


def test_learned_facts_are_recalled(tmp_path: Path) -> None:
    profile = learned_profile()
    kept(tmp_path / "a" / "b" / "x.json", profile)
    found = recalled(tmp_path / "a" / "b" / "x.json")
    assert found.recalled
    assert not found.known, "that it is the same server is not known before a login"
    assert found.learned() == profile.learned()
    fresh = Profile().learned()
    assert all(value != fresh[name] for name, value in profile.learned().items())


def test_profile_file_has_same_form_in_every_version(tmp_path: Path) -> None:
    assert kept(tmp_path / "x.json", learned_profile())["learned"] == STORED
    found = recalled(tmp_path / "x.json")
    assert found.learned() == STORED
    assert (found.listings.sizes_wrap, found.times.are_slow, found.times.zone) == (
        True,
        True,
        "+0100",
    )


def test_each_attribute_of_profile_is_stored_or_listed_as_not_stored() -> None:
    not_kept = {"round_trip", "home", "foreign", "armed_failures", "dead_extended"}
    not_kept.add("failed_logins_at_once")  # perhaps the network broke: the next mount tries again
    not_kept.add("close_notify")  # the first listing shows it again, and it has to be right
    not_kept |= {"mlst_renames"}  # each mount finds it out
    not_kept |= {"zone_seen"}  # whether this mount has seen a zone is not stored
    not_kept |= {"telnet", "list_zone", "line_limit", "placing"}  # only the user sets them
    not_kept |= {"trying", "moved", "dated"}  # the present operation's
    not_kept.add("replaces")  # asked when the answer to a rename is lost
    stored_as = {"are_slow": "slow_times", "zone": "times", "sizes_wrap": "list_sizes_wrap"}
    groups = [each for each in vars(Profile()).values() if isinstance(each, Facts)]
    attributes = {name for group in groups for name in vars(group)} - {"identity", "times"}
    assert {stored_as.get(n, n) for n in attributes - not_kept} == set(Profile().learned())


def test_recalled_zone_is_trusted_until_first_upload_reveals_it_again(
    tmp_path: Path,
) -> None:
    """Summer time may have begun since; facts derived from the old zone would be wrong by it."""
    kept(tmp_path / "x.json", learned_profile())
    for seen, zones in (("+0100", 2), ("+0200", 0)):
        profile = recalled(tmp_path / "x.json")
        assert (profile.times.zone, profile.times.zone_seen) == ("+0100", False)
        assert profile.times.utc_of(NOON) == NOON - 3600
        profile.times.saw_clock(clock.shown_at(NOON, seen), NOON)
        assert (profile.times.zone, profile.times.zone_seen) == (seen, True)
        assert len(profile.times.list_zones) == zones


def test_profile_file_is_readable_by_its_user_only(tmp_path: Path) -> None:
    path = tmp_path / "servers" / "x.json"
    kept(path, learned_profile())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["x.json"]


def test_profile_file_is_not_written_without_new_facts(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    memory, profile = Memory(path), learned_profile()
    memory.save(profile)
    path.unlink()
    memory.save(profile)
    assert not path.exists()
    profile.setting.chmod = True
    memory.save(profile)
    assert path.exists()


def test_quirks_are_neither_stored_nor_overruled(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    told = Profile((("chmod", "yes"),))
    told.known = True
    assert "chmod" not in kept(path, told)["learned"]  # type: ignore[operator]
    kept(path, learned_profile())
    assert recalled(path, quirks=(("chmod", "yes"),)).setting.chmod is True


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 1, "since": "x", "learned": {}}',
        '{"format": 1, "since": 1800000000, "learned": {"chmod": 3}}',
        '{"format": 1, "since": 1800000000, "learned": {"passive": "NONSENSE"}}',
        '{"format": 1, "since": 1800000000, "learned": {"list_zones": [1]}}',
        '{"format": 1, "since": 1800000000, "learned": {"times": "Mars/Olympus"}}',
        '{"format": 1, "since": 1800000000, "learned": {"list_zones": [[1, Infinity]]}}',
        '{"format": 1, "since": 1800000000, "learned": {"list_zones": [[1, 1e30]]}}',
        '{"format": 1, "since": 1800000000, "learned": {"list_zones": [["ab"]]}}',
        '{"format": 1, "since": 1800000000, "learned": {"features": ["MLST"]}}',
        "[" * 100_000,
    ],
)
def test_damaged_profile_file_is_ignored_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    found = recalled(path)
    assert not found.recalled
    assert found.learned() == Profile().learned()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


@pytest.mark.parametrize("later", [-1, MAX_AGE_SECONDS + 1])
def test_profile_file_that_is_too_old_or_from_future_is_ignored(
    tmp_path: Path, later: float
) -> None:
    kept(tmp_path / "x.json", learned_profile())
    assert not recalled(tmp_path / "x.json", now=NOW + later).recalled


def test_recalling_does_not_renew_age_of_profile(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    kept(path, learned_profile())
    profile = Profile()
    memory = Memory(path, lambda: NOW + 1000)
    memory.load(profile)
    profile.known = profile.setting.chmod = True
    memory.save(profile)
    assert json.loads(path.read_text())["since"] == NOW
    profile.forget()
    memory.save(profile)
    assert json.loads(path.read_text())["since"] == NOW + 1000


def test_unwritable_state_folder_does_not_disturb_mount(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Memory(tmp_path / "file" / "x.json").save(learned_profile())


# On the four real servers.


MakeRemote = Callable[[], Remote]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.json"


@pytest.fixture
def make_remote(remote_dir: RemoteDir, relay: Relay, path: Path) -> Iterator[MakeRemote]:
    made: list[Remote] = []
    server = remote_dir.server

    def make() -> Remote:
        relay.reset()
        made.append(
            Remote(
                Server(server.host, relay.port, user=server.user, password=Secret(server.password)),
                Network(),
                memory=Memory(path),
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def verbs(relay: Relay) -> list[str]:
    """The verbs after the last login."""
    return [command.verb for command in settings(relay)]


def settings(relay: Relay) -> list[Command]:
    seen = list(relay.commands)
    login = max(n for n, command in enumerate(seen) if command.verb == "PASS")
    return seen[login + 1 :]


def test_second_mount_checks_recalled_facts_in_one_write(
    make_remote: MakeRemote, relay: Relay
) -> None:
    first = make_remote()
    first.connect()
    assert {"FEAT", "SYST", "PWD"} <= set(verbs(relay))
    first.close()
    second = make_remote()
    relay.latency = 0.05
    second.connect()
    assert verbs(relay)[0] == "FEAT"
    assert "SYST" not in verbs(relay)
    assert settings(relay)[-1].t - settings(relay)[0].t < 0.04, "they came together"
    assert second.profile.learned() == first.profile.learned()
    assert second.pwd() == first.pwd()


def test_second_mount_does_not_probe_rest_again(
    make_remote: MakeRemote, relay: Relay, remote_dir: RemoteDir
) -> None:
    first = make_remote()
    found = first.restart_of_uploads()
    first.close()
    second = make_remote()
    assert second.restart_of_uploads() is found
    assert "STOR" not in verbs(relay)


@pytest.mark.parametrize("what", ["welcome", "features"])
def test_other_server_at_same_address_is_learned_anew(
    make_remote: MakeRemote, relay: Relay, path: Path, what: str
) -> None:
    first = make_remote()
    first.connect()
    first.close()
    counted = {"welcome": "", "manners": {}}  # the server counts its users
    wanted = first.profile.learned() | counted
    content = json.loads(path.read_text())
    assert content["format"] == FORMAT
    content["learned"] |= {"restart": "HEAD", "mlsd": None, "chmod": False}
    content["learned"][what] = "220 another" if what == "welcome" else {"SIZE": ""}
    path.write_text(json.dumps(content))
    second = make_remote()
    second.connect()
    assert second.profile.learned() | counted == wanted
    assert not second.profile.recalled


def test_second_mount_of_server_in_other_zone_lists_right_times_at_once(
    start_server: StartServer, server_kind: Kind, tmp_path: Path
) -> None:
    """The first mount has learned the zone by an upload; the second need not upload anything."""
    options = Options(use_localtime=True, tz="Asia/Kolkata")
    try:
        server = start_server(server_kind, options=options)
    except CannotDo as reason:
        pytest.skip(f"server cannot: {reason}")
    when = int(time.time()) - 5_000_000
    (server.root / "file").write_bytes(b"x")
    os.utime(server.root / "file", (when, when))
    place = Server(server.host, server.port, user=server.user, password=Secret(server.password))
    for first in (True, False):
        remote = Remote(place, Network(), memory=Memory(tmp_path / "profile.json"))
        try:
            if first:
                with tempfile.TemporaryFile() as file:
                    content = FileContent(file.fileno(), 0, None, None)
                    remote.store("/new", content, base=None, check=False)
            times = {entry.name: entry.mtime for entry in remote.list("/")}
            assert times["file"] == when
        finally:
            remote.close()
