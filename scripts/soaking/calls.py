"""Calls of programs, and of ftpfs, as a user makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def ftpfs(state: Path, *arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftpfs", *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(state), "FTPFS_PASSWORD": password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def program(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program with English messages."""
    return subprocess.run(
        argv,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
