"""`ftpfs sh`: commands at a prompt, in a pipe and with -c, and what Tab offers."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ftpfs.commands import embedded_server, files
from ftpfs.commands.held import Held
from ftpfs.commands.shell import Shell
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network, Server
from ftpfs.settings.source import parse_source
from tests.unit.commands.processes import ftpfs_process, read_terminal


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("served")
    with embedded_server.running(str(folder), "--write") as url:
        yield url, folder


@pytest.fixture
def there(served: tuple[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """A folder on the server with a small tree: its URL, and its place."""
    url, folder = served
    disk = folder / tmp_path.name
    (disk / "sub dir").mkdir(parents=True)
    (disk / "a").write_text("content of a")
    (disk / "sub dir/b").write_text("content of b")
    return f"{url}{tmp_path.name}", disk


def run(url: str, lines: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = ftpfs_process("sh", url, stdin=lines)
    assert done.returncode == code, done.stderr
    return done


def test_commands_in_a_pipe_share_one_connection(there: tuple[str, Path], tmp_path: Path) -> None:
    url, disk = there
    (tmp_path / "local").write_text("mine")
    lines = f"""
        ls
        cd 'sub dir'
        pwd
        cat b   # a comment
        lcd {tmp_path}
        get b
        get ../a copy
        put local
        mkdir -p new/deep
        mv local new/deep/moved
        cp b ../b2
        cd ..
        rm -r "sub dir/b"
        tree
        !echo from here
        quote PWD
        exit
        rm -r .
    """
    done = run(url, lines)
    assert done.stdout.splitlines()[:3] == ["a", "sub dir", f"/{disk.name}/sub dir"]
    assert "content of b" in done.stdout
    assert "from here" in done.stdout
    assert "257 " in done.stdout
    assert (tmp_path / "b").read_text() == "content of b"
    assert (tmp_path / "copy").read_text() == "content of a"
    assert (disk / "sub dir/new/deep/moved").read_text() == "mine"
    assert (disk / "b2").read_text() == "content of b"
    assert not (disk / "sub dir/b").exists()


def test_script_ends_at_the_first_failure(there: tuple[str, Path]) -> None:
    url, disk = there
    for line, code in (
        ("cat none", 1),
        ("cd none", 1),
        ("nonsense", 2),
        ("ls --nonsense", 2),
        ("ls 'open", 2),
        ("!false", 1),
        ("ls --max-connections 3", 2),
        ("quote NONSENSE", 1),
    ):
        done = run(url, f"{line}\nrm a\n", code)
        assert (disk / "a").exists(), line
        assert line.startswith(("!", "quote")) or done.stderr.startswith("ftpfs: ")


def test_commands_may_stand_in_the_argument(there: tuple[str, Path]) -> None:
    url, disk = there
    assert ftpfs_process("sh", url, "-c", "rm a; ls").stdout == "sub dir\n"
    assert not (disk / "a").exists()
    (disk / "semi;colon").write_text("odd")
    assert ftpfs_process("sh", url, "-c", "cat 'semi;colon';cat \"semi;colon\"").stdout == "oddodd"
    assert ftpfs_process("sh", f"{url}/none", "-c", "ls").returncode == 1


def test_prompt_on_a_terminal_goes_on_after_failures(there: tuple[str, Path]) -> None:
    """With history and completion."""
    pytest.importorskip("prompt_toolkit", reason="without the extra `shell`")
    url, _ = there
    (python, *rest), environ = embedded_server.this_program()
    here, inside = pty.openpty()
    command = [python, *rest, "sh", url]
    with subprocess.Popen(
        command, stdin=inside, stdout=inside, stderr=inside, env={**environ, "TERM": "xterm"}
    ) as running:
        os.close(inside)
        shown = until_shown(here, b">")
        os.write(here, b"cat none\r")
        shown += until_shown(here, b"none: ")  # the failure
        os.write(here, b"pw\t\r")
        os.write(here, b"exit\r")
        shown += until_shown(here, b"")
    os.close(here)
    assert running.returncode == 0
    assert b"pwd" in shown


def until_shown(terminal: int, wanted: bytes) -> bytes:
    """What the terminal shows until this comes; empty: until the program ends."""
    shown = b""
    while not wanted or wanted not in shown:
        piece = read_terminal(terminal)
        if not piece:
            break
        shown += piece
        if b"\x1b[6n" in piece:  # where is the cursor?
            os.write(terminal, b"\x1b[1;1R")
    return shown


def test_tab_offers_commands_and_names(there: tuple[str, Path], tmp_path: Path) -> None:
    url, disk = there
    source = parse_source(url)
    remote = Remote(Server(source.host, source.port or 21), Network())
    (tmp_path / "here.txt").touch()
    try:
        server = Held(remote, source, files.locate(source.path)[0], "0" * 8, f"/{disk.name}")
        shell = Shell(server, click.Context(click.Command("sh")))
        assert shell.complete("l") == ["lcd", "ll", "lpwd", "ls"]
        assert shell.complete("cat ") == ["a", "'sub dir/'"]
        assert shell.complete("get a") == ["a"]
        assert shell.complete("cat none/") == []
        assert shell.complete(f"put {tmp_path}/he") == [f"{tmp_path}/here.txt"]
        assert shell.complete("cat /" + disk.name[:-1]) == [f"/{disk.name}/"]
    finally:
        remote.close()


def test_prompt_works_without_prompt_toolkit(there: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "prompt_toolkit.py").write_text("raise ImportError")
    url, _ = there
    here, inside = pty.openpty()
    environ = {**embedded_server.this_program()[1], "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "ftpfs", "sh", url]
    with subprocess.Popen(command, stdin=inside, stdout=inside, env=environ) as running:
        os.close(inside)
        os.write(here, b"ls\nexit\n")
        shown = b""
        while piece := read_terminal(here):
            shown += piece
    os.close(here)
    assert running.returncode == 0
    assert b"sub dir" in shown
