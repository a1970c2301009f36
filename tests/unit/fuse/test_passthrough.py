"""Whether the kernel may read and write local files itself, and the reason if not."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftpfs.fuse import passthrough
from ftpfs.fuse.kernel import KernelView
from ftpfs.fuse.passthrough import FUSE_CAP_PASSTHROUGH, Passthrough
from ftpfs.model.status import PassthroughStatus

Obstacle = Callable[..., str]


@pytest.fixture
def obstacle(monkeypatch: pytest.MonkeyPatch) -> Obstacle:
    """On a machine that has everything, but for what the test changes."""
    monkeypatch.setattr(passthrough, "kernel_version", lambda: (6, 12))
    monkeypatch.setattr(passthrough, "has_admin_rights", lambda: True)

    def obstacle(**changes: object) -> str:
        here = {"wanted": True, "module": "mfusepy", "library": "libfuse3.so.4"}
        return passthrough.obstacle(**{**here, "libfuse": (3, 17), **changes})  # type: ignore[arg-type]

    return obstacle


def test_nothing_is_in_the_way_where_all_is_there(obstacle: Obstacle) -> None:
    assert obstacle() == ""
    assert obstacle(libfuse=(4, 0)) == ""


def test_each_obstacle_is_named(obstacle: Obstacle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert obstacle(wanted=False) == "switched off by passthrough=no"
    assert "this is fusepy (libfuse.so.2)" in obstacle(module="fusepy", library="libfuse.so.2")
    assert "libfuse 3.14 is too old: 3.17" in obstacle(libfuse=(3, 14))
    monkeypatch.setattr(passthrough, "has_admin_rights", lambda: False)
    assert "lacks CAP_SYS_ADMIN" in obstacle()
    monkeypatch.setattr(passthrough, "kernel_version", lambda: (6, 1))
    assert "Linux 6.1 is too old: 6.9" in obstacle()


def test_this_process_and_kernel_are_known() -> None:
    assert passthrough.kernel_version() > (2, 0)
    if os.geteuid():
        assert not passthrough.has_admin_rights()


def test_kernel_that_does_not_offer_it_is_not_asked() -> None:
    kernel = Passthrough("")
    connection = SimpleNamespace(capable_ext=~FUSE_CAP_PASSTHROUGH, want_ext=0)
    assert not kernel.ask(connection)
    assert connection.want_ext == 0
    assert kernel.status() == PassthroughStatus(on=False, why="the kernel does not offer it")


def test_kernel_that_offers_it_is_asked() -> None:
    kernel = Passthrough("")
    connection = SimpleNamespace(capable_ext=FUSE_CAP_PASSTHROUGH, want_ext=1)
    assert kernel.ask(connection)
    assert connection.want_ext == FUSE_CAP_PASSTHROUGH | 1
    assert connection.max_backing_stack_depth == 1
    assert not kernel.is_on  # before the mount is made
    assert Passthrough("too old").ask(connection) is False


def test_disk_that_the_kernel_refuses_switches_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stacked file system (overlayfs) under the spool, as in most containers."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    kernel = Passthrough("")
    kernel.begin(7)
    assert kernel.is_on
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert kernel.lend(0) == 0
    assert not kernel.is_on
    assert "the kernel does not take files of that disk" in kernel.status().why


def test_pages_are_kept_for_a_file_that_is_opened_unchanged(tmp_path: Path) -> None:
    kernel = KernelView(str(tmp_path), 1.0)
    assert not kernel.keeps_pages("/a", (1, 1))
    assert kernel.keeps_pages("/a", (1, 1))
    assert not kernel.keeps_pages("/a", (1, 2))
    kernel.forget_pages("/a")
    assert not kernel.keeps_pages("/a", (1, 2))
    kernel.renamed("/b", "/a")
    assert not kernel.keeps_pages("/a", (1, 2))
