"""The power is cut while a mount fills its store: the next boot's mount reads right bytes.

Spool and store lie on an ext4 of their own, whose device is copied at a random moment, as in
`test_power_cuts`. Files are read, uploaded with an old time, and replaced meanwhile.

FTPFS_POWER_CUTS sets the number of times (3).
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import BINDINGS
from tests.mount.test_power_cuts import CUTS, Disk, Machine, disk
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import until_gone

__all__ = ["disk"]

pytestmark = pytest.mark.mount

OLD = 1_000_000_000  # seconds: what was changed within the last minute is not stored for later
FILES = 24
SIZES = [1, 4096, 131_072, 300_000, 2_500_000]  # bytes; a block has 131,072


@pytest.fixture(scope="module")
def server_kind() -> Kind:
    return "vsftpd"


class Work:
    """A program that reads files, and puts others in their place by `cp -p`."""

    def __init__(self, here: Path, seed: int) -> None:
        self._here = here
        self._dice = random.Random(seed)
        self._time = OLD
        self.stop = threading.Event()

    def run(self) -> None:
        with contextlib.suppress(OSError):  # the mount is killed meanwhile
            while not self.stop.is_set():
                path = self._here / f"f{self._dice.randrange(FILES)}"
                if self._dice.random() < 0.8:
                    path.read_bytes()
                else:
                    self._replace(path)

    def _replace(self, path: Path) -> None:
        self._time += 10
        path.write_bytes(self._dice.randbytes(self._dice.choice(SIZES)))
        os.utime(path, (self._time, self._time))


@pytest.mark.long
@pytest.mark.timeout(60 + 40 * CUTS)
@pytest.mark.parametrize("binding", BINDINGS)
def test_store_serves_right_bytes_after_a_power_cut(
    tmp_path: Path,
    remote_dir: RemoteDir,
    relay: Relay,
    disk: Callable[[str], Disk],
    binding: str,
) -> None:
    moments = random.Random(22)
    machine = Machine(tmp_path, remote_dir, relay.port, binding)
    read = fetched = 0
    for cut in range(CUTS):
        for number in range(FILES):
            path = remote_dir.write(f"f{number}", moments.randbytes(moments.choice(SIZES)))
            os.utime(path, (OLD, OLD))
        before, after = disk(f"before{cut}").make(), disk(f"after{cut}")
        before.mount()
        machine.mount(before.here, "one", f"cache_size=64M,cache_dir={before.here}/store")
        work = Work(machine.here, cut)
        worker = threading.Thread(target=work.run)
        worker.start()
        try:
            time.sleep(moments.uniform(0.5, 10))
            before.cut(after.image)
            work.stop.set()
            machine.kill()
            worker.join(20)
            assert not worker.is_alive()
        finally:
            remote_dir.server.kill_sessions()
        until_gone(remote_dir.server.sessions)
        before.unmount()
        before.image.unlink()
        after.mount()
        machine.mount(after.here, "two", f"cache_size=64M,cache_dir={after.here}/store")
        assert machine.ask("sync").returncode == 0
        relay.reset()
        for path in sorted(remote_dir.disk.glob("f*")):
            assert (machine.here / path.name).read_bytes() == path.read_bytes(), f"cut {cut}"
        read += FILES
        fetched += relay.count("RETR")
        machine.unmount()
        for path in remote_dir.disk.iterdir():
            path.unlink()
        after.unmount()
        after.image.unlink()
    assert fetched < read  # else nothing was ever read from the store
