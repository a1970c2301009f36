"""Private files are not readable by others on the server during their upload."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, wait_until_sent
from tests.support.relay import Relay
from tests.support.watching import Watcher

RATE = 400_000  # bytes a second: a file lies on the server's disk for a while before it is whole
SMALL, LARGE = bytes(60_000), bytes(1_500_000)

pytestmark = pytest.mark.mount


@contextlib.contextmanager
def private() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def slow(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, fuse_binding: str
) -> Iterator[Mounted]:
    """A mount that knows its server, and a data connection that is slow from now on."""
    mounted = mount_dir(through=relay, binding=fuse_binding)
    (mounted.path / "ordinary").write_bytes(b"any")
    wait_until_sent(mounted.path)
    relay.data_rate = RATE
    yield mounted
    relay.data_rate = None


def test_private_file_is_unreadable_for_others_while_it_is_sent(slow: Mounted) -> None:
    with private(), Watcher(slow.disk_now) as watcher:
        (slow.path / "small").write_bytes(SMALL)
        (slow.path / "large").write_bytes(LARGE)
        read_only = os.open(slow.path / "read-only", os.O_CREAT | os.O_WRONLY, 0o400)
        os.write(read_only, SMALL)
        os.close(read_only)
        wait_until_sent(slow.path)
        assert len(watcher.temporaries()) >= 3
        (slow.path / "small").write_bytes(b"x" + SMALL)
        (slow.path / "large").write_bytes(b"x" + LARGE)
        wait_until_sent(slow.path)
        assert len(watcher.temporaries()) >= 5
    del watcher.seen["ordinary"]
    assert watcher.readable() == {}
    modes = {name: (slow.disk / name).stat().st_mode & 0o777 for name in os.listdir(slow.disk)}
    del modes["ordinary"]
    assert modes == {"small": 0o600, "large": 0o600, "read-only": 0o400}
    assert (slow.disk / "large").read_bytes() == b"x" + LARGE


def test_changed_file_loses_setuid_and_a_mode_that_is_set_afterwards_stays(
    mounted: Mounted,
) -> None:
    """The kernel leaves that to ftpfs, with libfuse 3; so it need not ask before each write."""

    def mode() -> int:
        return (mounted.path / "file").stat().st_mode & 0o7777

    (mounted.path / "first").write_bytes(b"")
    wait_until_sent(mounted.path)
    with (mounted.path / "file").open("wb", buffering=0) as file:
        file.write(b"one")
        os.fchmod(file.fileno(), 0o6755)
        assert mode() == 0o6755
        file.write(b"two")
        assert mode() == 0o755
        os.fchmod(file.fileno(), 0o6755)
        os.ftruncate(file.fileno(), 1)
        assert mode() == 0o755
        os.fchmod(file.fileno(), 0o2644)  # locks, and no rights
        file.write(b"three")
        assert mode() == 0o2644
        os.fchmod(file.fileno(), 0o4755)
    assert mode() in (0o4755, 0o755)  # not every server's CHMOD takes it
