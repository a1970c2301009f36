"""Modes and times of folders that were made here: when the server gets them, and in which order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.writing import folders
from ftpfs.core.writing.spool import Spool
from ftpfs.model.entry import FolderAttributes
from ftpfs.settings.config import Cache
from tests.support.filesystem_bench import Bench, made, reborn


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = made(tmp_path)
    yield bench
    bench.remote.calm()
    bench.fs.close()


def mode(bench: Bench, path: str) -> int:
    return bench.remote.node(path).mode


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_modes_of_a_new_folder_are_set_in_the_background_and_only_the_last_counts(
    bench: Bench,
) -> None:
    bench.fs.mkdir("/p", 0o700)
    bench.fs.set_mtime("/p", 1_000)
    bench.fs.set_mtime("/p", 2_000)
    bench.fs.chmod("/p", 0o750)
    assert bench.remote.set == []
    shown = bench.fs.attributes("/p")
    assert (shown.mode, shown.mtime, shown.exact) == (0o750, 2_000, True)
    assert bench.fs.state("/p") == bench.fs.state("/") == "dirty"
    assert [each.path for each in bench.fs.upload_status().pending] == ["/p"]
    bench.fs.sync()
    assert bench.remote.set == [FolderAttributes("/p", 0o750, 2_000)]
    assert bench.remote.calls["chmod"] == bench.remote.calls["set_mtime"] == 0
    assert bench.fs.state("/") == "clean"
    assert bench.fs.upload_status().uploaded_files == 0


def test_it_is_sent_by_itself(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o700)
    eventually(lambda: mode(bench, "/p") == 0o700)


def test_several_folders_are_set_in_one_exchange_the_deepest_first(bench: Bench) -> None:
    for path in ("/p", "/p/q", "/p/q/r"):
        bench.fs.mkdir(path, 0o777)
    for path in ("/p", "/p/q", "/p/q/r"):
        bench.fs.set_mtime(path, 1_000)
    bench.fs.sync()
    assert [each.path for each in bench.remote.set] == ["/p/q/r", "/p/q", "/p"]
    assert bench.remote.calls["set_on_folders"] == 1


def test_noted_mode_and_time_are_shown_after_a_new_listing(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o777)
    bench.fs.set_mtime("/p", 1_000)
    bench.fs.forget("/")
    assert bench.fs.attributes("/p").mtime == 1_000
    (listed,) = [entry for entry in bench.fs.children("/") if entry.name == "p"]
    assert listed.mtime == 1_000
    assert bench.remote.set == []
    bench.fs.sync()
    assert bench.fs.attributes("/p").mtime == 1_000


def test_mode_that_excludes_others_is_set_before_the_first_entry(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o700)
    gate = bench.remote.hold("store")
    bench.write("/p/secret", b"x")
    assert gate.reached.wait(10)
    assert mode(bench, "/p") == 0o700
    gate.open()
    bench.fs.sync()


def test_it_goes_out_with_the_first_folder_below(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o700)
    bench.fs.mkdir("/p/q", 0o755)
    assert mode(bench, "/p") == 0o700
    assert bench.remote.calls["set_on_folders"] == bench.remote.calls["chmod"] == 0


def test_it_goes_out_before_something_is_moved_in(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o700)
    gate = bench.remote.hold("rename", answered=False)
    gate.open()
    bench.fs.rename("/a", "/p/a")
    assert bench.remote.set == [FolderAttributes("/p", 0o700, None)]


def test_folder_with_something_in_it_is_closed_to_others_when_chmod_returns(
    bench: Bench,
) -> None:
    bench.fs.mkdir("/p", 0o755)
    bench.write("/p/f", b"x")
    bench.fs.sync()
    bench.fs.chmod("/p", 0o700)
    assert mode(bench, "/p") == 0o700
    bench.fs.chmod("/p", 0o755)  # which gives back, and so may wait
    assert mode(bench, "/p") == 0o700
    bench.fs.sync()
    assert mode(bench, "/p") == 0o755


def test_mode_set_at_once_is_not_undone_by_a_mode_noted_before(
    bench: Bench, tmp_path: Path
) -> None:
    bench.fs.mkdir("/p", 0o700)
    bench.fs.mkdir("/p/q", 0o755)
    bench.fs.chmod("/p", 0o777)
    gate = bench.remote.hold("set_on_folders")
    assert gate.reached.wait(10)
    gate.open()
    eventually(lambda: mode(bench, "/p") == 0o777)
    bench.fs.chmod("/p", 0o700)
    assert mode(bench, "/p") == 0o700
    bench.fs.sync()
    assert mode(bench, "/p") == 0o700
    killed = reborn(bench, tmp_path / "next")
    killed.fs.recover()
    killed.fs.close()
    assert mode(bench, "/p") == 0o700


def test_time_and_a_mode_without_write_follow_the_files_that_were_closed_before(
    bench: Bench,
) -> None:
    """tar x of a read-only folder."""
    bench.fs.mkdir("/p", 0o700)
    gate = bench.remote.hold("store")
    bench.write("/p/f", b"x")
    bench.fs.set_mtime("/p", 1_000)
    bench.fs.chmod("/p", 0o500)
    assert gate.reached.wait(10)
    assert mode(bench, "/p") == 0o700  # so that the file can come in
    gate.open()
    bench.fs.sync()
    assert (mode(bench, "/p"), bench.remote.node("/p").mtime) == (0o500, 1_000)
    assert bench.remote.content("/p/f") == b"x"


@pytest.mark.parametrize(
    "leave", ["deleted", "refused", "renamed"], ids=lambda word: f"a file that is {word}"
)
def test_it_does_not_wait_for(bench: Bench, leave: str) -> None:
    bench.fs.mkdir("/p", 0o755)
    if leave == "refused":
        bench.remote.fail("store", errors.PermissionDenied("no"))
    gate = bench.remote.hold("store")
    bench.write("/p/f", b"x")
    assert gate.reached.wait(10)
    bench.fs.set_mtime("/p", 1_000)
    gate.open()
    if leave == "deleted":
        bench.fs.unlink("/p/f")
    if leave == "renamed":
        bench.fs.rename("/p/f", "/f")
    eventually(lambda: bench.remote.node("/p").mtime == 1_000)


def test_first_mode_and_time_on_a_server_wait_for_its_reply(bench: Bench) -> None:
    bench.remote.sets_modes = bench.remote.sets_times = None
    bench.fs.mkdir("/p", 0o755)
    bench.remote.fail("chmod", errors.NotSupported("no such command"))
    bench.remote.fail("set_mtime", errors.NotSupported("no such command"))
    with pytest.raises(errors.NotSupported):
        bench.fs.chmod("/p", 0o750)
    with pytest.raises(errors.NotSupported):
        bench.fs.set_mtime("/p", 1_000)
    bench.fs.chmod("/p", 0o750)
    bench.fs.set_mtime("/p", 1_000)
    assert (mode(bench, "/p"), bench.remote.node("/p").mtime) == (0o750, 1_000)


def test_folders_that_others_made_are_set_at_once(bench: Bench) -> None:
    bench.fs.chmod("/d", 0o755)
    bench.fs.set_mtime("/d", 1_000)
    assert (mode(bench, "/d"), bench.remote.node("/d").mtime) == (0o755, 1_000)


def test_refused_mode_is_logged_and_the_servers_mode_shown(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.fs.mkdir("/p", 0o755)
    bench.fs.set_mtime("/p", 1_000)
    bench.remote.fixed.add("/p")
    bench.fs.sync()
    assert "/p was not set" in caplog.text
    assert bench.fs.attributes("/p").mtime == bench.remote.now
    assert bench.fs.state("/") == "clean"


def test_it_is_tried_again_while_the_server_is_away(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o755)
    bench.remote.fail("set_on_folders", errors.ConnectionLost("cut"))
    bench.fs.set_mtime("/p", 1_000)
    eventually(lambda: bench.remote.node("/p").mtime == 1_000)
    assert bench.remote.calls["set_on_folders"] == 2


def test_noted_mode_and_time_follow_a_renamed_folder(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o755)
    bench.fs.mkdir("/p/q", 0o755)
    bench.fs.set_mtime("/p/q", 1_000)
    bench.fs.rename("/p", "/n")
    assert bench.fs.attributes("/n/q").mtime == 1_000
    bench.fs.sync()
    assert bench.remote.set == [FolderAttributes("/n/q", None, 1_000)]


def test_folder_does_not_move_while_it_is_being_set(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o755)
    gate = bench.remote.hold("set_on_folders")
    bench.fs.set_mtime("/p", 1_000)
    assert gate.reached.wait(10)
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(bench.fs.rename, "/p", "/n")
        time.sleep(0.05)
        assert not moving.done()
        gate.open()
        moving.result(10)
    assert bench.remote.node("/n").mtime == 1_000


def test_folder_that_is_deleted_and_made_again_is_a_new_one(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o700)
    bench.fs.rmdir("/p")
    bench.fs.mkdir("/p", 0o755)
    bench.fs.sync()
    assert bench.remote.set == []
    assert bench.fs.attributes("/p").mode is None


def test_next_mount_sets_a_folders_mode_before_its_files_after_a_kill(
    bench: Bench, tmp_path: Path
) -> None:
    bench.linger()  # the killed mount sets nothing
    bench.fs.mkdir("/p", 0o700)
    bench.fs.set_mtime("/p", 1_000)
    bench.fs.mkdir("/gone", 0o700)
    bench.fs.rmdir("/gone")
    bench.fs.mkdir("/old", 0o700)
    bench.fs.rename("/old", "/new")
    held = bench.remote.hold("store")
    bench.note_takes("/p")
    bench.write("/p/f", b"x")
    after = reborn(bench, tmp_path / "next")
    held.open()
    bench.fs.sync()
    bench.remote.outside_remove("/p/f")
    bench.remote.outside_mkdir("/p")  # as it was: open to others
    bench.remote.outside_mkdir("/new")
    gate = bench.remote.hold("store")
    after.fs.recover()
    assert gate.reached.wait(10)
    assert mode(bench, "/p") == 0o700
    gate.open()
    after.fs.sync()
    assert (mode(bench, "/p"), bench.remote.node("/p").mtime) == (0o700, 1_000)
    assert mode(bench, "/new") == 0o700
    assert after.fs.close() == 0
    assert not after.spool.exists()


def test_fsync_of_a_folder_waits_for_it(bench: Bench) -> None:
    bench.fs.mkdir("/p", 0o755)
    bench.fs.set_mtime("/p", 1_000)
    bench.fs.fsync_folder("/p")
    assert bench.remote.node("/p").mtime == 1_000


def test_unsent_file_waits_for_the_next_mount_at_the_end(tmp_path: Path) -> None:
    bench = made(tmp_path)
    bench.fs.mkdir("/p", 0o755)
    bench.remote.fail("set_on_folders", errors.ConnectionLost("away"))
    bench.fs.set_mtime("/p", 1_000)
    eventually(lambda: bench.remote.calls["set_on_folders"] == 1)
    bench.fs.stop_waiting()
    assert bench.fs.close() == 1
    after = Bench(bench.remote, Filesystem(bench.remote, Spool(bench.spool), Cache()), bench.spool)
    after.fs.recover()
    after.fs.sync()
    assert bench.remote.node("/p").mtime == 1_000
    after.fs.close()


def test_not_every_folder_that_was_ever_made_is_remembered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MOST_KNOWN", 20)
    bench.linger()
    bench.fs.mkdir("/noted", 0o755)
    bench.fs.set_mtime("/noted", 1_000)
    for number in range(100):
        bench.fs.mkdir(f"/made{number}", 0o755)
    assert [bench.fs._folders.is_ours(path) for path in ("/noted", "/made0", "/made99")] == [
        True,
        False,
        True,
    ]
    assert sum(bench.fs._folders.is_ours(f"/made{number}") for number in range(100)) <= 20
    bench.fs.sync()
    assert bench.remote.node("/noted").mtime == 1_000
