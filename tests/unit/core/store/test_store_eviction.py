"""The store keeps its bound: the least recently used goes first, large contents in parts."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from ftpfs.core.reading.blocks import Version
from ftpfs.core.store import contents, writer
from ftpfs.core.store.contents import ContentFolder, Facts, Flag, name_of
from ftpfs.core.store.index import Index
from ftpfs.core.store.store import Store
from tests.support.waiting import until
from tests.unit.core.store.conftest import (
    FILE,
    MIB,
    MakeStore,
    block,
    disk_usage,
    fill,
    indices,
    served,
)


def test_folder_keeps_its_bound_and_evicts_least_recently_used_content(
    make_store: MakeStore, tmp_path: Path
) -> None:
    versions = [FILE._replace(path=f"/{n}") for n in range(100)]
    first = make_store(16 * MIB)
    for version in versions[:20]:
        fill(first, version)
    first.close()
    second = make_store(16 * MIB)
    assert served(second, versions[0]) == list(indices(FILE))
    second.close()
    third = make_store(16 * MIB)
    for version in versions[20:]:
        fill(third, version)
        if served(third, versions[0]):
            time.sleep(0.005)
        assert disk_usage(tmp_path / "store") <= 16 * MIB
    third.close()
    fourth = make_store(16 * MIB)
    assert served(fourth, versions[-1]) == list(indices(FILE))
    assert served(fourth, versions[1]) == []
    assert disk_usage(tmp_path / "store") <= 16 * MIB
    fourth.close()
    make_store(16 * MIB).close()


def test_smaller_bound_holds_from_the_next_mount_on(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE_BYTES", 64 * MIB)
    first = make_store(64 * MIB)
    fill(first, *(FILE._replace(path=f"/{n}") for n in range(60)))
    first.close()
    assert disk_usage(tmp_path / "store") > 30 * MIB
    second = make_store(16 * MIB)
    fill(second, FILE)
    second.close()
    assert disk_usage(tmp_path / "store") <= 16 * MIB
    assert served(make_store(16 * MIB), FILE)


def test_beginning_of_a_file_larger_than_the_bound_is_stored(
    make_store: MakeStore, tmp_path: Path
) -> None:
    large = FILE._replace(size=40 * MIB)
    first = make_store(16 * MIB)
    for index in indices(large):
        first.put(large, index, block(large, index))
        until(lambda: first._writer.queued == 0)
    first.close()
    kept = served(make_store(16 * MIB), large)
    assert kept == list(range(len(kept)))
    assert len(kept) > 100
    assert disk_usage(tmp_path / "store") <= 16 * MIB


LARGE = FILE._replace(path="/large", size=30 * MIB + 5)


def slowly(store: Store, *versions: Version) -> None:
    """Fill the store, without a dropped block."""
    for version in versions:
        fill(store, version)
        until(lambda: store._writer.queued == 0)


def test_large_content_is_cut_at_its_end_only_as_far_as_needed(
    make_store: MakeStore, tmp_path: Path
) -> None:
    first = make_store(48 * MIB)
    slowly(first, LARGE)
    slowly(first, *(FILE._replace(path=f"/{n}") for n in range(28)))
    first.close()
    second = make_store(48 * MIB)
    left = served(second, LARGE)
    assert left == list(range(len(left)))
    assert len(indices(LARGE)) // 3 < len(left) < len(indices(LARGE))
    assert all(served(second, FILE._replace(path=f"/{n}")) for n in range(28))
    assert disk_usage(tmp_path / "store") <= 48 * MIB
    slowly(second, LARGE)
    assert served(second, LARGE) == list(indices(LARGE))


def test_large_content_is_deleted_if_its_disk_makes_no_holes(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(contents, "_punch", refuse)
    first = make_store(48 * MIB)
    slowly(first, LARGE, *(FILE._replace(path=f"/{n}") for n in range(28)))
    first.close()
    second = make_store(48 * MIB)
    assert served(second, LARGE) == []
    assert all(served(second, FILE._replace(path=f"/{n}")) for n in range(28))
    assert disk_usage(tmp_path / "store") <= 48 * MIB


def test_whole_content_is_deleted_and_never_cut(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have it open, and would read zeros."""
    monkeypatch.setattr(writer, "PAUSE_SECONDS", 0.05)
    first = make_store(48 * MIB)
    slowly(first, LARGE)
    folder = ContentFolder(tmp_path / "store/data")
    name = name_of(Facts.of(LARGE))
    until(lambda: folder.open(name).flags & Flag.WHOLE)
    with open(folder.path / name, "rb") as opened:
        before = opened.read()
        slowly(first, *(FILE._replace(path=f"/{n}") for n in range(28)))
        opened.seek(0)
        assert opened.read() == before == b"".join(block(LARGE, n) for n in indices(LARGE))
    first.close()
    assert served(make_store(48 * MIB), LARGE) == []


def test_incomplete_content_is_not_marked_as_whole(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PAUSE_SECONDS", 0.05)
    first = make_store()
    for number in indices(LARGE)[:-1]:
        first.put(LARGE, number, block(LARGE, number))
    slowly(first, LARGE._replace(path="/other"))
    folder = ContentFolder(tmp_path / "store/data")
    until(lambda: folder.open(name_of(Facts.of(LARGE._replace(path="/other")))).flags)
    assert folder.open(name_of(Facts.of(LARGE))).flags == Flag.NONE


def test_kept_content_is_not_evicted_and_does_not_count(
    make_store: MakeStore, tmp_path: Path
) -> None:
    first = make_store(48 * MIB)
    slowly(first, LARGE)
    first.close()
    rows = Index(tmp_path / "store/index.db", ContentFolder(tmp_path / "store/data"))
    rows.keep(name_of(Facts.of(LARGE)), Facts.of(LARGE), 0.0)
    assert rows.status(0).used == 0
    assert rows.status(0).kept > LARGE.size
    rows.close()
    for path in (tmp_path / "store").glob("index.db*"):
        path.unlink()  # its side file says that it is kept, too
    second = make_store(48 * MIB)
    slowly(second, *(FILE._replace(path=f"/{n}") for n in range(70)))
    assert served(second, LARGE) == list(indices(LARGE))
    assert len([n for n in range(70) if served(second, FILE._replace(path=f"/{n}"))]) > 60
