"""What `scripts/fuzz` runs: one target, fed by atheris. Without arguments: prints their names.

Each target passes bytes to a parser of foreign data, and asserts what must hold for every input.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["ftpfs"]):
    from ftpfs import errors
    from ftpfs.ftp import foreign, listing
    from ftpfs.ftp.connections.control import Control, Reply
    from ftpfs.ftp.connections.replies import home_in, port_in
    from ftpfs.ftp.profile import Passive, Profile
    from ftpfs.ftp.remote import Remote
    from ftpfs.model.entry import Entry, Kind, Listing
    from ftpfs.settings import named
    from ftpfs.settings.config import Network, Server
    from ftpfs.settings.options import parse_options
    from ftpfs.settings.source import parse_source

from tests.support import listings, spoiled

NOW = 1_733_000_000.0


def decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _check(found: Listing) -> None:
    """No name leads out of the folder, and no two names are equal."""
    names = [entry.name for entry in found.entries]
    for entry in found.entries:
        _check_entry(entry)
        assert entry.name not in ("", ".", "..")
    assert len(set(names)) == len(names)
    assert all(line.isprintable() for line in found.rejected)


def _check_entry(entry: Entry) -> None:
    assert not set(entry.name) & set("/\0")
    assert entry.size is None or 0 <= entry.size < 1 << 63
    assert entry.mode is None or 0 <= entry.mode <= 0o7777


def lists(data: bytes) -> None:
    """LIST in every format."""
    lines = data.split(b"\n")
    _check(listing.parse_list(lines, decode, NOW))
    _check(listing.parse_list_data(data, decode, NOW, 3600))


def odd_lines(data: bytes) -> None:
    """Good listings in every dialect with one odd line, damaged at random or by these bytes.

    The names and kinds of the other lines stay right.
    """
    random = Random(data)
    kind = random.choice(list(listings.DIALECTS))
    damaged = listings.damaged(random, listings.DIALECTS[kind])
    if random.random() < 0.5:
        where = damaged.lines.index(damaged.odd[0])
        damaged.lines[where] = damaged.odd[0] = data.replace(b"\n", b"")
    found = listing.parse_list_data(b"".join(line + b"\r\n" for line in damaged.lines), decode, NOW)
    _check(found)
    damaged.check({entry.name: entry.kind is Kind.DIRECTORY for entry in found.entries})


def facts(data: bytes) -> None:
    """MLSD and MLST."""
    _check(listing.parse_mlsd(data.split(b"\n"), decode))
    entry = listing.parse_mlst(data, decode)
    if entry is not None:
        _check_entry(entry)


def replies(data: bytes) -> None:
    """The control connection: every input gives replies, or an error that ends the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.close()
        control = Control(Server("host"), Network())
        control.sock = ours
        with contextlib.suppress(EOFError, errors.ProtocolError):
            while True:
                reply = control.reply(1)
                assert 100 <= reply.code < 700
                with contextlib.suppress(errors.FtpfsError):
                    reply.check()


def conversations(data: bytes) -> None:
    """A day's work on a good server, a few of whose replies are lost, doubled, torn or wrong."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        spoiled.spend_a_day(Path(folder), spoiled.day_of(data))


def sources(data: bytes) -> None:
    """Addresses and options, as people and fstab write them."""
    text = decode(data)
    with contextlib.suppress(errors.InvalidArgument):
        source = parse_source(text)
        assert not any(c in source.path + (source.user or "") for c in "\r\n\0")
    with contextlib.suppress(errors.InvalidArgument):
        parse_options(text)


def files(data: bytes) -> None:
    """The file of named servers."""
    path = Path(f"/dev/shm/ftpfs-fuzz-{os.getpid()}")
    path.write_bytes(data)
    try:
        with contextlib.suppress(errors.InvalidArgument):
            named.resolve("nas/x", path)
    finally:
        path.unlink()


def answers(data: bytes) -> None:
    """Parsing of single replies: ports, features, the folder of PWD."""
    line = data.decode("latin-1")
    for way in Passive:
        with contextlib.suppress(errors.FtpfsError):
            assert 0 <= port_in(way, Reply(227, (line,))) < 1 << 20
    assert "\n" not in home_in(line)
    profile = Profile()
    profile.read_features(line.split("\n"))
    options = profile.identity.mlst_options
    assert not options or options.startswith("OPTS MLST ")
    if system := foreign.told_by(line):
        written = system.line("RETR /a/b")
        assert written.startswith("RETR ")
        assert not set(written) & set("\r\n\0")


def links(data: bytes) -> None:
    """Targets of links: none leads out of the mount."""
    remote = Remote(Server("host", path="/srv/ftp"), Network())
    remote.profile.known = True
    depth = 0
    for part in remote.read_link("/a/b/link", decode(data) or ".").split("/"):
        depth += {"..": -1, ".": 0}.get(part, 1)
        assert depth >= -2
    remote.close()


def memories(data: bytes) -> None:
    """A server's profile as an earlier mount, or a person with an editor, has left it."""
    try:
        learned = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(learned, dict):
        with contextlib.suppress(ValueError, TypeError):
            profile = Profile()
            profile.recall(learned)
            profile.times.utc_of(1)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        *(lists, odd_lines, facts, replies, conversations, answers, links, sources, files),
        memories,
    )
}
SEEDS: dict[str, list[bytes]] = {
    "lists": [
        b"drwxr-xr-x 2 a b 4096 Jan 31 12:00 d\r\n-rw-r--r-- 1 a b 5 Jan 31 2024 f\r\n",
        b"01-31-24  12:00PM       <DIR>          My Folder\r\n",
        b"+i8388621.48594,m825718503,r,s280,\tx\r\n",
        b"d [R----F--] supervisor            512       Jan 16 18:53    login\r\n",
        b"               612      A          07-28-95   16:45  x\r\n",
        b"QSYS            77824 02/23/00 15:09:55 *DIR       folder/\r\n",
        b"B10142 3390   2006/03/20  2   31  F       80    80  PS   A.B\r\n",
        b"CORE.DIR;1          1  8-SEP-1999 22:08 [SOBOL] (RWE,RWED,RE,)\r\n",
    ],
    "odd_lines": [b"-rw-r--r-- 1 a b 5 Jan 31 10:11AM f", b"OTHER.TXT;1  5/6  8-SEP-1999 22:08"],
    "facts": [b"type=dir;modify=20240131120000;UNIX.mode=0755; d\r\n", b"type=cdir; .\r\n"],
    "replies": [b"220-hi\r\n220 there\r\n", b"229 Entering (|||5|)\r\n", b"550 no\r\n421 bye\r\n"],
    "conversations": [
        bytes((first, number, how, number, how))
        for first in range(8)
        for number in range(0, 170, 30)
        for how in range(12)
    ],
    "sources": [b"ftpes://me:x@host:21/a%20b", b"[::1]:21/x", b"ro,list_ttl=5,uid=0,quirk=mlsd=no"],
    "answers": [
        b"229 Entering (|||5|)",
        b"227 Entering (127,0,0,1,4,5)",
        b" MLST type*;size;\n UTF8",
        b"DISK$USER:[SMITH]",
        b"'SMITH.'",
        b"Current directory is /home/My Files.",
    ],
    "links": [b"../x", b"/srv/ftp/y", b"//a/./..//b"],
    "memories": [
        b'{"mlsd": true, "passive": "EPSV", "times": "+0100", "list_zones": [[1, 3600]]}',
        b'{"features": {"MLST": "size*;"}, "welcome": "220 hi", "restart": null}',
    ],
    "files": [b'[servers.nas]\nurl = "ftp://host/x"\nro = true\n[defaults]\nlist_ttl = 3\n'],
}


def main() -> None:
    """`fuzzing TARGET FOLDER|FILE [libFuzzer's options]`."""
    if len(sys.argv) < 2:
        print(*TARGETS)
        return
    name, *rest = sys.argv[1:]
    corpus = Path(rest[0]) if rest else None
    if corpus and corpus.is_dir():
        for number, seed in enumerate(SEEDS[name]):
            (corpus / f"seed{number}").write_bytes(seed)
    logging.disable(logging.CRITICAL)  # each refusal has a line
    spoiled.hurry(setattr)
    atheris.Setup([sys.argv[0], *rest], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
