"""Checksums: as servers report them, and as computed here."""

from __future__ import annotations

import hashlib
import zlib

import pytest

from ftpfs.ftp import digest
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.digest import Told

DATA = b"what was sent" * 1000
SHA1 = hashlib.sha1(DATA).hexdigest()
SHA256 = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()
CRC = f"{zlib.crc32(DATA):08x}"


@pytest.mark.parametrize(
    ("command", "lines", "told"),
    [
        ("HASH", f"213 SHA-1 0-13000 {SHA1} /a b", Told("sha1", SHA1)),
        (
            "HASH",
            f"213-Computing\n Computing...\n213 SHA-256 0-9 {SHA256} b",
            Told("sha256", SHA256),
        ),
        ("HASH", f"213 CRC32 0-13000 {CRC.upper()} /a b", Told("crc32", CRC)),
        ("HASH", f"213 WHIRLPOOL 0-13000 {SHA1} /a b", None),
        ("XSHA1", f"250 {SHA1.upper()}", Told("sha1", SHA1)),
        ("XSHA256", f'250 "/a b" {SHA256}', Told("sha256", SHA256)),
        ("XMD5", f"250 XMD5 successful. {MD5}.", Told("md5", MD5)),
        ("MD5", f"251 /a b {MD5.upper()}", Told("md5", MD5)),
        ("XCRC", "250 0x1F", Told("crc32", "0000001f")),
        ("XCRC", f"250 {CRC}", Told("crc32", CRC)),
        ("XCRC", "250 done", None),
        ("XMD5", f"550 {MD5} cannot be had", None),
        ("XSHA256", f"250 {SHA1}", None),
    ],
)
def test_checksum_is_read_from_reply_in_each_known_form(
    command: str, lines: str, told: Told | None
) -> None:
    reply = Reply(int(lines[:3]), tuple(lines.split("\n")))
    assert digest.told_in(command, "/a b", reply) == told


def test_name_that_looks_like_checksum_is_not_taken_for_one() -> None:
    path = "/" + "0" * 32
    reply = Reply(251, (f"251 {path} {MD5}",))
    assert digest.told_in("MD5", path, reply) == Told("md5", MD5)
    reply = Reply(250, (f'250 "{"0" * 32}" {MD5}',))
    assert digest.told_in("XMD5", path, reply) == Told("md5", MD5)


@pytest.mark.parametrize(
    ("algorithm", "digits"),
    [("crc32", CRC), ("md5", MD5), ("sha1", SHA1), ("sha256", SHA256)],
)
def test_local_checksum_is_computed_in_pieces(algorithm: str, digits: str) -> None:
    def read(offset: int, count: int) -> bytes:
        return DATA[offset : offset + count]

    assert digest.of(algorithm, len(DATA), read, 777) == Told(algorithm, digits)
