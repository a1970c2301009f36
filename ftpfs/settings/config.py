"""The configuration: one frozen dataclass for each part of the program that takes options.

Owns the name, default, unit and reason of every option. A field with `_option(...)` metadata is an
option; `options` makes the flags of the command line and the words of `-o` from these fields.

Threading: everything here is constant.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ftpfs.settings import values
from ftpfs.settings.credentials import ANONYMOUS, Secret
from ftpfs.settings.timetable import NO_LIMIT, Timetable
from ftpfs.settings.values import MIB_BYTES, Kind


class Tls(enum.Enum):
    """How TLS protects the control connection."""

    OFF = "off"
    OPTIONAL = "optional"  # AUTH TLS if the server offers it; else in clear, with a warning
    EXPLICIT = "explicit"  # AUTH TLS on the ordinary port, RFC 4217
    IMPLICIT = "implicit"  # TLS from the first byte

    @property
    def scheme(self) -> str:
        """The scheme of a URL that asks for it."""
        return {Tls.EXPLICIT: "ftpes", Tls.IMPLICIT: "ftps"}.get(self, "ftp")

    @property
    def default_port(self) -> int:
        return 990 if self is Tls.IMPLICIT else 21


class DataMode(enum.Enum):
    """Which side opens the data connections."""

    PASSIVE = "passive"  # the client: works through NAT and firewalls on our side
    ACTIVE = "active"  # the server (EPRT, PORT): for servers whose passive ports are blocked


class Declaration(NamedTuple):
    """What makes a field an option."""

    help: str
    kind: Kind | None  # None: a switch
    name: str  # "": the name of the field
    value: object  # what the switch sets


def _option(
    text: str, kind: Kind | None = None, *, name: str = "", value: object = True
) -> dict[str, Declaration]:
    """Metadata that makes a dataclass field an option: its help, and the kind of its value."""
    return {"option": Declaration(text, kind, name, value)}


@dataclass(frozen=True)
class Server:
    """The server, the login, and the folder that becomes the root of the mount."""

    host: str
    port: int = field(default=21, metadata=_option("Port; 990 with implicit TLS.", values.PORT))
    # This option protects ftp:// addresses. It never weakens ftpes:// or ftps://.
    tls: Tls = field(
        default=Tls.OFF,
        metadata=_option(
            "Protect ftp:// by TLS; optional: where the server can, else warn.",
            values.choice("required", "optional", "off")._replace(show=lambda _tls: ""),
        ),
    )
    user: str = field(default=ANONYMOUS, metadata=_option("Name to log in with.", values.LOGIN))
    password: Secret = field(default_factory=lambda: Secret("anonymous@"))
    # Where `password` was read from. With it, fstab needs no password.
    password_file: Path | None = field(
        default=None, metadata=_option("File whose first line is the password.", values.PATH)
    )
    # Relative to the folder after the login (RFC 1738, 3.2.2), unless it starts with "/".
    path: str = ""
    encoding: str = field(
        default="utf-8",
        metadata=_option("Encoding of file names on the server.", values.ENCODING),
    )
    data_mode: DataMode = field(
        default=DataMode.PASSIVE,
        metadata=_option(
            "Let the server open the data connections.", name="active", value=DataMode.ACTIVE
        ),
    )
    # A PEM file. It replaces the authorities of the system.
    tls_ca: Path | None = field(
        default=None,
        metadata=_option("Trust the certificate authorities in this file.", values.PATH),
    )
    # A client certificate, for servers that ask for one.
    tls_cert: Path | None = field(
        default=None, metadata=_option("Show this certificate to the server (PEM).", values.PATH)
    )
    tls_key: Path | None = field(
        default=None, metadata=_option("Its private key, if not in the same file.", values.PATH)
    )
    # The fingerprint replaces authorities and host name: it names one certificate exactly.
    tls_fingerprint: str = field(
        default="",
        metadata=_option(
            "Trust the certificate with this SHA-256, and no other.", values.FINGERPRINT
        ),
    )
    # For firewalls that read commands to open ports. File names go in clear then, contents do not.
    tls_ccc: bool = field(
        default=False, metadata=_option("Send commands in clear after the login (CCC).")
    )
    # Each mount logs a warning.
    tls_insecure: bool = field(
        default=False, metadata=_option("Do not verify the server's certificate.")
    )
    # 1.2 helps with servers whose TLS 1.3 session tickets run out.
    tls_max: str = field(
        default="", metadata=_option("Newest TLS version to use.", values.choice("1.2", "1.3"))
    )
    # Quirks overrule what ftpfs would learn by itself. `ftpfs doctor` shows what it learns.
    quirks: tuple[tuple[str, str], ...] = field(
        default=(),
        metadata=_option(
            "What the server can or cannot do, whatever it says.", values.QUIRKS, name="quirk"
        ),
    )

    def __str__(self) -> str:
        """The URL of this server and folder, without the password. `parse_source` reads it back.

        Percent-encoding keeps commas and spaces out of it, which end a field of the mount table.
        """
        from urllib.parse import quote

        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == self.tls.default_port else f":{self.port}"
        user = quote(self.user, safe="", errors="surrogateescape")
        path = quote(self.path, errors="surrogateescape")
        return f"{self.tls.scheme}://{user}@{host}{port}/{path}"


@dataclass(frozen=True)
class Network:
    """Deadlines in seconds, and the number of connections."""

    # A TCP handshake across the world takes 0.3 s, three SYN retries take 7 s.
    connect_timeout: float = field(
        default=10.0, metadata=_option("Deadline for connecting.", values.DEADLINE)
    )
    # For one reply on the control connection. Servers that check passwords slowly take 3 to 5 s.
    reply_timeout: float = field(
        default=20.0, metadata=_option("Deadline for a reply.", values.DEADLINE)
    )
    # In both directions: for the next bytes from the server, and for the server to take ours.
    data_timeout: float = field(
        default=20.0,
        metadata=_option("Deadline for the next bytes of a transfer.", values.DEADLINE),
    )
    # For the 226 after the last byte. Servers that scan or copy an upload answer late.
    finish_timeout: float = field(
        default=60.0,
        metadata=_option("Deadline for the reply that ends a transfer.", values.DEADLINE),
    )
    # Many servers close idle connections after 60 to 300 s.
    idle_timeout: float = field(
        default=50.0,
        metadata=_option("Close connections that are idle for this long.", values.DEADLINE),
    )
    # Each small file takes a connection for three round trips, so over a long link the number of
    # connections is the speed: 300 files of 4 KiB at 20 ms are fetched at 130 a second with 12
    # connections, at 182 with 16. Servers commonly allow 5 to 10 for an address, 30 or 50, or do
    # not count. A refusal lowers the number.
    max_connections: int = field(
        default=16, metadata=_option("Maximum number of connections.", values.COUNT)
    )
    # Of all transfers of one mount, one command or one Python program's connection together.
    limit_down: Timetable = field(
        default=NO_LIMIT,
        metadata=_option("Maximum download rate in bytes a second, such as 2M.", values.RATE),
    )
    limit_up: Timetable = field(
        default=NO_LIMIT,
        metadata=_option("Maximum upload rate; also by time: 08:00-18:00=1M.", values.RATE),
    )
    # For servers or networks on which one of the two is broken.
    address_family: str = field(
        default="", metadata=_option("Use IPv4 only, or IPv6 only.", values.choice("4", "6"))
    )
    # On a machine with several networks. Firewalls may let in a certain address only.
    bind_address: str = field(
        default="",
        metadata=_option("Connect from this IP address of this machine.", values.ADDRESS),
    )
    # With `active`: ports that a firewall on this side lets in.
    active_ports: tuple[int, int] | None = field(
        default=None,
        metadata=_option("With active: listen on ports of this range only.", values.PORTS),
    )
    # The proxy, SOCKS or HTTP CONNECT, carries all connections and looks up the server's name.
    proxy: str = field(
        default="",
        metadata=_option("Proxy: socks5://[user@]host:port or http://...", values.PROXY),
    )
    proxy_login: tuple[str, Secret] | None = None  # the user in `proxy`, and the password


@dataclass(frozen=True)
class Cache:
    """How much is cached (bytes), and how long it is valid (seconds)."""

    # Changes by others show up after this time at the latest.
    list_ttl: float = field(
        default=60.0, metadata=_option("How long a cached listing is valid.", values.TIME)
    )
    open_ttl: float = field(
        default=2.0,
        metadata=_option("On open, check a file again if its listing is older.", values.TIME),
    )
    # Twenty files streamed at once need about 45 MiB more than this. A mount may take 160 MiB.
    block_cache: int = field(
        default=96 * MIB_BYTES, metadata=_option("Memory for the contents of files.", values.SIZE)
    )
    read_ahead: int = field(
        default=16 * MIB_BYTES,
        metadata=_option("Maximum read-ahead for sequential reads.", values.SIZE),
    )
    # `auto` stores on long links, where a read of the disk saves a round trip: see `daemon.stores`.
    cache_size: int = field(
        default=values.AUTO,
        metadata=_option(
            "Disk space to store contents of files: a size, on, or auto (on long links); 0: none.",
            values.STORE_SIZE,
        ),
    )
    cache_dir: Path | None = field(
        default=None, metadata=_option("Folder of the stored contents.", values.PATH)
    )
    # What was kept by an earlier mount, or by `ftpfs keep`, is kept as well.
    keep: tuple[str, ...] = field(
        default=(),
        metadata=_option(
            "Files and folders to keep on this machine: /folder:/other.", values.KEPT_PATHS
        ),
    )
    # A look costs a listing of each kept folder.
    keep_refresh: float = field(
        default=900.0,
        metadata=_option("How often to look for changes of what is kept.", values.DEADLINE),
    )
    # `always` asks the network for nothing: on a plane, on a metered link.
    offline: str = field(
        default="auto",
        metadata=_option(
            "Go on with what is stored while the server is away.",
            values.choice("auto", "never", "always"),
        ),
    )


@dataclass(frozen=True)
class Write:
    """How written files reach the server."""

    # 300 files of 4 KiB at 20 ms are stored at 84 a second with 8 of 12 connections, at 142 with
    # 12 of 16. Readers use the rest.
    uploads: int = field(
        default=12,
        metadata=_option("Parallel uploads; at most 4 over a short link.", values.COUNT),
    )
    sync: bool = field(
        default=False,
        metadata=_option("Let every close wait until the server has the file."),
    )
    # For a checksum the server reads the whole file again.
    verify: str = field(
        default="size",
        metadata=_option("What to compare after an upload.", values.choice("size", "content")),
    )
    spool_dir: Path | None = field(
        default=None,
        metadata=_option("Folder where written files wait for their upload.", values.PATH),
    )
    # 0: half of the disk's free space at the time of mounting. Slow uploads never fill the disk.
    spool_size: int = field(
        default=0,
        metadata=_option("Maximum size of the spool; 0: half of the free space.", values.SIZE),
    )
    spool_sync: bool = field(
        default=False,
        metadata=_option("Sync the spool to the disk at each close (power loss)."),
    )


@dataclass(frozen=True)
class Mount:
    """How the tree looks on this machine, and how the daemon behaves."""

    ro: bool = field(default=False, metadata=_option("Mount read-only."))
    uid: int = field(
        default_factory=os.getuid, metadata=_option("Owner of all files.", values.USER_HERE)
    )
    gid: int = field(
        default_factory=os.getgid, metadata=_option("Group of all files.", values.GROUP_HERE)
    )
    umask: int = field(
        default=0o022,
        metadata=_option("Permissions to take away, in octal.", values.UMASK),
    )
    allow_other: bool = field(
        default=False, metadata=_option("Let other users of this machine in.")
    )
    # The kernel checks mode bits. allow_other implies it: there it protects the files of others.
    default_permissions: bool = field(
        default=False, metadata=_option("Let the kernel check permissions.")
    )
    attr_timeout: float = field(
        default=1.0, metadata=_option("How long the kernel keeps attributes.", values.TIME)
    )
    # Programs that write such a name keep it here until the mount ends.
    exclude: tuple[str, ...] = field(
        default=(),
        metadata=_option(
            "Neither show nor send names that match (.gitignore); os-litter: a set of them.",
            values.PATTERNS,
        ),
    )
    # "ignore": chmod, chown and utimens succeed without effect if the server cannot do them, as
    # `cp -p` and `rsync -a` need. "report": they fail with EOPNOTSUPP.
    attr_errors: str = field(
        default="ignore",
        metadata=_option(
            "What chmod, chown and touch do if the server cannot.",
            values.choice("ignore", "report"),
        ),
    )
    # "auto": the best one that is installed.
    binding: str = field(
        default="auto",
        metadata=_option("FUSE binding to use.", values.choice("auto", "fusepy", "mfusepy")),
    )
    # "auto": where the process has CAP_SYS_ADMIN, and kernel and libfuse are new enough.
    passthrough: str = field(
        default="auto",
        metadata=_option(
            "Let the kernel read and write local files itself, as root.",
            values.choice("auto", "no"),
        ),
    )
    # systemd kills 90 s after SIGTERM; a shutdown and `docker stop` kill after 10 s. The journal
    # then has the files.
    grace: float = field(
        default=20.0,
        metadata=_option(
            "After SIGTERM, upload for this long; the next mount goes on.", values.TIME
        ),
    )
    # A router or a server restarts in less.
    leave_after: float = field(
        default=600.0,
        metadata=_option(
            "After unmounting, wait this long for a server that is away; the next mount goes on.",
            values.TIME,
        ),
    )
    foreground: bool = field(
        default=False, metadata=_option("Stay in the foreground and log to the terminal.")
    )
    log_level: str = field(
        default="info",
        metadata=_option("How much to log.", values.choice("error", "warning", "info", "debug")),
    )
    log_file: Path | None = field(default=None, metadata=_option("File to log to.", values.PATH))
    # fstab's exec, nosuid and the like, for the kernel. They are words of `-o`, and no options.
    kernel_flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """All settings of one mount, or of one command."""

    server: Server
    network: Network = Network()
    cache: Cache = Cache()
    write: Write = Write()
    mount: Mount = field(default_factory=Mount)
