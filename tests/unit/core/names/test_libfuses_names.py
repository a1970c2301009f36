"""The names by which libfuse calls files that it has hidden (`OpenFiles`), and what they show.

libfuse asks for a rename to such a name before it asks for a deletion or for a rename over an open
file. If that fails, libfuse goes on with the name.
"""

from __future__ import annotations

import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.files import openfile
from ftpfs.core.names import renames
from tests.support.filesystem_bench import Bench

HIDDEN, HIDDEN_TOO = "/.fuse_hidden1", "/.fuse_hidden2"


def left_by_a_refused_rename(bench: Bench, path: str = "/a", name: str = HIDDEN) -> None:
    """A program has `path` open while a rename over it fails, and then closes it."""
    handle = bench.fs.open(path, os.O_RDONLY)
    bench.fs.hide(path, name)
    bench.remote.fail("rename", errors.PermissionDenied("refused"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.rename("/b", path)
    bench.fs.release(handle)
    bench.fs.unlink(name)


@pytest.mark.parametrize("how", ["replaced", "replaced by an unsent one", "deleted"])
def test_next_reader_of_a_file_that_a_refused_rename_left_reads_it_to_its_end(
    bench: Bench, how: str
) -> None:
    bench.note_takes("/")
    left_by_a_refused_rename(bench)
    handle = bench.fs.open(HIDDEN, os.O_RDONLY)
    assert bench.fs.read(handle, 0, 1) == b"a"
    if how == "deleted":
        bench.fs.unlink("/a")
        bench.write("/a", b"another one")
    elif how == "replaced":
        bench.fs.rename("/b", "/a")
    else:
        bench.linger()
        bench.write("/new", b"another one")
        bench.fs.rename("/new", "/a")
    assert bench.fs.attributes(HIDDEN).size == 4
    assert bench.fs.read(handle, 1, 10) == b"aaa"
    assert bench.read("/a") == (b"bbbb" if how == "replaced" else b"another one")
    bench.fs.release(handle)
    assert not bench.exists(HIDDEN)


def test_libfuses_name_means_nothing_once_a_file_that_nobody_has_open_is_replaced(
    bench: Bench,
) -> None:
    for path in ("/a", "/d/x"):
        bench.remote.outside_write(path, b"old")
        left_by_a_refused_rename(bench, path, posixpath.dirname(path).rstrip("/") + HIDDEN)
    bench.fs.rename("/b", "/a")
    bench.fs.unlink("/d/x")
    bench.write("/d/x", b"a new one")
    assert not bench.exists(HIDDEN)
    assert not bench.exists("/d" + HIDDEN)


def test_libfuses_name_moves_with_its_folder(bench: Bench) -> None:
    bench.remote.outside_write("/d/x", b"still there")
    left_by_a_refused_rename(bench, "/d/x", "/d" + HIDDEN)
    handle = bench.fs.open("/d" + HIDDEN, os.O_RDONLY)
    bench.fs.rename("/d", "/moved")
    assert bench.fs.attributes("/moved" + HIDDEN).size == 11
    assert not bench.exists("/d" + HIDDEN)
    bench.fs.rename("/b", "/moved/x")
    assert bench.fs.attributes("/moved" + HIDDEN).size == 11
    assert bench.fs.read(handle, 0, 20) == b"still there"
    bench.fs.release(handle)


def test_file_that_libfuse_calls_by_two_names_leaves_neither_behind(bench: Bench) -> None:
    """The kernel has forgotten the file and looked it up again, so libfuse hides it again."""
    left_by_a_refused_rename(bench)
    first = bench.fs.open(HIDDEN, os.O_RDONLY)
    second = bench.fs.open("/a", os.O_RDONLY)
    bench.fs.hide("/a", HIDDEN_TOO)
    bench.fs.rename("/b", "/a")
    for name in (HIDDEN, HIDDEN_TOO):
        assert bench.fs.attributes(name).size == 4
    bench.fs.release(first)
    bench.fs.release(second)
    assert not bench.exists(HIDDEN)
    assert not bench.exists(HIDDEN_TOO)
    assert not bench.fs._files.all()
    assert not bench.fs._files.in_folder("/")


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_libfuses_name_shows_the_old_file_at_every_moment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A reader asks for the size while the rename or deletion is noted here."""
    seen = []
    lost_name = bench.fs._endings.lost_name

    def look_first(*arguments: Any, **words: Any) -> None:
        seen.append(bench.fs.attributes(HIDDEN).size)
        lost_name(*arguments, **words)

    bench.remote.outside_write("/b", b"")
    handle = bench.fs.open("/a", os.O_RDONLY)
    bench.fs.hide("/a", HIDDEN)
    monkeypatch.setattr(bench.fs._endings, "lost_name", look_first)
    if how == "replaced":
        bench.fs.rename("/b", "/a")
    else:
        assert not bench.exists("/a")
    assert seen == [4]
    assert bench.fs.attributes(HIDDEN).size == 4
    bench.fs.release(handle)


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_reader_that_opens_a_file_while_it_loses_its_name_reads_one_content(
    bench: Bench, how: str
) -> None:
    """libfuse keeps an open from a rename over the same name, but not an open by its own name."""
    left_by_a_refused_rename(bench)
    bench.remote.outside_write("/b", b"")
    gate = bench.remote.hold("rename" if how == "replaced" else "remove")
    with ThreadPoolExecutor(1) as pool:
        if how == "replaced":
            changing = pool.submit(bench.fs.rename, "/b", "/a")
        else:
            changing = pool.submit(bench.fs.unlink, "/a")
        assert gate.reached.wait(5)
        handle = bench.fs.open(HIDDEN, os.O_RDONLY)
        assert bench.fs.read(handle, 0, 1) == b"a"
        gate.open()
        changing.result(5)
    if how == "deleted":
        bench.write("/a", b"another one")
    assert bench.fs.attributes(HIDDEN).size == 4
    assert bench.fs.read(handle, 1, 10) == b"aaa"
    bench.fs.release(handle)
    assert not bench.exists(HIDDEN)
    assert bench.read("/a") == (b"" if how == "replaced" else b"another one")


@pytest.mark.parametrize("how", ["empty", "kept on the server", "renamed away"])
def test_reader_that_asks_for_the_size_while_the_server_renames_sees_its_own_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The server has done the rename, and has not answered yet."""
    old = b"" if how == "empty" else b"aaaa"
    monkeypatch.setattr(renames, "MOST_BROUGHT_BYTES", 0)
    bench.remote.outside_write("/a", old)
    bench.remote.outside_write("/b", b"a new one")
    monkeypatch.setattr(bench.fs._looks, "_followed_after", 0.0)
    monkeypatch.setattr(openfile, "READ_SECONDS", 0.0)
    handle = bench.fs.open("/a", os.O_RDONLY)
    gate = bench.remote.hold("rename", answered=True)

    def replace() -> None:
        bench.note_takes("/")
        if how != "renamed away":
            bench.fs.hide("/a", HIDDEN)
            bench.fs.rename("/b", "/a")
        else:
            bench.fs.rename("/a", "/d/a")

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace)
        assert gate.reached.wait(5)
        during = bench.fs.handle_attributes(handle).size
        gate.open()
        replacing.result(5)
    assert during == len(old)
    assert bench.fs.handle_attributes(handle).size == len(old)
    assert bench.fs.read(handle, 0, 20) == old
    bench.fs.release(handle)
