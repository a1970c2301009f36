"""File systems for Python programs, on servers of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pytest

from ftpfs import FTPFileSystem
from ftpfs.api import connections
from tests.conftest import skip_unless_available
from tests.support import servers
from tests.support.certificates import Certificates
from tests.support.servers import FtpServer, Kind


@pytest.fixture(scope="session", autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No profile, password or named server of the user who runs the tests."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(home))
        patched.setenv("XDG_STATE_HOME", str(home / "state"))
        patched.setenv("XDG_CONFIG_HOME", str(home / "config"))
        patched.delenv("FTPFS_PASSWORD", raising=False)
        yield


@pytest.fixture(autouse=True)
def _no_instances_left() -> Iterator[None]:
    yield
    FTPFileSystem.clear_instance_cache()


Options = dict[str, Any]


class Served(NamedTuple):
    """A folder of a server, and the arguments of its file system."""

    options: Options
    path: str  # over FTP: absolute
    disk: Path  # on the server's own disk
    server: FtpServer

    def filesystem(self, **more: Any) -> FTPFileSystem:
        return FTPFileSystem(**{**self.options, **more})

    def give(self, path: Path) -> Path:
        """Hand a file made on disk by the test over to the server's user."""
        os.chown(path, self.server.uid, self.server.gid, follow_symlinks=False)
        return path

    def write(self, name: str, data: bytes) -> Path:
        path = self.disk / name
        for parent in reversed(path.relative_to(self.disk).parents[:-1]):
            if not (self.disk / parent).exists():
                (self.disk / parent).mkdir()
                self.give(self.disk / parent)
        path.write_bytes(data)
        return self.give(path)


def options_of(server: FtpServer, port: int = 0) -> Options:
    options: Options = {
        "host": server.host,
        "port": port or server.port,
        "username": server.user,
        "password": server.password,
        "skip_instance_cache": True,
    }
    if server.tls is not None:
        options |= {"tls": server.tls, "tls_ca": str(server.ca)}
    return options


@pytest.fixture(scope="session")
def _protected(certificates: Certificates, open_folder: Path) -> Iterator[dict[Kind, FtpServer]]:
    started: dict[Kind, FtpServer] = {}
    yield started
    for running in started.values():
        running.stop()


@pytest.fixture(params=["ftp", "ftpes"], scope="session")
def scheme(request: pytest.FixtureRequest) -> str:
    """Runs the test once in clear, and once over TLS."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def served(
    server_kind: Kind,
    scheme: str,
    request: pytest.FixtureRequest,
    open_folder: Path,
    certificates: Certificates,
    _protected: dict[Kind, FtpServer],
) -> Iterator[Served]:
    """A fresh, empty folder, removed afterwards."""
    if scheme == "ftp":
        server: FtpServer = request.getfixturevalue("server")
    else:
        if server_kind not in _protected:
            skip_unless_available(server_kind)
            folder = open_folder / f"{server_kind}-ftpes"
            _protected[server_kind] = servers.start(
                server_kind,
                folder / "root",
                folder / "work",
                tls="explicit",
                certificate=certificates.server,
                ca=certificates.ca,
            )
        server = _protected[server_kind]
    disk = Path(tempfile.mkdtemp(dir=server.root))
    disk.chmod(0o755)
    os.chown(disk, server.uid, server.gid)
    yield Served(options_of(server), "/" + disk.name, disk, server)
    shutil.rmtree(disk, ignore_errors=True)


@pytest.fixture
def fs(served: Served) -> FTPFileSystem:
    return served.filesystem()


@pytest.fixture
def fs_path(served: Served) -> str:
    return served.path


@pytest.fixture
def closing() -> Iterator[Callable[[FTPFileSystem], FTPFileSystem]]:
    """Closes the connections of a file system after the test, whose server ends with the test."""
    used: list[FTPFileSystem] = []

    def note(fs: FTPFileSystem) -> FTPFileSystem:
        used.append(fs)
        return fs

    yield note
    for fs in used:
        fs.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run each test of fsspec's suite on each server, half of them in clear and half over TLS.

    With --long, or if tests are named, all of them run. Which half it is differs from test to test,
    and from server to server.
    """
    if config.getoption("--long") or any("[" in str(word) for word in config.args):
        return
    left_out = []
    for item in items:
        case = getattr(item, "callspec", None)
        if case is None or not {"server_kind", "scheme"} <= case.params.keys():
            continue
        kind, scheme = case.params["server_kind"], case.params["scheme"]
        test = crc32(item.nodeid.replace(f"{kind}-{scheme}", "").encode())
        if (test + servers.KINDS.index(kind) + (scheme == "ftp")) % 2:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session", autouse=True)
def _connections_closed() -> Iterator[None]:
    yield
    connections.here.close()
