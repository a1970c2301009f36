"""What a killed mount has left for the next one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.names import renames
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.core.writing.journal import Record
from ftpfs.core.writing.spool import Spool
from ftpfs.settings.config import Cache
from tests.support.filesystem_bench import (
    Bench,
    append,
    linger,
    made,
    open_directory,
    reborn,
)
from tests.support.memory_remote import Gate


def test_closed_file_is_uploaded_by_the_next_mount(bench: Bench, tmp_path: Path) -> None:
    open_directory(bench, "/d")
    bench.remote.outside_write("/d/patched", b"0123456789")
    bench.remote.stall_uploads = gate = Gate()
    handle = bench.fs.open("/d/patched", os.O_RDWR)
    bench.fs.write(handle, 3, b"XXX")
    bench.fs.set_mtime("/d/patched", 4242)
    bench.fs.flush(handle)
    bench.write("/d/new", b"new")
    bench.fs.chmod("/d/new", 0o700)
    next_one = reborn(bench, tmp_path / "next")
    bench.remote.stall_uploads = None
    assert next_one.fs.recover() == 2
    assert next_one.read("/d/patched") == b"012XXX6789"
    assert next_one.names("/d") == {"made", "patched", "new"}
    assert next_one.fs.close() == 0
    assert bench.remote.content("/d/patched") == b"012XXX6789"
    assert bench.remote.content("/d/new") == b"new"
    assert (bench.remote.node("/d/patched").mtime, bench.remote.node("/d/new").mode) == (
        4242,
        0o700,
    )
    assert not next_one.spool.exists()
    gate.open()
    bench.fs.release(handle)


def test_upload_done_before_the_crash_is_no_conflict(bench: Bench, tmp_path: Path) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store", answered=True)  # done, and nobody knows it
    bench.write("/new", b"content")
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    next_one.fs.sync("/", 20)
    assert [path for path in bench.remote.files() if "new" in path] == ["/new"]
    next_one.fs.close()
    gate.open()


def test_shorter_file_uploaded_before_the_crash_is_no_conflict(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store", answered=True)  # done, and nobody knows it
    bench.fs.truncate("/a", 2)
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    next_one.fs.sync("/", 20)
    assert next_one.read("/a") == b"aa"
    assert bench.remote.files() == {"/a": b"aa", "/b": b"bbbb"}
    next_one.fs.close()
    gate.open()


def test_bytes_fetched_for_an_upload_survive_a_crash_with_the_file(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    handle = bench.fs.open("/a", os.O_RDWR)
    gate = bench.remote.hold("store")
    bench.fs.write(handle, 1, b"X")
    bench.fs.release(handle)
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    bench.remote.outside_remove("/a")  # as a server does that was moving it out of the way
    assert next_one.fs.recover() == 1
    assert next_one.fs.close() == 0
    assert bench.remote.content("/a") == b"aXaa"
    gate.open()


def test_change_by_others_after_the_crash_keeps_both(bench: Bench, tmp_path: Path) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store")
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"mine")
    bench.fs.release(handle)
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    bench.remote.outside_write("/a", b"theirs, later")
    next_one.fs.recover()
    next_one.fs.close()
    files = bench.remote.files()
    assert files["/a"] == b"theirs, later"
    assert [content for path, content in files.items() if "conflict" in path] == [b"mine"]
    gate.open()


@contextlib.contextmanager
def killed_in(
    bench: Bench, method: str, deed: Callable[[], None], folder: Path, *, after: int = 0
) -> Iterator[Bench]:
    """The next mount after this one was killed in `deed`.

    The server has carried out the call of `method` that comes after `after` others, and its reply
    never arrived.
    """
    gate = bench.remote.hold(method, after=after, answered=True)

    def killed() -> None:
        with contextlib.suppress(errors.FtpfsError):  # the next mount is in its way
            deed()

    thread = threading.Thread(target=killed)
    thread.start()
    assert gate.reached.wait(5)
    next_one = reborn(bench, folder)
    next_one.fs.recover()
    try:
        yield next_one
        assert next_one.fs.close() == 0
        assert not next_one.spool.exists()
    finally:
        gate.open()
        thread.join(20)


def test_unsent_file_replaced_before_the_kill_does_not_come_back(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/b", b" and more")
    with killed_in(
        bench, "rename", lambda: bench.fs.rename("/a", "/b"), tmp_path / "next"
    ) as next_one:
        assert next_one.read("/b") == b"aaaa"
    assert bench.remote.files() == {"/b": b"aaaa"}


def test_unsent_file_deleted_before_the_kill_does_not_come_back(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    append(bench, "/b", b" and more")
    with killed_in(bench, "remove", lambda: bench.fs.unlink("/b"), tmp_path / "next") as next_one:
        assert next_one.names("/") == {"a", "d", "made"}
    assert bench.remote.files() == {"/a": b"aaaa"}


def test_hidden_file_gets_its_name_back_when_the_mount_is_killed_before_the_deletion(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    reader = bench.fs.open("/b", os.O_RDONLY)
    append(bench, "/b", b" and more")
    deed = partial(bench.fs.unlink, "/b")
    with killed_in(bench, "rename", deed, tmp_path / "next") as next_one:
        assert next_one.read("/b") == b"bbbb and more"
    assert bench.remote.files() == {"/a": b"aaaa", "/b": b"bbbb and more"}
    bench.fs.release(reader)


@pytest.mark.parametrize("most", [0, 1 << 20], ids=["kept there", "brought here"])
def test_hidden_and_replaced_file_is_deleted_after_the_mount_is_killed(
    bench: Bench, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renames, "MOST_BROUGHT_BYTES", most)
    open_directory(bench)
    bench.linger()
    reader = bench.fs.open("/b", os.O_RDONLY)
    append(bench, "/b", b" and more")
    with killed_in(
        bench, "rename", lambda: bench.fs.rename("/a", "/b"), tmp_path / "next"
    ) as next_one:
        assert next_one.read("/b") == b"aaaa"
        assert bench.remote.files() == {"/b": b"aaaa"}
    bench.fs.release(reader)


@pytest.mark.parametrize("written", [False, True])
def test_killed_mount_keeps_only_written_parts_of_files_without_names(
    bench: Bench, tmp_path: Path, written: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What was fetched for readers was on the server. It filled the disk, with a warning each."""
    reader = bench.fs.open("/b", os.O_RDWR)
    bench.remote.fail("rename", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.rename("/a", "/b")
    if written:
        bench.fs.write(reader, 0, b"never closed")
    else:
        bench.fs.rename("/a", "/b")
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    kept = [path.read_bytes() for path in next_one.spool.glob("kept/*")]
    assert kept == ([b"never closed"] if written else [])
    assert ("never closed" in caplog.text) is written
    next_one.fs.close()


@pytest.mark.parametrize("how", ["deleted", "replaced", "replaced by a new one", "moved along"])
def test_file_deleted_while_open_disappears_when_the_mount_is_killed(
    bench: Bench, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renames, "MOST_BROUGHT_BYTES", 0)
    open_directory(bench)
    bench.linger()
    bench.remote.outside_write("/d/b", b"bbbb")
    bench.write("/new", b"new")
    reader = bench.fs.open("/d/b", os.O_RDONLY)
    if how == "replaced":
        bench.fs.rename("/a", "/d/b")
    elif how == "replaced by a new one":
        open_directory(bench, "/d")
        bench.fs.rename("/new", "/d/b")
    else:
        bench.fs.unlink("/d/b")
    if how == "moved along":
        bench.fs.rename("/d", "/e")
    assert [path for path in bench.remote.files() if "deleted" in path]
    next_one = reborn(bench, tmp_path / "next")
    next_one.fs.recover()
    assert next_one.fs.close() == 0
    assert not [path for path in bench.remote.files() if "deleted" in path]
    if how != "replaced by a new one":  # which was sent, and waits to be let go
        assert not next_one.spool.exists()
    bench.fs.release(reader)


def test_hidden_file_stays_while_its_replacement_is_in_doubt(bench: Bench, tmp_path: Path) -> None:
    reader = bench.fs.open("/b", os.O_RDONLY)
    with contextlib.ExitStack() as stack:
        gate = bench.remote.hold("rename", answered=True)
        thread = threading.Thread(target=partial(bench.fs.unlink, "/b"))
        thread.start()
        stack.callback(thread.join)
        stack.callback(gate.open)
        assert gate.reached.wait(5)
        for number in range(2):
            next_one = reborn(bench, tmp_path / f"next{number}")
            if not number:
                bench.remote.fail("stat", errors.ConnectionLost("away for a moment"))
            next_one.fs.recover()
            next_one.fs.close()
            assert b"bbbb" in bench.remote.files().values()
    bench.fs.release(reader)


def test_file_closed_during_a_rename_has_the_new_name_after_a_kill(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    bench.linger()
    handle = bench.fs.open("/b", os.O_WRONLY | os.O_APPEND)
    bench.fs.write(handle, 0, b" and more")
    gate = bench.remote.hold("rename", answered=True)
    with ThreadPoolExecutor(1) as pool:
        renamed = pool.submit(bench.fs.rename, "/b", "/c")
        assert gate.reached.wait(5)
        bench.fs.flush(handle)
        next_one = reborn(bench, tmp_path / "next")
        next_one.fs.recover()
        assert next_one.fs.close() == 0
        assert bench.remote.files() == {"/a": b"aaaa", "/c": b"bbbb and more"}
        gate.open()
        renamed.result(20)
    bench.fs.release(handle)


def test_rename_over_an_old_file_is_no_conflict_when_the_mount_is_killed_after_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_directory(bench)
    bench.linger()
    bench.write("/new", b"new")
    journal, moments = bench.fs._spool.journal, []
    rename = journal.rename

    def killed_after(old: str, new: str) -> list[str]:
        gone = rename(old, new)
        moments.append(reborn(bench, tmp_path / "next"))
        return gone

    monkeypatch.setattr(journal, "rename", killed_after)
    bench.fs.rename("/new", "/b")
    (next_one,) = moments
    next_one.fs.recover()
    assert next_one.fs.close() == 0
    assert bench.remote.files() == {"/a": b"aaaa", "/b": b"new"}


def test_write_after_the_last_close_does_not_come_back_as_a_hole(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store")
    bench.write("/new", b"abc")
    assert gate.reached.wait(5)
    handle = bench.fs.open("/new", os.O_WRONLY)
    bench.fs.write(handle, 3, b"not closed")
    next_one = reborn(bench, tmp_path / "next")
    next_one.linger()
    next_one.fs.recover()
    next_one.fs.truncate("/new", 9)
    next_one.fs.close()
    assert bench.remote.content("/new") == b"abc" + bytes(6)
    gate.open()
    bench.fs.release(handle)


def test_unclosed_write_into_a_hole_is_gone_after_the_crash(bench: Bench, tmp_path: Path) -> None:
    open_directory(bench)
    bench.linger()
    handle = bench.new("/new", b"abc")
    bench.fs.truncate_handle(handle, 3 << 20)
    bench.fs.flush(handle)
    for offset in (50, 2 << 20):
        bench.fs.write(handle, offset, b"not closed")
    next_one = reborn(bench, tmp_path / "next")
    assert next_one.fs.recover() == 1
    assert next_one.fs.close() == 0
    assert bench.remote.content("/new") == b"abc".ljust(3 << 20, b"\0")
    bench.fs.release(handle)


def test_file_that_cannot_be_opened_after_a_crash_stays_for_a_later_mount(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_directory(bench)
    bench.linger()
    for name in ("/one", "/two"):
        bench.write(name, name.encode())
    next_one = reborn(bench, tmp_path / "next")
    real, opened = os.open, 0

    def few_files(path: Any, *arguments: Any, **more: Any) -> int:
        nonlocal opened
        opened += str(path).endswith(".spool")
        if opened > 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **more)

    with monkeypatch.context() as limited:
        limited.setattr(os, "open", few_files)
        assert next_one.fs.recover() == 1
    (line,) = next_one.fs.held_files()
    assert "not uploaded by this mount, the next one tries again" in line
    assert next_one.fs.close() == 0
    last = Filesystem(bench.remote, Spool(next_one.spool), Cache())
    assert last.recover() == 1
    assert last.close() == 0
    assert bench.remote.content("/one") == b"/one"
    assert bench.remote.content("/two") == b"/two"


def test_one_name_that_several_killed_mounts_wrote_keeps_all_contents(tmp_path: Path) -> None:
    bench = made(tmp_path)
    contents = [b"first", b"second", b"third"]
    for number, content in enumerate(contents):
        file = bench.fs._spool.open()
        file.write(0, content)
        present = ((0, len(content)),)
        bench.fs._spool.journal.put(
            Record(file.name, "/f", len(content), present, None, 0, None, 1000 + number, number)
        )
        file.close(delete=False)
    assert bench.fs.recover() == 3
    assert bench.fs.close() == 0
    files = bench.remote.files()
    assert sorted(c for path, c in files.items() if path.startswith("/f")) == contents
    assert files["/f"] == b"first"


def test_changes_of_two_killed_mounts_to_one_file_are_both_kept(
    bench: Bench, tmp_path: Path
) -> None:
    base = b"a" * (2 * BLOCK_SIZE)
    bench.remote.outside_write("/d/big", base)
    spool = tmp_path / "shared"
    with contextlib.ExitStack() as stack:
        for number in range(2):
            fs = Filesystem(bench.remote, Spool(spool), Cache())
            stack.callback(fs.close, 0)
            fs.mkdir(f"/d/{number}", 0o755)  # the folder takes files
            linger(fs)
            handle = fs.open("/d/big", os.O_RDWR)
            fs.write(handle, number * BLOCK_SIZE, b"mine")
            fs.set_mtime("/d/big", 1000 + number)
            fs.flush(handle)
        shutil.copytree(tmp_path, tmp_path.with_suffix(".killed"))
        held: tuple[str, ...] = ("/d/big: a second version waits for the next mount",)
        for told in (held, ()):
            left = Spool(tmp_path.with_suffix(".killed") / "shared")
            fs = Filesystem(bench.remote, left, Cache())
            assert fs.recover() == 1
            assert fs.held_files() == told
            assert fs.close() == 0
        first, second = (c for path, c in bench.remote.files().items() if "big" in path)
        assert first == b"mine" + base[4:]
        assert second == first[:BLOCK_SIZE] + b"mine" + base[BLOCK_SIZE + 4 :]


def test_unsent_file_stays_for_the_next_mount_when_the_grace_is_over(tmp_path: Path) -> None:
    bench = made(tmp_path)
    bench.write("/one", b"1")
    bench.remote.fail("store", errors.ConnectionRefused("away"))
    bench.remote.fail("store", errors.ConnectionRefused("away"), after=1)
    bench.write("/two", b"2")
    begun = time.monotonic()
    assert bench.fs.close(grace=0.3) == 1
    assert time.monotonic() - begun < 5
    bench.remote.calm()
    fs = Filesystem(bench.remote, Spool(bench.spool), Cache())
    assert fs.recover() == 1
    assert fs.close() == 0
    assert bench.remote.content("/two") == b"2"


def test_recovered_file_is_replaced_without_a_conflict_when_its_upload_was_done(
    bench: Bench, tmp_path: Path
) -> None:
    open_directory(bench)
    gate = bench.remote.hold("store", answered=True)  # done, and nobody knows it
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
    bench.fs.write(handle, 0, b"second")
    bench.fs.release(handle)
    assert gate.reached.wait(5)
    next_one = reborn(bench, tmp_path / "next")
    next_one.linger()
    next_one.fs.recover()
    open_directory(next_one, "/d")
    next_one.fs.mkdir("/more", 0o755)
    next_one.write("/temporary", b"the third")
    next_one.fs.rename("/temporary", "/a")
    next_one.fs.sync("/", 20)
    assert bench.remote.files() == {"/a": b"the third", "/b": b"bbbb"}
    next_one.fs.close()
    gate.open()


def test_unreadable_row_does_not_stop_recovery_of_others(bench: Bench, tmp_path: Path) -> None:
    open_directory(bench, "/d")
    bench.linger()
    for name in ("torn", "negative", "odd time", "odd mode", "odd base", "plain"):
        bench.write(f"/d/{name}", b"content")
    (bench.fs._spool.journal._connection).execute(
        "update unsent set present = '[[0,' where path = cast('/d/torn' as blob)"
    )
    (bench.fs._spool.journal._connection).execute(
        "update unsent set size = -1 where path = cast('/d/negative' as blob)"
    )
    for column, value in (("mtime", "'noon'"), ("mode", "'mine'"), ("base_size", "'all'")):
        name = f"/d/odd {column.removesuffix('_size').replace('mtime', 'time')}"
        (bench.fs._spool.journal._connection).execute(
            f"update unsent set {column} = {value} where path = cast('{name}' as blob)"
        )
    next_one = reborn(bench, tmp_path / "next")
    assert next_one.fs.recover() == 3  # two rows are only found odd when they are sent
    next_one.fs.close()
    assert bench.remote.content("/d/plain") == b"content"
