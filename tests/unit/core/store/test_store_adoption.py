"""A file of the spool becomes a stored content: without a copy, and never with a wrong byte."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftpfs.core.reading.blocks import Generations, Version
from ftpfs.core.store import writer
from ftpfs.core.store.contents import ContentFolder, Facts, Flag, name_of
from ftpfs.core.store.store import Store
from tests.support.waiting import until
from tests.unit.core.store.conftest import (
    FILE,
    MIB,
    MakeStore,
    block,
    disk_usage,
    files,
    fill,
    indices,
    served,
)

NOW = FILE._replace(mtime=2_000_000_000)  # from the future: it can never be settled
LARGE = FILE._replace(path="/large", size=30 * MIB + 5)


def spooled(tmp_path: Path, version: Version) -> Path:
    """A file of the spool that holds all of a content."""
    path = tmp_path / f"{random.randbytes(8).hex()}.spool"
    path.write_bytes(b"".join(block(version, index) for index in indices(version)))
    return path


def comes(store: Store, version: Version) -> None:
    """Wait until all of the content is served."""
    until(lambda: served(store, version) == list(indices(version)))


def test_adopted_file_is_moved_and_served(make_store: MakeStore, tmp_path: Path) -> None:
    first = make_store()
    path = spooled(tmp_path, FILE)
    inode = path.stat().st_ino
    assert first.adopt(FILE, path)
    comes(first, FILE)
    assert not path.exists()
    assert [each.stat().st_ino for each in files(tmp_path)] == [inode]
    first.close()
    assert served(make_store(), FILE) == list(indices(FILE))


def test_content_of_this_moment_is_served_to_its_own_store_until_that_is_closed(
    make_store: MakeStore, tmp_path: Path
) -> None:
    one, two = make_store(), make_store()
    assert one.adopt(NOW, spooled(tmp_path, NOW))
    comes(one, NOW)
    assert served(two, NOW) == []
    fill(two, FILE)
    comes(two, FILE)
    assert served(one, NOW) == list(indices(NOW))  # the start of another store leaves it alone
    one.close()
    assert served(two, NOW) == []
    assert len(files(tmp_path)) == 1


def test_content_of_a_store_whose_process_was_killed_is_deleted(
    make_store: MakeStore, tmp_path: Path
) -> None:
    code = f"""if 1:
    import os
    from ftpfs.core.store.store import Store
    from tests.unit.core.store.test_store_adoption import *
    store = Store(Path({str(tmp_path)!r}) / "store", 64 * MIB)
    store.follow(Generations())
    store.adopt(NOW, spooled(Path({str(tmp_path)!r}), NOW))
    comes(store, NOW)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(files(tmp_path)) == 1
    one = make_store()
    fill(one, FILE)
    one.close()
    [left] = files(tmp_path)
    assert left.name == name_of(Facts.of(FILE))


@pytest.mark.parametrize(
    "version",
    [FILE._replace(exact=False), FILE._replace(mtime=None), FILE._replace(size=0)],
    ids=["inexact", "no time", "empty"],
)
def test_file_that_cannot_be_told_from_others_is_not_adopted(
    make_store: MakeStore, tmp_path: Path, version: Version
) -> None:
    path = spooled(tmp_path, version)
    assert not make_store().adopt(version, path)
    assert path.exists()


def test_file_that_was_changed_meanwhile_or_has_no_room_is_deleted(
    make_store: MakeStore, tmp_path: Path
) -> None:
    generations = Generations()
    one = make_store(16 * MIB, generations=generations)
    generations.bump(FILE.path)
    for version in (FILE, LARGE):
        assert one.adopt(version, spooled(tmp_path, version))
        until(lambda: not list(tmp_path.glob("*.spool")))
    one.close()
    assert files(tmp_path) == []
    path = spooled(tmp_path, FILE)
    assert not one.adopt(FILE, path)  # closed
    assert path.exists()


def test_adoption_evicts_others_and_keeps_the_bound(make_store: MakeStore, tmp_path: Path) -> None:
    one = make_store(48 * MIB)
    for number in range(6):
        version = LARGE._replace(path=f"/{number}", size=20 * MIB)
        assert one.adopt(version, spooled(tmp_path, version))
        comes(one, version)
        assert disk_usage(tmp_path / "store") <= 48 * MIB
    assert len(files(tmp_path)) == 2


def test_content_whose_checksums_are_computed_is_never_cut(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hole would get the checksum of zeros, and be served."""
    monkeypatch.setattr(writer, "SUMS_AT_ONCE", 1)
    one, two = make_store(48 * MIB), make_store(48 * MIB)
    name = name_of(Facts.of(LARGE))
    folder = ContentFolder(tmp_path / "store/data")
    assert one.adopt(LARGE, spooled(tmp_path, LARGE))
    until(lambda: folder.has(name))
    assert folder.open(name).flags & Flag.UNSUMMED
    others = [FILE._replace(path=f"/{n}") for n in range(40)]
    for version in others:
        fill(two, version)  # evicts it
    until(lambda: two._writer.queued == 0)
    time.sleep(0.2)
    for store in (one, two):
        served(store, LARGE)  # each block is compared
    assert folder.cut(name, 8 * MIB) == 0 or not folder.open(name).flags & Flag.UNSUMMED


def test_files_that_wait_for_a_store_that_fails_are_deleted(
    make_store: MakeStore, tmp_path: Path
) -> None:
    one = make_store()
    fill(one, FILE)
    until(lambda: one._writer.queued == 0)
    (tmp_path / "store").rename(tmp_path / "away")
    paths = [spooled(tmp_path, FILE._replace(path=f"/{n}")) for n in range(5)]
    for number, path in enumerate(paths):
        one.adopt(FILE._replace(path=f"/{number}"), path)
    until(lambda: not any(path.exists() for path in paths))


CHILD = """
import sys
from ftpfs.core.store import writer
from ftpfs.core.store.store import Store
from tests.unit.core.store.test_store_adoption import *
writer.CALM_SECONDS = 0.0
folder = Path(sys.argv[1])
store = Store(folder / "store", 96 * MIB)
store.follow(Generations())
store.adopt(LARGE, spooled(folder, LARGE))
comes(store, LARGE)
print("ready", flush=True)
for number in range(1000):
    version = LARGE._replace(path=f"/{number % 8}")
    store.adopt(version, spooled(folder, version))
"""


def test_store_killed_while_it_adopts_serves_right_blocks_and_keeps_its_bound(
    make_store: MakeStore, tmp_path: Path
) -> None:
    rng = random.Random(9)
    found = 0
    for _ in range(6):
        command = [sys.executable, "-c", CHILD, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0.1, 0.8))
            child.send_signal(signal.SIGKILL)
        one = make_store(96 * MIB)
        for name in ["large", *range(8)]:
            found += len(served(one, LARGE._replace(path=f"/{name}")))
        fill(one, FILE)
        one.close()
        assert disk_usage(tmp_path / "store") <= 96 * MIB
    assert found > 100
