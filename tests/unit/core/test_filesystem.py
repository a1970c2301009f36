"""The POSIX face: names, handles, flags, and what only exists here so far."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.model.entry import Entry, Kind
from tests.support.filesystem_bench import (
    Bench,
    made,
)


def test_uploaded_file_is_read_without_a_download(
    bench: Bench,
) -> None:
    bench.write("/new", b"x" * 300_000)
    bench.fs.sync()
    assert bench.read("/new") == b"x" * 300_000
    assert bench.remote.calls["open_read"] == 0
    assert bench.fs.cache_status().downloaded == 0


def test_missing_file_directory_and_special_file_cannot_be_opened(bench: Bench) -> None:
    with pytest.raises(errors.NotFound):
        bench.fs.open("/missing", os.O_RDONLY)
    with pytest.raises(errors.IsADirectory):
        bench.fs.open("/d", os.O_RDONLY)
    for kind, error in ((Kind.LINK, errors.LinkLoop), (Kind.OTHER, errors.NotSupported)):
        bench.fs._known.tree.put("/odd", Entry("odd", kind))
        with pytest.raises(error):
            bench.fs.open("/odd", os.O_RDONLY)


def test_truncating_on_open_empties_the_file(bench: Bench) -> None:
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_TRUNC)
    assert bench.fs.attributes("/a").size == 0
    bench.fs.flush(handle)
    assert bench.remote.content("/a") == b"aaaa"  # more may come
    bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.content("/a") == b""


def test_append_goes_to_the_end_when_the_kernel_passes_a_stale_offset(
    bench: Bench,
) -> None:
    bench.fs.attributes("/a")
    bench.remote.outside_write("/a", b"grown meanwhile")
    handle = bench.fs.open("/a", os.O_WRONLY | os.O_APPEND)
    bench.fs.write(handle, 4, b"!")
    bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.content("/a") == b"grown meanwhile!"


def test_create_opens_an_existing_file_or_fails_if_exclusive(bench: Bench) -> None:
    with pytest.raises(errors.Exists):
        bench.fs.create("/a", 0o644, os.O_RDWR | os.O_EXCL)
    handle = bench.fs.create("/a", 0o644, os.O_RDWR)
    assert bench.fs.read(handle, 0, 10) == b"aaaa"
    bench.fs.release(handle)


@pytest.mark.parametrize("name", ["/a\nb", "/a\rb", "/a\0b"])
def test_name_that_ftp_cannot_carry_is_refused_before_anything_is_sent(
    bench: Bench, name: str
) -> None:
    for attempt in (
        lambda: bench.fs.create(name, 0o644, os.O_RDWR),
        lambda: bench.fs.mkdir(name, 0o755),
        lambda: bench.fs.rename("/a", name),
    ):
        with pytest.raises(errors.InvalidName):
            attempt()
    assert not bench.remote.calls


def test_name_is_refused_when_it_is_too_long_or_hidden(bench: Bench) -> None:
    with pytest.raises(errors.NameTooLong):
        bench.fs.create("/" + "é" * 128, 0o644, os.O_RDWR)
    with pytest.raises(errors.NotPermitted):
        bench.fs.create("/.ftpfs-x", 0o644, os.O_RDWR)


def test_unknown_handle_is_refused(bench: Bench) -> None:
    for attempt in (bench.fs.flush, bench.fs.release, bench.fs.path_of):
        with pytest.raises(errors.BadHandle):
            attempt(99)
    with pytest.raises(errors.BadHandle):
        bench.fs.write(99, 0, b"")


def test_file_without_a_size_in_the_listing_is_readable(bench: Bench) -> None:
    bench.remote.tells_size = False
    assert bench.read("/a") == b"aaaa"


def test_read_only_mount_changes_nothing(tmp_path: Path) -> None:
    bench = made(tmp_path, read_only=True)
    for attempt in (
        lambda: bench.fs.open("/a", os.O_RDWR),
        lambda: bench.fs.open("/a", os.O_RDONLY | os.O_TRUNC),
        lambda: bench.fs.create("/x", 0o644, os.O_RDWR),
        lambda: bench.fs.mkdir("/x", 0o755),
        lambda: bench.fs.rmdir("/d"),
        lambda: bench.fs.unlink("/a"),
        lambda: bench.fs.rename("/a", "/x"),
        lambda: bench.fs.truncate("/a", 0),
        lambda: bench.fs.chmod("/a", 0o600),
        lambda: bench.fs.set_mtime("/a", 1),
    ):
        with pytest.raises(errors.ReadOnly):
            attempt()
    assert bench.read("/a") == b"aaaa"
    bench.fs.close()


def test_new_file_shows_in_its_directory_before_the_server_has_it(bench: Bench) -> None:
    handle = bench.new("/d/new", b"12345")
    assert bench.names("/d") == {"new"}
    assert bench.fs.attributes("/d/new").size == 5
    assert "/d/new" not in bench.remote.files()
    bench.fs.release(handle)
    assert bench.names("/d") == {"new"}
    bench.fs.sync()
    assert bench.remote.content("/d/new") == b"12345"


def test_handles_of_one_file_see_each_others_writes(bench: Bench) -> None:
    writer = bench.fs.open("/a", os.O_WRONLY)
    reader = bench.fs.open("/a", os.O_RDONLY)
    bench.fs.write(writer, 2, b"XX")
    assert bench.fs.read(reader, 0, 10) == b"aaXX"
    bench.fs.release(writer)
    bench.fs.release(reader)
    bench.fs.sync()
    assert bench.remote.calls["store"] == 1


def test_closing_uploads_what_is_dirty_and_deletes_what_was_hidden(tmp_path: Path) -> None:
    bench = made(tmp_path)
    bench.new("/new", b"saved")
    bench.fs.open("/a", os.O_RDONLY)
    bench.fs.unlink("/a")
    bench.fs.close()
    assert bench.remote.files() == {"/b": b"bbbb", "/new": b"saved"}
    assert not bench.spool.exists()


def test_call_after_close_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    bench = made(tmp_path)
    handle = bench.new("/new", b"saved")
    bench.fs.close()
    for attempt in (bench.fs.flush, bench.fs.release):
        with pytest.raises(errors.BadHandle):
            attempt(handle)
