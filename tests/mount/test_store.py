"""The store on real mounts: a mount reads what an earlier one fetched from the disk, if it is
unchanged. A relay counts each RETR."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, _daemons
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

MIB = 1 << 20
OLD = 1_000_000_000  # long past: files that changed within the last minute are not kept
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
    """Mount the folder of the server, through the relay, with a store."""

    def mount(size: str = "1G", where: Path = folder) -> Mounted:
        return mount_dir(through=relay, options=f"cache_size={size},cache_dir={where}")

    return mount


def make(remote_dir: RemoteDir, name: str, size: int, seed: int = 1, mtime: int = OLD) -> bytes:
    """A file that has been on the server for a long time."""
    data = random.Random(f"{name} {seed}").randbytes(size)
    path = remote_dir.write(name, data)
    os.utime(path, (mtime, mtime))
    return data


def disk_usage(folder: Path) -> int:
    """Bytes on the disk, as `du` counts them.

    Starts no process: a child closes the parent's files, and waits for a daemon that is stopped.
    """
    used = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a mount deletes files meanwhile
            used += path.lstat().st_blocks * 512
    return used


@contextlib.contextmanager
def stopped(mounts: Iterable[Mounted]) -> Iterator[None]:
    """Stop the daemons: a file that they delete would be counted, and one made for it, too."""
    daemons = [daemon for mounted in mounts for daemon in _daemons(str(mounted.log))]
    for daemon in daemons:
        os.kill(daemon, signal.SIGSTOP)
    try:
        yield
    finally:
        for daemon in daemons:
            os.kill(daemon, signal.SIGCONT)


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def end(mounted: Mounted) -> None:
    """Unmount, and wait until the daemon has stored what it read."""
    mounted.unmount()
    until(lambda: log_lines(mounted, "store: "))


def log_lines(mounted: Mounted, words: str) -> list[str]:
    return [line for line in mounted.log_text().splitlines() if words in line]


@pytest.mark.long
def test_second_mount_reads_unchanged_files_without_one_retr(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore
) -> None:
    names = {f"big{n}": 30 * MIB + n for n in range(5)}
    names |= {f"folder/small{n}": 4096 + n for n in range(300)}
    for name, size in names.items():
        make(remote_dir, name, size)
    relay.data_rate = 125_000_000  # a link of a Gbit/s
    # Blocks that arrive faster than the disk takes them are dropped, and kept the next time.
    for _ in range(10):
        first = mount()
        for name in names:
            assert digest(first.path / name) == digest(remote_dir.disk / name)
        end(first)
        if " 0 dropped" in log_lines(first, "store: ")[-1]:
            break
    assert relay.count("RETR") >= 300

    relay.reset()
    second = mount()
    for name in names:
        assert digest(second.path / name) == digest(remote_dir.disk / name)
    assert relay.count("RETR") == 0
    second.unmount()

    make(remote_dir, "big0", names["big0"], seed=2, mtime=OLD + 1)
    make(remote_dir, "big1", names["big1"] + 1, seed=2)
    third = mount()
    for name in list(names)[:10]:
        assert digest(third.path / name) == digest(remote_dir.disk / name)
    fetched = {c.arg.rpartition("/")[2] for c in relay.commands if c.verb == "RETR"}
    assert fetched == {"big0", "big1"}


def test_file_written_here_with_its_old_time_is_not_read_from_the_store(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    old = make(remote_dir, "file", 300_000)
    make(remote_dir, "old/file", 300_000, seed=3)
    moved = make(remote_dir, "new/file", 300_000, seed=4)
    first = mount()
    assert (first.path / "file").read_bytes() == old
    for name in ("old/file", "new/file"):
        assert digest(first.path / name) == digest(remote_dir.disk / name)
    end(first)

    second = mount()
    new = old[::-1]
    (second.path / "file").write_bytes(new)
    os.utime(second.path / "file", (OLD, OLD))
    (second.path / "old").rename(second.path / "away")
    (second.path / "new").rename(second.path / "old")
    assert (second.path / "file").read_bytes() == new
    second.unmount()

    third = mount()
    assert (remote_dir.disk / "file").stat().st_mtime == OLD
    assert (third.path / "file").read_bytes() == new
    assert (third.path / "old/file").read_bytes() == moved
    for name in ("away/file", "old/file"):
        assert digest(third.path / name) == digest(remote_dir.disk / name)


@pytest.mark.long
def test_store_serves_right_bytes_after_kill_while_filling(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, tmp_path: Path
) -> None:
    data = {f"file{n}": make(remote_dir, f"file{n}", 12 * MIB + n) for n in range(4)}
    rng = random.Random(3)
    for _ in range(4):
        mounted = mount()
        [daemon] = _daemons(str(mounted.log))
        readers = [
            subprocess.Popen(
                ["cat", mounted.path / name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for name in data
        ]
        time.sleep(rng.uniform(0.02, 0.25))
        os.kill(daemon, signal.SIGKILL)
        for reader in readers:
            reader.wait(20)
        subprocess.run(["umount", "-l", mounted.path], check=True)
        after = mount()
        for name, content in data.items():
            assert (after.path / name).read_bytes() == content
        after.unmount()
        for path in (tmp_path / "store").glob("*/data/*"):
            if rng.random() < 0.5:
                path.unlink()  # so that the next one has something to fill
    relay.reset()
    last = mount()
    for name, content in data.items():
        assert (last.path / name).read_bytes() == content


def test_two_mounts_share_the_store_and_its_bound(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, folder: Path
) -> None:
    data = {f"file{n}": make(remote_dir, f"file{n}", 3 * MIB + n) for n in range(20)}
    two = [mount("32M"), mount("32M")]
    used, one_at_a_time = [], threading.Lock()

    def read(number: int) -> None:
        rng = random.Random(number)
        for _ in range(30):
            name = rng.choice(list(data))
            assert (two[number % 2].path / name).read_bytes() == data[name]
            with one_at_a_time, stopped(two):
                used.append(disk_usage(folder))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert max(used) <= 32 * MIB
    assert max(used) > 16 * MIB
    for one in two:
        one.unmount()
        assert not log_lines(one, "switched off")
    assert disk_usage(folder) <= 32 * MIB


def test_block_with_a_flipped_byte_is_fetched_again(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, folder: Path
) -> None:
    data = make(remote_dir, "file", 3 * MIB)
    first = mount()
    assert (first.path / "file").read_bytes() == data
    end(first)
    [path] = folder.glob("*/data/file~*[!.side]")
    with open(path, "r+b") as file:
        file.seek(2 * MIB + 5)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    relay.reset()
    second = mount()
    assert (second.path / "file").read_bytes() == data
    assert relay.count("RETR") >= 1
    assert log_lines(second, "damaged on the disk")


# A disk that fails.


@contextlib.contextmanager
def small_disk(path: Path, options: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_store_switches_off_when_the_disk_is_full_and_reading_continues(
    remote_dir: RemoteDir, mount: MountStore, tmp_path: Path
) -> None:
    data = make(remote_dir, "file", 40 * MIB)
    with small_disk(tmp_path / "small", "size=8m") as disk:
        mounted = mount("1G", disk)
        assert (mounted.path / "file").read_bytes() == data
        mounted.unmount()
        assert len(log_lines(mounted, "switched off")) == 1
        # The kernel's message for a block, or SQLite's for the index: whichever came first.
        assert re.search("No space left|disk is full", log_lines(mounted, "switched off")[0])


def test_store_switches_off_when_the_disk_is_read_only_and_reading_continues(
    remote_dir: RemoteDir, mount: MountStore, tmp_path: Path
) -> None:
    data = make(remote_dir, "file", 2 * MIB)
    with small_disk(tmp_path / "small", "ro") as disk:
        mounted = mount("1G", disk)
        assert (mounted.path / "file").read_bytes() == data
        mounted.unmount()
        assert len(log_lines(mounted, "switched off")) == 1


def test_store_switches_off_when_its_folder_vanishes_and_reading_continues(
    remote_dir: RemoteDir, mount: MountStore, folder: Path
) -> None:
    data = {name: make(remote_dir, name, 2 * MIB) for name in ("one", "two", "three")}
    mounted = mount()
    assert (mounted.path / "one").read_bytes() == data["one"]
    folder.rename(folder.with_name("elsewhere"))
    for name in ("two", "three", "one"):
        assert (mounted.path / name).read_bytes() == data[name]
    mounted.unmount()
    assert len(log_lines(mounted, "switched off")) == 1
