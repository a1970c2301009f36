"""One refusal teaches a mount nothing about the whole server, and the next mount neither."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, MountServer, wait_until_sent
from tests.support import odd_server
from tests.support.odd_server import Script
from tests.support.servers import Kind

pytestmark = pytest.mark.mount

THEN = 1_000_000_007  # seconds since 1970, odd: FAT would round it


@pytest.fixture(params=["vsftpd", "proftpd"], scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    """vsftpd has no MFMT, and answers 550 to a time that it may not set."""
    kind: Kind = request.param
    return kind


def test_refused_time_of_one_file_costs_other_files_no_time(
    fuse_binding: str, remote_dir: RemoteDir, mount_dir: MountDir, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("one", "two"):
        (tree / name).write_bytes(b"content")
        os.utime(tree / name, (THEN, THEN))
    (remote_dir.disk / "theirs").write_bytes(b"of somebody else")
    (remote_dir.disk / "theirs").chmod(0o644)
    for number in range(2):
        mounted = mount_dir(binding=fuse_binding)
        theirs = mounted.path / "theirs"
        touch = ["touch", "-d", "2001-02-03 04:05:06", str(theirs)]
        subprocess.run(touch, check=False, capture_output=True)
        wait_until_sent(mounted.path)
        subprocess.run(["cp", "-p", tree / "one", mounted.path / f"copy{number}"], check=True)
        if shutil.which("rsync"):
            subprocess.run(["rsync", "-a", f"{tree}/", mounted.path / f"sync{number}"], check=True)
        else:
            subprocess.run(["cp", "-a", tree, mounted.path / f"sync{number}"], check=True)
        mounted.unmount()
        arrived = remote_dir.disk / f"copy{number}", *(remote_dir.disk / f"sync{number}").iterdir()
        assert [path.stat().st_mtime for path in arrived] == [THEN] * 3


@pytest.mark.parametrize("answer", ["450", "550", "501", "rubbish"])
def test_folder_without_machine_listing_leaves_it_to_the_next_mount(
    tmp_path: Path, mount_server: MountServer, answer: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"content")
    script = Script()
    if answer == "rubbish":
        script.machine_listing = lambda _folder: b"Sorry, this folder is read later.\r\n"
    else:
        script.replies = {"MLSD": f"{answer} not in this folder"}
    with odd_server.start(root, script) as odd:
        mounted = mount_server(odd, root)
        assert os.listdir(mounted.path) == ["file"]
        mounted.unmount()
        odd.script.machine_listing, odd.script.replies = None, {}
        odd.commands.clear()
        mounted = mount_server(odd, root)
        assert os.listdir(mounted.path) == ["file"]
        assert "MLSD" in odd.verbs()
        assert "LIST" not in odd.verbs()
