"""Modes, times and contents of folders that programs make, on the server's disk."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, MountServer, wait_until_sent
from tests.mount.test_killed import kill
from tests.support import servers
from tests.support.relay import Relay

pytestmark = [pytest.mark.mount, pytest.mark.far]

WHEN = 1_700_000_000
# A folder for its owner alone, one inside another, and one that nobody may write to.
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
    """Unpack an archive, and make a read-only folder, which tar as root makes otherwise."""
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


def test_tar_sets_modes_and_times_of_folders_even_if_nobody_may_write_them(
    mounted: Mounted, archive: Path
) -> None:
    unpack(archive, mounted.path)
    assert_all_is_there(mounted.disk, mounted.server.kind)
    for name, mode in MODES.items():
        assert stat.S_IMODE((mounted.path / name).stat().st_mode) == mode


def test_next_mount_sets_modes_and_times_when_killed_right_after_tar(
    mount_dir: MountDir, archive: Path
) -> None:
    mounted = mount_dir()
    unpack(archive, mounted.path)
    kill(mounted)
    mounted = mount_dir()
    assert_all_is_there(mounted.disk, mounted.server.kind)


def test_unmount_waits_for_modes_and_times_of_folders(mount_dir: MountDir, archive: Path) -> None:
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
def test_modes_and_times_of_folders_arrive_when_sessions_die(
    relay: Relay, mount_dir: MountDir, archive: Path, fault: str
) -> None:
    mounted = mount_dir(
        through=relay,
        options="quirk=round_trip=20",
    )
    FAULTS[fault](relay)
    unpack(archive, mounted.path)
    assert_all_is_there(mounted.disk, mounted.server.kind)


def test_folder_is_closed_to_others_before_files_are_put_into_it(
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


def test_folder_shows_a_new_time_when_a_name_in_it_comes_or_goes(mounted: Mounted) -> None:
    inside = mounted.path / "folder"
    for name in ("folder", "other"):
        (mounted.disk / name).mkdir()
        os.chown(mounted.disk / name, mounted.server.uid, mounted.server.gid)
    for folder in ("folder", "other"):
        os.utime(mounted.disk / folder, (WHEN, WHEN))

    def moves(change: Callable[[], object], *folders: Path) -> None:
        """Check that the folders get the time of the change."""
        wait_until_sent(mounted.path)
        for folder in folders:
            if folder != mounted.path:
                os.utime(folder, (WHEN, WHEN))
        begun = int(time.time())
        change()
        for folder in folders:
            assert begun <= folder.stat().st_mtime <= time.time() + 1, folder

    moves(lambda: (inside / "a").touch(), inside)
    moves(lambda: (inside / "a").rename(inside / "b"), inside)
    moves(lambda: (inside / "b").rename(mounted.path / "other" / "b"), mounted.path / "other")
    moves(lambda: (inside / "sub").mkdir(), inside)
    moves(lambda: (inside / "sub").rmdir(), inside)
    moves(lambda: (inside / "c").write_bytes(b"new"), inside)
    moves(lambda: (inside / "c").unlink(), inside)
    moves(lambda: (mounted.path / "top").write_bytes(b"new"), mounted.path)


def test_make_notices_a_new_file_in_a_folder(mounted: Mounted) -> None:
    (mounted.disk / "parts").mkdir()
    os.chown(mounted.disk / "parts", mounted.server.uid, mounted.server.gid)
    (mounted.disk / "list").write_bytes(b"")
    os.utime(mounted.disk / "parts", (WHEN, WHEN))
    os.utime(mounted.disk / "list", (WHEN + 10, WHEN + 10))
    newer = ["find", "parts", "-maxdepth", "0", "-newer", "list"]

    def found() -> str:
        return subprocess.run(
            newer, cwd=mounted.path, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    assert found() == ""
    (mounted.path / "parts" / "one").write_bytes(b"1")
    assert found() == "parts\n"


@pytest.mark.parametrize("use", ["rm -rf t", "mv t/a/f g && rmdir t/a", "mkdir t/a/b", "ls t/a/f"])
def test_rights_that_chmod_restores_apply_to_the_next_call(mounted: Mounted, use: str) -> None:
    taken = "a-x" if use.startswith("ls") else "a-w"
    for number in range(5):
        folder = mounted.path / str(number)
        folder.mkdir()
        done = subprocess.run(
            "mkdir t t/a && echo content > t/a/f && chmod 700 t/a && sync t/a/f && "
            f"chmod {taken} t/a && chmod {taken} t && chmod 755 t && chmod 755 t/a && {use}",
            shell=True,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), number
    assert sorted(os.listdir(mounted.disk)) == ["0", "1", "2", "3", "4"]


def test_rights_that_chmod_restores_apply_while_a_closed_file_waits(
    mounted: Mounted,
) -> None:
    for number in range(10):
        folder = mounted.path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * 200_000)
        folder.chmod(0o555)  # noted, as the file is on its way
        time.sleep(number / 100)
        folder.chmod(0o755)
        (folder / "file").unlink()
        folder.rmdir()
    assert os.listdir(mounted.disk) == []


def test_waiting_files_arrive_before_their_folder_is_closed_to_everybody(mounted: Mounted) -> None:
    for number in range(3):
        folder = mounted.path / str(number)
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b").chmod(0o700)
        (folder / "a" / "b" / "file").write_bytes(b"x" * 500_000)
        (folder / "a" / "b").chmod(0o500)
        folder.chmod(0)
    for number in range(3):
        folder = mounted.disk / str(number)
        assert stat.S_IMODE(folder.stat().st_mode) == 0
        assert stat.S_IMODE((folder / "a" / "b").stat().st_mode) == 0o500
        assert (folder / "a" / "b" / "file").read_bytes() == b"x" * 500_000


@pytest.mark.parametrize("where", ["below", "mounted"])
def test_folder_that_may_not_be_listed_is_not_shown_as_empty_at_the_first_look(
    remote_dir: RemoteDir, mount_server: MountServer, where: str
) -> None:
    """At the first look ftpfs knows nothing about the server's listings yet."""
    closed = remote_dir.disk / "closed"
    closed.mkdir(mode=0o711)  # root's
    (closed / "file").write_bytes(b"to be read by its name")
    path = remote_dir.path if where == "below" else f"{remote_dir.path}/closed"
    mounted = mount_server(remote_dir.server, remote_dir.disk, path=path)
    shown = mounted.path / "closed" if where == "below" else mounted.path
    with pytest.raises(PermissionError):
        os.listdir(shown)
    assert (shown / "file").read_bytes() == b"to be read by its name"


def test_folder_that_may_not_be_listed_is_mounted_and_takes_files(
    remote_dir: RemoteDir, mount_server: MountServer
) -> None:
    drop = remote_dir.disk / "drop"
    drop.mkdir()
    drop.chmod(0o733)  # root's
    (drop / "folder").mkdir()
    mounted = mount_server(remote_dir.server, drop, path=f"{remote_dir.path}/drop")
    with pytest.raises(PermissionError):
        os.listdir(mounted.path)
    assert not (mounted.path / "scan").exists()
    (mounted.path / "scan").write_bytes(b"a page")
    assert (mounted.path / "folder").is_dir()
    assert (mounted.disk / "scan").read_bytes() == b"a page"
    assert sorted(os.listdir(drop)) == ["folder", "scan"]
