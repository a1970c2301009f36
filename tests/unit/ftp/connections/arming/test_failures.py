"""Data connections made ahead that fail, expire, or may not be made."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest

from ftpfs.ftp.connections import channels, starting
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.sender import SMALL_BYTES
from ftpfs.settings.config import DataMode, Server, Tls
from ftpfs.settings.credentials import Secret
from tests.conftest import RemoteDir, StartServer, skip_if_cannot
from tests.support.arming import (
    LATENCY,
    NETWORK,
    MakeRemote,
    arm,
    arm_by_storing,
    armed,
    fetch,
    quiet,
    store,
    then_a_port,
)
from tests.support.relay import Relay
from tests.support.servers import Kind


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
    assert not remote.profile.wire.arming
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
    assert remote.profile.wire.arming


def test_transfer_is_repeated_on_other_session_when_server_falls_silent(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "ARMED_TIMEOUT", 0.5)
    path = arm(remote, remote_dir)
    relay.drop_reply("REST", times=1)
    began = time.monotonic()
    assert fetch(remote, path, 3) == b"tent"
    assert time.monotonic() - began < 3
    assert remote.profile.wire.armed_failures == 1
    assert remote.profile.wire.arming


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
    # On a busy machine all may be sent before the connection ends. Then the reply is waited for.
    attempts = (
        _seconds_until_stored(remote, relay, remote_dir, name) for name in ("one", "two", "three")
    )
    assert any(seconds < NETWORK.reply_timeout / 2 for seconds in attempts)
    assert remote.profile.wire.arming


def _seconds_until_stored(remote: Remote, relay: Relay, remote_dir: RemoteDir, name: str) -> float:
    relay.latency = 0
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
    store(remote, remote_dir, name, content)
    seconds = time.monotonic() - began
    assert rule.hits == 1
    assert (remote_dir.disk / name).read_bytes() == content
    return seconds


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
    assert remote.profile.wire.armed_failures <= 1
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
    assert (remote.profile.wire.arming, remote.profile.wire.armed_failures) == (True, 0)


def test_reply_without_port_costs_session_but_not_transfer(
    remote: Remote, relay: Relay, remote_dir: RemoteDir
) -> None:
    """If it were a second reply to the transfer, all later replies would be off by one."""
    path = arm(remote, remote_dir)
    if not remote.profile.identity.in_order:
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
    remote._pool._idle[0]._channels._armed_at -= channels.ARMED_AGE_SECONDS + 1
    remote.tidy()
    assert armed(remote) == 0
    time.sleep(0.2)
    assert relay.verbs == []
    assert remote.command("NOOP").code == 200
    assert fetch(remote, path) == b"content"
    quiet(remote)
    assert relay.verbs == ["NOOP", "EPSV", "RETR", "EPSV"]
    remote._pool._idle[0]._channels._armed_at -= channels.ARMED_AGE_SECONDS + 1
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
        assert not remote.profile.wire.armed_failures
    finally:
        remote.close()
