"""Random changes while the server is away, against a plain dictionary: what is shown, and what the
server has when all was carried out, through cuts, lost replies and kills."""

from __future__ import annotations

import random

import pytest

from ftpfs import errors
from tests.support.memory_remote import MemoryRemote
from tests.unit.core.offline.conftest import Away, Tree, tree_of

NAMES = ("a", "b", "c", "d")
SEEDS = 60
FAULTS = ("look_again", "list", "mkdir", "rmdir", "remove", "rename", "rename", "rename")


class Model:
    """A tree as a disk would have it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def below(self, path: str) -> list[str]:
        return [each for each in self.tree if each.startswith(path + "/")]

    def mkdir(self, path: str) -> bool:
        if path in self.tree or not self.is_folder(path.rpartition("/")[0]):
            return False
        self.tree[path] = None
        return True

    def remove(self, path: str) -> bool:
        if self.tree.get(path) is None:
            return False
        del self.tree[path]
        return True

    def rmdir(self, path: str) -> bool:
        if not path or path not in self.tree or not self.is_folder(path) or self.below(path):
            return False
        del self.tree[path]
        return True

    def rename(self, old: str, new: str) -> bool:
        if old not in self.tree or not self.is_folder(new.rpartition("/")[0]):
            return False
        if old == new or new.startswith(old + "/"):
            return False
        if new in self.tree and (self.is_folder(old) is not self.is_folder(new) or self.below(new)):
            return False
        moved = {new + path[len(old) :]: self.tree[path] for path in [old, *self.below(old)]}
        for path in [old, *self.below(old)]:
            del self.tree[path]
        self.tree.update(moved)
        return True

    def is_folder(self, path: str) -> bool:
        return not path or (path in self.tree and self.tree[path] is None)

    def shown(self) -> set[tuple[str, int | None]]:
        return {(p, None if data is None else len(data)) for p, data in self.tree.items()}


def a_path(chance: random.Random) -> str:
    return "".join(f"/{chance.choice(NAMES)}" for _ in range(chance.randint(1, 3)))


def begin(chance: random.Random, server: MemoryRemote) -> Model:
    """A server with some folders and files, each file of another size."""
    model = Model({})
    for size in range(1, 16):
        path = a_path(chance)
        if not model.is_folder(path.rpartition("/")[0]) or path in model.tree:
            continue
        if chance.random() < 0.4:
            server.outside_mkdir(path)
        else:
            server.outside_write(path, bytes([65 + size]) * size)
        model.tree = tree_of(server)
    return model


def change(chance: random.Random, away: Away, model: Model) -> None:
    """One change, which the view allows if the model does."""
    path, new = a_path(chance), a_path(chance)
    kind = chance.choice(["mkdir", "remove", "rmdir", "rename", "rename"])
    arguments = (path, new) if kind == "rename" else (path,)
    possible = getattr(model, kind)(*arguments)
    if not possible:
        return
    words = {"replace": True} if kind == "rename" else {}
    getattr(away.remote, kind)(*arguments, **words)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_changes_show_at_once_and_arrive_through_faults(
    seed: int, away: Away, server: MemoryRemote
) -> None:
    chance = random.Random(seed)
    server.renames_replace = chance.choice([True, False, None])
    model = begin(chance, server)
    away.learn()
    away.leave()
    for _ in range(4):
        for _ in range(chance.randint(1, 12)):
            change(chance, away, model)
            assert away.names() == model.shown()
        if chance.random() < 0.5:
            away.kill()
            assert away.names() == model.shown()
        # The server is back for a moment.
        method = chance.choice(FAULTS)
        server.fail(
            method,
            errors.ConnectionLost("cut"),
            after=chance.randint(0, 2),
            too_late=chance.random() < 0.7,
        )
        assert away.waiting.count == 0 or away.presence.is_away
        if away.replay.run():
            server.calm()
            assert tree_of(server) == model.tree
            assert not away.presence.is_away
            away.leave()
        server.calm()
        assert away.names() == model.shown()
        if chance.random() < 0.3:
            away.kill()
            assert away.names() == model.shown()
    assert away.replay.run()
    assert tree_of(server) == model.tree
    assert away.rows.all() == []
    assert away.waiting.status() == ()
    assert away.names() == model.shown()
