"""The wheel, installed alone into a fresh environment, mounts."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.servers import CHECKOUT


@pytest.mark.mount
@pytest.mark.long
def test_wheel_that_is_installed_alone_mounts() -> None:
    done = subprocess.run(
        [CHECKOUT / "scripts" / "install-check", "--short"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "ok: installed by pip"
