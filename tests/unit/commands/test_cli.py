"""The command line: start, usage, exit codes, one line for each failure, no passwords."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ftpfs
from ftpfs import cli
from ftpfs.commands import embedded_server
from tests.unit.commands.processes import NOWHERE, ftpfs_process


class TestStart:
    def test_help_is_quick_and_warns_of_nothing(self) -> None:
        """The help costs 0.10 s of CPU, of which `import click` is 0.06 s. The best of five runs
        counts: on a busy machine everything costs more."""

        def cost(work: Callable[[], object]) -> float:
            before = os.times()
            work()
            after = os.times()
            return sum(after[2:4]) - sum(before[2:4])  # of children: user, system

        def help_is_shown() -> None:
            done = ftpfs_process("--help")
            assert (done.returncode, done.stderr) == (0, "")
            assert "mount" in done.stdout

        import_click = [sys.executable, "-c", "import click"]
        turns = range(5)
        bare = min(cost(lambda: subprocess.run(import_click, check=True)) for _ in turns)
        assert min(cost(help_is_shown) for _ in turns) < 3 * bare

    def test_help_imports_only_what_it_needs(self) -> None:
        heavy = {
            "rich",
            "ftplib",
            "pyftpdlib",
            "platformdirs",
            "ssl",
            "logging",
            "ftpfs.commands.embedded_server",
        }
        code = (
            "import sys, ftpfs.cli; ftpfs.cli.main([]); "
            f"print(*({heavy!r} & set(sys.modules)), file=sys.stderr)"
        )
        _, environ = embedded_server.this_program()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
        )
        assert done.stderr.split() == []

    def test_version_is_printed(self) -> None:
        assert ftpfs_process("--version").stdout == f"ftpfs {ftpfs.__version__}\n"

    def test_help_is_shown_without_arguments(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main([]) == 0
        assert capsys.readouterr().out.startswith("Usage: ftpfs")


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["lss"], "No such command 'lss'"),
            (["ls"], "Missing argument 'URL'"),
            (["ls", ""], "no host in the address"),
            (["ls", "sftp://host/"], "sshfs"),
            (["mount", "host"], "Missing argument 'MOUNTPOINT'"),
            (["mount", "host", "m", "-o", "list_tll=3"], "did you mean list_ttl?"),
            (["mount", "host", "m", "--port", "x"], "option port: must be a number"),
            (["put", "-", "host/in/"], "needs a file name"),
            (["serve", NOWHERE], NOWHERE),
            (["status", "--json", "--watch"], "either --json or --watch or --check"),
            (["status", "--json", "--check"], "either --json or --watch or --check"),
        ],
    )
    def test_wrong_usage_is_one_line_and_code_2(
        self, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(arguments) == 2
        complaint = capsys.readouterr().err
        assert complaint.startswith("ftpfs: ")
        assert complaint.count("\n") == 1
        assert words in complaint

    @pytest.mark.parametrize(
        "arguments",
        [
            ["ftp://bob:hun ter2@host/"],
            ["bob:hun/ter2@host"],
            ["mount", "host", "m", "ftp://bob:hun'ter2@host/"],
            ["mount", "host", "m", "/a/b", "ftp://bob:hun/ter2@host/"],
            ["ls", "ftp://bob:hun/ter2@host/"],
            ["mount", "host", "m", "-o", "password=hun.ter2"],
        ],
    )
    def test_complaint_repeats_no_password(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(arguments) == 2
        complaint = capsys.readouterr().err
        assert "hun" not in complaint
        assert "ter2" not in complaint


@pytest.fixture
def deaf_server() -> Iterator[tuple[int, Callable[[], None]]]:
    """The port of a server that never answers, and a function that waits for a client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        clients = []
        yield listener.getsockname()[1], lambda: clients.append(listener.accept())
        for client, _ in clients:
            client.close()


class TestInterrupted:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signal_ends_a_command_without_a_word(
        self, deaf_server: tuple[int, Callable[[], None]], number: int, code: int
    ) -> None:
        port, connected = deaf_server
        command, environ = embedded_server.this_program()
        with subprocess.Popen(
            [*command, "ls", f"127.0.0.1:{port}"], stderr=subprocess.PIPE, env=environ
        ) as process:
            connected()
            process.send_signal(number)
            _, complaints = process.communicate(timeout=10)
        assert (process.returncode, complaints) == (code, b"")


class TestProcessList:
    @pytest.mark.parametrize(
        "source",
        [
            "ftp://bob:hunter2@127.0.0.1:{}/x",
            "bob:hunter2@127.0.0.1:{}",
            "b:a hunter2@127.0.0.1:{}",
        ],
    )
    def test_password_is_gone_from_the_process_list(
        self, deaf_server: tuple[int, Callable[[], None]], source: str
    ) -> None:
        """All other arguments stay in their places, so that `ps` shows what runs."""
        port, connected = deaf_server
        command, environ = embedded_server.this_program()
        with subprocess.Popen(
            [*command, "ls", "-l", source.format(port)], stderr=subprocess.PIPE, env=environ
        ) as process:
            connected()
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            process.terminate()
            process.communicate(timeout=10)
        assert b"hunter2" not in shown
        words = shown.split(b"\0")
        assert words[1:5] == [b"-m", b"ftpfs", b"ls", b"-l"]
        assert words[5].endswith(f"*@127.0.0.1:{port}{'/x' if '/x' in source else ''}".encode())
        assert words[6:] == [b""]
