"""Listing ahead: directories are listed before a program asks for them, and little is wasted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.names import walks
from ftpfs.core.names.inode import inode
from ftpfs.core.writing.spool import Spool
from ftpfs.model.entry import Entry, Kind
from ftpfs.settings.config import Cache
from tests.support.clock import Clock
from tests.support.memory_remote import MemoryRemote
from tests.support.waiting import until

WORKERS = 3
# In no order; bytes, people and inode numbers sort these names differently.
NAMES = ["m", "B", "a-c", "ab", "_z", "k1", "K0", "q", "f", "y", "d", "x"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Remote(MemoryRemote):
    """Records what the test's own thread lists, and holds the listings of some paths back."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.begun: list[str] = []

    def list(self, path: str) -> list[Entry]:
        if threading.current_thread() is threading.main_thread():
            self.waited_for.append(path)
        self.begun.append(path)
        if gate := self.gates.get(path):
            assert gate.wait(10)
        return super().list(path)


@pytest.fixture
def remote() -> Remote:
    remote = Remote()
    for name in NAMES:
        remote.outside_mkdir(f"/{name}")
        remote.outside_write(f"/{name}/file", b"x")
        for below in NAMES[:3]:
            remote.outside_mkdir(f"/{name}/{below}")
    return remote


def make_filesystem(remote: MemoryRemote, clock: Clock, tmp_path: Path) -> Filesystem:
    spool = Spool(tmp_path / "spool")
    return Filesystem(remote, spool, Cache(), prefetchers=WORKERS, clock=clock)


@pytest.fixture
def filesystem(remote: MemoryRemote, clock: Clock, tmp_path: Path) -> Iterator[Filesystem]:
    filesystem = make_filesystem(remote, clock, tmp_path)
    yield filesystem
    filesystem.close()
    until(lambda: not walkers())


def walkers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "ftpfs-walk"]


def settle(remote: MemoryRemote) -> int:
    """Wait until no listing is under way. Returns how many listings there were."""
    last = -1
    while last != (last := remote.calls["list"]):
        time.sleep(0.015)
    return last


def join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"


def walk(
    filesystem: Filesystem, path: str, order: Callable[[str, list[str]], list[str]]
) -> Iterator[str]:
    """Walk depth first; yields each directory's path after it was read."""
    names = [e.name for e in filesystem.children(path) if e.kind is Kind.DIRECTORY]
    yield path
    for name in order(path, names):
        yield from walk(filesystem, join(path, name), order)


def look_into(filesystem: Filesystem, path: str) -> None:
    """Look a path up as the kernel does: each component by itself."""
    filesystem.attributes(path)
    filesystem.attributes(f"{path}/file")


ORDERS: dict[str, Callable[[str, list[str]], list[str]]] = {
    "as listed": lambda _path, names: names,
    "by name": lambda _path, names: sorted(names),
    "as people sort": lambda _path, names: sorted(names, key=lambda n: n.strip("_").casefold()),
    "by inode": lambda path, names: sorted(names, key=lambda n: inode(join(path, n))),
}


@pytest.mark.parametrize("order", ORDERS)
def test_walk_waits_for_few_listings_in_any_order(
    remote: Remote, filesystem: Filesystem, order: str
) -> None:
    for _ in walk(filesystem, "/", ORDERS[order]):
        settle(remote)
    # The root, its first child, and a few listings while the order was being learned.
    assert len(remote.waited_for) <= 5, remote.waited_for
    assert remote.calls["list"] == 1 + len(NAMES) * 4, "each directory is listed once"


def test_siblings_are_listed_beside_the_first_child_that_is_read(
    remote: Remote, filesystem: Filesystem
) -> None:
    """Listed after it, the siblings would come two or three round trips later on a long link."""
    filesystem.children("/")
    first = join("/", sorted(NAMES)[0])
    gate = remote.gates[first] = threading.Event()
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(filesystem.children, first)
        until(lambda: len(remote.begun) > 4)
        assert not reading.done()
        assert all(path.count("/") == 1 for path in remote.begun), "its own come before theirs"
        gate.set()
        assert len(reading.result(5)) == 4


def test_directories_looked_into_one_after_another_are_a_walk(
    remote: MemoryRemote, filesystem: Filesystem
) -> None:
    """`git status` asks for the names of its index, and reads no directory for that."""
    for name in sorted(NAMES)[:3]:
        look_into(filesystem, f"/{name}")
    before = settle(remote)
    assert before > 4
    list_as_before = remote.hold("list")
    look_into(filesystem, f"/{sorted(NAMES)[3]}")  # would wait for the gate
    list_as_before.open()


def test_lookup_of_a_path_is_no_walk(remote: MemoryRemote, filesystem: Filesystem) -> None:
    path = ""
    for name in "abcdefg":
        path += f"/{name}"
        remote.outside_mkdir(path)
        remote.outside_mkdir(f"{path}/sibling")
    for depth in range(2, len(path) + 1, 2):
        filesystem.attributes(path[:depth])
    assert settle(remote) == 7


def test_slow_visits_cause_no_listing_ahead(
    remote: MemoryRemote, filesystem: Filesystem, clock: Clock
) -> None:
    for count, path in enumerate(walk(filesystem, "/", ORDERS["by name"]), 1):
        assert settle(remote) == count, path
        clock.now += walks.PAUSE_SECONDS + 1


def test_stopped_walk_wastes_few_listings_and_repeated_ones_next_to_none(
    remote: MemoryRemote, filesystem: Filesystem, clock: Clock
) -> None:
    for number in range(200):
        remote.outside_mkdir(f"/m/{number:03}")
        remote.outside_mkdir(f"/q/{number:03}")
    for path in ("/m", "/m/000", "/m/001"):
        filesystem.children(path)
    first = settle(remote)
    assert first <= 4 + walks.BUDGET
    clock.now += walks.PAUSE_SECONDS + 1
    for path in ("/q", "/q/000", "/q/001"):
        filesystem.children(path)
    assert settle(remote) <= first + 6


def test_walk_does_not_leave_the_folder_it_began_in(
    remote: MemoryRemote, filesystem: Filesystem
) -> None:
    filesystem.attributes("/d")
    for _ in walk(filesystem, "/d", ORDERS["by name"]):
        settle(remote)
    assert settle(remote) == 1 + 4


def test_request_waits_for_a_listing_ahead_that_is_under_way(
    remote: Remote, filesystem: Filesystem
) -> None:
    filesystem.children("/")
    second = join("/", sorted(NAMES)[1])
    gate = remote.gates[second] = threading.Event()
    filesystem.children(join("/", sorted(NAMES)[0]))
    until(lambda: second in remote.begun)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(filesystem.children, second)
        time.sleep(0.05)
        assert not asked.done()
        gate.set()
        assert len(asked.result(5)) == 4
    assert remote.begun.count(second) == 1
    assert settle(remote) <= 1 + len(NAMES) * 4


def test_failed_listing_ahead_raises_nothing(remote: MemoryRemote, filesystem: Filesystem) -> None:
    for number in range(2, 12):
        remote.fail("list", errors.ConnectionLost("ahead"), after=number)
    order = ORDERS["by name"]
    seen = []
    for path in walk(filesystem, "/", order):
        seen.append(path)
        settle(remote)
        remote.calm()
    assert len(seen) == 1 + len(NAMES) * 4


def test_unlistable_directory_fails_for_its_caller_and_stops_no_walk(
    remote: MemoryRemote, filesystem: Filesystem
) -> None:
    names = sorted(NAMES)
    remote.unlistable.add(f"/{names[4]}")
    filesystem.children("/")
    for name in names:
        settle(remote)
        if name == names[4]:
            with pytest.raises(errors.PermissionDenied):
                filesystem.children(f"/{name}")
        else:
            filesystem.children(f"/{name}")
    assert settle(remote) <= 2 + len(NAMES) * 4


def test_change_shows_though_its_directory_is_being_listed_ahead(
    remote: MemoryRemote, filesystem: Filesystem
) -> None:
    first, second = sorted(NAMES)[:2]
    filesystem.children("/")
    gates = [remote.hold("list", after=n, answered=True) for n in range(1, 1 + WORKERS)]
    filesystem.children(f"/{first}")
    for gate in gates:
        assert gate.reached.wait(5)
    below = sorted(NAMES[:3])
    for name in below:
        with ThreadPoolExecutor(1) as threads:
            made = threads.submit(filesystem.mkdir, f"/{first}/{name}/new", 0o755)
            time.sleep(0.02)
            for gate in gates:
                gate.open()
            made.result(5)
        assert "new" in {e.name for e in filesystem.children(f"/{first}/{name}")}
    assert second


def test_nothing_is_listed_ahead_after_close(
    remote: MemoryRemote, clock: Clock, tmp_path: Path
) -> None:
    filesystem = make_filesystem(remote, clock, tmp_path)
    filesystem.children("/")
    gate = remote.hold("list", after=1)
    filesystem.children(f"/{sorted(NAMES)[0]}")
    assert gate.reached.wait(5)
    filesystem.close()
    before = remote.calls["list"]
    gate.open()
    until(lambda: not walkers())
    assert remote.calls["list"] <= before + WORKERS
