"""The block cache's bound; generations tell contents of the same name, size and second apart."""

from __future__ import annotations

import tracemalloc

import pytest

from ftpfs.core.reading import blocks
from ftpfs.core.reading.blocks import BLOCK_SIZE, BlockCache, Generations, Version, cost

ONE = Version("/one", 100, 1, 0)


def test_block_is_found_under_its_version_only() -> None:
    cache = BlockCache(1000)
    cache.put(ONE, 3, b"x")
    assert cache.get(ONE, 3) == b"x"
    assert cache.get(ONE, 2) is None
    for other in (
        ONE._replace(path="/two"),
        ONE._replace(size=101),
        ONE._replace(mtime=2),
        ONE._replace(generation=1),
    ):
        assert cache.get(other, 3) is None


def test_cache_keeps_its_capacity_and_evicts_least_recently_used_block() -> None:
    each = cost(bytes(10))
    cache = BlockCache(3 * each)
    for index in range(3):
        cache.put(ONE, index, bytes(10))
    assert cache.get(ONE, 0) is not None
    cache.put(ONE, 3, bytes(10))
    assert cache.status().used == 3 * each
    assert cache.get(ONE, 1) is None
    assert cache.get(ONE, 0) is not None


def test_block_larger_than_cache_is_no_error() -> None:
    cache = BlockCache(5)
    cache.put(ONE, 0, bytes(10))
    assert cache.status().used == 0


def test_small_blocks_count_by_the_memory_they_take() -> None:
    """A content of a hundred bytes takes six times as much memory."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        cache = BlockCache(8 << 20)
        for number in range(50_000):
            cache.put(Version(f"/folder/file-{number}", 100, number, 0), 0, bytes(100))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < 1.25 * cache.capacity
    assert cache.status().used <= cache.capacity


def scan(cache: BlockCache, version: Version, blocks: int, *, ahead: int = 0) -> int:
    """Read a content from end to end, with `ahead` blocks fetched before they are read.

    Returns how many blocks had to be fetched.
    """
    fetched = 0
    for index in range(blocks):
        for wanted in range(index, min(index + ahead + 1, blocks)):
            if cache.get(version, wanted) is None:
                cache.put(version, wanted, bytes(BLOCK_SIZE))
                fetched += 1
        cache.scanned(version, index)
    return fetched


BIG = Version("/big", 64 * BLOCK_SIZE, 1, 0)


@pytest.mark.parametrize("ahead", [0, 8])
def test_second_reading_of_content_larger_than_cache_fetches_only_the_rest(ahead: int) -> None:
    cache = BlockCache(32 * BLOCK_SIZE)
    assert scan(cache, BIG, 64, ahead=ahead) == 64
    assert all(cache.holds(BIG, range(32 - 4 - ahead - 1)))
    for _ in range(3):
        assert scan(cache, BIG, 64, ahead=ahead) <= 64 - 32 + 4 + ahead + 1


def test_blocks_that_a_scan_has_not_read_yet_stay() -> None:
    cache = BlockCache(32 * BLOCK_SIZE)
    for index in range(20):
        cache.put(BIG, index, bytes(BLOCK_SIZE))
        cache.scanned(BIG, index)
    for index in range(20, 36):
        cache.put(BIG, index, bytes(BLOCK_SIZE))
    assert all(cache.holds(BIG, range(20, 36)))
    assert all(cache.holds(BIG, range(12)))


def test_scan_is_evicted_when_other_blocks_are_used() -> None:
    cache = BlockCache(32 * BLOCK_SIZE)
    scan(cache, BIG, 64)
    for index in range(32):
        cache.put(ONE, index, bytes(BLOCK_SIZE))
    assert all(cache.holds(ONE, range(32)))
    assert cache.status().used == 32 * BLOCK_SIZE


def test_scan_evicts_blocks_that_were_not_used_for_longer() -> None:
    cache = BlockCache(32 * BLOCK_SIZE)
    for index in range(32):
        cache.put(ONE, index, bytes(BLOCK_SIZE))
    scan(cache, BIG, 64)
    assert not any(cache.holds(ONE, range(32)))


def test_change_gives_path_and_everything_below_a_new_generation() -> None:
    generations = Generations()
    before = {path: generations.of(path) for path in ("/d", "/d/a", "/d/e/f", "/dx", "/")}
    generations.bump("/d")
    for path in ("/d", "/d/a", "/d/e/f"):
        assert generations.of(path) > before[path]
    for path in ("/dx", "/"):
        assert generations.of(path) == before[path]


def test_generation_never_repeats_even_when_changes_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "MAX_CHANGES", 3)
    generations = Generations()
    seen = {generations.of("/a")}
    for number in range(20):
        generations.bump("/a")
        generations.bump(f"/other{number}")
        now = generations.of("/a")
        assert now > max(seen)
        seen.add(now)
