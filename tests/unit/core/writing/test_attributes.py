"""Modes and times that programs set."""

from __future__ import annotations

import os

import pytest

from ftpfs import errors
from tests.support.filesystem_bench import (
    Bench,
)


def test_attributes_change_here_when_the_server_agreed_and_not_before(bench: Bench) -> None:
    handle = bench.fs.open("/a", os.O_RDONLY)
    before = bench.fs.attributes("/a")
    bench.remote.fail("chmod", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.chmod("/a", 0o600)
    bench.remote.fail("set_mtime", errors.PermissionDenied("no"))
    with pytest.raises(errors.PermissionDenied):
        bench.fs.set_mtime("/a", 12345)
    assert bench.fs.attributes("/a") == before
    bench.fs.chmod("/a", 0o600)
    bench.fs.set_mtime("/a", 12345)
    while_open = bench.fs.attributes("/a")
    bench.fs.release(handle)
    for seen in (while_open, bench.fs.attributes("/a")):
        assert (seen.mode, seen.mtime) == (0o600, 12345)
    assert (bench.remote.node("/a").mode, bench.remote.node("/a").mtime) == (0o600, 12345)


def test_time_of_an_unsent_file_costs_no_command_of_its_own(bench: Bench) -> None:
    """cp -p: write, set the time, close."""
    handle = bench.new("/new", b"x")
    bench.fs.set_mtime("/new", 12345)
    bench.fs.release(handle)
    bench.fs.sync()
    assert bench.remote.node("/new").mtime == 12345
    assert bench.fs.attributes("/new").mtime == 12345
    assert bench.remote.calls["set_mtime"] == 0


def test_new_directory_gets_an_odd_mode_where_the_server_can(bench: Bench) -> None:
    bench.remote.fixed.add("/p")
    bench.fs.mkdir("/p", 0o700)
    bench.fs.mkdir("/q", 0o700)
    bench.fs.sync()
    assert bench.remote.node("/q").mode == 0o700
    assert bench.names("/p") == set()
