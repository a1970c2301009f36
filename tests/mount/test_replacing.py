"""Files that are open while another file takes their name, or while they are deleted.

The rename may be refused, its answer may be lost, and the daemon may be killed: the name has the
old content or the new one at every moment, on the server as well as in the mount.

FTPFS_RENAMES sets the number of renames over a bad link (20).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, wait_until_sent
from tests.mount.test_killed import kill
from tests.support.relay import Command, Relay
from tests.support.servers import Kind
from tests.support.waiting import until

pytestmark = pytest.mark.mount

RENAMES = int(os.environ.get("FTPFS_RENAMES", "20"))
DROPPED = 0.12  # of all commands


@pytest.fixture(params=["vsftpd", "pyftpdlib"], scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    """One server with MLSD and one without."""
    kind: Kind = request.param
    return kind


@pytest.fixture
def closed(remote_dir: RemoteDir) -> Path:
    """A folder in which the server's user may change no name."""
    folder = remote_dir.disk / "closed"
    folder.mkdir(mode=0o755)
    (folder / "a").write_bytes(b"not to be moved")
    (folder / "a").chmod(0o644)
    return folder


@contextlib.contextmanager
def reader(path: Path, size: int = 4) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.read(fd, size)
        yield fd
    finally:
        with contextlib.suppress(OSError):  # the daemon was killed
            os.close(fd)


def rest(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))


@pytest.mark.parametrize("written", [False, True], ids=["read", "written"])
def test_refused_rename_leaves_the_open_file_it_was_to_replace(
    fuse_binding: str,
    remote_dir: RemoteDir,
    mount_dir: MountDir,
    closed: Path,
    written: bool,
) -> None:
    old = b"only copy of b"
    remote_dir.write("open/b", old)
    mounted = mount_dir(binding=fuse_binding)
    if written:
        old = b"only copy of b, written here"
        (mounted.path / "open/b").write_bytes(old)
        wait_until_sent(mounted.path)
    with reader(mounted.path / "open/b") as fd:
        with pytest.raises(PermissionError):
            (mounted.path / "closed/a").rename(mounted.path / "open/b")
        assert (remote_dir.disk / "open/b").read_bytes() == old
        assert os.fstat(fd).st_size == len(old)
        assert (mounted.path / "open/b").stat().st_size == len(old)
        assert (mounted.path / "open/b").read_bytes() == old
        assert rest(fd) == old[4:]
    for _ in range(3):  # as long as the kernel knows the file by libfuse's name
        assert (mounted.path / "open/b").read_bytes() == old
        time.sleep(0.5)
    assert os.listdir(mounted.path / "open") == ["b"]
    assert os.listdir(remote_dir.disk / "open") == ["b"]
    mounted.unmount()
    assert (remote_dir.disk / "open/b").read_bytes() == old
    assert (closed / "a").exists()


def test_refused_rename_leaves_the_long_open_file_that_was_moved_aside(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, closed: Path
) -> None:
    """What its reader needs is more than is fetched here, so the file moves aside on the server."""
    assert closed.is_dir()
    old = random.Random(3).randbytes(20 << 20)
    remote_dir.write("open/b", old)
    mounted = mount_dir(binding=fuse_binding, options="block_cache=8M")
    with reader(mounted.path / "open/b") as fd:
        with pytest.raises(PermissionError):
            (mounted.path / "closed/a").rename(mounted.path / "open/b")
        assert os.listdir(remote_dir.disk / "open") == ["b"]
        assert (remote_dir.disk / "open/b").read_bytes() == old
        assert rest(fd) == old[4:]
    mounted.unmount()
    assert os.listdir(remote_dir.disk / "open") == ["b"]
    assert (closed / "a").exists()


def test_long_open_file_is_back_after_a_kill_between_the_steps_of_its_replacement(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    old = random.Random(4).randbytes(20 << 20)
    disk = remote_dir.write("open/b", old).parent
    remote_dir.write("open/a", b"new")
    mounted = mount_dir(through=relay, options="block_cache=8M")
    a, b = mounted.path / "open/a", mounted.path / "open/b"
    with reader(b):

        def between(command: Command) -> bool:
            """The old file has its hidden name by then; and nobody can give it its own one back."""
            if not command.arg.endswith("/a"):
                return False
            relay.refuse_connections("rst")
            return True

        relay.cut_control("RNFR", when="before", how="fin", where=between)
        renaming = threading.Thread(target=renamed, args=(a, b, errno.ENOTCONN))
        renaming.start()
        until(lambda: not (disk / "b").exists())
        kill(mounted, renaming)
    relay.refuse_connections(None)
    mounted = mount_dir(through=relay)
    until(lambda: sorted(os.listdir(mounted.path / "open")) == ["a", "b"])
    assert (mounted.path / "open/b").read_bytes() == old
    mounted.unmount()
    left = {path.name: path.read_bytes() for path in disk.iterdir()}
    assert left == {"a": b"new", "b": old}


def test_refused_rename_of_a_folder_leaves_both_folders(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, closed: Path
) -> None:
    (closed / "folder").mkdir(mode=0o755)
    (closed / "folder/file").write_bytes(b"below")
    (closed / "folder/file").chmod(0o644)
    remote_dir.write("open/empty/file", b"").unlink()
    mounted = mount_dir(binding=fuse_binding)
    moving, target = mounted.path / "closed/folder", mounted.path / "open/empty"
    with reader(moving / "file", 1) as fd:
        for new in (target, mounted.path / "open/new"):
            with pytest.raises(PermissionError):
                moving.rename(new)
        assert rest(fd) == b"elow"
    assert (moving / "file").read_bytes() == b"below"
    assert os.listdir(mounted.path / "open") == os.listdir(remote_dir.disk / "open") == ["empty"]
    assert os.listdir(target) == []
    assert (closed / "folder/file").exists()


def test_file_that_a_refused_rename_left_is_written_renamed_and_deleted(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, closed: Path
) -> None:
    assert closed.is_dir()
    remote_dir.write("open/b", b"only copy of b")
    mounted = mount_dir(binding=fuse_binding)
    b, c = mounted.path / "open/b", mounted.path / "open/c"
    with reader(b) as fd:
        with pytest.raises(PermissionError):
            (mounted.path / "closed/a").rename(b)
        with open(b, "ab") as file:
            file.write(b" and more")
        b.chmod(0o600)
        assert b.read_bytes() == b"only copy of b and more"
        b.rename(c)
        assert c.read_bytes() == b"only copy of b and more"
        assert not b.exists()
        c.unlink()
        assert not c.exists()
        assert rest(fd) == b" copy of b and more"
        assert os.fstat(fd).st_size == 23
    wait_until_sent(mounted.path)
    # The hidden file that the reader needed is deleted once the mount has seen its close.
    until(lambda: os.listdir(remote_dir.disk / "open") == [])


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_file_that_a_refused_rename_left_is_read_to_its_end_by_its_next_readers(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, closed: Path, how: str
) -> None:
    """libfuse goes on calling the file by the name it made up, and hides it no second time."""
    old = b"the old content"
    remote_dir.write("open/b", old)
    remote_dir.write("open/a", b"")
    mounted = mount_dir(binding=fuse_binding)
    b = mounted.path / "open/b"
    with reader(b), pytest.raises(PermissionError):
        (mounted.path / "closed/a").rename(b)
    with reader(b) as fd:
        if how == "replaced":
            (mounted.path / "open/a").rename(b)
            assert b.read_bytes() == b""
        else:
            b.unlink()
            b.write_bytes(b"")
        time.sleep(1.1)  # the kernel asks for the size again
        assert os.fstat(fd).st_size == len(old)
        assert rest(fd) == old[4:]
    wait_until_sent(mounted.path)
    assert closed.is_dir()
    assert os.listdir(mounted.path / "open") == (["b"] if how == "replaced" else ["a", "b"])


def test_refused_deletion_of_an_open_file_is_reported(
    fuse_binding: str, mount_dir: MountDir, closed: Path
) -> None:
    mounted = mount_dir(binding=fuse_binding)
    with reader(mounted.path / "closed/a") as fd:
        with pytest.raises(PermissionError):
            (mounted.path / "closed/a").unlink()
        assert rest(fd) == b"to be moved"
    assert os.listdir(closed) == ["a"]
    assert (mounted.path / "closed/a").read_bytes() == b"not to be moved"


def test_deletion_that_a_sticky_folder_refuses_later_gives_the_name_back(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir
) -> None:
    """The deletion of the user's own file has worked before; this file is another user's."""
    folder = remote_dir.disk / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / "theirs").write_bytes(b"of somebody else")
    (folder / "theirs").chmod(0o644)
    remote_dir.write("sticky/ours", b"ours")
    mounted = mount_dir(binding=fuse_binding)
    there = mounted.path / "sticky"
    (there / "ours").unlink()
    with reader(there / "theirs") as fd:
        with contextlib.suppress(PermissionError):
            (there / "theirs").unlink()
        until(lambda: "refuses; it stays" in mounted.log_text())
        assert os.listdir(there) == ["theirs"]
        assert (there / "theirs").read_bytes() == b"of somebody else"
        assert rest(fd) == b"omebody else"
    assert os.listdir(there) == ["theirs"]
    with pytest.raises(PermissionError):
        (there / "theirs").unlink()
    assert (folder / "theirs").exists()


@pytest.mark.parametrize("known", [False, True], ids=["unknown folder", "known folder"])
def test_deleted_open_file_is_gone_at_once_and_read_to_its_end(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, known: bool
) -> None:
    remote_dir.write("b", b"old content")
    mounted = mount_dir(binding=fuse_binding)
    if known:
        (mounted.path / "made").mkdir()
    with reader(mounted.path / "b") as fd:
        (mounted.path / "b").unlink()
        until(lambda: not (remote_dir.disk / "b").exists(), 2)
        assert "b" not in os.listdir(mounted.path)
        assert os.fstat(fd).st_size == 11
        (mounted.path / "b").write_bytes(b"a new one")
        assert rest(fd) == b"content"
    wait_until_sent(mounted.path)
    assert (remote_dir.disk / "b").read_bytes() == b"a new one"
    mounted.unmount()
    assert not list(remote_dir.disk.glob(".ftpfs-*"))


@pytest.mark.parametrize("size", [5_000, 20 << 20], ids=["small", "large"])
def test_replaced_open_file_is_read_to_its_end(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, size: int
) -> None:
    old = random.Random(size).randbytes(size)
    remote_dir.write("b", old)
    remote_dir.write("a", b"new")
    mounted = mount_dir(binding=fuse_binding, options="block_cache=8M")
    with reader(mounted.path / "b") as fd:
        (mounted.path / "a").rename(mounted.path / "b")
        assert (remote_dir.disk / "b").read_bytes() == b"new"
        assert (mounted.path / "b").read_bytes() == b"new"
        assert rest(fd) == old[4:]
    mounted.unmount()
    assert os.listdir(remote_dir.disk) == ["b"]


@pytest.mark.parametrize("killed", [False, True], ids=["lives", "killed"])
def test_file_with_a_reader_is_on_the_server_while_the_one_that_replaces_it_is_sent(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, killed: bool
) -> None:
    remote_dir.write("x", b"the old x")
    mounted = mount_dir(through=relay)
    new = random.Random(1).randbytes(12 << 20)
    (mounted.path / "first").write_bytes(b"1")
    wait_until_sent(mounted.path)
    missing = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if not (remote_dir.disk / "x").exists():
                missing.append(time.monotonic())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    relay.data_rate = 3 << 20
    renaming = threading.Thread(
        target=renamed, args=(mounted.path / "x.new", mounted.path / "x", errno.ENOTCONN)
    )
    with reader(mounted.path / "x") as fd:
        (mounted.path / "x.new").write_bytes(new)
        renaming.start()
        if killed:
            time.sleep(0.5)
            kill(mounted, renaming)
        else:
            renaming.join()
            assert rest(fd) == b"old x"
            assert (mounted.path / "x").read_bytes() == new
    relay.clear()
    if killed:
        assert (remote_dir.disk / "x").read_bytes() == b"the old x"
        mounted = mount_dir(through=relay)
    wait_until_sent(mounted.path)
    over.set()
    watcher.join()
    assert not missing
    mounted.unmount()
    left = {path.name: path.read_bytes() for path in remote_dir.disk.iterdir()}
    assert left.pop("first") == b"1"
    assert left == ({"x": new} if "x.new" not in left else {"x": b"the old x", "x.new": new})


@pytest.mark.parametrize("open_", [False, True], ids=["closed", "open"])
def test_renames_over_a_link_that_drops_commands_lose_nothing(
    remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, open_: bool
) -> None:
    chance = random.Random(7)

    def dropped(_: Command) -> bool:
        return chance.random() < DROPPED / 2

    for number in range(RENAMES):
        remote_dir.write(f"{number}/a", b"new content %d" % number)
        remote_dir.write(f"{number}/b", b"old %d" % number)
    options = "reply_timeout=5,connect_timeout=5"
    mounted = mount_dir(through=relay, options=options)
    told = 0
    for number in range(RENAMES):
        folder, disk = mounted.path / str(number), remote_dir.disk / str(number)
        old, new = b"old %d" % number, b"new content %d" % number
        relay.cut_control(when="before", times=None, where=dropped)
        relay.cut_control(when="after", times=None, where=dropped)
        with contextlib.ExitStack() as stack:
            if open_:
                with contextlib.suppress(OSError):
                    stack.enter_context(reader(folder / "b"))
            done = renamed(folder / "a", folder / "b")
            told += done
            if number % 10 == 9:
                kill(mounted)
        relay.clear()
        if number % 10 == 9:
            mounted = mount_dir(through=relay, options=options)
            folder = mounted.path / str(number)
        # What is in doubt is settled at the next look.
        seen: dict[str, bytes] = {}
        until(lambda folder=folder, seen=seen: looked_at(folder, seen))  # type: ignore[misc]
        assert seen == ({"b": new} if done or "a" not in seen else {"a": new, "b": old}), number
        assert {path.name: path.read_bytes() for path in disk.iterdir()} == seen, number
    assert told > RENAMES / 4


@pytest.mark.parametrize("open_", [False, True], ids=["closed", "open"])
def test_replaced_files_over_a_link_that_drops_commands_are_old_or_new(
    fuse_binding: str, remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir, open_: bool
) -> None:
    """Written beside, and renamed into place, as editors do it."""
    chance = random.Random(8)
    for number in range(RENAMES):
        remote_dir.write(f"{number}/b", b"old %d" % number)
    words = {"options": "reply_timeout=5,connect_timeout=5", "binding": fuse_binding}
    mounted = mount_dir(through=relay, **words)
    told = 0
    for number in range(RENAMES):
        folder, disk = mounted.path / str(number), remote_dir.disk / str(number)
        old, new = b"old %d" % number, b"new content %d" % number
        drop_commands(relay, chance)
        with contextlib.ExitStack() as stack:
            if open_:
                with contextlib.suppress(OSError):
                    stack.enter_context(reader(folder / "b"))
            written = wrote(folder / "b.new", new)
            done = written and renamed(folder / "b.new", folder / "b", errno.ENOENT)
            told += done
            if number % 10 == 9:
                time.sleep(chance.uniform(0, 0.3))
                kill(mounted)
        relay.clear()
        if number % 10 == 9:
            mounted = mount_dir(through=relay, **words)
            folder = mounted.path / str(number)
        seen: dict[str, bytes] = {}
        until(lambda folder=folder, seen=seen: looked_at(folder, seen))  # type: ignore[misc]
        wait_until_sent(folder)
        assert seen.keys() <= {"b", "b.new"}, number
        assert seen["b"] in ([new] if done else [old, new]), number
        assert new.startswith(seen.get("b.new", b"")), number
        if written and seen["b"] == old:
            assert seen["b.new"] == new, number
        until(lambda folder=folder, disk=disk: same_names(folder, disk))  # type: ignore[misc]
        assert (disk / "b").read_bytes() == (folder / "b").read_bytes()
    assert told > RENAMES / 4


def test_lines_appended_over_a_link_that_drops_commands_are_there_once(
    fuse_binding: str, remote_dir: RemoteDir, relay: Relay, mount_dir: MountDir
) -> None:
    """The mount has made a file in the folder before.

    Until one file has arrived there, each close waits for its upload and may fail with it, though
    the line is kept and sent later.
    """
    chance = random.Random(9)
    remote_dir.write("log", b"begin\n")
    words = {"options": "reply_timeout=5,connect_timeout=5", "binding": fuse_binding}
    mounted = mount_dir(through=relay, **words)
    make_known(mounted.path)
    told = []
    for number in range(RENAMES):
        if number % 10 == 0:
            drop_commands(relay, chance)
        line = b"line %d of those that are appended\n" % number
        if wrote(mounted.path / "log", line, "ab"):
            told.append(line)
        time.sleep(chance.uniform(0, 0.3))
        if number % 10 == 9:
            kill(mounted)
            relay.clear()
            mounted = mount_dir(through=relay, **words)
            make_known(mounted.path)
    relay.clear()
    wait_until_sent(mounted.path)
    assert os.listdir(remote_dir.disk) == ["log"]
    lines = (remote_dir.disk / "log").read_bytes().splitlines(keepends=True)
    assert lines.pop(0) == b"begin\n"
    assert len(lines) == len(set(lines)), "a line is there twice"
    assert [line for line in lines if line in told] == told
    assert len(told) > RENAMES / 2


def make_known(folder: Path) -> None:
    """Let the mount learn that the folder takes files."""
    (folder / "made").touch()
    (folder / "made").unlink()


def drop_commands(relay: Relay, chance: random.Random) -> None:
    """Drop some of all commands, before or after the server has carried them out."""

    def dropped(_: Command) -> bool:
        return chance.random() < DROPPED / 2

    relay.cut_control(when="before", times=None, where=dropped)
    relay.cut_control(when="after", times=None, where=dropped)


def wrote(path: Path, data: bytes, mode: str = "wb") -> bool:
    """Whether the write was reported as done. No other error than the network's is allowed."""
    try:
        with open(path, mode) as file:
            file.write(data)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ETIMEDOUT):
            raise
        return False
    return True


def same_names(one: Path, other: Path) -> bool:
    return sorted(os.listdir(one)) == sorted(os.listdir(other))


def looked_at(folder: Path, seen: dict[str, bytes]) -> bool:
    """List `folder`. False while the mount considers the server unreachable."""
    with contextlib.suppress(OSError):
        seen.update({path.name: path.read_bytes() for path in folder.iterdir()})
        return True
    return False


def renamed(old: Path, new: Path, *foreseen: int) -> bool:
    """Whether the rename was reported as done. No other error than the network's is allowed."""
    try:
        old.rename(new)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ETIMEDOUT, *foreseen):
            raise
        return False
    return True
