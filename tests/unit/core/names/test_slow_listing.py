"""A listing that takes long: names of its directory are asked for by themselves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ftpfs import errors
from ftpfs.core.names import tree as tree_module
from ftpfs.core.names.tree import Tree
from ftpfs.model.entry import Entry, Kind
from tests.support.memory_remote import Gate, MemoryRemote
from tests.support.waiting import until


@pytest.fixture
def remote() -> MemoryRemote:
    remote = MemoryRemote()
    remote.tells_singles = True
    remote.outside_mkdir("/d")
    for name in ("a", "b"):
        remote.outside_write(f"/d/{name}", b"12345")
    return remote


@pytest.fixture
def tree(remote: MemoryRemote, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setattr(tree_module, "BESIDE_SECONDS", 0.05)
    return Tree(remote.list, remote.stat, ahead=remote.ahead, peek=remote.peek, ttl=60)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def listed(tree: Tree, remote: MemoryRemote, pool: ThreadPoolExecutor) -> Iterator[Gate]:
    """ "/d" is being listed for another program, until the gate opens."""
    gate = remote.hold("list")
    listing = pool.submit(tree.children, "/d")
    until(lambda: remote.calls["list"])
    yield gate
    gate.open()
    listing.result(5)


def test_name_is_asked_for_while_its_directory_is_listed(
    tree: Tree, remote: MemoryRemote, listed: Gate
) -> None:
    for name in ("a", "b"):
        assert tree.lookup(f"/d/{name}").size == 5
    assert remote.calls == {"list": 1, "peek": 2}
    assert tree.known("/d") == []


def test_missing_name_waits_for_the_listing(
    tree: Tree, remote: MemoryRemote, listed: Gate, pool: ThreadPoolExecutor
) -> None:
    found: Future[Entry] = pool.submit(tree.lookup, "/d/none")
    until(lambda: remote.calls["peek"])
    assert not found.done()
    listed.open()
    assert isinstance(found.exception(5), errors.NotFound)
    assert remote.calls == {"list": 1, "peek": 1}


def test_name_that_this_mount_made_or_deleted_meanwhile_is_not_asked_for(
    tree: Tree, remote: MemoryRemote, listed: Gate, pool: ThreadPoolExecutor
) -> None:
    tree.put("/d/new", Entry("new", Kind.FILE, size=7))
    tree.remove("/d/a")
    assert tree.lookup("/d/new").size == 7
    gone = pool.submit(tree.lookup, "/d/a")
    listed.open()
    assert isinstance(gone.exception(5), errors.NotFound)
    assert remote.calls == {"list": 1}


def test_name_that_this_mount_deletes_while_it_is_asked_for_is_gone(
    tree: Tree, remote: MemoryRemote, listed: Gate, pool: ThreadPoolExecutor
) -> None:
    asking = remote.hold("peek", answered=True)
    found = pool.submit(tree.lookup, "/d/a")
    until(lambda: remote.calls["peek"])
    tree.remove("/d/a")
    asking.open()
    listed.open()
    assert isinstance(found.exception(5), errors.NotFound)


def test_network_failure_for_the_name_alone_waits_for_the_listing(
    tree: Tree, remote: MemoryRemote, listed: Gate, pool: ThreadPoolExecutor
) -> None:
    remote.fail("peek", errors.ConnectionLost("cut"))
    found = pool.submit(tree.lookup, "/d/a")
    until(lambda: remote.calls["peek"])
    listed.open()
    assert found.result(5).size == 5
