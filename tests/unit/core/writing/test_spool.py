"""The spool: sparse local files, full disks, and files that are set aside."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.core.writing.spool import KEPT, Spool
from tests.support.memory_remote import disk_full_after


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def test_spool_is_private(spool: Spool, tmp_path: Path) -> None:
    file = spool.open()
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.close()


def test_folder_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o777)
    os.chown(tmp_path / "spool", 65534, 65534)
    with pytest.raises(errors.PermissionDenied, match="another user"):
        Spool(tmp_path / "spool")
    assert os.listdir(tmp_path / "spool") == []


def test_unwritten_bytes_read_as_zeros(spool: Spool) -> None:
    file = spool.open()
    assert file.write(5, b"abc") == 3
    assert file.read(0, 12) == bytes(5) + b"abc" + bytes(4)
    assert file.read(7, 6) == b"c" + bytes(5)
    file.close()


def test_cut_off_bytes_do_not_come_back(spool: Spool) -> None:
    file = spool.open()
    file.write(0, b"abcdef")
    file.truncate(2)
    file.truncate(100)
    assert file.read(0, 6) == b"ab" + bytes(4)
    file.close()


def test_closed_file_and_empty_spool_are_deleted(spool: Spool, tmp_path: Path) -> None:
    spool.open().close()
    spool.remove()
    assert not (tmp_path / "spool").exists()


def test_file_set_aside_gets_a_telling_and_harmless_name(spool: Spool, tmp_path: Path) -> None:
    file = spool.open()
    file.write(0, b"precious")
    file.close(delete=False)
    kept = spool.keep(file.path, "../ev/il\n\x1bname.txt")
    assert kept.parent == tmp_path / "spool" / KEPT
    assert kept.name.endswith("name.txt")
    assert kept.name.isprintable()
    assert kept.read_bytes() == b"precious"
    spool.remove()
    assert kept.exists(), "a spool that holds something is not removed"


def test_write_on_a_full_disk_raises_no_space(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spool.open()
    file.write(0, b"abc")
    with disk_full_after(monkeypatch, 0), pytest.raises(errors.NoSpace):
        file.write(1, b"xyz")
    assert file.read(0, 5) == b"abc" + bytes(2)
    file.close()


def test_write_is_short_if_the_disk_becomes_full_meanwhile(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spool.open()
    with disk_full_after(monkeypatch, 4):
        assert file.write(0, b"abcdefgh") == 4
    assert file.read(0, 8) == b"abcd" + bytes(4)
    file.close()


def test_new_spool_file_on_a_full_disk_raises_no_space(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(errors.NoSpace):
        spool.open()


def test_folder_keeps_its_owner_after_a_crash_and_its_copy_gets_another(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "s")
    owner = spool.owner
    assert re.fullmatch("[0-9a-f]{8}", owner)
    assert spool.owner == owner
    beside = Spool(tmp_path / "s")
    assert beside.owner != owner
    beside.remove()
    os.close(spool._lock)  # killed
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    again = Spool(tmp_path / "s")
    assert again.owner == owner
    copy = Spool(tmp_path / "copy")
    assert copy.owner != owner
    for each in (again, copy):
        each.remove()
    assert list(tmp_path.iterdir()) == []
