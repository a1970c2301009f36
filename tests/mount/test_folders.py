"""Folders that programs make: their modes and times, and what is in them, on the server's disk."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import MountDir, Mounted, wait_until_sent
from tests.mount.test_killed import kill
from tests.support import servers
from tests.support.relay import Relay

pytestmark = pytest.mark.mount

WHEN = 1_700_000_000
# A folder that only its owner enters, one in another, and one that nobody writes.
MODES = {"a": 0o700, "a/b": 0o755, "a/b/c": 0o750, "plain": 0o755, "fixed": 0o555}


def fill(folder: Path, name: str) -> None:
    (folder / name).mkdir(0o700)
    for number in range(3):
        (folder / name / f"file{number}").write_bytes(f"{name} {number}".encode())


def close(folder: Path, name: str) -> None:
    os.utime(folder / name, (WHEN, WHEN))
    (folder / name).chmod(MODES[name])


def archive_of(folder: Path) -> Path:
    names = [name for name in MODES if name != "fixed"]
    for name in names:
        fill(folder, name)
    for name in reversed(names):
        close(folder, name)
    target = folder.with_suffix(".tar")
    with tarfile.open(target, "w") as archive:
        archive.add(folder / "a", arcname="a")
        archive.add(folder / "plain", arcname="plain")
    shutil.rmtree(folder)
    return target


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return archive_of(folder)


def unpack(archive: Path, into: Path) -> None:
    """And a folder that nobody writes, which tar makes in another order where it is root."""
    words = ["tar", "-x", "--no-same-owner", "-p", "-f", str(archive), "-C", str(into)]
    subprocess.run(words, check=True)
    fill(into, "fixed")
    close(into, "fixed")


def assert_all_is_there(disk: Path, kind: str) -> None:
    for name, mode in MODES.items():
        folder = disk / name
        assert stat.S_IMODE(folder.stat().st_mode) == mode, name
        for number in range(3):
            assert (folder / f"file{number}").read_bytes() == f"{name} {number}".encode()
        if "set mtime of folders" not in servers.CANNOT[kind]:  # type: ignore[index]
            assert int(folder.stat().st_mtime) == WHEN, name


def test_tar_brings_modes_and_times_of_folders_also_of_those_that_nobody_may_write(
    mounted: Mounted, archive: Path
) -> None:
    unpack(archive, mounted.path)
    assert_all_is_there(mounted.disk, mounted.server.kind)
    for name, mode in MODES.items():
        assert stat.S_IMODE((mounted.path / name).stat().st_mode) == mode


def test_killed_right_after_tar_the_next_mount_brings_them(
    mount_dir: MountDir, archive: Path
) -> None:
    mounted = mount_dir()
    unpack(archive, mounted.path)
    kill(mounted)
    mounted = mount_dir()
    assert_all_is_there(mounted.disk, mounted.server.kind)


def test_an_unmount_waits_for_them(mount_dir: MountDir, archive: Path) -> None:
    mounted = mount_dir()
    unpack(archive, mounted.path)
    mounted.unmount()
    assert_all_is_there(mounted.disk_now, mounted.server.kind)


Fault = Callable[[Relay], object]
FAULTS: dict[str, Fault] = {
    "before a mode": lambda relay: [
        relay.cut_control(verb, skip=1, when="before") for verb in ("SITE", "MFF")
    ],
    "after a mode": lambda relay: [
        relay.cut_control(verb, skip=1, when="after") for verb in ("SITE", "MFF")
    ],
    "before a folder is made": lambda relay: relay.cut_control("MKD", skip=1, when="before"),
    "after a folder was made": lambda relay: relay.cut_control("MKD", skip=1, when="after"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_they_arrive_though_sessions_die(
    relay: Relay, mount_dir: MountDir, archive: Path, fault: str
) -> None:
    mounted = mount_dir(
        through=relay,
        options="quirk=round_trip=20",
    )
    FAULTS[fault](relay)
    unpack(archive, mounted.path)
    assert_all_is_there(mounted.disk, mounted.server.kind)


def test_nothing_is_put_into_a_folder_before_others_are_kept_out(
    relay: Relay, mount_dir: MountDir
) -> None:
    mounted = mount_dir(
        through=relay,
    )
    for number in range(5):
        folder = mounted.path / f"secret{number}"
        folder.mkdir(0o700)
        (folder / "file").write_bytes(b"secret")
        (folder / "below").mkdir()
    wait_until_sent(mounted.path)
    seen = [(c.verb, c.arg) for c in relay.commands]
    for number in range(5):
        name = f"secret{number}"
        modes = [i for i, (verb, arg) in enumerate(seen) if verb in ("SITE", "MFF") and name in arg]
        inside = [
            i for i, (verb, arg) in enumerate(seen) if verb in ("STOR", "MKD") and f"{name}/" in arg
        ]
        assert modes
        assert len(inside) == 2
        assert modes[0] < min(inside)
        assert stat.S_IMODE((mounted.disk / name).stat().st_mode) == 0o700
