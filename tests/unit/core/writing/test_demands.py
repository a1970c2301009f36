"""What a close, an fsync and a sync wait for, and what they raise."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.files.openfile import OpenFile
from ftpfs.settings.config import Write
from tests.support.filesystem_bench import (
    Bench,
    made,
    open_directory,
    settled,
    until_failed,
)
from tests.support.waiting import until

LONG = bytes(3 << 20)  # the server takes it before it has all of it


def test_first_close_in_a_folder_waits_and_later_ones_do_not(bench: Bench) -> None:
    bench.write("/d/one", b"1")
    assert bench.remote.content("/d/one") == b"1"
    gate = bench.remote.hold("store")
    bench.write("/d/two", b"2")
    assert "/d/two" not in bench.remote.files()
    gate.open()
    settled(bench)
    assert bench.remote.content("/d/two") == b"2"


def test_first_close_in_a_directory_returns_when_the_server_takes_the_file(
    bench: Bench,
) -> None:
    accepting, ending = bench.remote.hold("accept"), bench.remote.hold("store")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(bench.write, "/d/one", LONG)
        assert accepting.reached.wait(5)
        assert not wait([writing], 0.2).done
        accepting.open()
        writing.result(5)
    assert "/d/one" not in bench.remote.files()
    bench.write("/d/two", b"2")  # what the server takes one of, it takes more of
    ending.open()
    settled(bench)
    assert bench.remote.content("/d/one") == LONG


def test_close_reports_a_first_file_that_the_server_refuses_at_once(
    bench: Bench,
) -> None:
    for number in range(9):  # also when it is refused before the close, and tried again for that
        bench.remote.fail("accept", errors.PermissionDenied("no"), after=number)
    with pytest.raises(errors.PermissionDenied):
        bench.write("/d/one", LONG)
    bench.fs.unlink("/d/one")
    gate = bench.remote.hold("store")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(bench.write, "/d/two", b"2")
        assert gate.reached.wait(5)
        assert not wait([writing], 0.2).done
        gate.open()
        writing.result(5)


def test_next_close_reports_a_first_file_that_the_server_accepted_and_then_refused(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    gate = bench.remote.hold("store")
    for number in range(2):  # who closes it while it is sent has it tried again
        bench.remote.fail("store", errors.QuotaExceeded("full"), after=number)
    handle = bench.new("/d/one", LONG)
    bench.fs.flush(handle)
    gate.open()
    until_failed(bench, "/d/one")
    until(lambda: "/d/one could not be uploaded" in caplog.text)  # right after it shows as failed
    with pytest.raises(errors.QuotaExceeded):
        bench.fs.flush(handle)
    bench.fs.release(handle)


def test_fsync_returns_when_the_server_has_the_content(bench: Bench) -> None:
    handle = bench.new("/d/one", LONG)
    gate = bench.remote.hold("store")
    bench.fs.flush(handle)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(bench.fs.fsync, handle)
        assert not wait([saving], 0.2).done
        gate.open()
        saving.result(5)
    assert bench.remote.content("/d/one") == LONG
    bench.fs.release(handle)


def test_synchronous_mount_waits_at_every_close(tmp_path: Path) -> None:
    bench = made(tmp_path, write=Write(sync=True))
    for name, content in (("/one", b"x"), ("/two", b"x"), ("/d/long", LONG)):
        bench.write(name, content)
        assert bench.remote.content(name) == content
    bench.fs.close()


def test_fsync_raises_the_error_of_an_earlier_upload(bench: Bench) -> None:
    bench.write("/one", b"1")  # the directory takes files
    bench.remote.fail("store", errors.QuotaExceeded("full"))
    written = bench.new("/two", b"2")
    handle = bench.fs.open("/two", os.O_WRONLY)
    bench.fs.release(written)
    until_failed(bench, "/two")
    for _ in range(2):
        with pytest.raises(errors.QuotaExceeded):
            bench.fs.fsync(handle)
    bench.fs.write(handle, 0, b"3")  # touched: it is tried again
    bench.fs.fsync(handle)
    bench.fs.release(handle)
    assert bench.remote.content("/two") == b"3"


def test_refused_empty_file_is_deleted(bench: Bench) -> None:
    handle = refused(bench, "/d/new")
    bench.fs.release(handle)
    assert bench.names("/d") == set()
    until(lambda: bench.fs.upload_status().files == 0)
    assert not list(bench.spool.glob("*.spool"))


def refused(bench: Bench, path: str) -> int:
    """A handle on a new file that the server has refused to a shell's first close()."""
    handle = bench.fs.create(path, 0o644, os.O_WRONLY)
    bench.remote.fail("takes_files", errors.PermissionDenied("no"))
    bench.remote.fail("store", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.flush(handle)
    return handle


def test_write_to_a_refused_file_fails_and_its_name_stays_while_it_is_open(
    bench: Bench,
) -> None:
    handle = refused(bench, "/d/new")
    other = bench.fs.open("/d/new", os.O_WRONLY)
    for each in (handle, other):
        with pytest.raises(errors.PermissionDenied):
            bench.fs.write(each, 0, b"lost?")
        with pytest.raises(errors.PermissionDenied):
            bench.fs.truncate_handle(each, 5)
    bench.fs.release(handle)
    assert bench.names("/d") == {"new"}
    until_failed(bench, "/d/new")  # who waited hears of it before the queue has noted it
    bench.fs.retry()  # somebody has given the right
    bench.fs.sync()
    bench.fs.write(other, 0, b"kept")
    bench.fs.release(other)
    bench.fs.sync()
    assert bench.remote.content("/d/new") == b"kept"


def test_close_by_a_child_process_neither_uploads_nor_consumes_an_error(bench: Bench) -> None:
    one = os.getpid()
    child = os.getppid()
    handle = bench.fs.create("/d/new", 0o644, os.O_WRONLY, caller=one)
    bench.fs.flush(handle, child)
    bench.fs.write(handle, 0, b"precious")
    bench.fs.flush(handle, child)
    assert not bench.remote.calls["store"]
    assert not bench.remote.calls["takes_files"]
    bench.remote.fail("store", errors.PermissionDenied("no"))
    other = bench.fs.open("/d/new", os.O_WRONLY, caller=one)
    bench.fs.release(handle)
    until_failed(bench, "/d/new")
    bench.fs.flush(other, child)
    with pytest.raises(errors.PermissionDenied):
        bench.fs.flush(other, one)
    bench.fs.release(other)
    assert bench.read("/d/new") == b"precious"


def test_first_close_reports_a_network_failure_and_its_file_is_sent_later(
    bench: Bench,
) -> None:
    for call in range(8):
        bench.remote.fail("store", errors.ConnectionLost("away"), after=call)
    handle = bench.fs.create("/d/new", 0o644, os.O_WRONLY)
    bench.fs.write(handle, 0, b"all of it")
    with pytest.raises(errors.ConnectionLost):
        bench.fs.flush(handle)
    bench.fs.release(handle)
    bench.remote.calm()
    bench.fs.retry()
    bench.fs.sync()
    assert bench.remote.content("/d/new") == b"all of it"


def test_file_demanded_once_is_held_back_again_when_it_is_rewritten(
    bench: Bench,
) -> None:
    """Its first close failed by the network, and its upload is still to come."""
    one, child = os.getpid(), os.getppid()
    for call in range(8):
        bench.remote.fail("store", errors.ConnectionLost("away"), after=call)
    handle = bench.fs.create("/d/new", 0o644, os.O_WRONLY, caller=one)
    bench.fs.write(handle, 0, b"all of it")
    with pytest.raises(errors.ConnectionLost):
        bench.fs.flush(handle, one)
    bench.fs.release(handle)
    again = bench.fs.open("/d/new", os.O_WRONLY | os.O_TRUNC, caller=one)
    bench.fs.write(again, 0, b"a part")
    bench.fs.flush(again, child)
    bench.remote.calm()
    bench.fs.retry()
    time.sleep(0.5)
    assert "/d/new" not in bench.remote.files()
    bench.fs.write(again, 6, b", and the rest")
    bench.fs.release(again)
    settled(bench)
    assert bench.remote.content("/d/new") == b"a part, and the rest"


def test_sync_sends_the_others_when_one_cannot_be_written_down(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_directory(bench)
    handles = [bench.new(f"/{name}", b"x") for name in ("odd", "plain")]
    commit = OpenFile.commit

    def odd(file: OpenFile) -> bool:
        if file.path == "/odd":
            raise errors.NoSpace("full")
        return commit(file)

    monkeypatch.setattr(OpenFile, "commit", odd)
    with pytest.raises(errors.NoSpace):
        bench.fs.sync("/", 10)
    assert bench.remote.content("/plain") == b"x"
    monkeypatch.undo()
    for handle in handles:
        bench.fs.release(handle)


def test_file_that_fsync_could_not_send_is_sent_at_its_close(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program gets the error before the queue drops the file, which is still being written."""
    open_directory(bench)
    bench.linger()
    handle = bench.fs.open("/a", os.O_RDWR)
    bench.fs.write(handle, 0, b"mine")
    heard = threading.Event()
    ended = bench.fs._queue._ended

    def ended_late(*words: Any) -> None:
        heard.wait(20)
        ended(*words)

    monkeypatch.setattr(bench.fs._queue, "_ended", ended_late)
    bench.remote.fail("store", errors.ConnectionLost("cut"))
    with pytest.raises(errors.ConnectionLost):
        bench.fs.fsync(handle)
    heard.set()
    until(lambda: bench.fs.upload_status().files == 0)
    bench.fs.release(handle)
    assert bench.fs.upload_status().files == 1
    bench.fs.sync(timeout=20)
    assert bench.remote.content("/a") == b"mine"


def test_fsync_waits_for_earlier_writes_and_not_for_later_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_directory(bench)
    one, other = bench.new("/d/new", b"one"), bench.fs.open("/d/new", os.O_WRONLY)
    bench.fs.write(one, 0, b"one")
    real = OpenFile.wait_until_sent

    def wait_until_sent(file: OpenFile, **options: Any) -> None:
        until(lambda: not file.waits)  # the server has it
        bench.fs.write(other, 3, b" and more")
        file.commit()  # as the close of a copy of that descriptor does
        real(file, **options)

    monkeypatch.setattr(OpenFile, "wait_until_sent", wait_until_sent)
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(bench.fs.fsync, one)
        try:
            syncing.result(3)
        finally:
            bench.fs.release(other)
            bench.fs.release(one)
    assert bench.remote.content("/d/new").startswith(b"one")


def test_sync_does_not_wait_for_the_end_of_what_another_program_began_to_write(
    bench: Bench,
) -> None:
    open_directory(bench)
    bench.fs.create("/d/first", 0o644, os.O_WRONLY)
    bench.write("/d/x", b"x")
    gate = bench.remote.hold("store", after=0)
    bench.write("/d/y", b"y")
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(bench.fs.sync, "/")
        assert gate.reached.wait(5)
        handle = bench.fs.create("/d/long", 0o644, os.O_WRONLY)
        for n in range(3):
            bench.fs.write(handle, n << 20, bytes(1 << 20))
        gate.open()
        started, offset = time.monotonic(), 3 << 20
        while not syncing.done() and time.monotonic() - started < 4:
            bench.fs.write(handle, offset, bytes(4096))
            offset += 4096
            time.sleep(0.05)
        done = syncing.done()
        bench.fs.release(handle)
        syncing.result(10)
    assert done


def test_refused_file_closed_during_its_retry_leaves_nothing_half_done(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("takes_files", "store"):
        bench.remote.fail(method, errors.PermissionDenied("553"))
    handle = bench.fs.create("/d/new", 0o644, os.O_WRONLY)
    with pytest.raises(errors.PermissionDenied):
        bench.fs.flush(handle)
    until(lambda: bench.fs.state("/d/new") == "failed")
    gate = bench.remote.hold("store")
    bench.fs.retry()
    assert gate.reached.wait(5)
    bench.fs.release(handle)
    gate.open()
    until(lambda: not bench.fs.upload_status().files)
    assert "unexpected error" not in caplog.text
    assert bench.exists("/d/new") == ("/d/new" in bench.remote.files())
    bench.fs.sync()
    assert not list(bench.spool.glob("*.spool"))
