"""The soak's model: what a file may be after a call, and what a journal says about it."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# rsync's temporary files, which a killed rsync leaves behind.
LITTER = re.compile(r"^\.[^/]+\.[A-Za-z0-9]{6}$")
CONFLICT = re.compile(r" \(conflict copy [-0-9 ]+\)")

Tree = dict[str, bytes | None]  # by the path below a worker's folder; None: a directory


class Finding(AssertionError):
    """A violation of the model."""


@dataclass
class Counts:
    """Counts of operations and comparisons."""

    operations: int = 0
    failed: int = 0
    killed: int = 0
    faults: int = 0
    absences: int = 0
    kills: int = 0
    settled: int = 0
    files: int = 0
    bytes: int = 0
    waiting: int = 0
    conflicts: int = 0
    foreign: int = 0
    damages: int = 0
    verbs: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.operations} operations ({self.failed} failed by the network, {self.killed} cut "
            f"off by a kill), {self.foreign} foreign changes, {self.faults} faults, "
            f"{self.absences} absences of the server, "
            f"{self.damages} damaged files of the store, "
            f"{self.kills} kills that left {self.waiting} files in journals, "
            f"{self.conflicts} conflict copies, {self.settled} times settled, {self.files} files "
            f"with {self.bytes / 1e6:.0f} MB compared: nothing lost, nothing torn"
        )

    def add(self, other: Counts) -> None:
        for name in vars(self):
            if name == "verbs":
                self.verbs.update(other.verbs)
            else:
                setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class Overwrite:
    """A program writes `piece` over a file from `start` on.

    The kernel passes such a write on in parts. If the daemon is killed between two of them, the
    file has only the first part, as on any disk.
    """

    path: str
    start: int
    piece: bytes

    def may_leave(self, path: str, content: bytes, before: bytes | None) -> bool:
        if path != self.path or before is None or len(content) < len(before):
            return False
        end = len(content)  # end of the written range
        if end == len(before):
            end = (
                max(
                    (n for n in range(self.start, end) if content[n] != before[n]),
                    default=self.start - 1,
                )
                + 1
            )
        parts = content[: self.start], content[self.start : end], content[end:]
        return parts == (before[: self.start], self.piece[: end - self.start], before[end:])


@dataclass(frozen=True)
class Doubt:
    """A call failed: the tree is `before` or `after`; with `mixed`, each file separately.

    Files that are overwritten from the start (`torn`) may have a first part of the new content, as
    on any disk: they were not closed. A program that replaces by unlinking first may leave no file
    (`mixed`).

    If the answer to a rename was lost (`moved`), content that waited for its upload to the old name
    still goes there, and the server's content is at the new name: no content is lost, but they are
    not together (docs/SEMANTICS.md).
    """

    before: Tree
    after: Tree
    mixed: bool
    torn: frozenset[str]
    moved: bool = False
    cut_off: bool = False  # the daemon was killed while the program ran
    overwritten: Overwrite | None = None

    def explains(self, path: str, content: bytes) -> bool:
        """Whether a program that failed, and so closed its files, may have left this content."""
        new = self.after.get(path)
        if self.overwritten and self.overwritten.may_leave(path, content, self.before.get(path)):
            return True
        return path in self.torn and not self.cut_off and (new or b"").startswith(content)

    def allows(self, found: Tree) -> str:
        """What is wrong with `found`; "" if nothing is."""
        if self.moved:
            return self._wrong_after_move(found)
        if self.mixed:
            paths = found.keys() | self.before.keys() | self.after.keys()
            wrong = [path for path in sorted(paths) if not self._may_be(found, path)]
            return f"neither old nor new: {described(wrong, found)}" if wrong else ""
        wrongs = []
        for state in (self.before, self.after):
            paths = (found.keys() | state.keys()) - self._uncertain()
            wrong = [path for path in paths if not same(found, state, path)]
            wrong += [path for path in self._uncertain() if not self._may_be(found, path)]
            if not wrong:
                return ""
            wrongs.append(described(sorted(wrong), found))
        return f"not as before: {wrongs[0]}; and not as it was to be: {wrongs[1]}"

    def _uncertain(self) -> frozenset[str]:
        return self.torn | {self.overwritten.path} if self.overwritten else self.torn

    def _wrong_after_move(self, found: Tree) -> str:
        strange = found.keys() - self.before.keys() - self.after.keys()
        kept = set(self.before.values()) & set(self.after.values())
        lost = [content for content in kept - set(found.values()) if content is not None]
        wrong = [f"never was there: {described(sorted(strange), found)}"] if strange else []
        wrong += [f"gone: {len(content)} bytes" for content in lost]
        return "; ".join(wrong)

    def _may_be(self, found: Tree, path: str) -> bool:
        if same(found, self.before, path) or same(found, self.after, path):
            return True
        if path not in found:
            return self.mixed
        content, new = found[path], self.after.get(path)
        if content is None or new is None:
            return False
        if self.overwritten:
            return self.overwritten.may_leave(path, content, self.before.get(path))
        return path in self.torn and new.startswith(content)


def same(one: Tree, other: Tree, path: str) -> bool:
    return (path in one) == (path in other) and one.get(path) == other.get(path)


def described(paths: Iterable[str], found: Tree) -> str:
    def what(path: str) -> str:
        if path not in found:
            return "not there"
        content = found[path]
        return "a directory" if content is None else f"{len(content)} bytes"

    return ", ".join(f"{path} ({what(path)})" for path in paths)


def read_tree(folder: Path) -> Tree:
    """Everything that other clients see below a folder. Raises OSError."""

    def refuse(error: OSError) -> None:
        raise error

    tree: Tree = {}
    for here, folders, files in os.walk(folder, onerror=refuse):
        inside = "" if Path(here) == folder else f"{Path(here).relative_to(folder)}/"
        for name in folders:
            tree[inside + name] = None
        for name in files:
            if not name.startswith(".ftpfs-") and not LITTER.match(name):
                tree[inside + name] = Path(here, name).read_bytes()
    return tree


@dataclass(frozen=True)
class Row:
    """What a journal says about a path."""

    patching: bool  # the file on the server was being changed in place
    small: bytes = b""  # the content, up to SMALL

    def explains(self, content: bytes) -> bool:
        """Whether an unfinished upload may have left this content under the final name.

        Small files are renamed and measured in one exchange. If the server cut one short and said
        226, it has its name until it is sent again (docs/design.md).
        """
        return self.patching or self.small.startswith(content)


def digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
