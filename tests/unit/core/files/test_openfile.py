"""One open file: the server's bytes and the written ones are one content, and no byte is lost."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.core.files.server_file import View
from ftpfs.core.names.known import KnownNames
from ftpfs.core.names.tree import Tree
from ftpfs.core.reading.blocks import BLOCK_SIZE, BlockCache
from ftpfs.core.reading.reader import StreamBudget
from ftpfs.core.writing.journal import Record
from ftpfs.core.writing.spool import Spool
from ftpfs.model.entry import Entry
from tests.support.memory_remote import MemoryRemote, disk_full_after
from tests.support.uploading import blob
from tests.support.waiting import until_gone

BASE = bytes(range(256)) * (3 * BLOCK_SIZE // 256) + b"tail"


def known_names(remote: MemoryRemote) -> KnownNames:
    return KnownNames(Tree(remote.list, remote.stat, ttl=60.0, ahead=remote.ahead))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.remote = MemoryRemote()
        self.spool = Spool(folder)
        self.folder = folder
        self.known = known_names(self.remote)
        self.files: list[OpenFile] = []
        self.cache = BlockCache(8 << 20)

    def open(self, content: bytes | None = BASE, mode: int | None = None) -> OpenFile:
        """The file /f, with that content on the server; None: a new file."""
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
            known=self.known,
        )
        self.files.append(file)
        return file

    def rows(self) -> list[Record]:
        return self.spool.journal.records()


def save(file: OpenFile) -> None:
    """Commit and upload in this thread at once, as a close and its upload do."""
    file.commit()
    with file.exclusive():
        file.outgoing.upload()


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


def test_writes_lie_over_the_servers_content(bench: Bench) -> None:
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


def test_file_that_was_cut_and_grew_again_reads_as_zeros(bench: Bench) -> None:
    file = bench.open()
    file.write(BLOCK_SIZE - 2, b"abcd")
    file.truncate(BLOCK_SIZE)
    file.truncate(len(BASE) + 10)
    wanted = (BASE[: BLOCK_SIZE - 2] + b"ab").ljust(len(BASE) + 10, b"\0")
    assert whole(file) == wanted
    save(file)
    assert bench.remote.content("/f") == wanted


def test_hole_reads_and_arrives_as_zeros(bench: Bench) -> None:
    file = bench.open(None)
    file.write(1000, b"x")
    assert whole(file) == bytes(1000) + b"x"
    save(file)
    assert bench.remote.content("/f") == bytes(1000) + b"x"


def test_append_goes_to_the_current_end(bench: Bench) -> None:
    file = bench.open(b"one")
    file.write(None, b" two")
    file.write(None, b" three")
    assert whole(file) == b"one two three"


def test_empty_new_file_is_uploaded_once(bench: Bench) -> None:
    file = bench.open(None)
    save(file)
    save(file)
    assert bench.remote.content("/f") == b""
    assert bench.remote.calls["store"] == 1


def test_file_that_is_only_read_uploads_nothing(bench: Bench) -> None:
    file = bench.open()
    whole(file)
    file.truncate(len(BASE))  # to the size it has
    save(file)
    assert bench.remote.calls["store"] == 0


# Full disks.


def test_failed_write_on_a_full_disk_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bench.open()
    file.write(0, b"before")
    with disk_full_after(monkeypatch, 0), pytest.raises(errors.NoSpace):
        file.write(len(BASE) + 100, b"too much")
    assert whole(file) == b"before" + BASE[6:]
    save(file)
    assert bench.remote.content("/f") == b"before" + BASE[6:]


def test_short_write_on_a_full_disk_leaves_only_the_written_bytes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bench.open(None)
    with disk_full_after(monkeypatch, 4):
        assert file.write(2, b"abcdefgh")[0] == 4
    file.truncate(5)
    file.write(10, b"z")
    save(file)
    assert bench.remote.content("/f") == b"\0\0abc" + bytes(5) + b"z"


def test_flush_fails_and_loses_nothing_if_the_disk_is_too_full_to_complete_the_file(
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


# Uploads, and changes during them.


def test_write_during_an_upload_leaves_the_file_dirty(bench: Bench) -> None:
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


def test_write_is_not_overwritten_while_the_base_is_copied(bench: Bench) -> None:
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


def test_waiting_read_gets_its_bytes_when_an_upload_replaces_the_base(bench: Bench) -> None:
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


def test_failed_upload_keeps_the_bytes_and_is_retried(bench: Bench) -> None:
    file = bench.open()
    file.write(0, b"precious")
    bench.remote.fail("store", errors.QuotaExceeded("full"))
    with pytest.raises(errors.QuotaExceeded):
        save(file)
    assert file.dirty
    assert whole(file) == b"precious" + BASE[8:]
    save(file)
    assert bench.remote.content("/f") == b"precious" + BASE[8:]


def test_failed_upload_stays_in_the_spool_and_in_the_journal(bench: Bench) -> None:
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


def test_close_fails_until_its_row_can_be_written(bench: Bench) -> None:
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


def test_row_never_names_bytes_that_are_cut_off_already(
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


def test_tree_is_updated_before_the_file_counts_as_clean(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    file = bench.open(None)
    put = bench.known.tree.put

    def noted(path: str, entry: Entry) -> None:
        seen.append(file.dirty)
        put(path, entry)

    monkeypatch.setattr(bench.known.tree, "put", noted)
    save(file)
    assert seen == [True]


# Attributes.


def test_time_and_mode_go_with_the_upload(bench: Bench) -> None:
    file = bench.open(None, mode=0o755)
    file.write(0, b"x")
    assert file.set_for_upload(mtime=12345, mode=0o700)
    save(file)
    node = bench.remote.node("/f")
    assert (node.mtime, node.mode) == (12345, 0o700)
    assert file.attributes().mtime == 12345


def test_clean_file_shows_no_time_that_the_server_has_not_set(bench: Bench) -> None:
    file = bench.open()
    before = file.attributes()
    assert not file.set_for_upload(mtime=12345, mode=0o700)
    assert file.attributes() == before


def test_edited_script_stays_executable(bench: Bench) -> None:
    bench.open()
    bench.remote.chmod("/f", 0o755)
    file = OpenFile(
        "/f",
        bench.remote.stat("/f"),
        remote=bench.remote,
        cache=bench.cache,
        budget=StreamBudget(8 << 20, 1 << 20),
        spool=bench.spool,
        known=bench.known,
    )
    bench.files.append(file)
    file.write(0, b"#!")
    save(file)
    assert bench.remote.node("/f").mode == 0o755


def test_file_of_1970_keeps_its_time(bench: Bench) -> None:
    bench.remote.outside_write("/f", b"x", mtime=0)
    bench.remote.now = 0
    assert bench.open(b"x").attributes().mtime == 0


# Following the server.


def follow(bench: Bench, file: OpenFile, content: bytes, *, mtime: int) -> None:
    bench.remote.outside_write("/f", content, mtime=mtime)
    file.basis.follow(bench.remote.stat("/f"), 0)


def test_file_that_is_only_read_follows_the_server(bench: Bench) -> None:
    file = bench.open(b"old content")
    assert whole(file) == b"old content"
    follow(bench, file, b"and new, longer content", mtime=bench.remote.now)
    assert whole(file) == b"and new, longer content"
    follow(bench, file, b"AND NEW, LONGER CONTENT", mtime=bench.remote.now + 1)
    assert whole(file) == b"AND NEW, LONGER CONTENT"


def test_handle_reads_on_in_its_first_content_or_fails(bench: Bench) -> None:
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


def test_handle_follows_a_growing_file_from_its_old_end(bench: Bench) -> None:
    page = bytes(4096)
    file = bench.open(page + b"one line\n")
    view = View()
    file.begin(view)
    assert file.read(0, 8192, view) == page + b"one line\n"
    for lines in (b"one line\nanother\n", b"one line\nanother\na third\n"):
        follow(bench, file, page + lines, mtime=bench.remote.now)
        assert file.read(4096, 4096, view) == lines


def test_handle_reads_a_growth_in_pieces_while_the_file_grows_further(bench: Bench) -> None:
    """The kernel asks for several pieces at once; one may be asked for again after a growth."""
    first, grown = blob(3 * 4096 + 7), blob(3 << 20, 1)
    file = bench.open(first)
    view = View()
    file.begin(view)
    assert file.read(0, 4096, view) == first[:4096]
    for size in (20_000, 40_000, len(grown)):
        log = first + grown[:size]
        follow(bench, file, log, mtime=bench.remote.now)
        for start in (4 * 4096, 3 * 4096):
            assert file.read(start, 4096, view) == log[start : start + 4096]
    log = first + grown + b"more"
    assert file.read(2 << 20, 4096, view) == log[2 << 20 :][:4096]
    follow(bench, file, log, mtime=bench.remote.now)
    with pytest.raises(errors.Changed):
        file.read(2 * 4096, 4096, view)  # in the content that the handle began with


def test_handle_reads_its_own_writes(bench: Bench) -> None:
    file = bench.open(b"content")
    view = View()
    file.begin(view)
    assert file.read(0, 7, view) == b"content"
    file.write(0, b"CON")
    assert file.read(0, 7, view) == b"CONtent"
    file.outgoing.upload()
    assert file.read(0, 7, view) == b"CONtent"


def test_unchanged_content_is_not_fetched_again(bench: Bench) -> None:
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
        lambda file: file.basis.deleted("/.hidden"),
    ],
)
def test_file_that_was_changed_here_does_not_follow_the_server(
    bench: Bench, change: Callable[[OpenFile], object]
) -> None:
    file = bench.open(b"old content")
    whole(file)
    change(file)
    size = file.attributes().size
    follow(bench, file, b"quite another content", mtime=5)
    assert file.attributes().size == size


def test_renamed_open_file_does_not_read_blocks_of_the_new_names_last_file(
    bench: Bench,
) -> None:
    """Both files have the same size and second: only the name at the open tells them apart."""
    bench.remote.outside_write("/g", b"OTHER")
    other = OpenFile(
        "/g",
        bench.remote.stat("/g"),
        remote=bench.remote,
        cache=bench.cache,
        budget=StreamBudget(8 << 20, 1 << 20),
        spool=bench.spool,
        known=bench.known,
    )
    bench.files.append(other)
    assert whole(other) == b"OTHER"
    file = bench.open(b"mine!")
    bench.remote.rename("/f", "/g", replace=True)
    file.basis.moved("/g")
    assert whole(file) == b"mine!"


def test_truncate_changes_nothing_if_no_descriptor_is_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bench.open(None)
    file.write(0, b"0123456789")
    bench.spool.descriptors.close_idle()

    def no_more_files(*_arguments: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as limited:
        limited.setattr(os, "open", no_more_files)
        with pytest.raises(errors.OutOfDescriptors):
            file.truncate(3)
    file.write(12, b"end")
    save(file)
    assert bench.remote.content("/f") == whole(file) == b"0123456789\0\0end"
