"""What transfers cost on a session whose next data connection was made ahead: seen through a relay.

Commands are grouped into round trips by how much the client had heard when it sent them. A latency
makes sure that the client hears nothing too soon.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ftpfs import errors
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.profile import Passive
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.sender import SMALL_BYTES
from ftpfs.model.names import HIDDEN_PREFIX
from tests.conftest import RemoteDir
from tests.support.arming import (
    LATENCY,
    NETWORK,
    MakeRemote,
    arm,
    arm_by_storing,
    armed,
    fetch,
    quiet,
    round_trips,
    store,
    then_a_port,
)
from tests.support.relay import How, Relay, When


def test_armed_read_of_small_file_takes_one_round_trip_and_two_commands(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    content = os.urandom(4096)
    path = arm(remote, remote_dir, content)
    relay.latency = LATENCY
    relay.reset()
    assert fetch(remote, path) == content
    quiet(remote)
    assert round_trips(relay) == then_a_port(remote, ["RETR"])
    assert armed(remote) == 1


def test_transfer_by_path_shows_that_server_takes_paths(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    """Also if the question for the next port leaves behind it."""
    remote_dir.write("file", b"content")
    fetch(remote, f"{remote_dir.path}/file")
    assert remote.profile.names.paths


def test_armed_listing_takes_one_round_trip(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("folder/file", b"")
    for _ in range(2):
        assert [e.name for e in remote.list(f"{remote_dir.path}/folder")] == ["file"]
        quiet(remote)
    relay.latency = LATENCY
    relay.reset()
    assert [e.name for e in remote.list(f"{remote_dir.path}/folder")] == ["file"]
    quiet(remote)
    trips = round_trips(relay)
    asked = trips[0][1]
    assert asked in ("MLSD", "LIST")
    assert (
        trips
        == [
            *then_a_port(remote, ["CWD", asked])[:1],
            *([["MDTM", "NOOP"]] if asked == "LIST" else []),  # after the 150
            *then_a_port(remote, ["CWD", asked])[1:],
        ]
    )


def expect_listing(remote: Remote, remote_dir: RemoteDir) -> None:
    """Check a folder that was listed before, with its files' times to the second."""
    entries = remote.list(f"{remote_dir.path}/folder")
    assert {e.name: e.mtime for e in entries} == {f"f{n}": 1_600_000_000 + n for n in range(20)}
    assert all(e.exact for e in entries)


@pytest.fixture
def listed(remote: Remote, remote_dir: RemoteDir) -> Remote:
    """A server for which times are asked behind the listing."""
    for n in range(20):
        os.utime(remote_dir.write(f"folder/f{n}", b""), (1_600_000_000 + n,) * 2)
    expect_listing(remote, remote_dir)
    quiet(remote)
    if not remote.profile.identity.in_order:
        pytest.skip(f"server cannot: {remote_dir.server.kind}: no command behind a transfer")
    return remote


def test_times_are_asked_before_final_reply_of_listing(
    listed: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """The 226 comes one round trip after the data's end, when the server knows that it arrived."""
    relay.reset()
    relay.hold_reply("LIST")
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(expect_listing, listed, remote_dir)
        assert relay.wait_for(lambda: relay.count("MDTM") == 20)
        assert not reading.done()
        relay.release()
        reading.result(5)
    assert relay.verbs == ["CWD", "LIST", "EPSV", *["MDTM"] * 20, "NOOP"]


@pytest.mark.parametrize("verb", ["LIST", "MDTM", "NOOP"])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_session_that_breaks_between_names_and_times_is_replaced(
    listed: Remote, relay: Relay, remote_dir: RemoteDir, verb: str, how: How
) -> None:
    rule = relay.cut_control(verb, when="after", how=how, skip=10 if verb == "MDTM" else 0)
    expect_listing(listed, remote_dir)
    assert rule.hits == 1
    expect_listing(listed, remote_dir)


@pytest.mark.parametrize("reply", ["426 cut", "451 read error"])
def test_listing_that_server_retracts_is_discarded_with_its_times(
    listed: Remote, relay: Relay, remote_dir: RemoteDir, reply: str
) -> None:
    relay.replace_reply("LIST", reply, times=1)
    with contextlib.suppress(errors.FtpfsError):  # some are repeated
        expect_listing(listed, remote_dir)
    expect_listing(listed, remote_dir)


def test_missing_folder_is_not_listed_as_empty(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """vsftpd and pure-ftpd then list the folder that the session was in before."""
    remote_dir.write("folder/file", b"")
    remote.list(f"{remote_dir.path}/folder")
    for _ in range(3):
        quiet(remote)
        with pytest.raises(errors.NotFound):
            remote.list(f"{remote_dir.path}/missing")
        quiet(remote)
        assert [e.name for e in remote.list(f"{remote_dir.path}/folder")] == ["file"]
    assert relay.count("USER") <= NETWORK.max_connections


def test_armed_store_of_new_file_takes_one_round_trip(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    arm(remote, remote_dir, b"x")
    relay.latency = LATENCY
    relay.reset()
    with remote.open_write(f"{remote_dir.path}/new") as upload:
        upload.write(b"content")
        upload.finish()
    quiet(remote)
    assert round_trips(relay) == [["STOR"], ["EPSV"]]
    assert (remote_dir.disk / "new").read_bytes() == b"content"


@pytest.mark.parametrize("size", [0, 1, 4096, SMALL_BYTES])
def test_small_file_is_stored_in_two_round_trips_and_arms_session(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, size: int
) -> None:
    content = os.urandom(size)
    for name in ("first", "second"):
        store(remote, remote_dir, name, content)
        quiet(remote)
    assert armed(remote) == 1
    relay.latency = LATENCY
    relay.reset()
    entry = store(remote, remote_dir, "file", content)
    assert (entry.size, entry.mtime) == (size, 1_600_000_000)
    assert (remote_dir.disk / "file").read_bytes() == content
    storing, naming = round_trips(relay)
    asked = ["MLST"] if remote.profile.listings.mlst is not False else ["SIZE", "MDTM"]
    named = [f"{remote.profile.setting.set_time.name}", "RNFR", "RNTO", "SIZE", "SIZE"]  # type: ignore[union-attr]
    if remote.profile.identity.in_order:
        assert (storing, naming) == ([*asked, "STOR", "EPSV"], named)
    else:
        assert (storing, naming) == ([*asked, "STOR"], [*named, "EPSV"])
    assert armed(remote) == 1
    assert sorted(os.listdir(remote_dir.disk)) == ["file", "first", "second"]


@pytest.mark.parametrize("reply", ["425 no data connection", "426 closed"])
def test_content_sent_ahead_in_vain_is_sent_again(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, reply: str
) -> None:
    content = os.urandom(30_000)
    arm_by_storing(remote, remote_dir, content)
    rule = relay.refuse("STOR", reply, times=1)
    store(remote, remote_dir, "file", content)
    assert rule.hits == 1
    assert (remote_dir.disk / "file").read_bytes() == content
    assert sorted(os.listdir(remote_dir.disk)) == ["file", "first"]


@pytest.mark.parametrize("after", [0, 1000])
def test_connection_that_breaks_under_content_sent_ahead_tears_no_file(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, after: int
) -> None:
    content = os.urandom(30_000)
    remote_dir.write("file", b"old")
    arm_by_storing(remote, remote_dir, content)
    rule = relay.cut_data("up", after=after, times=1)
    try:
        store(remote, remote_dir, "file", content, check=False)
    except errors.DeadlineExceeded:
        # If this connection ends before pyftpdlib reads STOR, pyftpdlib waits for another one.
        assert (remote_dir.disk / "file").read_bytes() == b"old"
        store(remote, remote_dir, "file", content, check=False)
    assert rule.hits == 1
    assert (remote_dir.disk / "file").read_bytes() == content


def test_refusal_is_reported_unchanged_after_content_was_sent_ahead(
    remote: Remote, remote_dir: RemoteDir
) -> None:
    store(remote, remote_dir, "first", b"x")
    quiet(remote)
    for _ in range(2):
        with pytest.raises(errors.NotFound):
            store(remote, remote_dir, "missing/file", b"content")
    store(remote, remote_dir, "second", b"content")
    assert (remote_dir.disk / "second").read_bytes() == b"content"
    assert sorted(os.listdir(remote_dir.disk)) == ["first", "second"]


def names(remote_dir: RemoteDir) -> list[str]:
    return sorted(os.listdir(remote_dir.disk))


@pytest.mark.parametrize("reply", ["550 no", "553 not this name", "504 not so"])
def test_refused_temporary_name_leads_to_upload_in_place_for_that_name_only(
    remote: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    reply: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The content left together with STOR; the relay answered the STOR itself.

    The server still has the content in a data connection that it has not read.
    """
    first, second, third = (os.urandom(30_000) for _ in range(3))
    arm_by_storing(remote, remote_dir, first)
    rule = relay.refuse("STOR", reply, times=1)
    store(remote, remote_dir, "second", second)
    assert rule.hits == 1
    assert not relay.count("DELE"), "there is nothing to take away"
    assert "deleted" not in caplog.text
    store(remote, remote_dir, "third", third)
    assert [(remote_dir.disk / name).read_bytes() for name in names(remote_dir)] == [
        *(first, second, third),
    ]
    assert names(remote_dir) == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("reply", "kind"), [("452 no space", errors.NoSpace), ("552 quota", errors.QuotaExceeded)]
)
def test_full_server_stores_nothing_of_content_sent_with_stor(
    remote: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    reply: str,
    kind: type[errors.FtpfsError],
) -> None:
    remote_dir.write("second", b"old")
    arm_by_storing(remote, remote_dir)
    relay.refuse("STOR", reply, times=1)
    with pytest.raises(kind):
        store(remote, remote_dir, "second", b"second", check=False)
    assert (remote_dir.disk / "second").read_bytes() == b"old"
    store(remote, remote_dir, "third", b"third")
    assert (remote_dir.disk / "third").read_bytes() == b"third"
    assert names(remote_dir) == ["first", "second", "third"]


@pytest.mark.parametrize("when", ["before", "after", "final"])
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_session_that_breaks_at_stor_neither_loses_nor_doubles_content(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, when: When, how: How
) -> None:
    content = os.urandom(30_000)
    remote_dir.write("file", b"old")
    arm_by_storing(remote, remote_dir)
    rule = relay.cut_control("STOR", when=when, how=how)
    store(remote, remote_dir, "file", content, check=False)
    assert rule.hits == 1
    assert (remote_dir.disk / "file").read_bytes() == content
    # The first upload to a server renames its temporary file once more, to a hidden name: that
    # shows the precision of the server's times. A doubled upload would use a name twice.
    renamed = [command.arg for command in relay.commands if command.verb == "RNTO"]
    placed = [path for path in renamed if not posixpath.basename(path).startswith(HIDDEN_PREFIX)]
    assert placed == [f"{remote_dir.path}/first", f"{remote_dir.path}/file"]
    assert len(renamed) == 3
    store(remote, remote_dir, "last", b"last")  # removes litter
    assert names(remote_dir) == ["file", "first", "last"]
    assert (remote_dir.disk / "file").read_bytes() == content


def test_further_session_is_logged_in_and_armed_at_once(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    arm(remote, remote_dir)
    relay.latency = LATENCY
    relay.reset()
    session = remote._pool._connect()
    *before, together = round_trips(relay)
    if remote.profile.wire.takes_login_at_once:
        assert together[:3] == ["USER", "PASS", "TYPE"]
        assert not before
    else:
        assert before == [["USER"], ["PASS"]]
    assert together[-1] == "EPSV"
    assert session.armed
    with session.download(f"{remote_dir.path}/file") as download:
        assert download.read(100) == b"content"
    session.close()


@pytest.mark.parametrize(
    ("reply", "kind"), [("530 no", errors.LoginFailed), ("421 too many", errors.ServerBusy)]
)
@pytest.mark.parametrize("verb", ["USER", "PASS"])
def test_refused_further_login_says_why(
    remote: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    verb: str,
    reply: str,
    kind: type[errors.FtpfsError],
) -> None:
    arm(remote, remote_dir)
    relay.refuse(verb, f"{reply} {remote_dir.server.password}", times=1)
    with pytest.raises(kind) as refused:
        remote._pool._connect()
    assert ("***" in str(refused.value)) or kind is errors.ServerBusy
    assert remote_dir.server.password not in str(refused.value)


def test_wrong_password_is_sent_once_by_many_threads(
    make_remote: MakeRemote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """A server's guard bans an address after a handful of wrong passwords."""
    remote = make_remote(replace(NETWORK, max_connections=16))
    remote_dir.write("file", b"")
    remote.list(remote_dir.path)
    quiet(remote)
    pool = remote._pool
    pool._drop_idle()
    pool._health.note_let_in(time.monotonic() - 3600)
    relay.refuse("PASS", "530 no")
    relay.latency = LATENCY
    relay.reset()

    def ask(number: int) -> None:
        remote.warm(8)
        with pytest.raises(errors.LoginFailed):
            remote.stat(f"{remote_dir.path}/{number}")

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(16)))
    quiet(remote)
    assert relay.count("PASS") == 1


def test_plain_commands_leave_session_armed(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    content = os.urandom(1000)
    path = arm(remote, remote_dir, content)
    relay.reset()
    for line in (
        "NOOP",
        f"SIZE {path}",
        f"MDTM {path}",
        f"CWD {remote_dir.path}",
        "PWD",
        f"MKD {remote_dir.path}/made",
        f"RNFR {remote_dir.path}/made",
        f"RNTO {remote_dir.path}/renamed",
        f"RMD {remote_dir.path}/renamed",
    ):
        assert remote.command(line).ok, line
    assert armed(remote) == 1
    assert fetch(remote, path, 10) == content[10:]
    quiet(remote)
    assert relay.verbs[-3:] == ["REST", "RETR", "EPSV"]
    assert relay.count("EPSV") == 1
    assert not remote.profile.wire.armed_failures


def test_metadata_commands_leave_armed_sessions_to_transfers(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"x")
    path = f"{remote_dir.path}/file"
    first, second = remote._pool._connect(), remote._pool._connect()
    first._channels.used_data = True
    remote.profile.wire.passive = Passive.EPSV
    second.disarm()
    first.groom()
    remote._pool._idle += [second, first]
    with remote._pool.leased(Use.METADATA) as session:
        assert session is second
    with remote._pool.leased(Use.LISTING) as session:
        assert session is first
    assert fetch(remote, path) == b"x"
    assert relay.count("EPSV") >= 1
