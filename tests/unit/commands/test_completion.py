"""Completion, in the shells themselves: somebody types, and presses Tab."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE = 20.0
# How each is started without the files of its user, and made ready as the help says.
INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(ftpfs completion bash)"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -U compinit; compinit -u -D; source <(ftpfs completion zsh)",
    ),
}
TYPED = [
    ("ftpfs umou", "umount"),
    ("ftpfs mount --list-t", "mount --list-ttl"),
    ("ftpfs mount nas", "mount nasty"),
    ("ftpfs mount --tls opt", "mount --tls optional"),
    ("ftpfs completion fi", "completion fish"),
    ("ftpfs ls --tls-ca ./some-c", "ls --tls-ca ./some-certificate.pem"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """`ftpfs` in PATH, a named server, and a folder with a file to be in."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ftpfs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ftpfs "$@"\n')
    program.chmod(0o755)
    (tmp_path / "config" / "ftpfs").mkdir(parents=True)
    (tmp_path / "config" / "ftpfs" / "config.toml").write_text("[servers.nasty]\nurl = 'nas'\n")
    (tmp_path / "some-certificate.pem").touch()
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


class Terminal:
    """A shell that believes somebody sits in front of it."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, environment)
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> str:
        """All that was shown, once `text` is in it."""
        deadline = time.monotonic() + DEADLINE
        while text not in self._shown:
            ready, _, _ = select.select([self._fd], [], [], deadline - time.monotonic())
            assert ready, f"no {text!r} in {self._shown!r}"
            self._shown += os.read(self._fd, 65536).decode(errors="replace")
        return self._shown

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.type("\x15exit\r")
        os.close(self._fd)
        os.waitpid(self._pid, 0)


@pytest.fixture(params=INTERACTIVE)
def terminal(
    request: pytest.FixtureRequest, tmp_path: Path, environment: dict[str, str]
) -> Iterator[Terminal]:
    command, set_up = INTERACTIVE[request.param]
    assert shutil.which(command[0]), f"{command[0]} is missing: scripts/test installs it"
    opened = Terminal(command, tmp_path, environment)
    try:
        opened.type(f"{set_up}\r")
        # The program that completes is the one in PATH; what is then run tells its arguments.
        opened.type('ftpfs() { echo "RAN:$*:"; }\r')
        opened.type("echo REA''DY\r")
        opened.wait_for("READY")
        yield opened
    finally:
        opened.close()


def test_tab_completes_a_typed_word(terminal: Terminal) -> None:
    """Commands, flags, their values, files, and named servers."""
    for typed, completed in TYPED:
        terminal.type(f"{typed}\t")
        terminal.wait_for(completed.rpartition(" ")[2])
        terminal.type("\r")
        assert f"RAN:{completed}:" in terminal.wait_for(f"RAN:{completed}:")


@pytest.mark.parametrize(("typed", "completed"), TYPED)
def test_fish_offers_matching_words(
    typed: str, completed: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    assert shutil.which("fish"), "fish is missing: scripts/test installs it"
    folder = tmp_path / "config" / "fish" / "completions"
    folder.mkdir(parents=True)
    script = subprocess.run(
        ["ftpfs", "completion", "fish"], env=environment, capture_output=True, check=True
    )
    (folder / "ftpfs.fish").write_bytes(script.stdout)
    done = subprocess.run(
        ["fish", "-c", f"complete -C '{typed}'"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert offered == [completed.rpartition(" ")[2]]
