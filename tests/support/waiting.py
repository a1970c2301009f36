"""Waiting for conditions: they hold soon, or on a busy machine a while later."""

from __future__ import annotations

import time
from collections.abc import Callable

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
