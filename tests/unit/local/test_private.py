"""Where other users may write, nothing that they planted is taken for ftpfs's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.store.store import Store
from ftpfs.core.writing.journal import NAME
from ftpfs.core.writing.spool import KEPT, Spool, left_behind
from ftpfs.daemon import logs
from ftpfs.daemon.control_socket import Control
from ftpfs.ftp.memory import Memory
from ftpfs.ftp.profile import Profile
from ftpfs.local import private

NOBODY = 65534


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /tmp: all users may write, and none may rename another's files."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file or folder that an attacker would like ftpfs to write into."""
    folder = tmp_path / "target"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "file").write_bytes(b"of somebody")
    return folder


def is_untouched(target: Path) -> bool:
    same = stat.S_IMODE(target.stat().st_mode) == 0o755 and os.listdir(target) == ["file"]
    return same and (target / "file").read_bytes() == b"of somebody"


@pytest.mark.parametrize(
    "use",
    [
        Spool,
        lambda path: Store(path, 1 << 30).close(),
        lambda path: Control(path, "/mnt", {}),
        private.make_folder,
    ],
    ids=["spool", "store", "sockets", "folder"],
)
def test_symbolic_link_in_the_place_of_a_folder_is_not_followed(
    shared: Path, target: Path, use: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    (shared / "ours").symlink_to(target)
    try:
        use(shared / "ours")
    except (errors.PermissionDenied, OSError) as error:
        said = str(error)
    else:
        said = caplog.text  # of what goes on without it
    assert "symbolic link" in said
    assert is_untouched(target)


def test_dangling_link_is_not_followed(shared: Path, tmp_path: Path) -> None:
    (shared / "ours").symlink_to(tmp_path / "to be made")
    with pytest.raises(errors.PermissionDenied, match="symbolic link"):
        private.make_folder(shared / "ours")
    assert not (tmp_path / "to be made").exists()


@pytest.mark.parametrize("name", ["lock", "owner", NAME, f"{NAME}-wal"])
def test_link_in_the_place_of_one_of_the_spools_files_is_not_followed(
    shared: Path, target: Path, name: str
) -> None:
    (shared / "ours").mkdir(mode=0o700)
    (shared / "ours" / name).symlink_to(target / "file")
    with pytest.raises(errors.PermissionDenied, match="link"):
        assert Spool(shared / "ours").owner
    assert is_untouched(target)
    left_behind(shared / "ours")
    assert is_untouched(target)


def test_kept_file_is_not_moved_through_a_link(shared: Path, target: Path) -> None:
    spool = Spool(shared / "ours")
    (shared / "ours" / KEPT).symlink_to(target)
    file = spool.open()
    with pytest.raises(errors.PermissionDenied, match="symbolic link"):
        spool.keep(file.path, "f")
    assert is_untouched(target)


@pytest.mark.parametrize("name", ["lock", "index.db", "index.db-wal"])
def test_link_in_the_place_of_one_of_the_stores_files_switches_it_off(
    shared: Path, target: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (shared / "ours").mkdir(mode=0o700)
    (shared / "ours" / name).symlink_to(target / "file")
    Store(shared / "ours", 1 << 30).close()
    assert "switched off" in caplog.text
    assert is_untouched(target)


def test_folder_that_others_may_write_into_is_refused(shared: Path) -> None:
    (shared / "ours").mkdir()
    (shared / "ours").chmod(0o777)
    with pytest.raises(errors.PermissionDenied, match="others may write"):
        Spool(shared / "ours")


def test_own_folder_readable_by_others_is_closed_to_them(shared: Path) -> None:
    (shared / "ours").mkdir(mode=0o755)
    private.make_folder(shared / "ours")
    assert stat.S_IMODE((shared / "ours").stat().st_mode) == 0o700


@pytest.mark.parametrize("change", ["mode", "owner"])
def test_folder_that_another_user_could_replace_is_refused(tmp_path: Path, change: str) -> None:
    (tmp_path / "above").mkdir()
    if change == "mode":
        (tmp_path / "above").chmod(0o777)
    else:
        os.chown(tmp_path / "above", NOBODY, NOBODY)
    with pytest.raises(errors.PermissionDenied, match="may rename"):
        Spool(tmp_path / "above" / "ours")


def test_log_is_not_written_through_a_link_of_somebody_else(shared: Path, target: Path) -> None:
    (shared / "log").symlink_to(target / "file")
    os.chown(shared / "log", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(errors.FtpfsError, match="symbolic link"):
        logs.to_file(shared / "log", "info")
    assert is_untouched(target)


def test_profile_is_not_written_through_a_link(shared: Path, target: Path) -> None:
    (shared / "servers").symlink_to(target)
    profile = Profile()
    profile.known = True
    Memory(shared / "servers" / "a.json").save(profile)
    Memory(shared / "servers" / "file").load(profile)
    assert is_untouched(target)
