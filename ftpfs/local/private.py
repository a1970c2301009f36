"""Folders and files that belong to this user alone, even if others may write beside them.

The problem: `spool_dir` and `cache_dir` may be in /tmp or on a shared disk. Another user may
have put a symbolic link where ftpfs's folder belongs. If ftpfs followed it, ftpfs would change the
mode of its target and write files there.

What we do: ftpfs opens a folder without following a link, and then checks its owner, and that no
other user may write into it. Afterwards no other user can place anything in that folder. A file
that already exists is checked when it is opened (`check_file`).

Threading: any thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ftpfs import errors

OTHERS = stat.S_IRWXG | stat.S_IRWXO
WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_folder(path: Path) -> None:
    """Make `path` a folder of this user alone (0700), with missing parent folders.

    Raises PermissionDenied if it is a link, belongs to another user, or is writable by others; and
    OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_parent(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink() or isinstance(error, NotADirectoryError):
            raise errors.PermissionDenied(
                f"{path} is not a folder, or a symbolic link to one: it is not used"
            ) from error
        raise
    try:
        found = os.fstat(fd)
        _check_owner(path, found)
        if found.st_mode & WRITE_BY_OTHERS:
            raise errors.PermissionDenied(
                f"{path}: others may write into it (look what is in it, then: chmod 700 {path})"
            )
        if found.st_mode & OTHERS:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def check_file(path: Path) -> None:
    """Raises PermissionDenied if `path` is there and is no plain file of this user."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise errors.PermissionDenied(f"{path} is a link, or no plain file: it is not used")
    _check_owner(path, found)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise errors.PermissionDenied(f"{path} belongs to another user")


def _check_parent(path: Path) -> None:
    """Refuse a parent folder in which another user may replace ftpfs's folder by renaming."""
    found = path.stat()
    if found.st_mode & stat.S_ISVTX:
        return
    if found.st_mode & stat.S_IWOTH:
        raise errors.PermissionDenied(
            f"{path}: everybody may rename what is in it (chmod o-w, or chmod +t)"
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise errors.PermissionDenied(f"{path}: its owner, another user, may rename what is in it")
