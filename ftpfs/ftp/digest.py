"""Pure: what a server says the content of a file is, and what ours is.

Owns: the commands that ask for a checksum, the reading of their replies, and the same sums over a
local file. Which of the commands a server knows is the profile's, when to ask is `upload`'s.

HASH is draft-bryan-ftp-hash; the others are older and nobody's standard (a list of them is in its
appendix B). Measured on proftpd 1.3.8 with mod_digest: HASH and MD5 take the rest of the line for a
name, quotes included; the X commands take words, so that a name with a space needs quotes, and
refuse an empty file (501). It remembers what it said of a name for half a minute, also when the
file was written anew within the same second: to ask is safe under a name that was never used.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ftpfs.ftp.control import Reply

# Commands and what they compute ("": the reply says it), best first. A CRC-32 misses one accident
# in four thousand million.
COMMANDS = {
    "HASH": "",
    "XSHA256": "sha256",
    "XSHA1": "sha1",
    "XSHA": "sha1",
    "XSHA512": "sha512",
    "XMD5": "md5",
    "MD5": "md5",
    "XCRC": "crc32",
}
# How many hex digits each has.
_LENGTHS = {"crc32": 8, "md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_HEX = re.compile("[0-9a-f]+")
_QUOTED = re.compile(r'"[^"]*"')
# What a server reads and sums up at least in a second (bytes): a NAS with an old disk.
SLOWEST = 10 << 20


class Told(NamedTuple):
    """A checksum: by which algorithm, and its hex digits in lower case."""

    algorithm: str
    digits: str


class _Sum(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def line(command: str, path: str) -> str:
    """The command that asks for the checksum of all of `path`."""
    return f'{command} "{path}"' if command.startswith("X") else f"{command} {path}"


def told_in(command: str, path: str, reply: Reply) -> Told | None:
    """The checksum in a reply to `line`; None where there is none that can be read."""
    if not 200 <= reply.code < 300:
        return None
    # A name could look like a checksum.
    words = _QUOTED.sub(" ", reply.text.replace(path, " ")).split()
    algorithm = COMMANDS[command] or (words[0].lower().replace("-", "") if words else "")
    length = _LENGTHS.get(algorithm)
    for word in words:
        digits = word.lower().removeprefix("0x").rstrip(".")
        if algorithm == "crc32":
            digits = digits.rjust(8, "0")  # a number to some, so without its leading zeros
        if len(digits) == length and _HEX.fullmatch(digits):
            return Told(algorithm, digits)
    return None


def of(algorithm: str, size: int, read: Callable[[int, int], bytes], piece: int) -> Told:
    """The checksum of `size` bytes that `read(offset, count)` gives, `piece` bytes at a time."""
    total: _Sum = _Crc32() if algorithm == "crc32" else hashlib.new(algorithm)
    for offset in range(0, size, piece):
        total.update(read(offset, min(piece, size - offset)))
    return Told(algorithm, total.hexdigest())
