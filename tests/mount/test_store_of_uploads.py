"""What was uploaded becomes the stored content, without a copy: it is never downloaded again.

A relay counts each RETR. The block cache is small, and the kernel is told to drop what it has.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, _daemons
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

MIB = 1 << 20
OLD = 1_000_000_000
MountStore = Callable[..., Mounted]


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side."""
    return "vsftpd"


@pytest.fixture
def mount(relay: Relay, mount_dir: MountDir, tmp_path: Path) -> MountStore:
    """Mount the folder of the server, through the relay, with a store and no other memory."""

    def mount(**more: str) -> Mounted:
        words = {
            "cache_size": "1G",
            "cache_dir": str(tmp_path / "store"),
            "block_cache": "0",
        } | more
        options = ",".join(f"{name}={value}" for name, value in words.items())
        return mount_dir(through=relay, options=options)

    return mount


def read_anew(path: Path) -> bytes:
    """The content, asked of the daemon and not of the kernel's pages."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def stored(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "store").glob("*/data/*~*") if p.suffix != ".side"]


def spooled(mounted: Mounted) -> list[Path]:
    return list(mounted.state.rglob("*.spool"))


def write(mounted: Mounted, data: dict[str, bytes], mtime: int | None = None) -> None:
    """Write files, and wait until the server has them."""
    for name, content in data.items():
        with open(mounted.path / name, "wb") as file:
            file.write(content)
            if mtime is not None:
                file.flush()
                os.utime(file.fileno(), (mtime, mtime))
    for name, content in data.items():
        assert (mounted.disk / name).read_bytes() == content


def files(*mebibytes: int) -> dict[str, bytes]:
    return {f"file{n}": random.Random(n).randbytes(n * MIB + n) for n in mebibytes}


def test_uploaded_files_are_read_back_without_one_retr(
    relay: Relay, mount: MountStore, tmp_path: Path
) -> None:
    mounted = mount()
    data = files(0, 1, 3, 12)
    write(mounted, data)
    until(lambda: len(stored(tmp_path)) == 3)  # the empty one needs none
    until(lambda: spooled(mounted) == [])
    time.sleep(2.5)  # open_ttl: from now on the server is asked whether the files are the same
    for name, content in data.items():
        assert read_anew(mounted.path / name) == content
    assert relay.count("RETR") == 0


def test_upload_with_an_old_time_is_stored_for_the_next_mount(
    relay: Relay, mount: MountStore, tmp_path: Path
) -> None:
    mounted = mount()
    data = files(1, 3)
    write(mounted, data, mtime=OLD)
    until(lambda: len(stored(tmp_path)) == 2)
    mounted.unmount()
    relay.reset()
    second = mount()
    for name, content in data.items():
        assert (second.path / name).read_bytes() == content
    assert relay.count("RETR") == 0


def test_upload_with_a_fresh_time_is_stored_for_its_mount_alone(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, tmp_path: Path
) -> None:
    """Another client may change the file within the same second, and nothing would show it."""
    first, second = mount(), mount()
    data = files(3)
    write(first, data)
    until(lambda: len(stored(tmp_path)) == 1)
    found = (remote_dir.disk / "file3").stat()
    changed = data["file3"][::-1]
    (remote_dir.disk / "file3").write_bytes(changed)
    os.utime(remote_dir.disk / "file3", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (second.path / "file3").read_bytes() == changed
    first.unmount()
    second.unmount()
    until(lambda: stored(tmp_path) == [])
    third = mount()
    assert (third.path / "file3").read_bytes() == changed


def test_upload_that_others_change_afterwards_is_fetched(
    remote_dir: RemoteDir, mount: MountStore, tmp_path: Path
) -> None:
    mounted = mount(open_ttl="0")
    data = files(3)
    write(mounted, data)
    until(lambda: len(stored(tmp_path)) == 1)
    changed = data["file3"][::-1]
    (remote_dir.disk / "file3").write_bytes(changed)
    os.utime(remote_dir.disk / "file3", (OLD, OLD))
    assert read_anew(mounted.path / "file3") == changed


def test_file_that_is_written_on_after_its_upload_is_read_as_it_is(
    mount: MountStore, tmp_path: Path
) -> None:
    mounted = mount()
    data = files(2)["file2"]
    write(mounted, {"file2": data})
    until(lambda: len(stored(tmp_path)) == 1)
    with open(mounted.path / "file2", "r+b") as file:
        file.seek(MIB)
        file.write(b"changed")
    changed = data[:MIB] + b"changed" + data[MIB + 7 :]
    assert read_anew(mounted.path / "file2") == changed
    assert (mounted.disk / "file2").read_bytes() == changed
    assert read_anew(mounted.path / "file2") == changed
    with open(mounted.path / "file2", "ab") as file:
        file.write(b"more")
    assert (mounted.disk / "file2").read_bytes() == changed + b"more"
    assert read_anew(mounted.path / "file2") == changed + b"more"


def test_daemon_killed_while_it_adopts_leaves_no_wrong_byte_and_no_rest(
    relay: Relay, mount: MountStore, tmp_path: Path
) -> None:
    rng = random.Random(5)
    data: dict[str, bytes] = {}
    for round_ in range(3):
        mounted = mount()
        more = {f"{round_}-{n}": rng.randbytes(8 * MIB + n) for n in range(4)}
        write(mounted, more, mtime=OLD)
        data |= more
        time.sleep(rng.uniform(0, 0.05))
        [daemon] = _daemons(str(mounted.log))
        os.kill(daemon, signal.SIGKILL)
        subprocess.run(["umount", "-l", mounted.path], check=True)
        after = mount()
        assert "never closed" not in after.log_text()
        for name in rng.sample(list(data), 3):
            assert read_anew(after.path / name) == data[name]
        after.unmount()
        assert spooled(after) == []
    last = mount()
    for name, content in data.items():
        assert (last.path / name).read_bytes() == content


def test_upload_is_read_from_the_server_if_spool_and_store_are_on_two_disks(
    relay: Relay, mount: MountStore, tmp_path: Path
) -> None:
    disk = tmp_path / "other"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
    try:
        mounted = mount(cache_dir=str(disk))
        data = files(2)
        write(mounted, data)
        until(lambda: spooled(mounted) == [])
        assert read_anew(mounted.path / "file2") == data["file2"]
        assert relay.count("RETR") >= 1
        mounted.unmount()
        assert "switched off" not in mounted.log_text()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
