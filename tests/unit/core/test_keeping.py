"""Looks at kept paths, on a server in memory: what they ask for, fetch and delete."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.files.server_file import version_of
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.keeping import look as looks
from ftpfs.core.keeping.keeper import Keeper
from ftpfs.core.keeping.look import Outcome
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.core.store import writer
from ftpfs.core.store.store import Holding, Store
from ftpfs.core.writing.spool import Spool
from ftpfs.model.entry import Entry, Kind
from ftpfs.settings.config import Cache
from tests.support.memory_remote import MemoryRemote
from tests.support.waiting import until

OLD = 1_000_000_000
SIZES = {
    "/k/small": 100,
    "/k/empty": 0,
    "/k/sub/large": 20 * BLOCK_SIZE + 7,
    "/k/sub/deep/block": BLOCK_SIZE,
}


class InMinutes(MemoryRemote):
    """Its listings tell no seconds."""

    def list(self, path: str) -> list[Entry]:
        return [
            replace(each, mtime=(each.mtime or 0) // 60 * 60, exact=False)
            if each.kind is Kind.FILE
            else each
            for each in super().list(path)
        ]


class Town:
    """A server, a mount with a store, and what is on the server."""

    def __init__(self, folder: Path, remote: MemoryRemote) -> None:
        self.remote = remote
        for path in ("/k", "/k/sub", "/k/sub/deep"):
            self.remote.outside_mkdir(path)
        for path, size in SIZES.items():
            self.write(path, size)
        self.store = Store(folder / "store", 64 << 20)
        self.fs = Filesystem(
            self.remote, Spool(folder / "spool"), Cache(), prefetchers=4, store=self.store
        )
        assert self.fs.keeper is not None
        self.keeper: Keeper = self.fs.keeper
        self.keeper.start()

    def write(self, path: str, size: int, mtime: int = OLD) -> None:
        content = random.Random(f"{path} {mtime}").randbytes(size)
        self.remote.outside_write(path, content, mtime=mtime)

    def keep(self, path: str = "/k") -> Outcome:
        last = list(self.keeper.keep(path))[-1]
        assert isinstance(last, Outcome)
        return last

    def calls(self) -> dict[str, int]:
        """What the server was asked for since the last call."""
        asked = dict(self.remote.calls)
        self.remote.calls.clear()
        return asked

    def check(self) -> None:
        """What is kept is what the server has."""
        here = {}
        for path, content in self.remote.files().items():
            entry = self.remote.stat(path)
            assert entry.size == len(content)
            version = version_of(path, entry, 0)
            if content:
                assert self.store.holding(version) is Holding.KEPT, path
                blocks = range(-(-len(content) // BLOCK_SIZE))
                here[path] = b"".join(self.store.get(version, n) or b"" for n in blocks)
                assert here[path] == content


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setattr(writer, "CALM_SECONDS", 0.0)
    town = Town(tmp_path, MemoryRemote())
    yield town
    town.fs.close(grace=0)


@pytest.fixture
def town_in_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setattr(writer, "CALM_SECONDS", 0.0)
    town = Town(tmp_path, InMinutes())
    yield town
    town.fs.close(grace=0)


def test_tree_is_kept_with_one_listing_for_each_folder_and_one_transfer_for_each_file(
    town: Town,
) -> None:
    town.calls()
    outcome = town.keep()
    assert outcome == Outcome(files=4, bytes=sum(SIZES.values()), fetched=3, complete=True)
    asked = town.calls()
    # the root, the three folders, and once more the one with a long file
    assert asked == {"list": 5, "open_read": 3}
    town.check()
    town.calls()
    assert town.keep() == replace(outcome, fetched=0)
    assert town.calls() == {"list": 3}


def test_server_without_rest_is_read_from_the_start_after_a_break(town: Town) -> None:
    town.remote.rest = False
    town.remote.cut_downloads(5 * BLOCK_SIZE, 10 * BLOCK_SIZE, 15 * BLOCK_SIZE)
    assert town.keep("/k/sub").complete
    version = version_of("/k/sub/large", town.remote.stat("/k/sub/large"), 0)
    assert town.store.holding(version) is Holding.KEPT


def test_broken_transfer_goes_on_where_it_was(town: Town) -> None:
    town.remote.cut_downloads(*[3 * BLOCK_SIZE] * 6)
    assert town.keep().complete
    town.check()


def test_file_that_cannot_be_fetched_is_told_and_the_others_are_kept(town: Town) -> None:
    town.remote.shorten("/k/small", 50)
    outcome = town.keep()
    assert (outcome.files, outcome.lacking, outcome.complete) == (3, 1, False)
    [(path, why)] = outcome.failures
    assert path == "/k/small"
    assert "ended at 50 of 100 bytes" in why
    town.remote.shorten("/k/small", 100)
    assert town.keep().complete
    town.check()


def test_nothing_is_deleted_below_a_folder_that_cannot_be_listed(town: Town) -> None:
    assert town.keep().complete
    town.remote.unlistable.add("/k/sub")
    town.remote.outside_remove("/k/small")
    outcome = town.keep()
    assert outcome.failures == (("/k/sub", "/k/sub"),)
    with town.store.index() as index:
        assert index.kept_at("/k/sub/large")
        assert not index.kept_at("/k/small")


def test_failing_network_deletes_nothing(town: Town) -> None:
    assert town.keep().complete
    town.remote.fail("list", errors.ConnectionLost("cut"))
    assert not town.keep().complete
    town.check()


def test_changed_and_deleted_files_are_followed(town: Town) -> None:
    assert town.keep().complete
    town.write("/k/small", 300, mtime=OLD + 1)
    town.write("/k/sub/new", 3 * BLOCK_SIZE)
    town.remote.outside_remove("/k/sub/large")
    outcome = town.keep()
    assert (outcome.complete, outcome.fetched) == (True, 2)
    town.check()
    with town.store.index() as index:
        assert [facts.size for facts in index.kept_at("/k/small")] == [300]
        assert not index.kept_at("/k/sub/large")


def test_times_in_minutes_cost_no_question_for_a_file_that_is_kept(town_in_minutes: Town) -> None:
    town = town_in_minutes
    town.calls()
    assert town.keep().complete
    assert town.calls()["look_again"] == 3
    assert town.keep().complete
    assert town.calls() == {"list": 3}
    town.write("/k/small", 100, mtime=int(time.time()) - 3600)  # the size is the same
    outcome = town.keep()
    assert (outcome.complete, outcome.fetched) == (True, 1)
    assert town.calls()["look_again"] == 1


def test_dropped_path_ends_its_look(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "WANTED_SECONDS", 0.0)
    gate = town.remote.hold("open_read")
    steps = town.keeper.keep("/k")
    next(steps)
    assert gate.reached.wait(20)
    town.keeper.drop("/k")
    gate.open()
    last = list(steps)[-1]
    assert isinstance(last, Outcome)
    assert not last.complete
    assert town.keeper.kept() == []
    until(lambda: kept_bytes(town) == 0 or (town.store.release() >= 0 and kept_bytes(town) == 0))


def kept_bytes(town: Town) -> int:
    with town.store.index() as index:
        return index.status(0).kept


def test_path_within_a_kept_one_cannot_be_dropped_alone(town: Town) -> None:
    assert town.keep().complete
    with pytest.raises(errors.NotFound, match="it is kept with /k"):
        town.keeper.drop("/k/sub")
    with pytest.raises(errors.NotFound, match="it is not kept"):
        town.keeper.drop("/other")
