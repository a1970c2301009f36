"""Old listings are looked at again behind the answer: when, by whom, and what comes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ftpfs import errors
from ftpfs.core.names import behind as behind_module
from ftpfs.core.names.behind import LONGEST_PAUSE_SECONDS, MOST_WAITING, Behind, Changes
from ftpfs.core.names.belief import NOTICED_SECONDS, PATIENCE_SECONDS, Belief
from ftpfs.core.names.listings import Directory, differences
from ftpfs.core.names.tree import Tree
from ftpfs.model.entry import Entry, Kind
from tests.support.clock import Clock
from tests.support.memory_remote import MemoryRemote
from tests.support.waiting import until

TTL, NAMES_TTL = 60.0, 5.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


# What counts.


@pytest.mark.parametrize(
    ("age", "took", "far", "recent", "shows", "fresh"),
    [
        (4.9, 0.0, True, True, True, True),
        (5.1, 0.0, True, False, True, True),
        (5.1, 0.0, False, False, False, True),
        (5.1, 2 * NOTICED_SECONDS, False, False, True, True),
        (NAMES_TTL + PATIENCE_SECONDS - 0.1, 0.0, True, False, True, True),
        (NAMES_TTL + PATIENCE_SECONDS + 0.1, 0.0, True, False, False, True),
        (55.0, 0.0, True, False, False, True),
        (19.0, 1.0, True, True, True, True),
        (24.0, 1.0, True, False, True, True),
        (26.0, 1.0, True, False, False, True),
        (61.0, 10.0, True, False, False, False),
    ],
)
def test_listing_counts_for_so_long(
    clock: Clock, age: float, took: float, far: bool, recent: bool, shows: bool, fresh: bool
) -> None:
    belief = Belief(TTL, NAMES_TTL, lambda: far, clock)
    directory = Directory([], clock.now)
    directory.took = took
    clock.now += age
    found = (belief.is_recent(directory), belief.shows(directory), belief.is_fresh(directory))
    assert found == (recent, shows, fresh)


def test_directory_becomes_due_once_in_the_time_for_which_it_is_believed(clock: Clock) -> None:
    belief = Belief(TTL, NAMES_TTL, lambda: True, clock)
    directory = Directory([], clock.now)
    due = []
    for _ in range(40):
        clock.now += 0.5
        due.append(belief.becomes_due(directory))
    assert [number for number, each in enumerate(due) if each] == [9, 19, 29, 39]


OLD_ENTRY = Entry("a", Kind.FILE, size=1, mtime=60, exact=False)


@pytest.mark.parametrize(
    ("now", "differs"),
    [
        (OLD_ENTRY, False),
        (Entry("a", Kind.FILE, size=1, mtime=93, exact=True), False),
        (Entry("a", Kind.FILE, size=2, mtime=93, exact=True), True),
        (Entry("a", Kind.FILE, size=1, mtime=120, exact=False), True),
        (Entry("a", Kind.DIRECTORY, size=1, mtime=60, exact=False), True),
        (None, True),
    ],
)
def test_names_that_others_changed_are_told_apart_from_times_that_became_exact(
    now: Entry | None, differs: bool
) -> None:
    listed = {"a": now} if now else {}
    assert differences({"a": OLD_ENTRY}, listed) == ({"a"} if differs else set())
    assert differences(listed, {"a": OLD_ENTRY}) == ({"a"} if differs else set())


# The tree.


@pytest.fixture
def remote() -> MemoryRemote:
    remote = MemoryRemote()
    remote.outside_mkdir("/d")
    remote.outside_mkdir("/d/e")
    remote.outside_write("/d/a", b"12345")
    remote.outside_write("/d/b", b"1")
    return remote


@pytest.fixture
def due() -> list[str]:
    return []


@pytest.fixture
def tree(remote: MemoryRemote, clock: Clock, due: list[str]) -> Tree:
    return Tree(
        remote.list,
        remote.stat,
        ahead=remote.ahead,
        ttl=TTL,
        names_ttl=NAMES_TTL,
        due=due.append,
        is_far=lambda: True,
        clock=clock,
    )


def names(tree: Tree) -> set[str]:
    return {entry.name for entry in tree.children("/d")}


def choose(*paths: str) -> Callable[[], str | None]:
    left: Iterator[str] = iter(paths)
    return lambda: next(left, None)


def look(tree: Tree) -> Changes | None:
    return tree.list_behind(choose("/d"))


def test_ls_and_stat_from_an_old_listing_ask_for_one_look(
    tree: Tree, remote: MemoryRemote, clock: Clock, due: list[str]
) -> None:
    names(tree)
    clock.now += 4
    names(tree)
    tree.lookup("/d/a")
    assert due == []
    clock.now += 2
    tree.lookup("/d/e")
    assert due == [], "a directory is a part of a path"
    tree.lookup("/d/a")
    names(tree)
    assert due == ["/d"]
    clock.now += 5
    tree.lookup("/d/a")
    assert due == ["/d", "/d"]
    assert remote.calls == {"list": 1}


def test_look_shows_what_others_changed_and_tells_it(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(tree)
    remote.outside_write("/d/new", b"new")
    remote.outside_write("/d/a", b"1234567")
    remote.outside_remove("/d/b")
    clock.now += 6
    assert names(tree) == {"a", "b", "e"}
    assert look(tree) == Changes("/d", frozenset({"a", "b", "new"}))
    assert names(tree) == {"a", "e", "new"}
    assert tree.lookup("/d/a").size == 7
    assert remote.calls == {"list": 2}


def test_nothing_is_looked_at_that_is_recent_or_forgotten(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(tree)
    assert look(tree) is None
    clock.now += 6
    tree.forget("/d")
    assert look(tree) is None
    assert remote.calls == {"list": 1}


def test_changes_made_here_during_a_look_are_shown_and_not_told(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(tree)
    clock.now += 6
    gate = remote.hold("list", answered=True)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(look, tree)
        assert gate.reached.wait(5)
        tree.put("/d/mine", Entry("mine", Kind.FILE, size=3))
        tree.remove("/d/b")
        gate.open()
        changes = found.result(5)
    assert changes == Changes("/d", frozenset())
    assert names(tree) == {"a", "e", "mine"}


def test_look_at_a_directory_that_this_mount_moved_meanwhile_is_not_cached(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(tree)
    clock.now += 6
    gate = remote.hold("list", answered=True)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(look, tree)
        assert gate.reached.wait(5)
        tree.forget("/d")
        gate.open()
        with pytest.raises(errors.FtpfsError):
            found.result(5)
    assert tree.known("/d") == []


def test_program_waits_for_the_look_under_way_and_lists_by_itself_if_it_fails(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    for fails in (False, True):
        names(tree)
        clock.now += 11
        gate = remote.hold("list")
        if fails:
            remote.fail("list", errors.ConnectionLost("gone"))
        before = remote.calls["list"]
        with ThreadPoolExecutor(2) as threads:
            looking = threads.submit(look, tree)
            assert gate.reached.wait(5)
            listing = threads.submit(names, tree)
            assert not listing.done()
            gate.open()
            assert listing.result(5) == {"a", "b", "e"}
            assert isinstance(looking.exception(5), errors.ConnectionLost if fails else type(None))
        assert remote.calls["list"] == before + 1 + fails


def test_look_at_a_directory_that_is_gone_drops_its_listing(
    tree: Tree, remote: MemoryRemote, clock: Clock
) -> None:
    names(tree)
    for name in ("a", "b", "e"):
        remote.outside_remove(f"/d/{name}")
    remote.outside_remove("/d")
    clock.now += 6
    assert names(tree) == {"a", "b", "e"}
    with pytest.raises(errors.NotFound):
        look(tree)
    with pytest.raises(errors.NotFound):
        names(tree)


def test_listing_outlives_a_look_that_the_network_ended(
    tree: Tree, remote: MemoryRemote, clock: Clock, due: list[str]
) -> None:
    names(tree)
    clock.now += 6
    names(tree)
    remote.fail("list", errors.ConnectionLost("gone"))
    with pytest.raises(errors.ConnectionLost):
        look(tree)
    assert names(tree) == {"a", "b", "e"}
    assert due == ["/d"]
    clock.now += 4  # more than ten seconds after the listing, an `ls` asks by itself
    remote.outside_write("/d/new", b"")
    assert "new" in names(tree)


def test_walk_goes_on_after_a_look(tree: Tree, clock: Clock) -> None:
    names(tree)
    before = tree.subdirectories("/d")
    clock.now += 6
    look(tree)
    assert before == ["e"]
    assert tree.subdirectories("/d") is before


# The thread.


class Looks:
    """Stands for `Tree.list_behind`: notes what is looked at, and how many looks run at a time."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.at_once = self.most_at_once = 0
        self.errors: list[errors.FtpfsError] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, choose: Callable[[], str | None]) -> Changes | None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            assert self.go.wait(10)
            folder = choose()
            if folder is None:
                return None
            self.seen.append(folder)
            if self.errors:
                raise self.errors.pop()
            return Changes(folder, frozenset({"new"}))
        finally:
            self.at_once -= 1


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def behind(looks: Looks, told: list[str], clock: Clock) -> Iterator[Behind]:
    behind = Behind(looks, report=lambda changes: told.append(changes.folder), clock=clock)
    yield behind
    behind.close()


def test_folders_are_looked_at_one_at_a_time_each_once(
    behind: Behind, looks: Looks, told: list[str]
) -> None:
    looks.go.clear()
    for folder in ("/a", "/b", "/a", "/c", "/b"):
        behind.wanted(folder)
    looks.go.set()
    until(lambda: told == ["/a", "/b", "/c"])
    assert looks.most_at_once == 1


def test_folders_asked_for_first_are_left_out_if_there_are_too_many(
    behind: Behind, looks: Looks, told: list[str]
) -> None:
    looks.go.clear()
    for number in range(MOST_WAITING + 5):
        behind.wanted(f"/{number}")
    looks.go.set()
    until(lambda: len(told) == MOST_WAITING)
    assert looks.seen[0] == "/5"


def test_looks_pause_while_the_server_is_away_longer_each_time(
    behind: Behind, looks: Looks, told: list[str], clock: Clock
) -> None:
    asked = 0
    for _ in range(600):
        looks.errors = [errors.ConnectionLost("gone")]
        before = len(looks.seen)
        behind.wanted("/a")
        if clock.now >= behind._quiet_until:
            until(lambda before=before: len(looks.seen) > before)  # type: ignore[misc]
            until(lambda: clock.now < behind._quiet_until)
            asked += 1
        clock.now += 1
    assert asked <= 4 + 600 / LONGEST_PAUSE_SECONDS
    looks.errors = []
    clock.now += LONGEST_PAUSE_SECONDS
    behind.wanted("/a")
    until(lambda: told == ["/a"])


def test_refusal_stops_no_other_look(behind: Behind, looks: Looks, told: list[str]) -> None:
    looks.go.clear()
    looks.errors = [errors.PermissionDenied("no")]
    behind.wanted("/a")
    behind.wanted("/b")
    looks.go.set()
    until(lambda: told == ["/b"])


def test_thread_ends_when_idle_and_another_follows(
    monkeypatch: pytest.MonkeyPatch, behind: Behind, told: list[str]
) -> None:
    monkeypatch.setattr(behind_module, "IDLE_SECONDS", 0.05)
    for number in range(3):
        behind.wanted(f"/{number}")
        until(lambda number=number: len(told) == number + 1)  # type: ignore[misc]
        until(lambda: not behind._runs)


def test_unexpected_error_is_logged_and_the_next_look_is_made(
    behind: Behind, looks: Looks, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    looks.errors = [ValueError("a bug")]  # type: ignore[list-item]
    behind.wanted("/a")
    until(lambda: "unexpected error" in caplog.text)
    until(lambda: not behind._runs)
    behind.wanted("/b")
    until(lambda: told == ["/b"])


def test_closing_waits_for_no_look_and_begins_none(
    behind: Behind, looks: Looks, told: list[str]
) -> None:
    looks.go.clear()
    behind.wanted("/a")
    until(lambda: looks.at_once == 1)
    behind.close()
    behind.wanted("/b")
    looks.go.set()
    until(lambda: not behind._runs)
    assert looks.seen == told == []
