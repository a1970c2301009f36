"""`ftpfs` in a process of its own, and what it shows on a terminal."""

from __future__ import annotations

import os
import subprocess

from ftpfs.commands import embedded_server

# A folder that does not exist, and that nobody can make, not even root.
NOWHERE = "/dev/null/nowhere"


def ftpfs_process(
    *arguments: str, stdin: str = "", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `ftpfs arguments...` in a process of its own. Every warning is an error."""
    (python, *rest), inherited = embedded_server.this_program()
    return subprocess.run(
        [python, "-W", "error", *rest, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=30,
        check=False,
        env={**inherited, "HOME": NOWHERE, **(environ or {})},
    )


def read_terminal(terminal: int) -> bytes:
    """The next bytes; empty after its program has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
