"""Many readers on a bad network: what is delivered is right, every read ends, most of them well,
and nothing is left over. Seeded, so that a run can be repeated; timing is the machine's.

The kernel's pages are dropped before each read and the block cache is small, so that what is read
comes over the network.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftpfs.fuse import binding
from tests.conftest import RemoteDir
from tests.mount.conftest import Mounted, MountServer, _daemons
from tests.support import servers
from tests.support.relay import How, Relay, When
from tests.support.servers import Kind

pytestmark = pytest.mark.mount

NETWORK = {errno.EIO, errno.ETIMEDOUT}
DEADLINES = "connect_timeout=1,reply_timeout=1.5,data_timeout=1.5,finish_timeout=2"
SMALL_CACHE = "block_cache=2M,read_ahead=1M,attr_timeout=0"
# The longest a read may take: three attempts, each with its own steps and deadlines, and a turn at
# a connection before each; and a machine that does something else, too.
DEADLINE = 25.0
READERS = 8
SIZES = {
    "empty": 0,
    "small": 5000,
    "block": 131072,
    "some": 700_001,
    "big": 6_000_001,
    "huge": 16 << 20,
}


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One that forks: its sessions can be counted."""
    if reason := servers.why_unavailable("vsftpd"):
        pytest.skip(reason)
    return "vsftpd"


@pytest.fixture
def contents(remote_dir: RemoteDir) -> dict[str, bytes]:
    data = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
    for name, content in data.items():
        remote_dir.write(name, content)
    return data


@dataclass
class Tally:
    """What the readers saw."""

    reads: int = 0
    failed: int = 0
    compared: int = 0  # bytes
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, seconds: float, count: int | None) -> None:
        with self.lock:
            self.reads += 1
            self.failed += count is None
            self.compared += count or 0
            self.slowest = max(self.slowest, seconds)


class Readers:
    """READERS threads that read `contents` through a mount, in all sorts of patterns."""

    def __init__(self, folder: Path, contents: dict[str, bytes], seed: int) -> None:
        self.tally = Tally()
        self._folder = folder
        self._contents = contents
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed} {n}"),))
            for n in range(READERS)
        ]

    def __enter__(self) -> Tally:
        for thread in self._threads:
            thread.start()
        return self.tally

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        deadline = time.monotonic() + DEADLINE
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
        assert not [t for t in self._threads if t.is_alive()], "a read does not end"

    def _run(self, rng: random.Random) -> None:
        while not self._stop.is_set():
            name = rng.choice(list(self._contents))
            begun = time.monotonic()
            try:
                fd = os.open(self._folder / name, os.O_RDONLY)
            except OSError as error:
                self._note(name, begun, error)
                continue
            try:
                self._read(fd, name, rng)
            finally:
                os.close(fd)

    def _read(self, fd: int, name: str, rng: random.Random) -> None:
        data = self._contents[name]
        sequential = rng.random() < 0.5
        offset = 0 if rng.random() < 0.5 else rng.randrange(len(data) + 1)
        for _ in range(rng.randrange(1, 30)):
            if self._stop.is_set():
                return
            size = rng.choice([1, 4096, 131072, 1 << 20])
            begun = time.monotonic()
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                got = os.pread(fd, size, offset)
            except OSError as error:
                self._note(name, begun, error)
                return
            expected = data[offset : offset + size]
            # The kernel gives what came before an error on the way.
            if got != expected[: len(got)] or (expected and not got):
                self.tally.wrong.append(f"{name} at {offset}: {len(got)} of {len(expected)} bytes")
            self.tally.add(time.monotonic() - begun, len(got))
            offset = offset + len(got) if sequential else rng.randrange(len(data) + 1)

    def _note(self, name: str, begun: float, error: OSError) -> None:
        if error.errno not in NETWORK:
            self.tally.wrong.append(f"{name}: {error}")
        self.tally.add(time.monotonic() - begun, None)


@dataclass(frozen=True)
class Held:
    """What a daemon holds of its system."""

    threads: int
    sockets: int
    files: int

    @staticmethod
    def by(pid: int) -> Held:
        links = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        sockets = sum(link.startswith("socket:") for link in links)
        return Held(len(os.listdir(f"/proc/{pid}/task")), sockets, len(links) - sockets)


@contextlib.contextmanager
def nothing_left(mounted: Mounted, relay: Relay) -> Iterator[None]:
    """After what is done inside, the daemon and the server hold no more than a mount in peace."""
    [pid] = _daemons(str(mounted.log))
    before = Held.by(pid)
    yield
    relay.clear()
    deadline = time.monotonic() + 20
    while left := _left(mounted, relay, before, Held.by(pid)):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _left(mounted: Mounted, relay: Relay, before: Held, now: Held) -> list[str]:
    left = []
    # libfuse 2 keeps 10 idle threads, libfuse 3 all; a stream lives on for PARK_TIME.
    idle = binding.MAX_THREADS if "with mfusepy" in mounted.log_text() else 10
    if now.threads > before.threads + idle:
        left.append(f"threads: {before.threads}, now {now.threads}")
    if now.files > before.files:
        left.append(f"files: {before.files}, now {now.files}")
    if now.sockets > 2 * MOST_CONNECTIONS + before.sockets:
        left.append(f"sockets: {before.sockets}, now {now.sockets}")
    if relay.open_connections > MOST_CONNECTIONS:
        left.append(f"{relay.open_connections} connections")
    # Two processes serve a session of vsftpd.
    if len(mounted.server.sessions()) > 2 * MOST_CONNECTIONS:
        left.append(f"{len(mounted.server.sessions())} processes of the server")
    return left


MOST_CONNECTIONS = 8  # the option's default


def expect_progress(tally: Tally, faults: int, *, most_failed: float) -> None:
    print(f"{tally}, {faults} faults")
    assert not tally.wrong
    assert tally.slowest < DEADLINE
    assert tally.reads > 10 * READERS
    assert tally.failed <= most_failed * tally.reads


def expect(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content, path.name


def test_connections_cut_at_random_bytes_under_many_readers(
    remote_dir: RemoteDir,
    contents: dict[str, bytes],
    relay: Relay,
    mount_server: MountServer,
    fuse_binding: str,
) -> None:
    """With both bindings, a minute."""
    mounted = mount_server(
        remote_dir.server,
        remote_dir.disk,
        path=remote_dir.path,
        port=relay.port,
        binding=fuse_binding,
        options=f"{DEADLINES},{SMALL_CACHE}",
    )
    rng = random.Random(fuse_binding)
    faults = 0
    with nothing_left(mounted, relay), Readers(mounted.path, contents, 1) as tally:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            how: How = rng.choice(["rst", "fin"])
            kind = rng.randrange(20)
            if kind == 0:
                relay.cut_all(how)
                faults += 1
            elif kind < 5:
                when: When = rng.choice(["before", "after", "final"])
                cut = relay.cut_control(skip=rng.randrange(6), when=when, how=how)
                time.sleep(rng.uniform(0.02, 0.2))
                cut.remove()
                faults += cut.hits
            else:
                after = int(2 ** rng.uniform(0, 22)) - 1
                data = relay.cut_data("down", after=after, how=how, control=rng.random() < 0.2)
                time.sleep(rng.uniform(0.02, 0.2))
                data.remove()
                faults += data.hits
    assert faults > 50
    expect_progress(tally, faults, most_failed=0.1)
    for name, content in contents.items():
        expect(mounted.path / name, content)


def test_transfers_and_replies_that_stall_under_many_readers(
    remote_dir: RemoteDir, contents: dict[str, bytes], relay: Relay, mount_server: MountServer
) -> None:
    mounted = mount_server(
        remote_dir.server,
        remote_dir.disk,
        path=remote_dir.path,
        port=relay.port,
        options=f"{DEADLINES},{SMALL_CACHE}",
    )
    rng = random.Random(7)
    faults = 0
    with nothing_left(mounted, relay), Readers(mounted.path, contents, 2) as tally:
        end = time.monotonic() + 12
        while time.monotonic() < end:
            if rng.randrange(6):
                rule = relay.stall_data("down", after=int(2 ** rng.uniform(0, 21)))
                time.sleep(rng.uniform(0.1, 0.4))
                rule.remove()
                faults += rule.hits
            else:
                lost = relay.drop_reply("RETR", skip=rng.randrange(4))
                time.sleep(rng.uniform(0.1, 0.4))
                lost.remove()
                faults += lost.hits
    assert faults > 5
    # A stall is not repeated: the reader has waited for a whole deadline.
    expect_progress(tally, faults, most_failed=0.5)
    for name, content in contents.items():
        expect(mounted.path / name, content)


@pytest.mark.parametrize("at", ["greeting", "login"])
def test_a_server_that_takes_two_connections_serves_many_readers(
    remote_dir: RemoteDir,
    contents: dict[str, bytes],
    relay: Relay,
    mount_server: MountServer,
    at: str,
) -> None:
    relay.limit_connections(2, at=at)  # type: ignore[arg-type]
    mounted = mount_server(
        remote_dir.server,
        remote_dir.disk,
        path=remote_dir.path,
        port=relay.port,
        options=SMALL_CACHE,
    )
    with Readers(mounted.path, contents, 3) as tally:
        time.sleep(4)
    expect_progress(tally, 0, most_failed=0)
    if at == "greeting":
        assert relay.peak_connections <= 2
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda n: expect(mounted.path / n, contents[n]), list(contents) * 3))
