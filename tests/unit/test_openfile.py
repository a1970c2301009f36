"""One open file: the server's bytes and the written ones are one content, and no byte is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.base import View
from ftpfs.core.blocks import BLOCK_SIZE, BlockCache
from ftpfs.core.journal import Record
from ftpfs.core.openfile import OpenFile
from ftpfs.core.reader import StreamBudget
from ftpfs.core.writer import Spool
from ftpfs.ftp.listing import Entry
from tests.support.memory_remote import MemoryRemote, disk_full_after
from tests.support.waiting import until_gone

BASE = bytes(range(256)) * (3 * BLOCK_SIZE // 256) + b"tail"


class Bench:
    def __init__(self, folder: Path) -> None:
        self.remote = MemoryRemote()
        self.spool = Spool(folder)
        self.folder = folder
        self.uploads: list[tuple[str, Entry]] = []
        self.files: list[OpenFile] = []
        self.cache = BlockCache(8 << 20)

    def open(self, content: bytes | None = BASE, mode: int | None = None) -> OpenFile:
        """The file /f, with that content on the server; None: a new one."""
        entry = None
        if content is not None:
            self.remote.outside_write("/f", content)
            entry = self.remote.stat("/f")
        file = OpenFile(
            "/f",
            entry,
            remote=self.remote,
            cache=self.cache,
            budget=StreamBudget(8 << 20, 1 << 20),
            spool=self.spool,
            mode=mode,
            uploaded=self.note,
        )
        self.files.append(file)
        return file

    def note(self, path: str, entry: Entry) -> int:
        self.uploads.append((path, entry))
        return len(self.uploads)

    def rows(self) -> list[Record]:
        return self.spool.journal.records()


def save(file: OpenFile) -> None:
    """Commit, and upload at once in this thread: what a close and its upload do."""
    file.commit()
    with file.exclusive():
        file.upload()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "spool")
    yield bench
    left = sum(file.close() for file in bench.files)
    until_gone(lambda: [t for t in threading.enumerate() if t.name == "ftpfs-stream"])
    assert len(list(bench.folder.glob("*.spool"))) <= left, "no spool file is left behind"


def whole(file: OpenFile) -> bytes:
    return file.read(0, 1 << 30)


# One content.


def test_writes_lie_over_what_the_server_has(bench: Bench) -> None:
    file = bench.open()
    file.write(10, b"patched")
    file.write(len(BASE), b" and more")
    wanted = BASE[:10] + b"patched" + BASE[17:] + b" and more"
    assert whole(file) == wanted
    save(file)
    assert bench.remote.content("/f") == whole(file) == wanted


@pytest.mark.parametrize("how", ["time", "size"])
def test_pieces_of_two_contents_are_never_joined(bench: Bench, how: str) -> None:
    file = bench.open()
    assert file.read(3 * BLOCK_SIZE, 4) == b"tail"
    bench.remote.now += 1
    bench.remote.outside_write("/f", bytes(len(BASE) + (how == "size")))
    with pytest.raises(errors.Changed):
        file.read(0, 10)


def test_cut_and_grown_again_a_file_reads_as_zeros(bench: Bench) -> None:
    file = bench.open()
    file.write(BLOCK_SIZE - 2, b"abcd")
    file.truncate(BLOCK_SIZE)
    file.truncate(len(BASE) + 10)
    wanted = (BASE[: BLOCK_SIZE - 2] + b"ab").ljust(len(BASE) + 10, b"\0")
    assert whole(file) == wanted
    save(file)
    assert bench.remote.content("/f") == wanted


def test_a_hole_reads_and_arrives_as_zeros(bench: Bench) -> None:
    file = bench.open(None)
    file.write(1000, b"x")
    assert whole(file) == bytes(1000) + b"x"
    save(file)
    assert bench.remote.content("/f") == bytes(1000) + b"x"


def test_appending_goes_to_the_end_as_it_is_by_then(bench: Bench) -> None:
    file = bench.open(b"one")
    file.write(None, b" two")
    file.write(None, b" three")
    assert whole(file) == b"one two three"


def test_an_empty_new_file_is_uploaded_once(bench: Bench) -> None:
    file = bench.open(None)
    save(file)
    save(file)
    assert bench.remote.content("/f") == b""
    assert bench.remote.calls["store"] == 1


def test_only_reading_uploads_nothing(bench: Bench) -> None:
    file = bench.open()
    whole(file)
    file.truncate(len(BASE))  # to the size it has
    save(file)
    assert bench.remote.calls["store"] == 0


# Full disks.


def test_a_full_disk_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bench.open()
    file.write(0, b"before")
    with disk_full_after(monkeypatch, 0), pytest.raises(errors.NoSpace):
        file.write(len(BASE) + 100, b"too much")
    assert whole(file) == b"before" + BASE[6:]
    save(file)
    assert bench.remote.content("/f") == b"before" + BASE[6:]


def test_what_a_full_disk_let_in_is_there_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bench.open(None)
    with disk_full_after(monkeypatch, 4):
        assert file.write(2, b"abcdefgh")[0] == 4
    file.truncate(5)
    file.write(10, b"z")
    save(file)
    assert bench.remote.content("/f") == b"\0\0abc" + bytes(5) + b"z"


def test_a_disk_too_full_to_complete_the_file_fails_the_flush_and_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.remote.patches_nothing = True
    file = bench.open()
    file.write(10, b"patched")
    with disk_full_after(monkeypatch, 1000), pytest.raises(errors.NoSpace):
        save(file)
    wanted = BASE[:10] + b"patched" + BASE[17:]
    assert file.dirty
    assert bench.remote.content("/f") == BASE
    assert whole(file) == wanted
    save(file)
    assert bench.remote.content("/f") == wanted


# Uploads and what happens meanwhile.


def test_a_write_during_the_upload_leaves_it_dirty_for_the_next(bench: Bench) -> None:
    file = bench.open()
    file.write(0, b"first")
    gate = bench.remote.hold("store")
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(save, file)
        assert gate.reached.wait(5)
        file.write(100, b"second")
        gate.open()
        flushing.result(5)
    assert file.dirty
    save(file)
    assert not file.dirty
    assert bench.remote.content("/f") == b"first" + BASE[5:100] + b"second" + BASE[106:]


def test_a_write_while_the_base_is_copied_is_not_copied_over(bench: Bench) -> None:
    file = bench.open()
    file.write(0, b"first")
    gate = bench.remote.hold("open_read")
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(save, file)
        assert gate.reached.wait(5)
        file.write(100, b"second")
        file.truncate(BLOCK_SIZE + 7)
        gate.open()
        flushing.result(5)
    wanted = (b"first" + BASE[5:100] + b"second" + BASE[106:])[: BLOCK_SIZE + 7]
    assert whole(file) == wanted
    save(file)
    assert bench.remote.content("/f") == wanted


def test_a_read_that_waits_while_an_upload_replaces_the_base_gets_its_bytes(bench: Bench) -> None:
    file = bench.open()
    with ThreadPoolExecutor(2) as pool:
        gate = bench.remote.hold("open_read", after=0)
        reading = pool.submit(file.read, 2 * BLOCK_SIZE, 100)
        assert gate.reached.wait(5)
        file.write(0, b"first")
        save(file)
        bench.remote.outside_remove("/f")  # so that the old content can come from nowhere
        gate.open()
        assert reading.result(5) == BASE[2 * BLOCK_SIZE :][:100]


def test_two_flushes_at_once_are_one_upload(bench: Bench) -> None:
    file = bench.open(None)
    file.write(0, b"x")
    gate = bench.remote.hold("store")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(save, file)
        assert gate.reached.wait(5)
        second = pool.submit(save, file)
        time.sleep(0.02)
        assert not second.done(), "a flush returns when the server has it, not before"
        gate.open()
        first.result(5)
        second.result(5)
    assert bench.remote.calls["store"] == 1


def test_a_failed_upload_keeps_the_bytes_and_is_tried_again(bench: Bench) -> None:
    file = bench.open()
    file.write(0, b"precious")
    bench.remote.fail("store", errors.QuotaExceeded("full"))
    with pytest.raises(errors.QuotaExceeded):
        save(file)
    assert file.dirty
    assert whole(file) == b"precious" + BASE[8:]
    save(file)
    assert bench.remote.content("/f") == b"precious" + BASE[8:]


def test_what_could_not_be_uploaded_stays_in_the_spool_and_in_the_journal(bench: Bench) -> None:
    file = bench.open(None)
    file.write(0, b"precious")
    bench.remote.fail("store", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        save(file)
    assert file.close()
    (row,) = bench.rows()
    assert (row.path, row.size, row.present, row.base) == ("/f", 8, ((0, 8),), None)
    spool_file = bench.folder / row.spool
    assert spool_file.read_bytes() == b"precious"
    spool_file.unlink()


def test_a_close_whose_row_cannot_be_written_fails_each_time_until_it_is(bench: Bench) -> None:
    file = bench.open()
    file.write(0, b"first")
    assert file.commit()
    file.write(0, b"again")
    bench.spool.journal._connection.execute("pragma query_only = 1")
    for _ in range(2):
        with pytest.raises(errors.FtpfsError, match="journal"):
            file.commit()
    bench.spool.journal._connection.execute("pragma query_only = 0")
    assert file.commit()
    assert not file.commit()
    save(file)
    assert bench.rows() == []


def test_a_row_never_speaks_of_bytes_that_are_cut_off_already(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bench.open(None)
    file.write(0, b"0123456789")
    file.commit()
    told: list[int] = []
    real = os.ftruncate

    def ftruncate(fd: int, size: int) -> None:
        told.extend(row.size for row in bench.rows())
        real(fd, size)

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    file.truncate(4)
    assert told == [4]
    assert whole(file) == b"0123"
    save(file)


def test_the_tree_is_told_before_the_file_counts_as_clean(bench: Bench) -> None:
    seen: list[bool] = []
    file = bench.open(None)

    def note(path: str, entry: Entry) -> int:
        seen.append(file.dirty)
        return 1

    file._uploaded = note
    save(file)
    assert seen == [True]


# Attributes.


def test_times_and_modes_that_were_set_go_with_the_upload(bench: Bench) -> None:
    file = bench.open(None, mode=0o755)
    file.write(0, b"x")
    assert file.set_for_upload(mtime=12345, mode=0o700)
    save(file)
    node = bench.remote.node("/f")
    assert (node.mtime, node.mode) == (12345, 0o700)
    assert file.attributes().mtime == 12345


def test_a_clean_file_shows_no_time_that_the_server_did_not_agree_to(bench: Bench) -> None:
    file = bench.open()
    before = file.attributes()
    assert not file.set_for_upload(mtime=12345, mode=0o700)
    assert file.attributes() == before


def test_a_script_that_is_edited_stays_executable(bench: Bench) -> None:
    bench.open()
    bench.remote.chmod("/f", 0o755)
    file = OpenFile(
        "/f",
        bench.remote.stat("/f"),
        remote=bench.remote,
        cache=bench.cache,
        budget=StreamBudget(8 << 20, 1 << 20),
        spool=bench.spool,
        uploaded=bench.note,
    )
    bench.files.append(file)
    file.write(0, b"#!")
    save(file)
    assert bench.remote.node("/f").mode == 0o755


def test_a_file_of_1970_keeps_its_time(bench: Bench) -> None:
    bench.remote.outside_write("/f", b"x", mtime=0)
    bench.remote.now = 0
    assert bench.open(b"x").attributes().mtime == 0


# Following the server.


def follow(bench: Bench, file: OpenFile, content: bytes, *, mtime: int) -> None:
    bench.remote.outside_write("/f", content, mtime=mtime)
    file.follow(bench.remote.stat("/f"), 0)


def test_a_file_that_is_only_read_follows_the_server(bench: Bench) -> None:
    file = bench.open(b"old content")
    assert whole(file) == b"old content"
    follow(bench, file, b"and new, longer content", mtime=bench.remote.now)
    assert whole(file) == b"and new, longer content"
    follow(bench, file, b"AND NEW, LONGER CONTENT", mtime=bench.remote.now + 1)
    assert whole(file) == b"AND NEW, LONGER CONTENT"


def test_a_handle_reads_on_in_the_content_that_it_began_with_or_fails(bench: Bench) -> None:
    old, new = b"old" * 10_000, b"new" * 10_000
    file = bench.open(old)
    one, other = View(), View()
    file.begin(one)
    assert file.read(0, 4096, one) == old[:4096]
    follow(bench, file, new, mtime=bench.remote.now + 1)
    for offset in (4096, 28672, 40000):  # the last: no end of file either
        with pytest.raises(errors.Changed):
            file.read(offset, 4096, one)
    file.begin(other)
    assert file.read(0, 30_000, other) == new
    follow(bench, file, b"longer" * 10_000, mtime=bench.remote.now + 2)
    with pytest.raises(errors.Changed):
        file.read(4096, 4096, other)


def test_a_handle_follows_a_file_that_grows_from_its_old_end_on(bench: Bench) -> None:
    page = bytes(4096)
    file = bench.open(page + b"one line\n")
    view = View()
    file.begin(view)
    assert file.read(0, 8192, view) == page + b"one line\n"
    for lines in (b"one line\nanother\n", b"one line\nanother\na third\n"):
        follow(bench, file, page + lines, mtime=bench.remote.now)
        assert file.read(4096, 4096, view) == lines


def test_a_handle_that_writes_reads_what_it_wrote(bench: Bench) -> None:
    file = bench.open(b"content")
    view = View()
    file.begin(view)
    assert file.read(0, 7, view) == b"content"
    file.write(0, b"CON")
    assert file.read(0, 7, view) == b"CONtent"
    file.upload()
    assert file.read(0, 7, view) == b"CONtent"


def test_the_same_content_seen_again_is_not_fetched_again(bench: Bench) -> None:
    file = bench.open(b"content")
    whole(file)
    follow(bench, file, b"content", mtime=bench.remote.now)
    assert whole(file) == b"content"
    assert bench.remote.calls["open_read"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write(0, b"mine"),
        lambda file: file.truncate(4),
        lambda file: file.deleted("/.hidden"),
    ],
)
def test_a_file_that_was_changed_here_follows_nobody(
    bench: Bench, change: Callable[[OpenFile], object]
) -> None:
    file = bench.open(b"old content")
    whole(file)
    change(file)
    size = file.attributes().size
    follow(bench, file, b"quite another content", mtime=5)
    assert file.attributes().size == size


def test_a_file_renamed_while_open_does_not_find_the_blocks_of_its_new_names_last_owner(
    bench: Bench,
) -> None:
    """The same size in the same second: nothing but the name it was opened under tells them
    apart."""
    bench.remote.outside_write("/g", b"OTHER")
    other = OpenFile(
        "/g",
        bench.remote.stat("/g"),
        remote=bench.remote,
        cache=bench.cache,
        budget=StreamBudget(8 << 20, 1 << 20),
        spool=bench.spool,
        uploaded=bench.note,
    )
    bench.files.append(other)
    assert whole(other) == b"OTHER"
    file = bench.open(b"mine!")
    bench.remote.rename("/f", "/g", replace=True)
    file.moved("/g")
    assert whole(file) == b"mine!"
