"""The store serves what was stored, whatever happened to the disk, the process or the file."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs.core.reading.blocks import BLOCK_SIZE, BlockCache, Generations, Version
from ftpfs.core.store import writer
from tests.support.waiting import until
from tests.unit.core.store.conftest import (
    FILE,
    MIB,
    OLD,
    MakeStore,
    block,
    disk_usage,
    files,
    fill,
    indices,
    served,
)

# Storing.


def test_blocks_outlive_the_mount_and_only_its_user_can_read_them(
    make_store: MakeStore, tmp_path: Path
) -> None:
    first = make_store()
    fill(first, FILE)
    first.close()
    assert served(make_store(), FILE) == list(indices(FILE))
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_block_is_found_under_its_version_only(make_store: MakeStore) -> None:
    first = make_store()
    fill(first, FILE)
    first.close()
    second = make_store()
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
    make_store: MakeStore, tmp_path: Path, make: Callable[[], Version]
) -> None:
    version = make()
    first = make_store()
    fill(first, version, FILE)
    first.close()
    assert served(make_store(), version) == []
    assert len(files(tmp_path)) == 1


def test_memory_is_asked_first_and_the_disk_fills_it(make_store: MakeStore) -> None:
    first = make_store()
    fill(first, FILE)
    first.close()
    second = make_store()
    cache = BlockCache(64 * MIB, second)
    assert cache.get(FILE, 1) == block(FILE, 1)
    second.close()
    assert cache.get(FILE, 1) == block(FILE, 1)
    assert cache.get(FILE, 2) is None


# Changes made by this mount.


@pytest.mark.parametrize("changed", ["/folder/file", "/folder"])
def test_content_changed_here_is_never_served_again(make_store: MakeStore, changed: str) -> None:
    """A program can give a file the size and the time back that it had."""
    other = FILE._replace(path="/folder0/file")
    first = make_store()
    fill(first, FILE, other)
    first.close()
    generations = Generations()
    second = make_store(generations=generations)
    assert served(second, FILE)
    generations.bump(changed)
    assert second.get(FILE, 0) is None
    now = FILE._replace(generation=generations.of(FILE.path))
    assert second.get(now, 0) is None
    fill(second, FILE)  # a stream of the old content, still running
    second.close()
    third = make_store()
    assert third.get(FILE, 0) is None
    assert served(third, other) == list(indices(other))


def test_new_content_is_stored_after_a_change(make_store: MakeStore) -> None:
    generations = Generations()
    first = make_store(generations=generations)
    fill(first, FILE)
    generations.bump(FILE.path)
    now = FILE._replace(generation=generations.of(FILE.path))
    first.put(now, 0, bytes(BLOCK_SIZE))
    until(lambda: first.get(now, 0) == bytes(BLOCK_SIZE))
    first.close()
    assert make_store().get(FILE, 0) == bytes(BLOCK_SIZE)


def test_writer_waits_for_the_end_of_a_burst(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CALM_SECONDS", 1.0)
    monkeypatch.setattr(writer, "MOST_WAIT_SECONDS", 2.0)
    first = make_store()
    begun = time.monotonic()
    while time.monotonic() < begun + 0.5:
        fill(first, FILE)
        assert files(tmp_path) == []
        time.sleep(0.1)
    until(lambda: files(tmp_path), within=2)
    begun = time.monotonic()
    until(lambda: first._writer.queued == 0)
    number = 0
    while len(files(tmp_path)) < 2:  # a burst without an end is stored, too
        number += 1
        first.put(FILE._replace(path=f"/{number}"), 5, block(FILE, 5))
        time.sleep(0.05)
    assert 1.5 < time.monotonic() - begun < 10


# Two mounts.


def test_two_mounts_share_their_blocks(make_store: MakeStore, tmp_path: Path) -> None:
    one, two = make_store(), make_store()
    other = FILE._replace(path="/other")
    assert two.get(FILE, 0) is None
    fill(one, FILE)
    fill(two, other)
    until(lambda: served(two, FILE) == list(indices(FILE)))
    until(lambda: served(one, other) == list(indices(other)))


def test_two_mounts_that_evict_from_each_other_stay_right_and_bounded(
    make_store: MakeStore, tmp_path: Path
) -> None:
    found = [0, 0]

    def work(number: int) -> None:
        rng = random.Random(number)
        mine = make_store(16 * MIB)
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
        assert disk_usage(tmp_path / "store") <= 16 * MIB
        time.sleep(0.01)
    assert all(found)


# A disk that fails.


def test_readers_never_wait_for_writes_to_the_disk(make_store: MakeStore, tmp_path: Path) -> None:
    first = make_store()
    fill(first, FILE)
    until(lambda: first._writer.queued == 0)
    index = sqlite3.connect(tmp_path / "store/index.db")
    index.execute("BEGIN IMMEDIATE")  # the disk's thread hangs
    large = FILE._replace(path="/large", size=100 * MIB)
    data = bytes(BLOCK_SIZE)
    begun = time.monotonic()
    for number in range(800):
        first.put(large, number, data)
    assert first.get(FILE, 0) == block(FILE, 0)
    assert time.monotonic() - begun < 4  # of the five that SQLite waits for a lock
    assert 0 < first._writer.queued <= writer.QUEUE_BYTES
    assert first._writer.counts.dropped > 300
    index.execute("ROLLBACK")
    index.close()


def test_vanished_folder_switches_the_store_off(
    make_store: MakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_store()
    fill(first, FILE)
    until(lambda: first._writer.queued == 0)
    (tmp_path / "store").rename(tmp_path / "away")
    with caplog.at_level(logging.ERROR):
        for number in range(10):
            fill(first, FILE._replace(path=f"/{number}"))
            time.sleep(0.01)
    assert caplog.text.count("switched off") == 1
    assert first.get(FILE, 0) is None


def test_folder_of_another_user_is_not_used(
    make_store: MakeStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    first = make_store()
    fill(first, FILE)
    first.close()
    assert "belongs to another user" in caplog.text
    assert not list(tmp_path.glob("store/*"))
