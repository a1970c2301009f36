"""Large files that a run leaves unfinished, and the next run finishes, on the four real servers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ftpfs.ftp.remote import Remote
from ftpfs.local import landing
from ftpfs.settings.timetable import Timetable
from ftpfs.trees import resuming
from ftpfs.trees.copying import Copying, Root
from ftpfs.trees.outcome import Outcome
from ftpfs.trees.plan import Rules
from ftpfs.trees.ways import Fetch, Send, Way
from tests.conftest import RemoteDir
from tests.support.relay import Direction, Relay
from tests.support.waiting import until
from tests.unit.trees.test_copying import NETWORK, hidden

MIB = 1 << 20
SIZE = 12 * MIB
WHEN = 1_600_000_001
RULES = Rules(changed_only=True)


class Sides:
    """One large file, and where its copy goes; through a relay."""

    def __init__(self, way: str, remote_dir: RemoteDir, tmp_path: Path, relay: Relay) -> None:
        self.way = way
        self.direction: Direction = "up" if way == "send" else "down"
        self.source = tmp_path / "from" if way == "send" else remote_dir.disk / "from"
        self.target = (remote_dir.disk if way == "send" else tmp_path) / "to"
        self._remote_dir = remote_dir
        self._relay = relay
        self.data = b""

    def write(self, data: bytes, when: int = WHEN) -> None:
        self.data = data
        self.source.write_bytes(data)
        os.utime(self.source, (when, when))
        if self.way == "fetch":
            self._remote_dir.give(self.source)

    def remote(self) -> Remote:
        return self._remote_dir.remote(NETWORK, self._relay.port)

    def begin(self, remote: Remote, *, resumes: bool = True) -> Copying:
        way: Way = (Send if self.way == "send" else Fetch)(remote, resumes=resumes)
        copying = Copying(way, way.rules(RULES), jobs=2)
        ends = ("/from", str(self.target)), (str(self.source), "/to")
        copying.start([Root(*ends[self.way == "send"])])
        return copying

    def interrupt(self, *, after: int = 7 * MIB, resumes: bool = True) -> None:
        """A run that a second Ctrl-C ends when about so many bytes have moved."""
        remote = self.remote()
        try:
            remote.connect()
            for rate in (remote.rates.up, remote.rates.down):
                rate.set(Timetable("", ((0, 8 * MIB),)))
            copying = self.begin(remote, resumes=resumes)
            until(lambda: copying.outcome().bytes >= after)
            copying.halt()
            remote.cut_off_calls(0)
            assert copying.wait(20)
            assert copying.outcome().copied == 0
        finally:
            remote.close()
        assert not self.target.exists()

    def finish(self, *, resumes: bool = True) -> int:
        """A run to the end. Returns the bytes on its data connections in the direction of files."""
        before = self._relay.data_bytes(self.direction)
        remote = self.remote()
        try:
            outcome = self.run(remote, resumes=resumes)
        finally:
            remote.close()
        assert outcome.failures == []
        assert self.target.read_bytes() == self.data
        assert int(self.target.stat().st_mtime) == WHEN or self.source.stat().st_mtime != WHEN
        assert hidden(self.target.parent) == []
        return self._relay.data_bytes(self.direction) - before

    def run(self, remote: Remote, *, resumes: bool = True) -> Outcome:
        copying = self.begin(remote, resumes=resumes)
        assert copying.wait(60)
        copying.finish()
        return copying.outcome()

    def part(self) -> Path:
        (name,) = hidden(self.target.parent)
        return self.target.parent / name


@pytest.fixture(params=["fetch", "send"])
def sides(
    request: pytest.FixtureRequest, remote_dir: RemoteDir, tmp_path: Path, relay: Relay
) -> Sides:
    made = Sides(request.param, remote_dir, tmp_path, relay)
    made.write(os.urandom(SIZE))
    return made


def test_next_run_goes_on_in_the_middle_of_a_file(sides: Sides) -> None:
    sides.interrupt()
    have = sides.part().stat().st_blocks * 512  # with several streams, the part has gaps
    assert have > 2 * MIB
    assert sides.finish() <= SIZE - have + MIB
    assert sides.finish() < MIB // 4  # nothing to do


def test_run_that_was_not_asked_to_resume_leaves_nothing(sides: Sides) -> None:
    sides.interrupt(resumes=False)
    assert hidden(sides.target.parent) == []
    assert sides.finish(resumes=False) >= SIZE


@pytest.mark.parametrize("what", ["time", "size", "tail of the part", "length of the part"])
def test_part_that_does_not_fit_is_not_used(sides: Sides, what: str) -> None:
    """The part of another version, and one that a crash has torn."""
    sides.interrupt()
    if what == "time":
        sides.write(os.urandom(SIZE), WHEN + 100)
    elif what == "size":
        sides.write(os.urandom(SIZE + 1))
    else:
        part = sides.part()
        with part.open("r+b") as file:
            if what == "tail of the part":
                file.seek(-100, os.SEEK_END)
                file.write(bytes(50))
            else:
                file.truncate(SIZE + 5)
    if sides.way == "send" and what in ("time", "size"):
        old = sides.part()
        old.unlink()  # on a server it is litter after a day
    assert sides.finish() >= SIZE


def test_connection_that_is_cut_costs_only_the_rest(sides: Sides, relay: Relay) -> None:
    relay.cut_data(sides.direction, after=5 * MIB)
    relay.cut_data(sides.direction, after=3 * MIB)
    assert sides.finish() < SIZE + 8 * MIB


def test_part_in_use_by_another_process_is_left_to_it(sides: Sides) -> None:
    sides.interrupt()
    with (sides.source if sides.way == "send" else sides.part()).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        part = sides.part()
        remote = sides.remote()
        try:
            assert sides.run(remote).failures == []
        finally:
            remote.close()
        assert part.exists()
    assert sides.target.read_bytes() == sides.data


def test_small_files_leave_no_parts(sides: Sides) -> None:
    sides.write(os.urandom(resuming.LEAST_BYTES - 1))
    sides.interrupt(after=MIB)
    assert hidden(sides.target.parent) == []
    sides.finish()


@pytest.mark.parametrize("sides", ["fetch"], indirect=True)
def test_parts_of_older_versions_are_deleted_here(sides: Sides) -> None:
    sides.interrupt()
    old = sides.part()
    sides.write(os.urandom(SIZE), WHEN + 100)
    sides.interrupt()
    assert sides.part() != old
    assert landing.is_part_of(old.name, "to")
    assert not landing.is_part_of(old.name, "other")
    sides.finish()


@pytest.mark.parametrize("sides", ["send"], indirect=True)
def test_part_of_a_private_file_is_private(sides: Sides) -> None:
    sides.source.chmod(0o600)
    sides.interrupt()
    assert sides.part().stat().st_mode & 0o077 == 0
    sides.finish()
    assert sides.target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("sides", ["send"], indirect=True)
def test_server_without_appends_gets_the_file_at_once(sides: Sides, relay: Relay) -> None:
    relay.refuse("APPE", "502 no appends", times=None)
    sides.interrupt()
    assert sides.finish() >= SIZE
