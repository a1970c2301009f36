"""`ftpfs fetch` on real mounts: what it brings into the store is there without the server."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, ftpfs
from tests.mount.test_store import OLD, digest, make
from tests.mount.town import leave, stored_as
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
    assert {name: stored_as(mounted.path / name) for name in tree} == dict.fromkeys(tree, "cached")
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
    assert stored_as(mounted.path / "big") == "remote"
    relay.reset()
    assert fetch(mounted, "sub", "big").returncode == 0
    assert all("big" in command.arg for command in relay.commands if command.verb == "RETR")
    assert {stored_as(mounted.path / name) for name in tree} == {"cached"}


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
    assert stored_as(mounted.path / "sub/middle") == "cached"


def test_fetch_without_a_store_says_so(
    relay: Relay, mount_dir: MountDir, tree: dict[str, int]
) -> None:
    mounted = mount_dir(through=relay, options="cache_size=0")
    done = fetch(mounted, "sub/middle")
    assert done.returncode == 1
    assert "cache_size=on" in done.stderr
    assert os.path.getsize(mounted.path / "sub/middle") == tree["sub/middle"]


def test_programs_work_with_a_fetched_repository_offline(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, tmp_path: Path
) -> None:
    origin = tmp_path / "origin"
    make_repository(origin)
    shutil.copytree(origin, remote_dir.disk / "repo")
    for path in (remote_dir.disk / "repo", *(remote_dir.disk / "repo").rglob("*")):
        shutil.chown(path, remote_dir.server.uid, remote_dir.server.gid)
        os.utime(path, (OLD, OLD))
    mounted = mount(mount_dir, relay, tmp_path)
    done = fetch(mounted, "repo")
    assert (done.returncode, done.stderr) == (0, "")
    leave(mounted)
    relay.reset()

    mounted = mount(mount_dir, relay, tmp_path, "offline=always")
    there = mounted.path / "repo"
    run("diff", "-r", str(origin), str(there))
    assert git(there, "log", "--format=%s").split() == ["second", "first"]
    assert git(there, "status", "--porcelain") == ""
    with contextlib.closing(sqlite3.connect(f"file:{there}/data.db?mode=ro", uri=True)) as db:
        assert db.execute("SELECT sum(number) FROM numbers").fetchone() == (4950,)
    if shutil.which("rsync"):
        run("rsync", "-a", f"{there}/", f"{tmp_path}/out/")
        run("diff", "-r", "-x", "index", str(origin), f"{tmp_path}/out")  # git has written it
    assert not relay.commands
    leave(mounted)


def make_repository(place: Path) -> None:
    place.mkdir()
    with contextlib.closing(sqlite3.connect(place / "data.db")) as db:
        db.execute("CREATE TABLE numbers (number INTEGER)")
        db.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(100)])
        db.commit()
    (place / "empty").touch()
    for number in range(20):
        (place / f"file{number}").write_text(f"{number}\n" * 100)
    git(place, "init", "--quiet")
    for subject in ("first", "second"):
        (place / "folder" / subject).mkdir(parents=True)
        (place / "folder" / subject / "text").write_text(subject)
        git(place, "add", "--all")
        git(place, "commit", "--quiet", "-m", subject)


def git(place: Path, *words: str) -> str:
    safe = ("-c", "safe.directory=*", "-c", "user.name=me", "-c", "user.email=me@example.org")
    return run("git", *safe, "-C", str(place), *words)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout
