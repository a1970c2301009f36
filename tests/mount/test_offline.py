"""Mounts without their server: listings in the store, and what a mount does while it is away."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs.core.store.listings import FILES, StoredListings
from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, _daemons
from tests.mount.test_store import OLD, make
from tests.support.relay import Relay
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

MIB = 1 << 20
MountStore = Callable[..., Mounted]


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side. Its times come from MDTM."""
    return "vsftpd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def mount(relay: Relay, mount_dir: MountDir, folder: Path) -> MountStore:
    """Mount the folder of the server, through the relay, with a store."""

    def mount(options: str = "cache_size=1G") -> Mounted:
        return mount_dir(through=relay, options=f"{options},cache_dir={folder}")

    return mount


def stored_names(folder: Path, path: str) -> list[str] | None:
    """What the store in `folder` has of one listing."""
    place = next(folder.glob(f"*/{FILES[0]}"), None)
    if place is None:
        return None
    listings = StoredListings(place.parent, MIB)
    try:
        entries = listings.entries(path)
    finally:
        listings.close()
    return None if entries is None else sorted(entry.name for entry in entries)


def test_listings_that_were_looked_at_lie_in_the_store(
    remote_dir: RemoteDir, mount: MountStore, folder: Path
) -> None:
    for name in ("a", "sub/b", "sub/deep/c", "unseen/d", "old/e"):
        make(remote_dir, name, 10)
    mounted = mount()
    assert sorted(os.listdir(mounted.path)) == ["a", "old", "sub", "unseen"]
    for seen in ("sub", "sub/deep", "old"):
        os.listdir(mounted.path / seen)
    (mounted.path / "sub/new").write_bytes(b"new")
    (mounted.path / "made").mkdir()
    (mounted.path / "sub/b").rename(mounted.path / "sub/renamed")
    (mounted.path / "old/e").unlink()
    (mounted.path / "old").rename(mounted.path / "moved")
    mounted.unmount()
    until(lambda: not _daemons(str(mounted.log)))

    assert stored_names(folder, "/") == ["a", "made", "moved", "sub", "unseen"]
    assert stored_names(folder, "/sub") == ["deep", "new", "renamed"]
    assert stored_names(folder, "/sub/deep") == ["c"]
    assert stored_names(folder, "/made") == []
    assert stored_names(folder, "/moved") == []
    assert stored_names(folder, "/old") is None


def test_listings_in_the_store_survive_kill(
    remote_dir: RemoteDir, mount: MountStore, folder: Path
) -> None:
    make(remote_dir, "sub/a", 10, mtime=OLD)
    mounted = mount()
    assert os.listdir(mounted.path / "sub") == ["a"]
    until(lambda: stored_names(folder, "/sub") == ["a"])
    for daemon in _daemons(str(mounted.log)):
        os.kill(daemon, signal.SIGKILL)
    until(lambda: not _daemons(str(mounted.log)))
    assert stored_names(folder, "/") == ["sub"]
    assert stored_names(folder, "/sub") == ["a"]


def test_mount_without_a_store_stores_no_listing(mount: MountStore, folder: Path) -> None:
    mounted = mount("cache_size=0")
    assert os.listdir(mounted.path) == []
    assert not folder.exists()
