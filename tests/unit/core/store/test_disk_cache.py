"""The disk cache serves what was stored, whatever happened to the disk, the process or the file."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs.core.reading.blocks import BLOCK_SIZE, BlockCache, Generations, Version
from ftpfs.core.store import disk_cache
from ftpfs.core.store.disk_cache import DiskCache
from tests.support.waiting import until

MIB = 1 << 20
OLD = 1_000_000_000
FILE = Version("/folder/file", 5 * BLOCK_SIZE + 77, OLD, 0, True)
MakeCache = Callable[..., DiskCache]


@pytest.fixture
def make_cache(tmp_path: Path) -> Iterator[MakeCache]:
    """Makes a cache as a mount does; several in a row, or at once."""
    made: list[DiskCache] = []

    def make(capacity: int = 64 * MIB, generations: Generations | None = None) -> DiskCache:
        cache = DiskCache(tmp_path / "cache", capacity)
        cache.follow(generations or Generations())
        made.append(cache)
        return cache

    yield make
    for each in made:
        each.close()


def block(version: Version, index: int) -> bytes:
    size = min(BLOCK_SIZE, version.size - index * BLOCK_SIZE)
    return random.Random(f"{version} {index}").randbytes(size)


def indices(version: Version) -> range:
    return range(-(-version.size // BLOCK_SIZE))


def fill(cache: DiskCache, *versions: Version) -> None:
    for version in versions:
        for index in indices(version):
            cache.put(version, index, block(version, index))


def served(cache: DiskCache, version: Version) -> list[int]:
    """The numbers of the blocks that are stored; each is checked to be the right one."""
    found = []
    for index in indices(version):
        got = cache.get(version, index)
        if got is not None:
            assert got == block(version, index)
            found.append(index)
    return found


def disk_usage(folder: Path) -> int:
    used = 0
    for path in [folder, *folder.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # evicted while we looked
            used += path.lstat().st_blocks * 512
    return used


def files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "data").iterdir())


# Storing.


def test_blocks_outlive_the_mount_and_only_its_user_can_read_them(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    first = make_cache()
    fill(first, FILE)
    first.close()
    assert served(make_cache(), FILE) == list(indices(FILE))
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_block_is_found_under_its_version_only(make_cache: MakeCache) -> None:
    first = make_cache()
    fill(first, FILE)
    first.close()
    second = make_cache()
    for other in (
        FILE._replace(path="/folder/other"),
        FILE._replace(size=FILE.size + 1),
        FILE._replace(mtime=OLD + 1),
        FILE._replace(exact=False),
        FILE._replace(generation=1),
    ):
        assert second.get(other, 0) is None
    assert second.get(FILE, 0) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: FILE._replace(exact=False),
        lambda: FILE._replace(mtime=None),
        lambda: FILE._replace(mtime=int(time.time()) - 1),
        lambda: FILE._replace(mtime=int(time.time()) + 3600),
    ],
    ids=["inexact", "no time", "just changed", "from the future"],
)
def test_content_is_not_stored_if_it_can_change_without_a_trace(
    make_cache: MakeCache, tmp_path: Path, make: Callable[[], Version]
) -> None:
    version = make()
    first = make_cache()
    fill(first, version, FILE)
    first.close()
    assert served(make_cache(), version) == []
    assert len(files(tmp_path)) == 1


def test_memory_is_asked_first_and_the_disk_fills_it(make_cache: MakeCache) -> None:
    first = make_cache()
    fill(first, FILE)
    first.close()
    second = make_cache()
    cache = BlockCache(64 * MIB, second)
    assert cache.get(FILE, 1) == block(FILE, 1)
    second.close()
    assert cache.get(FILE, 1) == block(FILE, 1)
    assert cache.get(FILE, 2) is None


# Changes made by this mount.


@pytest.mark.parametrize("changed", ["/folder/file", "/folder"])
def test_content_changed_here_is_never_served_again(make_cache: MakeCache, changed: str) -> None:
    """A program can give a file the size and the time back that it had."""
    other = FILE._replace(path="/folder0/file")
    first = make_cache()
    fill(first, FILE, other)
    first.close()
    generations = Generations()
    second = make_cache(generations=generations)
    assert served(second, FILE)
    generations.bump(changed)
    assert second.get(FILE, 0) is None
    now = FILE._replace(generation=generations.of(FILE.path))
    assert second.get(now, 0) is None
    fill(second, FILE)  # a stream of the old content, still running
    second.close()
    third = make_cache()
    assert third.get(FILE, 0) is None
    assert served(third, other) == list(indices(other))


def test_new_content_is_stored_after_a_change(make_cache: MakeCache) -> None:
    generations = Generations()
    first = make_cache(generations=generations)
    fill(first, FILE)
    generations.bump(FILE.path)
    now = FILE._replace(generation=generations.of(FILE.path))
    first.put(now, 0, bytes(BLOCK_SIZE))
    until(lambda: first.get(now, 0) == bytes(BLOCK_SIZE))
    first.close()
    assert make_cache().get(FILE, 0) == bytes(BLOCK_SIZE)


# Damage.


def test_block_with_a_flipped_bit_is_fetched_again_and_never_served(
    make_cache: MakeCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(4)
    generator = make_cache()
    fill(generator, FILE)
    generator.close()
    [path] = files(tmp_path)
    whole = path.read_bytes()
    for _ in range(60):
        spoiled = bytearray(whole)
        spoiled[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(spoiled)
        one = make_cache()
        assert len(served(one, FILE)) < len(indices(FILE))
        fill(one, FILE)
        one.close()
        again = make_cache()
        assert served(again, FILE) == list(indices(FILE))
        again.close()
        [path] = files(tmp_path)
    assert "damaged on the disk" in caplog.text


def test_torn_block_is_never_served(make_cache: MakeCache, tmp_path: Path) -> None:
    """What a power cut may leave: all checksums are written, but not all pages of the blocks."""
    first = make_cache()
    fill(first, FILE)
    first.close()
    [path] = files(tmp_path)
    with open(path, "r+b") as file:
        file.seek(BLOCK_SIZE + 4096)
        file.write(bytes(4096))
        file.truncate(path.stat().st_size - 4)  # of the last checksum, a half
    # After its first damaged block the whole content is deleted at some time.
    assert served(make_cache(), FILE) in ([0], [0, 2], [0, 2, 3], [0, 2, 3, 4])


def test_block_of_another_file_is_never_served(make_cache: MakeCache, tmp_path: Path) -> None:
    other = FILE._replace(path="/other")
    first = make_cache()
    fill(first, FILE, other)
    first.close()
    (tmp_path / "cache/data" / disk_cache.name_of(other)).replace(
        tmp_path / "cache/data" / disk_cache.name_of(FILE)
    )
    assert served(make_cache(), FILE) == []


@pytest.mark.parametrize("damage", [b"", b"no database" * 1000])
def test_damaged_index_begins_anew(make_cache: MakeCache, tmp_path: Path, damage: bytes) -> None:
    first = make_cache()
    fill(first, FILE)
    first.close()
    (tmp_path / "cache/index.db").write_bytes(damage)
    second = make_cache()
    fill(second, FILE._replace(path="/new"))
    second.close()
    assert len(files(tmp_path)) == 1
    assert served(make_cache(), FILE._replace(path="/new"))


CHILD = """
import sys
from pathlib import Path
from ftpfs.core.reading.blocks import Generations
from tests.unit.core.store.test_disk_cache import *
cache = DiskCache(Path(sys.argv[1]), 24 * MIB)
cache.follow(Generations())
print("ready", flush=True)
number = 0
while True:
    fill(cache, FILE._replace(path=f"/{number % 50}"))
    number += 1
    time.sleep(0.001)
"""


def test_disk_cache_killed_at_any_moment_serves_right_blocks_and_keeps_its_bound(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    rng = random.Random(9)
    found = 0
    for _ in range(8):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "cache")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.4))
            child.send_signal(signal.SIGKILL)
        one = make_cache(24 * MIB)
        for number in range(50):
            found += len(served(one, FILE._replace(path=f"/{number}")))
        fill(one, FILE)
        one.close()
        assert disk_usage(tmp_path / "cache") <= 24 * MIB
    assert found > 100


# The bound.


def test_folder_keeps_its_bound_and_evicts_least_recently_used_content(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    versions = [FILE._replace(path=f"/{n}") for n in range(100)]
    first = make_cache(16 * MIB)
    for version in versions[:20]:
        fill(first, version)
    first.close()
    second = make_cache(16 * MIB)
    assert served(second, versions[0]) == list(indices(FILE))
    second.close()
    third = make_cache(16 * MIB)
    for version in versions[20:]:
        fill(third, version)
        if served(third, versions[0]):
            time.sleep(0.005)
        assert disk_usage(tmp_path / "cache") <= 16 * MIB
    third.close()
    fourth = make_cache(16 * MIB)
    assert served(fourth, versions[-1]) == list(indices(FILE))
    assert served(fourth, versions[1]) == []
    assert disk_usage(tmp_path / "cache") <= 16 * MIB
    fourth.close()
    make_cache(16 * MIB).close()


def test_smaller_bound_holds_from_the_next_mount_on(
    make_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "QUEUE_BYTES", 64 * MIB)
    first = make_cache(64 * MIB)
    fill(first, *(FILE._replace(path=f"/{n}") for n in range(60)))
    first.close()
    assert disk_usage(tmp_path / "cache") > 30 * MIB
    second = make_cache(16 * MIB)
    fill(second, FILE)
    second.close()
    assert disk_usage(tmp_path / "cache") <= 16 * MIB
    assert served(make_cache(16 * MIB), FILE)


def test_beginning_of_a_file_larger_than_the_bound_is_stored(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    large = FILE._replace(size=40 * MIB)
    first = make_cache(16 * MIB)
    for index in indices(large):
        first.put(large, index, block(large, index))
        until(lambda: first._queued == 0)
    first.close()
    kept = served(make_cache(16 * MIB), large)
    assert kept == list(range(len(kept)))
    assert len(kept) > 100
    assert disk_usage(tmp_path / "cache") <= 16 * MIB


# Two mounts.


def test_two_mounts_share_their_blocks(make_cache: MakeCache, tmp_path: Path) -> None:
    one, two = make_cache(), make_cache()
    other = FILE._replace(path="/other")
    assert two.get(FILE, 0) is None
    fill(one, FILE)
    fill(two, other)
    until(lambda: served(two, FILE) == list(indices(FILE)))
    until(lambda: served(one, other) == list(indices(other)))


def test_two_mounts_that_evict_from_each_other_stay_right_and_bounded(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    found = [0, 0]

    def work(number: int) -> None:
        rng = random.Random(number)
        mine = make_cache(16 * MIB)
        enough = time.monotonic() + 20
        rounds = 0
        # The disk's thread lags behind: a fast machine ends 150 rounds before the thread has begun.
        while rounds < 150 or (not found[number] and time.monotonic() < enough):
            rounds += 1
            version = FILE._replace(path=f"/{rng.randrange(40)}")
            have = served(mine, version)
            found[number] += len(have)
            if len(have) < len(indices(version)):
                fill(mine, version)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert disk_usage(tmp_path / "cache") <= 16 * MIB
        time.sleep(0.01)
    assert all(found)


# A disk that fails.


def test_readers_never_wait_for_writes_to_the_disk(make_cache: MakeCache, tmp_path: Path) -> None:
    first = make_cache()
    fill(first, FILE)
    until(lambda: first._queued == 0)
    index = sqlite3.connect(tmp_path / "cache/index.db")
    index.execute("BEGIN IMMEDIATE")  # the disk's thread hangs
    large = FILE._replace(path="/large", size=100 * MIB)
    data = bytes(BLOCK_SIZE)
    begun = time.monotonic()
    for number in range(800):
        first.put(large, number, data)
    assert first.get(FILE, 0) == block(FILE, 0)
    assert time.monotonic() - begun < 4  # of the five that SQLite waits for a lock
    assert 0 < first._queued <= disk_cache.QUEUE_BYTES
    assert first._dropped > 300
    index.execute("ROLLBACK")
    index.close()


def test_vanished_folder_switches_the_disk_cache_off(
    make_cache: MakeCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_cache()
    fill(first, FILE)
    until(lambda: first._queued == 0)
    (tmp_path / "cache").rename(tmp_path / "away")
    with caplog.at_level(logging.ERROR):
        for number in range(10):
            fill(first, FILE._replace(path=f"/{number}"))
            time.sleep(0.01)
    assert caplog.text.count("switched off") == 1
    assert first.get(FILE, 0) is None


def test_folder_of_another_user_is_not_used(
    make_cache: MakeCache,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    first = make_cache()
    fill(first, FILE)
    first.close()
    assert "belongs to another user" in caplog.text
    assert not list(tmp_path.glob("cache/*"))
