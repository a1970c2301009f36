"""The embedded FTP server (pyftpdlib): `ftpfs serve`, and the server behind `ftpfs demo`.

Owns the settings that differ from pyftpdlib's defaults, the server's life from listening to its
end, and running it in a process of its own. FTP itself is pyftpdlib's.

Threading: one thread, pyftpdlib's loop. `running` starts a process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ftpfs.errors import FtpfsError, InvalidArgument
from ftpfs.settings.credentials import Secret

with warnings.catch_warnings():
    # On Python 3.10 and 3.11 it imports asyncore, which warns of its removal in 3.12.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

# pyftpdlib's permission letters: change folder, list, read; and all that change files.
_READ, _WRITE = "elr", "adfmwMT"

# Long enough for idle sessions of a mount; short enough to get rid of dead peers.
_IDLE_SECONDS = 3600

# The server ends within this time (s) after a signal.
_SIGNAL_SECONDS = 0.2


@dataclass(frozen=True)
class Service:
    """What to serve, where, and to whom."""

    folder: str
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    write: bool = False
    user: str | None = None  # None: anonymous
    password: Secret | None = None
    tls_cert: str | None = None  # PEM; with it the server requires explicit TLS
    tls_key: str | None = None  # None: the key is in the file of the certificate


def run(service: Service, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Calls `ready` with the URL when it accepts connections.

    Raises InvalidArgument for an unusable certificate, OSError for an unusable port.
    """
    ended = False

    def end(_number: int, _frame: object) -> None:
        # Raises nothing: pyftpdlib and ssl swallow what is raised at some moments.
        nonlocal ended
        ended = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    handler = _handler(service)
    with FTPServer((service.host, service.port), handler) as server:
        ready(_url(service, server.address))
        while not ended:
            server.ioloop.loop(_SIGNAL_SECONDS, blocking=False)


@contextlib.contextmanager
def running(folder: str, *arguments: str) -> Iterator[str]:
    """Run `ftpfs serve folder arguments...` in a process of its own, on a free port; its URL.

    The process has a session of its own, so Ctrl-C does not reach it. It ends with the block.
    """
    command, environ = this_program()
    # stderr goes to a file: a pipe that nobody reads would fill and block the server.
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            [*command, "serve", folder, *arguments],
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=environ,
            start_new_session=True,
        ) as process,
    ):
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                process.wait()
                complaints.seek(0)
                raise FtpfsError(f"the server did not start: {complaints.read().strip()}")
            yield url
        finally:
            process.terminate()


def this_program() -> tuple[Sequence[str], dict[str, str]]:
    """The command that runs this ftpfs, and the environment that it needs.

    It works from any working directory, also for a checkout that is not installed.
    """
    here = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", "ftpfs"], {**os.environ, "PYTHONPATH": path}


def _url(service: Service, address: tuple[str, int]) -> str:
    host, port = address
    scheme = "ftpes" if service.tls_cert else "ftp"
    login = f"{quote(service.user, safe='')}@" if service.user else ""
    return f"{scheme}://{login}{f'[{host}]' if ':' in host else host}:{port}/"


def _handler(service: Service) -> Any:
    base = _tls_handler() if service.tls_cert else FTPHandler

    class Handler(base):  # type: ignore[misc,valid-type]  # chosen now, and without types
        banner = "ftpfs"
        timeout = _IDLE_SECONDS
        encoding = "utf-8"
        unicode_errors = "surrogateescape"  # names that are not UTF-8 round-trip
        authorizer = _authorizer(service)

        def push(self, data: str) -> None:
            # FTPHandler.push encodes strictly: one name that is not UTF-8 would end the session.
            super(FTPHandler, self).push(data.encode(self.encoding, self.unicode_errors))

    class DataChannel(base.dtp_handler):  # type: ignore[misc,name-defined]  # as above
        timeout = _IDLE_SECONDS

    Handler.dtp_handler = DataChannel
    if service.tls_cert:
        _demand_tls(Handler, service)
    return Handler


def _authorizer(service: Service) -> DummyAuthorizer:
    authorizer = DummyAuthorizer()
    permissions = _READ + _WRITE if service.write else _READ
    folder = os.path.realpath(service.folder)
    if service.user:
        password = service.password.reveal() if service.password else ""
        authorizer.add_user(service.user, password, folder, perm=permissions)
        return authorizer
    with warnings.catch_warnings():
        # pyftpdlib warns that anonymous may write. --write asks for that.
        warnings.simplefilter("ignore", RuntimeWarning)
        authorizer.add_anonymous(folder, perm=permissions)
    return authorizer


def _tls_handler() -> Any:
    try:
        from pyftpdlib.handlers import TLS_FTPHandler
    except ImportError:
        raise InvalidArgument(
            "TLS in the embedded server needs the Python library pyOpenSSL"
        ) from None
    return TLS_FTPHandler


def _demand_tls(handler: Any, service: Service) -> None:
    from OpenSSL import SSL

    handler.certfile = service.tls_cert
    handler.keyfile = service.tls_key
    handler.tls_control_required = handler.tls_data_required = True
    try:
        handler.get_ssl_context()
    except (SSL.Error, OSError) as error:
        raise InvalidArgument(
            f"cannot use the certificate {service.tls_cert}"
            + (f" with the key {service.tls_key}" if service.tls_key else "")
            + (f": {error.strerror}" if isinstance(error, OSError) and error.strerror else "")
        ) from None
