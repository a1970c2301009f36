"""`--resume` of `ftpfs get`, `put` and `mirror`, as a user runs them and interrupts them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs.commands import embedded_server
from tests.support.waiting import until
from tests.unit.commands.processes import ftpfs_process

MIB = 1 << 20
SIZE = 12 * MIB


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("served")
    with embedded_server.running(str(folder), "--write") as url:
        yield url, folder


def interrupt(folder: Path, *arguments: str) -> Path:
    """A run that two Ctrl-C end. Returns the part that it leaves in `folder`."""
    command, environ = embedded_server.this_program()
    with subprocess.Popen(
        [*command, *arguments, "--limit-down", "4M", "--limit-up", "4M"],
        stderr=subprocess.PIPE,
        env=environ,
    ) as running:
        until(lambda: any(part.stat().st_size > 4 * MIB for part in folder.glob(".ftpfs-*")))
        running.send_signal(signal.SIGINT)
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=30)
    assert running.returncode == 130, told
    (part,) = folder.glob(".ftpfs-*")
    return part


@pytest.mark.parametrize(
    "command", [("get",), ("put",), ("get", "-r"), ("put", "-r"), ("mirror",)], ids=" ".join
)
def test_run_after_two_interrupts_goes_on_in_the_file(
    served: tuple[str, Path], tmp_path: Path, command: tuple[str, ...]
) -> None:
    url, disk = served
    place = "-".join(command)
    source = (tmp_path if command[0] == "put" else disk) / place
    source.mkdir()
    (source / "file").write_bytes(data := os.urandom(SIZE))
    os.utime(source / "file", (1_600_000_000, 1_600_000_000))
    target = (disk if command[0] == "put" else tmp_path) / f"{place}-copy"
    target.mkdir()
    if len(command) == 1 and command[0] != "mirror":
        ends = [place + "/file", f"{place}-copy/"]
    elif command[0] == "mirror":
        ends = [place, f"{place}-copy"]
    else:
        ends = [place, f"{place}-copy"]
        target = target / place
        target.mkdir()
    local = tmp_path.as_posix() + "/"
    first, second = (local, url) if command[0] == "put" else (url, local)
    words = [*command, "--resume", first + ends[0], second + ends[1]]
    part = interrupt(target, *words)
    have = part.stat().st_size
    began = time.monotonic()
    done = ftpfs_process(*words, "--limit-down", "1M", "--limit-up", "1M")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert (target / "file").read_bytes() == data
    assert (target / "file").stat().st_mtime == 1_600_000_000
    assert os.listdir(target) == ["file"]
    # As long as the limit takes for the rest, and not for all of it.
    assert (SIZE - have) / MIB - 1 < seconds < SIZE / MIB
    again = ftpfs_process(*words, "--limit-down", "1M", "--limit-up", "1M")
    assert again.returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["get", "--resume", "ftp://host/a", "-"],
        ["get", "--resume", "--text", "ftp://host/a", "."],
        ["put", "--resume", "-", "ftp://host/a"],
    ],
)
def test_resume_of_what_has_no_start_is_refused(words: list[str]) -> None:
    done = ftpfs_process(*words)
    assert done.returncode == 2
    assert "from its start" in done.stderr
