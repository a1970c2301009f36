"""Pure: checksums of a file, as servers report them and as computed here.

Owns the commands that ask for a checksum, the parsing of their replies, and the same checksums over
a local file. The profile knows which of the commands a server has; the upload decides when to ask.

HASH is draft-bryan-ftp-hash. The others are older and have no standard (appendix B of that draft
lists them). Measured on proftpd 1.3.8 with mod_digest: HASH and MD5 take the rest of the line as
the name, including quotes. The X commands split words, so a name with a space needs quotes, and
they refuse an empty file (501). mod_digest caches the checksum of a name for half a minute, even if
the file was rewritten within the same second. Therefore asking is safe only under a name that was
never used.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ftpfs.ftp.connections.control import Reply

# Commands and their algorithms ("": the reply says it), best first. A CRC-32 misses one fault in
# four thousand million.
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
# Number of hex digits of each.
_LENGTHS = {"crc32": 8, "md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
_HEX = re.compile("[0-9a-f]+")
_QUOTED = re.compile(r'"[^"]*"')
# Lower bound of what a server reads and sums up per second (bytes): a NAS with an old disk.
SLOWEST_BYTES_A_SECOND = 10 << 20


class Told(NamedTuple):
    """A checksum: its algorithm, and its hex digits in lower case."""

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
    """The command that asks for the checksum of the whole file `path`."""
    return f'{command} "{path}"' if command.startswith("X") else f"{command} {path}"


def told_in(command: str, path: str, reply: Reply) -> Told | None:
    """The checksum in a reply to `line`; None if it has none that can be read."""
    if not 200 <= reply.code < 300:
        return None
    # A name could look like a checksum.
    words = _QUOTED.sub(" ", reply.text.replace(path, " ")).split()
    algorithm = COMMANDS[command] or (words[0].lower().replace("-", "") if words else "")
    length = _LENGTHS.get(algorithm)
    for word in words:
        digits = word.lower().removeprefix("0x").rstrip(".")
        if algorithm == "crc32":
            digits = digits.rjust(8, "0")  # some servers drop leading zeros
        if len(digits) == length and _HEX.fullmatch(digits):
            return Told(algorithm, digits)
    return None


def of(algorithm: str, size: int, read: Callable[[int, int], bytes], piece: int) -> Told:
    """The checksum of `size` bytes from `read(offset, count)`, in steps of `piece` bytes."""
    total: _Sum = _Crc32() if algorithm == "crc32" else hashlib.new(algorithm)
    for offset in range(0, size, piece):
        total.update(read(offset, min(piece, size - offset)))
    return Told(algorithm, total.hexdigest())
