"""A bad network under real mounts never leads to wrong bytes, empty folders or "no such file"."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RemoteDir, StartServer
from tests.mount.conftest import (
    MountDir,
    Mounted,
    MountServer,
    daemons_of,
    wait_until_sent,
)
from tests.mount.test_everyday import make_tree, run, snapshot
from tests.support import servers
from tests.support.relay import How, Relay, When
from tests.support.servers import Kind

pytestmark = pytest.mark.mount

# What an application may see of a network that failed.
NETWORK = {errno.EIO, errno.ETIMEDOUT}
DEADLINES = "connect_timeout=1,reply_timeout=1.5,data_timeout=1.5,finish_timeout=2"
# The longest that one operation may take: a few steps, each with its own deadline.
DEADLINE = 8.0


@pytest.fixture(params=["pyftpdlib", "vsftpd"], scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    """One server with MLSD and one without; one in one process and one that forks."""
    kind: Kind = request.param
    return kind


@pytest.fixture
def mounted(relay: Relay, mount_dir: MountDir) -> Mounted:
    return mount_dir(through=relay, options=DEADLINES)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def network_error(operation: Callable[[], object]) -> OSError:
    """The error that `operation` ends with. It must be an error of the network."""
    with within(DEADLINE), pytest.raises(OSError) as caught:
        operation()
    expect_network(caught.value, "")
    return caught.value


def expect_network(error: OSError, where: object) -> None:
    assert error.errno in NETWORK, (where, error)


# The server is gone.


def test_read_fails_while_the_server_is_gone_and_works_when_it_is_back(
    mounted: Mounted, remote_dir: RemoteDir, relay: Relay
) -> None:
    data = blob(30_000_000)
    remote_dir.write("big", data)
    relay.data_rate = 4_000_000
    with open(mounted.path / "big", "rb", buffering=0) as file:
        assert file.read(100_000) == data[:100_000]
        relay.vanish()
        network_error(lambda: file.read(20_000_000) and file.seek(25_000_000) and file.read(1))
        mounted.forget()
        network_error(lambda: os.listdir(mounted.path))
        network_error(lambda: (mounted.path / "missing").stat())
        network_error(lambda: (mounted.path / "other").write_bytes(b"x"))
        relay.data_rate = None
        relay.come_back()
        until_up(lambda: list_anew(mounted))
    assert (mounted.path / "big").read_bytes() == data


def until_up(operation: Callable[[], object]) -> None:
    """Repeat until it works: the mount asks a server that was down only every few seconds."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            operation()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def list_anew(mounted: Mounted) -> None:
    """Ask the server for its names."""
    mounted.forget()
    os.listdir(mounted.path)


@pytest.mark.parametrize("how", ["vanish", "stall"])
def test_ls_of_a_server_that_is_away_is_an_error_and_no_empty_folder(
    mounted: Mounted, remote_dir: RemoteDir, relay: Relay, how: str
) -> None:
    remote_dir.write("folder/file", b"x")
    assert os.listdir(mounted.path / "folder") == ["file"]
    time.sleep(1.1)  # the kernel believes for a second what `ls` has shown it
    mounted.forget()
    if how == "vanish":
        relay.vanish()
    else:
        relay.stall_replies()
    network_error(lambda: os.listdir(mounted.path / "folder"))
    network_error(lambda: (mounted.path / "folder/file").stat())
    network_error(lambda: (mounted.path / "folder/missing").stat())
    relay.clear()
    until_up(lambda: list_anew(mounted))
    assert os.listdir(mounted.path / "folder") == ["file"]


# Control connections cut.


class Sequence:
    """An operation on a mount, and the condition that the server's disk fulfils after it."""

    def __init__(self, place: RemoteDir, mounted: Mounted, number: int) -> None:
        self.place = place
        self.here = mounted.path
        self.disk = mounted.disk_now
        self.name = f"n{number}"
        self.data = blob(50_000 + number, number)

    def prepare(self) -> None:
        pass

    def do(self) -> None:
        raise NotImplementedError

    def done(self) -> bool:
        raise NotImplementedError


class CopyIn(Sequence):
    def do(self) -> None:
        (self.here / self.name).write_bytes(self.data)
        wait_until_sent(self.here)

    def done(self) -> bool:
        return (self.disk / self.name).read_bytes() == self.data


class Replace(CopyIn):
    def prepare(self) -> None:
        self.place.write(self.name, b"what was there")


class CopyOut(Sequence):
    def prepare(self) -> None:
        self.place.write(self.name, self.data)

    def do(self) -> None:
        self.got = (self.here / self.name).read_bytes()

    def done(self) -> bool:
        return self.got == self.data


class List(Sequence):
    def prepare(self) -> None:
        self.place.write(f"{self.name}/one", b"")
        self.place.write(f"{self.name}/two", b"")

    def do(self) -> None:
        self.got = sorted(os.listdir(self.here / self.name))

    def done(self) -> bool:
        return self.got == ["one", "two"]


class Move(Sequence):
    def prepare(self) -> None:
        self.place.write(self.name, self.data)

    def do(self) -> None:
        (self.here / self.name).rename(self.here / f"{self.name}-moved")

    def done(self) -> bool:
        moved = self.disk / f"{self.name}-moved"
        return not (self.disk / self.name).exists() and moved.read_bytes() == self.data


class Remove(Sequence):
    def prepare(self) -> None:
        self.place.write(self.name, self.data)

    def do(self) -> None:
        (self.here / self.name).unlink()

    def done(self) -> bool:
        return not (self.disk / self.name).exists()


class MakeFolder(Sequence):
    def do(self) -> None:
        (self.here / self.name).mkdir()

    def done(self) -> bool:
        return (self.disk / self.name).is_dir()


@pytest.mark.parametrize("when", ["before", "final"])
@pytest.mark.parametrize("kind", [CopyIn, Replace, CopyOut, List, Move, Remove, MakeFolder])
def test_work_succeeds_when_the_control_connection_is_cut_at_any_command(
    remote_dir: RemoteDir, mounted: Mounted, relay: Relay, kind: type[Sequence], when: When
) -> None:
    number = 0
    while True:
        work = kind(remote_dir, mounted, number)
        work.prepare()
        mounted.forget()
        rule = relay.cut_control(skip=number, when=when)
        with within(DEADLINE):
            try:
                work.do()
                failed = None
            except OSError as error:
                failed = error
        rule.remove()
        if failed is None:
            assert work.done(), f"command {number}"
        else:
            expect_network(failed, number)
            until_up(lambda: list_anew(mounted))
            # An error may have come after the deed; else doing it again has to work.
            if not isinstance(work, (Move, Remove, MakeFolder)) or not work.done():
                work.do()
            assert work.done(), f"command {number}, again"
        assert not [name for name in os.listdir(mounted.disk) if name.startswith(".ftpfs-")]
        if not rule.hits:
            break
        number += 1
        # With LIST, each name there would cost a command more.
        run("rm -rf -- *", mounted.disk)
    assert number > 0


# Data connections cut.

OFFSETS = [0, 1, 4095, 131072, 131073, 262149, 999_999]


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("times", [1, None])
def test_data_cut_while_reading_gives_the_right_bytes_or_an_error(
    remote_dir: RemoteDir, mounted: Mounted, relay: Relay, how: How, times: int | None
) -> None:
    for number, after in enumerate(OFFSETS):
        data = blob(1_000_000, number)
        remote_dir.write(f"file{number}", data)
        mounted.forget()
        # Listings are cut, too: either is an error, and neither is a wrong answer. But a listing
        # that ends properly, and of which the server says 226, is a whole one: it has no length.
        verb = "RETR" if how == "fin" else None
        rule = relay.cut_data("down", after=after, times=times, how=how, verb=verb)
        try:
            with within(DEADLINE):
                assert (mounted.path / f"file{number}").read_bytes() == data
        except OSError as error:
            expect_network(error, after)
        rule.remove()
        assert (mounted.path / f"file{number}").read_bytes() == data


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_data_cut_while_writing_is_an_error_or_the_file_is_whole(
    remote_dir: RemoteDir, mounted: Mounted, relay: Relay, how: How
) -> None:
    for number, after in enumerate(OFFSETS):
        for replacing in (False, True):
            name = f"file{number}{replacing}"
            data = blob(1_000_000, number)
            if replacing:
                remote_dir.write(name, b"what was there")
            mounted.forget()
            rule = relay.cut_data("up", after=after, how=how)
            try:
                with within(DEADLINE):
                    (mounted.path / name).write_bytes(data)
            except OSError as error:
                expect_network(error, after)
                if replacing:
                    kept = (mounted.disk / name).read_bytes()
                    assert kept in (data, b"what was there", b"")
            else:
                assert (mounted.disk / name).read_bytes() == data, after
            rule.remove()
            (mounted.path / name).write_bytes(data[::-1])
            assert (mounted.disk / name).read_bytes() == data[::-1]


# Stalls.


def test_stalled_read_times_out(mounted: Mounted, remote_dir: RemoteDir, relay: Relay) -> None:
    data = blob(5_000_000)
    remote_dir.write("file", data)
    os.listdir(mounted.path)
    relay.stall_data("down", after=100_000, times=None)
    error = network_error(lambda: (mounted.path / "file").read_bytes())
    assert error.errno == errno.ETIMEDOUT
    relay.clear()
    assert (mounted.path / "file").read_bytes() == data


def test_stalled_write_times_out_at_fsync(
    mounted: Mounted, remote_dir: RemoteDir, relay: Relay
) -> None:
    data = blob(20_000_000)
    relay.stall_data("up", after=100_000, times=None)
    with open(mounted.path / "file", "wb") as file:
        file.write(data)
        file.flush()
        assert network_error(lambda: os.fsync(file.fileno())).errno == errno.ETIMEDOUT
        relay.clear()
        until_up(lambda: os.fsync(file.fileno()))
    assert (mounted.disk / "file").read_bytes() == data


def test_silent_server_times_out(mounted: Mounted, remote_dir: RemoteDir, relay: Relay) -> None:
    remote_dir.write("file", b"content")
    relay.stall_replies()
    assert network_error(lambda: (mounted.path / "file").stat()).errno == errno.ETIMEDOUT
    relay.clear()
    until_up(lambda: (mounted.path / "file").stat())
    assert (mounted.path / "file").read_bytes() == b"content"


# Few connections.


def test_sixty_four_readers_share_two_connections(
    mounted: Mounted, remote_dir: RemoteDir, relay: Relay
) -> None:
    relay.limit_connections(2)
    contents = {f"file{n}": blob(200_000 + n, n) for n in range(64)}
    for name, data in contents.items():
        remote_dir.write(name, data)
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        got = pool.map(lambda name: (mounted.path / name).read_bytes(), contents)
        assert list(got) == list(contents.values())
    assert relay.peak_connections <= 2


@pytest.mark.parametrize("at", ["greeting", "login"])
def test_one_connection_serves_everything_while_a_big_file_is_read(
    mounted: Mounted, remote_dir: RemoteDir, relay: Relay, tmp_path: Path, at: str
) -> None:
    relay.limit_connections(1, at=at)  # type: ignore[arg-type]
    data = blob(20_000_000)
    remote_dir.write("big", data)
    source = make_tree(tmp_path / "source")
    stop = threading.Event()
    wrong: list[str] = []

    def read_on() -> None:
        while not stop.is_set():
            if (mounted.path / "big").read_bytes() != data:
                wrong.append("the big file was wrong")

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        run(f"cp -r {source} {mounted.path}/tree", tmp_path)
        run(f"ls -lR {mounted.path}", tmp_path)
        run(f"cp -r {mounted.path}/tree {tmp_path}/out", tmp_path)
    finally:
        stop.set()
        reader.join(60)
    assert not wrong
    assert snapshot(tmp_path / "out", times=False) == snapshot(source, times=False)
    if at == "greeting":  # else one more is open until its login is refused
        assert relay.peak_connections <= 1


# Idle.


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_connections_dropped_while_idle_are_not_noticed(
    mounted: Mounted, remote_dir: RemoteDir, relay: Relay, how: How
) -> None:
    names = [f"file{number}" for number in range(3)]
    for name in names:
        remote_dir.write(name, b"content")
    for name in names:
        relay.cut_all(how)
        mounted.forget()
        assert sorted(os.listdir(mounted.path)) == names
        relay.cut_all(how)
        assert (mounted.path / name).read_bytes() == b"content"
        relay.cut_all(how)
        (mounted.path / name).write_bytes(b"changed")
        assert (mounted.disk / name).read_bytes() == b"changed"


def test_idle_sessions_closed_by_421_are_not_noticed(
    server_kind: Kind, start_server: StartServer, mount_server: MountServer
) -> None:
    server = start_server(server_kind, options=servers.Options(idle_timeout=1))
    mounted = mount_server(server, server.root, options=DEADLINES)
    (mounted.path / "file").write_bytes(b"content")
    time.sleep(2.2)
    mounted.forget()
    assert os.listdir(mounted.path) == ["file"]
    time.sleep(2.2)  # longer than an open believes what was listed
    assert (mounted.path / "file").read_bytes() == b"content"


# Connections that are forgotten on the way.


def test_sessions_that_were_forgotten_cost_one_short_deadline_and_not_each_its_own(
    mount_dir: MountDir, remote_dir: RemoteDir, relay: Relay
) -> None:
    """A NAT restarts, a VPN comes up, or a laptop sleeps; with default options."""
    for number in range(8):
        remote_dir.write(f"d{number}/file", blob(1000, number))
        remote_dir.write(f"f{number}", blob(300_000, number))
    mounted = mount_dir(through=relay)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (mounted.path / f"f{n}").read_bytes(), range(6)))
    assert relay.open_connections > 2
    time.sleep(1.5)
    relay.forget()
    with within(10):
        assert os.listdir(mounted.path / "d1") == ["file"]
    with within(4):
        for number in range(2, 8):
            assert os.listdir(mounted.path / f"d{number}") == ["file"]
        assert (mounted.path / "f7").read_bytes() == blob(300_000, 7)
    time.sleep(1.5)
    relay.forget()
    with within(10):
        (mounted.path / "note").write_bytes(b"saved")
        os.rename(mounted.path / "f1", mounted.path / "d1" / "moved")
        os.remove(mounted.path / "f2")
    assert (mounted.disk / "note").read_bytes() == b"saved"
    assert (mounted.disk / "d1" / "moved").read_bytes() == blob(300_000, 1)
    assert not (mounted.disk / "f2").exists()


def test_daemon_ends_soon_when_the_kernel_was_reading_ahead_over_forgotten_connections(
    mount_dir: MountDir, remote_dir: RemoteDir, relay: Relay, fuse_binding: str
) -> None:
    """With default options: the deadline for data is 20 s."""
    remote_dir.write("big", blob(40_000_000))
    mounted = mount_dir(through=relay, binding=fuse_binding)
    relay.data_rate = 4_000_000
    with (mounted.path / "big").open("rb") as file:
        file.read(300_000)
    relay.forget()
    with within(12):
        mounted.unmount()
        while daemons_of(mounted):
            time.sleep(0.05)


def test_file_that_is_read_on_a_lazily_unmounted_mount_is_not_cut_off(
    mount_dir: MountDir, remote_dir: RemoteDir, relay: Relay
) -> None:
    data = blob(16_000_000)
    remote_dir.write("big", data)
    mounted = mount_dir(through=relay)
    relay.data_rate = 4_000_000
    with (mounted.path / "big").open("rb") as file:
        begin = file.read(100_000)
        subprocess.run(["umount", "-l", str(mounted.path)], check=True)
        assert begin + file.read() == data
