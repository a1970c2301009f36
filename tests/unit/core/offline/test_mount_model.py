"""Random work on a whole file system while its server is away: files written, appended to and
overwritten, names changed, the mount killed. Then the server has what a plain dictionary has."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.offline.replay import Replay
from ftpfs.core.offline.steps import StepRows
from ftpfs.core.offline.waiting import Waiting
from ftpfs.core.store.listings import StoredListings
from ftpfs.core.store.presence import Presence
from ftpfs.core.store.remembering import RememberingRemote
from ftpfs.core.writing.spool import Spool
from ftpfs.model.entry import Kind
from ftpfs.settings.config import Cache
from tests.support.memory_remote import MemoryRemote
from tests.unit.core.offline.conftest import tree_of
from tests.unit.core.offline.test_model import Model, a_path, begin

SEEDS = 40


class Mount:
    """A mount of `server` with stored listings. Its n-th life has the spool folder `spool<n>`."""

    def __init__(self, place: Path, server: MemoryRemote) -> None:
        self._place = place
        self.server = server
        self._lives = 0
        self._old: list[Filesystem] = []
        self.listings = StoredListings(place / "store", 64 << 20)
        self._begin()

    def _begin(self) -> None:
        self.presence = Presence(lambda: None, lambda: True, seeks=False)
        spool = Spool(self._place / f"spool{self._lives}")
        self.waiting = Waiting(StepRows(spool.journal), self.listings, self.presence)
        self.replay = Replay(self.server, self.waiting)
        remote = RememberingRemote(self.server, self.listings, self.presence, self.waiting)
        self.fs = Filesystem(remote, spool, Cache())
        self.fs.waiting = self.waiting
        self.presence.returned = self.fs.server_returned

    def leave(self) -> None:
        self.presence.leave("a test")

    def kill(self) -> None:
        """The mount is killed, and the next one finds its server away."""
        before = self._place / f"spool{self._lives}"
        self._lives += 1
        self._old.append(self.fs)
        with self.fs._spool.journal._lock:
            shutil.copytree(before, self._place / f"spool{self._lives}")
        self._begin()
        self.leave()
        self.fs.recover()

    def back(self) -> bool:
        """The server is back. Whether all steps are done."""
        if not self.replay.run():
            return False
        self.presence.returned()
        return True

    def close(self) -> None:
        for fs in (*self._old, self.fs):
            fs.close(grace=0)
        self.listings.close()

    def shown(self, path: str = "/") -> set[tuple[str, int | None]]:
        found: set[tuple[str, int | None]] = set()
        for entry in self.fs.children(path):
            inside = f"{path.rstrip('/')}/{entry.name}"
            assert self.fs.attributes(inside).kind is entry.kind
            if entry.kind is Kind.DIRECTORY:
                found |= {(inside, None)} | self.shown(inside)
            else:
                found.add((inside, entry.size))
        return found

    def write(self, path: str, data: bytes, *, is_new: bool, append: bool) -> None:
        if is_new:
            handle = self.fs.create(path, 0o644, os.O_WRONLY)
        else:
            flag = os.O_APPEND if append else os.O_TRUNC
            handle = self.fs.open(path, os.O_WRONLY | flag)
        self.fs.write(handle, 0, data)
        self.fs.flush(handle)
        self.fs.release(handle)


class Killed(BaseException):
    """The process ends here: nothing that follows is done."""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path, MemoryRemote())
    yield made
    made.close()


def work(chance: random.Random, mount: Mount, model: Model, number: int) -> None:
    """One piece of work, if the model allows it."""
    path, new = a_path(chance), a_path(chance)
    kind = chance.choice(["mkdir", "remove", "rmdir", "rename", "rename", "write", "append"])
    if kind == "rename":
        if model.rename(path, new):
            mount.fs.rename(path, new)
    elif kind in ("write", "append"):
        write(mount, model, path, f"<{number}>".encode(), append=kind == "append")
    elif getattr(model, kind)(path):
        if kind == "mkdir":
            mount.fs.mkdir(path, 0o755)
        else:
            (mount.fs.unlink if kind == "remove" else mount.fs.rmdir)(path)


def write(mount: Mount, model: Model, path: str, data: bytes, *, append: bool) -> None:
    before = model.tree.get(path)
    if path in model.tree:
        if before is None:
            return
    elif append or not model.is_folder(path.rpartition("/")[0]):
        return
    mount.write(path, data, is_new=before is None, append=append)
    model.tree[path] = (before or b"") + data if append else data


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_work_offline_arrives_through_faults_and_kills(seed: int, mount: Mount) -> None:
    chance = random.Random(seed)
    server = mount.server
    model = begin(chance, server)
    mount.shown()
    mount.leave()
    for round_ in range(3):
        for number in range(chance.randint(1, 15)):
            work(chance, mount, model, 100 * round_ + number)
            assert mount.shown() == model.shown()
        if chance.random() < 0.5:
            mount.kill()
            assert mount.shown() == model.shown()
        cut = errors.ConnectionLost("cut")
        method = chance.choice(["look_again", "list", "mkdir", "rmdir", "remove", "rename"])
        server.fail(method, cut, after=chance.randint(0, 3), too_late=chance.random() < 0.5)
        if mount.back():
            server.calm()
            mount.fs.sync("/", 30)
            assert tree_of(server) == model.tree
            mount.shown()
            mount.leave()
        server.calm()
    assert mount.back()
    mount.fs.sync("/", 30)
    assert tree_of(server) == model.tree
    assert mount.shown() == model.shown()


@pytest.mark.parametrize("done", [True, False])
def test_rename_whose_answer_was_lost_waits_for_the_server(mount: Mount, done: bool) -> None:
    """What is stored does not tell whether the server did it."""
    server = mount.server
    server.outside_write("/a", b"a")
    server.outside_write("/other", b"other")
    mount.shown()
    server.fail("rename", errors.ConnectionLost("cut"), too_late=done)
    with pytest.raises(errors.NetworkError):
        mount.fs.rename("/a", "/b")
    assert mount.presence.is_away
    for path in ("/a", "/b"):
        with pytest.raises(errors.Offline):
            mount.fs.attributes(path)
        with pytest.raises(errors.Offline):
            mount.fs.unlink(path)
    mount.fs.rename("/other", "/fine")
    assert mount.back()
    assert mount.shown() == {("/b" if done else "/a", 1), ("/fine", 5)}
    mount.fs.unlink("/b" if done else "/a")
    assert server.files() == {"/fine": b"other"}


def test_rename_that_is_killed_between_its_step_and_its_rows_is_done(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.server.outside_write("/a", b"a")
    mount.shown()
    mount.leave()
    mount.write("/a", b"written", is_new=False, append=False)

    def killed(*_names: str) -> list[str]:
        raise Killed

    monkeypatch.setattr(mount.fs._spool.journal, "rename", killed)
    with pytest.raises(Killed):
        mount.fs.rename("/a", "/b")
    mount.kill()
    assert mount.shown() == {("/b", 7)}
    assert mount.back()
    mount.fs.sync("/", 30)
    assert mount.server.files() == {"/b": b"written"}
