"""Walks through directories: listings are current, and are made ahead over a long link.

The tests use the benchmark's link, which compares the listings with the server's disk.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from scripts.benchmark.__main__ import main
from scripts.benchmark.parameters import Link
from scripts.benchmark.report import Run
from scripts.benchmark.servers import Endpoint, running
from tests.mount.conftest import BINDINGS, Mounted, MountServer
from tests.support.servers import FtpServer

pytestmark = pytest.mark.mount

# More than one reply of the kernel's readdir, whose buffer is that of getdents: 32 KiB in glibc.
MANY = 1500


def test_file_changed_during_readdir_has_its_new_attributes(
    mounted: Mounted,
) -> None:
    """A reply to readdir may carry attributes. They must not be from the start of the walk."""
    folder = mounted.disk / "folder"
    folder.mkdir()
    for number in range(MANY):
        (folder / f"file{number:04}").write_bytes(b"12345")
    for path in (folder, *folder.iterdir()):
        os.chown(path, mounted.server.uid, mounted.server.gid)
    here = mounted.path / "folder"
    *_, gone, grown = os.listdir(here)
    with os.scandir(here) as entries:
        for number, entry in enumerate(entries):
            with contextlib.suppress(FileNotFoundError):  # the deleted file may still be listed
                entry.stat(follow_symlinks=False)
            if not number:
                with (here / grown).open("ab") as file:
                    file.write(b"678")
                (here / gone).unlink()
    assert (here / grown).stat().st_size == 8
    assert not (here / gone).exists()
    assert gone not in os.listdir(here)


def test_listing_shows_each_name_once(mounted: Mounted) -> None:
    names = {f"file{number:04}" for number in range(MANY)}
    for name in names:
        (mounted.disk / name).write_bytes(b"")
    listed = os.listdir(mounted.path)
    assert len(listed) == MANY
    assert set(listed) == names


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that the server's user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="ftpfs-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def folders(root: Path, endpoint: Endpoint, count: int) -> None:
    for number in range(count):
        folder = root / f"folder{number:02}"
        folder.mkdir()
        for name in range(5):
            (folder / f"file{name}").write_bytes(b"x" * name)
    endpoint.give(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="a long link takes root")
@pytest.mark.parametrize("case", ["walk", "rsync"])
def test_walk_over_a_long_link_lists_directories_ahead_and_once(tmp_path: Path, case: str) -> None:
    peers = ",".join(f"ftpfs-{binding}" for binding in BINDINGS)
    words = ["--rounds", "1", "--only", case, "--link", "10", "--peers", peers]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    run = Run.from_json((tmp_path / "run.json").read_text())
    first = [result for result in run.results if result.figure.row == case]
    assert len(first) == len(BINDINGS)
    for result in first:
        assert result.figure.error is None
        assert (result.figure.controls or 0) > 2
        folders = result.figure.amount - run.parameters.sizes.tree
        assert result.figure.verbs["LIST"] == folders + 1, "each once, and the one they are in"


@pytest.mark.skipif(os.geteuid() != 0, reason="a long link takes root")
def test_reader_of_a_file_does_not_wait_for_a_walk(
    mount_server: MountServer, open_dir: Path
) -> None:
    with running("vsftpd", Link(rtt=30), open_dir) as far:
        folders(far.root, far, 200)
        server = cast("FtpServer", far)
        here = mount_server(server, far.root, host=far.host).path
        alone = timed(lambda: (here / "folder98" / "file1").read_bytes())
        walk = subprocess.Popen(["ls", "-lR", here], stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        during = timed(lambda: (here / "folder99" / "file1").read_bytes())
        assert walk.poll() is None, "the walk was to go on"
        assert walk.wait(60) == 0
        # Some seconds if it had to wait for the walk; the folder may even be listed already.
        assert during < 2 * alone + 0.2


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
