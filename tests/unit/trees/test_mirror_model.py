"""Mirrors of random trees end as a plain model says, and never delete on a failed listing."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ftpfs import errors
from ftpfs.model.entry import Entry
from ftpfs.trees.copying import Copying, Root
from ftpfs.trees.filters import filter_of
from ftpfs.trees.local import Local
from ftpfs.trees.plan import Rules
from ftpfs.trees.removing import Removing
from ftpfs.trees.sides import Side
from ftpfs.trees.ways import Item, Progress

# A tree: a file's content and time, or a folder.
File = tuple[bytes, int]
Tree = dict[str, "File | Tree"]

_NAMES = st.sampled_from(["a", "b", "c.o", "d.o"])
_FILES = st.tuples(st.sampled_from([b"", b"1", b"2", b"long"]), st.sampled_from([100, 200]))
_TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(_NAMES, _FILES, max_size=4),
    lambda below: st.dictionaries(_NAMES, _FILES | below, max_size=4),
    max_leaves=12,
)
_PATTERNS = st.lists(st.sampled_from(["*.o", "a", "a/", "/b", "b/*", "!c.o", "a/b"]), max_size=3)


@dataclass
class _Refusing(Local):
    """Local files, of which one folder cannot be listed."""

    refused: str | None = None
    was_refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def list(self, path: str) -> list[Entry]:
        if os.path.basename(path) == self.refused:
            self.was_refused.append(path)
            raise errors.PermissionDenied("not today")
        return super().list(path)


class _Here:
    """A way from one local folder to another."""

    def __init__(self, source: Side, target: Side) -> None:
        self.source = source
        self.target = target

    def copy(self, item: Item, mode: int | None, progress: Progress) -> int:
        shutil.copy2(item.source, item.target)
        return os.path.getsize(item.target)

    def new_mode(self, entry: Entry) -> int | None:
        return entry.mode

    def link(self, item: Item) -> bool:
        raise AssertionError

    def look(self, item: Item) -> Item:
        return item

    def is_same_content(self, item: Item) -> bool | None:
        raise AssertionError

    def rules(self, rules: Rules) -> Rules:
        return rules

    def jobs(self) -> int:
        return 2

    def expect(self, tasks: int) -> None:
        pass


def plant(folder: Path, tree: Tree) -> None:
    folder.mkdir()
    for name, what in tree.items():
        if isinstance(what, dict):
            plant(folder / name, what)
        else:
            (folder / name).write_bytes(what[0])
            os.utime(folder / name, (what[1], what[1]))


def harvest(folder: Path) -> Tree:
    return {
        path.name: harvest(path)
        if path.is_dir()
        else (path.read_bytes(), int(path.stat().st_mtime))
        for path in folder.iterdir()
    }


class Model:
    """What a mirror does, folder by folder, without threads, plans or listings."""

    def __init__(self, rules: Rules) -> None:
        self.takes = rules.takes
        self.deletes = rules.delete

    def mirror(self, source: Tree, target: Tree, above: str = "") -> Tree:
        result: Tree = {}
        for name in source.keys() | target.keys():
            path = f"{above}/{name}".lstrip("/")
            new, old = source.get(name), target.get(name)
            if new is not None and not self.takes(path, isinstance(new, dict)):
                new = None
                taken = False
            else:
                taken = old is not None and self.takes(path, isinstance(old, dict))
            there = self._one(new, old, path, taken=taken)
            if there is not None:
                result[name] = there
        return result

    def _one(
        self, new: File | Tree | None, old: File | Tree | None, path: str, *, taken: bool
    ) -> File | Tree | None:
        if new is None:
            return self._without(old, path) if self.deletes and taken else old
        if isinstance(new, dict):
            if old is None:
                return self.mirror(new, {}, path)
            return self.mirror(new, old, path) if isinstance(old, dict) else old
        if isinstance(old, dict):
            return old
        changed = old is None or len(new[0]) != len(old[0]) or new[1] > old[1]
        return new if changed else old

    def _without(self, old: File | Tree | None, path: str) -> File | Tree | None:
        """What a deletion leaves: what the filter leaves out, and the folders above that."""
        if not isinstance(old, dict):
            return None
        left: Tree = {}
        for name, each in old.items():
            below = f"{path}/{name}"
            taken = self.takes(below, isinstance(each, dict))
            kept = self._without(each, below) if taken else each
            if kept is not None:
                left[name] = kept
        return left or None


@settings(max_examples=int(os.environ.get("FTPFS_MODEL_EXAMPLES", "60")), deadline=None)
@given(_TREES, _TREES, _PATTERNS, _PATTERNS, st.booleans(), st.sampled_from([None, "a", "b"]))
def test_mirror_of_random_trees_is_what_the_model_says(
    source: Tree,
    target: Tree,
    includes: list[str],
    excludes: list[str],
    delete: bool,
    refused: str | None,
) -> None:
    rules = Rules(changed_only=True, delete=delete, takes=filter_of(includes, excludes))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plant(folder / "source", source)
        plant(folder / "target", target)
        sides = _Refusing(refused), _Refusing(refused)
        copying = Copying(_Here(*sides), rules, jobs=3)
        copying.start([Root(str(folder / "source"), str(folder / "target"))])
        assert copying.wait(30)
        copying.finish()
        was_refused = [path for side in sides for path in side.was_refused]
        assert bool(copying.outcome().unlisted) == bool(was_refused)
        try:
            removing = Removing(sides[1], jobs=3, takes=rules.takes)
            removing.start(copying.deletions(), str(folder / "target"))
            assert removing.wait(30)
        except errors.NotPermitted:
            assert was_refused
        after = harvest(folder / "target")
    if was_refused:
        assert missing(target, after) == []
    elif not sides[1].was_refused:  # a folder that cannot be listed cannot be deleted, either
        assert after == Model(rules).mirror(source, target)


def missing(before: Tree, after: Tree) -> list[str]:
    """The names that are gone."""
    gone = [name for name in before if name not in after]
    for name, what in before.items():
        now = after.get(name)
        if isinstance(what, dict) and isinstance(now, dict):
            gone += missing(what, now)
    return gone
