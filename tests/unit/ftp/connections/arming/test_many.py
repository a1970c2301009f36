"""Many transfers, one after the other and at once, while sessions are groomed and cut."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.remote import Remote
from tests.conftest import RemoteDir
from tests.support.arming import (
    LATENCY,
    NETWORK,
    MakeRemote,
    arm,
    fetch,
    quiet,
)
from tests.support.relay import Relay
from tests.support.waiting import until_gone


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
        assert remote.profile.identity.in_order or remote.status().idle == 0
    except errors.NetworkError:
        # The question for the port left with RETR, and its answer came with the transfer's end.
        assert remote.profile.identity.in_order
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
