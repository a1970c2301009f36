"""Mounts without their server: listings in the store, and what a mount does while it is away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs.core.store.listings import FILES, StoredListings
from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, _daemons, ftpfs
from tests.mount.test_store import make
from tests.mount.town import FILES_THERE, MIB, OLD, Town, fails_at_once, leave, stored_as
from tests.support.relay import How, Relay
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

MountStore = Callable[..., Mounted]


@pytest.fixture(scope="session")
def server_kind() -> Kind:
    """One server: these tests are about the client side. Its times come from MDTM."""
    return "vsftpd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the mounts of `town` have their store, too."""
    return tmp_path / "store"


@pytest.fixture
def mount(relay: Relay, mount_dir: MountDir, folder: Path) -> MountStore:
    """Mount the folder of the server, through the relay, with a store."""

    def mount(options: str = "cache_size=1G") -> Mounted:
        return mount_dir(through=relay, options=f"{options},cache_dir={folder}")

    return mount


def is_unreachable(path: Path) -> bool:
    """Whether the mount says that its server is away when that file is read."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno == errno.ENETUNREACH
    return False


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
    subprocess.run(["umount", "-l", str(mounted.path)], check=True)
    assert stored_names(folder, "/") == ["sub"]
    assert stored_names(folder, "/sub") == ["a"]


def test_mount_without_a_store_stores_no_listing(mount: MountStore, folder: Path) -> None:
    mounted = mount("cache_size=0")
    assert os.listdir(mounted.path) == []
    assert not folder.exists()


# Without the server.


def test_mount_without_its_server_shows_what_is_stored(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount()
    for name, data in FILES_THERE.items():
        assert (mounted.path / name).read_bytes() == data
        assert (mounted.path / name).stat().st_size == len(data)
    assert sorted(os.listdir(mounted.path)) == ["a", "empty", "sub"]
    assert sorted(os.listdir(mounted.path / "sub")) == ["b", "deep"]
    assert not (mounted.path / "sub/missing").exists()


def test_what_is_not_stored_is_unreachable_at_once(town: Town) -> None:
    town.write("unseen/x", b"x")
    town.write("unread", b"unread")
    town.write("seen/y", b"y")
    mounted = town.mount()
    os.listdir(mounted.path)
    os.listdir(mounted.path / "seen")
    leave(mounted)
    town.stop()
    mounted = town.mount()
    fails_at_once(lambda: os.listdir(mounted.path / "unseen"))
    fails_at_once((mounted.path / "unseen/x").stat)
    fails_at_once((mounted.path / "unread").read_bytes)
    assert os.listdir(mounted.path / "seen") == ["y"]


def test_mount_without_its_server_says_so_in_one_line(town: Town, tmp_path: Path) -> None:
    town.look(FILES_THERE)
    town.stop()
    done = town.try_to_mount(tmp_path / "here")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("ftpfs: offline, with what is stored since 20")
    assert "connection refused" in line


def test_mount_that_was_never_here_fails_without_its_server(town: Town, tmp_path: Path) -> None:
    town.stop()
    done = town.try_to_mount(tmp_path / "here")
    assert done.returncode != 0
    assert "connection refused" in done.stderr
    done = town.try_to_mount(tmp_path / "here", "offline=always")
    assert done.returncode != 0
    assert "nothing of ftp://" in done.stderr


def test_mount_with_offline_never_fails_without_its_server(town: Town, tmp_path: Path) -> None:
    town.look(FILES_THERE)
    town.stop()
    done = town.try_to_mount(tmp_path / "here", "offline=never")
    assert done.returncode != 0
    assert "connection refused" in done.stderr


def test_wrong_password_is_not_taken_for_an_absence(town: Town, tmp_path: Path) -> None:
    town.look(FILES_THERE)
    done = town.try_to_mount(tmp_path / "here", password="wrong")
    assert done.returncode != 0
    assert "530" in done.stderr


def test_refused_tls_is_not_taken_for_an_absence(town: Town, tmp_path: Path) -> None:
    town.look(FILES_THERE)
    done = town.try_to_mount(tmp_path / "here", "tls=required")
    assert done.returncode != 0
    assert "TLS" in done.stderr


def test_files_written_offline_arrive_when_the_server_is_back(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount()
    (mounted.path / "new").write_bytes(b"new")
    (mounted.path / "sub/new").write_bytes(b"n" * MIB)
    with open(mounted.path / "a", "ab") as file:
        file.write(b"more")
    assert (mounted.path / "a").read_bytes() == FILES_THERE["a"] + b"more"
    assert sorted(os.listdir(mounted.path)) == ["a", "empty", "new", "sub"]
    town.back()
    until(lambda: (town.root / "new").exists() and (town.root / "sub/new").exists())
    until(lambda: (town.root / "a").read_bytes() == FILES_THERE["a"] + b"more")
    until(lambda: (town.root / "sub/new").read_bytes() == b"n" * MIB)


def test_files_written_offline_wait_for_the_next_mount(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount("offline=always")
    (mounted.path / "new").write_bytes(b"new")
    leave(mounted)
    town.back()
    town.mount()
    until(lambda: (town.root / "new").exists() and (town.root / "new").read_bytes() == b"new")


def test_mount_notices_that_the_server_is_back_and_looks_again(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount("list_ttl=1000")
    assert sorted(os.listdir(mounted.path)) == ["a", "empty", "sub"]
    assert (mounted.path / "a").read_bytes() == FILES_THERE["a"]
    town.write("a", b"changed")
    town.write("other", b"other")
    town.back()
    until(lambda: "other" in os.listdir(mounted.path), 60)
    until(lambda: (mounted.path / "a").read_bytes() == b"changed")
    assert (mounted.path / "other").read_bytes() == b"other"


def test_running_mount_goes_on_when_its_server_leaves(town: Town) -> None:
    town.look(FILES_THERE)
    mounted = town.mount("list_ttl=0,open_ttl=0")
    assert sorted(os.listdir(mounted.path)) == ["a", "empty", "sub"]
    town.stop()
    for name, data in FILES_THERE.items():
        assert (mounted.path / name).read_bytes() == data
    assert sorted(os.listdir(mounted.path / "sub")) == ["b", "deep"]
    town.back()
    town.write("late", b"late")
    until(lambda: "late" in os.listdir(mounted.path), 60)


def test_file_changed_here_and_there_is_kept_twice(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount()
    (mounted.path / "a").write_bytes(b"written here")
    town.write("a", b"written there", mtime=OLD + 1000)
    town.back()
    until(lambda: len(list(town.root.glob("a*"))) == 2, 60)
    (copy,) = (path for path in town.root.glob("a*") if path.name != "a")
    until(lambda: copy.read_bytes() == b"written here")
    assert (town.root / "a").read_bytes() == b"written there"


def test_mount_with_offline_always_asks_the_network_for_nothing(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore
) -> None:
    data = make(remote_dir, "sub/a", 10)
    mounted = mount()
    assert (mounted.path / "sub/a").read_bytes() == data
    leave(mounted)
    relay.reset()
    before = len(relay.connections)
    mounted = mount("cache_size=1G,offline=always")
    assert (mounted.path / "sub/a").read_bytes() == data
    assert os.listdir(mounted.path) == ["sub"]
    (mounted.path / "new").write_bytes(b"new")
    (mounted.path / "dir").mkdir()
    (mounted.path / "sub/a").rename(mounted.path / "dir/b")
    leave(mounted)
    assert not relay.commands
    assert len(relay.connections) == before


def test_status_tells_since_when_a_mount_is_offline(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount()
    state = {"XDG_STATE_HOME": str(mounted.state)}
    assert "offline since 20" in ftpfs("status", env=state).stdout
    town.back()
    until(lambda: "offline" not in ftpfs("status", env=state).stdout, 60)


def test_attribute_tells_whether_a_file_is_stored(town: Town) -> None:
    for name, data in FILES_THERE.items():
        town.write(name, data)
    town.write("unread", b"u" * 300_000)
    mounted = town.mount()
    assert stored_as(mounted.path / "unread") == "remote"
    assert stored_as(mounted.path / "sub/b") == "remote"
    for name in FILES_THERE:
        (mounted.path / name).read_bytes()
    for name in FILES_THERE:
        until(lambda name=name: stored_as(mounted.path / name) == "cached")  # type: ignore[misc]
    assert stored_as(mounted.path / "unread") == "remote"
    with pytest.raises(OSError, match="No data"):
        stored_as(mounted.path / "sub")
    assert os.listxattr(mounted.path / "a") == ["user.ftpfs.state"]
    leave(mounted)
    town.stop()
    mounted = town.mount()
    assert stored_as(mounted.path / "sub/b") == "cached"
    assert stored_as(mounted.path / "unread") == "remote"
    (mounted.path / "written").write_bytes(b"w")
    assert stored_as(mounted.path / "written") == "cached"
    town.back()
    until(lambda: (town.root / "written").exists(), 60)


def test_silent_server_costs_no_deadline_for_each_call(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore
) -> None:
    data = make(remote_dir, "read", 10)
    for number in range(20):
        make(remote_dir, f"unread{number}", 10)
    timeouts = "reply_timeout=1,connect_timeout=1,data_timeout=1"
    mounted = mount(f"cache_size=1G,{timeouts},list_ttl=0,open_ttl=0")
    assert (mounted.path / "read").read_bytes() == data
    until(lambda: stored_as(mounted.path / "read") == "cached")
    relay.stall_replies()
    until(lambda: is_unreachable(mounted.path / "unread0"), 60)
    begun = time.monotonic()
    for number in range(20):
        fails_at_once((mounted.path / f"unread{number}").read_bytes)
    assert (mounted.path / "read").read_bytes() == data
    assert time.monotonic() - begun < 15
    relay.stall_replies(False)
    until(lambda: not is_unreachable(mounted.path / "unread0"), 60)


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_port_without_a_server_behind_it_counts_as_an_absence(
    remote_dir: RemoteDir, relay: Relay, mount: MountStore, how: How
) -> None:
    """A forwarder, or the port of a container: it accepts the connection, and closes it."""
    data = make(remote_dir, "read", 10)
    make(remote_dir, "unread", 10)
    mounted = mount()
    assert (mounted.path / "read").read_bytes() == data
    until(lambda: stored_as(mounted.path / "read") == "cached")
    relay.refuse_connections(how)
    relay.cut_all(how)
    # The running mount goes on, and so does a new one.
    until(lambda: is_unreachable(mounted.path / "unread"), 20)
    assert (mounted.path / "read").read_bytes() == data
    leave(mounted)
    mounted = mount()
    assert (mounted.path / "read").read_bytes() == data
    relay.refuse_connections(None)
    (mounted.path / "written").write_bytes(b"w")
    until(lambda: (remote_dir.disk / "written").exists(), 60)


def delete_and_write_again(here: Path) -> None:
    (here / "file").unlink()
    (here / "file").write_bytes(b"second")


def rename_another_over_it(here: Path) -> None:
    (here / "other").rename(here / "file")


@pytest.mark.parametrize("before", [None, b"before"], ids=["new", "replaced"])
@pytest.mark.parametrize("change", [delete_and_write_again, rename_another_over_it])
def test_upload_whose_reply_was_lost_is_deleted_with_its_file_while_the_server_is_away(
    remote_dir: RemoteDir,
    relay: Relay,
    mount: MountStore,
    change: Callable[[Path], None],
    before: bytes | None,
) -> None:
    """The server has what no listing shows. It is not taken for a file of others."""
    make(remote_dir, "other", 6)
    if before is not None:
        remote_dir.write("file", before)
    mounted = mount()
    other = (mounted.path / "other").read_bytes()
    until(lambda: stored_as(mounted.path / "other") == "cached")
    (mounted.path / "first").write_bytes(b"")  # the folder takes files, so no close waits
    until(lambda: os.getxattr(mounted.path, "user.ftpfs.state") == b"clean", 60)

    def leaves(_: object) -> bool:
        relay.refuse_connections("rst")
        return True

    cut = relay.cut_control("RNTO", when="after", where=leaves)
    (mounted.path / "file").write_bytes(b"first upload")
    until(lambda: cut.hits)
    relay.cut_all("rst")
    until(lambda: mounted.log_text().count("the server is away"), 20)
    assert (remote_dir.disk / "file").read_bytes() == b"first upload"
    change(mounted.path)
    relay.refuse_connections(None)
    until(lambda: os.getxattr(mounted.path, "user.ftpfs.state") == b"clean", 60)
    wanted = {"first": b"", "file": b"second", "other": other}
    if change is rename_another_over_it:
        wanted = {"first": b"", "file": other}
    until(lambda: {p.name: p.read_bytes() for p in remote_dir.disk.iterdir()} == wanted, 20)


def test_files_that_exist_only_here_are_renamed_and_deleted_offline(town: Town) -> None:
    town.look(FILES_THERE)
    town.stop()
    mounted = town.mount()
    for name in ("gone", "moved", "replacing", "sub/far"):
        (mounted.path / name).write_bytes(name.encode())
    until(lambda: "uploads wait" in mounted.log_text())
    (mounted.path / "gone").unlink()
    (mounted.path / "moved").rename(mounted.path / "sub/moved")
    (mounted.path / "replacing").rename(mounted.path / "a")
    (mounted.path / "sub/far").rename(mounted.path / "sub/b")
    assert sorted(os.listdir(mounted.path)) == ["a", "empty", "sub"]
    assert sorted(os.listdir(mounted.path / "sub")) == ["b", "deep", "moved"]
    assert (mounted.path / "a").read_bytes() == b"replacing"
    town.back()
    until(lambda: (town.root / "a").read_bytes() == b"replacing", 60)
    until(lambda: (town.root / "sub/b").read_bytes() == b"sub/far")
    until(lambda: (town.root / "sub/moved").exists())
    until(lambda: sorted(os.listdir(town.root)) == ["a", "empty", "sub"])
