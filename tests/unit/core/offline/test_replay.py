"""Steps are carried out on a server where others have changed names meanwhile."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ftpfs import errors
from tests.support.memory_remote import MemoryRemote
from tests.unit.core.offline.conftest import Away, Tree, tree_of


@pytest.fixture
def here(away: Away, server: MemoryRemote) -> Away:
    for folder in ("/d", "/d/e", "/empty"):
        server.outside_mkdir(folder)
    for path in ("/a", "/b", "/d/x"):
        server.outside_write(path, path.encode())
    away.learn()
    away.leave()
    return away


THERE: Tree = {"/a": b"/a", "/b": b"/b", "/d": None, "/d/e": None, "/d/x": b"/d/x", "/empty": None}


def refusals(here: Away) -> list[tuple[str, str | None]]:
    return [(each.path, each.error) for each in here.waiting.status() if each.state == "failed"]


CHANGED = "somebody else has changed it meanwhile"
GONE = "somebody else has deleted or renamed it meanwhile"


@pytest.mark.parametrize("as_large", [True, False])
def test_file_that_others_changed_is_not_deleted(
    here: Away, server: MemoryRemote, as_large: bool
) -> None:
    here.remote.remove("/a")
    server.outside_write("/a", b"/A" if as_large else b"/aaa", mtime=server.now + 1)
    assert here.replay.run()
    assert server.content("/a") in (b"/A", b"/aaa")
    assert refusals(here) == [("/a", CHANGED)]


def test_file_that_others_deleted_counts_as_deleted(here: Away, server: MemoryRemote) -> None:
    here.remote.remove("/a")
    server.outside_remove("/a")
    assert here.replay.run()
    assert refusals(here) == []


def test_file_that_others_changed_is_not_replaced(here: Away, server: MemoryRemote) -> None:
    here.remote.rename("/a", "/b", replace=True)
    server.outside_write("/b", b"theirs")
    assert here.replay.run()
    assert tree_of(server) == {**THERE, "/b": b"theirs"}
    assert refusals(here) == [("/a", "somebody else has made or changed /b meanwhile")]


def test_name_that_others_took_is_left_to_them(here: Away, server: MemoryRemote) -> None:
    here.remote.rename("/a", "/new", replace=False)
    here.remote.rename("/d", "/folder", replace=False)
    server.outside_write("/new", b"theirs")
    server.outside_mkdir("/folder")
    assert here.replay.run()
    assert tree_of(server) == {**THERE, "/new": b"theirs", "/folder": None}
    assert [path for path, _ in refusals(here)] == ["/a", "/d"]


def test_changes_of_refused_names_are_refused_and_others_go_on(
    here: Away, server: MemoryRemote
) -> None:
    here.remote.rename("/d", "/folder", replace=False)
    here.remote.rename("/folder", "/again", replace=False)
    here.remote.remove("/again/x")
    here.remote.mkdir("/again/new")
    here.remote.remove("/b")
    here.remote.mkdir("/fine")
    server.outside_mkdir("/folder")
    server.outside_write("/folder/x", b"/d/x")  # as ours
    assert here.replay.run()
    expected = {**THERE, "/folder": None, "/folder/x": b"/d/x", "/fine": None}
    del expected["/b"]
    assert tree_of(server) == expected
    assert [path for path, _ in refusals(here)] == ["/d", "/folder", "/again/x", "/again/new"]


def test_source_that_others_deleted_is_told(here: Away, server: MemoryRemote) -> None:
    here.remote.rename("/a", "/new", replace=False)
    server.outside_remove("/a")
    assert here.replay.run()
    assert refusals(here) == [("/a", GONE)]


def test_source_that_others_changed_is_renamed_with_their_content(
    here: Away, server: MemoryRemote
) -> None:
    here.remote.rename("/a", "/new", replace=False)
    server.outside_write("/a", b"theirs")
    assert here.replay.run()
    assert server.content("/new") == b"theirs"
    assert refusals(here) == []


def test_source_of_another_kind_is_left_alone(here: Away, server: MemoryRemote) -> None:
    here.remote.rename("/empty", "/new", replace=False)
    server.outside_remove("/empty")
    server.outside_write("/empty", b"theirs")
    assert here.replay.run()
    assert server.content("/empty") == b"theirs"
    assert len(refusals(here)) == 1


def test_old_name_that_others_made_again_stays_with_them(here: Away, server: MemoryRemote) -> None:
    here.remote.rename("/a", "/new", replace=False)
    server.fail("rename", errors.ConnectionLost("cut"), too_late=True)
    assert not here.replay.run()
    server.outside_write("/a", b"theirs")
    assert here.replay.run()
    assert server.content("/a") == b"theirs"
    assert server.content("/new") == b"/a"
    assert refusals(here) == []


def test_folder_that_others_filled_is_not_deleted(here: Away, server: MemoryRemote) -> None:
    here.remote.rmdir("/empty")
    here.remote.rmdir("/d/e")
    here.remote.rename("/d", "/f", replace=False)
    server.outside_write("/empty/theirs", b"theirs")
    assert here.replay.run()
    assert server.content("/empty/theirs") == b"theirs"
    assert [path for path, _ in refusals(here)] == ["/empty"]
    assert "/f" in server.directories()


def test_folder_that_others_made_too_counts_as_made(here: Away, server: MemoryRemote) -> None:
    here.remote.mkdir("/new")
    here.remote.mkdir("/other")
    server.outside_mkdir("/new")
    server.outside_write("/other", b"theirs")
    assert here.replay.run()
    assert refusals(here) == [("/other", "somebody else has made a file of this name")]


def test_refusal_by_the_server_is_told_and_holds_up_nothing(
    here: Away, server: MemoryRemote
) -> None:
    here.remote.remove("/d/x")
    here.remote.remove("/a")
    server.closed.add("/d")
    assert here.replay.run()
    assert "/a" not in server.files()
    assert refusals(here) == [("/d/x", "/d/x")]  # what the server said


def test_refusal_for_now_is_tried_again_and_then_told(here: Away, server: MemoryRemote) -> None:
    here.remote.remove("/a")
    here.remote.remove("/b")
    for after in range(10):
        server.fail("remove", errors.Refused(450, "in use"), after=after)
    tries = 1
    while not here.replay.run():
        tries += 1
    assert tries == 7
    assert [path for path, _ in refusals(here)] == ["/a", "/b"]


def test_refused_login_refuses_no_step(here: Away, server: MemoryRemote) -> None:
    here.remote.remove("/a")
    server.fail("look_again", errors.LoginFailed("530 not now"))
    assert not here.replay.run()
    assert here.replay.run()
    assert "/a" not in server.files()


def test_change_made_during_the_replay_is_carried_out_in_it(
    here: Away, server: MemoryRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.remote.remove("/a")
    remove = server.remove

    def removing(path: str, **left: Any) -> None:
        remove(path, **left)
        if path == "/a":
            here.remote.rename("/b", "/a", replace=False)

    monkeypatch.setattr(server, "remove", removing)
    assert here.replay.run()
    assert server.content("/a") == b"/b"
    assert here.rows.all() == []


def test_time_that_is_told_to_the_minute_is_enough(away: Away, server: MemoryRemote) -> None:
    """The listing told a minute, and a look tells the second."""
    server.now = int(time.time()) - 1000
    server.outside_write("/a", b"a")
    server.outside_write("/b", b"b")
    away.learn()
    for name in "ab":
        entry = server.stat(f"/{name}")
        entry.mtime, entry.exact = server.now - server.now % 60, False
        away.listings.told(f"/{name}", entry)
    away.leave()
    away.remote.remove("/a")
    away.remote.remove("/b")
    server.outside_write("/b", b"B", mtime=server.now + 200)
    assert away.replay.run()
    assert server.files() == {"/b": b"B"}


def test_kill_after_the_last_step_leaves_what_was_done(here: Away, server: MemoryRemote) -> None:
    here.remote.rename("/d", "/f", replace=False)
    here.remote.mkdir("/d")
    here.remote.remove("/a")
    expected = {"/b", "/d", "/empty", "/f", "/f/e", "/f/x"}
    for step in here.waiting.waiting():
        assert here.replay._carry_out(step)
    here.kill()
    assert here.rows.all() == []
    assert {path for path, _ in here.names()} == expected == tree_of(server).keys()


def test_fault_in_one_step_holds_up_no_other(here: Away, server: MemoryRemote) -> None:
    here.remote.remove("/a")
    here.remote.remove("/b")
    server.fail("remove", ValueError("a fault"))  # type: ignore[arg-type]  # no error of ours
    assert here.replay.run()
    assert "/b" not in server.files()
    assert refusals(here) == [("/a", "ValueError: a fault")]


def test_steps_cost_few_questions(here: Away, server: MemoryRemote) -> None:
    for number in range(20):
        server.outside_write(f"/d/f{number}", b"f" * (number + 3))
    assert here.replay.run()
    here.learn()
    here.leave()
    for number in range(10):
        here.remote.remove(f"/d/f{number}")
        here.remote.rename(f"/d/f{number + 10}", f"/empty/g{number}", replace=False)
        here.remote.mkdir(f"/d/m{number}")
    here.remote.rmdir("/d/e")
    server.calls.clear()
    assert here.replay.run()
    assert refusals(here) == []
    assert server.calls == {
        "look_again": 20,  # each file that is deleted or renamed
        "list": 1,  # of /empty, for all new names
        "remove": 10,
        "rename": 10,
        "mkdir": 10,
        "rmdir": 1,
    }
