"""What people do with files, on every server, with both FUSE bindings, on real mounts.

Each result is compared with the server's own disk, not with what the mount says of itself. What a
server itself cannot do is named in `tests.support.servers.CANNOT`; such a case is skipped with that
reason, or the expectation says how it differs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import mmap
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted
from tests.support import servers
from tests.support.waiting import until_gone

pytestmark = [pytest.mark.mount, pytest.mark.far]

Snapshot = dict[str, tuple[str, bytes, int]]


def snapshot(folder: Path, *, times: bool = True) -> Snapshot:
    """Every name below `folder`: its kind, its bytes, its time in whole seconds (of files)."""
    found: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = ("dir", b"", 0)
        else:
            when = int(path.stat().st_mtime) if times else 0
            found[name] = ("file", path.read_bytes(), when)
    return found


def make_tree(folder: Path, *, seed: int = 1) -> Path:
    """A small source tree: sizes around the block and buffer limits, old and odd times, modes."""
    rng = random.Random(seed)
    sizes = [0, 1, 4095, 4096, 4097, 131071, 131072, 131073, 300_000, 1_200_000]
    for number, size in enumerate(sizes):
        path = folder / f"dir{number % 3}" / f"sub{number % 2}" / f"file {number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
        # From 2001 to now, among them winter and summer, and one in the future.
        when = 1_000_000_000 + number * 90_000_000
        os.utime(path, (when, when))
    script = folder / "run.sh"
    script.write_text("#!/bin/sh\necho run\n")
    script.chmod(0o755)
    (folder / "empty folder").mkdir()
    return folder


def run(command: str, cwd: Path, **variables: str) -> str:
    """A shell command; its output. Fails the test with everything it said."""
    done = subprocess.run(
        ["/bin/sh", "-ec", command],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", **variables},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# Copies.


def test_cp_in_arrives_byte_for_byte_with_its_times_and_modes(
    mounted: Mounted, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source")
    run(f"cp -a {source}/. {mounted.path}/", tmp_path)
    assert snapshot(mounted.disk) == snapshot(source)
    assert (mounted.disk / "run.sh").stat().st_mode & 0o111 == 0o111


def test_cp_out_brings_everything_back_byte_for_byte_with_its_times(
    remote_dir: RemoteDir, fuse_binding: str, mount_dir: MountDir, tmp_path: Path
) -> None:
    make_tree(remote_dir.disk)
    for path in remote_dir.disk.rglob("*"):
        remote_dir.give(path)
    mounted = mount_dir(binding=fuse_binding)
    run(f"cp -a {mounted.path}/. {tmp_path}/out/", tmp_path)
    assert snapshot(tmp_path / "out") == snapshot(remote_dir.disk)


def test_second_rsync_transfers_nothing(mounted: Mounted, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    # Times of folders: not every server can set them, and rsync says so in its list.
    command = f"rsync -a --omit-dir-times --itemize-changes {source}/ {mounted.path}/"
    run(command, tmp_path)
    assert snapshot(mounted.disk) == snapshot(source)
    assert run(command, tmp_path) == ""


def test_tar_unpacks_a_tree(mounted: Mounted, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    with tarfile.open(tmp_path / "tree.tar", "w") as archive:
        archive.add(source, arcname=".")
    run(f"tar -x --no-same-owner -f {tmp_path}/tree.tar -C {mounted.path}", tmp_path)
    assert snapshot(mounted.disk) == snapshot(source)


# Programs that work on files.


def test_git_keeps_a_sound_repository(mounted: Mounted, tmp_path: Path) -> None:
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "t"), ("EMAIL", "t@example.org"))
    }
    script = """
        git init -q work && cd work
        echo one > one.txt; mkdir sub; echo two > sub/two.txt
        git add . && git commit -qm first
        echo more >> one.txt; git mv sub/two.txt sub/three.txt; git commit -qam second
        git checkout -q -b side HEAD~1; echo side > side.txt; git add .; git commit -qm side
        git checkout -q -; git merge -q -m merged side
        git gc -q; git fsck --strict; test -z "$(git status --porcelain)"
    """
    run(script, mounted.path, HOME=str(tmp_path), **identity)
    # On the server's own disk it is a repository, too.
    run(
        "git -c safe.directory='*' fsck --strict && git -c safe.directory='*' log --oneline",
        mounted.disk / "work",
        HOME=str(tmp_path),
    )
    assert (mounted.disk / "work" / "side.txt").read_text() == "side\n"


def test_sqlite_creates_inserts_and_selects(mounted: Mounted) -> None:
    with sqlite3.connect(mounted.path / "data.db") as database:
        database.execute("create table numbers (n integer primary key, s text)")
        database.executemany(
            "insert into numbers values (?, ?)", [(n, str(n) * 50) for n in range(500)]
        )
    database.close()
    with sqlite3.connect(mounted.path / "data.db") as database:
        database.execute("update numbers set s = 'changed' where n = 250")
    database.close()
    there = sqlite3.connect(mounted.disk / "data.db")
    assert there.execute("pragma integrity_check").fetchone() == ("ok",)
    assert there.execute("select count(*), sum(n) from numbers").fetchone() == (500, 124750)
    assert there.execute("select s from numbers where n = 250").fetchone() == ("changed",)
    there.close()


def test_vim_writes_and_renames(mounted: Mounted) -> None:
    (mounted.path / "note.txt").write_text("first\nsecond\n")
    vim = shutil.which("vim") or shutil.which("vim.tiny") or "vim"
    run(
        # Renames the original to note.txt~, writes note.txt anew. (backupskip names /tmp.)
        f"{vim} -u NONE -N -es -c 'set backup backupcopy=no backupdir=. backupskip='"
        " -c '%s/second/SECOND/' -c wq note.txt",
        mounted.path,
    )
    assert (mounted.disk / "note.txt").read_text() == "first\nSECOND\n"
    assert (mounted.disk / "note.txt~").read_text() == "first\nsecond\n"


def test_sed_edits_a_file_in_place(mounted: Mounted) -> None:
    (mounted.path / "conf").write_text("a=1\nb=2\n" * 1000)
    run("sed -i s/b=2/b=3/ conf", mounted.path)
    assert (mounted.disk / "conf").read_text() == "a=1\nb=3\n" * 1000


# Changes inside files.


def test_shell_appends_to_a_file(mounted: Mounted) -> None:
    run("for n in 1 2 3; do echo line $n >> log; done", mounted.path)
    assert (mounted.disk / "log").read_text() == "line 1\nline 2\nline 3\n"


def test_dd_overwrites_the_middle_and_leaves_the_rest(mounted: Mounted) -> None:
    data = bytearray(random.Random(2).randbytes(500_000))
    (mounted.path / "f").write_bytes(data)
    run("printf HELLO | dd of=f bs=1 seek=250000 conv=notrunc status=none", mounted.path)
    data[250_000:250_005] = b"HELLO"
    assert (mounted.disk / "f").read_bytes() == data


def test_middle_of_a_file_that_was_never_read_is_overwritten(
    remote_dir: RemoteDir, fuse_binding: str, mount_dir: MountDir
) -> None:
    data = bytearray(random.Random(3).randbytes(700_000))
    remote_dir.write("f", bytes(data))
    mounted = mount_dir(binding=fuse_binding)
    with open(mounted.path / "f", "r+b") as file:
        file.seek(333_333)
        file.write(b"x" * 200_000)
        file.flush()
        file.seek(333_300)
        data[333_333:533_333] = b"x" * 200_000
        assert file.read(100) == data[333_300:333_400], "own writes are read back at once"
    assert (mounted.disk / "f").read_bytes() == data


def test_file_is_truncated_to_any_size(mounted: Mounted) -> None:
    data = random.Random(4).randbytes(400_000)
    for size in (0, 1, 100_000, 131_072, 400_000, 1_000_000):
        name = f"f{size}"
        (mounted.path / name).write_bytes(data)
        os.truncate(mounted.path / name, size)
        expected = data[:size].ljust(size, b"\0")
        assert (mounted.disk / name).read_bytes() == expected
        assert (mounted.path / name).read_bytes() == expected


def test_open_file_is_truncated(mounted: Mounted) -> None:
    with open(mounted.path / "f", "w+b") as file:
        file.write(b"0123456789" * 1000)
        file.flush()
        file.truncate(5)
        assert os.fstat(file.fileno()).st_size == 5
        file.seek(8)
        file.write(b"!")
    assert (mounted.disk / "f").read_bytes() == b"01234\0\0\0!"


def test_mapped_file_is_written_back(mounted: Mounted) -> None:
    (mounted.path / "f").write_bytes(bytes(300_000))
    with open(mounted.path / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[200_000:200_003] = b"map"
        mapped.flush()
    assert (mounted.disk / "f").read_bytes() == bytes(200_000) + b"map" + bytes(99_997)


# Names.


def test_rename_replaces_existing_files_and_folders(mounted: Mounted) -> None:
    here = mounted.path
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    os.rename(here / "a", here / "b")
    assert (mounted.disk / "b").read_text() == "a"
    assert not (mounted.disk / "a").exists()
    (here / "full").mkdir()
    (here / "full" / "inside").write_text("x")
    (here / "target").mkdir()
    os.rename(here / "full", here / "target")
    assert (mounted.disk / "target" / "inside").read_text() == "x"
    assert (here / "target" / "inside").read_text() == "x"
    with pytest.raises(IsADirectoryError):
        os.rename(here / "b", here / "target")
    with pytest.raises(NotADirectoryError):
        os.rename(here / "target", here / "b")
    (here / "other").mkdir()
    (here / "other" / "kept").write_text("kept")
    with pytest.raises(OSError) as caught:
        os.rename(here / "target", here / "other")
    assert caught.value.errno == errno.ENOTEMPTY
    assert sorted(p.name for p in mounted.disk.iterdir()) == ["b", "other", "target"]


def test_mv_moves_between_folders_and_rm_removes_a_tree(mounted: Mounted, tmp_path: Path) -> None:
    make_tree(mounted.path)
    run("mkdir moved && mv dir0 dir1/sub0 run.sh moved/ && mv moved 'moved again'", mounted.path)
    assert (mounted.disk / "moved again" / "run.sh").exists()
    assert (mounted.disk / "moved again" / "sub0").is_dir()
    run("rm -rf ./*", mounted.path)
    assert list(mounted.disk.iterdir()) == []


def test_odd_names_reach_the_disk_as_they_are(mounted: Mounted) -> None:
    """Every name of `servers.NAMES`, as a file and as a folder, if the server can have it."""
    cannot = servers.CANNOT[mounted.server.kind]
    failed = {}
    for what, name in servers.NAMES.items():
        try:
            if what not in cannot:
                check_file_name(mounted, name)
            if what not in cannot and f"{what}, a folder" not in cannot:
                check_folder_name(mounted, name)
        except (AssertionError, OSError) as error:
            failed[what] = repr(error)
            for left in mounted.disk.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    assert failed == {}


def check_file_name(mounted: Mounted, name: bytes) -> None:
    here = os.fsencode(mounted.path)

    def there() -> bytes:
        return os.fsencode(mounted.disk)

    data = name * 3
    Path(os.fsdecode(here + b"/" + name)).write_bytes(data)
    assert os.listdir(there()) == [name]
    assert os.listdir(here) == [name]
    with open(there() + b"/" + name, "rb") as file:
        assert file.read() == data
    with open(here + b"/" + name, "rb") as file:
        assert file.read() == data
    assert os.stat(here + b"/" + name).st_size == len(data)
    os.utime(here + b"/" + name, (1_000_000_000, 1_000_000_000))
    assert int(os.stat(there() + b"/" + name).st_mtime) == 1_000_000_000
    os.chmod(here + b"/" + name, 0o600)
    assert stat.S_IMODE(os.stat(there() + b"/" + name).st_mode) == 0o600
    os.rename(here + b"/" + name, here + b"/plain")
    assert os.listdir(there()) == [b"plain"]
    os.rename(here + b"/plain", here + b"/" + name)
    os.unlink(here + b"/" + name)
    assert os.listdir(there()) == []


def check_folder_name(mounted: Mounted, name: bytes) -> None:
    here = os.fsencode(mounted.path)

    def there() -> bytes:
        return os.fsencode(mounted.disk)

    os.mkdir(here + b"/" + name)
    assert os.listdir(there()) == [name]
    with open(here + b"/" + name + b"/" + name, "wb") as file:
        file.write(b"inside")
    assert os.listdir(there() + b"/" + name) == [name]
    assert os.listdir(here + b"/" + name) == [name]
    os.unlink(here + b"/" + name + b"/" + name)
    os.rmdir(here + b"/" + name)
    assert os.listdir(there()) == []


def test_name_that_ftp_cannot_carry_is_refused_and_nothing_is_sent(mounted: Mounted) -> None:
    for name in ("a\rb", "a\nb", "x\r\nDELE y"):
        with pytest.raises(OSError) as caught:
            (mounted.path / name).write_text("x")
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError) as caught:
            (mounted.path / name).mkdir()
        assert caught.value.errno == errno.EINVAL
    assert list(mounted.disk.iterdir()) == []


def test_name_that_is_too_long_is_refused(mounted: Mounted) -> None:
    with pytest.raises(OSError) as caught:
        (mounted.path / ("n" * 256)).write_text("x")
    assert caught.value.errno == errno.ENAMETOOLONG


# Sizes and crowds.


def test_empty_file_is_written_and_read(mounted: Mounted) -> None:
    run("touch empty; : > empty2", mounted.path)
    assert (mounted.disk / "empty").read_bytes() == b""
    assert (mounted.disk / "empty2").read_bytes() == b""
    assert (mounted.path / "empty").read_bytes() == b""


def test_sparse_file_of_5_gib_is_read_at_its_end(
    remote_dir: RemoteDir, fuse_binding: str, mount_dir: MountDir
) -> None:
    size = 5 << 30
    sparse = remote_dir.write("sparse", b"head")
    with open(sparse, "r+b") as file:
        file.seek(size - 4)
        file.write(b"tail")
    mounted = mount_dir(binding=fuse_binding)
    assert (mounted.path / "sparse").stat().st_size == size
    with open(mounted.path / "sparse", "rb") as file:
        file.seek(-100_000, os.SEEK_END)
        assert file.read() == bytes(99_996) + b"tail"
        file.seek(0)
        assert file.read(8) == b"head\0\0\0\0"


def test_64_parallel_readers_get_right_bytes(
    remote_dir: RemoteDir, fuse_binding: str, mount_dir: MountDir
) -> None:
    rng = random.Random(5)
    wanted = {}
    for number in range(64):
        data = rng.randbytes(rng.choice([10_000, 200_000, 1_500_000]))
        remote_dir.write(f"f{number}", data)
        wanted[f"f{number}"] = hashlib.sha256(data).hexdigest()
    mounted = mount_dir(binding=fuse_binding)
    start = threading.Barrier(64)

    def read(name: str) -> str:
        start.wait()
        return hashlib.sha256((mounted.path / name).read_bytes()).hexdigest()

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        results = dict(zip(wanted, pool.map(read, wanted), strict=True))
    assert results == wanted


def test_two_writers_write_two_files_at_once(mounted: Mounted) -> None:
    parts = [random.Random(seed).randbytes(3_000_000) for seed in (6, 7)]

    def write(number: int) -> None:
        with open(mounted.path / f"f{number}", "wb") as file:
            for start in range(0, 3_000_000, 70_000):
                file.write(parts[number][start : start + 70_000])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    for number in range(2):
        assert (mounted.disk / f"f{number}").read_bytes() == parts[number]


# Open files that lose their names.


def test_an_open_file_outlives_its_name(
    remote_dir: RemoteDir, fuse_binding: str, mount_dir: MountDir
) -> None:
    data = random.Random(8).randbytes(2_000_000)
    remote_dir.write("f", data)
    mounted = mount_dir(binding=fuse_binding)
    with open(mounted.path / "f", "rb") as file:
        assert file.read(10) == data[:10]
        os.unlink(mounted.path / "f")
        assert os.listdir(mounted.path) == []
        file.seek(1_900_000)
        assert file.read() == data[1_900_000:]
        assert os.fstat(file.fileno()).st_size == len(data)
    wait_until_empty(mounted.disk)


def test_replaced_file_is_read_to_its_old_end(mounted: Mounted) -> None:
    old, new = random.Random(9).randbytes(1_500_000), b"new" * 100
    (mounted.path / "f").write_bytes(old)
    (mounted.path / "g").write_bytes(new)
    with open(mounted.path / "f", "rb") as file:
        assert file.read(10) == old[:10]
        os.rename(mounted.path / "g", mounted.path / "f")
        assert (mounted.path / "f").read_bytes() == new
        file.seek(10)
        assert file.read() == old[10:]
    assert (mounted.disk / "f").read_bytes() == new


def test_temporary_file_without_a_name_leaves_nothing(mounted: Mounted) -> None:
    with open(mounted.path / "t", "w+b") as file:
        os.unlink(mounted.path / "t")
        file.write(b"x" * 300_000)
        file.seek(0)
        assert file.read() == b"x" * 300_000
        assert os.fstat(file.fileno()).st_size == 300_000
    wait_until_empty(mounted.disk)


def wait_until_empty(folder: Path) -> None:
    """Wait, because the kernel closes files asynchronously."""
    until_gone(lambda: os.listdir(folder))


# Attributes.


def test_touch_sets_the_time_to_the_second(mounted: Mounted) -> None:
    (mounted.path / "f").write_text("x")
    for when in (1, 951_782_400, 1_709_164_800, 1_767_225_599):  # 1970, two 29 Feb, a year's end
        os.utime(mounted.path / "f", (when, when))
        assert int((mounted.disk / "f").stat().st_mtime) == when
        assert int((mounted.path / "f").stat().st_mtime) == when


def test_chmod_reaches_the_server(mounted: Mounted) -> None:
    (mounted.path / "f").write_text("x")
    (mounted.path / "f").chmod(0o640)
    assert stat.S_IMODE((mounted.disk / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((mounted.path / "f").stat().st_mode) == 0o640


def test_operations_that_ftp_lacks_fail_with_the_right_errno(mounted: Mounted) -> None:
    (mounted.path / "f").write_text("x")
    attempts: list[Callable[[], object]] = [
        lambda: os.symlink("f", mounted.path / "link"),
        lambda: os.link(mounted.path / "f", mounted.path / "link"),
        lambda: os.mkfifo(mounted.path / "fifo"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EPERM
    with pytest.raises(OSError) as caught:
        os.setxattr(mounted.path / "f", "user.x", b"1")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert os.listdir(mounted.disk) == ["f"]


def test_failed_calls_have_the_right_errno(mounted: Mounted) -> None:
    here = mounted.path
    (here / "f").write_text("x")
    (here / "d").mkdir()
    (here / "d" / "inside").write_text("x")
    expected: list[tuple[Callable[[], object], int]] = [
        (lambda: (here / "missing").read_text(), errno.ENOENT),
        (lambda: os.unlink(here / "missing"), errno.ENOENT),
        (lambda: os.rmdir(here / "missing"), errno.ENOENT),
        (lambda: os.listdir(here / "missing"), errno.ENOENT),
        (lambda: (here / "missing" / "x").write_text("x"), errno.ENOENT),
        (lambda: os.rename(here / "missing", here / "y"), errno.ENOENT),
        (lambda: os.mkdir(here / "d"), errno.EEXIST),
        (lambda: os.rmdir(here / "d"), errno.ENOTEMPTY),
        (lambda: os.rmdir(here / "f"), errno.ENOTDIR),
        (lambda: os.unlink(here / "d"), errno.EISDIR),
        (lambda: os.listdir(here / "f"), errno.ENOTDIR),
        (lambda: (here / "f" / "x").write_text("x"), errno.ENOTDIR),
        (lambda: (here / "d").write_text("x"), errno.EISDIR),
    ]
    for attempt, number in expected:
        with pytest.raises(OSError) as caught:
            attempt()
        assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


def test_write_into_a_read_only_folder_is_permission_denied(
    remote_dir: RemoteDir, fuse_binding: str, mount_dir: MountDir
) -> None:
    closed = remote_dir.disk / "closed"
    closed.mkdir()
    remote_dir.write("closed/there", b"x")
    os.chown(closed, 0, 0)
    mounted = mount_dir(binding=fuse_binding)
    here = mounted.path / "closed"
    for attempt in (
        lambda: (here / "new").write_text("x"),
        lambda: (here / "long").write_bytes(bytes(20 << 20)),
        lambda: (here / "folder").mkdir(),
        lambda: (here / "there").unlink(),
        lambda: os.rename(here / "there", mounted.path / "moved"),
        lambda: os.rename(mounted.path / "file", here / "file"),
    ):
        (mounted.path / "file").touch()
        with pytest.raises(PermissionError):
            attempt()
    assert os.listdir(closed) == ["there"]


def test_links_are_followed_and_never_lead_out_of_the_mount(
    remote_dir: RemoteDir, fuse_binding: str, mount_dir: MountDir
) -> None:
    disk = remote_dir.disk
    remote_dir.write("target", b"content")
    remote_dir.write("folder/inside", b"inside")
    for link, target in {
        "relative": "target",
        "to folder": "folder",
        "outside": "/etc/passwd",
        "climbing": "../../../../../../../../etc/passwd",
        "loop": "loop",
    }.items():
        os.symlink(target, disk / link)
    mounted = mount_dir(binding=fuse_binding)
    assert (mounted.path / "relative").read_bytes() == b"content"
    assert (mounted.path / "to folder" / "inside").read_bytes() == b"inside"
    if mounted.server.kind == "pyftpdlib":
        # MLSD shows the targets of links, not the links: here there are no links at all.
        assert not any(path.is_symlink() for path in mounted.path.iterdir())
    else:
        for link in ("outside", "climbing", "loop"):
            # proftpd's MLSD leaves out links that lead nowhere on the server.
            assert mounted.server.kind == "proftpd" or (mounted.path / link).is_symlink()
            with pytest.raises(OSError):
                (mounted.path / link).read_bytes()
    assert {"relative", "to folder"} <= set(os.listdir(mounted.path))


def test_statfs_reports_values_that_file_managers_accept(mounted: Mounted) -> None:
    figures = os.statvfs(mounted.path)
    free = figures.f_bavail * figures.f_frsize
    assert 1 << 30 < free < 1 << 60
    assert figures.f_namemax == 255


def test_read_only_mount_refuses_changes(
    remote_dir: RemoteDir, fuse_binding: str, mount_dir: MountDir
) -> None:
    remote_dir.write("f", b"x")
    mounted = mount_dir(binding=fuse_binding, options="ro")
    assert (mounted.path / "f").read_bytes() == b"x"
    for attempt in (
        lambda: (mounted.path / "f").write_text("y"),
        lambda: (mounted.path / "g").write_text("y"),
        lambda: (mounted.path / "d").mkdir(),
        lambda: (mounted.path / "f").unlink(),
    ):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    assert (remote_dir.disk / "f").read_bytes() == b"x"


def test_log_has_no_error_after_everyday_work(mounted: Mounted, tmp_path: Path) -> None:
    make_tree(mounted.path)
    run("ls -lR . > /dev/null; find . -type f | xargs -d '\\n' cat > /dev/null", mounted.path)
    run("rm -rf ./*", mounted.path)
    mounted.unmount()
    assert "ERROR" not in mounted.log_text()
    assert "Traceback" not in mounted.log_text()


def test_files_with_times_that_ftp_cannot_say_arrive(mounted: Mounted) -> None:
    times = [-(1 << 62), -(1 << 31) - 1, -1, (1 << 31) + 1, 253_402_300_800, 1 << 40]
    for number, when in enumerate(times):
        file = mounted.path / str(number)
        file.write_bytes(b"content")
        with contextlib.suppress(OSError):  # servers refuse some of them
            os.utime(file, (when, when))
        assert mounted.disk.joinpath(str(number)).read_bytes() == b"content"
        with contextlib.suppress(OSError):
            os.utime(file, (when, when))  # and of a file that is on the server
        with file.open("ab") as more:
            more.write(b" and more")
        (mounted.path / f"folder{number}").mkdir()
        with contextlib.suppress(OSError):
            os.utime(mounted.path / f"folder{number}", (when, when))
    names = [f"{kind}{number}" for kind in ("", "folder") for number in range(len(times))]
    assert sorted(os.listdir(mounted.disk)) == sorted(names)
    for number in range(len(times)):
        assert (mounted.disk / str(number)).read_bytes() == b"content and more"
    log = mounted.log_text()
    assert "foresaw" not in log
    assert "ValueError" not in log
