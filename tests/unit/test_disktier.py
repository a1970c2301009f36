"""The disk tier: what it serves is what was stored, whatever happened to disk, process or file."""

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

from ftpfs.core import disktier
from ftpfs.core.blocks import BLOCK_SIZE, BlockCache, Generations, Version
from ftpfs.core.disktier import DiskTier
from tests.support.waiting import until

MIB = 1 << 20
OLD = 1_000_000_000
FILE = Version("/folder/file", 5 * BLOCK_SIZE + 77, OLD, 0, True)
MakeTier = Callable[..., DiskTier]


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[MakeTier]:
    """Makes a tier as a mount does; one after the other, or at once."""
    made: list[DiskTier] = []

    def make(capacity: int = 64 * MIB, generations: Generations | None = None) -> DiskTier:
        tier = DiskTier(tmp_path / "tier", capacity)
        tier.follow(generations or Generations())
        made.append(tier)
        return tier

    yield make
    for each in made:
        each.close()


def block(version: Version, index: int) -> bytes:
    size = min(BLOCK_SIZE, version.size - index * BLOCK_SIZE)
    return random.Random(f"{version} {index}").randbytes(size)


def indices(version: Version) -> range:
    return range(-(-version.size // BLOCK_SIZE))


def fill(tier: DiskTier, *versions: Version) -> None:
    for version in versions:
        for index in indices(version):
            tier.put(version, index, block(version, index))


def served(tier: DiskTier, version: Version) -> list[int]:
    """The blocks that are there; each is the right one."""
    found = []
    for index in indices(version):
        got = tier.get(version, index)
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
    return list((tmp_path / "tier" / "data").iterdir())


# Keeping.


def test_blocks_outlive_the_mount_and_only_its_user_may_look(
    tier: MakeTier, tmp_path: Path
) -> None:
    first = tier()
    fill(first, FILE)
    first.close()
    assert served(tier(), FILE) == list(indices(FILE))
    for path in [tmp_path / "tier", *(tmp_path / "tier").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_block_is_found_under_its_version_only(tier: MakeTier) -> None:
    first = tier()
    fill(first, FILE)
    first.close()
    second = tier()
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
def test_what_may_change_without_a_trace_is_not_kept(
    tier: MakeTier, tmp_path: Path, make: Callable[[], Version]
) -> None:
    version = make()
    first = tier()
    fill(first, version, FILE)
    first.close()
    assert served(tier(), version) == []
    assert len(files(tmp_path)) == 1


def test_memory_is_asked_first_and_the_disk_fills_it(tier: MakeTier) -> None:
    first = tier()
    fill(first, FILE)
    first.close()
    second = tier()
    cache = BlockCache(64 * MIB, second)
    assert cache.get(FILE, 1) == block(FILE, 1)
    second.close()
    assert cache.get(FILE, 1) == block(FILE, 1)
    assert cache.get(FILE, 2) is None


# Changes made from here.


@pytest.mark.parametrize("changed", ["/folder/file", "/folder"])
def test_what_was_changed_from_here_is_forgotten_for_ever(tier: MakeTier, changed: str) -> None:
    """A program can give a file the size and the time that it had."""
    other = FILE._replace(path="/folder0/file")
    first = tier()
    fill(first, FILE, other)
    first.close()
    generations = Generations()
    second = tier(generations=generations)
    assert served(second, FILE)
    generations.bump(changed)
    assert second.get(FILE, 0) is None
    now = FILE._replace(generation=generations.of(FILE.path))
    assert second.get(now, 0) is None
    fill(second, FILE)  # a stream of the old content, still running
    second.close()
    third = tier()
    assert third.get(FILE, 0) is None
    assert served(third, other) == list(indices(other))


def test_a_content_is_kept_again_after_its_change(tier: MakeTier) -> None:
    generations = Generations()
    first = tier(generations=generations)
    fill(first, FILE)
    generations.bump(FILE.path)
    now = FILE._replace(generation=generations.of(FILE.path))
    first.put(now, 0, bytes(BLOCK_SIZE))
    until(lambda: first.get(now, 0) == bytes(BLOCK_SIZE))
    first.close()
    assert tier().get(FILE, 0) == bytes(BLOCK_SIZE)


# Damage.


def test_a_flipped_bit_is_never_served_and_the_block_comes_again(
    tier: MakeTier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(4)
    generator = tier()
    fill(generator, FILE)
    generator.close()
    [path] = files(tmp_path)
    whole = path.read_bytes()
    for _ in range(60):
        spoiled = bytearray(whole)
        spoiled[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(spoiled)
        one = tier()
        assert len(served(one, FILE)) < len(indices(FILE))
        fill(one, FILE)
        one.close()
        again = tier()
        assert served(again, FILE) == list(indices(FILE))
        again.close()
        [path] = files(tmp_path)
    assert "damaged on the disk" in caplog.text


def test_a_torn_block_is_never_served(tier: MakeTier, tmp_path: Path) -> None:
    """What a power cut may leave: the checksums written, and some pages of the blocks not."""
    first = tier()
    fill(first, FILE)
    first.close()
    [path] = files(tmp_path)
    with open(path, "r+b") as file:
        file.seek(BLOCK_SIZE + 4096)
        file.write(bytes(4096))
        file.truncate(path.stat().st_size - 4)  # of the last checksum, a half
    # The whole content goes with its first damaged block, at some time.
    assert served(tier(), FILE) in ([0], [0, 2], [0, 2, 3], [0, 2, 3, 4])


def test_a_block_of_another_file_is_never_served(tier: MakeTier, tmp_path: Path) -> None:
    other = FILE._replace(path="/other")
    first = tier()
    fill(first, FILE, other)
    first.close()
    (tmp_path / "tier/data" / disktier.name_of(other)).replace(
        tmp_path / "tier/data" / disktier.name_of(FILE)
    )
    assert served(tier(), FILE) == []


@pytest.mark.parametrize("damage", [b"", b"no database" * 1000])
def test_a_damaged_index_begins_anew(tier: MakeTier, tmp_path: Path, damage: bytes) -> None:
    first = tier()
    fill(first, FILE)
    first.close()
    (tmp_path / "tier/index.db").write_bytes(damage)
    second = tier()
    fill(second, FILE._replace(path="/new"))
    second.close()
    assert len(files(tmp_path)) == 1
    assert served(tier(), FILE._replace(path="/new"))


CHILD = """
import sys
from pathlib import Path
from ftpfs.core.blocks import Generations
from tests.unit.test_disktier import *
tier = DiskTier(Path(sys.argv[1]), 24 * MIB)
tier.follow(Generations())
print("ready", flush=True)
number = 0
while True:
    fill(tier, FILE._replace(path=f"/{number % 50}"))
    number += 1
    time.sleep(0.001)
"""


def test_killed_at_any_moment_it_serves_what_is_right_and_keeps_its_bound(
    tier: MakeTier, tmp_path: Path
) -> None:
    rng = random.Random(9)
    found = 0
    for _ in range(8):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "tier")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.4))
            child.send_signal(signal.SIGKILL)
        one = tier(24 * MIB)
        for number in range(50):
            found += len(served(one, FILE._replace(path=f"/{number}")))
        fill(one, FILE)
        one.close()
        assert disk_usage(tmp_path / "tier") <= 24 * MIB
    assert found > 100


# The bound.


def test_the_folder_keeps_its_bound_and_drops_what_was_used_least_recently(
    tier: MakeTier, tmp_path: Path
) -> None:
    versions = [FILE._replace(path=f"/{n}") for n in range(100)]
    first = tier(16 * MIB)
    for version in versions[:20]:
        fill(first, version)
    first.close()
    second = tier(16 * MIB)
    assert served(second, versions[0]) == list(indices(FILE))
    second.close()
    third = tier(16 * MIB)
    for version in versions[20:]:
        fill(third, version)
        if served(third, versions[0]):
            time.sleep(0.005)
        assert disk_usage(tmp_path / "tier") <= 16 * MIB
    third.close()
    fourth = tier(16 * MIB)
    assert served(fourth, versions[-1]) == list(indices(FILE))
    assert served(fourth, versions[1]) == []
    assert disk_usage(tmp_path / "tier") <= 16 * MIB
    fourth.close()
    tier(16 * MIB).close()


def test_a_smaller_bound_holds_from_the_next_mount_on(
    tier: MakeTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disktier, "QUEUE", 64 * MIB)
    first = tier(64 * MIB)
    fill(first, *(FILE._replace(path=f"/{n}") for n in range(60)))
    first.close()
    assert disk_usage(tmp_path / "tier") > 30 * MIB
    second = tier(16 * MIB)
    fill(second, FILE)
    second.close()
    assert disk_usage(tmp_path / "tier") <= 16 * MIB
    assert served(tier(16 * MIB), FILE)


def test_of_a_file_larger_than_the_bound_the_beginning_is_kept(
    tier: MakeTier, tmp_path: Path
) -> None:
    large = FILE._replace(size=40 * MIB)
    first = tier(16 * MIB)
    for index in indices(large):
        first.put(large, index, block(large, index))
        until(lambda: first._queued == 0)
    first.close()
    kept = served(tier(16 * MIB), large)
    assert kept == list(range(len(kept)))
    assert len(kept) > 100
    assert disk_usage(tmp_path / "tier") <= 16 * MIB


# Two mounts.


def test_two_mounts_share_what_each_brings(tier: MakeTier, tmp_path: Path) -> None:
    one, two = tier(), tier()
    other = FILE._replace(path="/other")
    assert two.get(FILE, 0) is None
    fill(one, FILE)
    fill(two, other)
    until(lambda: served(two, FILE) == list(indices(FILE)))
    until(lambda: served(one, other) == list(indices(other)))


def test_two_mounts_that_evict_from_each_other_stay_right_and_bounded(
    tier: MakeTier, tmp_path: Path
) -> None:
    found = [0, 0]

    def work(number: int) -> None:
        rng = random.Random(number)
        mine = tier(16 * MIB)
        enough = time.monotonic() + 20
        rounds = 0
        # The disk's thread is behind; a fast machine is through 150 rounds before it has begun.
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
        assert disk_usage(tmp_path / "tier") <= 16 * MIB
        time.sleep(0.01)
    assert all(found)


# A disk that does not do its part.


def test_nobody_waits_for_the_disk(tier: MakeTier, tmp_path: Path) -> None:
    first = tier()
    fill(first, FILE)
    until(lambda: first._queued == 0)
    index = sqlite3.connect(tmp_path / "tier/index.db")
    index.execute("BEGIN IMMEDIATE")  # the disk's thread hangs
    large = FILE._replace(path="/large", size=100 * MIB)
    data = bytes(BLOCK_SIZE)
    begun = time.monotonic()
    for number in range(800):
        first.put(large, number, data)
    assert first.get(FILE, 0) == block(FILE, 0)
    assert time.monotonic() - begun < 4  # of the five that SQLite waits for a lock
    assert 0 < first._queued <= disktier.QUEUE
    assert first._dropped > 300
    index.execute("ROLLBACK")
    index.close()


def test_a_folder_that_vanishes_switches_it_off(
    tier: MakeTier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = tier()
    fill(first, FILE)
    until(lambda: first._queued == 0)
    (tmp_path / "tier").rename(tmp_path / "away")
    with caplog.at_level(logging.ERROR):
        for number in range(10):
            fill(first, FILE._replace(path=f"/{number}"))
            time.sleep(0.01)
    assert caplog.text.count("switched off") == 1
    assert first.get(FILE, 0) is None


def test_a_folder_of_somebody_else_is_not_used(
    tier: MakeTier,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    first = tier()
    fill(first, FILE)
    first.close()
    assert "belongs to another user" in caplog.text
    assert files(tmp_path) == []
