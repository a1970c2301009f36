"""Files that others change while they are open here, or between two opens."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.files import looks
from ftpfs.core.files.looks import FOLLOWED_AFTER, MOST_LOOKS
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.writing.spool import Spool
from ftpfs.model.remote import Download
from ftpfs.settings.config import Cache
from tests.support.filesystem_bench import (
    Bench,
    made,
)
from tests.support.memory_remote import MemoryRemote
from tests.support.waiting import until


def test_open_sees_writes_of_others_two_seconds_later(bench: Bench) -> None:
    first = bench.fs.open("/a", os.O_RDONLY)
    assert bench.fs.read(first, 0, 10) == b"aaaa"
    bench.remote.outside_write("/a", b"longer by others")
    bench.clock.add(Cache().open_ttl + 0.1)
    assert bench.read("/a") == b"longer by others"
    assert bench.fs.read(first, 0, 100) == b"longer by others", "as with any shared file"
    bench.fs.release(first)


def test_open_sees_writes_of_others_in_an_unlisted_folder(
    bench: Bench,
) -> None:
    bench.remote.tells_singles = True
    bench.remote.outside_write("/d/f", b"old")
    assert bench.fs.attributes("/d/f").size == 3
    bench.remote.now += 10
    bench.remote.outside_write("/d/f", b"new and longer")
    bench.clock.add(Cache().open_ttl + 0.1)
    handle = bench.fs.open("/d/f", os.O_RDONLY)
    assert bench.fs.handle_attributes(handle).size == 14
    assert bench.fs.read(handle, 0, 100) == b"new and longer"
    bench.fs.release(handle)
    assert bench.fs.attributes("/d/f").size == 14
    assert bench.remote.calls["list"] == 0


def test_open_file_that_is_only_read_shows_appends_of_others(bench: Bench) -> None:
    """`tail -f`: one handle, whose size is asked for again and again."""
    handle = bench.fs.open("/a", os.O_RDONLY)
    bench.remote.outside_write("/a", b"aaaa and more")
    until(lambda: bench.fs.handle_attributes(handle).size == 13)
    assert bench.fs.read(handle, 4, 100) == b" and more"
    bench.remote.fail("look_again", errors.ConnectionLost("gone"))
    time.sleep(FOLLOWED_AFTER + 0.1)
    assert bench.fs.handle_attributes(handle).size == 13, "it is open, network or not"
    bench.fs.release(handle)


@pytest.mark.parametrize("huge", [False, True])
def test_many_open_files_of_a_folder_are_checked_by_its_listing(
    tmp_path: Path, huge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ls -l` asks for each file. With `huge`, the listing costs more than that."""
    bench = made(tmp_path)
    for number in range(30):
        bench.remote.outside_write(f"/d/{number}", b"short")
    handles = [bench.fs.open(f"/d/{number}", os.O_RDONLY) for number in range(30)]
    for number in range(30):
        bench.remote.outside_write(f"/d/{number}", b"grown by others")
    if huge:
        monkeypatch.setattr(bench.fs._known.tree, "took", lambda _path: 1.0)
    time.sleep(1)
    bench.remote.calls.clear()
    assert {bench.fs.attributes(f"/d/{number}").size for number in range(30)} == {15}
    looks = {"look_again": 30} if huge else {"look_again": MOST_LOOKS, "list": 1}
    assert bench.remote.calls == looks
    for handle in handles:
        bench.fs.release(handle)
    bench.fs.close()


def test_read_of_a_changed_file_fails_and_a_new_open_sees_the_change(
    tmp_path: Path,
) -> None:
    remote = MemoryRemote()
    remote.outside_write("/a", b"old " * 200_000)
    fs = Filesystem(remote, Spool(tmp_path / "spool"), Cache())
    handle = fs.open("/a", os.O_RDONLY)
    assert fs.read(handle, 400_000, 4) == b"old "
    remote.outside_write("/a", b"new " * 300_000)
    remote.fail("open_read", errors.Changed("/a: was changed"))
    for offset in (600_000, 400_000):
        with pytest.raises(errors.Changed):
            fs.read(handle, offset, 4)
    again = fs.open("/a", os.O_RDONLY)
    assert fs.read(again, 1_100_000, 4) == b"new "
    fs.release(handle)
    fs.release(again)
    fs.close()


def test_same_size_in_the_same_second_is_not_the_same_content(bench: Bench) -> None:
    for content in (b"one1", b"two2"):
        handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
        bench.fs.write(handle, 0, content)
        bench.fs.set_mtime("/a", 1000)
        bench.fs.release(handle)
        assert bench.read("/a") == content


def test_open_looks_again_if_the_name_changes_hands_meanwhile(bench: Bench) -> None:
    """An entry looked at before a change made here does not describe the file opened after it."""
    bench.fs.attributes("/a")
    bench.clock.add(Cache().open_ttl + 0.1)
    gate = bench.remote.hold("look_again", answered=True)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(bench.fs.open, "/a", os.O_RDONLY)
        assert gate.reached.wait(5)
        bench.remote.outside_write("/d/long", b"a longer content")
        bench.fs.rename("/d/long", "/a")
        gate.open()
        handle = opening.result(5)
    assert bench.fs.read(handle, 0, 100) == b"a longer content"
    bench.fs.release(handle)


def test_log_that_grows_between_each_look_and_each_read_is_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, fetch = bench.remote, bench.remote.open_read
    lines = [b"line 0\n"]
    remote.outside_write("/log", lines[0])

    def grown(path: str, *args: Any, **options: Any) -> Download:
        lines.append(b"line %d\n" % len(lines))
        remote.outside_write(path, b"".join(lines), mtime=remote.now + len(lines))
        return fetch(path, *args, **options)

    assert bench.exists("/log")
    monkeypatch.setattr(remote, "open_read", grown)
    content = bench.read("/log")
    assert len(lines) < 5
    assert content in [b"".join(lines[: n + 1]) for n in range(1, len(lines))]


def test_file_replaced_by_a_longer_one_after_each_look_is_not_read_in_part(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, fetch = bench.remote, bench.remote.open_read
    contents = [b"0" * 10]
    remote.outside_write("/file", contents[0])

    def replaced(path: str, *args: Any, **options: Any) -> Download:
        contents.append(b"%d" % len(contents) * (10 + len(contents)))
        remote.outside_write(path, contents[-1], mtime=remote.now + len(contents))
        return fetch(path, *args, **options)

    assert bench.exists("/file")
    monkeypatch.setattr(remote, "open_read", replaced)
    with pytest.raises(errors.Changed):
        bench.fs.open("/file", os.O_RDONLY)
    monkeypatch.undo()
    assert bench.read("/file") == contents[-1]


def test_endless_file_of_no_size_is_not_counted_without_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.remote.tells_size = False
    monkeypatch.setattr(looks, "MOST_COUNTED_BYTES", 1 << 20)
    bench.remote.outside_write("/endless", b"z" * (2 << 20))
    with pytest.raises(errors.TooLong, match="sent more than"):
        bench.fs.open("/endless", os.O_RDONLY)
