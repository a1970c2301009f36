"""`ftpfs keep` on real mounts: what is kept is here, up to date, and stays."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, ftpfs
from tests.mount.test_fetch import git, make_repository, run
from tests.mount.test_store import OLD, digest, make
from tests.mount.town import Town, leave
from tests.mount.town import stored_as as stored
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

MIB = 1 << 20
SIZES = {"k/big": 20 * MIB + 5, "k/sub/middle": 3 * MIB, "k/sub/deep/small": 100, "k/empty": 0}
MountStore = Callable[..., Mounted]


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side. Its times come from MDTM."""
    return "vsftpd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def mount(relay: Relay, mount_dir: MountDir, folder: Path) -> MountStore:
    """Mount the folder of the server, through the relay, with the smallest store."""

    def mount(options: str = "", size: str = "16M") -> Mounted:
        words = f"cache_size={size},cache_dir={folder}"
        return mount_dir(through=relay, options=f"{words},{options}" if options else words)

    return mount


@pytest.fixture
def tree(remote_dir: RemoteDir) -> dict[str, int]:
    for name, size in SIZES.items():
        make(remote_dir, name, size)
    return SIZES


def keep(mounted: Mounted, *words: str) -> subprocess.CompletedProcess[str]:
    return ftpfs("keep", *words, env={"XDG_STATE_HOME": str(mounted.state)}, timeout=120)


def kept(mounted: Mounted, *names: str) -> subprocess.CompletedProcess[str]:
    return keep(mounted, *(str(mounted.path / name) for name in names))


def states(mounted: Mounted, names: Iterable[str]) -> set[str]:
    return {stored(mounted.path / name) for name in names}


def retrs(relay: Relay) -> list[str]:
    """The last names of what was fetched."""
    return [c.arg.rpartition("/")[2] for c in relay.commands if c.verb == "RETR"]


def test_kept_folder_is_here_beyond_the_bound_and_read_offline(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, folder: Path, tree: dict[str, int]
) -> None:
    make(remote_dir, "other", 12 * MIB)
    mounted = mount()
    done = kept(mounted, "k")
    assert (done.returncode, done.stderr) == (0, "")
    assert states(mounted, tree) == {"kept"}
    for _ in range(3):  # what is not kept does not push it out
        digest(mounted.path / "other")
    assert states(mounted, tree) == {"kept"}
    leave(mounted)
    relay.reset()
    mounted = mount("offline=always")
    for name in tree:
        assert digest(mounted.path / name) == digest(remote_dir.disk / name)
    assert states(mounted, tree) == {"kept"}
    assert not relay.commands
    leave(mounted)


def test_what_is_here_is_not_fetched_again(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, tree: dict[str, int]
) -> None:
    mounted = mount()
    assert kept(mounted, "k").returncode == 0
    relay.reset()
    assert kept(mounted, "k").returncode == 0
    assert not retrs(relay)
    assert relay.count("SIZE") == 0
    make(remote_dir, "k/sub/new", 10)
    assert kept(mounted, "k").returncode == 0
    assert retrs(relay) == ["new"]
    leave(mounted)
    relay.reset()
    mounted = mount("keep_refresh=1")
    until(lambda: relay.count("LIST") >= 6)
    assert not retrs(relay)
    leave(mounted)


def test_kept_folder_follows_the_server(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, folder: Path, tree: dict[str, int]
) -> None:
    mounted = mount("keep_refresh=1")
    assert kept(mounted, "k").returncode == 0
    make(remote_dir, "k/sub/middle", 2 * MIB, seed=2, mtime=OLD + 5)
    make(remote_dir, "k/new/file", 1000)
    (remote_dir.disk / "k/big").unlink()
    shutil.rmtree(remote_dir.disk / "k/sub/deep")
    files = folder.glob
    until(lambda: not [*files("*/data/big~*"), *files("*/data/small~*")])
    until(lambda: len([*files("*/data/middle~*")]) == 2)
    until(lambda: len([*files("*/data/file~*")]) == 2)
    leave(mounted)
    mounted = mount("offline=always")
    run("diff", "-r", str(remote_dir.disk / "k"), str(mounted.path / "k"))
    leave(mounted)


def test_kept_paths_are_listed_and_dropped(
    relay: Relay, mount: MountStore, folder: Path, tree: dict[str, int]
) -> None:
    mounted = mount()
    assert kept(mounted, "k/sub", "k/big").returncode == 0
    shown = keep(mounted, "--list")
    assert shown.returncode == 0
    assert f"{mounted.path}/k/sub" in shown.stdout
    assert f"{mounted.path}/k/big" in shown.stdout
    done = keep(mounted, "--drop", f"{mounted.path}/k/sub/deep")
    assert done.returncode == 1
    assert "it is kept with /k/sub" in done.stderr
    assert keep(mounted, "--drop", f"{mounted.path}/k/sub").returncode == 0
    assert stored(mounted.path / "k/sub/middle") == "cached"
    assert stored(mounted.path / "k/big") == "kept"
    assert f"{mounted.path}/k/sub" not in keep(mounted, "--list").stdout
    leave(mounted)


def test_cache_clear_frees_what_is_not_kept(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, folder: Path, tree: dict[str, int]
) -> None:
    make(remote_dir, "other", 3 * MIB)
    mounted = mount()
    assert kept(mounted, "k").returncode == 0
    digest(mounted.path / "other")
    leave(mounted)
    shown = ftpfs("cache", "--cache-dir", str(folder))
    assert "24.1 MB" in shown.stdout
    done = ftpfs("cache", "--cache-dir", str(folder), "clear")
    assert "3.2 MB freed" in done.stdout
    assert "24.1 MB are kept (--kept frees them)" in done.stdout
    relay.reset()
    mounted = mount("offline=always")
    run("diff", "-r", str(remote_dir.disk / "k"), str(mounted.path / "k"))
    leave(mounted)
    done = ftpfs("cache", "--cache-dir", str(folder), "clear", "--kept")
    assert "24.1 MB freed" in done.stdout
    mounted = mount("keep_refresh=1")
    assert "nothing is kept" in keep(mounted, "--list").stdout
    assert states(mounted, ["k/big"]) == {"remote"}
    leave(mounted)


def test_option_keeps_at_mount_time_and_the_next_mount_goes_on(
    remote_dir: RemoteDir, mount: MountStore, tree: dict[str, int]
) -> None:
    mounted = mount("keep=/k/sub:k/big,keep_refresh=1", size="0")
    names = ["k/sub/middle", "k/sub/deep/small", "k/big"]
    until(lambda: states(mounted, names) == {"kept"})
    leave(mounted)
    make(remote_dir, "k/sub/new", 10)
    mounted = mount("keep_refresh=1")
    until(lambda: stored(mounted.path / "k/sub/new") == "kept")
    leave(mounted)


def test_fresh_file_is_told_and_fetched_at_a_later_look(
    remote_dir: RemoteDir, mount: MountStore, tree: dict[str, int]
) -> None:
    """A minute later, and not only after `keep_refresh`."""
    for name in ("k/fresh", "k/sub/fresh"):
        make(remote_dir, name, 10, mtime=int(time.time()) - 50)
    mounted = mount()
    done = kept(mounted, "k")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "/k: 2 files were changed within the last minute" in done.stderr
    assert states(mounted, tree) == {"kept"}
    until(lambda: stored(mounted.path / "k/fresh") == "kept", 20)
    until(lambda: stored(mounted.path / "k/sub/fresh") == "kept")
    leave(mounted)


def test_keep_without_a_store_says_so(
    relay: Relay, mount_dir: MountDir, tree: dict[str, int]
) -> None:
    mounted = mount_dir(through=relay)
    done = kept(mounted, "k")
    assert done.returncode == 1
    assert "cache_size=SIZE" in done.stderr


def test_programs_work_with_a_kept_repository_without_its_server(
    town: Town, tmp_path: Path
) -> None:
    origin = tmp_path / "origin"
    make_repository(origin)
    for number in range(200):
        place = origin / f"more{number % 10}" / f"{number}"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(os.urandom(number * 500))
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "-m", "third")
    shutil.copytree(origin, town.root / "repo")
    town.own()
    for path in (town.root / "repo", *(town.root / "repo").rglob("*")):
        os.utime(path, (OLD, OLD))
    mounted = town.mount()
    done = kept(mounted, "repo")
    assert (done.returncode, done.stderr) == (0, "")
    town.stop()
    leave(mounted)

    mounted = town.mount("leave_after=0")  # git writes its index again
    there = mounted.path / "repo"
    run("diff", "-r", str(origin), str(there))
    assert git(there, "status", "--porcelain") == ""
    with contextlib.closing(sqlite3.connect(f"file:{there}/data.db?mode=ro", uri=True)) as db:
        assert db.execute("SELECT sum(number) FROM numbers").fetchone() == (4950,)
    if shutil.which("rsync"):
        run("rsync", "-a", f"{there}/", f"{tmp_path}/out/")
        run("diff", "-r", "-x", "index", str(origin), f"{tmp_path}/out")
    leave(mounted)
