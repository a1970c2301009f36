"""Fixtures for every test: servers, certificates, relays; and the rule about skips in CI.

A skip hides a hole. With CI=true in the environment the run fails if a test was skipped, unless
the reason says why no run anywhere could do better: it starts with "server cannot: ", as
`skip_if_cannot` writes it from the table `servers.CANNOT`.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import pytest

from ftpfs.ftp.connections import channels
from ftpfs.ftp.remote import Remote
from ftpfs.model import locks
from ftpfs.settings.config import Network, Server
from ftpfs.settings.credentials import Secret
from tests.support import certificates as certificates_module
from tests.support import servers
from tests.support.certificates import Certificates
from tests.support.relay import Relay
from tests.support.servers import FtpServer, Kind

EXCUSE = "server cannot: "
_skips = pytest.StashKey[list[str]]()


def skip_if_cannot(kind: Kind, feature: str) -> None:
    """Skip the calling test where `servers.CANNOT` says that `kind` is not able to do it."""
    reason = servers.CANNOT[kind].get(feature)
    if reason:
        pytest.skip(f"{EXCUSE}{kind}: {reason}")


def skip_unless_available(kind: Kind) -> None:
    """Skip the calling test where this machine lacks such a server; in CI that is a failure."""
    if reason := servers.why_unavailable(kind):
        pytest.skip(reason)


# A long link.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--far",
        action="store_true",
        help="everything as over a long link: what saves round trips is used on loopback, too",
    )
    parser.addoption(
        "--long",
        action="store_true",
        help="hours: random tests go on for longer, each server is tested with each FUSE binding",
    )


@pytest.fixture(scope="session")
def far(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--far"))


@pytest.fixture(autouse=True)
def _as_over_a_long_link(far: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if far:
        monkeypatch.setattr(channels, "ARMING_PAYS_SECONDS", 0.0)


# Reports.


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Let a report with a file name that is no UTF-8 pass between the processes of xdist."""
    return _sendable((yield))


def _sendable(data: object) -> object:
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(data, dict):
        return {key: _sendable(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(map(_sendable, data))
    return data


# The order of locks.


@pytest.fixture(autouse=True)
def _locks_in_order() -> Iterator[None]:
    """Fail the test in which a thread took a lock out of order, whichever thread it was."""
    locks.violations.clear()
    yield
    assert not locks.violations


# Which tests, in which order, for how long.

# How often or how long (seconds) something is tried with --long. Each of them can be given alone.
LONG = {
    "FTPFS_CUTS": "50",
    "FTPFS_KILLS": "200",
    "FTPFS_MODEL_EXAMPLES": "1000",
    "FTPFS_POWER_CUTS": "20",
    "FTPFS_RENAMES": "200",
    "FTPFS_SOAK_SECONDS": "120",
}


def _left_out(items: list[pytest.Item]) -> set[pytest.Item]:
    """Leave out every other pair of a test with several servers and both FUSE bindings.

    Each server and each binding stays. What a server does wrong does not depend on the binding.
    Which pairs stay differs from test to test.
    """
    kinds: dict[str, list[str]] = {}
    pairs: list[tuple[pytest.Item, str, str, str]] = []
    for item in items:
        case = getattr(item, "callspec", None)
        if case is None or not {"server_kind", "fuse_binding"} <= case.params.keys():
            continue
        kind, binding = case.params["server_kind"], case.params["fuse_binding"]
        test = item.nodeid.replace(kind, "").replace(binding, "")
        if kind not in kinds.setdefault(test, []):
            kinds[test].append(kind)
        pairs.append((item, test, kind, binding))
    return {
        item
        for item, test, kind, binding in pairs
        if len(kinds[test]) > 1
        and (kinds[test].index(kind) + (binding == "fusepy") + crc32(test.encode())) % 2
    }


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = any("[" in str(word) for word in config.args)
    if not named and not config.getoption("--long"):
        left_out = _left_out(items)
        if left_out:
            config.hook.pytest_deselected(items=list(left_out))
            items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(6000 if config.getoption("--long") else 600))


# Skips in CI.


def _let_signals_end_children() -> None:
    """Undo what a background job or nohup has left: programs inherit that a signal is ignored.

    A handler is not inherited, so pytest goes on as before and its programs die of the signal.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


def pytest_configure(config: pytest.Config) -> None:
    _let_signals_end_children()
    config.stash[_skips] = []
    locks.checking(True)
    os.environ["FTPFS_CHECK_LOCKS"] = "1"  # for mounts
    # Without compiled modules each `ftpfs` that a test runs takes twice the CPU time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if config.getoption("--long"):
        for name, count in LONG.items():
            os.environ.setdefault(name, count)  # read by the modules of these tests


def _note(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as a skip too; it carries `wasxfail`.
    if report.skipped and not hasattr(report, "wasxfail"):
        longrepr = report.longrepr
        reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(EXCUSE):
            config.stash[_skips].append(f"{report.nodeid}: {reason}")


class _SkipWatch:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _note(self.config, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        _note(self.config, report)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_SkipWatch(session.config), "ftpfs-skip-watch")


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("true", "1")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if in_ci() and session.config.stash[_skips] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skips = config.stash[_skips]
    if in_ci() and skips:
        terminalreporter.section("skipped without an excuse: a failure in CI", red=True)
        for line in skips:
            terminalreporter.line(line)
    ran = sum(
        len(terminalreporter.stats.get(outcome, []))
        for outcome in ("passed", "failed", "xfailed", "xpassed")
    )
    terminalreporter.line(f"{ran} tests ran")


# Folders and certificates.


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder for the session that every user may enter; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="ftpfs-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def certificates(open_folder: Path) -> Certificates:
    return certificates_module.make(open_folder / "certificates")


# Servers.

StartServer = Callable[..., FtpServer]


@pytest.fixture(params=servers.KINDS, scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    """Runs the test once for each kind of server."""
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[Kind, FtpServer]]:
    started: dict[Kind, FtpServer] = {}
    yield started
    for running in started.values():
        running.stop()


@pytest.fixture
def server(server_kind: Kind, open_folder: Path, _servers: dict[Kind, FtpServer]) -> FtpServer:
    """One server of each kind for the whole session. Leave it as you found it.

    Not a fixture of the session itself: pytest keeps such a one, with the kind it was made for,
    when a module overrides `server_kind`.
    """
    if server_kind not in _servers:
        skip_unless_available(server_kind)
        folder = open_folder / server_kind
        _servers[server_kind] = servers.start(server_kind, folder / "root", folder / "work")
    return _servers[server_kind]


@pytest.fixture
def start_server(open_folder: Path, certificates: Certificates) -> Iterator[StartServer]:
    """`start_server(kind, **what servers.start takes)`: a server for this test alone.

    With `tls=` it gets the good certificate unless told otherwise.
    """
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o755)
    started: list[FtpServer] = []

    def start(kind: Kind, **arguments: object) -> FtpServer:
        skip_unless_available(kind)
        number = len(started)
        if arguments.get("tls"):
            arguments.setdefault("certificate", certificates.server)
            arguments.setdefault("ca", certificates.ca)
        arguments.setdefault("root", folder / f"root{number}")
        arguments.setdefault("workdir", folder / f"work{number}")
        running = servers.start(kind, **arguments)  # type: ignore[arg-type]
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class RemoteDir:
    """A folder of a server, seen from both sides."""

    server: FtpServer
    disk: Path  # on the server's own disk
    path: str  # over FTP: absolute

    def remote(self, network: Network, port: int = 0) -> Remote:
        """The folder as `ftpfs.ftp` sees it. `port`: of a relay before the server."""
        server = self.server
        login = Server(
            server.host,
            port or server.port,
            user=server.user,
            password=Secret(server.password),
            path=self.path,
        )
        return Remote(login, network)

    def give(self, path: Path) -> Path:
        """Hand a file made on disk by the test over to the server's user."""
        os.chown(path, self.server.uid, self.server.gid, follow_symlinks=False)
        return path

    def write(self, name: str, data: bytes) -> Path:
        """A file on the server's disk, owned by the server's user; folders above are made."""
        path = self.disk / name
        for parent in reversed(path.relative_to(self.disk).parents[:-1]):
            if not (self.disk / parent).exists():
                (self.disk / parent).mkdir()
                self.give(self.disk / parent)
        path.write_bytes(data)
        return self.give(path)


@pytest.fixture
def remote_dir(server: FtpServer) -> Iterator[RemoteDir]:
    """A fresh, empty folder of `server`, removed afterwards."""
    disk = Path(tempfile.mkdtemp(dir=server.root))
    disk.chmod(0o755)
    os.chown(disk, server.uid, server.gid)
    yield RemoteDir(server, disk, "/" + disk.name)
    shutil.rmtree(disk, ignore_errors=True)


@pytest.fixture
def start_relay() -> Iterator[Callable[..., Relay]]:
    """`start_relay(server, raw=False)`: a relay before a server, for this test."""
    started: list[Relay] = []

    def start(server: FtpServer, *, raw: bool = False) -> Relay:
        relay = Relay(server.host, server.port, raw=raw).start()
        started.append(relay)
        return relay

    yield start
    for relay in started:
        relay.stop()


@pytest.fixture
def relay(server: FtpServer, start_relay: Callable[..., Relay]) -> Relay:
    """A relay before `server`."""
    return start_relay(server)
