"""The control socket: who may ask, what goes over it, and that no client can harm the mount."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpfs import control, errors
from ftpfs.control import Answer, Control, Reply, Report, Request
from ftpfs.core.status import (
    CacheStatus,
    ConnectionStatus,
    MountStatus,
    PendingFile,
    UploadStatus,
)
from tests.support.waiting import until, until_gone

MOUNTPOINT = "/mnt/nas"
ODD = "odd\udcff\x1b[31m"
REPORT = Report(
    mountpoint=MOUNTPOINT,
    pid=7,
    state="mounted",
    since=1.5,
    binding="fusepy",
    spool="/spool",
    upload_rate=10.0,
    download_rate=0.0,
    status=MountStatus(
        source="ftp://me@nas/",
        connections=ConnectionStatus(idle=1, busy=2, limit=8, waiting=0),
        uploads=UploadStatus(
            pending=(PendingFile(f"/{ODD}", "failed", 10, 5, 2, "552 quota", 3.0),),
            files=1,
            bytes=5,
            uploaded_files=3,
            uploaded_bytes=100,
            spool_used=10,
            spool_limit=None,
        ),
        cache=CacheStatus(used=1, capacity=2, hits=3, misses=4, downloaded=5),
    ),
)

Serve = Callable[..., Control]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Longer than the 108 bytes of an address.
    return tmp_path / ("long" * 40) / "control"


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    """`serve(name=answer, ..., mountpoint=...)`: a socket that answers, closed after the test."""
    running = []

    def start(mountpoint: str = MOUNTPOINT, **answers: Answer) -> Control:
        answers.setdefault("status", status)
        answers.setdefault("echo", echo)
        served = Control(folder, mountpoint, answers)
        served.start()
        running.append(served)
        return served

    yield start
    for served in running:
        served.close()
    until_gone(clients)


def status(_request: Request) -> Iterator[Reply]:
    yield REPORT.to_reply()


def echo(request: Request) -> Iterator[Reply]:
    yield {"path": request["path"]}


def only(folder: Path) -> control.Daemon:
    (daemon,) = control.daemons(MOUNTPOINT, folder)
    return daemon


def clients() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "ftpfs-control-client"]


def raw(folder: Path) -> socket.socket:
    """A connection that says nothing by itself."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    with control._address(only(folder).socket) as address:
        control._connect(connection, address, time.monotonic() + 10)
    return connection


def said_to(folder: Path, line: bytes) -> dict[str, object]:
    """The answer to a raw line."""
    with raw(folder) as connection:
        connection.sendall(line)
        with connection.makefile("rb") as answer:
            found = json.loads(answer.readline())
    assert isinstance(found, dict)
    return found


class TestConversation:
    def test_a_report_arrives_as_it_was_sent(self, serve: Serve, folder: Path) -> None:
        serve()
        (reply,) = control.ask(only(folder), "status")
        assert Report.from_reply(reply) == REPORT

    def test_names_of_any_bytes_go_both_ways(self, serve: Serve, folder: Path) -> None:
        serve()
        path = "/" + ODD + '"\n\u2028' + "x" * 4000
        assert list(control.ask(only(folder), "echo", path=path)) == [{"path": path}]

    def test_replies_come_one_by_one_as_they_are_made(self, serve: Serve, folder: Path) -> None:
        go = threading.Event()

        def two(_request: Request) -> Iterator[Reply]:
            yield {"number": 1}
            assert go.wait(10)
            yield {"number": 2}

        serve(two=two)
        replies = control.ask(only(folder), "two")
        assert next(replies) == {"number": 1}
        go.set()
        assert list(replies) == [{"number": 2}]

    def test_a_refusal_arrives_as_an_error(self, serve: Serve, folder: Path) -> None:
        def refuse(_request: Request) -> Iterator[Reply]:
            yield {}
            raise errors.NotFound("no such folder")

        serve(refuse=refuse)
        with pytest.raises(errors.FtpfsError, match="no such folder"):
            list(control.ask(only(folder), "refuse"))

    def test_a_fault_is_an_error_there_and_a_traceback_here(
        self, serve: Serve, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_request: Request) -> Iterator[Reply]:
            yield {"x": 1 // 0}

        serve(fail=fail)
        with pytest.raises(errors.FtpfsError, match="ZeroDivisionError"):
            list(control.ask(only(folder), "fail"))
        assert "Traceback" in caplog.text
        assert list(control.ask(only(folder), "status"))

    @pytest.mark.parametrize(
        "line",
        [
            b"\n",
            b"hello\n",
            b"\xff\xfe\n",
            b"[" * 60_000 + b"\n",
            b"[1]\n",
            b'{"ask": "status"}\n',
            b'{"v": 2, "ask": "status"}\n',
            b'{"v": 1, "ask": "nothing"}\n',
            b'{"v": 1, "ask": ["status"]}\n',
            b'{"v": 1, "ask": "echo"}\n',
            b'{"v": 1, "ask": "' + b"x" * (1 << 20) + b'"}\n',
        ],
        ids=lambda line: line[:20].decode("latin-1"),
    )
    def test_nonsense_is_answered_with_an_error_and_the_next_one_is_served(
        self, serve: Serve, folder: Path, line: bytes
    ) -> None:
        serve()
        try:
            assert "error" in said_to(folder, line)
        except (BrokenPipeError, ConnectionResetError):
            assert len(line) > control.REQUEST_LIMIT  # hung up on in the middle of it
        assert list(control.ask(only(folder), "status"))

    @pytest.mark.parametrize("missing", ["pid", "status"])
    def test_a_report_of_another_version_is_read_or_refused(self, missing: str) -> None:
        reply = REPORT.to_reply()
        reply["added later"] = reply["status"]["cache"]["added later"] = 1
        assert Report.from_reply(reply) == REPORT
        del reply[missing]
        with pytest.raises(errors.FtpfsError, match="another version"):
            Report.from_reply(reply)
        with pytest.raises(errors.FtpfsError, match="another version"):
            Report.from_reply({**REPORT.to_reply(), "status": {"uploads": []}})


class TestTheSocket:
    def test_is_not_taken_for_a_dead_daemons_while_it_is_made(
        self, serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class LookedFor(socket.socket):
            def listen(self, backlog: int = 1) -> None:
                assert control.daemons(None, folder) == []  # somebody asks just now
                super().listen(backlog)

        monkeypatch.setattr(socket, "socket", LookedFor)
        serve()
        assert list(control.ask(only(folder), "status"))

    def test_is_answered_again_after_descriptors_were_short(
        self, serve: Serve, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        serve()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = socket.socket(socket.AF_UNIX)
        with waiting, control._address(only(folder).socket) as address:
            waiting.settimeout(10)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            try:
                waiting.connect(address)
                until(lambda: "cannot be asked" in caplog.text)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert "Too many open files" in caplog.text
            waiting.sendall(b'{"v": 1, "ask": "status"}\n')
            assert waiting.recv(10)


class TestPermissions:
    def test_the_socket_is_this_users_alone(self, serve: Serve, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o755)
        serve()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(only(folder).socket.stat().st_mode) == 0o600

    def test_another_users_folder_is_not_used(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(PermissionError, match="another user"):
            Control(folder, MOUNTPOINT, {})

    def test_another_user_is_not_answered_even_where_the_files_would_let_him(
        self, open_folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = open_folder / "control"
        served = Control(folder, MOUNTPOINT, {"status": status})
        served.start()
        try:
            folder.chmod(0o755)
            path = only(folder).socket
            path.chmod(0o666)
            code = (
                "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(10);"
                's.connect(sys.argv[1]); s.sendall(b\'{"v": 1, "ask": "status"}\\n\');'
                "print(len(s.recv(1 << 16)))"
            )
            command = [sys.executable, "-c", code, str(path)]
            if subprocess.run(
                ["setpriv", "--reuid=65534", *command[:1], "-V"], check=False
            ).returncode:
                command[0] = "/usr/bin/python3"  # this one lies in a folder that is only root's
            done = subprocess.run(
                ["setpriv", "--reuid=65534", *command], capture_output=True, text=True, check=False
            )
            assert done.stdout in ("", "0\n"), done.stderr  # hung up on, early or late
            assert "user 65534 asked" in caplog.text
            same = subprocess.run(command, capture_output=True, text=True, check=True)
            assert int(same.stdout) > 100
        finally:
            served.close()


class TestClientsThatMisbehave:
    @pytest.fixture(autouse=True)
    def short_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(control, "CLIENT_DEADLINE", 0.5)

    def test_silent_ones_are_let_go_and_others_answered_meanwhile(
        self, serve: Serve, folder: Path
    ) -> None:
        serve()
        silent = [raw(folder) for _ in range(control.CLIENTS - 1)]
        assert list(control.ask(only(folder), "status"))
        for each in silent:
            assert each.recv(1) == b""
            each.close()

    def test_one_that_trickles_has_no_longer_than_one_that_is_silent(
        self, serve: Serve, folder: Path
    ) -> None:
        serve()
        with raw(folder) as connection:
            began = time.monotonic()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while time.monotonic() - began < 5:
                    connection.sendall(b" ")
                    time.sleep(0.05)
            assert time.monotonic() - began < 4

    def test_one_that_does_not_read_is_let_go(self, serve: Serve, folder: Path) -> None:
        began = threading.Event()

        def much(_request: Request) -> Iterator[Reply]:
            while True:
                began.set()
                yield {"much": "x" * 1_000_000}

        serve(much=much)
        with raw(folder) as connection:
            connection.sendall(b'{"v": 1, "ask": "much"}\n')
            assert began.wait(5)
            until_gone(clients)

    def test_one_that_hangs_up_ends_its_answer(self, serve: Serve, folder: Path) -> None:
        ended = threading.Event()

        def endless(_request: Request) -> Iterator[Reply]:
            try:
                while True:
                    yield {}
                    time.sleep(0.01)
            finally:
                ended.set()

        serve(endless=endless)
        replies = control.ask(only(folder), "endless")
        next(replies)
        replies.close()
        assert ended.wait(5)

    def test_there_are_never_more_than_so_many_at_once_and_all_get_their_turn(
        self, serve: Serve, folder: Path
    ) -> None:
        most = 0

        def slow(_request: Request) -> Iterator[Reply]:
            nonlocal most
            most = max(most, len(clients()))
            time.sleep(0.1)
            yield {}

        serve(slow=slow)
        daemon = only(folder)
        answers: list[Reply] = []
        asking = [
            threading.Thread(target=lambda: answers.extend(control.ask(daemon, "slow")))
            for _ in range(2 * control.CLIENTS)
        ]
        for each in asking:
            each.start()
        for each in asking:
            each.join()
        assert len(answers) == len(asking)
        assert most == control.CLIENTS


class TestDaemonsThatMisbehave:
    """A daemon is a socket with a script behind it."""

    @pytest.fixture
    def daemon(self, folder: Path) -> Iterator[Callable[[bytes], control.Daemon]]:
        made: list[socket.socket] = []

        def behave(reply: bytes) -> control.Daemon:
            folder.mkdir(parents=True)
            path = folder / "x-1.sock"
            listener = socket.socket(socket.AF_UNIX)
            made.append(listener)
            with control._address(path) as address:
                listener.bind(address)
            listener.listen()

            def answer() -> None:
                client, _ = listener.accept()
                made.append(client)
                client.recv(1 << 16)
                if reply:
                    with contextlib.suppress(OSError):  # nobody listens any more
                        client.sendall(reply)
                    client.close()

            threading.Thread(target=answer, daemon=True).start()
            return control.Daemon(path, 1)

        yield behave
        for each in made:
            each.close()

    def test_a_silent_one_is_given_up(self, daemon: Callable[[bytes], control.Daemon]) -> None:
        stuck = daemon(b"")
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded, match="process 1"):
            list(control.ask(stuck, "status", silence=0.3))
        assert time.monotonic() - began < 3

    def test_one_that_dies_in_the_middle_is_told_from_one_that_is_done(
        self, daemon: Callable[[bytes], control.Daemon]
    ) -> None:
        replies = control.ask(daemon(b'{"v": 1, "reply": {}}\n{"v": 1, "repl'), "status")
        assert next(replies) == {}
        with pytest.raises(errors.ConnectionLost, match="gone"):
            next(replies)

    @pytest.mark.parametrize("reply", [b"what?\n", b'{"v": 9}\n', b"x" * (9 << 20)])
    def test_one_that_talks_nonsense_is_an_error(
        self, daemon: Callable[[bytes], control.Daemon], reply: bytes
    ) -> None:
        with pytest.raises(errors.ProtocolError):
            list(control.ask(daemon(reply), "status"))


class TestLife:
    def test_the_socket_is_gone_after_the_end_and_who_was_listening_hears_the_last_word(
        self, serve: Serve, folder: Path
    ) -> None:
        end = threading.Event()

        def follow(_request: Request) -> Iterator[Reply]:
            yield {"state": "mounted"}
            assert end.wait(10)
            yield {"state": "left"}

        served = serve(follow=follow)
        daemon = only(folder)
        replies = control.ask(daemon, "follow")
        next(replies)
        threading.Timer(0.2, end.set).start()
        served.close()
        assert list(replies) == [{"state": "left"}]
        assert os.listdir(folder) == []
        with pytest.raises(errors.ConnectionLost):
            list(control.ask(daemon, "status"))

    def test_the_end_does_not_wait_for_an_answer_that_does_not_end(
        self, serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control, "FAREWELL", 0.2)
        stop = threading.Event()

        def endless(_request: Request) -> Iterator[Reply]:
            yield {}
            stop.wait()

        served = serve(endless=endless)
        replies = control.ask(only(folder), "endless")
        next(replies)
        began = time.monotonic()
        served.close()
        assert time.monotonic() - began < 10
        stop.set()

    def test_the_socket_of_a_killed_daemon_is_recognised_and_taken_away(self, folder: Path) -> None:
        daemon = killed_daemon(folder)
        assert os.listdir(folder) == [daemon]
        assert control.daemons(MOUNTPOINT, folder) == []
        assert os.listdir(folder) == []

    def test_a_new_daemon_takes_away_what_a_killed_one_left(
        self, serve: Serve, folder: Path
    ) -> None:
        killed = killed_daemon(folder)
        serve()
        assert killed not in os.listdir(folder)
        assert len(os.listdir(folder)) == 1

    def test_daemons_are_found_by_mountpoint_the_newest_last(
        self, serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for pid, mountpoint in ((30, MOUNTPOINT), (20, MOUNTPOINT), (10, "/mnt/other")):
            monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
            serve(mountpoint)
            time.sleep(0.02)
        assert [each.pid for each in control.daemons(MOUNTPOINT, folder)] == [30, 20]
        assert [each.pid for each in control.daemons(None, folder)] == [30, 20, 10]
        assert all(each.serves(MOUNTPOINT) for each in control.daemons(MOUNTPOINT, folder))
        assert control.daemons("/mnt/none", folder) == []

    def test_one_whose_backlog_is_full_is_waited_for(
        self, serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control, "BACKLOG", 0)
        monkeypatch.setattr(control, "CLIENTS", 1)
        monkeypatch.setattr(control, "CLIENT_DEADLINE", 0.5)
        go = threading.Event()

        def slow(_request: Request) -> Iterator[Reply]:
            yield {}
            go.wait(10)

        serve(slow=slow)
        daemon = only(folder)
        first = control.ask(daemon, "slow")
        next(first)
        threading.Timer(0.3, go.set).start()
        filler = raw(folder)
        assert only(folder) == daemon
        assert list(control.ask(daemon, "status"))
        filler.close()
        first.close()

    def test_without_the_folder_there_are_no_daemons(self, folder: Path) -> None:
        assert control.daemons(None, folder) == []


def killed_daemon(folder: Path) -> str:
    """The name of the socket that a process left that was killed."""
    code = (
        "import pathlib, sys, time; from ftpfs.control import Control;"
        "Control(pathlib.Path(sys.argv[1]), sys.argv[2], {}).start(); print(flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder), MOUNTPOINT], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    (name,) = os.listdir(folder)
    assert name.endswith(f"-{process.pid}.sock")
    return name
