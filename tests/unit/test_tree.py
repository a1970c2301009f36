"""The directory cache: one round trip for many, and nothing believed that a change made untrue."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ftpfs import errors
from ftpfs.core import tree as tree_module
from ftpfs.core.tree import Tree
from ftpfs.ftp.listing import Entry, Kind
from tests.support.clock import Clock
from tests.support.memory_remote import MemoryRemote


@pytest.fixture
def remote() -> MemoryRemote:
    remote = MemoryRemote()
    remote.outside_mkdir("/d")
    remote.outside_mkdir("/d/e")
    remote.outside_write("/d/a", b"12345")
    remote.outside_write("/d/e/x", b"x")
    return remote


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tree(remote: MemoryRemote, clock: Clock) -> Tree:
    return Tree(remote.list, remote.stat, ahead=remote.ahead, ttl=60, clock=clock)


def file(name: str, size: int = 1) -> Entry:
    return Entry(name, Kind.FILE, size=size)


def names(tree: Tree, path: str) -> set[str]:
    return {entry.name for entry in tree.children(path)}


# What is remembered.


def test_a_listing_answers_for_all_its_names_and_for_the_missing_ones(
    tree: Tree, remote: MemoryRemote
) -> None:
    assert tree.lookup("/d/a").size == 5
    assert tree.lookup("/d/e").kind is Kind.DIRECTORY
    for _ in range(3):
        with pytest.raises(errors.NotFound):
            tree.lookup("/d/missing")
    assert names(tree, "/d") == {"a", "e"}
    assert remote.calls == {"list": 1}


def test_the_root_needs_no_server(tree: Tree, remote: MemoryRemote) -> None:
    assert tree.lookup("/").kind is Kind.DIRECTORY
    assert not remote.calls


def test_changes_of_others_show_when_the_listing_is_too_old(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(tree, "/d")
    remote.outside_write("/d/new", b"")
    clock.now += 59
    assert "new" not in names(tree, "/d")
    clock.now += 2
    assert "new" in names(tree, "/d")


def test_no_listing_is_believed_with_a_ttl_of_nothing(remote: MemoryRemote, clock: Clock) -> None:
    tree = Tree(remote.list, remote.stat, ahead=remote.ahead, ttl=0, clock=clock)
    tree.lookup("/d/a")
    remote.outside_remove("/d/a")
    with pytest.raises(errors.NotFound):
        tree.lookup("/d/a")


def test_a_network_error_is_neither_a_missing_name_nor_remembered(
    tree: Tree, remote: MemoryRemote
) -> None:
    remote.fail("list", errors.ConnectionLost("gone"))
    with pytest.raises(errors.ConnectionLost):
        tree.lookup("/d/a")
    assert tree.lookup("/d/a").size == 5


def test_a_directory_that_may_not_be_listed_is_asked_for_single_names(
    tree: Tree, remote: MemoryRemote
) -> None:
    remote.unlistable.add("/d")
    assert tree.lookup("/d/a").size == 5
    with pytest.raises(errors.NotFound):
        tree.lookup("/d/missing")
    with pytest.raises(errors.PermissionDenied):
        tree.children("/d")


def test_the_oldest_listings_go_when_there_are_too_many_entries(
    tree: Tree, remote: MemoryRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "MAX_ENTRIES", 3)
    names(tree, "/d")  # two entries
    names(tree, "/d/e")  # one
    names(tree, "/")  # one more: too many
    names(tree, "/d/e")
    assert remote.calls["list"] == 3
    names(tree, "/d")
    assert remote.calls["list"] == 4


# Many at once.


def start_all(pool: ThreadPoolExecutor, tree: Tree, count: int) -> list[Future[Entry]]:
    started = [pool.submit(tree.lookup, "/d/a") for _ in range(count)]
    time.sleep(0.05)  # let them get to the place where they wait
    return started


def test_many_threads_cause_one_listing(tree: Tree, remote: MemoryRemote) -> None:
    gate = remote.hold("list")
    with ThreadPoolExecutor(20) as pool:
        asked = start_all(pool, tree, 20)
        gate.open()
        assert {future.result(5).size for future in asked} == {5}
    assert remote.calls["list"] == 1


def test_many_threads_share_an_error_each_by_an_exception_of_its_own(
    tree: Tree, remote: MemoryRemote
) -> None:
    gate = remote.hold("list")
    remote.fail("list", errors.Refused(451, "disk on fire"))
    with ThreadPoolExecutor(8) as pool:
        asked = start_all(pool, tree, 8)
        gate.open()
        raised = [future.exception(5) for future in asked]
    assert {type(error) for error in raised} == {errors.Refused}
    assert len({id(error) for error in raised}) == 8
    assert tree.lookup("/d/a").size == 5


# Changes from here.


def test_changes_from_here_show_at_once_without_a_listing(tree: Tree, remote: MemoryRemote) -> None:
    names(tree, "/d")
    tree.put("/d/new", file("ignored", size=7))
    tree.remove("/d/a")
    tree.update("/d/new", mode=0o600, mtime=5)
    assert names(tree, "/d") == {"e", "new"}
    assert tree.lookup("/d/new") == Entry("new", Kind.FILE, 7, 5, exact=True, mode=0o600)
    assert remote.calls["list"] == 1


@pytest.mark.parametrize("answered", [False, True])
def test_a_listing_under_way_never_hides_a_change_made_meanwhile(
    tree: Tree, remote: MemoryRemote, answered: bool
) -> None:
    """Whether the server made the listing before the change or after it."""
    gate = remote.hold("list", answered=answered)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(names, tree, "/d")
        assert gate.reached.wait(5)
        remote.outside_write("/d/new", b"")
        tree.put("/d/new", file("new"))
        remote.outside_remove("/d/a")
        tree.remove("/d/a")
        gate.open()
        assert asked.result(5) == {"e", "new"}
    assert names(tree, "/d") == {"e", "new"}
    assert remote.calls["list"] == 1


def test_a_listing_that_was_given_up_while_under_way_is_fetched_again(
    tree: Tree, remote: MemoryRemote
) -> None:
    gate = remote.hold("list", answered=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(names, tree, "/d")
        assert gate.reached.wait(5)
        remote.outside_write("/d/new", b"")
        tree.forget("/d")
        gate.open()
        assert asked.result(5) == {"a", "e", "new"}


def test_a_listing_of_a_directory_that_moved_meanwhile_is_not_kept_under_its_old_name(
    tree: Tree, remote: MemoryRemote
) -> None:
    names(tree, "/d")
    gate = remote.hold("list", answered=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(names, tree, "/d/e")
        assert gate.reached.wait(5)
        remote.rename("/d/e", "/d/f", replace=False)
        tree.rename("/d/e", "/d/f")
        gate.open()
        with pytest.raises(errors.NotFound):
            asked.result(5)
    assert names(tree, "/d/f") == {"x"}


def test_a_rename_takes_the_listings_below_along(tree: Tree, remote: MemoryRemote) -> None:
    for path in ("/", "/d", "/d/e"):
        names(tree, path)
    remote.rename("/d", "/moved", replace=False)
    tree.rename("/d", "/moved")
    assert names(tree, "/") == {"moved"}
    assert names(tree, "/moved/e") == {"x"}
    assert tree.lookup("/moved/a").size == 5
    assert remote.calls["list"] == 3
    with pytest.raises(errors.NotFound):
        tree.lookup("/d/a")


def test_what_a_rename_replaced_is_gone_with_its_listings(tree: Tree, remote: MemoryRemote) -> None:
    remote.outside_mkdir("/empty")
    for path in ("/", "/d", "/empty"):
        names(tree, path)
    tree.rename("/d", "/empty")
    assert names(tree, "/empty") == {"a", "e"}


def test_a_rename_out_of_a_directory_nobody_listed_is_learned_from_the_server(
    tree: Tree, remote: MemoryRemote
) -> None:
    names(tree, "/")
    remote.rename("/d/a", "/a", replace=False)
    tree.rename("/d/a", "/a")
    assert names(tree, "/") == {"a", "d"}


def test_removing_a_directory_forgets_what_was_below(tree: Tree, remote: MemoryRemote) -> None:
    for path in ("/", "/d", "/d/e"):
        names(tree, path)
    tree.remove("/d")
    remote.outside_remove("/d/e/x")
    tree.put("/d", Entry("d", Kind.DIRECTORY))
    assert names(tree, "/d/e") == set()


def test_a_directory_just_made_is_known_to_be_empty(tree: Tree, remote: MemoryRemote) -> None:
    names(tree, "/")
    tree.made_directory("/new", Entry("new", Kind.DIRECTORY))
    assert names(tree, "/new") == set()
    assert tree.lookup("/new").kind is Kind.DIRECTORY
    assert remote.calls["list"] == 1


# Looking again at one entry.


def test_a_look_at_one_entry_makes_it_young_again(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    assert tree.age("/d/a") == float("inf")
    tree.lookup("/d/a")
    clock.now += 10
    assert tree.age("/d/a") == 10
    remote.outside_write("/d/a", b"longer now")
    tree.look_again("/d/a", lambda: remote.stat("/d/a"))
    assert (tree.age("/d/a"), tree.age("/d/e")) == (0, 10)
    assert tree.lookup("/d/a").size == 10


def test_a_look_is_not_filed_when_the_directory_was_changed_meanwhile(tree: Tree) -> None:
    tree.lookup("/d/a")

    def look() -> Entry:
        tree.remove("/d/a")
        return file("a", size=99)

    assert tree.look_again("/d/a", look).size == 99
    with pytest.raises(errors.NotFound):
        tree.lookup("/d/a")


def test_a_look_that_finds_nothing_makes_the_listing_doubtful(
    tree: Tree, remote: MemoryRemote
) -> None:
    tree.lookup("/d/a")
    remote.outside_remove("/d/a")
    with pytest.raises(errors.NotFound):
        tree.look_again("/d/a", lambda: remote.stat("/d/a"))
    assert names(tree, "/d") == {"e"}


# Single names.


@pytest.fixture
def peeking(remote: MemoryRemote, clock: Clock) -> Tree:
    remote.tells_singles = True
    return Tree(remote.list, remote.stat, ahead=remote.ahead, peek=remote.peek, ttl=60, clock=clock)


def test_a_path_costs_one_question_for_each_of_its_names(
    peeking: Tree, remote: MemoryRemote
) -> None:
    for _ in range(2):
        for path in ("/d", "/d/e", "/d/e/x"):
            assert peeking.lookup(path).name == path[-1]
    assert remote.calls == {"peek": 3}
    assert peeking.age("/d/e/x") == 0


def test_the_second_name_of_a_directory_has_it_listed(peeking: Tree, remote: MemoryRemote) -> None:
    peeking.lookup("/d/a")
    peeking.lookup("/d/e")
    peeking.lookup("/d/a")
    assert remote.calls == {"peek": 1, "list": 1}


def test_a_name_that_is_not_there_is_found_missing_by_the_listing(
    peeking: Tree, remote: MemoryRemote
) -> None:
    for _ in range(2):
        with pytest.raises(errors.NotFound):
            peeking.lookup("/d/none")
    assert remote.calls == {"peek": 1, "list": 1}


def test_a_single_name_is_believed_no_longer_than_a_listing(
    peeking: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    assert peeking.lookup("/d/a").size == 5
    remote.outside_write("/d/a", b"123")
    clock.now += 61
    assert peeking.lookup("/d/a").size == 3


@pytest.mark.parametrize("change", ["put", "remove", "forget", "update", "rename", "above"])
def test_a_single_name_is_not_believed_after_a_change_from_here(
    peeking: Tree, remote: MemoryRemote, change: str
) -> None:
    peeking.lookup("/d/e/x")
    remote.outside_write("/d/e/x", b"1234567")
    {
        "put": lambda: peeking.put("/d/e/x", file("x", 7)),
        "remove": lambda: peeking.remove("/d/e/x"),
        "forget": lambda: peeking.forget("/d/e"),
        "update": lambda: peeking.update("/d/e/x", mtime=1),
        "rename": lambda: peeking.rename("/d/e/x", "/d/e/y"),
        "above": lambda: peeking.remove("/d/e"),
    }[change]()
    assert peeking.lookup("/d/e/x").size == 7


def test_a_change_made_while_a_single_name_is_asked_for_wins(
    peeking: Tree, remote: MemoryRemote
) -> None:
    gate = remote.hold("peek", answered=True)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(peeking.lookup, "/d/a")
        assert gate.reached.wait(5)
        remote.outside_write("/d/a", b"1234567")
        peeking.put("/d/a", file("a", 7))
        gate.open()
        asked.result(5)
    assert peeking.lookup("/d/a").size == 7


def test_a_network_that_fails_over_a_single_name_is_no_missing_name(
    peeking: Tree, remote: MemoryRemote
) -> None:
    remote.fail("peek", errors.ConnectionLost("gone"))
    with pytest.raises(errors.ConnectionLost):
        peeking.lookup("/d/a")
    assert peeking.lookup("/d/a").size == 5
