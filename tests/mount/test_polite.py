"""A mount with many readers leaves a place on a small server to other programs."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.mount.conftest import Mounted, MountServer, ftpfs
from tests.support import scripted_server, servers
from tests.support.relay import Relay
from tests.support.scripted_server import Manners
from tests.support.servers import FtpServer
from tests.support.waiting import comes_true, until

pytestmark = pytest.mark.mount

CONNECTIONS, READERS = 6, 60
BYTES = 3_000_000  # of each file
SECONDS = 5.0  # until another program is let in


LIMITS = [servers.Options(max_clients=CONNECTIONS), servers.Options(max_per_ip=CONNECTIONS)]


@pytest.fixture(params=LIMITS, ids=["in-all", "of-an-address"])
def small_server(request: pytest.FixtureRequest, start_server: StartServer) -> FtpServer:
    """A server of six connections, with a file for each reader."""
    server = start_server("vsftpd", options=request.param)
    for number in range(READERS):
        file = server.root / f"file{number}"
        file.write_bytes(bytes(BYTES))
        os.chown(file, server.uid, server.gid)
    return server


def curl_gets_in(server: FtpServer) -> bool:
    url = f"ftp://{server.user}:{server.password}@{server.host}:{server.port}/"
    done = subprocess.run(["curl", "-sS", "-m", "5", url], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def busy(
    small_server: FtpServer, mount_server: MountServer, start_relay: Callable[..., Relay]
) -> Iterator[Mounted]:
    """A mount of it in which sixty readers wait for slow data."""
    relay = start_relay(small_server)
    relay.data_rate = 1_000_000
    mounted = mount_server(small_server, small_server.root, port=relay.port)
    stop = threading.Event()

    def read(number: int) -> None:
        with open(mounted.path / f"file{number}", "rb", buffering=0) as file:
            while not stop.is_set() and file.read(100_000):
                pass

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(read, number) for number in range(READERS)]
        until(lambda: re.search("allows no more than [1-6] connections", mounted.log_text()), 60)
        yield mounted
        assert not all(reader.done() for reader in readers), "they read all the time"
        stop.set()
        relay.data_rate = None
        for reader in readers:
            reader.result(30)


def test_others_get_in_while_sixty_readers_use_a_server_of_six_connections(
    busy: Mounted, small_server: FtpServer, mount_server: MountServer
) -> None:
    server = small_server
    assert comes_true(lambda: curl_gets_in(server), SECONDS)
    url = f"ftp://{server.user}@{server.host}:{server.port}/"
    began = time.monotonic()
    listed = ftpfs("ls", url, env={"FTPFS_PASSWORD": server.password})
    assert listed.returncode == 0, listed.stderr
    assert "file7" in listed.stdout.split()
    assert time.monotonic() - began < SECONDS
    began = time.monotonic()
    second = mount_server(server, server.root)
    assert len(os.listdir(second.path)) == READERS
    assert (second.path / "file3").read_bytes() == bytes(BYTES)
    assert time.monotonic() - began < SECONDS
    told = ftpfs("status", str(busy.path), env={"XDG_STATE_HOME": str(busy.state)}).stdout
    assert re.search(r"\d busy, \d idle, \d at most; \d+ wait for one\n", told)
    assert re.search("the server allows [1-6] for now\n", told)


@contextlib.contextmanager
def running(*words: str | Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is killed at the end."""
    environment = {**os.environ, **env}
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment) as program:
        try:
            yield program
        finally:
            program.kill()


@pytest.mark.parametrize("refusal", ["421 too many", "530 too many users", ""])
def test_full_server_names_the_process_of_this_user_that_fills_it(
    tmp_path: Path, mount_server: MountServer, refusal: str
) -> None:
    root, second = tmp_path / "root", tmp_path / "second"
    root.mkdir()
    second.mkdir()
    (root / "big").write_bytes(bytes(20_000_000))
    manners = Manners(most_clients=1, refusal=refusal, rate=100_000)
    with scripted_server.start(root, manners) as server:
        url = f"ftp://{server.user}@{server.host}:{server.port}/"
        env = {"FTPFS_PASSWORD": server.password, "XDG_STATE_HOME": str(tmp_path / "state")}

        def told(*words: str) -> str:
            done = ftpfs(*words, "--reply-timeout", "2", env=env)
            assert done.returncode != 0
            return " ".join(done.stderr.split())

        get = [sys.executable, "-m", "ftpfs", "get", f"{url}big", str(tmp_path / "copy")]
        with running(*get, env=env) as program:
            until(lambda: "RETR" in server.verbs())
            assert f"process {program.pid} (ftpfs get) holds 1 connection" in told("ls", url)
        until(lambda: server.clients == 0)
        server.commands.clear()
        mounted = mount_server(server, root)
        with running("cat", mounted.path / "big", env=env):
            until(lambda: "RETR" in server.verbs())
            for words in (["ls", url], ["doctor", url], ["mount", url, str(second)]):
                assert f"({mounted.path}) holds 1 connection" in told(*words), words
