"""Nothing that was damaged, deleted, moved or torn is ever served."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.core.store import contents
from ftpfs.core.store.contents import SIDE, Facts, name_of
from tests.support.waiting import until
from tests.unit.core.store.conftest import (
    FILE,
    MIB,
    MakeStore,
    disk_usage,
    files,
    fill,
    indices,
    served,
)


def test_block_with_a_flipped_bit_is_fetched_again_and_never_served(
    make_store: MakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(4)
    generator = make_store()
    fill(generator, FILE)
    generator.close()
    [path] = files(tmp_path)
    whole = path.read_bytes()
    for _ in range(60):
        spoiled = bytearray(whole)
        spoiled[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(spoiled)
        one = make_store()
        assert len(served(one, FILE)) < len(indices(FILE))
        fill(one, FILE)
        one.close()
        again = make_store()
        assert served(again, FILE) == list(indices(FILE))
        again.close()
        [path] = files(tmp_path)
    assert "damaged on the disk" in caplog.text


def test_torn_block_is_never_served(make_store: MakeStore, tmp_path: Path) -> None:
    """What a power cut may leave: all checksums are written, but not all pages of the blocks."""
    first = make_store()
    fill(first, FILE)
    first.close()
    [path] = files(tmp_path)
    with open(path, "r+b") as file:
        file.seek(BLOCK_SIZE + 4096)
        file.write(bytes(4096))
    side = path.with_name(f"{path.name}{SIDE}")
    os.truncate(side, side.stat().st_size - 4)  # of the last checksum, a half
    # After its first damaged block the whole content is deleted at some time.
    assert served(make_store(), FILE) in ([0], [0, 2], [0, 2, 3], [0, 2, 3, 4])


def test_side_file_with_a_flipped_bit_costs_blocks_and_serves_no_wrong_one(
    make_store: MakeStore, tmp_path: Path
) -> None:
    rng = random.Random(7)
    first = make_store()
    fill(first, FILE)
    first.close()
    [path] = files(tmp_path)
    side = path.with_name(f"{path.name}{SIDE}")
    whole = side.read_bytes()
    for bit in rng.sample(range(8 * len(whole)), 60):
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        side.write_bytes(spoiled)
        one = make_store()
        assert len(served(one, FILE)) < len(indices(FILE)) or bit // 8 in _padding(whole)
        fill(one, FILE)
        one.close()
        again = make_store()
        assert served(again, FILE) == list(indices(FILE))
        again.close()


def _padding(side: bytes) -> range:
    """The bytes between the header and the table, which mean nothing."""
    end = contents.HEADER.size + len(FILE.path) + 4
    return range(end, -(-end // 8) * 8)


@pytest.mark.parametrize("which", ["content", "side file", "both"])
def test_content_deleted_by_hand_is_stored_again(
    make_store: MakeStore, tmp_path: Path, which: str
) -> None:
    first = make_store()
    fill(first, FILE)
    until(lambda: served(first, FILE) == list(indices(FILE)))
    [path] = files(tmp_path)
    if which != "side file":
        path.unlink()
    if which != "content":
        path.with_name(f"{path.name}{SIDE}").unlink()
    served(first, FILE)  # from files that are open still, or not at all
    first.close()
    second = make_store()
    assert served(second, FILE) == []
    fill(second, FILE)
    until(lambda: served(second, FILE) == list(indices(FILE)))


def test_content_cut_or_written_over_by_hand_is_never_served(
    make_store: MakeStore, tmp_path: Path
) -> None:
    first = make_store()
    fill(first, FILE)
    first.close()
    [path] = files(tmp_path)
    os.truncate(path, FILE.size - 1)
    assert served(make_store(), FILE) == []


def test_block_of_another_file_is_never_served(make_store: MakeStore, tmp_path: Path) -> None:
    other = FILE._replace(path="/other")
    first = make_store()
    fill(first, FILE, other)
    first.close()
    (tmp_path / "store/data" / name_of(Facts.of(other))).replace(
        tmp_path / "store/data" / name_of(Facts.of(FILE))
    )
    assert served(make_store(), FILE) == []


@pytest.mark.parametrize("damage", [None, b"", b"no database" * 1000])
def test_index_that_is_damaged_or_gone_is_made_again_from_the_contents(
    make_store: MakeStore, tmp_path: Path, damage: bytes | None
) -> None:
    first = make_store()
    fill(first, FILE)
    first.close()
    for path in (tmp_path / "store").glob("index.db*"):
        path.unlink()
    if damage is not None:
        (tmp_path / "store/index.db").write_bytes(damage)
    second = make_store()
    fill(second, FILE._replace(path="/new"))
    second.close()
    assert served(make_store(), FILE) == list(indices(FILE))
    third = make_store(16 * MIB)
    fill(third, *(FILE._replace(path=f"/{n}") for n in range(30)))
    third.close()
    assert disk_usage(tmp_path / "store") <= 16 * MIB  # the old content counts, and was evicted


CHILD = """
import sys
from pathlib import Path
from ftpfs.core.reading.blocks import Generations
from ftpfs.core.store.store import Store
from tests.unit.core.store.conftest import *
import time
store = Store(Path(sys.argv[1]), 24 * MIB)
store.follow(Generations())
print("ready", flush=True)
number = 0
while True:
    fill(store, FILE._replace(path=f"/{number % 50}"))
    number += 1
    time.sleep(0.001)
"""


def test_store_killed_at_any_moment_serves_right_blocks_and_keeps_its_bound(
    make_store: MakeStore, tmp_path: Path
) -> None:
    rng = random.Random(9)
    found = 0
    for _ in range(8):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "store")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.4))
            child.send_signal(signal.SIGKILL)
        one = make_store(24 * MIB)
        for number in range(50):
            found += len(served(one, FILE._replace(path=f"/{number}")))
        fill(one, FILE)
        one.close()
        assert disk_usage(tmp_path / "store") <= 24 * MIB
    assert found > 100
