"""`ftpfs keep` when something goes wrong: disks, kills, changes in between, servers that leave."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import Mounted, _daemons
from tests.mount.test_fetch import run
from tests.mount.test_keep import (
    MIB,
    MountStore,
    folder,
    keep,
    kept,
    mount,
    retrs,
    server_kind,
    states,
)
from tests.mount.test_offline import stored_names
from tests.mount.test_store import OLD, digest, log_lines, make, small_disk
from tests.mount.town import leave
from tests.mount.town import stored_as as stored
from tests.support.relay import Relay
from tests.support.waiting import until

__all__ = ["folder", "mount", "server_kind"]  # fixtures

pytestmark = pytest.mark.mount

PATIENCE = 60.0


@contextlib.contextmanager
def keeping(mounted: Mounted, name: str) -> Iterator[subprocess.Popen[str]]:
    """`ftpfs keep` of one path, while the test goes on."""
    command = [sys.executable, "-m", "ftpfs", "keep", str(mounted.path / name)]
    env = {**os.environ, "XDG_STATE_HOME": str(mounted.state)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, told = process.communicate(timeout=PATIENCE)
    return process.returncode, told


def is_read_offline(mount: MountStore, disk: Path, name: str) -> bool:
    mounted = mount("offline=always")
    try:
        return digest(mounted.path / name) == digest(disk / name)
    finally:
        leave(mounted)


# The disk.


def test_file_that_would_fill_the_disk_is_not_fetched_and_the_others_are(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, tmp_path: Path
) -> None:
    for name, size in {"k/a": 5 * MIB, "k/b": 60 * MIB, "k/c": 5 * MIB}.items():
        make(remote_dir, name, size)
    with small_disk(tmp_path / "store", "size=40m"):
        mounted = mount()
        done = kept(mounted, "k")
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "k/b: not fetched: only" in line
        assert states(mounted, ["k/a", "k/c"]) == {"kept"}
        assert digest(mounted.path / "k/b") == digest(remote_dir.disk / "k/b")
        assert not log_lines(mounted, "switched off")
        leave(mounted)


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    with open(path, "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(MIB))


def test_disk_that_others_fill_meanwhile_ends_the_look_and_reading_goes_on(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, tmp_path: Path
) -> None:
    for number in range(4):
        make(remote_dir, f"k/{number}", 8 * MIB)
    relay.data_rate = 4_000_000
    with small_disk(tmp_path / "store", "size=80m") as disk:
        mounted = mount()
        with keeping(mounted, "k") as process:
            until(lambda: relay.count("RETR"))
            fill(disk / "filler")
            code, told = ended(process)
        relay.data_rate = None
        assert code == 1
        assert "is switched off; see the log" in told
        assert len(log_lines(mounted, "is switched off")) >= 1
        for number in range(4):
            name = f"k/{number}"
            assert digest(mounted.path / name) == digest(remote_dir.disk / name)
        leave(mounted)


def test_deleted_store_is_told_and_the_next_mount_begins_anew(
    remote_dir: RemoteDir, mount: MountStore, folder: Path
) -> None:
    for name in ("k/a", "other/b"):
        make(remote_dir, name, 3 * MIB)
    mounted = mount()
    assert kept(mounted, "k").returncode == 0
    shutil.rmtree(folder)
    done = kept(mounted, "other")
    assert done.returncode == 1
    assert "what is kept cannot be noted" in done.stderr
    assert "nothing is kept" in keep(mounted, "--list").stdout
    for name in ("k/a", "other/b"):
        assert digest(mounted.path / name) == digest(remote_dir.disk / name)
    leave(mounted)
    mounted = mount()
    assert "nothing is kept" in keep(mounted, "--list").stdout
    assert kept(mounted, "other").returncode == 0
    leave(mounted)
    assert is_read_offline(mount, remote_dir.disk, "other/b")


# A kill.


def test_killed_mount_is_followed_by_one_that_goes_on(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, folder: Path
) -> None:
    names = [f"k/{number}" for number in range(6)]
    for name in names:
        make(remote_dir, name, 3 * MIB)
    make(remote_dir, "k/large", 40 * MIB)
    relay.data_rate = 6_000_000
    mounted = mount()
    with keeping(mounted, "k") as process:
        until(lambda: list(map(stored_or_none(mounted), names)).count("kept") >= 3, PATIENCE)
        until(lambda: stored_names(folder, "/"))
        for daemon in _daemons(str(mounted.log)):
            os.kill(daemon, signal.SIGKILL)
        code, told = ended(process)
    assert code == 1
    assert "gone" in told
    until(lambda: not _daemons(str(mounted.log)))
    subprocess.run(["umount", "-l", str(mounted.path)], check=True)

    relay.data_rate = None
    offline = mount("offline=always")
    here = [name for name in names if stored(offline.path / name) == "kept"]
    leave(offline)
    assert len(here) >= 3
    relay.reset()
    mounted = mount("keep_refresh=1")
    everything = [*names, "k/large"]
    until(lambda: states(mounted, everything) == {"kept"}, PATIENCE)
    assert not {name.rpartition("/")[2] for name in here} & set(retrs(relay))
    leave(mounted)
    assert is_read_offline(mount, remote_dir.disk, "k/large")


def stored_or_none(mounted: Mounted) -> Callable[[str], str | None]:
    def state(name: str) -> str | None:
        try:
            return stored(mounted.path / name)
        except OSError:
            return None

    return state


# Changes on the server.


def test_file_that_changes_while_it_is_fetched_is_kept_as_it_is_in_the_end(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore
) -> None:
    make(remote_dir, "k/file", 24 * MIB)
    relay.data_rate = 6_000_000
    mounted = mount()
    with keeping(mounted, "k") as process:
        until(lambda: relay.count("RETR"))
        path = remote_dir.disk / "k/file"
        with open(path, "r+b") as file:  # in place, while the server sends it
            file.seek(12 * MIB)
            file.write(os.urandom(12 * MIB))
        os.utime(path, (OLD + 5, OLD + 5))
        assert ended(process) == (0, "")
    leave(mounted)
    relay.data_rate = None
    assert is_read_offline(mount, remote_dir.disk, "k/file")


def test_two_mounts_fetch_each_file_once(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore
) -> None:
    names = [f"k/{number}" for number in range(8)]
    for name in names:
        make(remote_dir, name, 100_000)  # one block: no transfer gives way in the middle
    two = [mount("keep_refresh=1"), mount("keep_refresh=1")]
    relay.reset()
    with keeping(two[0], "k") as first, keeping(two[1], "k") as second:
        assert ended(first) == (0, "")
        assert ended(second) == (0, "")
    assert len(retrs(relay)) == 8
    make(remote_dir, "k/new", 100_000)
    listed = relay.count("LIST")
    until(lambda: relay.count("LIST") >= listed + 10, PATIENCE)
    assert sorted(retrs(relay)) == [*map(str, range(8)), "new"]
    for mounted in two:
        assert states(mounted, names) == {"kept"}
        leave(mounted)


def test_kept_folder_that_is_deleted_on_the_server_comes_back(
    remote_dir: RemoteDir, mount: MountStore, folder: Path
) -> None:
    make(remote_dir, "k/sub/file", 300_000)
    mounted = mount("keep_refresh=1")
    assert kept(mounted, "k").returncode == 0
    shutil.rmtree(remote_dir.disk / "k")
    until(lambda: not [*folder.glob("*/data/file~*")])
    until(lambda: "not on the server" in keep(mounted, "--list").stdout)
    make(remote_dir, "k/sub/file", 400_000)
    until(lambda: stored_or_none(mounted)("k/sub/file") == "kept")
    leave(mounted)


ODD = [
    *("a b", " lead", "-rf", "[x]*?", 'it\'s "quoted"', "back\\slash", "ü", "日本", "a%20b"),
    *("~", "a~b.side", "semi;colon", "tab\there"),
    os.fsdecode(b"caf\xe9"),
]


def test_odd_names_are_kept(remote_dir: RemoteDir, mount: MountStore) -> None:
    for name in ODD:
        path = remote_dir.write(f"k [x]/{name}/{name}", os.fsencode(name) * 50)
        os.utime(path, (OLD, OLD))
    mounted = mount()
    done = kept(mounted, "k [x]")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ODD:
        assert kept(mounted, f"k [x]/{name}").returncode == 0
    leave(mounted)
    mounted = mount("offline=always")
    run("diff", "-r", str(remote_dir.disk / "k [x]"), str(mounted.path / "k [x]"))
    assert keep(mounted, "--list").stdout.count("k [x]") == len(ODD) + 1
    for name in [*(f"k [x]/{odd}" for odd in ODD), "k [x]"]:
        assert keep(mounted, "--drop", str(mounted.path / name)).returncode == 0
    assert "nothing is kept" in keep(mounted, "--list").stdout
    leave(mounted)


# A server that leaves.


def test_path_that_is_kept_while_the_server_is_away_is_fetched_when_it_is_back(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore
) -> None:
    make(remote_dir, "k/a", 300_000)
    make(remote_dir, "other/b", 300_000)
    mounted = mount("keep_refresh=600")
    assert kept(mounted, "k").returncode == 0
    os.listdir(mounted.path / "other")
    relay.vanish()
    with pytest.raises(OSError, match="unreachable"):
        (mounted.path / "other/b").read_bytes()
    done = kept(mounted, "other")
    assert done.returncode == 1
    assert "the server is away: fetched when it is back" in done.stderr
    assert digest(mounted.path / "k/a") == digest(remote_dir.disk / "k/a")
    assert stored(mounted.path / "k/a") == "kept"
    relay.come_back()
    until(lambda: stored_or_none(mounted)("other/b") == "kept", PATIENCE)
    leave(mounted)
