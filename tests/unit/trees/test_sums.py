"""Mirrors that compare by checksums: proftpd with mod_digest tells them, other servers do not."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network
from ftpfs.trees.plan import Rules
from tests.conftest import RemoteDir, StartServer
from tests.support.servers import Options
from tests.unit.commands.processes import ftpfs_process
from tests.unit.trees.test_copying import NETWORK, WHEN, fetch, give_all, send

BY_TIME = Rules(changed_only=True)
BY_SUM = dataclasses.replace(BY_TIME, checksum=True)
OLD = {"same": b"a" * 5000, "other content": b"b" * 300_000, "empty": b"", "longer": b"c"}
NEW = {**OLD, "other content": b"B" * 300_000, "longer": b"cc"}


@pytest.fixture
def network() -> Network:
    return NETWORK


@pytest.fixture
def digesting(start_server: StartServer) -> Iterator[tuple[Remote, RemoteDir]]:
    extra = ("LoadModule mod_digest.c", "DigestEngine on")
    server = start_server("proftpd", options=Options(extra=extra))
    folder = RemoteDir(server, server.root, "/")
    remote = folder.remote(NETWORK, server.port)
    yield remote, folder
    remote.close()


def plant(folder: Path, contents: dict[str, bytes], when: int) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (when, when))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("later", [0, 7300])
@pytest.mark.parametrize("way", ["fetch", "send"])
def test_checksums_decide_whatever_the_times_are(
    digesting: tuple[Remote, RemoteDir], tmp_path: Path, way: str, later: int
) -> None:
    remote, there = digesting
    here = tmp_path / "copy"
    source, target = (there.disk / "tree", here) if way == "fetch" else (here, there.disk / "tree")
    plant(source, NEW, WHEN + later)
    plant(target, OLD, WHEN)
    give_all(there)
    if way == "fetch":
        outcome = fetch(remote, here, rules=BY_SUM)
    else:
        outcome = send(remote, here, "/tree", rules=BY_SUM)
    assert outcome.failures == []
    assert (outcome.copied, outcome.same) == (2, 2)
    assert contents(target) == NEW


@pytest.mark.parametrize("way", ["fetch", "send"])
def test_server_without_checksums_is_told_of_and_compared_by_time(
    remote: Remote,
    remote_dir: RemoteDir,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    here, there = tmp_path / "copy", remote_dir.disk / "tree"
    source, target = (there, here) if way == "fetch" else (here, there)
    plant(target, OLD, WHEN)
    plant(source, NEW, WHEN)
    os.utime(source / "same", (WHEN + 172_900, WHEN + 172_900))
    give_all(remote_dir)
    if way == "fetch":
        outcome = fetch(remote, here, rules=BY_SUM)
    else:
        outcome = send(remote, here, "/tree", rules=BY_SUM)
    assert outcome.failures == []
    assert outcome.copied == 2  # "same", because it is later, and "longer"
    assert contents(target)["other content"] == OLD["other content"]
    said = [each.getMessage() for each in caplog.records if "no checksum" in each.getMessage()]
    assert len(said) == 1


def test_mirror_takes_the_option(digesting: tuple[Remote, RemoteDir], tmp_path: Path) -> None:
    there = digesting[1]
    plant(there.disk / "tree", NEW, WHEN)
    plant(tmp_path / "copy", OLD, WHEN)
    give_all(there)
    server = there.server
    url = f"ftp://{server.user}@{server.host}:{server.port}/tree"
    words = ["mirror", "--checksum", url, str(tmp_path / "copy")]
    done = ftpfs_process(*words, environ={"FTPFS_PASSWORD": server.password})
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "copy") == NEW
