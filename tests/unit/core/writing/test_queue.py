"""The queue of uploads: what is sent next, when a failure is retried, what is reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ftpfs import errors
from ftpfs.core.writing import backoff, schedule
from ftpfs.core.writing.queue import UploadQueue
from tests.support.waiting import until


class File:
    def __init__(self, name: str, size: int = 1) -> None:
        self.path = f"/{name}"
        self.unsent_bytes = size
        self.sent_bytes = self.uploaded_bytes = 0
        self.waits = True
        self.changes_in_place = False
        self.has_content = True
        self.given_up: list[errors.FtpfsError] = []

    def give_up(self, error: errors.FtpfsError) -> None:
        self.given_up.append(error)


class Bench:
    """A queue whose uploads do what the test says."""

    def __init__(self, workers: int = 1, linger: float = 0.0, *, holds: bool = False) -> None:
        self.order: list[str] = []
        self.answers: dict[str, list[errors.FtpfsError | None]] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.queue: UploadQueue[File] = UploadQueue(
            workers=workers, linger=linger, holds_bursts=lambda: holds
        )
        self.queue.deliver = self.upload

    def upload(self, file: File) -> None:
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.gate.wait(10)
        with self.lock:
            self.at_once -= 1
            self.order.append(file.path.strip("/"))
            answer = (
                self.answers.get(file.path, [None]).pop(0) if self.answers.get(file.path) else None
            )
        if answer is not None:
            raise answer
        file.waits = False

    def drain(self, timeout: float = 10) -> bool:
        return self.queue.drain(timeout, lambda _: True)


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**arguments: float) -> Bench:
        made.append(Bench(**arguments))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for bench in made:
        bench.gate.set()
        assert not bench.queue.stop(lambda _: None, 30)


def test_small_files_go_before_large_ones_but_none_waits_for_ever(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "AGEING_BYTES", 1000)
    bench = make()
    bench.gate.clear()
    bench.queue.add(File("first"))
    until(lambda: bench.at_once == 1)
    bench.queue.add(File("large", 100))
    bench.queue.add(File("medium", 50))
    time.sleep(0.2)  # worth 200 bytes
    bench.queue.add(File("small", 1))
    bench.queue.add(File("late and small", 190))
    bench.gate.set()
    assert bench.drain()
    assert bench.order == ["first", "medium", "large", "small", "late and small"]


def test_demanded_file_is_sent_first(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.gate.clear()
    bench.queue.add(File("first"))
    until(lambda: bench.at_once == 1)
    large = File("large", 1 << 40)
    for file in (File("small"), large):
        bench.queue.add(file)
    bench.queue.hurry(large)
    bench.gate.set()
    assert bench.drain()
    assert bench.order == ["first", "large", "small"]


def test_no_more_at_once_than_there_are_workers(make: Callable[..., Bench]) -> None:
    bench = make(workers=3)
    for number in range(50):
        bench.queue.add(File(str(number)))
    assert bench.drain()
    assert len(bench.order) == 50
    assert bench.most_at_once <= 3


def test_file_closed_repeatedly_is_sent_once(make: Callable[..., Bench]) -> None:
    bench = make(linger=0.05)
    file = File("log")
    for _ in range(20):
        bench.queue.add(file)
        time.sleep(0.005)
    assert bench.order == []
    until(lambda: bench.order == ["log"])


def test_changed_range_of_a_large_file_is_sent_alone(make: Callable[..., Bench]) -> None:
    bench = make(linger=1000)
    changed = File("changed")
    changed.changes_in_place = True
    bench.queue.add(File("new"))
    bench.queue.add(changed)
    until(lambda: bench.order == ["changed"])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes pauses of its own. The shorter of this and the linger counts."""
    monkeypatch.setattr(schedule, "BURST_PAUSE_SECONDS", 0.5)


def close_for(bench: Bench, seconds: float, size: int = 1) -> int:
    """Close one file after another for that time, with no pause. Returns how many."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        bench.queue.add(File(str(count), size))
        count += 1
        time.sleep(0.002)
    return count


@pytest.mark.usefixtures("patient")
def test_burst_of_closes_is_held_back_until_it_pauses(make: Callable[..., Bench]) -> None:
    bench = make(linger=0.5, holds=True)
    count = close_for(bench, 0.8)
    assert bench.order == []
    until(lambda: len(bench.order) == count)


@pytest.mark.usefixtures("patient")
def test_burst_without_an_end_is_sent_by_one_worker_until_it_ends(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "LONGEST_LINGER_SECONDS", 0.3)
    bench = make(workers=4, linger=0.5, holds=True)
    bench.gate.clear()
    close_for(bench, 1.0)
    assert (bench.at_once, bench.order) == (1, [])
    until(lambda: bench.at_once == 4)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("size", "at_once"), [(100, 1), (1 << 20, 4)])
def test_burst_of_many_bytes_is_not_held_back(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, size: int, at_once: int
) -> None:
    monkeypatch.setattr(schedule, "HELD_BYTES", 1000)
    bench = make(workers=4, linger=0.5, holds=True)
    bench.gate.clear()
    close_for(bench, 1.0, size)
    assert bench.at_once == at_once


@pytest.mark.usefixtures("patient")
def test_demanded_file_is_not_held_back_with_a_burst(make: Callable[..., Bench]) -> None:
    bench = make(linger=0.5, holds=True)
    waited_for = File("waited for")
    bench.queue.add(waited_for)
    bench.queue.hurry(waited_for)
    close_for(bench, 0.3)
    assert bench.order == ["waited for"]
    assert bench.drain()
    assert len(bench.order) > 10


def test_draining_waits_for_nothing_that_lingers(make: Callable[..., Bench]) -> None:
    bench = make(linger=1000)
    bench.queue.add(File("a"))
    assert bench.drain()


def test_file_closed_while_it_is_sent_is_sent_again(make: Callable[..., Bench]) -> None:
    bench = make()
    file = File("a")
    bench.answers["/a"] = [errors.Superseded("written over")]
    bench.queue.add(file)
    assert bench.drain()
    assert bench.order == ["a", "a"]
    assert not file.given_up


def test_unreachable_server_is_retried_and_logged_once(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE_SECONDS", 0.05)
    bench = make(workers=4)
    away: list[errors.FtpfsError | None] = [errors.ConnectionRefused("nobody there")] * 12
    files = [File(str(number)) for number in range(5)]
    for file in files:
        bench.answers[file.path] = away
        bench.queue.add(file)
    assert bench.drain()
    assert not any(file.waits for file in files)
    assert not any(file.given_up for file in files)
    assert len(bench.order) == 12 + 5
    assert caplog.text.count("uploads wait") == 1
    until(lambda: caplog.text.count("takes uploads again") == 1)


def test_programs_that_wait_for_their_files_do_not_make_the_queue_wait_longer(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_SECONDS", 0.2)
    bench = make()
    file = File("a")
    bench.answers[file.path] = [errors.ConnectionRefused("nobody there")] * 20
    bench.queue.add(file)
    for count in range(1, 20):
        bench.queue.hurry(file)
        until(lambda count=count: len(bench.order) == count)  # type: ignore[misc]
        until(lambda: bench.queue.state_of(file) == "dirty")
    began = time.monotonic()
    assert bench.drain()  # the 20th fails, and the 21st does not
    assert time.monotonic() - began < 5


def test_retry_asks_an_unreachable_server_at_once(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_SECONDS", 1000)
    bench = make()
    file = File("a")
    bench.answers[file.path] = [errors.ConnectionRefused("nobody there")]
    bench.queue.add(file)
    until(lambda: len(bench.order) == 1)
    until(lambda: bench.queue.state_of(file) == "dirty")
    bench.queue.retry(lambda _: True)
    assert bench.drain()
    assert bench.order == ["a", "a"]


def test_refused_file_is_reported_once_and_left_until_it_is_changed(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    file = File("a")
    bench.answers["/a"] = [errors.PermissionDenied("no")]
    bench.queue.add(file)
    assert bench.drain()
    assert [str(error) for error in file.given_up] == ["no"]
    assert bench.queue.state_of(file) == "failed"
    (pending,) = bench.queue.status(0, None).pending
    assert (pending.state, pending.error, pending.attempts) == ("failed", "no", 1)
    assert [path for path, _ in bench.queue.failures(lambda _: True)] == ["/a"]
    bench.queue.add(file)
    assert bench.drain()
    assert bench.order == ["a", "a"]
    assert bench.queue.status(0, None).files == 0


def test_upload_to_a_full_server_is_retried_after_a_pause(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FULL_PAUSE_SECONDS", 0.05)
    bench = make()
    file = File("a")
    bench.answers["/a"] = [errors.QuotaExceeded("full"), errors.QuotaExceeded("full")]
    bench.queue.add(file)
    until(lambda: not file.waits)
    assert len(file.given_up) == 1


def test_odd_reply_is_retried_a_few_times(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_SECONDS", 0.001)
    bench = make()
    file = File("a")
    bench.answers["/a"] = [errors.DataMismatch("lies")] * 20
    bench.queue.add(file)
    until(lambda: bool(file.given_up))
    assert len(bench.order) == backoff.TRIES


def test_file_waits_while_the_process_has_no_descriptor_left(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE_SECONDS", 0.002)
    bench = make()
    file = File("a")
    bench.answers["/a"] = [errors.OutOfDescriptors("too many open files")] * 20
    bench.queue.add(file)
    until(lambda: not file.waits)
    assert not file.given_up


def test_one_worker_is_left_for_files_that_were_closed(make: Callable[..., Bench]) -> None:
    bench = make(workers=3)
    bench.gate.clear()
    streams = [File(f"stream{number}") for number in range(3)]
    assert [bench.queue.stream(file) for file in streams] == [True, True, False]
    bench.queue.add(File("closed"))
    until(lambda: bench.at_once == 3)
    bench.gate.set()
    assert bench.drain()
