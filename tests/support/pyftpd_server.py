"""pyftpdlib as a daemon of its own: `python -m tests.support.pyftpd_server '{"port": ...}'`.

It is a process and not a thread, so that it can be stopped, paused and killed like the other
servers, and does not share the GIL with the code under measurement.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer

READ, WRITE = "elr", "adfmwMT"


@dataclass(frozen=True)
class Settings:
    """The daemon's only argument, as JSON."""

    port: int
    root: str
    user: str
    password: str
    certificate: str | None = None
    implicit: bool = False
    require_tls: bool = False
    read_only: bool = False
    anonymous: bool = False
    mlsd: bool = True
    max_clients: int = 0
    max_per_ip: int = 0
    idle_timeout: int = 0
    use_localtime: bool = False
    umask: int = 0o022
    uid: int | None = None
    gid: int | None = None


class _Escaped(str):
    """Text that encodes to the bytes it stands for, even under strict encoding."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return str.encode(self, "utf8", "surrogateescape")


def _handler(settings: Settings) -> Any:
    base = TLS_FTPHandler if settings.certificate else FTPHandler

    class Handler(base):  # type: ignore[misc,valid-type]
        encoding = "utf8"
        unicode_errors = "surrogateescape"
        banner = "ftpfs test server"
        auth_failed_timeout = 0
        timeout = settings.idle_timeout or 3600
        use_gmt_times = not settings.use_localtime
        # The relay and NAT tests answer for another address.
        permit_foreign_addresses = True

        def push(self, data: str) -> None:
            # pyftpdlib encodes replies strictly, in spite of `unicode_errors`: one name that is not
            # UTF-8 in a reply would end the session.
            super().push(_Escaped(data))

        def handle(self) -> None:
            if not settings.implicit:
                super().handle()
                return
            # TLS first, the greeting after it: pyftpdlib has no implicit mode of its own.
            self._greeted = False
            self.secure_connection(self.ssl_context)

        def handle_ssl_established(self) -> None:
            if settings.implicit and not self._greeted:
                self._greeted = True
                super().handle()

    if not settings.mlsd:
        Handler.proto_cmds = {k: v for k, v in base.proto_cmds.items() if k not in ("MLSD", "MLST")}
    if settings.certificate:
        Handler.certfile = settings.certificate
        Handler.tls_control_required = Handler.tls_data_required = settings.require_tls
        Handler.get_ssl_context()
    authorizer = DummyAuthorizer()
    permissions = READ if settings.read_only else READ + WRITE
    authorizer.add_user(settings.user, settings.password, settings.root, perm=permissions)
    if settings.anonymous:
        authorizer.add_anonymous(settings.root, perm=READ)
    Handler.authorizer = authorizer
    return Handler


def main() -> None:
    """Serve until killed."""
    settings = Settings(**json.loads(sys.argv[1]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    handler = _handler(settings)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", settings.port))
    server = FTPServer(listener, handler, backlog=512)
    server.max_cons = settings.max_clients or 4096
    server.max_cons_per_ip = settings.max_per_ip
    os.umask(settings.umask)
    if settings.uid is not None and settings.gid is not None:
        # Last, because this user may not be able to read the interpreter's files. Lazy imports must
        # be done by now.
        time.strptime("0", "%S")
        "localhost".encode("idna")

        os.setgroups([])
        os.setgid(settings.gid)
        os.setuid(settings.uid)
    # A CWD enters the folder and returns here. If this folder were closed to that user, the next
    # test's CWD would begin in a missing folder.
    os.chdir("/")
    server.serve_forever(handle_exit=False)


if __name__ == "__main__":
    main()
