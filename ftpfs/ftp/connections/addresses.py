"""Addresses of this machine: where connections come from, and which kind of IP they use.

Owns the options `address_family`, `bind_address` and `active_ports`. Does not own proxies.

Threading: any thread; no state.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import time

from ftpfs import errors
from ftpfs.settings.config import Network

_FAMILIES = {"": socket.AF_UNSPEC, "4": socket.AF_INET, "6": socket.AF_INET6}


def connect(network: Network, host: str, port: int, timeout: float) -> socket.socket:
    """A connection to the first address of `host` that answers, within `timeout` s each.

    Raises OSError.
    """
    family = _FAMILIES[network.address_family]
    bound_to = (network.bind_address, 0) if network.bind_address else None
    if family is socket.AF_UNSPEC:
        return socket.create_connection((host, port), timeout, bound_to)
    failure: OSError | None = None
    for found, kind, protocol, _, address in socket.getaddrinfo(
        host, port, family, socket.SOCK_STREAM
    ):
        channel = socket.socket(found, kind, protocol)
        try:
            channel.settimeout(timeout)
            bind(network, channel)
            channel.connect(address)
        except OSError as error:
            channel.close()
            failure = error
        else:
            return channel
    raise failure or OSError(errno.EADDRNOTAVAIL, "the server has no such address")


def bind(network: Network, channel: socket.socket) -> None:
    """Let a connection come from the address that the user chose. Raises OSError."""
    if network.bind_address:
        channel.bind((network.bind_address, 0))


def listen(network: Network, host: str, family: socket.AddressFamily) -> socket.socket:
    """Listen at `host` on a port that the user allows, for one connection.

    Ports are tried in random order: several connections listen at the same time. Raises OSError,
    and DataConnectionFailed if all ports are in use for as long as connecting may take.
    """
    if network.active_ports is None:
        return socket.create_server((host, 0), family=family, backlog=1)
    low, high = network.active_ports
    deadline = time.monotonic() + network.connect_timeout
    while True:
        for port in random.sample(range(low, high + 1), high + 1 - low):
            with contextlib.suppress(OSError):
                return _listen_at(host, port, family)
        if time.monotonic() > deadline:
            raise errors.DataConnectionFailed(
                f"no free port among active_ports {low}-{high}: each transfer needs one"
            )
        time.sleep(0.05)


def _listen_at(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    """Raises OSError, of which only a port in use is of the kind that may pass."""
    try:
        return socket.create_server((host, port), family=family, backlog=1)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise errors.DataConnectionFailed(f"no port to listen at: {error.strerror}") from error
        raise
