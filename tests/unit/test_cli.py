"""The commands, as a user runs them: output, exit codes, one line for each failure, no secrets."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import click
import pytest

import ftpfs
from ftpfs import cli, config, credentials, serve, transfer
from ftpfs.errors import DataMismatch, UnknownHost
from ftpfs.ftp.listing import Entry, Kind
from ftpfs.ftp.remote import Remote
from tests.support import odd_server
from tests.support.odd_server import Script


def ftpfs_process(
    *arguments: str, stdin: str = "", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`ftpfs arguments...` in a process of its own, every warning an error."""
    (python, *rest), inherited = serve.this_program()
    return subprocess.run(
        [python, "-W", "error", *rest, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=30,
        check=False,
        env={**inherited, "HOME": "/nonexistent", **(environ or {})},
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server's URL (with a slash at its end) and its folder."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "README").write_text("hello\nworld\n")
    (folder / ".hidden").touch()
    (folder / "sub").mkdir()
    (folder / os.fsdecode(b"odd\xff\x1b[31m")).touch()
    (folder / "big").write_bytes(os.urandom(3_000_000))
    os.utime(folder / "README", (1577934245, 1577934245))
    with serve.running(str(folder), "--write") as url:
        yield url, folder


def read_terminal(terminal: int) -> bytes:
    """What comes next; nothing when its program has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


class TestStart:
    def test_help_is_quick_and_warns_of_nothing(self) -> None:
        """It costs click and little more (0.10 s of CPU for 0.06): the best of five, each, since
        on a busy machine everything costs more."""

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

    def test_start_imports_only_what_it_needs(self) -> None:
        heavy = {"rich", "ftplib", "pyftpdlib", "platformdirs", "ssl", "logging", "ftpfs.serve"}
        code = f"import sys, ftpfs.cli; print(*({heavy!r} & set(sys.modules)))"
        _, environ = serve.this_program()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
        )
        assert done.stdout.split() == []

    def test_version(self) -> None:
        assert ftpfs_process("--version").stdout == f"ftpfs {ftpfs.__version__}\n"

    def test_without_arguments_it_helps(self, capsys: pytest.CaptureFixture[str]) -> None:
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
            (["serve", "/nonexistent"], "/nonexistent"),
            (["status", "--json", "--watch"], "either --json or --watch"),
        ],
    )
    def test_one_line_and_two(
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
    def test_no_password_in_a_complaint(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(arguments) == 2
        complaint = capsys.readouterr().err
        assert "hun" not in complaint
        assert "ter2" not in complaint


class TestMount:
    """What reaches ftpfs.mount."""

    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[config.Config, str]]:
        calls: list[tuple[config.Config, str]] = []

        def run(built: config.Config, mountpoint: str) -> int:
            calls.append((built, mountpoint))
            if built.server.host == "unknown":
                raise UnknownHost("no such\x1b host")
            return 7

        double = types.ModuleType("ftpfs.mount")
        double.__dict__.update(run=run)
        monkeypatch.setitem(sys.modules, "ftpfs.mount", double)
        monkeypatch.setattr(ftpfs, "mount", double, raising=False)
        monkeypatch.setenv("HOME", "/nonexistent")
        monkeypatch.delenv(credentials.PASSWORD_VARIABLE, raising=False)
        return calls

    def test_flags_and_words_say_the_same(self, seen: list[tuple[config.Config, str]]) -> None:
        flags = ["--ro", "--list-ttl", "5", "--active", "--user", "ftp"]
        assert cli.main(["mount", "nas/pub", "/mnt", *flags]) == 7
        words = ["-o", "rw,ro,list_ttl=9,active", "-o", "list_ttl=5,user=ftp,_netdev"]
        assert cli.main(["mount", *words, "nas/pub", "/mnt"]) == 7
        assert seen[0] == seen[1]
        built, mountpoint = seen[0]
        assert mountpoint == "/mnt"
        assert (built.server.path, built.server.user) == ("pub", "ftp")
        assert (built.cache.list_ttl, built.mount.ro) == (5.0, True)

    def test_flags_beat_words(self, seen: list[tuple[config.Config, str]]) -> None:
        cli.main(["mount", "nas", "/mnt", "--port", "22", "-o", "port=23,log_level=debug"])
        assert seen[0][0].server.port == 22
        assert seen[0][0].mount.log_level == "debug"

    def test_failure_is_one_printable_line(
        self, seen: list[tuple[config.Config, str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["mount", "unknown", "/mnt"]) == 1
        assert capsys.readouterr().err == "ftpfs: no such\\x1b host\n"

    def test_missing_password_is_a_failure(
        self, seen: list[tuple[config.Config, str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["mount", "bob@nas", "/mnt"]) == 1
        assert "no password for bob@nas" in capsys.readouterr().err
        assert not seen

    def test_every_option_has_its_flag(self) -> None:
        command = cli.cli.commands["mount"]
        flags = {p.name: p.opts for p in command.params if isinstance(p, click.Option)}
        del flags["strings"], flags["config"]
        assert flags == {name: [option.flag] for name, option in config.OPTIONS.items()}


class TestTransfer:
    def test_ls(self, served: tuple[str, Path]) -> None:
        url, _ = served
        done = ftpfs_process("ls", url)
        assert done.stdout.splitlines() == ["README", "big", os.fsdecode(b"odd\xff\x1b[31m"), "sub"]
        assert ".hidden" in ftpfs_process("ls", "-a", url).stdout

    def test_ls_long(self, served: tuple[str, Path]) -> None:
        url, _ = served
        line = ftpfs_process("ls", "-l", f"{url}README").stdout
        assert line.split() == ["-rw-r--r--", "12", "2020-01-02T03:04:05Z", "README"]

    def test_ls_cannot_paint_a_terminal(self, served: tuple[str, Path]) -> None:
        url, _ = served
        command, environ = serve.this_program()
        ours, theirs = pty.openpty()
        subprocess.run([*command, "ls", url], stdout=theirs, env=environ, timeout=30, check=True)
        os.close(theirs)
        shown = os.read(ours, 10_000)
        os.close(ours)
        assert b"odd\\udcff\\x1b[31m" in shown

    def test_cat(self, served: tuple[str, Path]) -> None:
        url, _ = served
        assert ftpfs_process("cat", f"{url}README").stdout == "hello\nworld\n"
        assert ftpfs_process("cat", f"{url}%2FREADME").stdout == "hello\nworld\n"

    @pytest.mark.parametrize(
        ("path", "words"), [("none", "no such file"), ("sub", "is a folder"), ("sub/", "a folder")]
    )
    def test_cat_of_what_is_no_file(self, served: tuple[str, Path], path: str, words: str) -> None:
        done = ftpfs_process("cat", f"{served[0]}{path}")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("ftpfs: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1

    def test_get(self, served: tuple[str, Path], tmp_path: Path) -> None:
        url, folder = served
        (tmp_path / "old").write_text("old")
        (tmp_path / "old").chmod(0o640)
        for target in (tmp_path, tmp_path / "new", tmp_path / "old"):
            done = ftpfs_process("get", f"{url}big", str(target))
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        for name in ("big", "new", "old"):
            assert (tmp_path / name).read_bytes() == (folder / "big").read_bytes()
        assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640
        assert sorted(os.listdir(tmp_path)) == ["big", "new", "old"]

    def test_bar_on_a_terminal(self, served: tuple[str, Path], tmp_path: Path) -> None:
        command, environ = serve.this_program()
        ours, theirs = pty.openpty()
        subprocess.run(
            [*command, "get", f"{served[0]}big", str(tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env={**environ, "TERM": "xterm", "COLUMNS": "120"},
            timeout=30,
            check=True,
        )
        os.close(theirs)
        shown = os.read(ours, 100_000)
        os.close(ours)
        assert b"big" in shown
        assert b"3.0 MB" in shown

    def test_failed_get_leaves_the_old_file(self, served: tuple[str, Path], tmp_path: Path) -> None:
        (tmp_path / "old").write_text("old")
        assert ftpfs_process("get", f"{served[0]}none", str(tmp_path / "old")).returncode == 1
        assert (tmp_path / "old").read_text() == "old"
        assert os.listdir(tmp_path) == ["old"]

    def test_get_writes_to_a_device_instead_of_replacing_it(
        self, served: tuple[str, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "null").symlink_to("/dev/null")
        assert ftpfs_process("get", f"{served[0]}big", str(tmp_path / "null")).returncode == 0
        assert Path("/dev/null").is_char_device()

    def test_put(self, served: tuple[str, Path], tmp_path: Path) -> None:
        url, folder = served
        local = tmp_path / "local"
        for content in (b"first", b"", os.urandom(1_000_000)):
            local.write_bytes(content)
            for target in ("sub/", "sub/named"):
                done = ftpfs_process("put", str(local), f"{url}{target}")
                assert (done.returncode, done.stderr) == (0, "")
            assert (folder / "sub/local").read_bytes() == content
            assert (folder / "sub/named").read_bytes() == content

    def test_put_from_stdin(self, served: tuple[str, Path]) -> None:
        url, folder = served
        assert ftpfs_process("put", "-", f"{url}sub/piped", stdin="some\ntext").returncode == 0
        assert (folder / "sub/piped").read_text() == "some\ntext"

    def test_put_does_not_replace_a_folder(self, served: tuple[str, Path], tmp_path: Path) -> None:
        (tmp_path / "x").touch()
        done = ftpfs_process("put", str(tmp_path / "x"), f"{served[0]}sub")
        assert done.returncode == 1
        assert "is a folder" in done.stderr

    def test_text_goes_both_ways(self, served: tuple[str, Path], tmp_path: Path) -> None:
        url, folder = served
        (tmp_path / "mixed").write_bytes(b"one\ntwo\r\nthree")
        assert ftpfs_process("put", "--text", str(tmp_path / "mixed"), f"{url}sub/").returncode == 0
        assert (folder / "sub/mixed").read_bytes() == b"one\ntwo\nthree"
        done = ftpfs_process("get", "--text", f"{url}sub/mixed", str(tmp_path / "back"))
        assert done.returncode == 0
        assert (tmp_path / "back").read_bytes() == b"one\ntwo\nthree"

    def test_cmd(self, served: tuple[str, Path]) -> None:
        url, _ = served
        done = ftpfs_process("cmd", "-v", url, "SITE HELP")
        assert done.returncode == 0
        assert done.stdout.startswith("220 ftpfs\n214-")
        assert ftpfs_process("cmd", url, "PWD").stdout == '257 "/" is the current directory.\n'
        assert ftpfs_process("cmd", url, "CWD sub").stdout.startswith("250 ")
        assert ftpfs_process("cmd", url, "CWD none").returncode == 1
        refused = ftpfs_process("cmd", url, "FOO")
        assert (refused.returncode, refused.stdout[:4]) == (1, "500 ")
        assert ftpfs_process("cmd", url, "NOOP\r\nDELE README").returncode == 1

    @pytest.mark.parametrize(
        "command",
        [
            ["doctor", "{url}", "--write"],
            ["doctor", "{url}", "--write", "--json"],
            ["get", "{url}missing%1b%5b31m", "-"],
            ["get", "{url}folder%1b", "-", "--log-level", "debug"],
            ["put", __file__, "{url}new%1b"],
            ["cmd", "{url}", "FOO"],
            ["cmd", "-v", "{url}", "SITE HELP"],
            ["ls", "-l", "{url}"],
            ["ls", "{url}folder%1b", "--log-level", "debug"],
            ["mount", "{url}", "/nonexistent%1b", "--foreground"],
            ["recover", "{url}missing%1b"],
        ],
    )
    def test_no_server_paints_a_terminal(self, command: list[str], tmp_path: Path) -> None:
        """Its greeting, its names and its refusals hold what a terminal would obey."""
        (tmp_path / "root" / "folder\x1b").mkdir(parents=True)
        (tmp_path / "root" / "name\x1b[31m\u009b1m").write_bytes(b"x" * 1000)
        refusal = "550 \x1b]0;owned\x07 no"
        script = Script(
            banner="\x1b[2J hello",
            replies=dict.fromkeys(("STOR", "FOO", "SYST", "REST", "SITE HELP"), refusal),
            machine_listing=lambda _path: b"type=file;size=9; \x1b[31m\r\n\x1b[32m\r\n",
        )
        with odd_server.start(tmp_path / "root", script) as odd:
            url = f"ftp://{odd.user}@{odd.host}:{odd.port}/"
            program, environ = serve.this_program()
            ours, theirs = pty.openpty()
            with subprocess.Popen(
                [*program, *(word.format(url=url) for word in command)],
                stdout=theirs,
                stderr=theirs,
                env={
                    **environ,
                    "HOME": str(tmp_path),
                    "XDG_STATE_HOME": str(tmp_path / "state"),
                    "FTPFS_PASSWORD": odd.password,
                    "TERM": "dumb",  # our own bars paint
                },
            ):
                os.close(theirs)
                shown = b"".join(iter(lambda: read_terminal(ours), b""))
            os.close(ours)
        assert shown
        assert not set(shown) & {0x1B, 0x07}
        assert "\u009b" not in shown.decode()

    def test_nobody_there(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        done = ftpfs_process("ls", f"127.0.0.1:{port}")
        assert done.returncode == 1
        assert "refused" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_debug_shows_where(self) -> None:
        done = ftpfs_process("ls", "127.0.0.1:1", "--log-level", "debug")
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("ftpfs: ")

    def test_reader_that_leaves(self, served: tuple[str, Path]) -> None:
        url, _ = served
        command, environ = serve.this_program()
        with subprocess.Popen(
            [*command, "cat", f"{url}big"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
        ) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 128 + signal.SIGPIPE


@pytest.fixture
def deaf_server() -> Iterator[tuple[int, Callable[[], None]]]:
    """A port whose server never says anything; and a wait until a client is connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        clients = []
        yield listener.getsockname()[1], lambda: clients.append(listener.accept())
        for client, _ in clients:
            client.close()


class TestInterrupted:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_quietly(
        self, deaf_server: tuple[int, Callable[[], None]], number: int, code: int
    ) -> None:
        port, connected = deaf_server
        command, environ = serve.this_program()
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
    def test_password_is_gone(
        self, deaf_server: tuple[int, Callable[[], None]], source: str
    ) -> None:
        """Everything else is still there, in its place: `ps` shows what runs."""
        port, connected = deaf_server
        command, environ = serve.this_program()
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


class _Liar:
    """A server that promises ten bytes and sends four."""

    def stat(self, path: str) -> Entry:
        return Entry(path, Kind.FILE, size=10)

    def open_read(self, path: str, *, text: bool) -> _Liar:
        self._left = b"four"
        return self

    def readinto(self, view: memoryview) -> int:
        count, self._left = len(self._left), b""
        view[:count] = b"four"[:count]
        return count

    def __enter__(self) -> _Liar:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


def test_short_download_is_no_download(tmp_path: Path) -> None:
    (tmp_path / "local").write_text("old")
    with pytest.raises(DataMismatch, match="4 of 10 bytes"):
        transfer.get(cast(Remote, _Liar()), "/f", str(tmp_path / "local"), text=False)
    assert (tmp_path / "local").read_text() == "old"
    assert os.listdir(tmp_path) == ["local"]


class TestLineEnds:
    """Converted alike, wherever the chunks happen to end."""

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_every_cut(self, size: int) -> None:
        local = b"a\n\nb\rc\r\n\r\r\nd"
        wire = b"a\r\n\r\nb\rc\r\n\r\r\nd"

        def cut(data: bytes) -> list[bytes]:
            return [data[i : i + size] for i in range(0, len(data), size)]

        assert b"".join(transfer._to_wire(cut(local))) == wire
        assert b"".join(transfer._from_wire(cut(wire))) == b"a\n\nb\rc\n\r\nd"
