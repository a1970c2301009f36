"""The files of the cases, and the comparison of every byte.

Owns: what the data looks like (the same for the same seed) and what "the same" means. Content is
random, so that no compression, no sparse file and no exchange of two files goes unnoticed.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmark.parameters import Sizes

MIB = 1 << 20
SMALL = 4096  # bytes of a small file
_PER_FOLDER = 20
# Recent enough that every server's LIST shows the time of day, and old enough not to be "now".
_AGE = 3 * 86400


class Wrong(Exception):
    """A result is not as it has to be; says what and where."""


# Making.


class Store:
    """The master copies, a folder each below `root`, made at the first request."""

    def __init__(self, root: Path, sizes: Sizes, seed: int) -> None:
        self._root = root
        self._sizes = sizes
        self._seed = seed
        self._made: set[str] = set()
        # Whole minutes: FTP has no fractions of seconds.
        self._time = int(time.time()) // 60 * 60 - _AGE

    def folder(self, name: str) -> Path:
        """The master copy `name`: big, patched, small, tree, wide, probes, source or clone."""
        folder = self._root / name
        if name not in self._made:
            # A generator of its own, so that the content does not depend on what was made before.
            _MAKERS[name](folder, self._sizes, random.Random(f"{self._seed} {name}"))
            if name != "clone":  # git's index contains the times
                self._age(folder)
            self._made.add(name)
        return folder

    def _age(self, folder: Path) -> None:
        for path, _, files in os.walk(folder, topdown=False):
            for name in (*files, "."):
                os.utime(os.path.join(path, name), (self._time, self._time))


def _one_file(path: Path, mib: int, chance: random.Random) -> None:
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(chance.randbytes(MIB))


def _make_big(folder: Path, sizes: Sizes, chance: random.Random) -> None:
    _one_file(folder / "big.bin", sizes.big, chance)


def _make_patched(folder: Path, sizes: Sizes, chance: random.Random) -> None:
    _one_file(folder / "big.bin", sizes.patched, chance)


def _make_small(folder: Path, sizes: Sizes, chance: random.Random) -> None:
    folder.mkdir()
    for number in range(sizes.small):
        (folder / f"small-{number:05}.bin").write_bytes(chance.randbytes(SMALL))


def _make_tree(folder: Path, sizes: Sizes, chance: random.Random) -> None:
    for number in range(sizes.tree):
        outer, inner = divmod(number // _PER_FOLDER, 5)
        place = folder / f"part-{outer:03}" / f"section-{inner}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"page-{number:05}.txt").write_bytes(chance.randbytes(chance.randint(1, 2000)))


def _make_wide(folder: Path, sizes: Sizes, chance: random.Random) -> None:
    folder.mkdir()
    for number in range(sizes.wide):
        (folder / f"entry-{number:06}").write_bytes(chance.randbytes(chance.randint(1, 99)))


def _make_probes(folder: Path, sizes: Sizes, chance: random.Random) -> None:
    folder.mkdir()
    for number in range(2 * sizes.probes):
        (folder / f"probe-{number:03}.bin").write_bytes(chance.randbytes(MIB))


def _make_source(folder: Path, sizes: Sizes, chance: random.Random) -> None:
    """A source tree: many short files, few long ones, nested folders."""
    for number in range(sizes.source):
        place = folder.joinpath("src", *(f"mod{chance.randint(0, 3)}" for _ in range(number % 3)))
        place.mkdir(parents=True, exist_ok=True)
        length = min(60_000, int(chance.lognormvariate(8, 1)))
        (place / f"file{number:04}.c").write_text(chance.randbytes(length // 2 + 1).hex())


def _make_clone(folder: Path, sizes: Sizes, chance: random.Random) -> None:
    origin = folder.with_name("origin")
    _make_source(origin, sizes, chance)
    _git("init", "-q", "-b", "main", str(origin))
    _git("-C", str(origin), "add", ".")
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    _git("-C", str(origin), *who, "commit", "-q", "-m", "all of it")
    # No hooks, which every mount would have to carry; FTP does not keep modes.
    options = ("--template=", "-c", "core.fileMode=false")
    _git("clone", "-q", *options, origin.as_uri(), str(folder))


def _git(*words: str) -> None:
    subprocess.run(["git", *words], check=True, env=git_environment(), capture_output=True)


def git_environment() -> dict[str, str]:
    """The environment of git, without any user's configuration."""
    nowhere = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return {**os.environ, **nowhere}


_MAKERS = {
    "big": _make_big,
    "patched": _make_patched,
    "small": _make_small,
    "tree": _make_tree,
    "wide": _make_wide,
    "probes": _make_probes,
    "source": _make_source,
    "clone": _make_clone,
}


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with its times, into a folder that may exist."""
    shutil.copytree(source, target, dirs_exist_ok=True)


# Comparing.


def compare_files(expected: Path, actual: Path) -> None:
    """Raises Wrong unless both have the same bytes."""
    with expected.open("rb") as first, actual.open("rb") as second:
        want, have = os.fstat(first.fileno()).st_size, os.fstat(second.fileno()).st_size
        if want != have:
            raise Wrong(f"{actual.name}: {have} bytes instead of {want}")
        for offset in itertools.count(0, MIB):
            one, two = first.read(MIB), second.read(MIB)
            if one != two:
                raise Wrong(f"{actual.name}: byte {offset + _difference(one, two)} is wrong")
            if not one:
                return


def _difference(one: bytes, two: bytes) -> int:
    pairs = enumerate(zip(one, two, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(two)))


def compare_trees(expected: Path, actual: Path, ignore: frozenset[str] = frozenset()) -> None:
    """Raises Wrong unless both have the same names, and every file the same bytes.

    `ignore` names files, relative to the folders, that may be anything. Names and sizes are
    compared first, because a caller that waits for a complete tree asks often.
    """
    want, have = (_sizes(folder) for folder in (expected, actual))
    for name in sorted(want.keys() ^ have.keys()):
        if name not in ignore:
            raise Wrong(f"{name}: {'missing' if name in want else 'does not belong there'}")
    for name, size in want.items():
        if have.get(name) != size and name not in ignore:
            raise Wrong(f"{name}: {have.get(name)} bytes instead of {size}")
    for name, size in want.items():
        if size is not None and name not in ignore:
            compare_files(expected / name, actual / name)


def _sizes(folder: Path) -> dict[str, int | None]:
    """Each file with its size, each folder with None, by relative names."""
    return dict(_walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, int | None]]:
    with os.scandir(folder / prefix) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield name, None
                yield from _walk(folder, name + "/")
            else:
                yield name, entry.stat(follow_symlinks=False).st_size


def compare_listings(expected: str, actual: str) -> None:
    """Compare two outputs of `ls -l --time-style=+%s`: names, types, sizes and times.

    Times may differ by a minute, which is LIST's precision.
    """
    want, have = _listing(expected), _listing(actual)
    for name in sorted(want.keys() ^ have.keys()):
        raise Wrong(f"{name}: {'not listed' if name in want else 'listed, but not there'}")
    for name, (kind, size, changed) in want.items():
        other_kind, other_size, other_changed = have[name]
        if kind != other_kind:
            raise Wrong(f"{name}: listed as {other_kind!r} instead of {kind!r}")
        if kind == "-" and (size != other_size or abs(changed - other_changed) > 60):
            found = f"{other_size} bytes of {other_changed}"
            raise Wrong(f"{name}: listed with {found} instead of {size} of {changed}")


def _listing(text: str) -> dict[str, tuple[str, int, int]]:
    found: dict[str, tuple[str, int, int]] = {}
    folder = "."
    for line in text.splitlines():
        if line.endswith(":"):
            folder = line[:-1]
        elif line and not line.startswith("total "):
            mode, _, _, _, size, changed, name = line.split(maxsplit=6)
            found[f"{folder}/{name}"] = (mode[0], int(size), int(changed))
    return found


class Buffer:
    """Memory that reads fill, compared afterwards, outside the measured time.

    It is also a file in memory, for programs to write to. All its pages exist from the start and
    stay: no reader pays for them, and `clear` removes the last content.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.descriptor = os.memfd_create("ftpfs-bench")
        os.posix_fallocate(self.descriptor, 0, size)
        self._map = mmap.mmap(self.descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.view = memoryview(self._map)

    def clear(self) -> None:
        first = ctypes.c_char.from_buffer(self._map)
        ctypes.memset(ctypes.addressof(first), 0, self._size)
        os.lseek(self.descriptor, 0, os.SEEK_SET)

    def compare(self, expected: Path) -> None:
        """Raises Wrong unless the buffer begins with the whole content of this file."""
        with expected.open("rb") as file:
            for offset in itertools.count(0, MIB):
                want = file.read(MIB)
                if not want:
                    return
                have = self.view[offset : offset + len(want)]
                if have != want:
                    at = offset + _difference(want, have.tobytes())
                    raise Wrong(f"{expected.name}: byte {at} is wrong")

    def close(self) -> None:
        self.view.release()
        # clear() may have left an exported pointer that the collector has not freed yet.
        with contextlib.suppress(BufferError):
            self._map.close()
        os.close(self.descriptor)
