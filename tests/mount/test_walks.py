"""Directories being read: what is changed meanwhile is told as it is now."""

from __future__ import annotations

import contextlib
import os

import pytest

from tests.mount.conftest import Mounted

pytestmark = pytest.mark.mount

# More than one reply of the kernel's readdir, whose buffer is that of getdents: 32 KiB in glibc.
MANY = 1500


def test_what_is_changed_while_its_directory_is_being_read_is_told_as_it_is(
    mounted: Mounted,
) -> None:
    """A reply to readdir may carry attributes; they must not be those of its beginning."""
    folder = mounted.disk / "folder"
    folder.mkdir()
    for number in range(MANY):
        (folder / f"file{number:04}").write_bytes(b"12345")
    for path in (folder, *folder.iterdir()):
        os.chown(path, mounted.server.uid, mounted.server.gid)
    here = mounted.path / "folder"
    *_, gone, grown = os.listdir(here)
    with os.scandir(here) as entries:
        for number, entry in enumerate(entries):
            with contextlib.suppress(FileNotFoundError):  # the one deleted may still be named
                entry.stat(follow_symlinks=False)
            if not number:
                with (here / grown).open("ab") as file:
                    file.write(b"678")
                (here / gone).unlink()
    assert (here / grown).stat().st_size == 8
    assert not (here / gone).exists()
    assert gone not in os.listdir(here)


def test_a_listing_shows_each_name_once(mounted: Mounted) -> None:
    names = {f"file{number:04}" for number in range(MANY)}
    for name in names:
        (mounted.disk / name).write_bytes(b"")
    listed = os.listdir(mounted.path)
    assert len(listed) == MANY
    assert set(listed) == names
