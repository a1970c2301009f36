"""Wildcards, on a local folder as the side."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpfs.trees.local import Local
from ftpfs.trees.wildcards import expand


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("?.csv", ["a.csv", "b.csv"]),
        ("[ab].csv", ["a.csv", "b.csv"]),
        ("*/x", ["d1/x", "d2/x"]),
        ("*/y", ["d1/y"]),
        ("d1/*", ["d1/x", "d1/y"]),
        (".h*", [".hidden"]),
        ("*den", ["*den"]),
        ("photo [1].jpg", ["photo [1].jpg"]),
        ("none*", ["none*"]),
        ("a.csv/*", ["a.csv/*"]),
        ("plain", ["plain"]),
    ],
)
def test_pattern_matches_as_in_a_shell(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("d1", "d2"):
        (tmp_path / name).mkdir()
    for name in ("a.csv", "b.csv", "d1/x", "d1/y", "d2/x", ".hidden", "photo [1].jpg"):
        (tmp_path / name).touch()
    paths = [path for path, _ in expand(Local(), f"{tmp_path}/{pattern}")]
    assert paths == [f"{tmp_path}/{name}" for name in found]
