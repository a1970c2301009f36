"""Descriptors of files in use: bounded, and closed when the process has none left."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ftpfs import errors
from ftpfs.core.writing.descriptors import Descriptors, LocalFile
from ftpfs.core.writing.spool import Spool


def made(tmp_path: Path, descriptors: Descriptors, count: int) -> list[LocalFile]:
    files = []
    for number in range(count):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
        files.append(LocalFile(descriptors, tmp_path / str(number)))
    return files


def content(file: LocalFile) -> bytes:
    with file.held() as fd:
        return os.pread(fd, 10, 0)


def open_now(files: list[LocalFile]) -> list[int]:
    return [number for number, file in enumerate(files) if file.fd is not None]


def test_files_used_last_stay_open(tmp_path: Path) -> None:
    files = made(tmp_path, Descriptors(2), 3)
    for number in (0, 1, 0, 2):
        assert content(files[number]) == b"%d" % number
    assert open_now(files) == [0, 2]


def test_file_in_use_stays_open(tmp_path: Path) -> None:
    files = made(tmp_path, Descriptors(1), 4)
    with files[0].held() as fd:
        for file in files[1:]:
            content(file)
        assert open_now(files) == [0, 3]
        assert os.pread(fd, 10, 0) == b"0"


def test_file_closed_while_in_use_stays_open_for_its_users(tmp_path: Path) -> None:
    (file,) = made(tmp_path, Descriptors(1), 1)
    with file.held() as fd:
        file.let_go()
        assert os.pread(fd, 10, 0) == b"0"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(errors.BadHandle):
        content(file)


def test_idle_descriptors_are_closed_if_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = made(tmp_path, Descriptors(10), 3)
    content(files[0])
    content(files[1])
    real = os.open

    def scarce(path: Any, flags: int, *more: Any) -> int:
        if len(open_now(files)) > 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", scarce)
    assert content(files[2]) == b"2"
    assert open_now(files) == [2]


def test_symbolic_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (file,) = made(tmp_path, Descriptors(1), 1)
    (tmp_path / "0").rename(tmp_path / "elsewhere")
    (tmp_path / "0").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        content(file)


def test_spool_without_a_descriptor_left_raises_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool")
    file = spool.open()
    file.write(0, b"content")
    spool.descriptors.close_idle()

    def none_left(*_arguments: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as limited:
        limited.setattr(os, "open", none_left)
        with pytest.raises(errors.OutOfDescriptors):
            file.read(0, 7)
        with pytest.raises(errors.OutOfDescriptors):
            spool.open()
    assert file.read(0, 7) == b"content"
    file.close()
    spool.remove()


def test_file_deleted_while_it_is_opened_again_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = Descriptors(1)
    (file,) = made(tmp_path, descriptors, 1)
    real = os.open

    def deleted_first(path: Any, *more: Any, **words: Any) -> int:
        file.let_go()
        file.path.unlink()
        return real(path, *more, **words)

    monkeypatch.setattr(os, "open", deleted_first)
    with pytest.raises(errors.BadHandle):
        content(file)
