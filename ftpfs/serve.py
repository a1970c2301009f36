"""The embedded FTP server (pyftpdlib): `ftpfs serve`, and the server behind `ftpfs demo`.

Owns: what of pyftpdlib's defaults does not suit, the server's life from listening to a clean end,
and running it in a process of its own. Owns no FTP.

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
from typing import Any, NoReturn
from urllib.parse import quote

from ftpfs.credentials import Secret
from ftpfs.errors import FtpfsError, InvalidArgument

with warnings.catch_warnings():
    # On Python 3.10 and 3.11 it uses asyncore, which warns that 3.12 has none.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

# pyftpdlib's permission letters: change folder, list, read; and everything that changes files.
_READ, _WRITE = "elr", "adfmwMT"

# A mount's idle session or a parked reader is not cut off over lunch; a dead peer is in the end.
_IDLE_SECONDS = 3600


@dataclass(frozen=True)
class Service:
    """What to serve, where, and to whom."""

    folder: str
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    write: bool = False
    user: str | None = None  # None: anonymous, without a password
    password: Secret | None = None
    tls_cert: str | None = None  # PEM; explicit TLS is demanded when there is one
    tls_key: str | None = None  # None: the key is in the certificate's file


def run(service: Service, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told the URL once connections are accepted.

    Raises InvalidArgument for a certificate that cannot be used, OSError where the port cannot.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    handler = _handler(service)
    try:
        with FTPServer((service.host, service.port), handler) as server:
            ready(_url(service, server.address))
            server.serve_forever(handle_exit=False)
    except KeyboardInterrupt:
        pass  # how it is meant to end


@contextlib.contextmanager
def running(folder: str, *arguments: str) -> Iterator[str]:
    """`ftpfs serve folder arguments...` in a process of its own, on a free port; its URL.

    The process has a session of its own too: Ctrl-C reaches it through us, when we are done.
    """
    command, environ = this_program()
    # Complaints go to a file: a pipe that nobody empties would stop the server one day.
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
    """The command that runs this very ftpfs, and the environment that it needs.

    A checkout that is not installed is found from any working directory, too.
    """
    here = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", "ftpfs"], {**os.environ, "PYTHONPATH": path}


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


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
        unicode_errors = "surrogateescape"  # names that are no UTF-8 round-trip
        authorizer = _authorizer(service)

        def push(self, data: str) -> None:
            # FTPHandler.push encodes strictly: one odd name in a reply would end the session.
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
        # That anonymous may write is what --write says.
        warnings.simplefilter("ignore", RuntimeWarning)
        authorizer.add_anonymous(folder, perm=permissions)
    return authorizer


def _tls_handler() -> Any:
    try:
        from pyftpdlib.handlers import TLS_FTPHandler
    except ImportError:
        raise InvalidArgument(
            "TLS in the embedded server needs pyOpenSSL: pip install 'ftpfs[tls-server]'"
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
