"""A server that misbehaves as told: pyftpdlib in a thread, with a script of oddities.

Owns: the oddities, and a record of the received commands. Knows nothing of ftpfs.

    with odd_server.start(root, Script(unknown={"EPSV"})) as server: ...

It runs in a thread of the test, so that a script may hold functions. Clients are other processes,
or threads that release the GIL while they wait.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from tests.support.stoppable import Stoppable

USER, PASSWORD = "odd", "Odd-secret.9"

_TAKE_PATHS = {"CWD", "MKD", "RMD", "RETR", "STOR", "APPE", "DELE", "RNFR", "RNTO", "SIZE", "MDTM"}


@dataclass
class Script:
    """How the server is odd. The defaults make it an ordinary one."""

    # Unknown commands: 502, and not in FEAT.
    unknown: frozenset[str] | set[str] = frozenset()
    # Whole replies (lines without their ends) by verb, or by verb and argument; the command is not
    # carried out. "" sends no reply.
    replies: Mapping[str, str] = field(default_factory=dict)
    # Lines sent right before and right after the reply to a verb.
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    # Commands that report a fact about a file, with the reply to each; FEAT names them.
    tells: Mapping[str, Callable[[Path], str]] = field(default_factory=dict)
    # A change of a file on the disk right after it arrived.
    received: Callable[[Path], None] = lambda _path: None
    # Codes changed in outgoing replies: {"226": "250"}.
    recode: Mapping[str, str] = field(default_factory=dict)
    # Replies of these codes are sent twice.
    twice: frozenset[str] | set[str] = frozenset()
    # Every reply has several lines, with its own code in the middle of some.
    wordy: bool = False
    # The data of LIST for a folder on the server's disk.
    listing: Callable[[Path], bytes] | None = None
    # The data of MLSD for it.
    machine_listing: Callable[[Path], bytes] | None = None
    banner: str = "odd server ready"
    # The encoding of names on the wire.
    encoding: str = "utf-8"
    # "FILE" and "file" are the same name.
    ignores_case: bool = False
    # Seconds after which an idle control connection gets 421.
    idle_timeout: float = 3600
    max_clients: int = 0
    # Address in the reply to PASV instead of its own.
    pasv_address: str = ""
    # The ports in replies to EPSV and PASV lead nowhere.
    dead_passive: bool = False
    # The meaning of a path in a command, as a path below the root; None: refused.
    reads_path: Callable[[str], str | None] | None = None
    # The reply to an RNTO onto an existing file.
    refuses_to_replace: str = ""
    # The time that the disk stores for a file's time, when it is set or read: FAT keeps even
    # seconds.
    keeps_time: Callable[[int], int] | None = None
    # The server confirms that it sets a time, and does not (Android's storage).
    ignores_times: bool = False
    # A rename gives a file the time of the rename (servers in front of object stores).
    dates_renames: bool = False
    host: str = "127.0.0.1"


class OddServer(Stoppable):
    """A running odd server. Leaving the `with` block, or `stop()`, ends it."""

    def __init__(self, root: Path, script: Script) -> None:
        self.root = root
        self.script = script
        self.commands: list[str] = []  # all received commands, over all connections
        self.user, self.password = USER, PASSWORD
        family = socket.AF_INET6 if ":" in script.host else socket.AF_INET
        listener = socket.create_server((script.host, 0), family=family, backlog=64)
        self.host, self.port = listener.getsockname()[:2]
        self._server = FTPServer(listener, _handler(self), ioloop=IOLoop())
        # Per address: the other limit also counts data connections.
        self._server.max_cons_per_ip = script.max_clients
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="odd-server", daemon=True)
        self._thread.start()

    def verbs(self) -> list[str]:
        return [line.partition(" ")[0].upper() for line in self.commands]

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._server.ioloop.loop(timeout=0.02, blocking=False)
        self._server.close_all()


def start(root: Path, script: Script | None = None) -> OddServer:
    """Serve `root` as the script says, to the user `odd`, who may do everything."""
    return OddServer(root, script or Script())


class _CaseBlind(AbstractedFS):  # type: ignore[misc]
    """Finds a file under any case of its name, as servers on Windows do."""

    def ftp2fs(self, ftppath: str) -> str:
        path = Path(self.root)
        for part in Path(self.ftpnorm(ftppath)).parts[1:]:
            there = {p.name.lower(): p.name for p in path.iterdir()} if path.is_dir() else {}
            path /= there.get(part.lower(), part)
        return str(path)


def _filesystem(script: Script) -> Any:
    base = _CaseBlind if script.ignores_case else AbstractedFS

    class Disk(base):  # type: ignore[misc,valid-type]
        def utime(self, path: str, timeval: float) -> None:
            if not script.ignores_times:
                super().utime(path, timeval)

        def rename(self, src: str, dst: str) -> None:
            super().rename(src, dst)
            if script.dates_renames:
                os.utime(dst)

        def _rounded(self, path: str) -> None:
            with contextlib.suppress(OSError):
                now = int(os.lstat(path).st_mtime)
                if script.keeps_time and (kept := script.keeps_time(now)) != now:
                    os.utime(path, (kept, kept), follow_symlinks=False)

        def stat(self, path: str) -> os.stat_result:
            self._rounded(path)
            return super().stat(path)  # type: ignore[no-any-return]

        def lstat(self, path: str) -> os.stat_result:
            self._rounded(path)
            return super().lstat(path)  # type: ignore[no-any-return]

        def getmtime(self, path: str) -> float:
            self._rounded(path)
            return super().getmtime(path)  # type: ignore[no-any-return]

    return Disk


def _handler(server: OddServer) -> Any:
    script = server.script
    known = {k: v for k, v in FTPHandler.proto_cmds.items() if k not in script.unknown}

    class Handler(FTPHandler):  # type: ignore[misc]
        encoding = script.encoding
        unicode_errors = "surrogateescape"
        banner = script.banner
        auth_failed_timeout = 0
        timeout = script.idle_timeout
        abstracted_fs = _filesystem(script)
        masquerade_address = script.pasv_address or None
        proto_cmds = known

        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self._extra_feats += script.tells

        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            server.commands.append(line)
            if script.reads_path and cmd in _TAKE_PATHS:
                meant = script.reads_path(arg)
                if meant is None:
                    self.push_raw(f"550 {arg}: no such name here")
                    return
                line, arg = f"{cmd} {meant}", meant
            if cmd in script.before:
                self.push_raw(script.before[cmd])
            if cmd in script.unknown:
                self.push_raw("502 Command not implemented.")
            elif (reply := script.replies.get(line) or script.replies.get(cmd)) is not None:
                self.push_raw(reply)
            elif cmd in script.tells:
                self.push_raw(script.tells[cmd](Path(self.fs.ftp2fs(arg.strip('"')))))
            else:
                super().pre_process_command(line, cmd, arg)
            if cmd in script.after:
                self.push_raw(script.after[cmd])

        def push_raw(self, text: str) -> None:
            if text:
                FTPHandler.push(self, text.replace("\n", "\r\n") + "\r\n")

        def push(self, data: str) -> None:
            code = script.recode.get(data[:3])
            data = code + data[3:] if code else data
            if script.wordy and data[3:4] == " ":
                data = f"{data[:3]}-Well,\r\n {data[:3]} not yet\r\n{data[:3]}-and now:\r\n{data}"
            super().push(data * 2 if data[:3] in script.twice else data)

        def on_file_received(self, file: str) -> None:
            script.received(Path(file))

        def _make_epasv(self, extmode: bool = False) -> None:
            if not script.dead_passive:
                super()._make_epasv(extmode)
                return
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                port = unused.getsockname()[1]
            if extmode:
                self.respond(f"229 Entering extended passive mode (|||{port}|).")
            else:
                self.respond(f"227 Entering passive mode (127,0,0,1,{port >> 8},{port & 255}).")

        def ftp_RNTO(self, path: str) -> Any:
            if script.refuses_to_replace and Path(path).exists():
                self._rnfr = None
                self.push_raw(script.refuses_to_replace)
                return None
            return super().ftp_RNTO(path)

        def ftp_LIST(self, path: str) -> Any:
            if script.listing is None:
                return super().ftp_LIST(path)
            self.push_dtp_data(script.listing(Path(path)), cmd="LIST")
            return path

        def ftp_MLSD(self, path: str) -> Any:
            if script.machine_listing is None:
                return super().ftp_MLSD(path)
            self.push_dtp_data(script.machine_listing(Path(path)), cmd="MLSD")
            return path

    authorizer = DummyAuthorizer()
    authorizer.add_user(USER, PASSWORD, str(server.root), perm="elradfmwMT")
    Handler.authorizer = authorizer
    return Handler
