"""`ftpfs ls`, `cat`, `get`, `put`, `cmd`, as a user runs them."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from ftpfs.commands import embedded_server, files
from ftpfs.errors import DataMismatch
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from tests.support import odd_server
from tests.support.odd_server import Script
from tests.unit.commands.processes import ftpfs_process, read_terminal


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
    with embedded_server.running(str(folder), "--write") as url:
        yield url, folder


class TestTransfer:
    def test_ls_lists_names(self, served: tuple[str, Path]) -> None:
        url, _ = served
        done = ftpfs_process("ls", url)
        assert done.stdout.splitlines() == ["README", "big", os.fsdecode(b"odd\xff\x1b[31m"), "sub"]
        assert ".hidden" in ftpfs_process("ls", "-a", url).stdout

    def test_ls_l_shows_mode_size_and_time(self, served: tuple[str, Path]) -> None:
        url, _ = served
        line = ftpfs_process("ls", "-l", f"{url}README").stdout
        assert line.split() == ["-rw-r--r--", "12", "2020-01-02T03:04:05Z", "README"]

    def test_ls_escapes_names_on_a_terminal(self, served: tuple[str, Path]) -> None:
        url, _ = served
        command, environ = embedded_server.this_program()
        ours, theirs = pty.openpty()
        subprocess.run([*command, "ls", url], stdout=theirs, env=environ, timeout=30, check=True)
        os.close(theirs)
        shown = os.read(ours, 10_000)
        os.close(ours)
        assert b"odd\\udcff\\x1b[31m" in shown

    def test_cat_prints_a_file(self, served: tuple[str, Path]) -> None:
        url, _ = served
        assert ftpfs_process("cat", f"{url}README").stdout == "hello\nworld\n"
        assert ftpfs_process("cat", f"{url}%2FREADME").stdout == "hello\nworld\n"

    @pytest.mark.parametrize(
        ("path", "words"), [("none", "no such file"), ("sub", "is a folder"), ("sub/", "a folder")]
    )
    def test_cat_fails_for_a_folder_or_a_missing_file(
        self, served: tuple[str, Path], path: str, words: str
    ) -> None:
        done = ftpfs_process("cat", f"{served[0]}{path}")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("ftpfs: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1

    def test_get_writes_to_a_folder_a_new_name_or_an_old_file(
        self, served: tuple[str, Path], tmp_path: Path
    ) -> None:
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

    def test_get_shows_a_bar_on_a_terminal(self, served: tuple[str, Path], tmp_path: Path) -> None:
        command, environ = embedded_server.this_program()
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

    @pytest.mark.parametrize("words", [["--streams", "4"], ["--streams", "4", "-r"], []])
    def test_get_takes_a_number_of_streams(
        self, served: tuple[str, Path], tmp_path: Path, words: list[str]
    ) -> None:
        url, folder = served
        large = folder / "large"
        large.write_bytes(os.urandom(20_000_000))
        try:
            done = ftpfs_process("get", *words, f"{url}large", str(tmp_path))
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert (tmp_path / "large").read_bytes() == large.read_bytes()
            assert os.listdir(tmp_path) == ["large"]
        finally:
            large.unlink()

    @pytest.mark.parametrize("number", ["0", "17", "many"])
    def test_get_refuses_other_numbers_of_streams(self, number: str) -> None:
        done = ftpfs_process("get", "--streams", number, "ftp://host/a", ".")
        assert done.returncode == 2
        assert "a number from 1 to 16, or auto" in done.stderr

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

    @pytest.mark.parametrize("words", [["--resume"], ["-r"]])
    @pytest.mark.parametrize("name", ["README", "big"])
    def test_get_puts_no_file_in_the_place_of_a_pipe_or_a_device(
        self, served: tuple[str, Path], tmp_path: Path, words: list[str], name: str
    ) -> None:
        """As root, a file would take the place of /dev/null for all programs."""
        os.mkfifo(tmp_path / "pipe")
        done = ftpfs_process("get", *words, f"{served[0]}{name}", str(tmp_path / "pipe"))
        assert done.returncode == 1
        assert "a device, a pipe or a socket is there" in done.stderr
        assert (tmp_path / "pipe").is_fifo()
        assert os.listdir(tmp_path) == ["pipe"]

    def test_put_uploads_to_a_folder_or_a_name(
        self, served: tuple[str, Path], tmp_path: Path
    ) -> None:
        url, folder = served
        local = tmp_path / "local"
        for content in (b"first", b"", os.urandom(1_000_000)):
            local.write_bytes(content)
            for target in ("sub/", "sub/named"):
                done = ftpfs_process("put", str(local), f"{url}{target}")
                assert (done.returncode, done.stderr) == (0, "")
            assert (folder / "sub/local").read_bytes() == content
            assert (folder / "sub/named").read_bytes() == content

    def test_put_uploads_stdin(self, served: tuple[str, Path]) -> None:
        url, folder = served
        assert ftpfs_process("put", "-", f"{url}sub/piped", stdin="some\ntext").returncode == 0
        assert (folder / "sub/piped").read_text() == "some\ntext"

    def test_text_converts_line_ends_both_ways(
        self, served: tuple[str, Path], tmp_path: Path
    ) -> None:
        url, folder = served
        (tmp_path / "mixed").write_bytes(b"one\ntwo\r\nthree")
        assert ftpfs_process("put", "--text", str(tmp_path / "mixed"), f"{url}sub/").returncode == 0
        assert (folder / "sub/mixed").read_bytes() == b"one\ntwo\nthree"
        done = ftpfs_process("get", "--text", f"{url}sub/mixed", str(tmp_path / "back"))
        assert done.returncode == 0
        assert (tmp_path / "back").read_bytes() == b"one\ntwo\nthree"

    def test_cmd_prints_the_reply_and_fails_when_refused(self, served: tuple[str, Path]) -> None:
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
        """Its greeting, names and refusals contain escape sequences."""
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
            program, environ = embedded_server.this_program()
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

    def test_refused_connection_is_one_line(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        done = ftpfs_process("ls", f"127.0.0.1:{port}")
        assert done.returncode == 1
        assert "refused" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_debug_level_adds_a_traceback(self) -> None:
        done = ftpfs_process("ls", "127.0.0.1:1", "--log-level", "debug")
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("ftpfs: ")

    def test_cat_ends_quietly_when_its_reader_is_gone(self, served: tuple[str, Path]) -> None:
        url, _ = served
        command, environ = embedded_server.this_program()
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


def test_get_leaves_the_old_file_when_the_download_is_short(tmp_path: Path) -> None:
    (tmp_path / "local").write_text("old")
    with pytest.raises(DataMismatch, match="4 of 10 bytes"):
        files.get(cast(Remote, _Liar()), "/f", str(tmp_path / "local"), text=False)
    assert (tmp_path / "local").read_text() == "old"
    assert os.listdir(tmp_path) == ["local"]


@pytest.mark.parametrize("lacks", [set(), {"SIZE"}], ids=["SIZE", "no SIZE"])
def test_get_and_cat_bring_all_of_a_file_that_the_listing_calls_shorter(
    tmp_path: Path, lacks: set[str]
) -> None:
    """As listings do that show the lower 32 bits of a size."""
    content = b"a line that is longer than nothing\n" * 50_000
    root = tmp_path / "root"
    root.mkdir()
    (root / "long").write_bytes(content)
    listed = b"-rw-r--r-- 1 odd odd 5000 Sep 13  2020 long\r\n"
    script = Script(unknown={"MLSD", "MLST", *lacks}, listing=lambda _folder: listed)
    with odd_server.start(root, script) as odd:
        url = f"ftp://{odd.user}@{odd.host}:{odd.port}/long"
        password = {"FTPFS_PASSWORD": odd.password}
        done = ftpfs_process("get", url, str(tmp_path / "got"), environ=password)
        assert (done.returncode, done.stderr) == (0, "")
        shown = ftpfs_process("cat", url, environ=password)
    assert (tmp_path / "got").read_bytes() == content
    assert (shown.returncode, shown.stdout) == (0, content.decode())


class TestLineEnds:
    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_conversion_does_not_depend_on_chunks(self, size: int) -> None:
        local = b"a\n\nb\rc\r\n\r\r\nd"
        wire = b"a\r\n\r\nb\rc\r\n\r\r\nd"

        def cut(data: bytes) -> list[bytes]:
            return [data[i : i + size] for i in range(0, len(data), size)]

        assert b"".join(files.to_wire(cut(local))) == wire
        assert b"".join(files.from_wire(cut(wire))) == b"a\n\nb\rc\n\r\nd"
