"""Processes of one user at one server: which are known, and how they share a limit."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.ftp.connections import limit
from ftpfs.ftp.connections.neighbours import Neighbours
from ftpfs.ftp.remote import Remote
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.support import scripted_server
from tests.support.scripted_server import Manners, ScriptedServer
from tests.support.waiting import until

NETWORK = Network(connect_timeout=3.0, reply_timeout=5.0, data_timeout=5.0, finish_timeout=5.0)

# A process that publishes its number of connections, and then waits for the end of its input.
PROCESS = """if True:
    import sys
    from pathlib import Path
    from ftpfs.ftp.connections.neighbours import Neighbours
    ours = Neighbours(Path(sys.argv[1]), "/mnt/other")
    ours.look(3)
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "now")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
        process.kill()


def test_neighbour_is_known_while_it_lives_and_forgotten_after_any_end(
    tmp_path: Path, process: subprocess.Popen[str]
) -> None:
    ours = Neighbours(tmp_path / "now", "/mnt/here")
    (other,) = ours.look(1)
    assert other == (process.pid, "/mnt/other", 3)
    assert other.line() == f"process {process.pid} (/mnt/other) holds 3 connections"
    process.kill()
    process.wait()
    assert ours.look(1) == ()
    assert len(list((tmp_path / "now").iterdir())) == 1, "its file is gone, too"
    ours.close()
    assert not list((tmp_path / "now").iterdir())


def test_unusable_neighbour_folder_only_hides_neighbours(tmp_path: Path) -> None:
    (tmp_path / "now").symlink_to("/tmp")
    ours = Neighbours(tmp_path / "now", "/mnt/here")
    assert ours.look(1) == ours.look(2) == ()
    ours.close()


def test_invalid_file_in_neighbour_folder_is_ignored(tmp_path: Path) -> None:
    ours = Neighbours(tmp_path / "now", "/mnt/here")
    ours.look(1)
    (tmp_path / "now" / "folder").mkdir()
    (tmp_path / "now" / "link").symlink_to("/etc/passwd")
    (tmp_path / "now" / "text").write_text("no JSON")
    assert ours.look(1) == ()
    ours.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ScriptedServer]:
    (tmp_path / "root").mkdir()
    manners = Manners(most_clients=6, refusal="421 six are enough")
    with scripted_server.start(tmp_path / "root", manners) as server:
        yield server


def remote_at(server: ScriptedServer, folder: Path, what: str) -> Remote:
    place = Server(server.host, server.port, user=server.user, password=Secret(server.password))
    return Remote(place, replace(NETWORK, max_connections=8), neighbours=Neighbours(folder, what))


def hold(remote: Remote, count: int) -> None:
    """Log in until `count` sessions exist, or the server refuses one."""
    for _ in range(count):
        try:
            session = remote._pool._connect()
        except errors.ServerBusy as error:
            with remote._pool._changed:
                remote._pool._note_failed_login_locked(error)
            return
        with remote._pool._changed:
            remote._pool._idle.append(session)


def test_processes_share_connection_limit_of_server(
    server: ScriptedServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limit, "SHARED_IDLE_SECONDS", 600.0)  # for a process without neighbours
    first = remote_at(server, tmp_path / "now", "/mnt/first")
    second = remote_at(server, tmp_path / "now", "/mnt/second")
    caplog.set_level("INFO")
    try:
        first.connect()
        hold(first, 8)
        assert server.clients == 6
        assert first.status().cap == 5
        first.tidy()
        with pytest.raises(errors.ServerBusy, match=r"\(/mnt/first\) holds 6 connections"):
            second.connect()
        first.tidy()  # it has seen the other process
        assert first.status().others[0].what == "/mnt/second"
        first.tidy()
        first.tidy()
        until(lambda: server.clients == 5)
        time.sleep(1)  # the server refused it, and it does not ask again at once
        second.connect()
        hold(second, 8)
        assert second.profile.wire.connections == 6, "not what was left for it"
        second.tidy()
        first.tidy()
        first.tidy()
        assert (first.status().idle, first.status().cap) == (4, 4), "one is left for the other"
        second.tidy()
        assert second.status().cap == 3, "its share is two of five, and one is not taken"
        until(lambda: server.clients == 5)
        hold(second, 1)
        second.tidy()
        first.tidy()
        first.tidy()
        assert (first.status().idle, second.status().idle) == (3, 2)
    finally:
        first.close()
        second.close()
    assert not list((tmp_path / "now").iterdir())
