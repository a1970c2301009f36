"""The block cache's bound, and generations: the same name, size and second, another content."""

from __future__ import annotations

import pytest

from ftpfs.core import blocks
from ftpfs.core.blocks import BLOCK_SIZE, BlockCache, Generations, Version

ONE = Version("/one", 100, 1, 0)


def test_a_block_is_found_under_its_version_only() -> None:
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


def test_never_holds_more_than_its_capacity_and_drops_what_was_used_least_recently() -> None:
    cache = BlockCache(30)
    for index in range(3):
        cache.put(ONE, index, bytes(10))
    assert cache.get(ONE, 0) is not None
    cache.put(ONE, 3, bytes(10))
    assert cache.used == 30
    assert cache.get(ONE, 1) is None
    assert cache.get(ONE, 0) is not None


def test_a_block_larger_than_the_cache_is_not_an_error() -> None:
    cache = BlockCache(5)
    cache.put(ONE, 0, bytes(10))
    assert cache.used == 0


def scan(cache: BlockCache, version: Version, blocks: int, *, ahead: int = 0) -> int:
    """Read a content from end to end, with `ahead` blocks fetched before they are read; how many
    had to be fetched."""
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
def test_a_content_larger_than_the_cache_is_read_again_for_the_rest_of_it(ahead: int) -> None:
    cache = BlockCache(32 * BLOCK_SIZE)
    assert scan(cache, BIG, 64, ahead=ahead) == 64
    assert all(cache.holds(BIG, range(32 - 4 - ahead - 1)))
    for _ in range(3):
        assert scan(cache, BIG, 64, ahead=ahead) <= 64 - 32 + 4 + ahead + 1


def test_what_a_scan_has_not_read_yet_stays() -> None:
    cache = BlockCache(32 * BLOCK_SIZE)
    for index in range(20):
        cache.put(BIG, index, bytes(BLOCK_SIZE))
        cache.scanned(BIG, index)
    for index in range(20, 36):
        cache.put(BIG, index, bytes(BLOCK_SIZE))
    assert all(cache.holds(BIG, range(20, 36)))
    assert all(cache.holds(BIG, range(12)))


def test_a_scan_goes_when_others_are_used_instead_of_it() -> None:
    cache = BlockCache(32 * BLOCK_SIZE)
    scan(cache, BIG, 64)
    for index in range(32):
        cache.put(ONE, index, bytes(BLOCK_SIZE))
    assert all(cache.holds(ONE, range(32)))
    assert cache.used == 32 * BLOCK_SIZE


def test_a_scan_pushes_out_what_was_not_used_for_longer() -> None:
    cache = BlockCache(32 * BLOCK_SIZE)
    for index in range(32):
        cache.put(ONE, index, bytes(BLOCK_SIZE))
    scan(cache, BIG, 64)
    assert not any(cache.holds(ONE, range(32)))


def test_a_change_gives_a_path_and_all_below_it_a_new_generation() -> None:
    generations = Generations()
    before = {path: generations.of(path) for path in ("/d", "/d/a", "/d/e/f", "/dx", "/")}
    generations.bump("/d")
    for path in ("/d", "/d/a", "/d/e/f"):
        assert generations.of(path) > before[path]
    for path in ("/dx", "/"):
        assert generations.of(path) == before[path]


def test_a_generation_never_comes_back_even_when_changes_are_forgotten(
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
