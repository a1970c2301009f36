"""The proxy: connections through SOCKS (by python-socks) or HTTP's CONNECT (by this module).

This module does CONNECT itself because an FTP server speaks first. Its greeting may arrive together
with the proxy's reply; libraries (python-socks, http.client) read both and lose the greeting.

Threading: none of its own.
"""

from __future__ import annotations

import base64
import socket
import time
from urllib.parse import urlsplit

from ftpfs import errors

# Maximum bytes of a proxy's reply, including its headers.
MAX_HEAD_BYTES = 64 << 10


def dial(
    proxy: str, login: tuple[str, str] | None, host: str, port: int, timeout: float
) -> socket.socket:
    """A connection to `port` of `host` through `proxy`, a URL; `timeout` seconds for all of it.

    `host` may be a name that only the proxy knows. Raises OSError, including TimeoutError;
    NotSupported if the library for SOCKS is missing.
    """
    if urlsplit(proxy).scheme == "http":
        return _connect(proxy, login, host, port, timeout)
    return _socks(proxy, login, host, port, timeout)


def _socks(
    url: str, login: tuple[str, str] | None, host: str, port: int, timeout: float
) -> socket.socket:
    try:
        import python_socks
        from python_socks.sync import Proxy
    except ImportError:
        raise errors.NotSupported(
            "a SOCKS proxy needs the Python library python-socks (pip install python-socks)"
        ) from None
    kind, at, at_port, _, _ = python_socks.parse_proxy_url(url)
    user, password = login or (None, None)
    try:
        proxy = Proxy.create(kind, at, at_port, username=user, password=password)
        channel: socket.socket = proxy.connect(host, port, timeout=timeout)
    except python_socks.ProxyTimeoutError as error:
        raise TimeoutError from error
    except python_socks.ProxyError as error:
        raise _refusal(str(error), login) from None
    return channel


def _connect(
    url: str, login: tuple[str, str] | None, host: str, port: int, timeout: float
) -> socket.socket:
    """Ask an HTTP proxy for a connection by CONNECT (RFC 9110, 9.3.6)."""
    at = urlsplit(url)
    deadline = time.monotonic() + timeout
    try:
        channel = socket.create_connection((at.hostname or "", at.port or 80), timeout=timeout)
    except TimeoutError:
        raise
    except OSError as error:
        raise OSError(f"no connection to the proxy: {error.strerror or error}") from error
    try:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if login:
            lines.append(f"Proxy-Authorization: Basic {_basic(*login)}")
        channel.sendall("\r\n".join([*lines, "", ""]).encode("utf-8"))
        status = _read_head(channel, deadline).partition("\r\n")[0]
        if status.split(" ")[1:2] != ["200"]:
            raise _refusal(status, login)
    except BaseException:
        channel.close()
        raise
    channel.settimeout(timeout)
    return channel


def _read_head(channel: socket.socket, deadline: float) -> str:
    """The reply up to its empty line. Reads not one byte further."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        channel.settimeout(left)
        byte = channel.recv(1)
        if not byte or len(head) > MAX_HEAD_BYTES:
            raise OSError("the proxy's reply has no end")
        head += byte
    return head.decode("latin-1")


def _basic(user: str, password: str) -> str:
    """Basic credentials in UTF-8, as RFC 7617, 2 recommends."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _refusal(said: str, login: tuple[str, str] | None) -> OSError:
    """The error with the proxy's reply, secrets replaced.

    The reply may quote the request: raise it `from None`, or a traceback would quote it too.
    """
    if login:
        said = said.replace(_basic(*login), "***").replace(login[1], "***")
    return OSError(f"the proxy says: {errors.printable(said)}")
