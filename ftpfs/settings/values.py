"""How the value of an option is written: sizes, times, paths, users, addresses.

Owns the parsing, the checks, and the way a default is shown in the help. Knows no option by name.

A `parse` function returns the value, or raises ValueError with the reason in words.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ftpfs.settings import excludes, timetable
from ftpfs.settings.credentials import PROXY_PASSWORD_VARIABLE, has_line_break

MIB_BYTES = 1 << 20


class Kind(NamedTuple):
    """A kind of value: its name in the help, how to parse it, and how to show a default."""

    metavar: str
    parse: Callable[[str], object]
    show: Callable[[Any], str] = str


# Numbers, times and sizes.

_SECONDS_PER_UNIT = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES_PER_UNIT = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# The index of the store takes up to 1 MiB of it.
_STORE_MIN_BYTES = 16 * MIB_BYTES
# Below this rate, servers and devices between take a transfer for a dead one.
_RATE_MIN_BYTES = 1 << 10
# The values of a size that the mount chooses: where it pays, and everywhere.
AUTO, ON = -1, -2
_STORE_WORDS = {"auto": AUTO, "on": ON}


def _number(low: int, high: int) -> Callable[[str], int]:
    """A parser for whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a number from {low} to {high}")
        return int(text)

    return parse


parse_port = _number(1, 65535)


def _seconds(text: str) -> float:
    # Twelve digits are 30,000 years, and still a finite float.
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd]?)", text)
    if not match:
        raise ValueError("expected a time such as 30, 1.5, 2m, 1h or 1d")
    return float(match[1]) * _SECONDS_PER_UNIT[match[2]]


def _deadline(text: str) -> float:
    # A socket timeout of zero means "do not wait at all".
    if (seconds := _seconds(text)) <= 0:
        raise ValueError("a deadline must be more than zero")
    return seconds


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMGT]?)(?:I?B)?", text.upper())
    if not match:
        raise ValueError("expected a size such as 1048576, 512K, 64M or 1G")
    return int(float(match[1]) * _BYTES_PER_UNIT[match[2]])


def _store_size(text: str) -> int:
    if text in _STORE_WORDS:
        return _STORE_WORDS[text]
    if 0 < (size := _size(text)) < _STORE_MIN_BYTES:
        raise ValueError("the store needs at least 16M (0: no store)")
    return size


def _rate(text: str) -> int:
    """A rate in bytes a second; 0: no limit."""
    if text == "off":
        return 0
    rate = _size(text.removesuffix("/s"))
    if 0 < rate < _RATE_MIN_BYTES:
        raise ValueError("the lowest limit is 1K")
    return rate


def _timetable(text: str) -> timetable.Timetable:
    return timetable.read(text, _rate)


def _show_size(size: int) -> str:
    for word, value in _STORE_WORDS.items():
        if size == value:
            return word
    if not size:
        return "0"
    fitting = (unit for unit, factor in _BYTES_PER_UNIT.items() if size % factor == 0)
    unit = max(fitting, key=_BYTES_PER_UNIT.__getitem__)
    return f"{size // _BYTES_PER_UNIT[unit]}{unit}"


# Users and permissions.


def _umask(text: str) -> int:
    if not re.fullmatch(r"(?:0o)?[0-7]{1,4}", text) or (mask := int(text, 8)) > 0o777:
        raise ValueError("must be an octal number such as 022")
    return mask


# The highest id is (uid_t)-1. chown(2) reads it as "leave the owner alone".
_id = _number(0, 0xFFFFFFFE)


def _uid(text: str) -> int:
    if text.isdigit():
        return _id(text)
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):  # ValueError: a name with NUL, or one that cannot be encoded
        raise ValueError("no such user on this system") from None


def _gid(text: str) -> int:
    if text.isdigit():
        return _id(text)
    import grp

    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise ValueError("no such group on this system") from None


def _user(text: str) -> str:
    if not text or has_line_break(text):
        raise ValueError("must be a name without line breaks")
    return text


# Text.


def _path(text: str) -> Path:
    # The path becomes absolute here, because the daemon leaves the folder it was started in. The
    # tilde is expanded here, because no shell does it for `-o`.
    if not text or "\0" in text:
        raise ValueError("must be a path")
    return Path(os.path.abspath(os.path.expanduser(text)))


def _encoding(text: str) -> str:
    # FTP separates names by "/", blanks and CRLF, so these must be the same bytes as in ASCII.
    # UTF-16 and EBCDIC fail here.
    probe = "/ \r\n"
    try:
        if probe.encode(text) == probe.encode("ascii"):
            return text
    except (LookupError, ValueError):  # ValueError: NUL in the name, or no text encoding
        pass
    raise ValueError("unknown character encoding, or one that does not contain ASCII")


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("must be the 64 hex digits of a SHA-256 (colons between them are fine)")
    return digits


def _proxy(text: str) -> str:
    if not re.fullmatch(r"(?:socks5|socks4|http)://(?:[^/@:\s]+@)?[^/@\s]+:[0-9]{1,5}/?", text):
        raise ValueError(
            "expected socks5://[user@]host:port or http://[user@]host:port; the password of that "
            f"user comes from ${PROXY_PASSWORD_VARIABLE}"
        )
    return text.rstrip("/")


def _quirks(text: str) -> tuple[tuple[str, str], ...]:
    # The profile checks the names when it is made.
    pairs = []
    for item in filter(None, text.split(":")):
        name, _, value = item.partition("=")
        pairs.append((name.replace("-", "_"), value))
    if not pairs or not all(name and value for name, value in pairs):
        raise ValueError("expected NAME=VALUE, such as mlsd=no or mlsd=no:rest=no")
    return tuple(pairs)


def _kept_paths(text: str) -> tuple[str, ...]:
    paths = []
    for item in filter(None, text.split(":")):
        path = posixpath.normpath(f"/{item}".replace("//", "/"))
        if "/../" in f"/{item}/" or has_line_break(item):
            raise ValueError("expected paths inside the mount, such as /folder:/other")
        paths.append(path)
    if not paths:
        raise ValueError("expected paths inside the mount, such as /folder:/other")
    return tuple(paths)


def _address(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("expected an IP address such as 192.0.2.7") from None


def _ports(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    ports = parse_port(low), parse_port(high or low)
    if ports[0] > ports[1]:
        raise ValueError("expected a port, or a range such as 40000-40100")
    return ports


def choice(*words: str) -> Kind:
    """One of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return Kind("|".join(words), parse)


TIME = Kind("SECONDS", _seconds, lambda seconds: f"{seconds:g}")
DEADLINE = TIME._replace(parse=_deadline)
SIZE = Kind("SIZE", _size, _show_size)
RATE = Kind("RATE", _timetable)
KEPT_PATHS = Kind("PATHS", _kept_paths, ":".join)
STORE_SIZE = SIZE._replace(parse=_store_size)
PORT = Kind("PORT", parse_port)
COUNT = Kind("NUMBER", _number(1, 1000))
PORTS = Kind("LOW-HIGH", _ports, lambda _ports: "")
ADDRESS = Kind("ADDRESS", _address)
PATTERNS = Kind("PATTERN[;...]", excludes.read, lambda _patterns: "")
PATH = Kind("PATH", _path)
USER_HERE = Kind("USER", _uid)
GROUP_HERE = Kind("GROUP", _gid)
UMASK = Kind("OCTAL", _umask, lambda mask: f"{mask:03o}")
LOGIN = Kind("NAME", _user)
ENCODING = Kind("NAME", _encoding)
FINGERPRINT = Kind("HEX", _fingerprint)
PROXY = Kind("URL", _proxy)
QUIRKS = Kind("NAME=VALUE[:...]", _quirks, lambda _pairs: "")
