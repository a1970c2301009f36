"""Contents that are lent to the kernel: whole, checked in this boot, for one mount at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpfs.core.store import lent
from ftpfs.core.store.lent import NotLent, Unlent
from ftpfs.core.store.store import Store
from tests.support.waiting import until
from tests.unit.core.store.conftest import (
    FILE,
    MakeStore,
    block,
    files,
    fill,
    indices,
    served,
)

BYTES = b"".join(block(FILE, index) for index in indices(FILE))


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    store = make_store()
    fill(store, FILE)
    assert store.settle(20)
    return store


def refusal(store: Store) -> Unlent:
    with pytest.raises(NotLent) as caught:
        store.lend(FILE)
    return caught.value.why


def flip(tmp_path: Path) -> None:
    [path] = files(tmp_path)
    with open(path, "r+b") as file:
        file.seek(1000)
        [byte] = file.read(1)
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def test_whole_content_is_lent(store: Store) -> None:
    content = store.lend(FILE)
    assert content.size == FILE.size
    assert os.pread(content.fd, FILE.size + 1, 0) == BYTES


def test_content_that_lacks_a_block_is_not_lent(make_store: MakeStore) -> None:
    store = make_store()
    assert refusal(store) is Unlent.INCOMPLETE
    for index in list(indices(FILE))[1:]:
        store.put(FILE, index, block(FILE, index))
    assert store.settle(20)
    store._let_go(list(store._absent))
    assert refusal(store) is Unlent.INCOMPLETE


def test_content_is_lent_once_at_a_time(store: Store, make_store: MakeStore) -> None:
    content = store.lend(FILE)
    other = make_store()
    assert refusal(other) is refusal(store) is Unlent.LENT_ELSEWHERE
    kernel = os.dup(content.fd)  # as long as it has the file, although we have not
    del content
    assert refusal(other) is Unlent.LENT_ELSEWHERE
    os.close(kernel)
    assert other.lend(FILE).size == FILE.size


def test_damaged_content_is_not_lent_and_is_dropped(store: Store, tmp_path: Path) -> None:
    flip(tmp_path)
    assert refusal(store) is Unlent.INCOMPLETE
    assert store.settle(20)
    assert files(tmp_path) == []


def test_content_that_is_damaged_after_its_check_is_not_lent_again(
    store: Store, tmp_path: Path
) -> None:
    del_me = store.lend(FILE)
    del del_me
    flip(tmp_path)
    assert refusal(store) is Unlent.INCOMPLETE


def test_large_content_is_checked_in_the_background_and_once(
    store: Store, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftpfs.core.store.store.CHECKED_AT_ONCE", 1000)
    assert refusal(store) is Unlent.UNCHECKED

    def is_lent() -> bool:
        try:
            return bool(store.lend(FILE))
        except NotLent:
            return False

    until(is_lent)
    monkeypatch.setattr(lent.Checker, "check", lambda *_: False)
    assert is_lent()
    store.close()
    assert make_store().lend(FILE).size == FILE.size, "a later mount knows that it was checked"


def test_content_that_became_whole_is_checked_before_it_is_opened(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftpfs.core.store.store.CHECKED_AT_ONCE", 1000)
    monkeypatch.setattr("ftpfs.core.store.writer.SEAL_FROM_BYTES", 1000)
    store = make_store()
    store.begin_lending()
    fill(store, FILE)
    content = []

    def is_checked() -> bool:
        found = store._content(name) if (name := next(iter(store._open), "")) else None
        return found is not None and store._files.checker.has_checked(found)

    until(lambda: served(store, FILE) and is_checked())
    content.append(store.lend(FILE))
    assert content[0].size == FILE.size


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store has written itself counts as checked, whatever its size."""
    monkeypatch.setattr(lent, "LEAST_BYTES", 1)
    monkeypatch.setattr("ftpfs.core.store.store.CHECKED_AT_ONCE", 0)
    monkeypatch.setattr(lent.Checker, "check", lambda *_: False)


@pytest.mark.usefixtures("trusting")
def test_content_that_this_mount_has_written_is_lent_at_once(make_store: MakeStore) -> None:
    store = make_store()
    for index in reversed(indices(FILE)):
        store.put(FILE, index, block(FILE, index))
        assert store.settle(20)
    assert store.lend(FILE).size == FILE.size


@pytest.mark.usefixtures("trusting")
def test_adopted_content_is_lent_when_its_checksums_are_there(
    make_store: MakeStore, tmp_path: Path
) -> None:
    source = tmp_path / "spooled"
    source.write_bytes(BYTES)
    store = make_store()
    assert store.adopt(FILE, source)
    assert store.settle(20)
    assert store.lend(FILE).size == FILE.size


@pytest.mark.usefixtures("trusting")
def test_content_that_others_wrote_to_is_checked(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    for index in indices(FILE):
        store.put(FILE, index, block(FILE, index))
        assert store.settle(20)
        if index == 2:
            flip(tmp_path)
    assert refusal(store) is Unlent.UNCHECKED


@pytest.mark.usefixtures("trusting")
def test_content_that_two_mounts_wrote_is_checked(make_store: MakeStore) -> None:
    one, two = make_store(), make_store()
    for index in indices(FILE):
        (one if index % 2 else two).put(FILE, index, block(FILE, index))
        assert one.settle(20)
        assert two.settle(20)
    assert refusal(one) is refusal(two) is Unlent.UNCHECKED


def test_lent_content_is_not_cut(store: Store, tmp_path: Path) -> None:
    content = store.lend(FILE)
    assert store._files.cut(content.name, 1) == 0
    assert os.pread(content.fd, FILE.size, 0) == BYTES


def test_content_that_is_taken_out_may_be_changed_and_is_found_by_nobody(
    store: Store, tmp_path: Path
) -> None:
    assert served(store, FILE) == list(indices(FILE))
    content = store.lend(FILE)
    content.take_out()
    content.write(10, b"changed")
    content.cut(100)
    content.take_out()
    assert files(tmp_path) == []
    assert served(store, FILE) == []
    assert os.pread(content.fd, 1000, 0) == (BYTES[:10] + b"changed" + BYTES[17:])[:100]
