"""In CI a skipped test fails the run, unless its reason is a documented one; in one process, or in
several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


PYTEST = sys.executable, "-m", "pytest", "-p", "tests.conftest"
SKIPS_A_TEST = "import pytest\ndef test_a(): pytest.skip({reason!r})\ndef test_b(): pass\n"
SKIPS_A_MODULE = "import pytest\npytest.skip({reason!r}, allow_module_level=True)\n"


def run(folder: Path, source: str, reason: str, ci: str, *options: str) -> tuple[int, str]:
    """The exit code of a run over such a module and a good one, and what it printed."""
    (folder / "test_it.py").write_text(source.format(reason=reason))
    (folder / "test_good.py").write_text("def test_c(): pass\n")
    done = subprocess.run(
        [*PYTEST, *options, "--rootdir", folder, folder],
        cwd=CHECKOUT,
        env={**os.environ, "CI": ci, "PYTEST_ADDOPTS": "-p no:cacheprovider -c /dev/null"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["alone", "in two processes"])
@pytest.mark.parametrize(
    ("reason", "ci", "code"),
    [
        ("not today", "true", pytest.ExitCode.TESTS_FAILED),
        ("not today", "", pytest.ExitCode.OK),
        ("server cannot: fly", "true", pytest.ExitCode.OK),
    ],
)
def test_skip_needs_a_reason(
    tmp_path: Path, processes: tuple[str, ...], reason: str, ci: str, code: int
) -> None:
    if processes:
        pytest.importorskip("xdist")
    assert_ends(run(tmp_path, SKIPS_A_TEST, reason, ci, *processes), code, "2 tests ran")
    assert_ends(run(tmp_path, SKIPS_A_MODULE, reason, ci, *processes), code, "1 tests ran")


def assert_ends(ended: tuple[int, str], code: int, said: str) -> None:
    assert ended[0] == code, ended[1]
    assert said in ended[1]
