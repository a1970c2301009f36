"""One pool for each server and user of a process: threads, forks, pickles, passwords, refusals."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

import ftpfs
from ftpfs import FTPFileSystem
from ftpfs.api import connections
from tests.conftest import StartServer
from tests.support.relay import Relay
from tests.support.servers import Options
from tests.support.uploading import blob
from tests.unit.api.conftest import Served, options_of

Closing = Callable[[FTPFileSystem], FTPFileSystem]


@pytest.fixture(scope="session")
def scheme() -> str:
    return "ftp"


@pytest.fixture(scope="session")
def server_kind() -> str:
    return "proftpd"


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` returned or raised in each of that many threads, which begin together."""
    found: list[Any] = [None] * count
    ready = threading.Barrier(count)

    def run(number: int) -> None:
        ready.wait()
        try:
            found[number] = work(number)
        except OSError as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_many_threads_share_one_file_system(served: Served, relay: Relay, closing: Closing) -> None:
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port), max_connections=5))

    def work(number: int) -> bytes:
        path = f"{served.path}/{number % 4}/{number}"
        fs.pipe(path, blob(number * 1000))
        with fs.open(path) as file:
            data: bytes = file.read()
        return data if fs.exists(path) else b""

    assert at_once(32, work) == [blob(number * 1000) for number in range(32)]
    assert len(fs.find(served.path)) == 32
    assert relay.peak_connections <= 5


def test_instances_of_threads_share_connections(
    served: Served, relay: Relay, closing: Closing
) -> None:
    """fsspec makes an instance for each thread."""
    options = {**options_of(served.server, relay.port), "max_connections": 3}
    del options["skip_instance_cache"]
    instances = at_once(8, lambda _: fsspec.filesystem("ftp", **options))
    assert len(set(map(id, instances))) == 8
    assert at_once(8, lambda number: instances[number].ls(served.path)) == [[]] * 8
    assert relay.peak_connections <= 3
    closing(instances[0])


def test_wrong_password_is_tried_once_by_all_threads(
    served: Served, relay: Relay, closing: Closing
) -> None:
    options = {**options_of(served.server, relay.port), "password": "wrong"}
    fs = closing(FTPFileSystem(**options))
    found = at_once(32, lambda _: fs.ls(served.path))
    assert {type(each) for each in found} == {PermissionError}
    assert relay.count("PASS") == 1


def test_forked_process_has_connections_of_its_own(served: Served, fs: FTPFileSystem) -> None:
    fs.pipe(f"{served.path}/file", blob(300_000))
    with fs.open(f"{served.path}/file") as file:
        assert file.read(1000) == blob(300_000)[:1000]
        child = os.fork()
        if child == 0:
            status = 1
            try:
                same = file.read() == blob(300_000)[1000:]
                fs.pipe(f"{served.path}/of the child", b"child")
                status = 0 if same else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert file.read() == blob(300_000)[1000:]
    assert fs.cat(f"{served.path}/of the child") == b"child"


def test_pickle_of_a_file_system_works_in_another_process(
    served: Served, fs: FTPFileSystem
) -> None:
    served.write("file", blob(1000))
    code = (
        "import pickle, sys; fs, path = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(fs.cat(path))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((fs, f"{served.path}/file")),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == blob(1000)
    with fs.open(f"{served.path}/file") as file:
        file.seek(10)
        again = pickle.loads(pickle.dumps(file))
    assert again.read() == blob(1000)[10:]


def test_password_from_outside_is_in_no_pickle_and_none_is_in_json(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = served.server.password
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login {served.server.user} password {secret}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    fs = FTPFileSystem("127.0.0.1", served.server.port)
    assert fs.ls(served.path) == []
    assert secret.encode() not in pickle.dumps(fs)
    given = served.filesystem()
    for text in (given.to_json(), json.dumps(given.to_dict()), repr(given), given.fsid):
        assert secret not in text
    assert secret in given.to_json(include_password=True)
    url = given.unstrip_protocol(f"{served.path}/file")
    assert secret not in url
    assert FTPFileSystem._strip_protocol(url) == f"{served.path}/file"


def test_refused_connection_is_waited_for_while_a_process_of_this_user_holds_it(
    start_server: StartServer, closing: Closing
) -> None:
    """The server takes two sessions. Another process has both, and ends in a while."""
    server = start_server("vsftpd", options=Options(max_clients=2))
    options = {**options_of(server), "max_connections": 1}
    del options["skip_instance_cache"]
    code = (
        "import ftplib, json, sys; from ftpfs import FTPFileSystem;"
        "options = json.loads(sys.argv[1]); fs = FTPFileSystem(**options); fs.pipe('/f', b'');"
        "other = ftplib.FTP(); other.connect(options['host'], options['port']);"
        "other.login(options['username'], options['password']);"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "ready\n"
        fs = closing(FTPFileSystem(**options))
        leaving = threading.Timer(2.0, other.stdin.close)
        leaving.start()
        assert fs.ls("/", detail=False) == ["/f"]
        leaving.join()


def test_importing_ftpfs_imports_no_fsspec() -> None:
    code = "import ftpfs, sys; print('fsspec' in sys.modules, 'ftpfs.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
    with pytest.raises(AttributeError):
        _ = ftpfs.NoSuchFileSystem


def test_closed_file_system_connects_again(served: Served, relay: Relay, closing: Closing) -> None:
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port)))
    assert fs.ls(served.path) == []
    fs.close()
    assert relay.wait_for(lambda: relay.open_connections == 0)
    assert fs.ls(served.path) == []


def test_housekeeping_closes_idle_connections(
    served: Served, relay: Relay, closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TIDY_SECONDS", 0.05)
    monkeypatch.setattr(connections, "here", connections.Connections())
    fs = closing(FTPFileSystem(**options_of(served.server, relay.port), idle_timeout=0.2))
    assert fs.ls(served.path) == []
    assert relay.wait_for(lambda: relay.open_connections == 0)


def test_limits_of_a_program_are_kept_to(served: Served) -> None:
    data = b"x" * (2 << 20)
    served.write("file", data)
    filesystem = served.filesystem(limit_down="1M", limit_up="4M")
    began = time.monotonic()
    assert filesystem.cat_file(f"{served.path}/file") == data
    assert time.monotonic() - began > 1.6
    began = time.monotonic()
    filesystem.pipe_file(f"{served.path}/copy", data)
    assert time.monotonic() - began > 0.2
    assert (served.disk / "copy").read_bytes() == data
    with pytest.raises(ValueError, match="limit_up"):
        served.filesystem(limit_up="fast")
