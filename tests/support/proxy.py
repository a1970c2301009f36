"""A SOCKS5 and HTTP CONNECT proxy in threads of the test; it records the requested addresses."""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

# A name for this machine that only the proxy knows.
SECRET_HOST = "only-the-proxy-knows.invalid"


class Proxy:
    """One listener; the first byte tells which of the two protocols a client speaks."""

    def __init__(self, *, refuse: bool = False, password: str = "") -> None:
        """`password`: of the user "user"; without it, the proxy refuses everything."""
        self._password = password
        self.asked: list[tuple[str, int]] = []
        # Under TLS: whether to cut data connections (to a port other than the first) before their
        # close_notify. None: pass records unread. Checked at each record, as a connection may be
        # older than the setting.
        self.cuts_before_close_notify: bool | None = None
        self.passes_records = 1 << 30  # maximum records before the close_notify
        # The server's greeting comes in one packet with the proxy's own reply.
        self.greets_at_once = False
        self._refuse = refuse
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._run, name="proxy", daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            first = client.recv(1)
            host, port = self._socks(client) if first == b"\5" else self._connect(client)
            self.asked.append((host, port))
            if self._refuse:
                refusal = b"\5\2\0\1" + bytes(6)  # not allowed by the rules
                client.sendall(refusal if first == b"\5" else b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            address = "127.0.0.1" if host == SECRET_HOST else host
            with socket.create_connection((address, port), timeout=5) as server:
                server.settimeout(None)
                ok = b"\5\0\0\1" + bytes(6) if first == b"\5" else b"HTTP/1.1 200 OK\r\n\r\n"
                if self.greets_at_once:
                    ok += server.recv(65536)
                client.sendall(ok)
                plain = self.cuts_before_close_notify is None or port == self.asked[0][1]
                copy = _copy if plain else self._copy_records
                back = threading.Thread(target=copy, args=[server, client], daemon=True)
                back.start()
                _copy(client, server)
                back.join()

    def _copy_records(self, source: socket.socket, sink: socket.socket) -> None:
        """Copy TLS records (RFC 8446, 5): type, version, length in two bytes, and that many bytes.

        TLS 1.3 hides the type: the length shows an alert, which is two bytes and the encryption's
        overhead.
        """
        passed = 0
        with contextlib.suppress(OSError):
            while len(head := source.recv(5, socket.MSG_WAITALL)) == 5:
                kind, length = head[0], int.from_bytes(head[3:], "big")
                alert = kind == 21 or (kind, length) == (23, 2 + 17)
                if self.cuts_before_close_notify and (alert or passed >= self.passes_records):
                    break
                passed += 1
                sink.sendall(head + source.recv(length, socket.MSG_WAITALL))
            sink.shutdown(socket.SHUT_WR)

    def _socks(self, client: socket.socket) -> tuple[str, int]:
        """RFC 1928: greeting, then a request by name or by address; RFC 1929 between the two."""
        offered = client.recv(client.recv(1)[0])
        if self._password:
            if 2 not in offered:
                client.sendall(b"\5\xff")
                raise OSError("no password offered")
            client.sendall(b"\5\2")
            client.recv(1)
            user, password = (client.recv(client.recv(1)[0]).decode() for _ in range(2))
            right = (user, password) == ("user", self._password)
            client.sendall(b"\1\0" if right else b"\1\1")
            if not right:
                raise OSError("wrong password")
        else:
            client.sendall(b"\5\0")
        kind = client.recv(4)[3]
        if kind == 3:
            host = client.recv(client.recv(1)[0]).decode()
        else:
            host = socket.inet_ntop(socket.AF_INET, client.recv(4))
        return host, struct.unpack(">H", client.recv(2))[0]

    def _connect(self, client: socket.socket) -> tuple[str, int]:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1)
        basic = base64.b64encode(f"user:{self._password}".encode())
        if self._password and b"Basic " + basic + b"\r\n" not in head:
            # It quotes the request, as some proxies do in their messages.
            client.sendall(b"HTTP/1.1 407 no " + head.replace(b"\r\n", b" ") + b"\r\n\r\n")
            raise OSError("wrong password")
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        return host, int(port)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def running(*, refuse: bool = False, password: str = "") -> Iterator[Proxy]:
    proxy = Proxy(refuse=refuse, password=password)
    try:
        yield proxy
    finally:
        proxy.close()
