"""The directory cache: one round trip serves many, and a change makes stale answers impossible."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ftpfs import errors
from ftpfs.core.names import listings
from ftpfs.core.names.tree import Tree
from ftpfs.model.entry import Entry, Kind
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


# What is cached.


def test_listing_answers_for_all_its_names_and_for_missing_ones(
    tree: Tree, remote: MemoryRemote
) -> None:
    assert tree.lookup("/d/a").size == 5
    assert tree.lookup("/d/e").kind is Kind.DIRECTORY
    for _ in range(3):
        with pytest.raises(errors.NotFound):
            tree.lookup("/d/missing")
    assert names(tree, "/d") == {"a", "e"}
    assert remote.calls == {"list": 1}


def test_root_needs_no_server(tree: Tree, remote: MemoryRemote) -> None:
    assert tree.lookup("/").kind is Kind.DIRECTORY
    assert not remote.calls


def test_changes_of_others_show_when_the_listing_is_stale(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(tree, "/d")
    remote.outside_write("/d/new", b"")
    clock.now += 59
    assert "new" not in names(tree, "/d")
    clock.now += 2
    assert "new" in names(tree, "/d")


def test_listing_is_never_reused_with_a_ttl_of_zero(remote: MemoryRemote, clock: Clock) -> None:
    tree = Tree(remote.list, remote.stat, ahead=remote.ahead, ttl=0, clock=clock)
    tree.lookup("/d/a")
    remote.outside_remove("/d/a")
    with pytest.raises(errors.NotFound):
        tree.lookup("/d/a")


def test_network_error_is_no_missing_name_and_is_not_cached(
    tree: Tree, remote: MemoryRemote
) -> None:
    remote.fail("list", errors.ConnectionLost("gone"))
    with pytest.raises(errors.ConnectionLost):
        tree.lookup("/d/a")
    assert tree.lookup("/d/a").size == 5


def test_names_are_looked_up_singly_in_a_directory_that_refuses_listing(
    tree: Tree, remote: MemoryRemote
) -> None:
    remote.unlistable.add("/d")
    assert tree.lookup("/d/a").size == 5
    with pytest.raises(errors.NotFound):
        tree.lookup("/d/missing")
    with pytest.raises(errors.PermissionDenied):
        tree.children("/d")


def test_oldest_listings_are_evicted_when_there_are_too_many_entries(
    tree: Tree, remote: MemoryRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MAX_ENTRIES", 3)
    names(tree, "/d")  # two entries
    names(tree, "/d/e")  # one
    names(tree, "/")  # one more than the limit
    names(tree, "/d/e")
    assert remote.calls["list"] == 3
    names(tree, "/d")
    assert remote.calls["list"] == 4


# Many threads at once.


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


def test_many_threads_share_an_error_each_as_its_own_exception(
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


# Changes made by this mount.


def test_changes_made_here_show_at_once_without_a_listing(tree: Tree, remote: MemoryRemote) -> None:
    names(tree, "/d")
    tree.put("/d/new", file("ignored", size=7))
    tree.remove("/d/a")
    tree.update("/d/new", mode=0o600, mtime=5)
    assert names(tree, "/d") == {"e", "new"}
    assert tree.lookup("/d/new") == Entry("new", Kind.FILE, 7, 5, exact=True, mode=0o600)
    assert remote.calls["list"] == 1


@pytest.mark.parametrize("answered", [False, True])
def test_listing_under_way_never_hides_a_change_made_meanwhile(
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


def test_listing_is_fetched_again_if_it_was_given_up_under_way(
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


def test_listing_of_a_moved_directory_is_not_cached_under_its_old_name(
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


def test_rename_takes_the_listings_below_along(tree: Tree, remote: MemoryRemote) -> None:
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


def test_rename_drops_the_listings_of_what_it_replaced(tree: Tree, remote: MemoryRemote) -> None:
    remote.outside_mkdir("/empty")
    for path in ("/", "/d", "/empty"):
        names(tree, path)
    tree.rename("/d", "/empty")
    assert names(tree, "/empty") == {"a", "e"}


def test_rename_out_of_an_unlisted_directory_is_learned_from_the_server(
    tree: Tree, remote: MemoryRemote
) -> None:
    names(tree, "/")
    remote.rename("/d/a", "/a", replace=False)
    tree.rename("/d/a", "/a")
    assert names(tree, "/") == {"a", "d"}


def test_removed_directory_is_dropped_with_everything_below(
    tree: Tree, remote: MemoryRemote
) -> None:
    for path in ("/", "/d", "/d/e"):
        names(tree, path)
    tree.remove("/d")
    remote.outside_remove("/d/e/x")
    tree.put("/d", Entry("d", Kind.DIRECTORY))
    assert names(tree, "/d/e") == set()


def test_new_directory_is_known_to_be_empty(tree: Tree, remote: MemoryRemote) -> None:
    names(tree, "/")
    tree.made_directory("/new", Entry("new", Kind.DIRECTORY))
    assert names(tree, "/new") == set()
    assert tree.lookup("/new").kind is Kind.DIRECTORY
    assert remote.calls["list"] == 1


# Looking at one entry again.


def test_look_at_one_entry_makes_it_fresh_again(
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


def test_look_is_not_cached_if_the_directory_was_changed_meanwhile(tree: Tree) -> None:
    tree.lookup("/d/a")

    def look() -> Entry:
        tree.remove("/d/a")
        return file("a", size=99)

    assert tree.look_again("/d/a", look).size == 99
    with pytest.raises(errors.NotFound):
        tree.lookup("/d/a")


def test_look_is_cached_though_another_name_was_changed_meanwhile(tree: Tree) -> None:
    tree.lookup("/d/a")

    def look() -> Entry:
        tree.put("/d/b", file("b"))
        return file("a", size=99)

    tree.look_again("/d/a", look)
    assert tree.lookup("/d/a").size == 99


def test_listing_under_way_does_not_undo_a_look_that_began_after_it(
    remote: MemoryRemote, clock: Clock
) -> None:
    def slow_list(path: str) -> list[Entry]:
        listed = remote.list(path)
        if path == "/d" and clock.now > 50:
            clock.now += 1
            listing.look_again("/d/a", lambda: file("a", size=99))
        return listed

    listing = Tree(slow_list, remote.stat, ahead=remote.ahead, ttl=60, clock=clock)
    listing.lookup("/d/a")
    clock.now += 61
    assert listing.lookup("/d/a").size == 99


def test_look_that_finds_nothing_drops_the_listing(tree: Tree, remote: MemoryRemote) -> None:
    tree.lookup("/d/a")
    remote.outside_remove("/d/a")
    with pytest.raises(errors.NotFound):
        tree.look_again("/d/a", lambda: remote.stat("/d/a"))
    assert names(tree, "/d") == {"e"}


# Names that others make.


@pytest.fixture
def doubting(remote: MemoryRemote, clock: Clock) -> Tree:
    return Tree(remote.list, remote.stat, ahead=remote.ahead, ttl=60, names_ttl=5, clock=clock)


def test_name_missing_in_an_older_listing_is_looked_for_again(
    doubting: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    doubting.lookup("/d/a")
    remote.outside_write("/d/new", b"new")
    clock.now += 4
    with pytest.raises(errors.NotFound):
        doubting.lookup("/d/new")
    assert "new" not in names(doubting, "/d")
    clock.now += 2
    assert doubting.lookup("/d/new").size == 3
    assert "new" in names(doubting, "/d")
    assert remote.calls == {"list": 2}


def test_name_in_an_older_listing_is_believed(
    doubting: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    doubting.lookup("/d/a")
    clock.now += 59
    doubting.lookup("/d/a")
    assert remote.calls == {"list": 1}


def test_names_made_one_after_another_cost_a_listing_every_few_seconds(
    doubting: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    doubting.made_directory("/d/made", Entry("made", Kind.DIRECTORY, size=0))
    remote.outside_mkdir("/d/made")
    for number in range(200):
        clock.now += 0.1
        with pytest.raises(errors.NotFound):
            doubting.lookup(f"/d/made/{number}")
        remote.outside_write(f"/d/made/{number}", b"x")
        doubting.put(f"/d/made/{number}", file(str(number)))
    assert remote.calls["list"] <= 4


@pytest.fixture
def slow(remote: MemoryRemote, clock: Clock) -> Tree:
    """A tree whose listings take a second, and single names a hundredth of one."""

    def slow_list(path: str) -> list[Entry]:
        clock.now += 1
        return remote.list(path)

    def slow_peek(path: str) -> Entry | None:
        clock.now += 0.01
        return remote.peek(path)

    remote.tells_singles = True
    ahead = remote.ahead
    return Tree(
        slow_list, remote.stat, ahead=ahead, peek=slow_peek, ttl=60, names_ttl=5, clock=clock
    )


def test_directory_is_listed_less_often_if_its_listing_takes_long(
    slow: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(slow, "/d")
    clock.now += 18
    names(slow, "/d")
    assert remote.calls == {"list": 1}
    clock.now += 8  # and five seconds of patience
    names(slow, "/d")
    assert remote.calls == {"list": 2}


def test_name_missing_in_a_slow_listing_is_asked_for_by_itself(
    slow: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(slow, "/d")
    remote.outside_write("/d/new", b"new")
    with pytest.raises(errors.NotFound):
        slow.lookup("/d/new")
    clock.now += 6
    assert slow.lookup("/d/new").size == 3
    assert "new" in names(slow, "/d")
    assert slow.lookup("/d/new").size == 3
    assert remote.calls == {"list": 1, "peek": 1}


def test_names_made_in_a_slow_folder_are_seldom_asked_for_first(
    slow: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(slow, "/d")
    clock.now += 6
    for number in range(100):
        clock.now += 0.01
        with pytest.raises(errors.NotFound):
            slow.lookup(f"/d/new{number}")
    assert remote.calls["list"] == 1
    assert remote.calls["peek"] <= 6, "each question takes 0.01 s, and 0.2 s pass to the next one"


def test_name_that_this_mount_deletes_while_it_is_asked_for_stays_deleted(
    remote: MemoryRemote, clock: Clock
) -> None:
    tree: Tree

    def peek(path: str) -> Entry | None:
        found = remote.peek(path)
        assert found is not None
        tree.put(path, found)
        tree.remove(path)
        return found

    def slow_list(path: str) -> list[Entry]:
        clock.now += 1
        return remote.list(path)

    remote.tells_singles = True
    tree = Tree(
        slow_list, remote.stat, ahead=remote.ahead, peek=peek, ttl=60, names_ttl=5, clock=clock
    )
    names(tree, "/d")
    remote.outside_write("/d/new", b"new")
    clock.now += 6
    tree.lookup("/d/new")
    assert "new" not in names(tree, "/d")


def test_names_are_made_without_waiting_for_a_silent_server_again_and_again(
    remote: MemoryRemote, clock: Clock
) -> None:
    asked = []

    def list_(path: str) -> list[Entry]:
        asked.append(clock.now)
        if len(asked) > 1:
            clock.now += 3
            raise errors.DeadlineExceeded("no answer")
        return remote.list(path)

    tree = Tree(list_, remote.stat, ahead=remote.ahead, ttl=60, names_ttl=5, clock=clock)
    names(tree, "/d")
    while clock.now < asked[0] + 55:
        clock.now += 1
        with pytest.raises(errors.NotFound):
            tree.lookup(f"/d/new{clock.now}")
    assert len(asked) == 2


def test_older_listing_answers_while_the_network_is_away(
    doubting: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(doubting, "/d")
    clock.now += 6
    remote.fail("list", errors.ConnectionLost("gone"))
    assert names(doubting, "/d") == {"a", "e"}
    assert names(doubting, "/d") == {"a", "e"}, "and not asked for again at once"
    with pytest.raises(errors.NotFound):
        doubting.lookup("/d/new")
    assert remote.calls == {"list": 2}
    clock.now += 55
    remote.fail("list", errors.ConnectionLost("gone"))
    with pytest.raises(errors.ConnectionLost):
        names(doubting, "/d")


# Single names.


@pytest.fixture
def peeking(remote: MemoryRemote, clock: Clock) -> Tree:
    remote.tells_singles = True
    return Tree(
        remote.list,
        remote.stat,
        ahead=remote.ahead,
        peek=remote.peek,
        is_far=lambda: True,
        ttl=60,
        clock=clock,
    )


def test_path_costs_one_round_trip_for_each_of_its_names(
    peeking: Tree, remote: MemoryRemote
) -> None:
    for _ in range(2):
        for path in ("/d", "/d/e", "/d/e/x"):
            assert peeking.lookup(path).name == path[-1]
    assert remote.calls == {"peek": 3}
    assert peeking.age("/d/e/x") == 0


def test_second_name_in_a_directory_lists_it(peeking: Tree, remote: MemoryRemote) -> None:
    peeking.lookup("/d/a")
    peeking.lookup("/d/e")
    peeking.lookup("/d/a")
    assert remote.calls == {"peek": 1, "list": 1}


def test_listing_tells_that_a_name_is_missing(peeking: Tree, remote: MemoryRemote) -> None:
    for _ in range(2):
        with pytest.raises(errors.NotFound):
            peeking.lookup("/d/none")
    assert remote.calls == {"peek": 1, "list": 1}


def test_single_name_is_believed_no_longer_than_a_listing(
    peeking: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    assert peeking.lookup("/d/a").size == 5
    remote.outside_write("/d/a", b"123")
    clock.now += 61
    assert peeking.lookup("/d/a").size == 3


@pytest.mark.parametrize("change", ["put", "remove", "forget", "update", "rename", "above"])
def test_single_name_is_not_believed_after_a_change_made_here(
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


def test_change_wins_over_the_answer_for_a_single_name_under_way(
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


def test_network_failure_for_a_single_name_is_no_missing_name(
    peeking: Tree, remote: MemoryRemote
) -> None:
    remote.fail("peek", errors.ConnectionLost("gone"))
    with pytest.raises(errors.ConnectionLost):
        peeking.lookup("/d/a")
    assert peeking.lookup("/d/a").size == 5


# A directory's own time.


@pytest.fixture
def dated(remote: MemoryRemote, clock: Clock) -> Tree:
    """A tree whose wall clock always shows 5000."""
    return Tree(
        remote.list, remote.stat, ahead=remote.ahead, ttl=60, clock=clock, now=lambda: 5000.7
    )


@pytest.mark.parametrize(
    ("change", "folders"),
    [
        (lambda tree: tree.put("/d/new", file("new")), ["/d"]),
        (lambda tree: tree.remove("/d/a"), ["/d"]),
        (lambda tree: tree.rename("/d/a", "/d/b"), ["/d"]),
        (lambda tree: tree.rename("/d/a", "/d/e/a"), ["/d", "/d/e"]),
        (lambda tree: tree.made_directory("/d/f", Entry("f", Kind.DIRECTORY)), ["/d"]),
        (lambda tree: tree.remove("/d/e"), ["/d"]),
        (lambda tree: tree.names_changed("/d/e"), ["/d/e"]),
        (lambda tree: tree.put("/top", file("top")), ["/"]),
        (lambda tree: tree.put("/d/a", file("a")), []),  # it was there
        (lambda tree: tree.update("/d/a", mode=0o600), []),
    ],
)
def test_directory_shows_a_new_time_when_a_name_in_it_comes_or_goes(
    dated: Tree, remote: MemoryRemote, change: Callable[[Tree], None], folders: list[str]
) -> None:
    for path in ("/", "/d", "/d/e"):
        dated.children(path)
    before = dict(remote.calls)
    change(dated)
    for path in ("/", "/d", "/d/e"):
        try:
            moved = dated.lookup(path).mtime == 5000
        except errors.NotFound:
            continue
        assert moved == (path in folders), path
    assert remote.calls == before


def test_next_listing_tells_the_servers_own_time_of_a_directory(
    dated: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    true = dated.lookup("/d").mtime
    dated.put("/d/new", file("new"))
    assert dated.lookup("/d").mtime == 5000
    clock.now += 61
    assert dated.lookup("/d").mtime == true
