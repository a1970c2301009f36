"""Stored contents that the kernel reads itself, on real mounts: whatever happens to the file
meanwhile, no reader gets a byte that nobody promised.

These tests need what those of `test_passthrough` need, and are skipped elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import EXCUSE, RemoteDir
from tests.mount.conftest import MountDir, Mounted, daemons_of, ftpfs, wait_until_sent
from tests.mount.test_passthrough import daemon_stopped, data_of, in_time, missing, told
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import until, until_gone

pytestmark = pytest.mark.mount

MIB = 1 << 20
SIZE = 3 * MIB + 77
OLD = 1_000_000_000  # long past: a file that was changed within the last hour is not lent
# After this time an open asks the server again (`open_ttl`), and a little more (s).
LOOKED_AT_AGAIN = 3.0

MountStore = Callable[..., Mounted]


@pytest.fixture(scope="session", autouse=True)
def _able() -> None:
    if why := missing():
        pytest.skip(f"{EXCUSE}the kernel of this machine, no passthrough: {why}")


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side."""
    return "vsftpd"


@pytest.fixture
def mount(relay: Relay, mount_dir: MountDir, tmp_path: Path) -> MountStore:
    def mount(options: str = "") -> Mounted:
        words = f"cache_size=1G,cache_dir={tmp_path}/store"
        words = f"{words},{options}" if options else words
        return mount_dir(through=relay, binding="mfusepy", options=words)

    return mount


def make(remote_dir: RemoteDir, name: str, data: bytes, mtime: int = OLD) -> None:
    """A file on the server, that replaces what is there in one moment."""
    aside = remote_dir.write(f"aside-{name}", data)
    os.utime(aside, (mtime, mtime))
    aside.rename(remote_dir.disk / name)


def lent(mounted: Mounted, name: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a stored file that the kernel reads itself."""
    fds: list[int] = []

    def is_lent() -> bool:
        before = told(mounted).files
        fd = os.open(mounted.path / name, flags)
        if told(mounted).files > before:
            fds.append(fd)
            return True
        while os.read(fd, MIB):
            pass
        os.close(fd)
        return False

    until(is_lent)
    return fds[0]


def content(fd: int) -> bytes:
    found, at = b"", 0
    while more := os.pread(fd, MIB, at):
        found, at = found + more, at + len(more)
    return found


def run(program: Path) -> bytes:
    """What a program prints. A shell starts it: this process holds the relay up until the exec."""
    return subprocess.run(["sh", "-c", f"{program}; exit"], capture_output=True, check=True).stdout


def files(mounted: Mounted) -> int:
    return told(mounted).files


# It is used.


def test_stored_file_is_read_without_the_daemon(remote_dir: RemoteDir, mount: MountStore) -> None:
    data = data_of(SIZE)
    make(remote_dir, "file", data)
    mounted = mount()
    fd = lent(mounted, "file")
    mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)

    def read() -> None:
        assert content(fd) == data
        assert mapped[:] == data

    with daemon_stopped(mounted):
        in_time(read)
    mapped.close()
    os.close(fd)


def test_small_and_new_files_are_not_lent(remote_dir: RemoteDir, mount: MountStore) -> None:
    make(remote_dir, "small", data_of(MIB - 1))
    make(remote_dir, "new", data_of(SIZE), mtime=int(time.time()) - 600)
    mounted = mount()
    for _ in range(4):
        assert (mounted.path / "small").read_bytes() == data_of(MIB - 1)
        assert (mounted.path / "new").read_bytes() == data_of(SIZE)
        time.sleep(0.5)
    assert files(mounted) == 0
    assert told(mounted).unlent["it was changed within the last hour"] >= 3
    shown = ftpfs("status", env={"XDG_STATE_HOME": str(mounted.state)}).stdout
    assert "it was changed within the last hour" in " ".join(shown.split())


def test_file_of_a_read_only_mount_is_not_lent(remote_dir: RemoteDir, mount: MountStore) -> None:
    make(remote_dir, "file", data_of(SIZE))
    mounted = mount("ro")
    for _ in range(3):
        assert (mounted.path / "file").read_bytes() == data_of(SIZE)
        time.sleep(0.3)
    assert files(mounted) == 0
    assert told(mounted).unlent == {"the mount is read-only": 3}


def test_all_handles_of_a_file_read_the_same(remote_dir: RemoteDir, mount: MountStore) -> None:
    """The kernel refuses a mixture of opens."""
    data = data_of(SIZE)
    make(remote_dir, "file", data)
    mounted = mount()
    plain = os.open(mounted.path / "file", os.O_RDONLY)
    assert content(plain) == data
    time.sleep(1.5)  # it is stored, and checked
    before = files(mounted)
    second = os.open(mounted.path / "file", os.O_RDONLY)
    assert content(second) == data
    assert files(mounted) == before, "the first one is not lent to"
    os.close(plain)
    os.close(second)
    fds = [lent(mounted, "file"), os.open(mounted.path / "file", os.O_RDONLY)]
    fds.append(os.open(mounted.path / "file", os.O_RDONLY | os.O_DIRECT))
    assert [content(fd) == data for fd in fds[:2]] == [True, True]
    for fd in fds:
        os.close(fd)


# Others change it.


@pytest.mark.parametrize("size", [SIZE, SIZE + MIB, SIZE // 2, 100])
def test_open_after_a_change_reads_the_new_content(
    remote_dir: RemoteDir, mount: MountStore, size: int
) -> None:
    old, new = data_of(SIZE), data_of(size, seed=2)
    make(remote_dir, "file", old)
    mounted = mount()
    path = mounted.path / "file"
    fd = lent(mounted, "file")
    assert os.pread(fd, 1000, 0) == old[:1000]
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as before:
        make(remote_dir, "file", new, mtime=OLD + 10)
        time.sleep(LOOKED_AT_AGAIN)
        for _ in range(3):
            assert path.read_bytes() == new
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as now:
                assert now[:] == new
            assert subprocess.run(["cat", path], capture_output=True, check=True).stdout == new
            assert path.stat().st_size == size
        assert before[:] == old
        assert content(fd) == old
    os.close(fd)
    again = os.open(path, os.O_RDONLY)
    assert content(again) == new
    os.close(again)
    assert not [name for name in os.listdir(mounted.path) if name.startswith(".ftpfs")]
    assert sorted(os.listdir(mounted.disk)) == ["file"]


def test_program_replaced_by_others_is_run_while_it_is_read(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    def script(word: str) -> bytes:
        return f"#!/bin/sh\necho {word}\nexit\n".encode().ljust(2 * MIB, b"\n")

    make(remote_dir, "tool", script("old"))
    (remote_dir.disk / "tool").chmod(0o755)
    mounted = mount()
    fd, tool = lent(mounted, "tool"), mounted.path / "tool"
    assert run(tool) == b"old\n"
    make(remote_dir, "tool", script("new"), mtime=OLD + 10)
    (remote_dir.disk / "tool").chmod(0o755)
    time.sleep(LOOKED_AT_AGAIN)
    assert run(tool) == b"new\n"
    os.close(fd)


def test_log_that_grows_is_followed(remote_dir: RemoteDir, mount: MountStore) -> None:
    data = data_of(SIZE)
    make(remote_dir, "log", data)
    mounted = mount()
    fd = lent(mounted, "log")
    silent = os.open(mounted.path / "log", os.O_RDONLY)
    tail = subprocess.Popen(
        ["tail", "-n", "0", "-f", mounted.path / "log"], stdout=subprocess.PIPE, text=True
    )
    assert tail.stdout is not None
    time.sleep(1)
    for number in range(3):
        with open(remote_dir.disk / "log", "ab") as log:
            log.write(f"line {number}\n".encode())
        begun = time.monotonic()
        assert tail.stdout.readline() == f"line {number}\n"
        assert time.monotonic() - begun < 4
    tail.kill()
    tail.wait()
    tail.stdout.close()
    expected = data + b"line 0\nline 1\nline 2\n"
    # This one never asks for the size, but is at the end.
    os.lseek(silent, len(data), os.SEEK_SET)
    assert os.read(silent, 100) == expected[len(data) :]
    assert content(fd) == expected
    assert (mounted.path / "log").read_bytes() == expected
    with open(remote_dir.disk / "log", "ab") as log:
        log.write(b"more")
    until(lambda: os.read(silent, 100) == b"more", within=6)
    assert os.fstat(fd).st_size == len(expected) + 4
    os.close(fd)
    os.close(silent)
    assert (mounted.path / "log").read_bytes() == expected + b"more"


READER = """
import errno, mmap, os, sys, time
path, size, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
end, opens, cut = time.monotonic() + seconds, 0, 0
while time.monotonic() < end:
    fd = os.open(path, os.O_RDONLY)
    opens += 1
    try:
        if opens % 2:
            found = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
        else:
            with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapped:
                found = mapped[:] if opens % 4 else mapped[: 1 << 20] + mapped[1 << 20 :]
        assert len(found) == size, len(found)
        assert found == found[:1] * size, {found[0], found[-1]}
    except OSError as error:
        assert error.errno == errno.EIO, error
        cut += 1
    finally:
        os.close(fd)
    time.sleep(0.01)
print(opens, cut)
"""


def test_readers_of_a_file_that_changes_all_the_time_get_one_content(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    """Each open succeeds. What it reads is one content, or EIO."""
    make(remote_dir, "file", b"0" * SIZE)
    mounted = mount("open_ttl=0.1")
    held = [lent(mounted, "file")]
    command = [sys.executable, "-c", READER, str(mounted.path / "file"), str(SIZE), "8"]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    for number in range(1, 10):
        time.sleep(0.9)
        make(remote_dir, "file", b"%d" % number * SIZE, mtime=OLD + number)
        held.append(os.open(mounted.path / "file", os.O_RDONLY))
    for reader in readers:
        out, _ = reader.communicate()
        assert reader.returncode == 0
        opens, cut = map(int, out.split())
        assert opens > 2 * cut
    assert content(held[0]) == b"0" * SIZE
    for fd in held:
        os.close(fd)
    until(lambda: (mounted.path / "file").read_bytes() == b"9" * SIZE)
    assert files(mounted) >= 1


def test_open_fails_if_the_name_cannot_get_another_inode(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    data = data_of(SIZE)
    make(remote_dir, "file", data)
    mounted = mount()
    fd = lent(mounted, "file")
    remount_bind_read_only = 32 | 4096 | 1  # MS_REMOUNT, MS_BIND, MS_RDONLY
    libc, path = ctypes.CDLL(None), os.fsencode(mounted.path)
    assert libc.mount(b"none", path, None, ctypes.c_ulong(remount_bind_read_only), None) == 0
    new = data_of(SIZE, seed=2)
    make(remote_dir, "file", new, mtime=OLD + 10)
    time.sleep(LOOKED_AT_AGAIN)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            (mounted.path / "file").read_bytes()
    assert content(fd) == data
    os.close(fd)
    until(lambda: (mounted.path / "file").read_bytes() == new)


def test_reader_in_the_middle_of_a_file_gets_nothing_of_a_longer_one(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    data = data_of(SIZE)
    make(remote_dir, "log", data)
    mounted = mount()
    fd = lent(mounted, "log")
    found = os.read(fd, MIB)
    with open(remote_dir.disk / "log", "ab") as log:
        log.write(b"more")
    time.sleep(LOOKED_AT_AGAIN)
    assert os.stat(mounted.path / "log").st_size == SIZE + 4
    while len(found) < SIZE:
        found += os.read(fd, MIB)
        os.stat(mounted.path / "log")
    assert found == data
    until(lambda: os.read(fd, 100) == b"more", within=6)  # it is at the end now
    os.close(fd)


# Programs here change it.


def test_writer_of_a_file_that_is_read_is_seen_by_the_reader(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    data = bytearray(data_of(SIZE))
    make(remote_dir, "file", bytes(data))
    mounted = mount()
    path = mounted.path / "file"
    fd = lent(mounted, "file")
    mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    with open(path, "r+b", buffering=0) as writer:
        writer.seek(MIB)
        writer.write(b"written here")
        data[MIB : MIB + 12] = b"written here"
        assert os.pread(fd, 12, MIB) == b"written here"
        assert mapped[MIB : MIB + 12] == b"written here"
        assert path.read_bytes() == bytes(data)
        with open(path, "ab", buffering=0) as appender:
            appender.write(b"the end")
        data += b"the end"
        assert content(fd) == bytes(data)
        with mmap.mmap(writer.fileno(), 0) as changed:
            changed[:5] = b"mmap!"
        data[:5] = b"mmap!"
        os.fsync(writer.fileno())
        assert content(fd) == bytes(data)
    mapped.close()
    assert path.read_bytes() == bytes(data)
    os.truncate(path, 2 * MIB)
    del data[2 * MIB :]
    assert content(fd) == bytes(data)
    assert os.fstat(fd).st_size == 2 * MIB
    os.close(fd)
    assert (mounted.disk / "file").read_bytes() == bytes(data)
    assert path.read_bytes() == bytes(data)


def test_file_that_is_read_is_written_anew(remote_dir: RemoteDir, mount: MountStore) -> None:
    make(remote_dir, "file", data_of(SIZE))
    mounted = mount()
    fd = lent(mounted, "file")
    (mounted.path / "file").write_bytes(b"short")
    assert content(fd) == b"short"
    assert (mounted.path / "file").read_bytes() == b"short"
    os.close(fd)
    assert (mounted.disk / "file").read_bytes() == b"short"


def test_file_that_is_read_is_renamed_replaced_and_deleted(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    data, other = data_of(SIZE), data_of(SIZE, seed=2)
    make(remote_dir, "file", data)
    mounted = mount()
    here = mounted.path
    fd = lent(mounted, "file")
    os.rename(here / "file", here / "moved")
    assert (here / "moved").read_bytes() == data
    (here / "new").write_bytes(other)
    os.rename(here / "new", here / "moved")
    assert content(fd) == data
    assert (here / "moved").read_bytes() == other
    wait_until_sent(here)
    second = os.open(here / "moved", os.O_RDONLY)
    os.unlink(here / "moved")
    assert content(second) == other
    assert content(fd) == data
    os.close(fd)
    os.close(second)
    until_gone(lambda: os.listdir(mounted.disk_now))


def test_change_elsewhere_and_then_here_leaves_no_mixture(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    old, new = data_of(SIZE), bytearray(data_of(SIZE + 5, seed=2))
    make(remote_dir, "file", old)
    mounted = mount()
    fd = lent(mounted, "file")
    make(remote_dir, "file", bytes(new[:-5]), mtime=OLD + 10)
    time.sleep(LOOKED_AT_AGAIN)
    with open(mounted.path / "file", "r+b", buffering=0) as writer:
        os.pwrite(writer.fileno(), b"here!", SIZE)
        new[-5:] = b"here!"
        assert os.pread(writer.fileno(), SIZE + 5, 0) == bytes(new[: 1 << 31])
        assert content(fd) == old
    os.close(fd)
    assert (mounted.disk / "file").read_bytes() == bytes(new)


# The store.


def test_evicted_content_is_read_to_its_end(
    remote_dir: RemoteDir, mount: MountStore, tmp_path: Path
) -> None:
    data = data_of(SIZE)
    make(remote_dir, "file", data)
    mounted = mount()
    fd = lent(mounted, "file")
    ftpfs("cache", "clear", env={"XDG_STATE_HOME": str(mounted.state)})
    for path in (tmp_path / "store").rglob("file~*"):
        path.unlink()
    assert content(fd) == data
    assert (mounted.path / "file").read_bytes() == data
    os.close(fd)
    assert (mounted.path / "file").read_bytes() == data


def test_full_store_evicts_what_is_read_and_punches_no_hole(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    data = {f"file{n}": data_of(20 * MIB, seed=n) for n in range(5)}
    for name, each in data.items():
        make(remote_dir, name, each)
    mounted = mount("cache_size=60M")
    fd = lent(mounted, "file0")
    for _ in range(2):
        for name in list(data)[1:]:
            assert (mounted.path / name).read_bytes() == data[name]
            time.sleep(0.5)
    assert content(fd) == data["file0"]
    os.close(fd)


def test_damaged_content_is_not_lent(
    remote_dir: RemoteDir, mount: MountStore, tmp_path: Path
) -> None:
    data = data_of(20 * MIB)
    make(remote_dir, "file", data)
    first = mount()
    os.close(lent(first, "file"))
    first.unmount()
    until(lambda: not daemons_of(first))
    [stored] = [path for path in (tmp_path / "store").rglob("file~*") if path.suffix != ".side"]
    with open(stored, "r+b") as file:
        file.seek(MIB)
        [byte] = file.read(1)
        file.seek(MIB)
        file.write(bytes([byte ^ 1]))
    second = mount()
    for _ in range(5):
        assert (second.path / "file").read_bytes() == data
        time.sleep(0.3)
    assert "is damaged on the disk" in second.log_text()
    assert files(second) == 0


def test_two_mounts_of_one_store_do_not_lend_the_same_content(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    data = data_of(SIZE)
    make(remote_dir, "file", data)
    one, two = mount(), mount()
    fd = lent(one, "file")
    for _ in range(3):
        assert (two.path / "file").read_bytes() == data
    assert files(two) == 0
    assert told(two).unlent["another mount has it"] == 3
    with open(one.path / "file", "r+b") as writer:
        writer.write(b"changed")
        writer.flush()
        assert os.pread(fd, 7, 0) == b"changed"
        assert (two.path / "file").read_bytes() == data
    os.close(fd)
    assert (one.disk / "file").read_bytes() == b"changed" + data[7:]


def test_killed_daemon_leaves_a_store_that_lends_again(
    remote_dir: RemoteDir, mount: MountStore
) -> None:
    data = data_of(SIZE)
    make(remote_dir, "file", data)
    first = mount()
    fd = lent(first, "file")
    for daemon in daemons_of(first):
        os.kill(daemon, signal.SIGKILL)
    with contextlib.suppress(OSError):
        found = content(fd)
        assert found == data
    with contextlib.suppress(OSError):
        os.close(fd)
    subprocess.run(["umount", "-l", first.path], check=False, capture_output=True)
    until(lambda: not daemons_of(first))
    second = mount()
    fd = lent(second, "file")
    assert content(fd) == data
    os.close(fd)


def test_program_that_reads_a_long_file_makes_the_mount_ask_nothing(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore
) -> None:
    make(remote_dir, "film", data_of(SIZE))
    mounted = mount()
    fd = lent(mounted, "film")
    os.read(fd, MIB)
    time.sleep(1)
    looks = "MDTM", "SIZE", "LIST"
    before = [relay.count(each) for each in looks]
    time.sleep(5)
    assert [relay.count(each) for each in looks] == before
    assert content(fd)
    os.lseek(fd, 0, os.SEEK_END)
    until(lambda: [relay.count(each) for each in looks] != before)
    os.close(fd)
