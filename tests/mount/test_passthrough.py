"""Passthrough on real mounts: the kernel reads and writes local files itself, and nothing that is
promised changes.

These tests need root, Linux 6.9 and libfuse 3.17 (Debian 13, Ubuntu 25.10). Elsewhere they are
skipped, with what is missing."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from ftpfs import errors
from ftpfs.daemon import control_socket
from ftpfs.fuse import binding
from ftpfs.model.status import MountStatus, PassthroughStatus
from tests.conftest import EXCUSE
from tests.mount.conftest import MountDir, Mounted, daemons_of, ftpfs, wait_until_sent
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

MIB = 1 << 20


def missing() -> str:
    """What this machine lacks for passthrough; "": nothing."""
    try:
        return binding.passthrough_obstacle(binding.choose("mfusepy"), "auto")
    except errors.NotSupported as error:
        return str(error)


@pytest.fixture(scope="session", autouse=True)
def _able() -> None:
    # The machines of CI have an older libfuse. No run there could do better.
    if why := missing():
        pytest.skip(f"{EXCUSE}the kernel of this machine, no passthrough: {why}")


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side."""
    return "vsftpd"


@pytest.fixture
def mounted(mount_dir: MountDir) -> Mounted:
    """A folder of which ftpfs knows that it takes files: only there written files are lent."""
    mounted = mount_dir(binding="mfusepy")
    (mounted.path / "first").write_bytes(b"first")
    wait_until_sent(mounted.path)
    return mounted


def data_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def report(mounted: Mounted) -> MountStatus:
    [daemon] = control_socket.daemons(str(mounted.path), mounted.state / "ftpfs" / "control")
    [reply] = control_socket.ask(daemon, "status")
    return control_socket.Report.from_reply(reply).status


def told(mounted: Mounted) -> PassthroughStatus:
    """What the mount reports of its passthrough."""
    status = report(mounted).passthrough
    assert status is not None
    return status


@contextlib.contextmanager
def daemon_stopped(mounted: Mounted) -> Iterator[None]:
    """What works meanwhile works without the daemon."""
    daemons = daemons_of(mounted)
    assert daemons
    for daemon in daemons:
        os.kill(daemon, signal.SIGSTOP)
    try:
        yield
    finally:
        for daemon in daemons:
            os.kill(daemon, signal.SIGCONT)


def in_time(work: Callable[[], object]) -> None:
    """Do it in a process of its own, which must not wait for the daemon.

    The process ends later: at its end the kernel tells the daemon of its closed descriptors.
    """
    done, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
            os.write(tell, b"done")
        os._exit(0)
    os.close(tell)
    ready, _, _ = select.select([done], [], [], 10)
    said = os.read(done, 4) if ready else b"it waits for the daemon"
    os.close(done)
    assert said == b"done", said


# It is used.


def test_kernel_writes_a_new_file_without_the_daemon(mounted: Mounted) -> None:
    data = data_of(3 * MIB)
    fd = os.open(mounted.path / "new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, data[:1])  # before the first one, the kernel asks about setuid
    with daemon_stopped(mounted):
        in_time(lambda: [os.write(fd, data[at : at + 9999]) for at in range(1, len(data), 9999)])
    assert os.stat(mounted.path / "new").st_size == len(data)
    os.close(fd)
    assert (mounted.disk / "new").read_bytes() == data
    assert told(mounted).files >= 1


def test_kernel_reads_what_was_just_written_without_the_daemon(mounted: Mounted) -> None:
    data = data_of(2 * MIB)
    with open(mounted.path / "new", "wb", buffering=0) as writer:
        writer.write(data)
        with open(mounted.path / "new", "rb", buffering=0) as reader:

            def read() -> None:
                assert reader.read(len(data)) == data

            with daemon_stopped(mounted):
                in_time(read)


def test_option_switches_it_off_and_the_reason_is_told(mount_dir: MountDir) -> None:
    mounted = mount_dir(binding="mfusepy", options="passthrough=no")
    for name in ("one", "two"):
        (mounted.path / name).write_bytes(b"x" * 1000)
        assert (mounted.disk / name).read_bytes() == b"x" * 1000
    assert told(mounted) == PassthroughStatus(on=False, why="switched off by passthrough=no")
    shown = ftpfs("status", env={"XDG_STATE_HOME": str(mounted.state)}).stdout
    assert "off: switched off by passthrough=no" in shown


def test_status_tells_that_it_is_on(mounted: Mounted) -> None:
    assert told(mounted).on
    shown = ftpfs("status", "--json", env={"XDG_STATE_HOME": str(mounted.state)}).stdout
    assert '"passthrough": {\n      "on": true' in shown


# Writing.


def test_every_way_to_write_a_new_file_gives_the_same_bytes(mounted: Mounted) -> None:
    data = data_of(5 * MIB)
    source = mounted.log.parent / "source"
    source.write_bytes(data)
    here = mounted.path
    subprocess.run(["cp", source, here / "cp"], check=True)
    dd = ["dd", f"if={source}", f"of={here}/dd", "bs=128k"]
    subprocess.run(dd, check=True, capture_output=True)
    subprocess.run(f"cat {source} > {here}/cat", shell=True, check=True)
    two = f"(head -c 1000000 {source}; tail -c +1000001 {source}) > {here}/two"
    subprocess.run(two, shell=True, check=True)
    with open(here / "cp", "rb") as read, open(here / "cfr", "wb", buffering=0) as write:
        while os.copy_file_range(read.fileno(), write.fileno(), 1 << 30):
            pass
    with open(here / "backwards", "wb", buffering=0) as write:
        for at in reversed(range(0, len(data), 1_000_000)):
            write.seek(at)
            write.write(data[at : at + 1_000_000])
    names = ["cp", "dd", "cat", "two", "cfr", "backwards"]
    assert told(mounted).files >= len(names)
    for name in names:
        assert (here / name).read_bytes() == data, name
    disk = mounted.disk
    for name in names:
        assert (disk / name).read_bytes() == data, name


def test_file_that_is_written_anew_replaces_the_old_one(mounted: Mounted) -> None:
    (mounted.path / "file").write_bytes(data_of(3 * MIB))
    wait_until_sent(mounted.path)
    (mounted.path / "file").write_bytes(b"short")
    assert (mounted.path / "file").read_bytes() == b"short"
    assert (mounted.disk / "file").read_bytes() == b"short"


def test_long_file_is_sent_while_the_kernel_writes_it(mounted: Mounted) -> None:
    data = data_of(8 * MIB)

    def on_the_server() -> int:
        parts = [path for path in mounted.disk_now.iterdir() if path.name.startswith(".ftpfs-")]
        return sum(path.stat().st_size for path in parts)

    with open(mounted.path / "file", "wb", buffering=0) as file:
        for at in range(0, len(data), MIB):
            file.write(data[at : at + MIB])
            time.sleep(0.1)
        until(lambda: on_the_server() >= 4 * MIB)
        assert told(mounted).files >= 1
    assert (mounted.disk / "file").read_bytes() == data
    assert "written over while it was sent" not in mounted.log_text()


def test_head_that_is_written_last_reaches_the_server(mounted: Mounted) -> None:
    """What was sent by then is old, although the file only seems to have grown."""
    data = data_of(8 * MIB)
    with open(mounted.path / "file", "wb", buffering=0) as file:
        file.write(b"\0" * 100 + data[100:])
        time.sleep(1.5)
        os.pwrite(file.fileno(), data[:100], 0)
    assert (mounted.disk / "file").read_bytes() == data


def test_holes_are_zeros(mounted: Mounted) -> None:
    with open(mounted.path / "file", "wb", buffering=0) as file:
        os.pwrite(file.fileno(), b"end", 2 * MIB)
    assert (mounted.disk / "file").read_bytes() == bytes(2 * MIB) + b"end"


def test_appends_of_several_handles_are_all_there(mounted: Mounted) -> None:
    def append(who: int) -> None:
        fd = os.open(mounted.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for number in range(200):
            os.write(fd, f"{who} {number}\n".encode())
        os.close(fd)

    first = os.open(mounted.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    children = []
    for who in range(3):
        child = os.fork()
        if child == 0:
            try:
                append(who)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    os.close(first)
    lines = (mounted.disk / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{who} {n}" for who in range(3) for n in range(200))


def test_truncate_of_a_file_that_the_kernel_writes(mounted: Mounted) -> None:
    with open(mounted.path / "file", "wb", buffering=0) as file:
        file.write(b"0123456789")
        os.ftruncate(file.fileno(), 4)
        assert os.fstat(file.fileno()).st_size == 4
        assert (mounted.path / "file").read_bytes() == b"0123"
        os.truncate(mounted.path / "file", 8)
        assert (mounted.path / "file").read_bytes() == b"0123\0\0\0\0"
        os.pwrite(file.fileno(), b"ab", 6)
        os.posix_fallocate(file.fileno(), 0, 10)
        assert os.fstat(file.fileno()).st_size == 10
        with open(mounted.path / "file", "wb", buffering=0) as again:
            assert os.fstat(file.fileno()).st_size == 0
            again.write(b"new")
        assert (mounted.path / "file").read_bytes() == b"new"
    assert (mounted.disk / "file").read_bytes() == b"new"


def test_fsync_brings_what_was_written_and_later_writes_follow(mounted: Mounted) -> None:
    with open(mounted.path / "file", "wb", buffering=0) as file:
        file.write(b"one")
        os.fsync(file.fileno())
        assert (mounted.disk_now / "file").read_bytes() == b"one"
        os.pwrite(file.fileno(), b"ONE two", 0)
        os.fsync(file.fileno())
        assert (mounted.disk_now / "file").read_bytes() == b"ONE two"
        os.pwrite(file.fileno(), b"tri", 0)  # as long as before
    assert (mounted.disk / "file").read_bytes() == b"tri two"


def test_time_that_is_set_before_the_close_stays(mounted: Mounted) -> None:
    with open(mounted.path / "file", "wb", buffering=0) as file:
        file.write(b"old")
        os.utime(file.fileno(), (1_000_000_000, 1_000_000_000))
    assert os.stat(mounted.path / "file").st_mtime == 1_000_000_000
    assert (mounted.disk / "file").stat().st_mtime == 1_000_000_000


def test_map_that_outlives_its_descriptor_is_sent(mounted: Mounted) -> None:
    """The kernel releases the handle before the map is written to."""
    path = mounted.path / "file"
    with open(path, "wb", buffering=0) as first:
        first.write(bytes(2 * MIB))
        fd = os.open(path, os.O_RDWR)
        mapped = mmap.mmap(fd, 2 * MIB)
        mapped[:3] = b"one"
        os.close(fd)
    time.sleep(0.5)
    mapped[MIB : MIB + 3] = b"two"
    mapped.close()
    expected = b"one" + bytes(MIB - 3) + b"two" + bytes(MIB - 3)
    until(lambda: (mounted.disk / "file").read_bytes() == expected)
    assert path.read_bytes() == expected


def test_file_goes_on_under_another_name_and_after_its_deletion(mounted: Mounted) -> None:
    with open(mounted.path / "a", "wb", buffering=0) as file:
        file.write(b"one ")
        os.rename(mounted.path / "a", mounted.path / "b")
        file.write(b"two ")
        (mounted.path / "a").write_bytes(b"another")
        os.rename(mounted.path / "b", mounted.path / "first")
        file.write(b"three")
    assert (mounted.disk / "first").read_bytes() == b"one two three"
    assert (mounted.disk / "a").read_bytes() == b"another"
    with open(mounted.path / "a", "wb", buffering=0) as file:
        file.write(b"gone")
        os.unlink(mounted.path / "a")
        file.write(b" and written")
        assert os.fstat(file.fileno()).st_size == 16
        (mounted.path / "a").write_bytes(b"new")
    assert (mounted.disk / "a").read_bytes() == b"new"


def test_files_written_at_the_same_time_hold_their_own(mounted: Mounted) -> None:
    files = [open(mounted.path / f"f{n}", "wb", buffering=0) for n in range(40)]  # noqa: SIM115 (closed below)
    for turn in range(5):
        for number, file in enumerate(files):
            file.write(data_of(10_000, seed=number * 10 + turn))
    for file in files:
        file.close()
    disk = mounted.disk
    for number in range(40):
        expected = b"".join(data_of(10_000, seed=number * 10 + turn) for turn in range(5))
        assert (disk / f"f{number}").read_bytes() == expected


def test_file_of_another_kind_of_open_is_not_lent_and_right(mounted: Mounted) -> None:
    """Opened for reading and writing first: then a map is told by the kernel, as ever."""
    before = told(mounted).files
    with open(mounted.path / "file", "w+b", buffering=0) as file:
        file.write(b"one two")
        with open(mounted.path / "file", "wb", buffering=0) as other:
            other.write(b"three")
        assert os.pread(file.fileno(), 100, 0) == b"three"
    assert (mounted.disk / "file").read_bytes() == b"three"
    assert told(mounted).files == before


def test_limit_of_the_spool_holds(mount_dir: MountDir) -> None:
    mounted = mount_dir(binding="mfusepy", options="spool_size=4M")
    for name in ("one", "two"):
        (mounted.path / name).write_bytes(b"x" * MIB)
        wait_until_sent(mounted.path)
    with pytest.raises(OSError, match="No space left"), open(mounted.path / "big", "wb") as file:
        file.write(bytes(6 * MIB))
    assert told(mounted).files == 0


def test_closed_file_survives_a_killed_daemon(mounted: Mounted, mount_dir: MountDir) -> None:
    data = data_of(2 * MIB)
    going_on = os.open(mounted.path / "open", os.O_WRONLY | os.O_CREAT)
    os.write(going_on, b"never closed")
    (mounted.path / "closed").write_bytes(data)
    for daemon in daemons_of(mounted):
        os.kill(daemon, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.write(going_on, b"!")
    with contextlib.suppress(OSError):
        os.close(going_on)
    subprocess.run(["umount", "-l", mounted.path], check=False, capture_output=True)
    until(lambda: not daemons_of(mounted))
    again = mount_dir(binding="mfusepy")
    assert (again.disk / "closed").read_bytes() == data
    kept = list((again.state / "ftpfs" / "spool").glob("*/kept/*"))
    assert [path.read_bytes()[:12] for path in kept] == [b"never closed"]


def test_program_that_runs_from_the_mount_is_the_one_written(mounted: Mounted) -> None:
    script = mounted.path / "script"
    script.write_text(f"#!{sys.executable}\nprint(6 * 7)\n")
    script.chmod(0o755)
    done = subprocess.run([script], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"
