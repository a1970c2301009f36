"""FTPFileSystem: a server as a file system of fsspec.

    import fsspec, ftpfs
    fs = ftpfs.FTPFileSystem("ftp.example.org")
    with fsspec.open("ftpes://me@nas/data/table.csv") as file: ...

Owns: the arguments, the URLs, and which open file serves which mode. docs/python.md has recipes.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ftpfs.api import arguments, connections, files, refusals
from ftpfs.api.base import LISTING_SECONDS
from ftpfs.api.sending import Sending

# What one deadline of fsspec's own file system means here.
_DEADLINES = ("connect_timeout", "reply_timeout", "data_timeout")


class FTPFileSystem(Sending):
    """An FTP server. URLs: `ftp://` and `ftpfs://`; in clear, unless `tls` says otherwise."""

    protocol: tuple[str, ...] = ("ftp", "ftpfs")
    _tls: bool | str | None = None  # what `tls` means if it is not given

    def __init__(
        self,
        host: str,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        acct: str | None = None,
        block_size: int | None = None,
        tempdir: str | None = None,  # noqa: ARG002 - see below
        timeout: float | None = None,
        encoding: str = "utf-8",
        tls: bool | str | None = None,
        use_listings_cache: bool = True,
        listings_expiry_time: float | None = LISTING_SECONDS,
        **options: Any,
    ) -> None:
        """Connects when it is used first. The arguments of fsspec's own FTP file system are taken.

        host: a name or address, or a server named in ~/.config/ftpfs/config.toml.
        username, password: without them, those of ~/.netrc, the environment or the keyring, as for
            a mount; else anonymous.
        tls: True or "explicit" (AUTH TLS), "implicit", "optional". Certificates are verified.
        timeout: seconds for connecting, for a reply, and for the next bytes of a transfer.
        listings_expiry_time: seconds for which a listing counts. What this process changes shows at
            once.
        options: any option of a mount about the server or the network, as `max_connections` (8),
            `tls_ca` or `proxy`; and `block_cache`, `read_ahead` (bytes).

        `tempdir` has no effect: temporary files lie beside their targets. Raises ValueError and
        TypeError for wrong arguments.
        """
        super().__init__()
        if acct:
            raise ValueError("acct: no server was seen that asks for an account (ACCT)")
        for name in arguments.OF_FSSPEC:
            options.pop(name, None)
        if timeout is not None:
            options = {**dict.fromkeys(_DEADLINES, timeout), **options}
        if encoding != "utf-8":
            options["encoding"] = encoding
        chosen = self._tls if tls is None else tls
        self._arguments = arguments.read(host, port, username, password, chosen, options)
        forever = float("inf") if listings_expiry_time is None else listings_expiry_time
        self._max_age = forever if use_listings_cache else -1.0
        if block_size is not None:
            self.blocksize = block_size
        self.host = host

    # Files.

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """`rb`, `wb`, `ab`, `xb` (a new file) and `r+b`."""
        if mode == "rb":
            given = {name: kwargs[name] for name in ("cache_type",) if kwargs.get(name)}
            size = block_size or self.blocksize
            return files.ReadFile(self, path, block_size=size, cache_options=cache_options, **given)
        if mode == "r+b":
            base = self._opened(path, max_age=0.0)
            return files.updating(self, *base, autocommit=autocommit)
        if mode not in ("wb", "ab", "xb"):
            raise ValueError(f"mode {mode!r}: not one of rb, wb, ab, xb, r+b")
        if mode == "xb" and self._existing(path) is not None:
            raise refusals.exists(path)
        if mode == "ab" and self._existing(path) is not None:
            base = self._opened(path, max_age=0.0)
            return files.appending(self, *base, autocommit=autocommit)
        return files.replacing(self, path, new=mode == "xb", autocommit=autocommit)

    # The server.

    @property
    def welcome(self) -> str:
        """The server's greeting."""
        self._ask("", lambda remote: remote.pwd())
        return self._connection().welcome

    def command(self, line: str) -> str:
        """Send one FTP command, as `SITE HELP`. Returns the reply; raises OSError for a refusal.

        It is not repeated if the reply is lost.
        """
        reply = self._ask("", lambda remote: remote.command(line).check())
        return "\n".join(reply.lines)

    def close(self) -> None:
        """Close the connections that this process has with these settings.

        They belong to all file systems with equal settings. The next use connects again.
        """
        with refusals.told():
            connections.here.drop(arguments.config(self._arguments))
        self._connected = None

    # What identifies it.

    @property
    def fsid(self) -> str:
        given = self._arguments
        user = f"{quote(given.user, safe='')}@" if given.user else ""
        host = f"[{given.host}]" if ":" in given.host else given.host
        port = f":{given.port}" if given.port else ""
        return f"{self.protocol[0]}://{user}{host}{port}"

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path, with the server and without a password."""
        return self.fsid + str(self._strip_protocol(name))

    def to_dict(self, *, include_password: bool = False) -> dict[str, Any]:
        """As fsspec's, but without the password unless it is asked for."""
        told: dict[str, Any] = super().to_dict(include_password=include_password)
        return told

    def to_json(self, *, include_password: bool = False) -> str:
        """As fsspec's, but without the password unless it is asked for."""
        return str(super().to_json(include_password=include_password))


class FTPESFileSystem(FTPFileSystem):
    """An FTP server with explicit TLS (AUTH TLS). URLs: `ftpes://`."""

    protocol = ("ftpes",)
    _tls = True


class FTPSFileSystem(FTPFileSystem):
    """An FTP server with implicit TLS, on port 990 unless told otherwise. URLs: `ftps://`."""

    protocol = ("ftps",)
    _tls = "implicit"
