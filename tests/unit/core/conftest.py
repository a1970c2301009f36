"""A file system on a server in memory, for each test a new one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs.core.names import intents
from tests.support.filesystem_bench import (
    Bench,
    made,
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = made(tmp_path)
    yield bench
    bench.fs.close()
    assert not [path for path in bench.remote.files() if "/.ftpfs-" in path]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory remote carries nothing out later."""
    monkeypatch.setattr(intents, "LATE_SECONDS", 0)
