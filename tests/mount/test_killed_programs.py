"""A program that waits in the mount for a slow or silent server can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted, MountServer
from tests.support import hostile_server
from tests.support.hostile_server import HostileServer
from tests.support.waiting import until

pytestmark = pytest.mark.mount

SECONDS = 3.0  # until a killed program is gone
# Where in the kernel a program waits: for the daemon, for a page, or for another's request.
WAITS = ("request_wait_answer", "folio_wait_bit_common", "fuse_lock_inode")


@contextmanager
def waiting(*words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that waits in the mount."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, stdout=quiet, stderr=quiet) as program:
        time.sleep(0.5)  # its first requests are answered
        where = Path(f"/proc/{program.pid}/wchan")
        until(lambda: where.read_text() in WAITS)
        yield program


def dies(program: subprocess.Popen[bytes], number: signal.Signals) -> None:
    began = time.monotonic()
    program.send_signal(number)
    assert program.wait(60) == -number
    assert time.monotonic() - began < SECONDS


@pytest.fixture(params=[0.005, 3600], ids=["drips", "stalls"])
def hostile(request: pytest.FixtureRequest) -> Iterator[HostileServer]:
    """The listing of /trap sends a byte each time this number of seconds is over."""
    with hostile_server.start("dripped-listing", request.param) as server:
        yield server


@pytest.fixture
def mounted(
    hostile: HostileServer, mount_server: MountServer, tmp_path: Path, fuse_binding: str
) -> Mounted:
    return mount_server(hostile_server.as_server(hostile), tmp_path, binding=fuse_binding)


def test_program_that_waits_for_a_listing_dies_when_killed(mounted: Mounted) -> None:
    trap = mounted.path / "trap"
    with (
        waiting("ls", trap) as first,
        waiting("ls", trap) as second,
        waiting("stat", trap / "name") as third,
    ):
        dies(first, signal.SIGKILL)
        assert second.poll() is third.poll() is None, "they wait on"
        dies(second, signal.SIGINT)
        dies(third, signal.SIGTERM)
    assert os.listdir(mounted.path / "quiet") == ["a.txt"]
    assert "unexpected error" not in mounted.log_text()


def test_program_that_waits_for_content_dies_when_killed(mounted: Mounted) -> None:
    with waiting("cat", mounted.path / "big7") as cat:
        dies(cat, signal.SIGKILL)
    assert (mounted.path / "a.txt").read_bytes() == hostile_server.CONTENT


@pytest.mark.parametrize("mode", ["endless-file", "endless-unsized-file"])
def test_program_that_reads_a_file_without_size_or_end_dies_when_killed(
    mode: str, mount_server: MountServer, tmp_path: Path, fuse_binding: str
) -> None:
    with hostile_server.start(mode, 3600) as server:
        mounted = mount_server(hostile_server.as_server(server), tmp_path, binding=fuse_binding)
        with waiting("tail", mounted.path / "trap" / "endless") as tail:
            dies(tail, signal.SIGKILL)
        assert (mounted.path / "a.txt").read_bytes() == hostile_server.CONTENT
        assert "unexpected error" not in mounted.log_text()
