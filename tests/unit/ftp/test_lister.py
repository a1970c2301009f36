"""One directory, listed with the best command of each server, also when that command is blocked."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator

import pytest

from ftpfs import errors
from ftpfs.ftp import clock, lister
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.profile import Profile, times
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.model.entry import Kind
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir, StartServer
from tests.support import servers
from tests.support.relay import Relay
from tests.support.servers import FtpServer

pytestmark = pytest.mark.far

NETWORK = Network(connect_timeout=2.0, reply_timeout=3.0, data_timeout=3.0, finish_timeout=3.0)
WHEN = 1_600_000_001


def connect(server: FtpServer, port: int, **quirks: str) -> Session:
    place = Server(server.host, port, user=server.user, password=Secret(server.password))
    return Session(place, NETWORK, Profile(list(quirks.items())))


@pytest.fixture(autouse=True)
def no_server_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine any server takes long for a time, and is not asked for all at once. What
    ftpfs does then is tested in test_dated.py."""
    monkeypatch.setattr(times, "SLOW_SECONDS", float("inf"))


@pytest.fixture
def session(server: FtpServer, relay: Relay) -> Iterator[Session]:
    opened = connect(server, relay.port)
    yield opened
    opened.close()


@pytest.fixture
def folder(remote_dir: RemoteDir) -> RemoteDir:
    """A file with a known time, a dot file, a folder, and a hidden file of ftpfs."""
    for name in ("file", ".dot", ".ftpfs-x.tmp"):
        path = remote_dir.write(name, b"12345")
        os.utime(path, (WHEN, WHEN))
    remote_dir.write("folder/inside", b"")
    return remote_dir


def check(session: Session, folder: RemoteDir, *, dot: bool = True, exact: bool = True) -> None:
    entries = {entry.name: entry for entry in lister.list_directory(session, folder.path)}
    assert set(entries) == {"file", "folder"} | ({".dot"} if dot else set())
    assert entries["folder"].kind is Kind.DIRECTORY
    assert (entries["file"].kind, entries["file"].size) == (Kind.FILE, 5)
    assert entries["file"].exact is exact
    if exact:
        assert entries["file"].mtime == WHEN


def test_listing_has_every_entry_with_its_time_in_seconds(
    session: Session, folder: RemoteDir
) -> None:
    check(session, folder)
    check(session, folder)


@pytest.mark.parametrize("reply", ["500 no", "502 no", "550 no", "501 no"])
def test_lister_falls_back_to_list_when_mlsd_is_refused(
    session: Session, relay: Relay, folder: RemoteDir, reply: str
) -> None:
    relay.refuse("MLSD", reply)
    check(session, folder)
    assert relay.count("LIST") >= 1


@pytest.mark.parametrize("reply", ["500 no", "501 no", "504 no", "550 no", "450 no"])
def test_lister_sends_plain_list_when_option_is_refused(
    session: Session, relay: Relay, folder: RemoteDir, reply: str
) -> None:
    relay.refuse("MLSD", "502 no")
    relay.refuse("LIST", reply, where=lambda command: command.arg == "-a")
    # vsftpd then hides dot files, and no other command shows them.
    check(session, folder, dot=folder.server.kind in ("pyftpdlib",))
    sent = relay.count("LIST")
    lister.list_directory(session, folder.path)
    assert relay.count("LIST") == sent + 1


@pytest.mark.parametrize("mlsd", [True, False])
def test_unlistable_folder_is_not_empty_when_listed_first(
    session: Session, relay: Relay, remote_dir: RemoteDir, mlsd: bool
) -> None:
    (remote_dir.disk / "closed").mkdir(mode=0o711)  # belongs to root
    remote_dir.write("open/file", b"")
    if not mlsd:
        relay.refuse("MLSD", "502 no")
    with pytest.raises((errors.PermissionDenied, errors.DataConnectionFailed)) as refused:
        lister.list_directory(session, f"{remote_dir.path}/closed")
    # Without MLSD, proftpd says 226 and sends nothing, as if the data was cut off.
    assert mlsd or remote_dir.server.kind == "proftpd" or refused.type is errors.PermissionDenied
    assert not mlsd or refused.type is errors.PermissionDenied
    assert [e.name for e in lister.list_directory(session, f"{remote_dir.path}/open")] == ["file"]


def test_empty_folder_listed_first_is_empty_and_next_costs_one_listing(
    session: Session, relay: Relay, remote_dir: RemoteDir
) -> None:
    for number in range(3):
        (remote_dir.disk / f"empty{number}").mkdir()
    assert lister.list_directory(session, f"{remote_dir.path}/empty0") == []
    relay.reset()
    for number in (1, 2):
        assert lister.list_directory(session, f"{remote_dir.path}/empty{number}") == []
    assert relay.count("LIST", "MLSD") == 2


def test_times_come_from_list_when_server_has_no_mdtm(
    session: Session, relay: Relay, folder: RemoteDir
) -> None:
    relay.refuse("MLSD", "502 no")
    relay.refuse("MDTM", "502 no")
    check(session, folder, exact=False)


@pytest.mark.parametrize(
    "fault",
    [
        "213 20200913122641\r\n200 and one that nobody asked for",
        "213 19990101000000\r\n213 20200913122641",
        "200 what is asked is never answered so",
    ],
)
def test_mismatched_replies_discard_batch_and_next_batch_is_not_pipelined(
    server: FtpServer, relay: Relay, folder: RemoteDir, fault: str
) -> None:
    times = {f"file{n}": WHEN + n for n in range(300)}
    for name, when in times.items():
        os.utime(folder.write(name, b""), (when, when))
    relay.refuse("MLSD", "502 no")
    relay.replace_reply("MDTM", fault, skip=150, times=1)
    session = connect(server, relay.port)
    with pytest.raises(errors.ConnectionLost):
        lister.list_directory(session, folder.path)
    assert not session.alive
    assert not session.profile.wire.pipelining
    manners = session.profile.wire.manners
    assert not manners.pipelines
    assert manners.may_be_unknown("FEAT"), "what was answered proves nothing any more"
    place = Server(server.host, relay.port, user=server.user, password=Secret(server.password))
    again = Session(place, NETWORK, session.profile)
    listed = {e.name: e.mtime for e in lister.list_directory(again, folder.path)}
    again.close()
    assert {name: listed[name] for name in times} == times


def test_missing_reply_is_detected_at_next_guard_before_any_deadline(
    session: Session, relay: Relay, folder: RemoteDir
) -> None:
    for n in range(300):
        folder.write(f"file{n}", b"")
    relay.refuse("MLSD", "502 no")
    relay.drop_reply("MDTM", skip=20)
    began = time.monotonic()
    with pytest.raises(errors.ConnectionLost):
        lister.list_directory(session, folder.path)
    assert time.monotonic() - began < NETWORK.reply_timeout / 2


def test_name_that_no_command_can_carry_loses_only_its_exact_time(
    session: Session, relay: Relay, folder: RemoteDir
) -> None:
    (folder.disk / "odd\rname").write_bytes(b"123")
    relay.refuse("MLSD", "502 no")
    entries = {entry.name: entry for entry in lister.list_directory(session, folder.path)}
    assert entries["file"].exact
    # pure-ftpd leaves it out.
    assert ("odd\rname" in entries) is (folder.server.kind in ("proftpd", "pyftpdlib", "vsftpd"))


def test_listing_of_missing_folder_is_refused(session: Session, folder: RemoteDir) -> None:
    with pytest.raises(errors.Unavailable):
        lister.list_directory(session, f"{folder.path}/missing")


def test_listing_of_missing_folder_is_refused_after_listings_that_worked(
    session: Session, folder: RemoteDir
) -> None:
    """The CWD is refused. A refused MLSD would mean an empty folder, once MLSD has worked."""
    lister.list_directory(session, folder.path)
    with pytest.raises(errors.Unavailable):
        lister.list_directory(session, f"{folder.path}/missing")
    with pytest.raises(errors.Unavailable):
        lister.list_directory(session, f"{folder.path}/file")
    check(session, folder)


def test_unreadable_folder_teaches_nothing_about_list(
    session: Session, relay: Relay, folder: RemoteDir
) -> None:
    """vsftpd and proftpd say 226 and send nothing, which does not mean "no -a here"."""
    relay.refuse("MLSD", "502 no")
    (folder.disk / "folder").chmod(0o311)
    with contextlib.suppress(errors.PermissionDenied, errors.DataConnectionFailed):
        lister.list_directory(session, f"{folder.path}/folder")
    check(session, folder)
    with pytest.raises((errors.PermissionDenied, errors.DataConnectionFailed)):
        lister.list_directory(session, f"{folder.path}/folder")


@pytest.fixture(params=["America/New_York", "Asia/Kolkata", "Pacific/Auckland"])
def zone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def local(zone: str, server_kind: servers.Kind, start_server: StartServer) -> RemoteDir:
    """A folder of a server whose clock is in another zone."""
    options = servers.Options(use_localtime=True, tz=zone)
    try:
        server = start_server(server_kind, options=options)
    except servers.CannotDo as reason:
        pytest.skip(f"server cannot: {reason}")
    return RemoteDir(server, server.root, "/")


def tells_local_times(server: FtpServer) -> bool:
    """Whether MDTM and MLSD report local times too, and not LIST alone."""
    return server.kind in ("vsftpd", "pyftpdlib")


@pytest.mark.parametrize("mlsd", [False, True])
def test_times_are_exact_in_every_time_zone_of_server(
    local: RemoteDir, zone: str, mlsd: bool
) -> None:
    """Files to the second; folders, which MDTM does not take, to the minute that LIST shows."""
    now = int(time.time())
    day = 86400
    # Old files, whose time of day LIST does not show; and a file of each month, so that there is
    # one on either side of a change to or from summer time, and of a turn of the year.
    old = [951_782_399, 1_583_020_799, 1_735_689_599, 1_735_689_600]
    recent = [now - months * 30 * day - 7 * months for months in range(5)]
    for number, when in enumerate(old + recent):
        os.utime(local.write(f"file{number}", b""), (when, when))
    for number, when in enumerate(recent):
        local.write(f"folder{number}/inside", b"")
        os.utime(local.disk / f"folder{number}", (when - 60, when - 60))
    told = {"vsftpd": clock.told_by(clock.shown_at(now, zone), now), "pyftpdlib": zone}
    known = {"times": told[local.server.kind]} if local.server.kind in told else {}
    session = connect(local.server, local.server.port, **known)
    if not mlsd:
        session.profile.listings.mlsd = False
    times = {entry.name: entry.mtime for entry in lister.list_directory(session, "/")}
    to_seconds = session.profile.listings.mlsd
    session.close()
    assert [times[f"file{n}"] for n in range(len(old + recent))] == old + recent
    assert [times[f"folder{n}"] for n in range(len(recent))] == [
        when - 60 if to_seconds else (when - 60) // 60 * 60 for when in recent
    ]


def test_upload_reveals_zone_of_server_that_reports_local_times(local: RemoteDir) -> None:
    """From then on ftpfs also sets its times right, and earlier times cause no conflict."""
    now = int(time.time())
    os.utime(local.write("before", b"x"), (now - 100_000, now - 100_000))
    server = local.server
    place = Server(server.host, server.port, user=server.user, password=Secret(server.password))
    remote = Remote(place, NETWORK)
    try:
        (base,) = remote.list("/")
        with tempfile.TemporaryFile() as file:
            file.write(b"new")
            file.flush()
            for name, known in (("first", None), ("before", base)):
                content = FileContent(file.fileno(), 3, now - 200_000, None)
                stored = remote.store(f"/{name}", content, base=known)
                assert stored.mtime == now - 200_000
                assert int((local.disk / name).stat().st_mtime) == now - 200_000
        os.utime(local.write("after", b""), (now - 300_000, now - 300_000))
        listed = {entry.name: entry.mtime for entry in remote.list("/")}
        assert listed == {"first": now - 200_000, "before": now - 200_000, "after": now - 300_000}
        assert (remote.profile.times.zone != "UTC") is tells_local_times(server)
    finally:
        remote.close()


@pytest.mark.parametrize(
    ("zone", "seen"),
    [("UTC", "UTC"), ("+0530", "+0530"), ("-0330", "-0330"), ("Europe/Berlin", "+0200")],
)
def test_zone_follows_from_how_server_shows_present_time(zone: str, seen: str) -> None:
    now = 1_720_000_000  # in July
    for late in (-20, 0, 20):
        assert clock.told_by(clock.shown_at(now, zone) + late, now) == seen
    assert clock.told_by(now + 1234, now) == "UTC"  # a wrong clock is no zone
    for when in (now, now + 180 * 86400, -(1 << 40), 1 << 40):
        assert clock.to_utc(clock.shown_at(when, zone), zone) == when


def test_user_can_state_zone_of_list_when_no_file_reveals_it(start_server: StartServer) -> None:
    """Folders only: no MDTM to compare with."""
    server = start_server("proftpd", options=servers.Options(use_localtime=True, tz="Asia/Tokyo"))
    place = RemoteDir(server, server.root, "/")
    place.write("folder/inside", b"")
    when = int((place.disk / "folder").stat().st_mtime)
    for said, shown in (("Asia/Tokyo", when // 60 * 60), ("UTC", when // 60 * 60 + 9 * 3600)):
        session = connect(server, server.port, list_times=said, mlsd="no")
        (folder,) = lister.list_directory(session, "/")
        session.close()
        assert folder.mtime == shown


def test_zone_learned_in_one_folder_applies_to_folder_without_files(
    start_server: StartServer,
) -> None:
    server = start_server("proftpd", options=servers.Options(use_localtime=True, tz="Asia/Tokyo"))
    place = RemoteDir(server, server.root, "/")
    place.write("file", b"")
    place.write("folders/one/inside", b"")
    when = int((place.disk / "folders/one").stat().st_mtime)
    session = connect(server, server.port)
    session.profile.listings.mlsd = False
    # Twice: facts of one session must not be added to those of another.
    for _ in range(2):
        lister.list_directory(session, "/")
    (folder,) = lister.list_directory(session, "/folders")
    session.close()
    assert folder.mtime == when // 60 * 60
