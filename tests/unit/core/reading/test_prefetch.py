"""Small files are fetched before they are asked for: which, when, and what a wrong guess costs."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.names.inode import inode
from ftpfs.core.reading.prefetch import (
    FIRST_AHEAD,
    FIRST_BYTES,
    MANY,
    MOST_AHEAD,
    SMALL_BYTES,
    Prefetcher,
)
from ftpfs.core.writing.spool import Spool
from ftpfs.model.entry import Entry, Kind
from ftpfs.settings.config import Cache
from tests.support.clock import Clock
from tests.support.memory_remote import MemoryRemote
from tests.support.waiting import until


def test_process_ends_while_prefetch_waits_for_silent_server() -> None:
    """A mount in the foreground, of a server that a NAT has forgotten."""
    program = """if True:
        import threading
        from ftpfs.core.reading.prefetch import Prefetcher
        from ftpfs.model.entry import Entry, Kind
        entries = [Entry(f"f{n}", Kind.FILE, 1000, 1, True) for n in range(40)]
        begun = threading.Event()
        def fetch(path):
            begun.set()
            threading.Event().wait(60)
        ahead = Prefetcher(lambda _: entries, fetch, workers=2, budget=1 << 20)
        for n in range(2):
            ahead.opened(f"/d/f{n}")
        assert begun.wait(10)
        ahead.close()
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def entry(name: str, size: int = 1000, kind: Kind = Kind.FILE) -> Entry:
    return Entry(name=name, kind=kind, size=size, mtime=1, exact=True)


class Recorder:
    """A prefetcher whose fetches are recorded, and can be held back."""

    def __init__(self, entries: list[Entry], *, workers: int = 2, budget: int = 1 << 20) -> None:
        self.fetched: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        self.error: Exception | None = None
        self._lock = threading.Lock()
        self.expected = 0
        self.prefetcher = Prefetcher(
            lambda _: entries, self._fetch, workers=workers, budget=budget, expect=self._expect
        )

    def _expect(self) -> None:
        self.expected += 1

    def _fetch(self, path: str) -> None:
        with self._lock:
            self.fetched.append(path)
        assert self.hold.wait(10)
        if self.error:
            raise self.error

    def open(self, *names: str) -> None:
        for name in names:
            self.prefetcher.opened(f"/d/{name}")

    def settled(self, count: int) -> list[str]:
        """The names fetched, as soon as there are `count` of them."""
        until(lambda: len(self.fetched) >= count)
        return [path.rpartition("/")[2] for path in self.fetched]


@pytest.fixture
def record() -> Iterator[Callable[..., Recorder]]:
    made: list[Recorder] = []

    def make(*args: object, **kwargs: object) -> Recorder:
        made.append(Recorder(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for recorder in made:
        recorder.hold.set()
        recorder.prefetcher.close()


NAMES = [f"f{n:03}" for n in range(200)]


def shuffled() -> list[str]:
    names = list(NAMES)
    random.Random(1).shuffle(names)
    return names


def orders() -> dict[str, list[str]]:
    listed = shuffled()
    return {
        "as listed": listed,
        "by name": sorted(listed),
        "by inode": sorted(listed, key=lambda name: inode(f"/d/{name}")),
    }


@pytest.mark.parametrize("order", ["as listed", "by name", "by inode"])
def test_next_files_are_fetched_in_any_usual_order(
    record: Callable[..., Recorder], order: str
) -> None:
    recorder = record([entry(name) for name in shuffled()])
    names = orders()[order]
    recorder.open(*names[:4])
    assert set(recorder.settled(FIRST_AHEAD)) <= set(names[:30])
    recorder.open(*names[4:40])
    assert set(recorder.settled(36)) <= set(names[: 40 + 2 * MOST_AHEAD])
    assert len(set(recorder.fetched)) == len(recorder.fetched), "nothing is fetched twice"


@pytest.mark.parametrize("order", ["as listed", "by name", "by inode"])
def test_opening_first_of_many_files_warms_up_connections(
    record: Callable[..., Recorder], order: str
) -> None:
    recorder = record([entry(name) for name in shuffled()])
    names = orders()[order]
    recorder.open(names[0])
    assert (recorder.expected, recorder.fetched) == (1, []), "it is a sign, and no proof"
    recorder.open(*names[1:20])
    assert recorder.expected == 1


def test_opening_other_than_first_of_many_files_warms_up_nothing(
    record: Callable[..., Recorder],
) -> None:
    recorder = record([entry(name) for name in NAMES])
    first = {names[0] for names in orders().values()} | {NAMES[0]}
    recorder.open(next(name for name in NAMES if name not in first))
    recorder.open(NAMES[0])
    few = record([entry(name) for name in NAMES[: MANY - 1]])
    few.open(NAMES[0])
    assert (recorder.expected, few.expected) == (0, 0)


def test_few_bytes_are_fetched_ahead_before_one_file_was_of_use(
    record: Callable[..., Recorder],
) -> None:
    recorder = record([entry(name, SMALL_BYTES) for name in NAMES], budget=1 << 30)
    recorder.open(*NAMES[:2])
    recorder.settled(FIRST_BYTES // SMALL_BYTES)
    time.sleep(0.05)
    assert len(recorder.fetched) == FIRST_BYTES // SMALL_BYTES < FIRST_AHEAD


def test_opens_in_no_order_fetch_nothing(record: Callable[..., Recorder]) -> None:
    recorder = record([entry(name) for name in NAMES])
    rng = random.Random(7)
    for _ in range(50):
        recorder.open(rng.choice(NAMES[::2]), rng.choice(NAMES[1::2]))
    assert len(recorder.fetched) < 30


def test_large_files_folders_and_empty_files_are_not_prefetched(
    record: Callable[..., Recorder],
) -> None:
    entries = [entry(name) for name in NAMES[:4]]
    entries += [
        entry("big", SMALL_BYTES + 1),
        entry("folder", 0, Kind.DIRECTORY),
        entry("empty", 0),
    ]
    recorder = record([*entries, entry("next")])
    recorder.open(*NAMES[:3])
    assert recorder.settled(1)
    recorder.prefetcher.close()
    assert not {"/d/big", "/d/folder", "/d/empty"} & set(recorder.fetched)


def test_bytes_fetched_ahead_stay_within_budget(record: Callable[..., Recorder]) -> None:
    recorder = record([entry(name, 100_000) for name in NAMES], budget=350_000)
    for count, name in enumerate(NAMES[:20], 1):
        recorder.open(name)
        time.sleep(0.01)
        ahead = set(recorder.fetched) - {f"/d/{opened}" for opened in NAMES[:count]}
        assert len(ahead) <= 3
    assert len(recorder.fetched) >= 18


def test_prefetching_stops_when_its_files_are_not_opened(record: Callable[..., Recorder]) -> None:
    recorder = record([entry(name) for name in NAMES])
    # In order, but the files just fetched are always skipped.
    for start in range(0, 200, 20):
        recorder.open(*NAMES[start : start + 3])
    time.sleep(0.1)
    assert len(recorder.fetched) <= 4 * FIRST_AHEAD


def test_folder_is_prefetched_again_when_read_again(
    record: Callable[..., Recorder],
) -> None:
    recorder = record([entry(name) for name in NAMES[:40]])
    recorder.open(*NAMES[:40])
    first = len(recorder.settled(30))
    # Opening a file twice in a row is no new beginning: programs look at a file, then read it.
    recorder.open(NAMES[39])
    recorder.open(*NAMES[:40])
    assert len(recorder.settled(first + 30)) >= first + 30
    assert set(recorder.fetched[first:]) & set(recorder.fetched[:first])


def test_folder_read_again_is_prefetched_by_its_new_listing() -> None:
    entries = [entry(name) for name in NAMES[:10]]
    fetched: list[str] = []
    prefetcher = Prefetcher(lambda _: entries, fetched.append, workers=1, budget=1 << 20)
    for name in NAMES[:10]:
        prefetcher.opened(f"/d/{name}")
    entries = [entry(name) for name in NAMES[:20]]
    for name in NAMES[:9]:
        prefetcher.opened(f"/d/{name}")
    until(lambda: f"/d/{NAMES[10]}" in fetched)
    prefetcher.close()


def test_prefetching_stops_when_only_first_files_of_many_folders_are_opened(
    record: Callable[..., Recorder],
) -> None:
    """`head */README`: each folder looks like the beginning of a walk."""
    recorder = record([entry(name) for name in NAMES[:50]])
    for number in range(200):
        for name in NAMES[:3]:
            recorder.prefetcher.opened(f"/d{number}/{name}")
    time.sleep(0.1)
    wasted = len(recorder.fetched)
    assert wasted < 100 * FIRST_AHEAD, "it went on to the end"
    for number in range(200, 250):
        for name in NAMES[:3]:
            recorder.prefetcher.opened(f"/d{number}/{name}")
    time.sleep(0.1)
    assert len(recorder.fetched) == wasted
    for name in NAMES[:40]:
        recorder.prefetcher.opened(f"/walk/{name}")
    assert len(recorder.settled(wasted + 10)) > wasted, "who really goes on is believed, later"


def test_open_waits_for_fetch_of_its_own_file_only(
    record: Callable[..., Recorder],
) -> None:
    recorder = record([entry(name) for name in NAMES], workers=1)
    recorder.hold.clear()
    recorder.open(*NAMES[:2])
    begun = recorder.settled(1)[0]
    opened = threading.Thread(target=recorder.open, args=(begun,))
    opened.start()
    opened.join(0.1)
    assert opened.is_alive(), "it is on its way: waited for"
    # The next fetch has not begun: the program that opens the file is faster by itself.
    recorder.open(NAMES[NAMES.index(begun) + 1])
    recorder.hold.set()
    opened.join(10)
    assert not opened.is_alive()


def test_failed_prefetch_raises_nothing(record: Callable[..., Recorder]) -> None:
    recorder = record([entry(name) for name in NAMES])
    recorder.error = errors.ConnectionLost("gone")
    recorder.open(*NAMES[:20])
    recorder.error = ValueError("a bug")
    recorder.open(*NAMES[20:40])


def test_nothing_is_prefetched_without_threads_or_after_close(
    record: Callable[..., Recorder],
) -> None:
    idle = record([entry(name) for name in NAMES], workers=0)
    idle.open(*NAMES[:10])
    closed = record([entry(name) for name in NAMES])
    closed.prefetcher.close()
    closed.open(*NAMES[:10])
    assert idle.fetched == closed.fetched == []


def test_folder_read_in_order_is_fetched_once_and_right(tmp_path: Path) -> None:
    remote = MemoryRemote()
    remote.outside_mkdir("/d")
    contents = {f"/d/{name}": name.encode() * 500 for name in NAMES}
    for path, content in contents.items():
        remote.outside_write(path, content)
    filesystem = Filesystem(remote, Spool(tmp_path / "spool"), Cache(), prefetchers=4)
    filesystem.children("/d")
    for path, content in contents.items():
        handle = filesystem.open(path, 0)
        assert filesystem.read(handle, 0, 1 << 17) == content
        filesystem.release(handle)
    assert remote.calls["open_read"] == len(NAMES)
    filesystem.close()


@pytest.mark.parametrize("confirms", [True, False])
def test_prefetch_under_old_listing_saves_the_look_at_open(tmp_path: Path, confirms: bool) -> None:
    """Each look is a round trip. Asked together with the content, it costs none."""
    remote, clock = MemoryRemote(), Clock()
    remote.confirms = confirms
    remote.outside_mkdir("/d")
    names = NAMES[:20]
    for name in names:
        remote.outside_write(f"/d/{name}", name.encode() * 500)
    filesystem = Filesystem(remote, Spool(tmp_path / "spool"), Cache(), prefetchers=4, clock=clock)
    filesystem.children("/d")
    clock.now += 10
    for name in names:
        handle = filesystem.open(f"/d/{name}", 0)
        assert filesystem.read(handle, 0, 1 << 17) == name.encode() * 500
        filesystem.release(handle)
    assert remote.calls["open_read"] == len(names)
    looks = remote.calls["look_again"]
    # The folder may be listed again behind an answer: one round trip for all names.
    listed_again = remote.calls["list"] == 2
    assert looks <= 4 if confirms or listed_again else looks == len(names)
    filesystem.close()


def test_file_changed_since_its_listing_is_not_served_as_the_listed_one(
    tmp_path: Path,
) -> None:
    remote, clock = MemoryRemote(), Clock()
    remote.outside_mkdir("/d")
    names = NAMES[:20]
    for name in names:
        remote.outside_write(f"/d/{name}", b"old" * 500)
    filesystem = Filesystem(remote, Spool(tmp_path / "spool"), Cache(), prefetchers=4, clock=clock)
    filesystem.children("/d")
    clock.now += 10
    for name in names:
        remote.outside_write(f"/d/{name}", b"another" * 500)
    for name in names:
        handle = filesystem.open(f"/d/{name}", 0)
        assert filesystem.read(handle, 0, 1 << 17) == b"another" * 500
        filesystem.release(handle)
    filesystem.close()


def test_file_changed_here_after_prefetch_reads_as_changed(tmp_path: Path) -> None:
    remote = MemoryRemote()
    remote.outside_mkdir("/d")
    for name in NAMES[:20]:
        remote.outside_write(f"/d/{name}", b"old " * 100)
    filesystem = Filesystem(remote, Spool(tmp_path / "spool"), Cache(), prefetchers=4)
    filesystem.children("/d")
    for name in NAMES[:4]:
        filesystem.release(filesystem.open(f"/d/{name}", 0))
    handle = filesystem.open(f"/d/{NAMES[6]}", 1)
    filesystem.write(handle, 0, b"new ")
    filesystem.flush(handle)
    filesystem.release(handle)
    handle = filesystem.open(f"/d/{NAMES[6]}", 0)
    assert filesystem.read(handle, 0, 1000) == b"new " + b"old " * 99
    filesystem.release(handle)
    filesystem.close()
