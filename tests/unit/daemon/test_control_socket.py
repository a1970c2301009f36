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

from ftpfs import errors
from ftpfs.daemon import control_socket
from ftpfs.daemon.control_socket import Answer, Control, Reply, Report, Request
from ftpfs.model.status import CacheStatus, ConnectionStatus, MountStatus, PendingFile, UploadStatus
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


def only(folder: Path) -> control_socket.Daemon:
    (daemon,) = control_socket.daemons(MOUNTPOINT, folder)
    return daemon


def clients() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "ftpfs-control-client"]


def raw(folder: Path) -> socket.socket:
    """A connection that sends nothing by itself."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    with control_socket._address(only(folder).socket) as address:
        control_socket._connect(connection, address, time.monotonic() + 10)
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
    def test_report_arrives_unchanged(self, serve: Serve, folder: Path) -> None:
        serve()
        (reply,) = control_socket.ask(only(folder), "status")
        assert Report.from_reply(reply) == REPORT

    def test_names_of_any_bytes_pass_both_ways(self, serve: Serve, folder: Path) -> None:
        serve()
        path = "/" + ODD + '"\n\u2028' + "x" * 4000
        assert list(control_socket.ask(only(folder), "echo", path=path)) == [{"path": path}]

    def test_each_reply_arrives_when_it_is_made(self, serve: Serve, folder: Path) -> None:
        go = threading.Event()

        def two(_request: Request) -> Iterator[Reply]:
            yield {"number": 1}
            assert go.wait(10)
            yield {"number": 2}

        serve(two=two)
        replies = control_socket.ask(only(folder), "two")
        assert next(replies) == {"number": 1}
        go.set()
        assert list(replies) == [{"number": 2}]

    def test_refusal_arrives_as_an_error(self, serve: Serve, folder: Path) -> None:
        def refuse(_request: Request) -> Iterator[Reply]:
            yield {}
            raise errors.NotFound("no such folder")

        serve(refuse=refuse)
        with pytest.raises(errors.FtpfsError, match="no such folder"):
            list(control_socket.ask(only(folder), "refuse"))

    def test_fault_is_an_error_for_the_client_and_a_traceback_in_the_log(
        self, serve: Serve, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_request: Request) -> Iterator[Reply]:
            yield {"x": 1 // 0}

        serve(fail=fail)
        with pytest.raises(errors.FtpfsError, match="ZeroDivisionError"):
            list(control_socket.ask(only(folder), "fail"))
        assert "Traceback" in caplog.text
        assert list(control_socket.ask(only(folder), "status"))

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
    def test_malformed_request_gets_an_error_and_the_next_client_an_answer(
        self, serve: Serve, folder: Path, line: bytes
    ) -> None:
        serve()
        try:
            assert "error" in said_to(folder, line)
        except (BrokenPipeError, ConnectionResetError):
            # the daemon hung up before it had read the line
            assert len(line) > control_socket.REQUEST_BYTES
        assert list(control_socket.ask(only(folder), "status"))

    @pytest.mark.parametrize("missing", ["pid", "status"])
    def test_report_of_another_version_is_read_or_refused(self, missing: str) -> None:
        reply = REPORT.to_reply()
        reply["added later"] = reply["status"]["cache"]["added later"] = 1
        assert Report.from_reply(reply) == REPORT
        del reply[missing]
        with pytest.raises(errors.FtpfsError, match="another version"):
            Report.from_reply(reply)
        with pytest.raises(errors.FtpfsError, match="another version"):
            Report.from_reply({**REPORT.to_reply(), "status": {"uploads": []}})


class TestTheSocket:
    def test_new_socket_is_not_taken_for_that_of_a_dead_daemon(
        self, serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class LookedFor(socket.socket):
            def listen(self, backlog: int = 1) -> None:
                assert control_socket.daemons(None, folder) == []  # somebody asks just now
                super().listen(backlog)

        monkeypatch.setattr(socket, "socket", LookedFor)
        serve()
        assert list(control_socket.ask(only(folder), "status"))

    def test_daemon_answers_again_after_descriptors_were_short(
        self, serve: Serve, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        serve()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = socket.socket(socket.AF_UNIX)
        with waiting, control_socket._address(only(folder).socket) as address:
            waiting.settimeout(10)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            try:
                waiting.connect(address)
                until(lambda: "does not answer for now" in caplog.text)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert "Too many open files" in caplog.text
            waiting.sendall(b'{"v": 1, "ask": "status"}\n')
            assert waiting.recv(10)


class TestPermissions:
    def test_socket_belongs_to_this_user_alone(self, serve: Serve, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o755)
        serve()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(only(folder).socket.stat().st_mode) == 0o600

    def test_folder_of_another_user_is_not_used(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(PermissionError, match="another user"):
            Control(folder, MOUNTPOINT, {})

    def test_other_users_get_no_answer_even_if_file_modes_allow_it(
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
            # the daemon hung up, before or after the question
            assert done.stdout in ("", "0\n"), done.stderr
            assert "user 65534 may not" in caplog.text
            same = subprocess.run(command, capture_output=True, text=True, check=True)
            assert int(same.stdout) > 100
        finally:
            served.close()


class TestClientsThatMisbehave:
    @pytest.fixture(autouse=True)
    def short_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(control_socket, "CLIENT_SECONDS", 0.5)

    def test_silent_clients_are_dropped_while_others_get_answers(
        self, serve: Serve, folder: Path
    ) -> None:
        serve()
        silent = [raw(folder) for _ in range(control_socket.MOST_CLIENTS - 1)]
        assert list(control_socket.ask(only(folder), "status"))
        for each in silent:
            assert each.recv(1) == b""
            each.close()

    def test_client_that_sends_slowly_has_the_same_deadline(
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

    def test_client_that_does_not_read_is_dropped(self, serve: Serve, folder: Path) -> None:
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

    def test_client_that_hangs_up_ends_its_answer(self, serve: Serve, folder: Path) -> None:
        ended = threading.Event()

        def endless(_request: Request) -> Iterator[Reply]:
            try:
                while True:
                    yield {}
                    time.sleep(0.01)
            finally:
                ended.set()

        serve(endless=endless)
        replies = control_socket.ask(only(folder), "endless")
        next(replies)
        replies.close()
        assert ended.wait(5)

    def test_number_of_clients_is_limited_and_all_get_their_turn(
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
            threading.Thread(target=lambda: answers.extend(control_socket.ask(daemon, "slow")))
            for _ in range(2 * control_socket.MOST_CLIENTS)
        ]
        for each in asking:
            each.start()
        for each in asking:
            each.join()
        assert len(answers) == len(asking)
        assert most == control_socket.MOST_CLIENTS


class TestDaemonsThatMisbehave:
    """A daemon is a socket with a script behind it."""

    @pytest.fixture
    def daemon(self, folder: Path) -> Iterator[Callable[[bytes], control_socket.Daemon]]:
        made: list[socket.socket] = []

        def behave(reply: bytes) -> control_socket.Daemon:
            folder.mkdir(parents=True)
            path = folder / "x-1.sock"
            listener = socket.socket(socket.AF_UNIX)
            made.append(listener)
            with control_socket._address(path) as address:
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
            return control_socket.Daemon(path, 1)

        yield behave
        for each in made:
            each.close()

    def test_silent_daemon_times_out(
        self, daemon: Callable[[bytes], control_socket.Daemon]
    ) -> None:
        stuck = daemon(b"")
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded, match="process 1"):
            list(control_socket.ask(stuck, "status", silence=0.3))
        assert time.monotonic() - began < 3

    def test_daemon_that_dies_midway_is_told_from_one_that_is_done(
        self, daemon: Callable[[bytes], control_socket.Daemon]
    ) -> None:
        replies = control_socket.ask(daemon(b'{"v": 1, "reply": {}}\n{"v": 1, "repl'), "status")
        assert next(replies) == {}
        with pytest.raises(errors.ConnectionLost, match="gone"):
            next(replies)

    @pytest.mark.parametrize("reply", [b"what?\n", b'{"v": 9}\n', b"x" * (9 << 20)])
    def test_malformed_reply_is_an_error(
        self, daemon: Callable[[bytes], control_socket.Daemon], reply: bytes
    ) -> None:
        with pytest.raises(errors.ProtocolError):
            list(control_socket.ask(daemon(reply), "status"))


class TestLife:
    def test_socket_is_gone_after_the_end_and_followers_get_the_last_report(
        self, serve: Serve, folder: Path
    ) -> None:
        end = threading.Event()

        def follow(_request: Request) -> Iterator[Reply]:
            yield {"state": "mounted"}
            assert end.wait(10)
            yield {"state": "left"}

        served = serve(follow=follow)
        daemon = only(folder)
        replies = control_socket.ask(daemon, "follow")
        next(replies)
        threading.Timer(0.2, end.set).start()
        served.close()
        assert list(replies) == [{"state": "left"}]
        assert os.listdir(folder) == []
        with pytest.raises(errors.ConnectionLost):
            list(control_socket.ask(daemon, "status"))

    def test_end_does_not_wait_for_an_endless_answer(
        self, serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control_socket, "FAREWELL_SECONDS", 0.2)
        stop = threading.Event()

        def endless(_request: Request) -> Iterator[Reply]:
            yield {}
            stop.wait()

        served = serve(endless=endless)
        replies = control_socket.ask(only(folder), "endless")
        next(replies)
        began = time.monotonic()
        served.close()
        assert time.monotonic() - began < 10
        stop.set()

    def test_socket_of_a_killed_daemon_is_recognised_and_deleted(self, folder: Path) -> None:
        daemon = killed_daemon(folder)
        assert os.listdir(folder) == [daemon]
        assert control_socket.daemons(MOUNTPOINT, folder) == []
        assert os.listdir(folder) == []

    def test_new_daemon_deletes_the_socket_of_a_killed_one(
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
        assert [each.pid for each in control_socket.daemons(MOUNTPOINT, folder)] == [30, 20]
        assert [each.pid for each in control_socket.daemons(None, folder)] == [30, 20, 10]
        assert all(each.serves(MOUNTPOINT) for each in control_socket.daemons(MOUNTPOINT, folder))
        assert control_socket.daemons("/mnt/none", folder) == []

    def test_client_waits_for_a_daemon_with_a_full_backlog(
        self, serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control_socket, "BACKLOG", 0)
        monkeypatch.setattr(control_socket, "MOST_CLIENTS", 1)
        monkeypatch.setattr(control_socket, "CLIENT_SECONDS", 0.5)
        go = threading.Event()

        def slow(_request: Request) -> Iterator[Reply]:
            yield {}
            go.wait(10)

        serve(slow=slow)
        daemon = only(folder)
        first = control_socket.ask(daemon, "slow")
        next(first)
        threading.Timer(0.3, go.set).start()
        filler = raw(folder)
        assert only(folder) == daemon
        assert list(control_socket.ask(daemon, "status"))
        filler.close()
        first.close()

    def test_no_daemons_are_found_without_the_folder(self, folder: Path) -> None:
        assert control_socket.daemons(None, folder) == []


def killed_daemon(folder: Path) -> str:
    """The name of the socket that a killed process has left."""
    code = (
        "import pathlib, sys, time; from ftpfs.daemon.control_socket import Control;"
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
