"""SOURCE: what the user types for a server, as a URL or as host/path.

Owns the syntax of addresses. No message repeats a password. The names of servers are `named`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ftpfs.errors import InvalidArgument
from ftpfs.settings import values
from ftpfs.settings.config import Tls
from ftpfs.settings.credentials import Secret, has_line_break


@dataclass(frozen=True)
class Source:
    """A SOURCE or URL, taken apart. None: it does not say."""

    host: str
    port: int | None = None
    tls: Tls = Tls.OFF
    user: str | None = None
    password: Secret | None = None
    path: str = ""  # as in Server, but with a trailing "/" if there was one
    # Options from the file of named servers, by name. Options of the command line win.
    options: Mapping[str, object] = field(default_factory=dict)


_TLS_OF_SCHEME = {tls.scheme: tls for tls in (Tls.OFF, Tls.EXPLICIT, Tls.IMPLICIT)}
_EXPECTED = "expected host, host:port, [v6]:port, host/path or ftp://user@host/path"


def parse_source(text: str) -> Source:
    """Take apart `[ftp://|ftps://|ftpes://][user[:password]@]host[:port][/path]`.

    The path is relative to the login folder; `//path` and `/%2Fpath` are absolute (RFC 1738,
    3.2.2). Percent-encoded bytes are UTF-8; other bytes become surrogate escapes.

    Raises InvalidArgument. The message repeats nothing of `text` but a foreign scheme: a password
    that contains "/", "@" or ":" unescaped may be anywhere else.
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
        user=unquote(user) or None,
        password=Secret(unquote(password)) if has_password else None,
        path=unquote(path),
    )


def unquote(text: str) -> str:
    """Decode percent-encoding. Raises InvalidArgument for line breaks and NUL."""
    from urllib.parse import unquote_to_bytes

    try:
        encoded = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidArgument("the address is not valid text") from None
    decoded = unquote_to_bytes(encoded).decode("utf-8", "surrogateescape")
    if has_line_break(decoded):
        raise InvalidArgument("the address contains a line break or NUL (percent-encoded)")
    return decoded


def _split_scheme(text: str) -> tuple[Tls, str]:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if not match:
        return Tls.OFF, text
    scheme = match[1].lower()
    if scheme not in _TLS_OF_SCHEME:
        hint = " (SFTP belongs to SSH: sshfs mounts it)" if scheme == "sftp" else ""
        raise InvalidArgument(f"{scheme}:// is not FTP; use ftp://, ftps:// or ftpes://{hint}")
    return _TLS_OF_SCHEME[scheme], text[match.end() :]


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
        if ":" in port and not _may_mean_ipv6(text):
            raise InvalidArgument("a path follows a slash, not a colon: host:21/path")
        if ":" in port:
            raise InvalidArgument("an IPv6 address needs brackets: [2001:db8::1]:21")
        if not host:
            raise InvalidArgument(f"no host in the address: {_EXPECTED}")
        if not _is_hostname(host):
            raise InvalidArgument(f"not a host name: {_EXPECTED}")
    if not port:
        return host, None
    try:
        return host, values.parse_port(port)
    except ValueError as error:
        raise InvalidArgument(
            f"the port {error} (a path follows a slash, not a colon: host/path)"
        ) from None


def _is_hostname(text: str) -> bool:
    # Letters of any script (IDNA). A DNS name has at most 253 characters, RFC 1035.
    return len(text) <= 253 and text[0] not in "-." and all(c.isalnum() or c in "-._" for c in text)


def _may_mean_ipv6(text: str) -> bool:
    """Whether a text with several colons is an IPv6 address, and not `host:port:`."""
    plain, _, _zone = text.partition("%")
    return "::" in plain or re.fullmatch(r"[0-9a-fA-F:.]*[0-9a-fA-F]", plain) is not None


def _is_ipv6(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return text.isprintable() and " " not in text
