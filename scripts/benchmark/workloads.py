"""The cases: what is done, with which files, and how it is verified.

Each case is what a user does, by the user's usual program if there is one. Everything is cold at
the start of a case (a new mount, caches dropped) unless its row says otherwise.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scripts.benchmark.data import (
    MIB,
    SMALL,
    Wrong,
    compare_listings,
    compare_trees,
    git_environment,
)
from scripts.benchmark.trial import Trial

Unit = Literal["MB/s", "files/s", "entries/s", "reads/s", "names/s", "ms", "s"]
READERS = 4
_PARALLEL = "8"  # parallel transfers of curl; ftpfs opens no more connections than that


@dataclass(frozen=True)
class Row:
    """One line of the table. MB/s and similar are amount by time; ms and s are time by amount."""

    name: str
    unit: Unit
    title: str
    settles: bool = False  # a write: has a second time, until the server has all of it


@dataclass(frozen=True)
class Case:
    """A piece of work in one folder of a new mount.

    `stock` is the data in the folder (None: it is empty); with `changes` the case gets its own
    copy. `straight` does the same work without a mount, if that makes sense.
    """

    name: str
    rows: tuple[Row, ...]
    run: Callable[[Trial], None]
    stock: str | None
    changes: bool = False
    straight: Callable[[Trial], None] | None = None


# A big file.


def _read_into(path: Path, trial: Trial, start: int, end: int) -> None:
    """Read this part of the file into the same place of the buffer, a MiB at a time."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while start < end:
            part = trial.buffer.view[start : min(end, start + MIB)]
            got = os.preadv(descriptor, [part], start)
            if not got:
                raise Wrong(f"{path.name}: ends after {start} bytes")
            start += got
    finally:
        os.close(descriptor)


def _read_once(trial: Trial, row: str) -> None:
    size = trial.sizes.big * MIB
    trial.buffer.clear()
    with trial.timed(row, size / 1e6):
        _read_into(trial.here / "big.bin", trial, 0, size)
    trial.buffer.compare(trial.disk / "big.bin")


def _read(trial: Trial) -> None:
    _read_once(trial, "read")
    _read_once(trial, "reread")
    trial.drop_caches()
    _read_once(trial, "reread-dropped")


def _read_straight(trial: Trial) -> None:
    trial.buffer.clear()
    with trial.timed("read", trial.sizes.big * MIB / 1e6):
        _curl(trial, [_curl_get(trial, "big.bin")], stdout=trial.buffer.descriptor)
    trial.buffer.compare(trial.disk / "big.bin")


def _readers(trial: Trial) -> None:
    _read_by_four(trial, "readers")
    trial.drop_caches()
    _read_by_four(trial, "readers-again")


def _read_by_four(trial: Trial, row: str) -> None:
    """Each reader reads its quarter of the file."""
    size = trial.sizes.big * MIB
    errors: list[Exception] = []

    def work(start: int) -> None:
        try:
            _read_into(trial.here / "big.bin", trial, start, start + size // READERS)
        except (OSError, Wrong) as error:
            errors.append(error)

    trial.buffer.clear()
    starts = range(0, size, size // READERS)
    threads = [threading.Thread(target=work, args=(start,)) for start in starts]
    with trial.timed(row, size / 1e6):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    trial.buffer.compare(trial.disk / "big.bin")


def _write(trial: Trial) -> None:
    source = trial.master("big")
    with trial.timed("write", trial.sizes.big * MIB / 1e6) as clock:
        trial.run(["cp", source / "big.bin", trial.here / "big.bin"])
        trial.settle(clock, lambda: compare_trees(source, trial.disk))
    trial.drop_caches()
    _read_once(trial, "readback")


def _write_straight(trial: Trial) -> None:
    source = trial.master("big")
    with trial.timed("write", trial.sizes.big * MIB / 1e6) as clock:
        _curl(trial, [_curl_put(trial, source / "big.bin", "big.bin")])
        trial.settle(clock, lambda: compare_trees(source, trial.disk))


def _patch(trial: Trial) -> None:
    """Write a MiB in the middle, then one byte at the end, each after its own open."""
    wanted = trial.scratch / "wanted"
    wanted.mkdir()
    patch = random.Random(trial.bench.parameters.seed).randbytes(MIB)
    middle = trial.sizes.patched * MIB // 2 + 12345  # not at a block's edge

    def change(path: Path) -> None:
        with path.open("r+b", buffering=0) as file:
            file.seek(middle)
            file.write(patch)
        with path.open("ab", buffering=0) as file:
            file.write(b"!")

    (wanted / "big.bin").write_bytes((trial.master("patched") / "big.bin").read_bytes())
    change(wanted / "big.bin")
    with trial.timed("patch", 1) as clock:
        change(trial.here / "big.bin")
        trial.settle(clock, lambda: compare_trees(wanted, trial.disk))


def _random(trial: Trial) -> None:
    chance = random.Random(trial.bench.parameters.seed)
    ends = trial.sizes.big * MIB - SMALL
    offsets = [chance.randint(0, ends) for _ in range(trial.sizes.random)]
    descriptor = os.open(trial.here / "big.bin", os.O_RDONLY)
    try:
        with trial.timed("random", len(offsets)):
            parts = [os.pread(descriptor, SMALL, offset) for offset in offsets]
    finally:
        os.close(descriptor)
    with (trial.disk / "big.bin").open("rb") as file:
        for offset, part in zip(offsets, parts, strict=True):
            if part != os.pread(file.fileno(), SMALL, offset):
                raise Wrong(f"big.bin: the 4 KiB from byte {offset} are wrong")


def _probe(trial: Trial, row: str, names: list[str], offset: int) -> None:
    """Read one byte of each of several untouched files; a negative `offset` counts from the end."""
    found = {}
    with trial.timed(row, len(names)):
        for name in names:
            with (trial.here / name).open("rb", buffering=0) as file:
                file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
                found[name] = file.read(1)
    for name, byte in found.items():
        whole = (trial.disk / name).read_bytes()
        if byte != whole[offset : offset + 1 or None]:
            raise Wrong(f"{name}: its byte {offset} is wrong")


def _probes(trial: Trial) -> None:
    names = sorted(os.listdir(trial.disk))
    _probe(trial, "first", names[: trial.sizes.probes], 0)
    _probe(trial, "last", names[trial.sizes.probes :], -1)


def _probes_straight(trial: Trial) -> None:
    names = sorted(os.listdir(trial.disk))[: trial.sizes.probes]
    blocks = [[*_curl_get(trial, name), 'range = "0-0"'] for name in names]
    trial.buffer.clear()
    with trial.timed("first", len(names)):
        _curl(trial, blocks, stdout=trial.buffer.descriptor)
    want = b"".join((trial.disk / name).read_bytes()[:1] for name in names)
    if trial.buffer.view[: len(names)] != want:
        raise Wrong("first bytes: wrong")


# Many files.


def _out(trial: Trial) -> None:
    with trial.timed("out", trial.sizes.small):
        trial.run(["cp", "-r", trial.here, trial.scratch / "out"])
    compare_trees(trial.disk, trial.scratch / "out")


def _out_straight(trial: Trial) -> None:
    into = trial.scratch / "out"
    into.mkdir()
    names = sorted(os.listdir(trial.disk))
    blocks = [[*_curl_get(trial, name), f'output = "{into / name}"'] for name in names]
    with trial.timed("out", len(names)):
        _curl(trial, blocks, parallel=True)
    compare_trees(trial.disk, into)


def _in(trial: Trial) -> None:
    source = trial.master("small")
    with trial.timed("in", trial.sizes.small) as clock:
        trial.run(["cp", "-r", source, trial.here / "in"])
        trial.settle(clock, lambda: compare_trees(source, _made(trial, "in")))


def _in_straight(trial: Trial) -> None:
    source = trial.master("small")
    names = sorted(os.listdir(source))
    with trial.timed("in", len(names)) as clock:
        # The folder first: otherwise each of eight connections would try to make it.
        first, *rest = (_curl_put(trial, source / name, f"in/{name}") for name in names)
        _curl(trial, [[*first, f'quote = "MKD /{trial.folder}/in"']])
        _curl(trial, rest, parallel=True)
        trial.settle(clock, lambda: compare_trees(source, _made(trial, "in")))


def _made(trial: Trial, name: str) -> Path:
    """A folder that the case made, on the server's disk, once nothing else is there."""
    if os.listdir(trial.disk) != [name]:
        raise Wrong(f"{name}: not the only thing on the server")
    return trial.disk / name


def _list(trial: Trial, row: str, options: str, amount: float) -> None:
    command = ["ls", options, "-n", "--time-style=+%s", "."]
    with trial.timed(row, amount):
        listed = trial.run(command, cwd=trial.here)
    compare_listings(trial.run(command, cwd=trial.disk), listed)


def _walk(trial: Trial) -> None:
    entries = sum(len(folders) + len(files) for _, folders, files in os.walk(trial.disk))
    _list(trial, "walk", "-lR", entries)
    _list(trial, "rewalk", "-lR", entries)


def _wide(trial: Trial) -> None:
    _list(trial, "wide", "-l", trial.sizes.wide)


def _wide_straight(trial: Trial) -> None:
    with trial.timed("wide", trial.sizes.wide):
        listed = _curl(trial, [[f'url = "{trial.url}"']])
    names = sorted(line.split(maxsplit=8)[8] for line in listed.splitlines())
    if names != sorted(os.listdir(trial.disk)):
        raise Wrong("the listing: not the names that are there")


def _tar(trial: Trial) -> None:
    source = trial.master("source")
    archive = trial.scratch / "source.tar"
    trial.run(["tar", "-cf", archive, "-C", source.parent, source.name])
    with trial.timed("tar", trial.sizes.source) as clock:
        # As a user other than root does: owners are not restored.
        trial.run(["tar", "-xf", archive, "--no-same-owner", "-C", trial.here])
        trial.settle(clock, lambda: compare_trees(source, _made(trial, source.name)))


# git rewrites its index with the times and inodes that it has seen.
_GIT_INDEX = frozenset({".git/index"})


def _git(trial: Trial) -> None:
    # Another user owns the files, which git would take for an attack.
    command = ["git", "-c", "safe.directory=*", "-C", str(trial.here), "status", "--porcelain"]
    with trial.timed("git", 1):
        said = trial.run(command, env=git_environment())
    if said:
        raise Wrong(f"git status: {said.splitlines()[0]!r}, but nothing was changed")
    index = (trial.here / ".git/index").read_bytes()

    def check() -> None:
        compare_trees(trial.master("clone"), trial.disk, _GIT_INDEX)
        if (trial.disk / ".git/index").read_bytes() != index:
            raise Wrong(".git/index: not the one that the mount shows")

    trial.wait_for(check)  # before the mount is gone


def _rsync(trial: Trial) -> None:
    source = trial.master("tree")
    entries = sum(len(folders) + len(files) for _, folders, files in os.walk(source))
    with trial.timed("rsync", entries) as clock:
        trial.run(["rsync", "-a", f"{source}/", f"{trial.here}/"])
        # If a peer shows other times than the server's, rsync sends everything again.
        trial.settle(clock, lambda: compare_trees(source, trial.disk))


def _names(trial: Trial) -> None:
    """Only names: make folders, move files into one of them, remove everything."""
    files = sorted(os.listdir(trial.disk))
    moved = files[: trial.sizes.names]
    made = [f"folder{number:04}/inside" for number in range(trial.sizes.names)]

    def expect(inside: set[str], outside: set[str]) -> None:
        target = trial.disk / made[0]
        if set(os.listdir(target)) != inside:
            raise Wrong(f"{made[0]}: not the names that are to be there")
        if {name for name in os.listdir(trial.disk) if name in files} != outside:
            raise Wrong("files: not those that are to be left")

    def check_made() -> None:
        for name in made:
            if not (trial.disk / name).is_dir():
                raise Wrong(f"{name}: missing")

    def check_removed() -> None:
        if left := os.listdir(trial.disk):
            raise Wrong(f"{left[0]}: still there")

    with trial.timed("mkdir", 2 * len(made)) as clock:
        trial.run(["mkdir", "-p", *made], cwd=trial.here)
        trial.settle(clock, check_made)
    with trial.timed("mv", len(moved)) as clock:
        trial.run(["mv", "-t", made[0], *moved], cwd=trial.here)
        trial.settle(clock, lambda: expect(set(moved), set(files) - set(moved)))
    with trial.timed("rm", len(files) + 2 * len(made)) as clock:
        trial.run(["rm", "-rf", *sorted(os.listdir(trial.here))], cwd=trial.here)
        trial.settle(clock, check_removed)


# curl.


def _curl_get(trial: Trial, name: str) -> list[str]:
    return [f'url = "{trial.url}{name}"']


def _curl_put(trial: Trial, source: Path, name: str) -> list[str]:
    return [f'upload-file = "{source}"', f'url = "{trial.url}{name}"']


def _curl(
    trial: Trial, blocks: list[list[str]], *, parallel: bool = False, stdout: int | None = None
) -> str:
    """One curl for all these transfers, with instructions on standard input."""
    server = trial.bench.server
    common = [f'user = "{server.user}:{server.password}"', 'ftp-method = "nocwd"']
    config = "\nnext\n".join("\n".join([*common, *block]) for block in blocks)
    options = ["--parallel", "--parallel-max", _PARALLEL] if parallel else []
    command = ["curl", "-q", "--silent", "--show-error", "--fail-early", *options, "-K", "-"]
    return trial.run(command, text=config, stdout=stdout)


CASES: tuple[Case, ...] = (
    Case(
        "read",
        (
            Row("read", "MB/s", "one big file, read"),
            Row("reread", "MB/s", "read again, at once"),
            Row("reread-dropped", "MB/s", "read again, page caches dropped"),
        ),
        _read,
        "big",
        straight=_read_straight,
    ),
    Case(
        "readers",
        (
            Row("readers", "MB/s", "4 readers on one file"),
            Row("readers-again", "MB/s", "4 readers again, page caches dropped"),
        ),
        _readers,
        "big",
    ),
    Case(
        "write",
        (
            Row("write", "MB/s", "one big file, written", settles=True),
            Row("readback", "MB/s", "read back, page caches dropped"),
        ),
        _write,
        None,
        changes=True,
        straight=_write_straight,
    ),
    Case(
        "out",
        (Row("out", "files/s", "4 KiB files out, `cp -r`"),),
        _out,
        "small",
        straight=_out_straight,
    ),
    Case(
        "in",
        (Row("in", "files/s", "4 KiB files in, `cp -r`", settles=True),),
        _in,
        None,
        changes=True,
        straight=_in_straight,
    ),
    Case(
        "walk",
        (
            Row("walk", "entries/s", "`ls -lR` of a tree"),
            Row("rewalk", "entries/s", "`ls -lR` of it again"),
        ),
        _walk,
        "tree",
    ),
    Case(
        "wide",
        (Row("wide", "entries/s", "`ls -l` of one wide folder"),),
        _wide,
        "wide",
        straight=_wide_straight,
    ),
    Case("random", (Row("random", "reads/s", "random 4 KiB reads"),), _random, "big"),
    Case(
        "probes",
        (
            Row("first", "ms", "first byte of a cold file"),
            Row("last", "ms", "last byte of a cold file"),
        ),
        _probes,
        "probes",
        straight=_probes_straight,
    ),
    Case(
        "patch",
        (Row("patch", "s", "a big file, patched and appended to", settles=True),),
        _patch,
        "patched",
        changes=True,
    ),
    Case(
        "tar",
        (Row("tar", "files/s", "`tar x` of a source tree", settles=True),),
        _tar,
        None,
        changes=True,
    ),
    Case("git", (Row("git", "s", "`git status` on a clone"),), _git, "clone", changes=True),
    Case(
        "rsync",
        (Row("rsync", "entries/s", "`rsync -a` of an unchanged tree"),),
        _rsync,
        "tree",
        changes=True,
    ),
    Case(
        "names",
        (
            Row("mkdir", "names/s", "folders made, `mkdir -p`", settles=True),
            Row("mv", "names/s", "files moved, `mv`", settles=True),
            Row("rm", "names/s", "all of it removed, `rm -rf`", settles=True),
        ),
        _names,
        "small",
        changes=True,
    ),
)
