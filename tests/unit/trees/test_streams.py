"""One large file by several streams, from the four real servers, through a relay."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network
from ftpfs.settings.timetable import NO_LIMIT, Timetable
from ftpfs.trees import streams
from ftpfs.trees.copying import Copying, Root
from ftpfs.trees.outcome import Outcome
from ftpfs.trees.plan import Rules
from ftpfs.trees.ways import Fetch
from tests.conftest import RemoteDir
from tests.support.relay import Relay
from tests.support.waiting import until
from tests.unit.trees.test_copying import NETWORK, WHEN, hidden

MIB = 1 << 20
SIZE = 24 * MIB + 12_345


@pytest.fixture
def network() -> Network:
    return NETWORK


class Place:
    """A large file on the server, and where its copy goes."""

    def __init__(self, remote_dir: RemoteDir, tmp_path: Path) -> None:
        self.source = remote_dir.disk / "large"
        self.target = tmp_path / "large"
        self._remote_dir = remote_dir
        self.data = b""
        self.write(os.urandom(SIZE))

    def write(self, data: bytes, when: int = WHEN) -> None:
        self.data = data
        self.source.write_bytes(data)
        os.utime(self.source, (when, when))
        self._remote_dir.give(self.source)

    def begin(self, remote: Remote, number: int | None, *, resumes: bool = False) -> Copying:
        way = Fetch(remote, streams=number, resumes=resumes)
        copying = Copying(way, way.rules(Rules(changed_only=True)), jobs=2)
        copying.start([Root("/large", str(self.target))])
        return copying

    def fetch(self, remote: Remote, number: int | None, *, resumes: bool = False) -> Outcome:
        copying = self.begin(remote, number, resumes=resumes)
        assert copying.wait(60)
        copying.finish()
        outcome = copying.outcome()
        assert outcome.failures == []
        assert self.target.read_bytes() == self.data
        assert int(self.target.stat().st_mtime) == int(self.source.stat().st_mtime)
        assert hidden(self.target.parent) == []
        return outcome


@pytest.fixture
def place(remote_dir: RemoteDir, tmp_path: Path) -> Place:
    return Place(remote_dir, tmp_path)


def transfers(relay: Relay) -> int:
    return sum(command.verb == "RETR" for command in relay.commands)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_file_comes_by_so_many_streams_as_are_asked_for(
    relayed: Remote, relay: Relay, place: Place, number: int
) -> None:
    relay.data_rate = 20 * MIB
    outcome = place.fetch(relayed, number)
    assert outcome.bytes == SIZE
    assert transfers(relay) >= number
    assert number > 1 or transfers(relay) == 1


def test_more_streams_begin_if_the_server_limits_each_of_them(
    relayed: Remote, relay: Relay, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MEASURE_SECONDS", 0.5)
    monkeypatch.setattr(streams, "_WORTH_SECONDS", 1.0)
    relay.data_rate = 4 * MIB
    place.fetch(relayed, None)
    assert transfers(relay) >= 3


def test_streams_that_bring_nothing_more_are_the_last(
    relayed: Remote, relay: Relay, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of all transfers together: two streams are as slow as one."""
    monkeypatch.setattr(streams, "_MEASURE_SECONDS", 0.5)
    relayed.rates.down.set(Timetable("", ((0, 4 * MIB),)))
    place.fetch(relayed, None)
    assert 1 <= transfers(relay) <= 4


def test_stream_goes_on_after_its_connection_is_cut(
    relayed: Remote, relay: Relay, place: Place
) -> None:
    rules = [relay.cut_data("down", after=n * MIB, times=1) for n in (1, 2, 3)]
    place.fetch(relayed, 4)
    assert sum(rule.hits for rule in rules) >= 2


def test_server_that_lets_in_one_connection_gives_the_file_by_one_stream(
    relayed: Remote, relay: Relay, place: Place
) -> None:
    relay.limit_connections(1, "421 too many connections")
    place.fetch(relayed, 4)


def test_server_without_rest_gives_the_file_by_one_stream(
    relayed: Remote, relay: Relay, place: Place
) -> None:
    relay.refuse("REST")
    place.fetch(relayed, 4)


@pytest.mark.parametrize("grows", [True, False])
def test_file_that_changes_in_the_middle_is_one_version(
    relayed: Remote, relay: Relay, place: Place, grows: bool
) -> None:
    relay.data_rate = 8 * MIB
    copying = place.begin(relayed, 4)
    until(lambda: copying.outcome().bytes > 4 * MIB)
    place.write(os.urandom(SIZE + 1000 * grows), WHEN + 7200 + 100)
    relay.data_rate = None
    assert copying.wait(60)
    assert copying.outcome().failures == []
    assert place.target.read_bytes() == place.data


@pytest.mark.parametrize("again", [4, 1, None])
def test_next_run_receives_only_what_is_missing(
    relayed: Remote,
    relay: Relay,
    place: Place,
    again: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt(relayed, relay, place)
    relay.data_rate = None
    relayed.rates.down.set(NO_LIMIT)
    written: list[int] = []
    write = streams.write_all

    def count(descriptor: int, data: memoryview, position: int) -> None:
        written.append(len(data))
        write(descriptor, data, position)

    monkeypatch.setattr(streams, "write_all", count)
    place.fetch(relayed, again, resumes=True)
    assert 0 < sum(written) < SIZE - 4 * MIB


@pytest.mark.parametrize("what", ["note", "tail", "version"])
def test_torn_part_of_several_streams_is_not_believed(
    relayed: Remote, relay: Relay, place: Place, what: str
) -> None:
    interrupt(relayed, relay, place)
    (name,) = hidden(place.target.parent)
    part = place.target.parent / name
    length = part.stat().st_size
    assert length > SIZE  # it has a note
    with part.open("r+b") as file:
        if what == "note":
            file.seek(SIZE)
            file.write(bytes(length - SIZE))
        elif what == "tail":
            file.write(bytes(SIZE))
    if what == "version":
        place.write(os.urandom(SIZE), WHEN + 100)
    place.fetch(relayed, 4, resumes=True)


def interrupt(remote: Remote, relay: Relay, place: Place) -> None:
    """A run by four streams that ends in the middle."""
    remote.rates.down.set(Timetable("", ((0, 16 * MIB),)))
    relay.data_rate = 4 * MIB
    copying = place.begin(remote, 4, resumes=True)
    until(lambda: copying.outcome().bytes >= 9 * MIB)
    copying.halt()
    remote.cut_off_calls(0)
    assert copying.wait(20)
    assert copying.outcome().copied == 0
    assert not place.target.exists()


def test_error_of_the_local_disk_ends_all_streams(
    relayed: Remote, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, data: memoryview, position: int) -> None:
        if position > MIB:
            raise OSError(28, os.strerror(28))
        os.pwrite(descriptor, data, position)

    monkeypatch.setattr(streams, "write_all", fail)
    copying = place.begin(relayed, 4)
    assert copying.wait(20)
    (failure,) = copying.outcome().failures
    assert failure.why == os.strerror(28)
    assert hidden(place.target.parent) == []
    until(lambda: not any(t.name == "ftpfs-stream" for t in threading.enumerate()))
