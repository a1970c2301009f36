"""Mounts on loopback that behave as over a long link, while files change and sessions die.

`pytest --far` runs any other test like this, too.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, wait_until_sent
from tests.support.relay import Relay

pytestmark = pytest.mark.mount

FILES = 60


@pytest.fixture
def mounted(remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir) -> Mounted:
    (remote_dir.disk / "out").mkdir()
    remote_dir.give(remote_dir.disk / "out")
    return mount_dir(
        through=relay,
        options="quirk=round_trip=20",
    )


def make(folder: Path, seed: int = 0) -> dict[str, bytes]:
    """Files with different contents, so that swapped files are noticed."""
    chance = random.Random(seed)
    contents = {
        f"file{n}": chance.randbytes(chance.choice([0, 1, 4096, 30_000])) for n in range(FILES)
    }
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return contents


def found(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_many_small_files_are_copied_in_changed_and_copied_out(
    remote_dir: RemoteDir, mounted: Mounted, tmp_path: Path
) -> None:
    contents = make(tmp_path / "source")
    subprocess.run(["cp", "-r", tmp_path / "source", mounted.path / "in"], check=True)
    assert found(mounted.disk / "in") == contents
    folder = mounted.path / "in"

    def change(name: str) -> None:
        (folder / name).write_bytes(contents[name][::-1] + b"more")
        (folder / name).rename(folder / f"new-{name}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, contents))
    changed = {f"new-{name}": content[::-1] + b"more" for name, content in contents.items()}
    assert found(mounted.disk / "in") == changed
    # Somebody else changes the files, so no cache has their contents.
    for name, content in changed.items():
        remote_dir.write(f"out/{name}", content)
    subprocess.run(["cp", "-r", mounted.path / "out", tmp_path / "out"], check=True)
    assert found(tmp_path / "out") == changed
    shutil.rmtree(folder)
    assert not (mounted.disk / "in").exists()


Fault = Callable[[Relay], object]
FAULTS: dict[str, Fault] = {
    "sessions die at STOR": lambda relay: [
        relay.cut_control("STOR", skip=skip, when=when)  # type: ignore[arg-type]
        for skip, when in ((2, "before"), (9, "after"), (17, "final"))
    ],
    "sessions die at RNTO": lambda relay: [
        relay.cut_control("RNTO", skip=skip, when=when)  # type: ignore[arg-type]
        for skip, when in ((2, "before"), (9, "after"))
    ],
    "a session dies when the next port is asked for": lambda relay: relay.cut_control(
        "EPSV", skip=5
    ),
    "contents are cut off": lambda relay: relay.cut_data("up", after=1000, times=2),
    "STOR finds no connection": lambda relay: relay.refuse("STOR", "425 none", skip=3, times=1),
    "the server counts connections": lambda relay: relay.limit_connections(3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_many_small_files_arrive_under_their_names_while(
    relay: Relay, mounted: Mounted, fault: str
) -> None:
    FAULTS[fault](relay)
    contents = make(mounted.path / "in")
    wait_until_sent(mounted.path, timeout=60)
    there = found(mounted.disk_now / "in")
    left = {name for name in there if name.startswith(".ftpfs-")}
    assert {name: there[name] for name in there.keys() - left} == contents
    assert found(mounted.path / "in") == contents
