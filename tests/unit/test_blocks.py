"""The block cache's bound, and generations: the same name, size and second, another content."""

from __future__ import annotations

import pytest

from ftpfs.core import blocks
from ftpfs.core.blocks import BlockCache, Generations, Version

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
