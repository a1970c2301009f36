"""What the kernel was told about files, and how it is corrected; on real files, without a mount."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from ftpfs.fuse import kernel
from ftpfs.fuse.kernel import KernelView
from tests.support.waiting import until


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def view(believes_for: float = 1.0) -> tuple[KernelView, Clock]:
    clock = Clock()
    return KernelView("/", believes_for, clock=clock), clock


def test_attributes_are_remembered_while_kernel_believes_them() -> None:
    known, clock = view(believes_for=5)
    for second in range(6):
        clock.now = float(second)
        known.told(f"/{second}", second, 0)
    clock.now = 5.9
    assert known.believes("/1") == (1, 0)
    clock.now = 15.1
    assert known.believes("/5") is None


def test_latest_attributes_count() -> None:
    known, clock = view()
    known.told("/file", 1, 1)
    clock.now = 1.2
    known.told("/file", 2, 2)
    assert known.believes("/file") == (2, 2)
    known.knows_better("/file")
    assert known.believes("/file") is None


def test_memory_is_bounded_during_walk_through_huge_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MOST_FILES", 10)
    known, _ = view(believes_for=3600)
    for number in range(100):
        known.told(f"/{number}", number, 0)
    held = [number for number in range(100) if known.believes(f"/{number}")]
    assert held[-1] == 99
    assert 10 <= len(held) <= 20


def test_attributes_follow_rename_of_file_or_folder() -> None:
    known, clock = view()
    known.told("/folder/old", 1, 1)
    clock.now = 1.2
    known.told("/folder/new", 2, 2)
    known.told("/folders", 3, 3)
    known.renamed("/folder", "/moved")
    known.renamed("/moved/new", "/moved/old")
    assert known.believes("/moved/old") == (2, 2)
    assert known.believes("/folder/old") is None
    assert known.believes("/folders") == (3, 3)


def test_correction_returns_at_once_when_kernel_shows_new_size(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    os.utime(file, (7, 7))
    begun = time.monotonic()
    KernelView(str(tmp_path), 2.0).correct("/file", (5, 7))
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("name", ["file", "missing"])
def test_correction_waits_until_kernel_stops_believing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    begun = time.monotonic()
    KernelView(str(tmp_path), 0.4).correct(f"/{name}", (6, 7))
    assert 0.4 <= time.monotonic() - begun < 1.4


@pytest.mark.parametrize("close_range", [True, False], ids=["close_range", "Linux before 5.9"])
def test_correcting_thread_keeps_no_descriptor_of_process_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close_range: bool
) -> None:
    """When the daemon is killed, the device has to close, although that thread waits for it."""
    known = KernelView(str(tmp_path), 0.2)
    asking, answer = threading.Event(), threading.Event()
    closed_by_number = []
    monkeypatch.setattr(os, "closerange", lambda *numbers: closed_by_number.append(numbers))

    class Libc:
        unshare = known._libc.unshare

        def syscall(self, *arguments: object) -> int:
            return int(real.syscall(*arguments)) if close_range else -1

        def statx(self, *_arguments: object) -> int:
            asking.set()
            answer.wait(10)
            return -1

    real = known._libc
    monkeypatch.setattr(known, "_libc", Libc())
    reading, writing = os.pipe()
    begun = time.monotonic()
    known.correct("/file", (1, 1))
    assert asking.is_set()
    assert time.monotonic() - begun < 3  # the caller does not wait for it either
    os.close(writing)
    assert os.read(reading, 1) == b""
    assert not closed_by_number, "the limit may be a thousand million"
    answer.set()
    os.close(reading)


def test_thousands_of_corrections_leak_no_thread_and_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    os.utime(file, (7, 7))
    known = KernelView(str(tmp_path), 1.0)

    def correct(times: int) -> None:
        for _ in range(times):
            known.correct("/file", (5, 7))

    correct(500)
    threads, before = threading.active_count(), resident()
    opening = [threading.Thread(target=correct, args=(125,)) for _ in range(16)]
    for each in opening:
        each.start()
    for each in opening:
        each.join()
    until(lambda: threading.active_count() <= threads)
    assert resident() - before < 4 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# What others changed.


class Kernel:
    """Stands for the C library: reading the attribute calls the mount, as the kernel does."""

    def __init__(self, known: KernelView) -> None:
        self.known = known
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        known.invalidate = self.asked.append

    def syscall(self, *_arguments: object) -> int:
        return 0  # close_range: the descriptors of the tests stay

    def getxattr(self, place: bytes, name: bytes, *_rest: object) -> int:
        assert (place, name) == (b"/mnt", b"user.ftpfs.outdated")
        self.threads.add(threading.get_ident())
        assert self.go.wait(10)
        self.known.invalidate_outdated()
        return 0


@pytest.fixture
def asking() -> Kernel:
    known = KernelView("/mnt", 1.0)
    kernel = Kernel(known)
    known._libc = kernel  # type: ignore[assignment]
    return kernel


def test_kernel_is_asked_to_forget_what_others_changed_in_another_thread(asking: Kernel) -> None:
    asking.known.outdated(["/a", "/b"])
    until(lambda: sorted(asking.asked) == ["/a", "/b"])
    assert threading.get_ident() not in asking.threads


def test_nobody_waits_for_kernel_that_does_not_answer_and_all_is_told_later(
    asking: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "MOST_FILES", 10)
    asking.go.clear()
    for number in range(100):
        asking.known.outdated([f"/{number}"])
    until(lambda: len(asking.threads) == 1)
    asking.go.set()
    until(lambda: len(asking.asked) == 10)
    until(lambda: not asking.known._asks_for_outdated)
    asking.known.outdated(["/last"])
    until(lambda: "/last" in asking.asked)


def test_without_libfuse_3_nothing_is_told() -> None:
    known, _ = view()
    known.outdated(["/a"])
    assert not known._outdated
    assert not known._asks_for_outdated


def test_what_a_kernel_without_this_mount_was_to_be_told_is_dropped(tmp_path: Path) -> None:
    """Another file system is mounted over it, or none is mounted any more."""
    known = KernelView(str(tmp_path), 1.0)
    known.invalidate = lambda path: pytest.fail(f"{path} was told")
    known.outdated(["/a"])
    until(lambda: not known._asks_for_outdated)
    assert not known._outdated
