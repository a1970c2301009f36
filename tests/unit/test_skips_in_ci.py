"""In CI a skipped test fails the run, unless its reason is a documented one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("reason", "ci", "code"),
    [
        ("not today", "true", pytest.ExitCode.TESTS_FAILED),
        ("not today", "", pytest.ExitCode.OK),
        ("server cannot: fly", "true", pytest.ExitCode.OK),
    ],
)
def test_a_skip_needs_an_excuse(tmp_path: Path, reason: str, ci: str, code: int) -> None:
    (tmp_path / "test_it.py").write_text(
        f"import pytest\ndef test_a(): pytest.skip({reason!r})\ndef test_b(): pass\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", tmp_path, tmp_path],
        cwd=CHECKOUT,
        env={**os.environ, "CI": ci, "PYTEST_ADDOPTS": "-p no:cacheprovider -c /dev/null"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == code, run.stdout
    assert "1 tests ran" in run.stdout
