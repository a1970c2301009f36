"""What curl manages on the servers of `test_manners`, beside what ftpfs manages.

This test makes the second table of misbehaviours in docs/servers.md; run it with
FTPFS_WRITE_TABLES=1 in the environment to write the table. The cells of ftpfs are those of the
first table, which `test_manners` checks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import scripted_server as scripted
from tests.support.certificates import Certificates
from tests.support.scripted_server import Manners, ScriptedServer
from tests.unit.ftp.test_manners import BEGIN as OURS_BEGIN
from tests.unit.ftp.test_manners import COLUMNS, TABLE, WITHOUT
from tests.unit.ftp.test_manners import END as OURS_END

BEGIN, END = "<!-- curl: begin -->\n", "<!-- curl: end -->"
# Seconds for each transfer, and on a busy machine. curl itself waits two minutes for a reply.
PATIENCE, MORE_PATIENCE = "4", "20"
_TLS = ("--ssl-reqd", "--insecure")
# The commands that curl sends to list, read and write, and the options with which it does.
SENT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("PWD", "EPSV", "SIZE", "USER", "PASS", "TYPE", "CWD"), ()),
    **dict.fromkeys(("RETR", "STOR", "PASV", "LIST"), ()),
    **dict.fromkeys(("EPRT", "PORT"), ("--ftp-port", "127.0.0.1")),
    **dict.fromkeys(("AUTH", "PBSZ", "PROT"), _TLS),
    "CCC": (*_TLS, "--ftp-ssl-ccc"),
}
METHODS = ("multicwd", "nocwd")


def curl(server: ScriptedServer, path: str, options: tuple[str, ...]) -> bytes | None:
    """What curl prints; None if it fails."""
    url = f"ftp://{server.host}:{server.port}{path}"
    login = f"{server.user}:{server.password}"
    argv = [
        "curl",
        "--silent",
        "--noproxy",
        "*",
        "--max-time",
        PATIENCE,
        "--user",
        login,
        *options,
        url,
    ]
    done = subprocess.run(argv, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def manages(root: Path, manners: Manners, command: str, options: tuple[str, ...]) -> bool:
    """Whether curl lists, reads and writes with these options."""
    (root / "d").mkdir(parents=True)
    (root / "d" / "hello").write_bytes(b"hello, world\n")
    new = root.with_suffix(".new")
    new.write_bytes(b"new")
    with scripted.start(root, manners) as server:
        listed = curl(server, "/d/", options)
        if listed is None or b" hello" not in listed:
            return False
        if curl(server, "/d/hello", options) != b"hello, world\n":
            return False
        if curl(server, "/d/new", (*options, "--upload-file", str(new))) is None:
            return False
        assert server.was_sent(command) or "nocwd" in options
    return (root / "d" / "new").read_bytes() == b"new"


def outcome(folder: Path, command: str, how: str, certificate: Path, patience: str) -> str:
    answers = {**WITHOUT.get(command, {}), command: how}
    for method in METHODS:
        manners = Manners(answers=answers, certificate=certificate)
        options = (*SENT[command], "--ftp-method", method, "--max-time", patience)
        if manages(folder / method, manners, command, options):
            return "works" if method == METHODS[0] else method
    return "fails"


def row(folder: Path, command: str, certificate: Path, patience: str) -> list[str]:
    """The outcomes of all misbehaviours, which wait at the same time."""
    with ThreadPoolExecutor(len(COLUMNS)) as pool:
        under_way = [
            pool.submit(outcome, folder / str(n), command, how, certificate, patience)
            for n, how in enumerate(COLUMNS.values())
        ]
        return [each.result() for each in under_way]


def shown(command: str, cells: list[str]) -> str:
    return f"| {command} | {' | '.join(cells)} |"


def section(begin: str, end: str) -> str:
    text = TABLE.read_text()
    return text[text.index(begin) + len(begin) : text.index(end)]


def line_of(command: str, table: str) -> str:
    return next((line for line in table.splitlines() if line.startswith(f"| {command} |")), "")


def check_line(command: str, line: str) -> None:
    table = section(BEGIN, END)
    if os.environ.get("FTPFS_WRITE_TABLES"):
        lines = {name: line_of(name, table) for name in SENT} | {command: line}
        head = f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}\n"
        new = head + "".join(f"{each}\n" for each in lines.values() if each)
        TABLE.write_text(TABLE.read_text().replace(BEGIN + table, BEGIN + new))
        return
    assert line in table


# scripts/test installs curl, so that CI never skips this; pytest by itself may run without.
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("command", SENT)
def test_mount_works_in_every_cell_where_curl_works(
    command: str, tmp_path: Path, certificates: Certificates
) -> None:
    cells = row(tmp_path / "first", command, certificates.self_signed, PATIENCE)
    if shown(command, cells) not in section(BEGIN, END):
        cells = row(tmp_path / "again", command, certificates.self_signed, MORE_PATIENCE)
    assert "works" in cells  # else curl was not called as it should be
    check_line(command, shown(command, cells))
    ours = line_of(command, section(OURS_BEGIN, OURS_END)).split(" | ")[1:]
    ours[-1] = ours[-1].removesuffix(" |")
    worse = [
        name
        for name, cell, our in zip(COLUMNS, cells, ours, strict=True)
        if cell != "fails" and our != "works"
    ]
    assert not worse, f"curl works where ftpfs does not: {worse}"
