"""What the user asked for: frozen dataclasses, one per part of the house that needs them.

Owns: every option's name, default, unit and reason; the reading of a SOURCE and of `-o` strings.
Owns no behaviour: each part is handed its own dataclass. Where passwords come from is
`credentials`'.

An option is declared once, as a dataclass field with `_option(...)` metadata. The flags of the
command line and the words of `-o` are both generated from `OPTIONS`, so they cannot differ.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ftpfs.credentials import (
    ANONYMOUS,
    PASSWORD_VARIABLE,
    PROXY_PASSWORD_VARIABLE,
    Secret,
    Surroundings,
    has_line_break,
    login,
    proxy_password,
)
from ftpfs.errors import InvalidArgument, printable

MIB = 1 << 20


class Tls(enum.Enum):
    """How the control connection is protected."""

    OFF = "off"
    OPTIONAL = "optional"  # AUTH TLS where the server has it; else in clear, with a warning
    EXPLICIT = "explicit"  # AUTH TLS on the ordinary port, RFC 4217
    IMPLICIT = "implicit"  # TLS from the first byte, port 990


class DataMode(enum.Enum):
    """Who opens the data connection."""

    PASSIVE = "passive"  # the client: works through NAT and firewalls on our side
    ACTIVE = "active"  # the server (EPRT/PORT): for servers whose passive ports are blocked


# How an option's value is written. `parse` raises ValueError with the reason in words.


class Kind(NamedTuple):
    """A sort of value: its name in the help, its reading, and how a default is shown."""

    metavar: str
    parse: Callable[[str], object]
    show: Callable[[Any], str] = str


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _seconds(text: str) -> float:
    # Twelve digits are 30,000 years, and still a finite float.
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd]?)", text)
    if not match:
        raise ValueError("a time is written 30, 1.5, 2m, 1h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


def _deadline(text: str) -> float:
    # A socket timeout of zero would mean "do not wait at all".
    if (seconds := _seconds(text)) <= 0:
        raise ValueError("a deadline must be more than zero")
    return seconds


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMGT]?)(?:I?B)?", text.upper())
    if not match:
        raise ValueError("a size is written 1048576, 512K, 64M or 1G")
    return int(float(match[1]) * _BYTES[match[2]])


def _disk_size(text: str) -> int:
    # The disk cache's index takes up to 1 MiB of it.
    if 0 < (size := _size(text)) < 16 * MIB:
        raise ValueError("a disk cache takes 16M at least (0: none)")
    return size


def _show_size(size: int) -> str:
    if not size:
        return "0"
    unit = max((u for u, factor in _BYTES.items() if size % factor == 0), key=_BYTES.__getitem__)
    return f"{size // _BYTES[unit]}{unit}"


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a number from {low} to {high}")
        return int(text)

    return parse


def _umask(text: str) -> int:
    if not re.fullmatch(r"(?:0o)?[0-7]{1,4}", text) or (mask := int(text, 8)) > 0o777:
        raise ValueError("must be an octal number such as 022")
    return mask


# The highest id is (uid_t)-1, which chown(2) reads as "leave it".
_ID = _number(0, 0xFFFFFFFE)


def _uid(text: str) -> int:
    if text.isdigit():
        return _ID(text)
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):  # ValueError: a name with NUL, or not encodable
        raise ValueError("no such user on this system") from None


def _gid(text: str) -> int:
    if text.isdigit():
        return _ID(text)
    import grp

    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise ValueError("no such group on this system") from None


def _path(text: str) -> Path:
    # Absolute at once: the daemon leaves the folder it was started in. `-o` has no shell that
    # would expand a tilde.
    if not text or "\0" in text:
        raise ValueError("must be a path")
    return Path(os.path.abspath(os.path.expanduser(text)))


def _user(text: str) -> str:
    if not text or has_line_break(text):
        raise ValueError("must be a name without line breaks")
    return text


def _encoding(text: str) -> str:
    # FTP's own separators must survive it: UTF-16 or EBCDIC names cannot be told apart on a line.
    probe = "/ \r\n"
    try:
        if probe.encode(text) == probe.encode("ascii"):
            return text
    except (LookupError, ValueError):  # ValueError: NUL in the name, or no text encoding
        pass
    raise ValueError("no such character encoding, or none that contains ASCII")


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("must be the 64 hex digits of a SHA-256 (colons may stand between)")
    return digits


def _proxy(text: str) -> str:
    if not re.fullmatch(r"(?:socks5|socks4|http)://(?:[^/@:\s]+@)?[^/@\s]+:[0-9]{1,5}/?", text):
        raise ValueError(
            "is written socks5://[user@]host:port or http://[user@]host:port; the user's password "
            f"comes from ${PROXY_PASSWORD_VARIABLE}"
        )
    return text.rstrip("/")


def _quirks(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for item in filter(None, text.split(":")):
        name, _, value = item.partition("=")
        pairs.append((name.replace("-", "_"), value))
    # Which there are is the profile's to say, when it is made.
    if not pairs or not all(name and value for name, value in pairs):
        raise ValueError("is written mlsd=no or mlsd=no:rest=no")
    return tuple(pairs)


def _choice(*words: str) -> Kind:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return Kind("|".join(words), parse)


_A_TIME = Kind("SECONDS", _seconds, lambda seconds: f"{seconds:g}")
_A_DEADLINE = _A_TIME._replace(parse=_deadline)
_A_SIZE = Kind("SIZE", _size, _show_size)
_A_PATH = Kind("PATH", _path)


class _Declared(NamedTuple):
    help: str
    kind: Kind | None  # None: a switch
    name: str  # "" for the field's own
    value: object  # what a switch stands for


def _option(
    text: str, kind: Kind | None = None, *, name: str = "", value: object = True
) -> dict[str, _Declared]:
    """Metadata that makes a dataclass field an option: its help, and what its value looks like."""
    return {"option": _Declared(text, kind, name, value)}


# The parts.


@dataclass(frozen=True)
class Server:
    """Which server, who we are there, and which folder of it is the root of the mount."""

    host: str
    port: int = field(
        default=21,
        metadata=_option("Port; 990 with implicit TLS.", Kind("PORT", _number(1, 65535))),
    )
    # Off by itself: a server that demands it says so. An address with ftpes:// or ftps:// is never
    # weakened by this option.
    tls: Tls = field(
        default=Tls.OFF,
        metadata=_option(
            "Protect ftp:// by TLS; optional: where the server can, else warn.",
            _choice("required", "optional", "off")._replace(show=lambda _tls: ""),
        ),
    )
    user: str = field(
        default=ANONYMOUS, metadata=_option("Name to log in with.", Kind("NAME", _user))
    )
    password: Secret = field(default_factory=lambda: Secret("anonymous@"))
    # Where `password` was read from, so that it need not stand in fstab.
    password_file: Path | None = field(
        default=None, metadata=_option("File whose first line is the password.", _A_PATH)
    )
    # Relative to the folder that login lands in (RFC 1738, 3.2.2), unless it starts with "/".
    path: str = ""
    encoding: str = field(
        default="utf-8",
        metadata=_option("Encoding of file names on the server.", Kind("NAME", _encoding)),
    )
    data_mode: DataMode = field(
        default=DataMode.PASSIVE,
        metadata=_option(
            "Let the server open the data connections.", name="active", value=DataMode.ACTIVE
        ),
    )
    # A PEM file with the authorities to trust instead of the system's.
    tls_ca: Path | None = field(
        default=None, metadata=_option("Trust the certificate authorities in this file.", _A_PATH)
    )
    # A client certificate, for servers that ask for one.
    tls_cert: Path | None = field(
        default=None, metadata=_option("Show this certificate to the server (PEM).", _A_PATH)
    )
    tls_key: Path | None = field(
        default=None, metadata=_option("Its private key, if not in the same file.", _A_PATH)
    )
    # The pin stands in for authorities and host name: it says which certificate, to the bit.
    tls_fingerprint: str = field(
        default="",
        metadata=_option(
            "Trust the certificate with this SHA-256, and no other.",
            Kind("HEX", _fingerprint),
        ),
    )
    # For firewalls that must read along to open ports. Names are in clear then, contents are not.
    tls_ccc: bool = field(
        default=False, metadata=_option("Commands in clear after the login (CCC).")
    )
    # Said in the log each time.
    tls_insecure: bool = field(
        default=False, metadata=_option("Do not verify the server's certificate.")
    )
    # Servers whose TLS 1.3 tickets run out demand it.
    tls_max: str = field(
        default="", metadata=_option("Newest TLS version to use.", _choice("1.2", "1.3"))
    )

    # What the user knows better than what ftpfs would learn (`ftpfs doctor` shows that).
    quirks: tuple[tuple[str, str], ...] = field(
        default=(),
        metadata=_option(
            "What the server can or cannot do, whatever it says.",
            Kind("NAME=VALUE[:...]", _quirks, lambda _pairs: ""),
            name="quirk",
        ),
    )

    def __str__(self) -> str:
        """The URL of this server and folder, without the password. `parse_source` reads it back.

        Quoted, so that it fits where a comma or a space would end it (the mount table).
        """
        from urllib.parse import quote

        scheme = {tls: scheme for scheme, tls in _SCHEMES.items()}.get(self.tls, "ftp")
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == default_port(self.tls) else f":{self.port}"
        user = quote(self.user, safe="", errors="surrogateescape")
        path = quote(self.path, errors="surrogateescape")
        return f"{scheme}://{user}@{host}{port}/{path}"


@dataclass(frozen=True)
class Network:
    """Deadlines in seconds, and how many connections there may be."""

    # A TCP handshake across the world takes 0.3 s, three SYN retries 7 s.
    connect_timeout: float = field(
        default=10.0, metadata=_option("Deadline for connecting.", _A_DEADLINE)
    )
    # For one reply on the control connection; servers that check passwords slowly take 3-5 s.
    reply_timeout: float = field(
        default=20.0, metadata=_option("Deadline for a reply.", _A_DEADLINE)
    )
    # For the next bytes on a data connection, and for a server to take ours.
    data_timeout: float = field(
        default=20.0, metadata=_option("Deadline for the next bytes of a transfer.", _A_DEADLINE)
    )
    # For the 226 after the last byte: servers that scan or copy an upload take their time.
    finish_timeout: float = field(
        default=60.0,
        metadata=_option("Deadline for the reply that ends a transfer.", _A_DEADLINE),
    )
    # Sessions unused for so long are let go; many servers drop them at 60-300 s themselves.
    idle_timeout: float = field(
        default=50.0, metadata=_option("Close connections unused for so long.", _A_DEADLINE)
    )
    # Each small file takes a connection three round trips, so over a long link their number is the
    # speed: 300 files of 4 KiB at 20 ms, fetched at 130 a second with 12, at 182 with 16. Servers
    # commonly allow 5-10 per address, 30 or 50, or do not count; what is refused lowers it.
    max_connections: int = field(
        default=16,
        metadata=_option("Connections to open at most.", Kind("NUMBER", _number(1, 1000))),
    )
    # All connections go through it; it looks the server's name up. SOCKS, or HTTP's CONNECT.
    proxy: str = field(
        default="",
        metadata=_option("Proxy: socks5://[user@]host:port or http://...", Kind("URL", _proxy)),
    )
    proxy_login: tuple[str, Secret] | None = None  # the user in `proxy`, and the password


@dataclass(frozen=True)
class Cache:
    """How much is remembered, and for how long (bytes, seconds)."""

    # How long a listing is believed. Other people's changes show up after it at the latest.
    list_ttl: float = field(
        default=60.0, metadata=_option("How long a listing is believed.", _A_TIME)
    )
    # A file opened this long after its entry was fetched is looked at again first.
    open_ttl: float = field(
        default=2.0,
        metadata=_option("Look at a file again when opened so long after its listing.", _A_TIME),
    )
    # Twenty files streamed at once peak at some 45 MiB more than this, of 160 MiB that a mount may
    # take.
    block_cache: int = field(
        default=96 * MIB, metadata=_option("Memory for the contents of files.", _A_SIZE)
    )
    # How far a sequential reader may be read ahead of.
    read_ahead: int = field(
        default=16 * MIB, metadata=_option("How far to read ahead in a file.", _A_SIZE)
    )
    # Off: whoever mounts once should find nothing on the disk afterwards.
    disk_cache: int = field(
        default=0,
        metadata=_option(
            "Disk space for the contents of files, kept for the next mount.",
            _A_SIZE._replace(parse=_disk_size),
        ),
    )
    disk_cache_dir: Path | None = field(
        default=None, metadata=_option("Where they are kept.", _A_PATH)
    )


@dataclass(frozen=True)
class Write:
    """How what is written reaches the server."""

    # The same files, stored: 84 a second with 8 of 12 connections, 142 with 12 of 16. The rest is
    # for those who read.
    uploads: int = field(
        default=12,
        metadata=_option(
            "Files to upload at a time; 4 at most over a short link.",
            Kind("NUMBER", _number(1, 1000)),
        ),
    )
    sync: bool = field(
        default=False,
        metadata=_option("Let every close wait until the server has the file."),
    )
    # A checksum makes the server read the whole file again.
    verify: str = field(
        default="size",
        metadata=_option(
            "What of an upload is compared with what was sent.", _choice("size", "content")
        ),
    )
    spool_dir: Path | None = field(
        default=None, metadata=_option("Where writes wait until the server has them.", _A_PATH)
    )
    # 0: half of what is free on that disk at the time of mounting, so that uploads which cannot
    # keep up never fill it.
    spool_size: int = field(
        default=0,
        metadata=_option("How much may wait there; 0: half of the disk's free space.", _A_SIZE),
    )
    spool_sync: bool = field(
        default=False,
        metadata=_option("Sync what waits there to the disk at each close (power loss)."),
    )


@dataclass(frozen=True)
class Mount:
    """How the tree looks here, and how the daemon behaves."""

    ro: bool = field(default=False, metadata=_option("Mount read-only."))
    uid: int = field(
        default_factory=os.getuid, metadata=_option("Owner of all files.", Kind("USER", _uid))
    )
    gid: int = field(
        default_factory=os.getgid, metadata=_option("Group of all files.", Kind("GROUP", _gid))
    )
    umask: int = field(
        default=0o022,
        metadata=_option(
            "Permissions to take away, in octal.",
            Kind("OCTAL", _umask, lambda mask: f"{mask:03o}"),
        ),
    )
    allow_other: bool = field(
        default=False, metadata=_option("Let other users of this machine in.")
    )
    # Let the kernel check mode bits; on by itself with allow_other, where it protects others.
    default_permissions: bool = field(
        default=False, metadata=_option("Let the kernel check permissions.")
    )
    # The kernel keeps attributes and names for so long without asking.
    attr_timeout: float = field(
        default=1.0, metadata=_option("How long the kernel keeps attributes.", _A_TIME)
    )
    # "ignore": chmod/chown/utimens that the server cannot do succeed without effect, as
    # `cp -p` and `rsync -a` need; "report": EOPNOTSUPP.
    attr_errors: str = field(
        default="ignore",
        metadata=_option(
            "What chmod, chown and touch do where the server cannot.",
            _choice("ignore", "report"),
        ),
    )
    # "auto": whichever is best here.
    binding: str = field(
        default="auto",
        metadata=_option("FUSE binding to use.", _choice("auto", "fusepy", "mfusepy")),
    )
    # systemd kills 90 s after SIGTERM, a shutdown or `docker stop` 10 s: then the journal has it.
    grace: float = field(
        default=20.0,
        metadata=_option("After SIGTERM, upload for so long; the next mount goes on.", _A_TIME),
    )
    # A router or a server restarts in less; what takes longer is no reason to keep a process.
    leave_after: float = field(
        default=600.0,
        metadata=_option(
            "Unmounted, wait so long for a server that is away; the next mount goes on.", _A_TIME
        ),
    )
    foreground: bool = field(
        default=False, metadata=_option("Stay in the foreground and log to the terminal.")
    )
    log_level: str = field(
        default="info",
        metadata=_option("How much to log.", _choice("error", "warning", "info", "debug")),
    )
    log_file: Path | None = field(default=None, metadata=_option("Where to log.", _A_PATH))
    # fstab's exec, nosuid, ... for the kernel. No option of ours: only words of `-o`.
    kernel_flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """Everything about one mount (or one command)."""

    server: Server
    network: Network = Network()
    cache: Cache = Cache()
    write: Write = Write()
    mount: Mount = field(default_factory=Mount)


# The table of options.


@dataclass(frozen=True)
class Option:
    """One option, by the name it has in `-o` and, with dashes, as a flag."""

    name: str
    part: type
    field: str
    help: str
    kind: Kind | None
    value: object
    default: str  # as shown in the help; "" where there is nothing to say

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def read(self, text: str) -> object:
        """The value that `text` stands for. Raises InvalidArgument."""
        if self.kind is None:
            raise InvalidArgument(f"option {self.name} takes no value")
        try:
            return self.kind.parse(text)
        except ValueError as error:
            raise InvalidArgument(f"option {self.name}: {error}") from None


def _options_of(part: type) -> Iterable[Option]:
    for each in dataclasses.fields(part):
        declared: _Declared | None = each.metadata.get("option")
        if declared is None:
            continue
        shown = ""
        if declared.kind and each.default not in (dataclasses.MISSING, None, ""):
            shown = declared.kind.show(each.default)
        name = declared.name or each.name
        yield Option(
            name, part, each.name, declared.help, declared.kind, declared.value, default=shown
        )


OPTIONS: Mapping[str, Option] = {
    option.name: option
    for part in (Server, Network, Cache, Write, Mount)
    for option in _options_of(part)
}

# What fstab lines carry for mount(8), systemd and desktops; they are not ours to act on. `user`
# with a value is our own option, and alone it is mount(8)'s, which adds nosuid and nodev by itself.
# Times of reading do not exist over FTP.
_FSTAB_WORDS = re.compile(
    r"defaults|_netdev|nofail|(?:no)?auto|(?:no)?users?|owner|group"
    r"|(?:no)?(?:atime|diratime|relatime)|x-.*|comment=.*"
)
# What the kernel is told, word for word. Without any, libfuse says nosuid and nodev.
_KERNEL_WORDS = re.compile(r"(?:no)?(?:exec|dev|suid)")
_KERNEL_FLAGS = "kernel_flags"  # among the values, next to the options


def parse_options(text: str) -> dict[str, object]:
    """The values in one `-o a,b=c` string, by option name. Raises InvalidArgument.

    A value cannot contain a comma here; the flag of the same name can take it.
    """
    values: dict[str, object] = {}
    kernel_flags: dict[str, str] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        if _FSTAB_WORDS.fullmatch(item):
            continue
        if _KERNEL_WORDS.fullmatch(item):
            kernel_flags[item.removeprefix("no")] = item  # of two, the last counts
            continue
        name, has_value, value = item.partition("=")
        name = name.replace("-", "_")
        if item == "rw":
            values["ro"] = False
        elif name not in OPTIONS:
            raise InvalidArgument(_unknown_option(name))
        elif has_value:
            values[name] = OPTIONS[name].read(value)
        elif OPTIONS[name].kind:
            raise InvalidArgument(f"option {name} needs a value")
        else:
            values[name] = OPTIONS[name].value
    if kernel_flags:
        values[_KERNEL_FLAGS] = tuple(kernel_flags.values())
    return values


def _unknown_option(name: str) -> str:
    # Only the name is repeated: a value may be a password that was tried here.
    if name in ("pass", "passwd", "password"):
        return f"no option {name}: use password_file, ${PASSWORD_VARIABLE} or ~/.netrc"
    import difflib

    close = difflib.get_close_matches(name, OPTIONS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"no option {printable(name[:40])}{hint}"


# SOURCE.


@dataclass(frozen=True)
class Source:
    """A SOURCE or URL, taken apart. None: it did not say."""

    host: str
    port: int | None = None
    tls: Tls = Tls.OFF
    user: str | None = None
    password: Secret | None = None
    path: str = ""  # as in Server; a trailing "/" is kept
    # What the file of named servers says of it, by option name; what the user says wins.
    options: Mapping[str, object] = field(default_factory=dict)


_SCHEMES = {"ftp": Tls.OFF, "ftpes": Tls.EXPLICIT, "ftps": Tls.IMPLICIT}
_EXPECTED = "expected host, host:port, [v6]:port, host/path or ftp://user@host/path"


def default_port(tls: Tls) -> int:
    return 990 if tls is Tls.IMPLICIT else 21


def parse_source(text: str) -> Source:
    """Take apart `[ftp://|ftps://|ftpes://][user[:password]@]host[:port][/path]`.

    The path is relative to the login folder; `//path` and `/%2Fpath` are absolute (RFC 1738,
    3.2.2). Percent-encoded bytes are UTF-8, odd ones become surrogate escapes.

    Raises InvalidArgument. Its message repeats nothing of `text` but a foreign scheme: a password
    with an unescaped "/", "@" or ":" in it could be anywhere else.
    """
    if has_line_break(text):
        raise InvalidArgument("the address contains a line break or NUL")
    tls, rest = _split_scheme(text)
    authority, _, path = rest.partition("/")
    login, _, place = authority.rpartition("@")
    user, has_password, password = login.partition(":")
    host, port = _split_place(place)
    return Source(
        host=host,
        port=port,
        tls=tls,
        user=_unquote(user) or None,
        password=Secret(_unquote(password)) if has_password else None,
        path=_unquote(path),
    )


def _split_scheme(text: str) -> tuple[Tls, str]:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if not match:
        return Tls.OFF, text
    scheme = match[1].lower()
    if scheme not in _SCHEMES:
        hint = " (SFTP belongs to SSH: sshfs mounts it)" if scheme == "sftp" else ""
        raise InvalidArgument(f"{scheme}:// is not FTP; use ftp://, ftps:// or ftpes://{hint}")
    return _SCHEMES[scheme], text[match.end() :]


def _split_place(text: str) -> tuple[str, int | None]:
    """`host`, `host:port` or `[v6]:port`, checked."""
    if text.startswith("["):
        host, closed, after = text[1:].partition("]")
        host = host.replace("%25", "%")  # the zone of a link-local address, RFC 6874
        if not closed or not _is_ipv6(host):
            raise InvalidArgument("no IPv6 address between [ and ]")
        if after and not after.startswith(":"):
            raise InvalidArgument(f"unexpected text after ]: {_EXPECTED}")
        port = after[1:]
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise InvalidArgument("an IPv6 address needs brackets: [2001:db8::1]:21")
        if not host:
            raise InvalidArgument(f"no host in the address: {_EXPECTED}")
        if not _is_hostname(host):
            raise InvalidArgument(f"that cannot be a host name: {_EXPECTED}")
    if not port:
        return host, None
    try:
        return host, _number(1, 65535)(port)
    except ValueError as error:
        raise InvalidArgument(f"the port {error}") from None


def _is_hostname(text: str) -> bool:
    # Letters of any script (IDNA); names in DNS are at most 253 characters, RFC 1035.
    return len(text) <= 253 and text[0] not in "-." and all(c.isalnum() or c in "-._" for c in text)


def _is_ipv6(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return text.isprintable() and " " not in text


def _unquote(text: str) -> str:
    from urllib.parse import unquote_to_bytes

    try:
        encoded = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidArgument("the address is not valid text") from None
    decoded = unquote_to_bytes(encoded).decode("utf-8", "surrogateescape")
    if has_line_break(decoded):
        raise InvalidArgument("the address contains a line break or NUL (percent-encoded)")
    return decoded


# All of it together.


def build(source: Source, values: Mapping[str, object], around: Surroundings) -> Config:
    """The configuration for `source` with option `values` (by name); options win over the URL.

    Raises InvalidArgument, also where a password is needed and none is to be had.
    """
    values = {**source.options, **values}
    file = values.get("password_file")
    user, password = login(
        source.host,
        user=str(values.get("user") or source.user or ""),
        password=source.password if values.get("user", source.user) == source.user else None,
        file=file if isinstance(file, Path) else None,
        around=around,
    )
    # The folder itself, however it was written; "/" alone stays: it is the server's root.
    path = source.path.rstrip("/") or source.path[:1]
    if values.get("proxy") and values.get("active"):
        raise InvalidArgument("no server can connect to us through a proxy: not with active")
    network = _values_of(Network, values)
    if "@" in network.get("proxy", ""):
        from urllib.parse import urlsplit

        proxy = urlsplit(network["proxy"])
        who = _unquote(proxy.username or "")
        network["proxy_login"] = who, proxy_password(proxy.hostname or "", who, around)
    kernel_flags = values.get(_KERNEL_FLAGS)
    server = {
        "host": source.host,
        "path": path,
        "port": source.port or default_port(source.tls),
        **_values_of(Server, values),
        "tls": _tls(source.tls, values.get("tls")),
        "user": user,
        "password": password,
    }
    return Config(
        server=Server(**server),
        network=Network(**network),
        cache=Cache(**_values_of(Cache, values)),
        write=Write(**_values_of(Write, values)),
        mount=Mount(
            **_values_of(Mount, values),
            kernel_flags=kernel_flags if isinstance(kernel_flags, tuple) else (),
        ),
    )


def _tls(scheme: Tls, wanted: object) -> Tls:
    """What the address and the option say together: the stronger of the two."""
    if scheme is not Tls.OFF:
        if wanted == "off":
            raise InvalidArgument("the address asks for TLS and the option tls=off forbids it")
        return scheme
    return {"required": Tls.EXPLICIT, "optional": Tls.OPTIONAL}.get(str(wanted), Tls.OFF)


def _values_of(part: type, values: Mapping[str, object]) -> dict[str, Any]:
    return {
        option.field: values[option.name]
        for option in OPTIONS.values()
        if option.part is part and option.name in values
    }
