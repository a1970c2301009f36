"""How large a store may become if the user does not say."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftpfs.daemon import stores

GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "size"),
    [(GIB, 0), (2 * GIB - 1, 0), (20 * GIB, 2 * GIB), (80 * GIB, 8 * GIB), (900 * GIB, 8 * GIB)],
)
def test_store_takes_a_part_of_the_free_disk(
    free: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    assert stores.auto_size(tmp_path / "to be" / "made") == size


def test_nothing_is_stored_if_nobody_knows_the_free_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: object) -> None:
        raise PermissionError

    monkeypatch.setattr(shutil, "disk_usage", fail)
    assert stores.auto_size(Path("/")) == 0
