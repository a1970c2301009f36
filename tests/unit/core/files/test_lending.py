"""Spool files that are lent to the kernel: a stand-in writes to them as the kernel does, through a
descriptor of its own. `tests/mount/test_passthrough.py` has the real one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.files import lending
from ftpfs.core.files.changes import STREAM_FROM
from ftpfs.core.writing.spool import Spool
from ftpfs.core.writing.sums import SentSums
from tests.support.filesystem_bench import Bench, reborn, settled
from tests.support.waiting import until

WRONLY = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Kernel:
    """Opens what it is lent, by its number."""

    def __init__(self) -> None:
        self.is_on = True
        self._lent: dict[int, int] = {}
        self._count = 0

    def lend(self, fd: int) -> int:
        self._count += 1
        self._lent[self._count] = os.dup(fd)
        return self._count

    def take_back(self, number: int) -> None:
        os.close(self._lent.pop(number))

    def open(self, number: int, flags: int = os.O_RDWR) -> int:
        return os.open(f"/proc/self/fd/{self._lent[number]}", flags)

    @property
    def lent(self) -> list[int]:
        return list(self._lent)


@pytest.fixture
def kernel(bench: Bench) -> Iterator[Kernel]:
    bench.note_takes("/")
    kernel = Kernel()
    bench.fs.lent.lend_to(kernel)
    yield kernel
    assert not kernel.lent, "a number was never taken back"


def create(bench: Bench, path: str = "/new", flags: int = WRONLY) -> tuple[int, int]:
    """A new file as the kernel makes it: its handle, and the number that it is lent as."""
    handle = bench.fs.create(path, 0o644, flags)
    return handle, bench.fs.lent.lend(handle, flags)


def opened(bench: Bench, path: str, flags: int) -> tuple[int, int]:
    handle = bench.fs.open(path, flags)
    return handle, bench.fs.lent.lend(handle, flags)


def closed(bench: Bench, handle: int) -> None:
    bench.fs.flush(handle)
    bench.fs.release(handle)


def test_what_the_kernel_wrote_is_seen_and_sent(bench: Bench, kernel: Kernel) -> None:
    handle, number = create(bench)
    fd = kernel.open(number)
    os.write(fd, b"written")
    assert bench.fs.attributes("/new").size == 7
    os.pwrite(fd, b"WRITTEN and more", 0)
    os.close(fd)
    closed(bench, handle)
    settled(bench)
    assert bench.remote.files()["/new"] == b"WRITTEN and more"


def test_all_opens_of_a_file_agree(bench: Bench, kernel: Kernel) -> None:
    first, number = create(bench)
    reader, same = opened(bench, "/new", os.O_RDONLY)
    both, again = opened(bench, "/new", os.O_RDWR)
    assert number == same == again != 0
    for handle in (first, both, reader):
        closed(bench, handle)
    settled(bench)
    handle, number = opened(bench, "/new", os.O_RDWR)
    later, other = opened(bench, "/new", WRONLY)
    assert number == other == 0, "the first open asks, and so do all others"
    for each in (handle, later):
        closed(bench, each)
    handle, number = opened(bench, "/a", WRONLY)
    assert number, "all were closed"
    closed(bench, handle)


@pytest.mark.parametrize(
    "flags", [os.O_RDWR | os.O_TRUNC, WRONLY | os.O_SYNC, WRONLY | os.O_DIRECT, WRONLY | os.O_DSYNC]
)
def test_opens_of_which_ftpfs_has_to_hear_are_not_lent_to(
    bench: Bench, kernel: Kernel, flags: int
) -> None:
    handle, number = create(bench, flags=flags)
    assert number == 0
    closed(bench, handle)


def test_files_that_only_the_server_has_are_not_lent(bench: Bench, kernel: Kernel) -> None:
    for flags in (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY | os.O_APPEND):
        handle, number = opened(bench, "/a", flags)
        assert number == 0
        closed(bench, handle)


def test_folder_that_took_no_file_yet_lends_nothing(bench: Bench, kernel: Kernel) -> None:
    """Its refusal has to be told by a write."""
    handle, number = create(bench, "/d/new")
    assert number == 0
    closed(bench, handle)


def test_spool_limit_that_somebody_has_set_lends_nothing(tmp_path: Path) -> None:
    assert Spool(tmp_path / "a").has_plenty
    assert not Spool(tmp_path / "b", limit=1 << 30).has_plenty
    guessed = Spool(tmp_path / "c", limit=100, is_limit_exact=False)
    assert guessed.has_plenty
    file = guessed.open()
    file.mark(0, 51)
    assert not guessed.has_plenty
    file.close()


def test_change_within_one_tick_of_the_clock_is_sent(bench: Bench, kernel: Kernel) -> None:
    handle, number = create(bench)
    fd = kernel.open(number)
    os.write(fd, b"one")
    bench.fs.attributes("/new")
    seen = os.stat(fd)
    os.pwrite(fd, b"two", 0)
    os.utime(fd, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as if it were the same tick
    os.close(fd)
    closed(bench, handle)
    settled(bench)
    assert bench.remote.files()["/new"] == b"two"


def test_close_after_an_fsync_sends_nothing_again(bench: Bench, kernel: Kernel) -> None:
    handle, number = create(bench)
    fd = kernel.open(number)
    os.write(fd, b"one")
    bench.fs.fsync(handle)
    assert bench.remote.files()["/new"] == b"one"
    bench.remote.outside_write("/new", b"other")  # would be a conflict, if it were sent again
    os.close(fd)
    closed(bench, handle)
    settled(bench)
    assert bench.remote.files()["/new"] == b"other"


def test_time_and_mode_that_are_set_before_the_close_stay(bench: Bench, kernel: Kernel) -> None:
    handle, number = create(bench)
    fd = kernel.open(number)
    os.write(fd, b"one")
    os.close(fd)
    bench.fs.chmod("/new", 0o4755)
    bench.fs.set_mtime("/new", 1_000_000_000)
    closed(bench, handle)
    shown = bench.fs.attributes("/new")
    assert (shown.mtime, shown.mode) == (1_000_000_000, 0o4755)


def test_truncate_cuts_and_lengthens_the_lent_file(bench: Bench, kernel: Kernel) -> None:
    handle, number = create(bench)
    fd = kernel.open(number)
    os.write(fd, b"0123456789")
    bench.fs.truncate_handle(handle, 4)
    assert os.fstat(fd).st_size == bench.fs.attributes("/new").size == 4
    bench.fs.truncate("/new", 6)
    assert os.pread(fd, 100, 0) == b"0123\0\0"
    os.close(fd)
    closed(bench, handle)
    settled(bench)
    assert bench.remote.files()["/new"] == b"0123\0\0"


def test_release_waits_for_a_map_that_may_still_be_written(bench: Bench, kernel: Kernel) -> None:
    handle, number = create(bench)
    mapper, number = opened(bench, "/new", os.O_RDWR)
    mapped = kernel.open(number)  # a map holds the local file open for writing
    os.write(mapped, b"one")
    closed(bench, handle)
    closed(bench, mapper)
    os.pwrite(mapped, b"two", 0)
    time.sleep(3 * lending.WATCH_SECONDS)
    assert "/new" not in bench.remote.files(), "it may still be written"
    os.close(mapped)
    until(lambda: bench.remote.files().get("/new") == b"two")


def test_kill_loses_nothing_that_was_closed(bench: Bench, kernel: Kernel, tmp_path: Path) -> None:
    bench.linger()
    handle, number = create(bench)
    fd = kernel.open(number)
    os.write(fd, b"closed")
    os.close(fd)
    closed(bench, handle)
    handle, number = create(bench, "/open")
    fd = kernel.open(number)
    os.write(fd, b"open")
    later = reborn(bench, tmp_path / "later")
    assert later.fs.recover() == 1
    settled(later)
    assert later.remote.files()["/new"] == b"closed"
    assert [path.read_bytes() for path in later.spool.glob("kept/*")] == [b"open"]
    later.fs.close()
    os.close(fd)
    closed(bench, handle)


def test_claim_of_a_row_is_void_after_the_kernel_wrote(bench: Bench, kernel: Kernel) -> None:
    """A proof must not vouch for bytes that were written after its row."""
    handle, number = create(bench)
    spooled = bench.fs._file(handle)._state.spooled
    assert spooled is not None
    fd = kernel.open(number)
    before = spooled.overwrites
    os.write(fd, b"one")
    assert spooled.overwrites == before + 1
    assert spooled.overwrites == before + 1
    os.close(fd)
    closed(bench, handle)


def test_stream_begins_once_when_the_file_is_long(bench: Bench, kernel: Kernel) -> None:
    handle, number = create(bench)
    file = bench.fs._file(handle)
    bench.fs.lent._written.close()
    fd = kernel.open(number)
    os.write(fd, b"x" * 1000)
    assert not file.lending.begins_stream()
    os.pwrite(fd, b"y" * STREAM_FROM, 1000)
    assert file.lending.begins_stream()
    assert not file.lending.begins_stream()
    os.close(fd)
    closed(bench, handle)


def test_file_with_a_hole_is_not_streamed(bench: Bench, kernel: Kernel) -> None:
    handle, number = create(bench)
    bench.fs.lent._written.close()
    fd = kernel.open(number)
    os.pwrite(fd, b"end", 4 * STREAM_FROM)
    assert not bench.fs._file(handle).lending.begins_stream()
    os.close(fd)
    closed(bench, handle)


def test_sums_of_what_was_sent_show_a_later_change(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    file = spool.open()
    file.write(0, b"one two three")
    sums = SentSums(file)
    sums.add(0, 4)
    sums.add(4, 8)
    file.write(8, b"THREE")
    assert sums.still_hold()
    file.write(5, b"W")
    assert not sums.still_hold()
    file.close()


def test_kernel_that_takes_no_file_changes_nothing(
    bench: Bench, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "lend", lambda _fd: 0)
    handle, number = create(bench)
    assert number == 0
    bench.fs.write(handle, 0, b"asked")
    closed(bench, handle)
    settled(bench)
    assert bench.remote.files()["/new"] == b"asked"
    with pytest.raises(errors.BadHandle):
        bench.fs.release(handle)
