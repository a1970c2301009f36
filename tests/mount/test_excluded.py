"""Excluded names: neither shown nor sent, and kept here for the programs that write them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import MountDir, Mounted, ftpfs

pytestmark = pytest.mark.mount


@pytest.fixture
def mounted(fuse_binding: str, mount_dir: MountDir) -> Mounted:
    return mount_dir(binding=fuse_binding, options="exclude=os-litter;*.tmp;build/")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_excluded_names_of_the_server_are_not_shown(mounted: Mounted) -> None:
    disk = mounted.disk
    (disk / "@eaDir").mkdir()
    (disk / "folder").mkdir()
    for name in (".DS_Store", "._file", "file", "@eaDir/thumb", "folder/Thumbs.db", "folder/a"):
        (disk / name).write_text(name)
    mounted.forget()
    assert names(mounted.path) == ["file", "folder"]
    assert names(mounted.path / "folder") == ["a"]
    for name in (".DS_Store", "@eaDir", "@eaDir/thumb", "folder/Thumbs.db"):
        with pytest.raises(FileNotFoundError):
            os.stat(mounted.path / name)
    assert (mounted.path / "file").read_text() == "file"


def test_what_a_program_writes_stays_here(mounted: Mounted) -> None:
    here = mounted.path
    (here / "folder").mkdir()
    (here / "folder/.DS_Store").write_bytes(data := os.urandom(300_000))
    (here / "build").mkdir()
    (here / "build/sub").mkdir()
    (here / "build/sub/x.o").write_text("object")
    (here / "real").write_text("sent")
    assert (here / "folder/.DS_Store").read_bytes() == data
    assert names(here) == ["build", "folder", "real"]
    assert names(here / "folder") == [".DS_Store"]
    with (here / "folder/.DS_Store").open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")
    mounted.forget()
    changed = data[:1000] + b"changed" + data[1007:]
    assert (here / "folder/.DS_Store").read_bytes() == changed
    os.utime(here / "build/sub/x.o", (1_600_000_000, 1_600_000_000))
    (here / "build/sub/x.o").chmod(0o600)
    assert int((here / "build/sub/x.o").stat().st_mtime) == 1_600_000_000
    # On the server, there is nothing of it.
    assert names(mounted.disk) == ["folder", "real"]
    assert names(mounted.disk / "folder") == []


def test_excluded_files_are_renamed_and_deleted_here(mounted: Mounted) -> None:
    here = mounted.path
    (here / "a.tmp").write_text("one")
    (here / "b.tmp").write_text("two")
    os.replace(here / "a.tmp", here / "b.tmp")
    assert names(here) == ["b.tmp"]
    assert (here / "b.tmp").read_text() == "one"
    with (here / "b.tmp").open() as file:
        os.unlink(here / "b.tmp")
        assert file.read() == "one"
    assert names(here) == []
    (here / "folder").mkdir()
    (here / "folder/._x").write_text("fork")
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(here / "folder")
    (here / "folder").rename(here / "other")
    assert (here / "other/._x").read_text() == "fork"
    shutil.rmtree(here / "other")
    assert names(here) == names(mounted.disk) == []


def test_rename_to_a_name_that_is_sent_copies_the_file(mounted: Mounted) -> None:
    here = mounted.path
    (here / "draft.tmp").write_text("content")
    with pytest.raises(OSError) as caught:
        os.rename(here / "draft.tmp", here / "final")
    assert caught.value.errno == errno.EXDEV
    subprocess.run(["mv", here / "draft.tmp", here / "final"], check=True)
    assert names(here) == ["final"]
    assert (mounted.disk / "final").read_text() == "content"


def test_excluded_files_end_with_the_mount(mount_dir: MountDir) -> None:
    mounted = mount_dir(options="exclude=os-litter")
    (mounted.path / ".DS_Store").write_text("layout")
    mounted.unmount()
    again = mount_dir(options="exclude=os-litter")
    assert names(again.path) == names(again.disk) == []


def test_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    done = ftpfs("mount", "ftp://127.0.0.1:1/", str(tmp_path), "-o", "exclude=;")
    assert done.returncode == 2
    assert "expected patterns" in done.stderr
