"""Files of unknown size: their content is bounded, and comes as it arrives."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core import processes
from ftpfs.core.names.killable import Requests
from ftpfs.core.reading.generated import SMALL_BYTES, GeneratedFiles
from tests.support.waiting import until

PIECE = b"z" * (100 << 10)


class Sent:
    """A download of these pieces."""

    confirmed = False

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.closed = threading.Event()

    def read(self, _size: int) -> bytes:
        return next(self._pieces, b"")

    def goes_on(self) -> bool:
        raise AssertionError("nobody asks")

    def finish(self) -> None:
        raise AssertionError("nobody asks")

    def close(self) -> None:
        self.closed.set()


def stalling(go_on: threading.Event) -> Iterator[bytes]:
    yield PIECE
    go_on.wait(20)
    yield from itertools.repeat(PIECE)


def files(tmp_path: Path, limit: int | None = None) -> GeneratedFiles:
    return GeneratedFiles(tmp_path, limit, Requests())


def fetching(download: Sent) -> Callable[[], Sent]:
    return lambda: download


def test_first_bytes_do_not_wait_for_the_others(tmp_path: Path) -> None:
    go_on = threading.Event()
    generated = files(tmp_path)
    assert generated.read(1, 0, 100, fetching(Sent(stalling(go_on)))) == PIECE[:100]
    generated.close(1)
    go_on.set()


def test_download_ends_when_its_handle_is_closed(tmp_path: Path) -> None:
    go_on = threading.Event()
    generated, download = files(tmp_path), Sent(stalling(go_on))
    generated.read(1, 0, 100, fetching(download))
    generated.close(1)
    assert not download.closed.is_set()
    go_on.set()
    assert download.closed.wait(20)


def test_contents_of_all_handles_share_the_limit(tmp_path: Path) -> None:
    generated = files(tmp_path, 10 << 20)
    downloads = [Sent(itertools.repeat(PIECE)) for _ in range(2)]
    for handle, download in enumerate(downloads):
        generated.read(handle, 0, 100, fetching(download))
    for download in downloads:
        assert download.closed.wait(20)
    got = 0
    for handle, download in enumerate(downloads):
        content = generated.read(handle, 0, 20 << 20, fetching(download))
        with pytest.raises(errors.TooLong, match="no room for more here"):
            generated.read(handle, len(content), 1, fetching(download))
        got += len(content)
    assert (10 << 20) - len(PIECE) * 2 <= got <= (10 << 20) + SMALL_BYTES
    generated.close(0)
    generated.close(1)
    again = Sent(itertools.repeat(PIECE, 90))
    assert len(generated.read(2, 0, 10 << 20, fetching(again))) == 90 * len(PIECE)


def test_content_leaves_half_of_the_disk_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        f_bavail, f_frsize = 1 << 10, 1 << 10

    monkeypatch.setattr("os.statvfs", lambda _folder: Disk)
    generated = files(tmp_path)
    with pytest.raises(errors.TooLong):
        generated.read(1, 2 << 20, 100, fetching(Sent(itertools.repeat(PIECE))))


def test_failed_fetch_is_repeated_by_the_next_read(tmp_path: Path) -> None:
    def fail() -> Sent:
        raise errors.ConnectionLost("cut by the test")

    generated = files(tmp_path)
    with pytest.raises(errors.ConnectionLost):
        generated.read(1, 0, 100, fail)
    assert generated.read(1, 0, 100, fetching(Sent(iter([b"all"])))) == b"all"


def test_file_that_may_not_be_read_is_empty(tmp_path: Path) -> None:
    def refuse() -> Sent:
        raise errors.PermissionDenied("server replied 550")

    assert files(tmp_path).read(1, 0, 100, refuse) == b""


def test_killed_reader_waits_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, requests = threading.Event(), Requests()
    requests.caller = lambda: 4711
    monkeypatch.setattr(processes, "is_killed", lambda thread: thread == 4711)
    generated = GeneratedFiles(tmp_path, None, requests)
    with pytest.raises(InterruptedError):
        generated.read(1, 1 << 20, 100, fetching(Sent(stalling(go_on))))
    generated.close(1)
    go_on.set()


def test_work_for_a_killed_program_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, ended = Requests(), threading.Event()
    requests.caller = lambda: 4711
    monkeypatch.setattr(processes, "is_killed", lambda thread: thread == 4711)

    def work(is_left: Callable[[], bool]) -> None:
        until(is_left)
        ended.set()

    with pytest.raises(InterruptedError):
        requests.result(work)
    assert ended.wait(20)
