"""Small files are prefetched over a long link, and every byte is right.

The test uses the benchmark's link, which compares the copies with the server's disk.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.benchmark.__main__ import main
from scripts.benchmark.report import Run
from tests.mount.conftest import BINDINGS

pytestmark = pytest.mark.mount


@pytest.mark.skipif(os.geteuid() != 0, reason="a long link takes root")
def test_small_files_are_prefetched_when_a_folder_is_copied_over_a_long_link(
    tmp_path: Path,
) -> None:
    peers = ",".join(f"ftpfs-{binding}" for binding in BINDINGS)
    words = ["--rounds", "1", "--only", "out", "--link", "10", "--peers", peers]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    run = Run.from_json((tmp_path / "run.json").read_text())
    assert len(run.results) == len(BINDINGS)
    for result in run.results:
        figure = result.figure
        assert figure.error is None
        # One program reads one file after another: more than a session for it and one for the
        # listing are there for the files that come next.
        assert (figure.controls or 0) > 2
        files = figure.verbs["RETR"]
        assert files == figure.amount, "each file is fetched once"
