"""Fetching a file into the store, although the store drops blocks that come too fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core import fetching
from ftpfs.core.reading.blocks import BLOCK_SIZE, Generations, Version
from ftpfs.core.store import writer
from ftpfs.core.store.store import Holding, Store
from tests.unit.core.store.conftest import block

MIB = 1 << 20
FILE = Version("/file", 40 * BLOCK_SIZE + 5, 1_000_000_000, 0, True)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(writer, "CALM_SECONDS", 0.0)
    monkeypatch.setattr(fetching, "MOST_QUEUED_BYTES", 0)
    store = Store(tmp_path / "store", 64 * MIB)
    store.follow(Generations())
    yield store
    store.close()


class Reader:
    """Reads FILE. Like a stream, it hands several blocks ahead to the store, once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked: list[int] = []
        self._come: set[int] = set()

    def read(self, offset: int, size: int) -> bytes:
        assert size == BLOCK_SIZE
        index = offset // BLOCK_SIZE
        self.asked.append(index)
        for each in range(index, min(index + 8, 41)):
            if each not in self._come:
                self._come.add(each)
                self._store.put(FILE, each, block(FILE, each))
        return block(FILE, index)


def test_blocks_that_the_store_dropped_are_stored_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE_BYTES", 3 * BLOCK_SIZE)
    reader = Reader(store)
    come = list(fetching.fetch(reader.read, FILE, store))
    assert store.holding(FILE) is Holding.CACHED
    assert len(reader.asked) > 41  # some were dropped
    assert come == sorted(come)
    assert come[-1] == FILE.size


def test_file_that_is_stored_is_not_read(store: Store) -> None:
    list(fetching.fetch(Reader(store).read, FILE, store))
    reader = Reader(store)
    assert list(fetching.fetch(reader.read, FILE, store)) == [FILE.size]
    assert not reader.asked


def test_file_that_does_not_fit_is_an_error(tmp_path: Path, store: Store) -> None:
    small = Store(tmp_path / "small", 2 * MIB)
    small.follow(Generations())
    try:
        with pytest.raises(errors.FtpfsError, match="cache_size"):
            list(fetching.fetch(Reader(small).read, FILE, small))
    finally:
        small.close()


@pytest.mark.parametrize(
    ("differs", "why"),
    [
        (lambda: {"exact": False}, "exact time"),
        (lambda: {"mtime": int(time.time())}, "within the last minute"),
    ],
    ids=["inexact", "new"],
)
def test_content_that_may_be_confused_is_not_fetched(
    store: Store, differs: Callable[[], dict[str, Any]], why: str
) -> None:
    version = FILE._replace(**differs())
    with pytest.raises(errors.FtpfsError, match=why):
        list(fetching.fetch(Reader(store).read, version, store))
