"""`ftpfs fetch` on real mounts: what it brings into the store is there without the server."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, ftpfs
from tests.mount.test_offline import leave, stored
from tests.mount.test_store import digest, make
from tests.support.relay import Relay
from tests.support.servers import Kind

pytestmark = pytest.mark.mount

MIB = 1 << 20
SIZES = {"big": 60 * MIB + 5, "sub/middle": 3 * MIB, "sub/deep/small": 100, "sub/empty": 0}


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side. Its times come from MDTM."""
    return "vsftpd"


@pytest.fixture
def tree(remote_dir: RemoteDir) -> dict[str, int]:
    for name, size in SIZES.items():
        make(remote_dir, name, size)
    return SIZES


def mount(mount_dir: MountDir, relay: Relay, tmp_path: Path, options: str = "") -> Mounted:
    words = f"cache_size=1G,cache_dir={tmp_path}/store"
    return mount_dir(through=relay, options=f"{words},{options}" if options else words)


def fetch(mounted: Mounted, *names: str) -> subprocess.CompletedProcess[str]:
    paths = [str(mounted.path / name) for name in names or ("",)]
    return ftpfs("fetch", *paths, env={"XDG_STATE_HOME": str(mounted.state)}, timeout=120)


def test_fetched_tree_is_read_offline(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, tmp_path: Path, tree: dict[str, int]
) -> None:
    mounted = mount(mount_dir, relay, tmp_path)
    done = fetch(mounted)
    assert (done.returncode, done.stderr) == (0, "")
    assert {name: stored(mounted.path / name) for name in tree} == dict.fromkeys(tree, "cached")
    leave(mounted)
    relay.reset()
    mounted = mount(mount_dir, relay, tmp_path, "offline=always")
    for name in tree:
        assert digest(mounted.path / name) == digest(remote_dir.disk / name)
    assert not relay.commands


def test_fetch_brings_only_what_is_missing(
    relay: Relay, mount_dir: MountDir, tmp_path: Path, tree: dict[str, int]
) -> None:
    mounted = mount(mount_dir, relay, tmp_path)
    assert fetch(mounted, "sub").returncode == 0
    assert stored(mounted.path / "big") == "remote"
    relay.reset()
    assert fetch(mounted, "sub", "big").returncode == 0
    assert all("big" in command.arg for command in relay.commands if command.verb == "RETR")
    assert {stored(mounted.path / name) for name in tree} == {"cached"}


def test_fetch_names_what_could_not_be_fetched(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, tmp_path: Path, tree: dict[str, int]
) -> None:
    make(remote_dir, "sub/fresh", 10, mtime=int(time.time()))
    mounted = mount(mount_dir, relay, tmp_path)
    done = fetch(mounted, "sub", "missing")
    assert done.returncode == 1
    lines = sorted(done.stderr.splitlines())
    assert [line.rpartition("/")[2].partition(":")[0] for line in lines] == ["missing", "fresh"]
    assert "changed within the last minute" in lines[1]
    assert stored(mounted.path / "sub/middle") == "cached"


def test_fetch_without_a_store_says_so(
    relay: Relay, mount_dir: MountDir, tree: dict[str, int]
) -> None:
    mounted = mount_dir(through=relay)
    done = fetch(mounted, "sub/middle")
    assert done.returncode == 1
    assert "cache_size=SIZE" in done.stderr
    assert os.path.getsize(mounted.path / "sub/middle") == tree["sub/middle"]
