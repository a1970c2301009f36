"""Trees over connections that break at each command and at random bytes, and two runs at once."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.local import landing
from ftpfs.settings.config import Network
from ftpfs.trees import streams, ways
from ftpfs.trees.outcome import Outcome
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.relay.faults import When
from tests.unit.trees.test_copying import (
    NETWORK,
    contents,
    fetch,
    give_all,
    hidden,
    plant,
    send,
)

pytestmark = pytest.mark.far

VERBS = (
    *("USER", "PASS", "TYPE", "EPSV", "CWD", "MLSD", "LIST", "RETR", "STOR", "MKD", "SIZE"),
    *("MDTM", "MFMT", "SITE", "RNFR", "RNTO", "NOOP"),
)


@pytest.fixture
def network() -> Network:
    return NETWORK


@pytest.fixture
def source(remote_dir: RemoteDir, tmp_path: Path, way: str) -> Path:
    folder = tmp_path / "source" if way == "send" else remote_dir.disk / "tree"
    folder.mkdir()
    plant(folder)
    give_all(remote_dir)
    return folder


def copy(remote: Remote, way: str, source: Path, here: Path) -> Outcome:
    return send(remote, source) if way == "send" else fetch(remote, here / "copy")


def check(way: str, source: Path, remote_dir: RemoteDir, here: Path) -> None:
    copied = (remote_dir.disk if way == "send" else here) / "copy"
    assert contents(copied) == contents(source)
    assert hidden(copied) == []


@pytest.mark.parametrize("way", ["send", "fetch"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", VERBS)
def test_connection_that_is_cut_at_a_command_costs_no_file(
    relayed: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    tmp_path: Path,
    source: Path,
    way: str,
    verb: str,
    when: When,
) -> None:
    """The server may or may not have carried the command out. One run may fail; two do not."""
    relay.cut_control(verb, when=when)
    outcomes = [copy(relayed, way, source, tmp_path) for _ in range(2)]
    assert outcomes[1].failures == []
    check(way, source, remote_dir, tmp_path)


@pytest.mark.parametrize("way", ["send", "fetch"])
@pytest.mark.parametrize("seed", range(3))
def test_connections_that_are_cut_at_random_bytes_cost_no_file(
    relayed: Remote,
    relay: Relay,
    remote_dir: RemoteDir,
    tmp_path: Path,
    source: Path,
    way: str,
    seed: int,
) -> None:
    chance = random.Random(seed)
    for _ in range(6):
        relay.cut_data("up" if way == "send" else "down", after=chance.randrange(3_000_000))
    for _ in range(3):
        outcome = copy(relayed, way, source, tmp_path)
    assert outcome.failures == []
    check(way, source, remote_dir, tmp_path)


@pytest.mark.parametrize("way", ["send", "fetch"])
def test_two_runs_at_once_leave_whole_files(
    remote: Remote, remote_dir: RemoteDir, tmp_path: Path, source: Path, way: str
) -> None:
    other = remote_dir.remote(NETWORK)
    outcomes: list[Outcome] = []

    def run(with_remote: Remote) -> None:
        outcomes.append(copy(with_remote, way, source, tmp_path))

    threads = [threading.Thread(target=run, args=(each,)) for each in (remote, other)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        other.close()
    assert len(outcomes) == 2
    copied = (remote_dir.disk if way == "send" else tmp_path) / "copy"
    for name, data in contents(copied).items():
        assert data == contents(source)[name]
    assert copy(remote, way, source, tmp_path).failures == []
    check(way, source, remote_dir, tmp_path)


@pytest.mark.parametrize("way", ["fetch"])
def test_disk_that_fills_fails_files_and_leaves_no_parts(
    remote: Remote,
    remote_dir: RemoteDir,
    tmp_path: Path,
    source: Path,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = 0

    def pwrite(descriptor: int, data: memoryview, position: int) -> None:
        nonlocal written
        written += len(data)
        if written > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwrite(descriptor, data, position)

    with monkeypatch.context() as patched:
        patched.setattr(streams, "write_all", pwrite)
        patched.setattr(ways, "write_all", pwrite)
        outcome = copy(remote, way, source, tmp_path)
    assert outcome.failed
    assert all("No space left" in failure.why for failure in outcome.failures)
    for name, data in contents(tmp_path / "copy").items():
        assert data == contents(source)[name]
    assert not [each for each in (tmp_path / "copy").rglob("*") if landing.is_temporary(each.name)]
    assert copy(remote, way, source, tmp_path).failures == []
    check(way, source, remote_dir, tmp_path)
