"""One directory, listed the best way each server can, also where that way is blocked."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

import pytest

from ftpfs import errors
from ftpfs.config import Network, Server
from ftpfs.credentials import Secret
from ftpfs.ftp import clock, lister
from ftpfs.ftp.listing import Kind
from ftpfs.ftp.profile import Profile
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.session import Session
from ftpfs.ftp.upload import FileContent
from tests.conftest import RemoteDir, StartServer
from tests.support import servers
from tests.support.relay import Relay
from tests.support.servers import FtpServer

NETWORK = Network(connect_timeout=2.0, reply_timeout=3.0, data_timeout=3.0, finish_timeout=3.0)
WHEN = 1_600_000_001


def connect(server: FtpServer, port: int, **quirks: str) -> Session:
    place = Server(server.host, port, user=server.user, password=Secret(server.password))
    return Session(place, NETWORK, Profile(list(quirks.items())))


@pytest.fixture
def session(server: FtpServer, relay: Relay) -> Iterator[Session]:
    opened = connect(server, relay.port)
    yield opened
    opened.close()


@pytest.fixture
def folder(remote_dir: RemoteDir) -> RemoteDir:
    """A file with a known time, a dot file, a folder, and a file of our own."""
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


def test_everything_is_there_with_its_time_in_seconds(session: Session, folder: RemoteDir) -> None:
    check(session, folder)
    check(session, folder)


@pytest.mark.parametrize("reply", ["500 no", "502 no", "550 no", "501 no"])
def test_where_mlsd_is_refused_list_is_used(
    session: Session, relay: Relay, folder: RemoteDir, reply: str
) -> None:
    relay.refuse("MLSD", reply)
    check(session, folder)
    assert relay.count("LIST") >= 1


@pytest.mark.parametrize("reply", ["500 no", "501 no", "504 no", "550 no", "450 no"])
def test_where_list_takes_no_option_it_is_sent_without(
    session: Session, relay: Relay, folder: RemoteDir, reply: str
) -> None:
    relay.refuse("MLSD", "502 no")
    relay.refuse("LIST", reply, where=lambda command: command.arg == "-a")
    # vsftpd then hides dot files, and there is no other way to see them.
    check(session, folder, dot=folder.server.kind in ("pyftpdlib",))
    sent = relay.count("LIST")
    lister.list_directory(session, folder.path)
    assert relay.count("LIST") == sent + 1


def test_without_mdtm_the_times_are_what_list_says(
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
def test_replies_that_do_not_match_spoil_the_batch_and_the_next_is_sent_plainly(
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
    assert not session.profile.pipelining
    place = Server(server.host, relay.port, user=server.user, password=Secret(server.password))
    again = Session(place, NETWORK, session.profile)
    listed = {e.name: e.mtime for e in lister.list_directory(again, folder.path)}
    again.close()
    assert {name: listed[name] for name in times} == times


def test_a_missing_reply_is_noticed_at_the_next_guard_and_not_by_a_deadline(
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


def test_a_name_that_no_command_can_carry_costs_its_exact_time_only(
    session: Session, relay: Relay, folder: RemoteDir
) -> None:
    (folder.disk / "odd\rname").write_bytes(b"123")
    relay.refuse("MLSD", "502 no")
    entries = {entry.name: entry for entry in lister.list_directory(session, folder.path)}
    assert entries["file"].exact
    # pure-ftpd leaves it out.
    assert ("odd\rname" in entries) is (folder.server.kind in ("proftpd", "pyftpdlib", "vsftpd"))


def test_a_missing_folder_is_refused(session: Session, folder: RemoteDir) -> None:
    with pytest.raises(errors.Unavailable):
        lister.list_directory(session, f"{folder.path}/missing")


def test_a_missing_folder_is_refused_even_where_a_listing_was_never_refused(
    session: Session, folder: RemoteDir
) -> None:
    """The refusal is the CWD's; MLSD's would mean an empty folder, once it is known to work."""
    lister.list_directory(session, folder.path)
    with pytest.raises(errors.Unavailable):
        lister.list_directory(session, f"{folder.path}/missing")
    with pytest.raises(errors.Unavailable):
        lister.list_directory(session, f"{folder.path}/file")
    check(session, folder)


def test_an_unreadable_folder_teaches_nothing_about_list(
    session: Session, relay: Relay, folder: RemoteDir
) -> None:
    """vsftpd and proftpd say 226 to a LIST of it: nothing came, which is not "no -a here"."""
    relay.refuse("MLSD", "502 no")
    (folder.disk / "folder").chmod(0o311)
    try:
        lister.list_directory(session, f"{folder.path}/folder")
    except errors.PermissionDenied:
        pass
    check(session, folder)
    with pytest.raises((errors.PermissionDenied, errors.DataConnectionFailed)):
        lister.list_directory(session, f"{folder.path}/folder")


@pytest.fixture(params=["America/New_York", "Asia/Kolkata", "Pacific/Auckland"])
def zone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def local(zone: str, server_kind: servers.Kind, start_server: StartServer) -> RemoteDir:
    """A folder of a server whose clock stands in another zone."""
    options = servers.Options(use_localtime=True, tz=zone)
    try:
        server = start_server(server_kind, options=options)
    except servers.CannotDo as reason:
        pytest.skip(f"server cannot: {reason}")
    return RemoteDir(server, server.root, "/")


def tells_local_times(server: FtpServer) -> bool:
    """By MDTM and MLSD, too, and not by LIST alone."""
    return server.kind in ("vsftpd", "pyftpdlib")


@pytest.mark.parametrize("mlsd", [False, True])
def test_times_are_exact_in_whatever_zone_the_server_is(
    local: RemoteDir, zone: str, mlsd: bool
) -> None:
    """Files to the second; folders, which MDTM does not take, to the minute that LIST shows."""
    now = int(time.time())
    day = 86400
    # Old ones, whose time LIST does not show; and one of each month, so one on either side of a
    # change to or from summer time, and on either side of a year's turn when there was one.
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
        session.profile.mlsd = False
    times = {entry.name: entry.mtime for entry in lister.list_directory(session, "/")}
    to_seconds = session.profile.mlsd
    session.close()
    assert [times[f"file{n}"] for n in range(len(old + recent))] == old + recent
    assert [times[f"folder{n}"] for n in range(len(recent))] == [
        when - 60 if to_seconds else (when - 60) // 60 * 60 for when in recent
    ]


def test_an_upload_shows_the_zone_of_a_server_that_tells_local_times(local: RemoteDir) -> None:
    """Its own time is set rightly from then on, too, and what was known is no conflict."""
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
        assert (remote.profile.times != "UTC") is tells_local_times(server)
    finally:
        remote.close()


@pytest.mark.parametrize(
    ("zone", "seen"),
    [("UTC", "UTC"), ("+0530", "+0530"), ("-0330", "-0330"), ("Europe/Berlin", "+0200")],
)
def test_the_zone_is_told_by_how_now_is_shown(zone: str, seen: str) -> None:
    now = 1_720_000_000  # in July
    for late in (-20, 0, 20):
        assert clock.told_by(clock.shown_at(now, zone) + late, now) == seen
    assert clock.told_by(now + 1234, now) == "UTC"  # a wrong clock is no zone
    for when in (now, now + 180 * 86400, -(1 << 40), 1 << 40):
        assert clock.to_utc(clock.shown_at(when, zone), zone) == when


def test_the_zone_of_list_can_be_said_where_nothing_shows_it(start_server: StartServer) -> None:
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


def test_a_zone_learned_in_one_folder_counts_in_one_that_has_no_files(
    start_server: StartServer,
) -> None:
    server = start_server("proftpd", options=servers.Options(use_localtime=True, tz="Asia/Tokyo"))
    place = RemoteDir(server, server.root, "/")
    place.write("file", b"")
    place.write("folders/one/inside", b"")
    when = int((place.disk / "folders/one").stat().st_mtime)
    session = connect(server, server.port)
    session.profile.mlsd = False
    # Twice: what one session learned must not be added to what another has.
    for _ in range(2):
        lister.list_directory(session, "/")
    (folder,) = lister.list_directory(session, "/folders")
    session.close()
    assert folder.mtime == when // 60 * 60
