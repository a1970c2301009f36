"""Whether a mount stores contents if the user says nothing: on a long link, and not on a short one.

A relay counts each RETR.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, unmount
from tests.mount.test_store import make
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

LONG_LINK = "quirk=round_trip=20"


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side."""
    return "vsftpd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the stores of this user are."""
    return tmp_path / "cache" / "ftpfs" / "store"


def stores(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*/*")]


def test_mount_over_a_long_link_stores_what_was_read(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, folder: Path
) -> None:
    data = make(remote_dir, "file", 300_000)
    mounted = mount_dir(through=relay, options=LONG_LINK)
    assert (mounted.path / "file").read_bytes() == data
    until(lambda: "data" in stores(folder))
    unmount(mounted.path)
    mounted = mount_dir(through=relay, options=LONG_LINK)
    relay.reset()
    assert (mounted.path / "file").read_bytes() == data
    assert relay.count("RETR") == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))


def test_mount_over_a_short_link_stores_nothing(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, folder: Path, far: bool
) -> None:
    if far:
        pytest.skip("--far makes each link a long one")
    data = make(remote_dir, "file", 300_000)
    mounted = mount_dir(through=relay)
    assert (mounted.path / "file").read_bytes() == data
    unmount(mounted.path)
    assert stores(folder) == []


@pytest.mark.parametrize("options", ["cache_size=0", f"cache_size=0,{LONG_LINK}"])
def test_mount_with_a_size_of_zero_stores_nothing(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, folder: Path, options: str
) -> None:
    data = make(remote_dir, "file", 300_000)
    mounted = mount_dir(through=relay, options=options)
    assert (mounted.path / "file").read_bytes() == data
    unmount(mounted.path)
    assert stores(folder) == []


@pytest.mark.parametrize("options", ["cache_size=on", "cache_dir={}/elsewhere"])
def test_mount_over_a_short_link_stores_if_the_user_asks_for_it(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, tmp_path: Path, options: str
) -> None:
    data = make(remote_dir, "file", 300_000)
    for _ in range(2):
        relay.reset()
        mounted = mount_dir(through=relay, options=options.format(tmp_path))
        assert (mounted.path / "file").read_bytes() == data
        unmount(mounted.path)
    assert relay.count("RETR") == 0


def test_mount_goes_on_without_its_server_by_default_where_the_link_is_long(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    data = make(remote_dir, "file", 300_000)
    mounted = mount_dir(through=relay, options=LONG_LINK)
    assert (mounted.path / "file").read_bytes() == data
    unmount(mounted.path)
    relay.vanish()
    mounted = mount_dir(through=relay, options=LONG_LINK)
    assert (mounted.path / "file").read_bytes() == data


def test_mount_with_offline_always_needs_no_further_option(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    data = make(remote_dir, "file", 300_000)
    mounted = mount_dir(through=relay, options="cache_size=on")
    assert (mounted.path / "file").read_bytes() == data
    unmount(mounted.path)
    relay.reset()
    mounted = mount_dir(through=relay, options="offline=always")
    assert (mounted.path / "file").read_bytes() == data
    assert not [each for each in relay.commands if each.verb != "QUIT"]  # of the first mount


@pytest.mark.parametrize("name", ["server", "kept", "index.db", "listings.db"])
def test_mount_bears_a_damaged_file_of_its_store(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, folder: Path, name: str
) -> None:
    data = make(remote_dir, "file", 300_000)
    options = "cache_size=on,keep=/file"
    mounted = mount_dir(through=relay, options=options)
    until(lambda: os.getxattr(mounted.path / "file", "user.ftpfs.stored") == b"kept")
    unmount(mounted.path)
    [damaged] = folder.glob(f"*/{name}")
    with damaged.open("r+b") as file:
        file.write(b"\xb5")
    mounted = mount_dir(through=relay, options=options)
    assert (mounted.path / "file").read_bytes() == data
