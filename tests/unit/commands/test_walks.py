"""`ftpfs ls -R`, `find`, `du`, `mkdir`, `rm`, `mv`, `touch`, `chmod`, on the four real servers."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.conftest import RemoteDir
from tests.unit.commands.processes import ftpfs_process

Ftpfs = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def url(remote_dir: RemoteDir) -> str:
    """The folder's URL, with a slash at its end."""
    server = remote_dir.server
    return f"ftp://{server.user}@{server.host}:{server.port}{quote(remote_dir.path)}/"


@pytest.fixture
def run(remote_dir: RemoteDir) -> Ftpfs:
    """Runs a command, which succeeds."""

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environ = {"FTPFS_PASSWORD": remote_dir.server.password}
        done = ftpfs_process(*arguments, environ=environ)
        assert done.returncode == code, done.stderr
        assert bool(done.stderr) == bool(code), done.stderr
        return done

    return run


@pytest.fixture
def tree(remote_dir: RemoteDir) -> str:
    """A tree on the server; its path there."""
    for name, size in (("t/a", 10), ("t/.h/x", 1), ("t/s/b", 2000), ("t/s/d/c", 300)):
        remote_dir.write(name, b"x" * size)
    return f"{remote_dir.path}/t"


def test_ls_r_lists_each_folder_before_those_in_it(run: Ftpfs, url: str, tree: str) -> None:
    lines = run("ls", "-R", f"{url}t").stdout.splitlines()
    assert lines == [
        *(f"{tree}:", "a", "s", "", f"{tree}/s:", "b", "d", "", f"{tree}/s/d:", "c"),
    ]
    assert f"{tree}/.h:" in run("ls", "-aR", f"{url}t").stdout.splitlines()
    assert run("ls", "-R", f"{url}t/a").stdout == "a\n"


def test_find_prints_paths_by_name_and_kind(run: Ftpfs, url: str, tree: str) -> None:
    names = ["", "/.h", "/a", "/s", "/.h/x", "/s/b", "/s/d", "/s/d/c"]
    assert run("find", f"{url}t").stdout.splitlines() == [tree + name for name in names]
    found = run("find", f"{url}t", "--type", "d", "--name", "[sd]").stdout
    assert found.splitlines() == [f"{tree}/s", f"{tree}/s/d"]


def test_du_sums_each_folder_with_those_in_it(run: Ftpfs, url: str, tree: str) -> None:
    assert run("du", f"{url}t").stdout.splitlines() == [
        *(f"1\t{tree}/.h", f"300\t{tree}/s/d", f"2300\t{tree}/s", f"2311\t{tree}"),
    ]
    assert run("du", "-sh", f"{url}t").stdout == f"2.3K\t{tree}\n"
    assert run("du", f"{url}t/a").stdout == f"10\t{tree}/a\n"


def test_folder_that_cannot_be_listed_is_told_and_the_rest_is_shown(
    run: Ftpfs, url: str, tree: str, remote_dir: RemoteDir
) -> None:
    os.chown(remote_dir.disk / "t/s/d", 0, 0)
    (remote_dir.disk / "t/s/d").chmod(0o700)
    done = run("find", f"{url}t", code=1)
    assert f"{tree}/s/b" in done.stdout
    assert f"ftpfs: {tree}/s/d: " in done.stderr
    for command in (["find"], ["du"], ["ls", "-R"]):
        assert "no such" in run(*command, f"{url}none", code=1).stderr


def test_mkdir_makes_folders_with_those_above(run: Ftpfs, url: str, remote_dir: RemoteDir) -> None:
    run("mkdir", f"{url}one", f"{url}two")
    assert "exists" in run("mkdir", f"{url}one", code=1).stderr
    run("mkdir", f"{url}a/b/c", code=1)
    run("mkdir", "-p", f"{url}a/b/c", f"{url}one")
    assert (remote_dir.disk / "a/b/c").is_dir()


def test_rm_deletes_files_and_with_r_folders(
    run: Ftpfs, url: str, tree: str, remote_dir: RemoteDir
) -> None:
    disk = remote_dir.disk
    remote_dir.write("1.log", b"")
    remote_dir.write("2.log", b"")
    (disk / "link").symlink_to("t")
    run("rm", f"{url}*.log", f"{url}link")
    done = run("rm", f"{url}t", f"{url}t/a", f"{url}none", code=1)
    assert "t: a folder; -r deletes folders" in done.stderr
    assert "none: no such file" in done.stderr
    assert not (disk / "t/a").exists()
    run("rm", "-rf", f"{url}t", f"{url}none")
    assert list(disk.iterdir()) == []


def test_rm_refuses_the_root_of_a_server() -> None:
    assert ftpfs_process("rm", "-r", "ftp://host/").returncode == 2
    assert ftpfs_process("rm", "-r", "ftp://host//").returncode == 2


def test_mv_renames_replaces_and_moves_into_a_folder(
    run: Ftpfs, url: str, tree: str, remote_dir: RemoteDir
) -> None:
    disk = remote_dir.disk
    remote_dir.write("x", b"new")
    remote_dir.write("y", b"old")
    run("mv", f"{url}x", f"{url}y")
    assert (disk / "y").read_bytes() == b"new"
    run("mv", f"{url}y", f"{url}t/a", f"{url}t/s/d")
    assert (disk / "t/s/d/y").read_bytes() == b"new"
    assert (disk / "t/s/d/a").exists()
    run("mv", f"{url}t/s", f"{url}moved")
    remote_dir.write("y", b"y")
    assert (disk / "moved/d/y").exists()
    assert "is not a folder" in run("mv", f"{url}t", f"{url}moved", f"{url}no", code=1).stderr
    assert "no such file" in run("mv", f"{url}none", f"{url}z", code=1).stderr
    assert "the same" in run("mv", f"{url}y", f"{url}y", code=1).stderr


def test_touch_sets_the_time_and_makes_files(run: Ftpfs, url: str, remote_dir: RemoteDir) -> None:
    remote_dir.write("old", b"content")
    os.utime(remote_dir.disk / "old", (1_000_000_000, 1_000_000_000))
    run("touch", f"{url}old", f"{url}new")
    for name, content in (("old", b"content"), ("new", b"")):
        assert (remote_dir.disk / name).read_bytes() == content
        assert abs((remote_dir.disk / name).stat().st_mtime - time.time()) < 100


def test_chmod_sets_the_mode(run: Ftpfs, url: str, remote_dir: RemoteDir) -> None:
    remote_dir.write("a", b"")
    remote_dir.write("b", b"")
    run("chmod", "640", f"{url}a", f"{url}b")
    for name in ("a", "b"):
        assert stat.S_IMODE((remote_dir.disk / name).stat().st_mode) == 0o640
    assert ftpfs_process("chmod", "u+x", f"{url}a").returncode == 2
    assert "none: " in run("chmod", "600", f"{url}none", f"{url}a", code=1).stderr
    assert stat.S_IMODE((remote_dir.disk / "a").stat().st_mode) == 0o600


def test_tree_draws_folders_and_counts(run: Ftpfs, url: str, tree: str) -> None:
    assert run("tree", f"{url}t").stdout.splitlines() == [
        *(tree, "├── a", "└── s", "    ├── b", "    └── d", "        └── c"),
        *("", "2 directories, 3 files"),
    ]
    assert "├── .h" in run("tree", "-a", f"{url}t").stdout
    assert run("tree", "-L", "1", f"{url}t").stdout.splitlines()[1:3] == ["├── a", "└── s"]
    assert run("tree", "-L", "1", f"{url}t").stdout.endswith("1 directory, 1 file\n")
    assert run("tree", "-d", f"{url}t").stdout.splitlines()[1:] == [
        *("└── s", "    └── d", "", "2 directories"),
    ]


def test_tree_names_folders_that_cannot_be_listed(
    run: Ftpfs, url: str, tree: str, remote_dir: RemoteDir
) -> None:
    (remote_dir.disk / "t/s/d").chmod(0)
    done = run("tree", f"{url}t", code=1)
    assert "    └── d  [not listed]" in done.stdout
    assert f"{tree}/s/d: " in done.stderr
    run("tree", f"{url}none", code=1)


def test_stat_shows_size_kind_mode_and_exact_time(
    run: Ftpfs, url: str, tree: str, remote_dir: RemoteDir
) -> None:
    os.utime(remote_dir.disk / "t/a", (1_600_000_001, 1_600_000_001))
    (remote_dir.disk / "t/a").chmod(0o640)
    lines = run("stat", f"{url}t/a", f"{url}t/s").stdout.splitlines()
    assert lines[:2] == [f"  File: {tree}/a", "  Size: 10\tregular file"]
    assert lines[3] == "Modify: 2020-09-13T12:26:41Z"
    assert "directory" in lines[5]
    (told,) = run("stat", "-c", "%n|%s|%F|%Y|%%", f"{url}t/a").stdout.splitlines()
    assert told == f"{tree}/a|10|regular file|1600000001|%"
    assert run("stat", "-c", "%a %A", f"{url}t/a").stdout in ("640 -rw-r-----\n", "? -?????????\n")
    done = run("stat", "-c", "%s", f"{url}t/s/?", f"{url}t/none", f"{url}t/a", code=1)
    assert done.stdout.splitlines()[0] == "2000"
    assert done.stdout.splitlines()[-1] == "10"
    assert "t/none: " in done.stderr
    assert run("stat", "-c", "%q", f"{url}t/a", code=2).stdout == ""


def test_cp_follows_the_rule_of_cp(run: Ftpfs, url: str, tree: str, remote_dir: RemoteDir) -> None:
    (remote_dir.disk / "t/a").chmod(0o640)
    os.utime(remote_dir.disk / "t/a", (1_600_000_001, 1_600_000_001))
    run("cp", f"{url}t/a", f"{url}t/new")
    run("cp", f"{url}t/a", f"{url}t/new", f"{url}t/s/")
    run("cp", f"{url}t/s/b", f"{url}t/new")
    run("cp", "-r", f"{url}t/s", f"{url}copy")
    disk = remote_dir.disk
    assert (disk / "t/new").read_bytes() == b"x" * 2000
    assert (disk / "t/s/new").read_bytes() == b"x" * 10
    assert int((disk / "t/s/a").stat().st_mtime) == 1_600_000_001
    assert sorted(str(each.relative_to(disk / "copy")) for each in (disk / "copy").rglob("*")) == [
        *("a", "b", "d", "d/c", "new"),
    ]
    assert not list(disk.rglob(".ftpfs-*"))
    for words in (
        [f"{url}t/s", f"{url}t/other"],  # a folder, without -r
        ["-r", f"{url}t", f"{url}t/s/inside"],
        [f"{url}t/a", f"{url}t/a"],
        [f"{url}t/none", f"{url}t/other"],
        [f"{url}t/a", f"{url}t/new", f"{url}t/none"],
    ):
        run("cp", *words, code=1)
    assert not (disk / "t/other").exists()
