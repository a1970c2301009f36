"""Data connections made ahead, and transfers left early: on real servers, seen through a relay.

On loopback nothing is armed, because arming does not pay there; these tests lower `ARMING_PAYS`.
Commands are grouped into round trips by how much the client had heard when it sent them. A latency
makes sure that the client hears nothing too soon.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.connections import session as session_module
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.profile import Passive
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.ftp.uploading.sender import SMALL_BYTES
from ftpfs.model.entry import Entry
from ftpfs.model.names import HIDDEN_PREFIX
from ftpfs.settings.config import DataMode, Network, Server, Tls
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir, StartServer, skip_if_cannot
from tests.support.relay import How, Relay, When
from tests.support.servers import FtpServer, Kind
from tests.support.waiting import until_gone

NETWORK = Network(
    connect_timeout=3.0, reply_timeout=5.0, data_timeout=5.0, finish_timeout=5.0, max_connections=4
)

LATENCY = 0.04


@pytest.fixture(autouse=True)
def _arming_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "ARMING_PAYS", 0.0)


MakeRemote = Callable[..., Remote]


@pytest.fixture
def make_remote(server: FtpServer, relay: Relay) -> Iterator[MakeRemote]:
    made: list[Remote] = []

    def make(network: Network = NETWORK, **options: object) -> Remote:
        place = Server(
            server.host,
            relay.port,
            user=server.user,
            password=Secret(server.password),
            **options,  # type: ignore[arg-type]
        )
        made.append(Remote(place, network))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def remote(make_remote: MakeRemote) -> Remote:
    return make_remote()


def quiet(remote: Remote) -> None:
    """Wait until no session is being groomed."""
    pool = remote._pool
    until_gone(lambda: pool._grooming or pool._spares)


def armed(remote: Remote) -> int:
    return sum(session.armed for session in remote._pool._idle)


def fetch(remote: Remote, path: str, offset: int = 0, size: int = 1 << 24) -> bytes:
    """Up to `size` bytes of a file; then leave the download, wherever it is."""
    download = remote.open_read(path, offset)
    try:
        return download.read(size)
    finally:
        download.close()


def round_trips(relay: Relay) -> list[list[str]]:
    """The commands, grouped by the replies that their client had received before."""
    together = groupby(relay.commands, lambda command: (command.conn, command.heard))
    return [[command.verb for command in trip] for _, trip in together]


def then_a_port(remote: Remote, verbs: list[str]) -> list[list[str]]:
    """The round trips of a transfer: the next port is asked for together with it, or after it."""
    return [[*verbs, "EPSV"]] if remote.profile.in_order else [verbs, ["EPSV"]]


def arm(remote: Remote, remote_dir: RemoteDir, content: bytes = b"content") -> str:
    """Arm a session, and perhaps log in a spare one, by reading a new file; return its path."""
    remote_dir.write("file", content)
    path = f"{remote_dir.path}/file"
    fetch(remote, path)
    quiet(remote)
    assert armed(remote)
    return path


def store(
    remote: Remote, remote_dir: RemoteDir, name: str, data: bytes, *, check: bool = True
) -> Entry:
    fd = os.memfd_create("content")
    os.write(fd, data)
    content = FileContent(fd, len(data), 1_600_000_000, None)
    return remote.store(f"{remote_dir.path}/{name}", content, base=None, check=check)


def arm_by_storing(remote: Remote, remote_dir: RemoteDir, content: bytes = b"first") -> None:
    """Arm a session by storing the file `first`."""
    store(remote, remote_dir, "first", content)
    quiet(remote)
    assert armed(remote) == 1


# What it costs.


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
    if not remote.profile.in_order:
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
    asked = ["MLST"] if remote.profile.mlst is not False else ["SIZE", "MDTM"]
    named = [f"{remote.profile.set_time.name}", "RNFR", "RNTO", "SIZE", "SIZE"]  # type: ignore[union-attr]
    if remote.profile.in_order:
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
    if remote.profile.takes_login_at_once:
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
    assert not remote.profile.armed_failures


def test_metadata_commands_leave_armed_sessions_to_transfers(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"x")
    path = f"{remote_dir.path}/file"
    first, second = remote._pool._connect(), remote._pool._connect()
    first._used_data = True
    remote.profile.passive = Passive.EPSV
    second.disarm()
    first.groom()
    remote._pool._idle += [second, first]
    with remote._pool.leased(Use.METADATA) as session:
        assert session is second
    with remote._pool.leased(Use.LISTING) as session:
        assert session is first
    assert fetch(remote, path) == b"x"
    assert relay.count("EPSV") >= 1


# When it does not work.


@pytest.mark.parametrize("reply", ["425 no data connection", "503 PASV first", "426 closed"])
def test_refused_armed_transfer_is_repeated_unarmed_on_same_session(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, reply: str
) -> None:
    content = os.urandom(5000)
    path = arm(remote, remote_dir, content)
    for _ in range(2):
        quiet(remote)
        rule = relay.refuse("RETR", reply, times=1)
        relay.reset()
        assert fetch(remote, path, 1000) == content[1000:]
        assert rule.hits == 1
        ahead, *_ = then_a_port(remote, ["REST", "RETR"])
        assert relay.verbs[: len(ahead) + 3] == [*ahead, "EPSV", "REST", "RETR"]
        assert relay.count("USER") == 0
    assert not remote.profile.arming
    quiet(remote)
    relay.reset()
    assert fetch(remote, path) == content
    quiet(remote)
    assert relay.verbs == ["EPSV", "RETR"]


def test_single_failure_between_successes_does_not_end_arming(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"content")
    path = f"{remote_dir.path}/file"
    for _ in range(3):
        fetch(remote, path)
        quiet(remote)
        rule = relay.refuse("RETR", "425 not now", times=1)
        assert fetch(remote, path) == b"content"
        assert rule.hits == 1
        quiet(remote)
    assert remote.profile.arming


def test_transfer_is_repeated_on_other_session_when_server_falls_silent(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "ARMED_TIMEOUT", 0.5)
    path = arm(remote, remote_dir)
    relay.drop_reply("REST", times=1)
    began = time.monotonic()
    assert fetch(remote, path, 3) == b"tent"
    assert time.monotonic() - began < 3
    assert remote.profile.armed_failures == 1
    assert remote.profile.arming


def test_armed_connection_that_server_closed_is_not_used(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    path = arm(remote, remote_dir)
    # The client's connect returns before the relay has accepted the connection.
    assert relay.wait_for(lambda: len(relay.links) == armed(remote))
    for link in list(relay.links):
        link.cut("rst")
    assert relay.wait_for(lambda: not relay.links)
    relay.reset()
    assert fetch(remote, path) == b"content"
    assert relay.verbs[:2] == ["EPSV", "RETR"]


def test_store_does_not_wait_when_server_closes_armed_connection_and_wants_another(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """pyftpdlib does this when another session ends at that moment.

    An event meant for the other session's descriptor closes the connection, STOR gets a 150, and
    nothing follows.
    """
    arm_by_storing(remote, remote_dir, bytes(SMALL_BYTES + 1))

    def close_data(_: object) -> bool:
        for link in armed_links:
            threading.Thread(target=link.cut, args=("fin",)).start()
        return True

    assert relay.wait_for(lambda: len(relay.links) == 1)
    armed_links = list(relay.links)
    relay.latency = LATENCY
    rule = relay.refuse("STOR", "150 About to open data connection.", times=1, where=close_data)
    content = os.urandom(SMALL_BYTES + 1)
    began = time.monotonic()
    store(remote, remote_dir, "file", content)
    assert time.monotonic() - began < NETWORK.reply_timeout / 2
    assert rule.hits == 1
    assert (remote_dir.disk / "file").read_bytes() == content
    assert remote.profile.arming


def test_dead_port_does_not_delay_transfer_when_arming(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"content")
    path = f"{remote_dir.path}/file"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        fetch(remote, path)
        quiet(remote)
        port = closed.getsockname()[1]
        relay.refuse("EPSV", f"229 Entering Extended Passive Mode (|||{port}|)", times=1)
        assert fetch(remote, path) == b"content"  # uses the armed connection; then arming fails
        quiet(remote)
    began = time.monotonic()
    assert fetch(remote, path) == b"content"
    assert time.monotonic() - began < 1
    assert remote.profile.armed_failures <= 1
    quiet(remote)
    assert armed(remote) == 1


def test_slow_armed_connection_is_skipped_and_not_counted_as_failure(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"content")
    path = f"{remote_dir.path}/file"
    with contextlib.ExitStack() as stack:
        # Nothing accepts these connections, so from the second on their SYNs stay unanswered.
        slow = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(slow.getsockname()))
        for _ in range(3):
            fetch(remote, path)
            quiet(remote)
            assert armed(remote)
            remote._pool._idle[-1].disarm()
            reply = f"229 Entering Extended Passive Mode (|||{slow.getsockname()[1]}|)"
            rule = relay.refuse("EPSV", reply, times=1)
            remote._pool._idle[-1].groom_for_transfer()
            assert rule.hits == 1
            assert armed(remote)
            began = time.monotonic()
            assert fetch(remote, path) == b"content"
            assert time.monotonic() - began < 2.5  # the deadline is 3 s
            quiet(remote)
    assert (remote.profile.arming, remote.profile.armed_failures) == (True, 0)


def test_reply_without_port_costs_session_but_not_transfer(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """If it were a second reply to the transfer, all later replies would be off by one."""
    path = arm(remote, remote_dir)
    if not remote.profile.in_order:
        pytest.skip(f"server cannot: {remote_dir.server.kind}: no command behind a transfer")
    relay.refuse("EPSV", "250 what", times=1)
    assert fetch(remote, path) == b"content"
    quiet(remote)
    assert fetch(remote, path) == b"content"
    assert remote.stat(path).size == len(b"content")


def test_expired_armed_connection_is_neither_used_nor_replaced(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = arm(remote, remote_dir)
    relay.reset()
    remote._pool._idle[0]._armed_at -= session_module.ARMED_AGE + 1
    remote.tidy()
    assert armed(remote) == 0
    time.sleep(0.2)
    assert relay.verbs == []
    assert remote.command("NOOP").code == 200
    assert fetch(remote, path) == b"content"
    quiet(remote)
    assert relay.verbs == ["NOOP", "EPSV", "RETR", "EPSV"]
    remote._pool._idle[0]._armed_at -= session_module.ARMED_AGE + 1
    assert fetch(remote, path) == b"content"
    quiet(remote)
    assert relay.verbs[4:] == ["EPSV", "RETR", "EPSV"]


def test_session_is_not_armed_in_active_mode(
    make_remote: MakeRemote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote = make_remote(data_mode=DataMode.ACTIVE)
    remote_dir.write("file", b"content")
    for _ in range(3):
        assert fetch(remote, f"{remote_dir.path}/file") == b"content"
        quiet(remote)
    assert armed(remote) == 0
    assert relay.count("EPSV", "PASV") == 0


@pytest.mark.parametrize("tls", [Tls.EXPLICIT, Tls.IMPLICIT])
def test_arming_works_under_tls(start_server: StartServer, server_kind: Kind, tls: Tls) -> None:
    if tls is Tls.IMPLICIT:
        skip_if_cannot(server_kind, "implicit tls")
    server = start_server(server_kind, tls=tls.value)
    place = RemoteDir(server, server.root, "/")
    content = os.urandom(300_000)
    place.write("file", content)
    remote = Remote(
        Server(
            server.host,
            server.port,
            user=server.user,
            password=Secret(server.password),
            tls=tls,
            tls_insecure=True,
        ),
        NETWORK,
    )
    try:
        for turn in range(12):
            assert fetch(remote, "/file", turn) == content[turn:]
            if turn % 2:
                assert fetch(remote, "/file", turn, 1000) == content[turn : turn + 1000]
            assert [e.name for e in remote.list("/")] == ["file"]
            if turn % 3:
                quiet(remote)
                assert armed(remote) >= 1
        assert not remote.profile.armed_failures
    finally:
        remote.close()


# Leaving early.


def test_leaving_download_early_takes_no_time(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("big", bytes(32 << 20))
    path = f"{remote_dir.path}/big"
    fetch(remote, path, 0, 1000)
    quiet(remote)
    relay.latency = 0.5
    download = remote.open_read(path)
    assert download.read(100) == bytes(100)
    began = time.monotonic()
    download.close()
    assert time.monotonic() - began < relay.latency
    quiet(remote)
    assert armed(remote) == 1
    assert relay.count("USER") == 1


def test_sessions_stay_in_step_after_two_hundred_downloads_left_early(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    content = os.urandom(4 << 20)
    remote_dir.write("big", content)
    for number in range(7):
        remote_dir.write(f"small{number}", bytes([number]) * (number + 1))
    rng = random.Random(1)
    for turn in range(200):
        offset = rng.randrange(len(content))
        size = rng.choice([0, 1, 1000, 100_000, 1 << 20])
        assert (
            fetch(remote, f"{remote_dir.path}/big", offset, size)
            == (content[offset : offset + size])
        )
        number = turn % 7
        if turn % 3 == 0:
            small = f"{remote_dir.path}/small{number}"
            assert remote.command(f"SIZE {small}").text.strip() == str(number + 1)
        elif turn % 3 == 1:
            small = f"{remote_dir.path}/small{number}"
            assert fetch(remote, small) == bytes([number]) * (number + 1)
    quiet(remote)
    assert relay.count("USER") <= NETWORK.max_connections
    assert remote.profile.armed_failures == 0


def test_next_user_settles_session_on_short_link(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "ARMING_PAYS", 1.0)
    content = os.urandom(8 << 20)
    remote_dir.write("big", content)
    path = f"{remote_dir.path}/big"
    for turn in range(50):
        assert fetch(remote, path, turn, 1000) == content[turn : turn + 1000]
        if turn % 2:
            assert remote.command(f"SIZE {path}").text.strip() == str(len(content))
    assert relay.count("USER") == 1
    assert not [t for t in threading.enumerate() if t.name == "ftpfs-groomer"]


def test_file_read_to_its_known_end_is_not_left_early(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    path = arm(remote, remote_dir, b"x" * 5000)
    relay.reset()
    download = remote.open_read(path)
    assert len(download.read(5000)) == 5000
    assert download.read(1) == b""
    download.close()
    quiet(remote)
    assert relay.verbs == ["RETR", "EPSV"]


def test_final_reply_is_not_awaited_on_long_link(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """vsftpd and proftpd say 226 one round trip after the last byte."""
    path = arm(remote, remote_dir, b"x" * 5000)
    rule = relay.hold_reply("RETR", times=1)
    relay.reset()
    began = time.monotonic()
    download = remote.open_read(path)
    assert len(download.read(5000)) == 5000
    download.finish()
    download.close()
    assert time.monotonic() - began < 4  # the deadline is 5 s
    assert rule.hits == 1
    time.sleep(0.1)
    assert relay.verbs == then_a_port(remote, ["RETR"])[0], "nothing is sent before it"
    relay.release()
    quiet(remote)
    assert relay.verbs == ["RETR", "EPSV"]
    assert armed(remote) == 1


def test_final_reply_is_awaited_on_short_link(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "ARMING_PAYS", 1.0)
    remote_dir.write("file", b"x" * 5000)
    path = f"{remote_dir.path}/file"
    for _ in range(3):
        download = remote.open_read(path)
        assert len(download.read(5000)) == 5000
        download.finish()
        download.close()
        assert remote._pool._idle[0].settled
    assert relay.verbs[-6:] == 3 * ["EPSV", "RETR"]


def test_session_without_late_reply_is_closed(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "GROOM_TIMEOUT", 0.3)
    remote_dir.write("big", bytes(8 << 20))
    path = f"{remote_dir.path}/big"
    fetch(remote, path)
    quiet(remote)
    relay.stall_replies()
    relay.latency = 0
    session = remote._pool._idle[0]
    lease = remote._pool.lease(Use.TRANSFER)
    session.leave(socket.socket())
    lease.release()
    quiet(remote)
    assert remote.status().idle == 0
    assert not session.alive
    relay.stall_replies(False)
    assert fetch(remote, path, 5, 5) == bytes(5)


# While transfers are running.


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_armed_connections_leak_no_descriptors(
    make_remote: MakeRemote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("big", bytes(1 << 20))
    path = f"{remote_dir.path}/big"

    def once() -> None:
        remote = make_remote()
        for turn in range(10):
            fetch(remote, path, 0, turn * 10_000)
            remote.list(remote_dir.path)
        remote.close()
        assert relay.wait_for(relay.is_quiet)

    def settle() -> int:
        until_gone(lambda: [t for t in threading.enumerate() if t.name == "ftpfs-groomer"])
        time.sleep(0.2)
        return open_files()

    once()
    before = settle()
    for _ in range(5):
        once()
    assert settle() <= before + 1


def test_closing_during_grooming_leaves_no_session_behind(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    path = arm(remote, remote_dir, b"x")
    relay.latency = 1.0
    fetch(remote, path)
    assert remote._pool._grooming
    began = time.monotonic()
    remote.close()
    assert time.monotonic() - began < relay.latency
    assert relay.wait_for(lambda: relay.open_connections == 0, 5)
    until_gone(lambda: remote._pool._grooming)
    with pytest.raises(errors.ConnectionLost):
        fetch(remote, path)


def test_session_that_breaks_during_grooming_is_replaced(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    path = arm(remote, remote_dir)
    rule = relay.cut_control("EPSV", times=1)
    try:
        assert fetch(remote, path) == b"content"
        quiet(remote)
        assert remote.profile.in_order or remote.status().idle == 0
    except errors.NetworkError:
        # The question for the port left with RETR, and its answer came with the transfer's end.
        assert remote.profile.in_order
    assert rule.hits == 1
    assert fetch(remote, path) == b"content"


def test_transfer_waits_for_session_that_is_being_groomed(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    path = arm(remote, remote_dir)
    relay.latency = LATENCY
    fetch(remote, path)
    assert remote.command("NOOP").code == 200
    quiet(remote)
    assert relay.count("USER") == 1


def test_successive_random_reads_get_a_session_each(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """The first ones wait for their session to be groomed; then there are enough sessions."""
    content = os.urandom(8 << 20)
    remote_dir.write("big", content)
    path = f"{remote_dir.path}/big"
    relay.latency = LATENCY
    for turn in range(12):
        assert fetch(remote, path, turn * 1000, 1000) == content[turn * 1000 : turn * 1000 + 1000]
    quiet(remote)
    relay.reset()
    relay.latency = 5 * LATENCY
    began = time.monotonic()
    for turn in range(3):
        assert fetch(remote, path, turn * 1000, 1000) == content[turn * 1000 : turn * 1000 + 1000]
    assert time.monotonic() - began < 3 * 2 * relay.latency
    assert relay.peak_connections <= NETWORK.max_connections


def test_pool_and_contents_survive_many_threads_and_faults(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    contents = {f"f{n}": os.urandom(1 << (10 + n)) for n in range(10)}
    for name, content in contents.items():
        remote_dir.write(name, content)
    end = time.monotonic() + 6
    wrong: list[str] = []
    done = [0]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end and not wrong:
            name = rng.choice(list(contents))
            path, content = f"{remote_dir.path}/{name}", contents[name]
            offset = rng.randrange(len(content))
            size = rng.randrange(len(content))
            try:
                kind = rng.randrange(4)
                if kind < 2:
                    got = fetch(remote, path, offset, size)
                    if got != content[offset : offset + size]:
                        short = content[offset : offset + size].startswith(got)
                        wrong.append(f"{name} at {offset}: {len(got)} of {size}, {short=}")
                elif kind == 2:
                    names = {entry.name for entry in remote.list(remote_dir.path)}
                    if names != set(contents):
                        wrong.append(f"listed {names}")
                else:
                    said = remote.command(f"SIZE {path}").text.strip()
                    if said != str(len(content)):
                        wrong.append(f"SIZE {said} of {name}")
                done[0] += 1
            except errors.NetworkError:
                pass
            except errors.FtpfsError as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    rng = random.Random(0)
    while time.monotonic() < end:
        time.sleep(0.15)
        # No FIN: after the 226 it would look like the end of the data.
        relay.cut_one(relay.controls if rng.randrange(3) else relay.links, rng.choice)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not wrong
    assert done[0] > 50
    quiet(remote)
    status = remote.status()
    assert status.leased == 0
    for name, content in contents.items():
        assert fetch(remote, f"{remote_dir.path}/{name}") == content


# One version of a file.


def test_read_with_expected_version_costs_no_extra_round_trip(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    content = os.urandom(10_000)
    path = arm(remote, remote_dir, content)
    (entry,) = remote.list(remote_dir.path)
    quiet(remote)
    relay.latency = LATENCY
    relay.reset()
    download = remote.open_read(path, 5000, expect=entry)
    assert download.confirmed
    assert download.read(10_000) == content[5000:]
    download.close()
    quiet(remote)
    trips = round_trips(relay)
    ahead, *after = then_a_port(remote, ["REST", "RETR"])
    assert trips[0][-len(ahead) :] == ahead
    assert trips[0][: -len(ahead)] in (["MLST"], ["SIZE", "MDTM"])
    assert trips[1:] == after


@pytest.mark.parametrize("ahead", [True, False])
def test_read_of_changed_file_is_refused(
    remote: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    monkeypatch: pytest.MonkeyPatch,
    ahead: bool,
) -> None:
    monkeypatch.setattr(session_module, "ARMING_PAYS", 0.0 if ahead else 1.0)
    content = os.urandom(10_000)
    disk = remote_dir.write("file", content)
    path = f"{remote_dir.path}/file"
    os.utime(disk, (1_700_000_000, 1_700_000_000))

    def read_on(entry: Entry) -> bytes:
        download = remote.open_read(path, 5000, expect=entry)
        try:
            return download.read(10_000)
        finally:
            download.close()

    (entry,) = remote.list(remote_dir.path)
    assert read_on(entry) == content[5000:]
    os.utime(disk, (1_700_000_007, 1_700_000_007))
    for _ in range(3):
        with pytest.raises(errors.Changed):
            read_on(entry)
        assert remote.command(f"SIZE {path}").text.strip() == "10000"
    assert read_on(replace(entry, exact=False)) == content[5000:]
    disk.write_bytes(content + b"x")
    with pytest.raises(errors.Changed):
        read_on(replace(entry, exact=False))
    disk.unlink()
    with pytest.raises(errors.NotFound):
        read_on(entry)
    assert relay.count("USER") <= NETWORK.max_connections


def test_attribute_that_server_does_not_report_is_not_compared(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    remote_dir.write("file", b"0123456789")
    path = f"{remote_dir.path}/file"
    (entry,) = remote.list(remote_dir.path)
    for verb in ("MLST", "SIZE", "MDTM"):
        relay.refuse(verb, "502 not here")
    for _ in range(2):
        download = remote.open_read(path, 5, expect=entry)
        assert not download.confirmed
        assert download.read(10) == b"56789"
        download.close()
        quiet(remote)


def test_same_time_in_two_zones_is_no_change(remote: Remote, remote_dir: RemoteDir) -> None:
    remote_dir.write("file", b"0123456789")
    path = f"{remote_dir.path}/file"
    (entry,) = remote.list(remote_dir.path)
    assert entry.mtime is not None
    elsewhere = replace(entry, mtime=entry.mtime + 5 * 3600 + 1800)
    download = remote.open_read(path, expect=elsewhere)
    assert download.read(10) == b"0123456789"
    download.close()
