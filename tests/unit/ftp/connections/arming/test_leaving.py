"""Transfers that are left before the server's final reply."""

from __future__ import annotations

import os
import random
import socket
import threading
import time

import pytest

from ftpfs.ftp.connections import channels, conversation
from ftpfs.ftp.connections.admission import Use
from ftpfs.ftp.remote import Remote
from tests.conftest import RemoteDir
from tests.support.arming import (
    NETWORK,
    arm,
    armed,
    fetch,
    quiet,
    then_a_port,
)
from tests.support.relay import Relay


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
    assert remote.profile.wire.armed_failures == 0


def test_next_user_settles_session_on_short_link(
    remote: Remote, relay: Relay, remote_dir: RemoteDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "ARMING_PAYS_SECONDS", 1.0)
    content = os.urandom(8 << 20)
    remote_dir.write("big", content)
    path = f"{remote_dir.path}/big"
    before = threading.enumerate()  # an earlier test's groomer may just be ending
    for turn in range(50):
        assert fetch(remote, path, turn, 1000) == content[turn : turn + 1000]
        if turn % 2:
            assert remote.command(f"SIZE {path}").text.strip() == str(len(content))
    assert relay.count("USER") == 1
    begun = [thread.name for thread in threading.enumerate() if thread not in before]
    assert "ftpfs-groomer" not in begun


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
    monkeypatch.setattr(channels, "ARMING_PAYS_SECONDS", 1.0)
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
    monkeypatch.setattr(conversation, "GROOM_TIMEOUT", 0.3)
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
