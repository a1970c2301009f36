"""Many readers on a bad network: bytes are right, every read ends, most succeed, nothing leaks.

Random choices are seeded, so a run can be repeated, except for its timing. The kernel's pages are
dropped before each read, and the block cache is small, so reads go over the network.
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
from ftpfs.settings.config import Network
from tests.conftest import RemoteDir
from tests.mount.conftest import BINDINGS, MountDir, Mounted, _daemons
from tests.support.relay import How, Relay, When
from tests.support.servers import Kind
from tests.support.waiting import until_gone

pytestmark = [pytest.mark.mount, pytest.mark.far]

NETWORK = {errno.EIO, errno.ETIMEDOUT}
DEADLINES = "connect_timeout=1,reply_timeout=1.5,data_timeout=1.5,finish_timeout=2"
SMALL_CACHE = "block_cache=2M,read_ahead=1M"
# The longest a read may take: three attempts, each with its own steps and deadlines, and a turn at
# a connection before each; and a machine that does something else, too.
DEADLINE = 25.0
READERS = 8
MIB = 1 << 20
SIZES = {
    "empty": 0,
    "small": 5000,
    "block": 131072,
    "some": 700_001,
    "big": 6_000_001,
    "huge": 16 * MIB,
}


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """A server that forks, so its sessions can be counted."""
    return "vsftpd"


@pytest.fixture
def contents(remote_dir: RemoteDir) -> dict[str, bytes]:
    data = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
    for name, content in data.items():
        remote_dir.write(name, content)
    return data


@dataclass
class Tally:
    """Counts of what the readers got."""

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
    """READERS threads that read `contents` through a mount, in many patterns."""

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
            # The kernel returns the bytes that arrived before an error.
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
    """Threads, descriptors and sessions that a daemon holds; without the contents in its store."""

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
        stored = sum("/ftpfs/store/" in link for link in links)
        return Held(len(os.listdir(f"/proc/{pid}/task")), sockets, len(links) - sockets - stored)


@contextlib.contextmanager
def nothing_left(mounted: Mounted, relay: Relay) -> Iterator[None]:
    """Check that after the block the daemon and the server hold no more than an idle mount."""
    [pid] = _daemons(str(mounted.log))
    before = Held.by(pid)
    yield
    relay.clear()
    until_gone(lambda: _left(mounted, relay, before, Held.by(pid)))


def _left(mounted: Mounted, relay: Relay, before: Held, now: Held) -> list[str]:
    left = []
    # libfuse 2 keeps 10 idle threads, libfuse 3 all; a stream lives on for PARK_SECONDS.
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


MOST_CONNECTIONS = Network().max_connections


def expect_progress(tally: Tally, faults: int, *, most_failed: float) -> None:
    print(f"{tally}, {faults} faults")
    assert not tally.wrong
    assert tally.slowest < DEADLINE
    assert tally.reads > 10 * READERS
    assert tally.failed <= most_failed * tally.reads


def expect(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content, path.name


@pytest.mark.long
def test_many_readers_get_right_bytes_when_connections_are_cut_at_random(
    contents: dict[str, bytes],
    relay: Relay,
    mount_dir: MountDir,
    fuse_binding: str,
) -> None:
    """With both bindings, a minute."""
    mounted = mount_dir(
        through=relay,
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
    expect_progress(tally, faults, most_failed=0.2)
    for name, content in contents.items():
        expect(mounted.path / name, content)


def test_many_readers_get_right_bytes_when_transfers_and_replies_stall(
    contents: dict[str, bytes], relay: Relay, mount_dir: MountDir
) -> None:
    mounted = mount_dir(
        through=relay,
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
    # A stalled transfer is not repeated: the reader has already waited for a deadline.
    expect_progress(tally, faults, most_failed=0.5)
    for name, content in contents.items():
        expect(mounted.path / name, content)


@pytest.mark.parametrize("at", ["greeting", "login"])
def test_many_readers_share_a_server_that_takes_two_connections(
    contents: dict[str, bytes],
    relay: Relay,
    mount_dir: MountDir,
    at: str,
) -> None:
    relay.limit_connections(2, at=at)  # type: ignore[arg-type]
    mounted = mount_dir(
        through=relay,
        options=SMALL_CACHE,
    )
    with Readers(mounted.path, contents, 3) as tally:
        time.sleep(4)
    expect_progress(tally, 0, most_failed=0)
    if at == "greeting":
        assert relay.peak_connections <= 2
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda n: expect(mounted.path / n, contents[n]), list(contents) * 3))


def test_server_without_rest_serves_whole_files_and_the_ends_of_those_that_fit(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    """A file fits if it is not larger than half the block cache."""
    fits, large = random.Random(1).randbytes(5 * MIB), random.Random(2).randbytes(40 * MIB)
    remote_dir.write("fits", fits)
    remote_dir.write("large", large)
    rule = relay.refuse("REST", "502 no such thing here")
    mounted = mount_dir(
        through=relay,
        options="block_cache=16M,read_ahead=2M",
    )
    with open(mounted.path / "fits", "rb", buffering=0) as file:
        file.seek(-100_000, os.SEEK_END)
        assert file.read() == fits[-100_000:]
    expect(mounted.path / "fits", fits)
    with open(mounted.path / "large", "rb", buffering=0) as file:
        file.seek(30 * MIB)
        with pytest.raises(OSError, match="not supported") as caught:
            file.read(100_000)
        assert caught.value.errno == errno.EOPNOTSUPP
    expect(mounted.path / "large", large)
    assert rule.hits
    assert "no REST" in mounted.log_text()


# A file that changes.

PAGE = 4096
PAGES = [700, 700, 701, 300, 300, 1100]  # of each version: the size grows, shrinks and stays


def version(number: int) -> bytes:
    """Content in which every page contains its version."""
    pages = PAGES[number % len(PAGES)]
    return b"".join(b"%08d %08d " % (number, n) + bytes(PAGE - 18) for n in range(pages))


class Changing:
    """A file on the server's disk that is replaced by another one again and again."""

    def __init__(self, remote_dir: RemoteDir, relay: Relay) -> None:
        self.path = remote_dir.write("file", version(0))
        self._remote_dir = remote_dir
        self._relay = relay
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.changes = 0
        self._date(self.path)

    def __enter__(self) -> Changing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rng = random.Random(1)
        while not self._stop.wait(rng.uniform(0.05, 0.8)):
            self.changes += 1
            new = self._remote_dir.write("new", version(self.changes))
            self._date(new)
            # Between a server's answer to "which time?" and its opening the file for the RETR that
            # came along is a moment that FTP cannot close. Not then.
            self._relay.wait_for(self._nobody_opens)
            new.rename(self.path)

    def _nobody_opens(self) -> bool:
        flowing = {data.conn for data in self._relay.data if data.down and not data.closed}
        last = {command.conn: command for command in self._relay.commands[-400:]}
        return all(
            conn in flowing if c.verb == "RETR" else time.monotonic() - c.t > 0.05
            for conn, c in last.items()
            if time.monotonic() - c.t < 1
        )

    def _date(self, path: Path) -> None:
        # FTP tells whole seconds: two contents of one second and size cannot be told apart.
        when = 1_600_000_000 + self.changes
        os.utime(path, (when, when))


def read_changing(path: Path, rng: random.Random, failures: list[str]) -> tuple[int, int]:
    """Open, read and close the file. Returns how many bytes were read, and how many errors came."""
    last: bytes | None = None
    # A file that grew is read on from its old end, as a log is.
    seams: list[tuple[bytes, bytes, int]] = []
    count = 0
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EIO:
            failures.append(f"open: {error}")
        return 0, 1
    try:
        offset = 0
        sequential = rng.random() < 0.6
        for _ in range(rng.randrange(1, 40)):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if not sequential:
                offset = PAGE * rng.randrange(300)
            got = os.pread(fd, rng.choice([PAGE, 32 * PAGE, 256 * PAGE]), offset)
            if not got:
                break
            for start in range(0, len(got), PAGE):
                number, page = got[start : start + 17].split()
                if last not in (None, number):
                    seams.append((last, number, int(page)))
                last = number
                if int(page) != (offset + start) // PAGE:
                    failures.append(f"page {page!r} at {offset + start}")
            count += len(got)
            offset += len(got)
            if rng.random() < 0.2:
                time.sleep(rng.uniform(0, 0.3))
    except OSError as error:
        if error.errno != errno.EIO:
            failures.append(f"read: {error}")
        return count, 1
    finally:
        os.close(fd)
        for old, new, seam in seams:
            if seam != PAGES[int(old) % len(PAGES)]:
                failures.append(f"from {old!r} to {new!r} at page {seam}")
    return count, 0


def test_file_replaced_by_others_is_read_old_or_new_or_not_at_all(
    remote_dir: RemoteDir, mount_dir: MountDir, relay: Relay
) -> None:
    """A program looks at the file all the time, so that the mount knows of each change.

    There is one reader for each mount, because readers of one mount share the kernel's pages.
    """
    failures: list[str] = []
    results: list[tuple[int, int]] = []
    stop = threading.Event()

    def read(path: Path) -> None:
        rng = random.Random(str(path))
        while not stop.is_set():
            results.append(read_changing(path, rng, failures))

    def look(path: Path) -> None:
        while not stop.wait(0.01):
            with contextlib.suppress(OSError):
                path.stat()

    with Changing(remote_dir, relay) as changing:
        paths = [
            mount_dir(
                through=relay,
                binding=binding,
                options=SMALL_CACHE,
            ).path
            / "file"
            for binding in BINDINGS
        ]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(work, path) for path in paths for work in (read, look)]
            time.sleep(10)
            stop.set()
            for future in futures:
                future.result()
    count, errors = sum(c for c, _ in results), sum(e for _, e in results)
    print(f"{changing.changes} changes, {len(results)} opens, {errors} errors, {count} bytes")
    assert not failures, (len(failures), failures[:9])
    assert changing.changes > 4
    assert 0 < errors < len(results) / 2
    time.sleep(2.3)  # longer than `open_ttl`
    for path in paths:
        assert path.read_bytes() == version(changing.changes)


# Memory.


@pytest.mark.parametrize(("cache", "most"), [("96M", 160), ("64M", 125), ("16M", 90)])
def test_memory_stays_in_its_bound_while_twenty_files_are_streamed(
    remote_dir: RemoteDir, mount_dir: MountDir, fuse_binding: str, cache: str, most: int
) -> None:
    data = random.Random(1).randbytes(24 * MIB)
    first = remote_dir.write("file0", data)
    for number in range(1, 20):
        os.link(first, remote_dir.disk / f"file{number}")
    mounted = mount_dir(
        binding=fuse_binding,
        options=f"block_cache={cache}",
    )
    [pid] = _daemons(str(mounted.log))

    def stream(number: int) -> None:
        with open(mounted.path / f"file{number}", "rb", buffering=0) as file:
            for offset in range(0, len(data), MIB):
                assert file.read(MIB) == data[offset : offset + MIB]

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(stream, range(20)))
    peak = peak_memory(pid) / MIB
    print(f"{fuse_binding}, {cache}: {peak:.0f} MiB")
    assert peak <= most


def peak_memory(pid: int) -> int:
    """The most bytes that the process had in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")
