"""How attributes are written into the bindings' C structures."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import pytest

from ftpfs.fuse import binding
from ftpfs.fuse.operations import Stat

STAT = Stat(
    st_mode=0o100644,
    st_ino=2**63 - 1,
    st_nlink=1,
    st_uid=2**32 - 2,
    st_gid=3,
    st_size=2**40 + 5,
    st_blocks=6,
    st_blksize=131072,
    st_atimespec=-1,
    st_mtimespec=-86_400,
    st_ctimespec=2**33,
)


@pytest.mark.parametrize("module", ["fuse", "mfusepy"])
def test_each_stat_field_is_written_at_offset_of_binding(module: str) -> None:
    c_stat: Any = importlib.import_module(module).c_stat
    found = c_stat.from_buffer(bytearray(b"\xff" * ctypes.sizeof(c_stat)))
    binding._StatLayout(c_stat).write(ctypes.byref(found), STAT)
    for name, value in STAT._asdict().items():
        field = getattr(found, name)
        assert (field.tv_sec if hasattr(field, "tv_sec") else field) == value, name
        assert getattr(field, "tv_nsec", 0) == 0, name
    assert found.st_rdev == 0
