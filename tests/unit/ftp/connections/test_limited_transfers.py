"""Limits of the rate on real servers: every transfer keeps to them, and none fails because of them.

Upper bounds are sharp. Lower bounds are wide: a busy processor makes a transfer slower.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.connections.rates import BURST_SECONDS, Rate
from ftpfs.ftp.remote import Remote
from ftpfs.ftp.uploading.content import FileContent
from ftpfs.settings.config import Network, Tls
from ftpfs.settings.timetable import NO_LIMIT, Timetable
from tests.conftest import RemoteDir, StartServer
from tests.support.certificates import Certificates
from tests.unit.ftp.connections.test_tls import connected

MIB = 1 << 20


def limit(rate: int) -> Timetable:
    return Timetable(str(rate), ((0, rate),))


@pytest.fixture
def network() -> Network:
    return Network(connect_timeout=5, reply_timeout=10, data_timeout=10, finish_timeout=10)


def fetch(remote: Remote, path: str) -> bytes:
    with remote.open_read(path) as download:
        return b"".join(iter(lambda: download.read(128 << 10), b""))


def store(remote: Remote, path: str, source: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        remote.store(path, FileContent(descriptor, size, None, None), base=None, check=False)
    finally:
        os.close(descriptor)


def check_pace(rate: int, seconds: float, moved: int) -> None:
    assert moved <= rate * (seconds + BURST_SECONDS) * 1.05
    assert moved > rate * seconds * 0.5


@pytest.mark.parametrize("streams", [1, 8])
def test_downloads_together_keep_to_the_limit(
    remote_dir: RemoteDir, remote: Remote, streams: int
) -> None:
    data = os.urandom(3 * MIB // streams)
    remote_dir.write("file", data)
    remote.connect()
    remote.rates.down.set(limit(2 * MIB))
    began = time.monotonic()
    with ThreadPoolExecutor(streams) as pool:
        got = list(pool.map(lambda _: fetch(remote, "/file"), range(streams)))
    seconds = time.monotonic() - began
    assert got == [data] * streams
    check_pace(2 * MIB, seconds, len(data) * streams)


@pytest.mark.parametrize("streams", [1, 8])
def test_uploads_together_keep_to_the_limit(
    remote_dir: RemoteDir, remote: Remote, streams: int, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(3 * MIB // streams))
    remote.connect()
    remote.rates.up.set(limit(2 * MIB))
    began = time.monotonic()
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(lambda number: store(remote, f"/f{number}", source), range(streams)))
    seconds = time.monotonic() - began
    for number in range(streams):
        assert (remote_dir.disk / f"f{number}").read_bytes() == source.read_bytes()
    check_pace(2 * MIB, seconds, source.stat().st_size * streams)


@pytest.mark.parametrize("network", [Network(data_timeout=0.4, finish_timeout=5)])
def test_slowness_of_a_limit_is_no_deadline(
    remote_dir: RemoteDir, remote: Remote, tmp_path: Path, network: Network
) -> None:
    """Four streams at 4 KiB/s: each waits a second for its turn, more than the data deadline."""
    assert network.data_timeout < 1
    data = os.urandom(3 << 10)
    source = remote_dir.write("file", data)
    remote.connect()
    remote.rates.down.set(limit(4 << 10))
    remote.rates.up.set(limit(4 << 10))
    with ThreadPoolExecutor(8) as pool:
        got = pool.map(lambda _: fetch(remote, "/file"), range(4))
        list(pool.map(lambda number: store(remote, f"/f{number}", source), range(4)))
        assert list(got) == [data] * 4
    assert (remote_dir.disk / "f3").read_bytes() == data


def test_transfers_under_tls_keep_to_the_limit(
    start_server: StartServer, certificates: Certificates, tmp_path: Path
) -> None:
    server = start_server("vsftpd", tls="explicit")
    data = os.urandom(2 * MIB)
    source = tmp_path / "file"
    source.write_bytes(data)
    with connected(server, Tls.EXPLICIT, tls_ca=certificates.ca) as remote:
        for direction in (remote.rates.up, remote.rates.down):
            direction.set(limit(2 * MIB))
        began = time.monotonic()
        store(remote, "/limited", source)
        check_pace(2 * MIB, time.monotonic() - began, len(data))
        began = time.monotonic()
        assert fetch(remote, "/limited") == data
        check_pace(2 * MIB, time.monotonic() - began, len(data))


def test_unlimited_transfers_ask_for_no_share(
    remote_dir: RemoteDir, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_args: object, **_words: object) -> int:
        raise AssertionError("an unlimited transfer asked for its share")

    for name in ("share", "pay", "charge"):
        monkeypatch.setattr(Rate, name, unwanted)
    source = remote_dir.write("file", os.urandom(MIB))
    assert fetch(remote, "/file") == source.read_bytes()
    store(remote, "/copy", source)
    assert len(remote.list("/")) == 2
    remote.rates.down.set(limit(MIB))
    with pytest.raises(AssertionError):
        fetch(remote, "/file")


def test_limit_that_is_taken_away_frees_a_running_transfer(
    remote_dir: RemoteDir, remote: Remote
) -> None:
    data = os.urandom(20 * MIB)
    remote_dir.write("file", data)
    remote.connect()
    remote.rates.down.set(limit(10 << 10))
    timer = threading.Timer(0.5, lambda: remote.rates.down.set(NO_LIMIT))
    timer.start()
    began = time.monotonic()
    assert fetch(remote, "/file") == data
    assert time.monotonic() - began < 30
    timer.join()


def test_cut_off_ends_a_transfer_that_waits_for_its_turn(
    remote_dir: RemoteDir, remote: Remote
) -> None:
    os.truncate(remote_dir.write("file", b""), 64 * MIB)  # more than the sockets hold
    remote.connect()
    remote.rates.down.set(limit(1 << 10))
    failed: list[errors.FtpfsError] = []

    def run() -> None:
        try:
            fetch(remote, "/file")
        except errors.FtpfsError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.5)
    remote.rates.down.charge(MIB)  # its next turn is in a quarter of an hour
    time.sleep(1.5)
    remote.cut_off_calls(0)
    remote.close()
    thread.join(10)
    assert not thread.is_alive()
    assert failed
