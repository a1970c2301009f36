"""What the user asked for: frozen dataclasses, one per part of the house that needs them.

Owns: every option's name, default, unit and reason; the reading of a SOURCE, of `-o` strings, of
netrc and of the environment. Owns no behaviour: each part is handed its own dataclass.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20


class Secret:
    """A password that does not show itself: not in repr, str, logs or tracebacks.

    `reveal()` is called in one place, where it goes to the server.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Tls(enum.Enum):
    """How the control connection is protected."""

    OFF = "off"
    EXPLICIT = "explicit"  # AUTH TLS on the ordinary port, RFC 4217
    IMPLICIT = "implicit"  # TLS from the first byte, port 990


class DataMode(enum.Enum):
    """Who opens the data connection."""

    PASSIVE = "passive"  # the client: works through NAT and firewalls on our side
    ACTIVE = "active"  # the server (EPRT/PORT): for servers whose passive ports are blocked


@dataclass(frozen=True)
class Server:
    """Which server, who we are there, and which folder of it is the root of the mount."""

    host: str
    port: int = 21
    tls: Tls = Tls.OFF
    user: str = "anonymous"
    password: Secret = field(default_factory=lambda: Secret("anonymous@"))
    # Relative to the folder that login lands in (RFC 1738, 3.2.2), unless it starts with "/".
    path: str = ""
    encoding: str = "utf-8"
    data_mode: DataMode = DataMode.PASSIVE
    tls_ca: Path | None = None  # a PEM file with the authorities to trust instead of the system's
    tls_insecure: bool = False  # do not verify the certificate; said in the log each time
    tls_max: str = ""  # "1.2": servers whose TLS 1.3 tickets run out demand it

    def __str__(self) -> str:
        scheme = {Tls.OFF: "ftp", Tls.EXPLICIT: "ftpes", Tls.IMPLICIT: "ftps"}[self.tls]
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == (990 if self.tls is Tls.IMPLICIT else 21) else f":{self.port}"
        return f"{scheme}://{self.user}@{host}{port}/{self.path}"


@dataclass(frozen=True)
class Network:
    """Deadlines in seconds, and how many connections there may be."""

    # A TCP handshake across the world takes 0.3 s, three SYN retries 7 s.
    connect_timeout: float = 10.0
    # For one reply on the control connection; servers that check passwords slowly take 3-5 s.
    reply_timeout: float = 20.0
    # For the next bytes on a data connection, and for a server to take ours.
    data_timeout: float = 20.0
    # For the 226 after the last byte: servers that scan or copy an upload take their time.
    finish_timeout: float = 60.0
    # Sessions unused for so long are let go; many servers drop them at 60-300 s themselves.
    idle_timeout: float = 50.0
    # Web hosts commonly allow 8-10 per address. What the server refuses lowers it.
    max_connections: int = 8


@dataclass(frozen=True)
class Cache:
    """How much is remembered, and for how long (bytes, seconds)."""

    # How long a listing is believed. Other people's changes show up after it at the latest.
    list_ttl: float = 60.0
    # A file opened this long after its entry was fetched is looked at again first.
    open_ttl: float = 2.0
    # Block cache for file contents.
    block_cache: int = 64 * MIB
    # How far a sequential reader may be read ahead of.
    read_ahead: int = 16 * MIB


@dataclass(frozen=True)
class Mount:
    """How the tree looks here, and how the daemon behaves."""

    ro: bool = False
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0o022
    allow_other: bool = False
    # Let the kernel check mode bits; on by itself with allow_other, where it protects others.
    default_permissions: bool = False
    # The kernel keeps attributes and names for so long without asking.
    attr_timeout: float = 1.0
    # "ignore": chmod/chown/utimens that the server cannot do succeed without effect, as
    # `cp -p` and `rsync -a` need; "report": EOPNOTSUPP.
    attr_errors: str = "ignore"
    binding: str = "auto"  # "fusepy", "mfusepy", or whichever is best here
    spool_dir: Path | None = None
    foreground: bool = False
    log_level: str = "info"
    log_file: Path | None = None


@dataclass(frozen=True)
class Config:
    """Everything about one mount (or one command)."""

    server: Server
    network: Network = Network()
    cache: Cache = Cache()
    mount: Mount = field(default_factory=Mount)
