"""Waiting for conditions: they hold soon, or on a busy machine a while later."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 20.0  # seconds
PAUSE = 0.005


def comes_true(condition: Callable[[], object], within: float = PATIENCE) -> bool:
    """Whether the condition holds within this many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def until(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Wait for the condition; an AssertionError when it takes longer."""
    assert comes_true(condition, within), "it never came true"


def until_gone(find: Callable[[], object], within: float = PATIENCE) -> None:
    """Wait until `find` finds nothing; an AssertionError tells what it still finds."""
    deadline = time.monotonic() + within
    while left := find():
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(PAUSE)


def largest_upload(folder: Path) -> int:
    """The bytes of the largest unfinished upload in this folder of a server's disk.

    An upload that gets its name meanwhile counts as none.
    """
    found = [0]
    for path in folder.glob(".ftpfs-*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            found.append(path.stat().st_size)
    return max(found)
