"""A store in a temporary folder, and contents for it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs.core.reading.blocks import BLOCK_SIZE, Generations, Version
from ftpfs.core.store import writer
from ftpfs.core.store.contents import SIDE
from ftpfs.core.store.store import Store

MIB = 1 << 20
OLD = 1_000_000_000
FILE = Version("/folder/file", 5 * BLOCK_SIZE + 77, OLD, 0, True)
MakeStore = Callable[..., Store]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer does not wait for a calm moment."""
    monkeypatch.setattr(writer, "CALM_SECONDS", 0.0)


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[MakeStore]:
    """Makes a cache as a mount does; several in a row, or at once."""
    made: list[Store] = []

    def make(capacity: int = 64 * MIB, generations: Generations | None = None) -> Store:
        store = Store(tmp_path / "store", capacity)
        store.follow(generations or Generations())
        made.append(store)
        return store

    yield make
    for each in made:
        each.close()


def block(version: Version, index: int) -> bytes:
    size = min(BLOCK_SIZE, version.size - index * BLOCK_SIZE)
    return random.Random(f"{version} {index}").randbytes(size)


def indices(version: Version) -> range:
    return range(-(-version.size // BLOCK_SIZE))


def fill(store: Store, *versions: Version) -> None:
    for version in versions:
        for index in indices(version):
            store.put(version, index, block(version, index))


def served(store: Store, version: Version) -> list[int]:
    """The numbers of the blocks that are stored; each is checked to be the right one."""
    found = []
    for index in indices(version):
        got = store.get(version, index)
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
    """The contents, without their side files."""
    found = (tmp_path / "store" / "data").iterdir()
    return [path for path in found if path.suffix != SIDE]
