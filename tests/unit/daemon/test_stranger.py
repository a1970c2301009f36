"""The other project's distribution called ftpfs is noticed; an early one of ours is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftpfs.daemon import stranger

OURS = "[console_scripts]\nftpfs = ftpfs.cli:main\nmount.ftpfs = ftpfs.cli:mount_helper\n"
THEIRS = "[console_scripts]\nftpfs = ftpfs:main\n"


def install(folder: Path, name: str, entry_points: str, metadata: str = "METADATA") -> None:
    into = folder / name
    into.mkdir()
    (into / metadata).write_text("Metadata-Version: 2.1\nName: ftpfs\nVersion: 0.2.4\n")
    (into / "entry_points.txt").write_text(entry_points)


@pytest.mark.parametrize(
    ("name", "metadata"),
    [("ftpfs-0.2.4.dist-info", "METADATA"), ("ftpfs-0.2.4-py3.11.egg-info", "PKG-INFO")],
)
def test_other_project_is_named_in_one_line(tmp_path: Path, name: str, metadata: str) -> None:
    install(tmp_path, name, THEIRS, metadata)
    line = stranger.warning(["/nonexistent", str(tmp_path)])
    assert line.startswith("another project's ftpfs 0.2.4 is installed here")
    assert "\n" not in line


@pytest.mark.parametrize("name", ["ftpfs-0.1.0.dist-info", "ftpfs_mount-0.1.0.dist-info"])
def test_this_project_is_no_stranger(tmp_path: Path, name: str) -> None:
    install(tmp_path, name, OURS)
    assert stranger.warning([str(tmp_path)]) == ""


def test_without_the_other_project_no_metadata_library_is_imported() -> None:
    code = (
        "import sys; from ftpfs.daemon import stranger; print(repr(stranger.warning(['/usr'])), "
        "'importlib.metadata' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "'' False\n"
