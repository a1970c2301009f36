"""What /proc tells of a process that has a file open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpfs.core import processes


def test_process_reads_before_the_end_of_a_file_or_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, us = tmp_path / "file", os.getpid()
    path.write_bytes(b"0123456789")
    numbers = {path.stat().st_ino, 1}
    assert not processes.reads_before(numbers, us, 10), "it is not open"
    with open(path, "rb", buffering=0) as file, open(path, "rb", buffering=0) as other:
        file.read(9)
        assert processes.reads_before(numbers, us, 10)
        other.read(10)
        assert not processes.reads_before(numbers, us, 10)
        other.seek(0)
        monkeypatch.setattr(processes, "MOST_FILES", 1)
        assert not processes.reads_before(numbers, us, 10)
    assert not processes.reads_before(numbers, 1 << 30, 10), "no such process"
