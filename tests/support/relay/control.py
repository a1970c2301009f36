"""One control connection through a relay: commands in, replies out, faults in between."""

from __future__ import annotations

import re
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from tests.support.relay.faults import Rule
from tests.support.relay.hub import Hub
from tests.support.relay.link import Link
from tests.support.relay.record import Command, Connection, DataConnection
from tests.support.relay.sockets import How, close, cut, half_close, line, replies, send, wake

LINE_LIMIT = 1 << 20
_TRANSFERS = {"RETR", "STOR", "APPE", "STOU", "LIST", "NLST", "MLSD"}
_IAC = re.compile(rb"\xff[\xf0-\xff]")


@dataclass(eq=False)
class _Expected:
    """A command whose final reply has not come, or one that the relay answers itself."""

    command: Command | None  # None: the greeting
    rule: Rule | None = None
    # The value of `_released` at its arrival: `release` lets its reply go even before that has
    # come.
    released: int = 0
    preliminary: int = 0


@dataclass(eq=False)
class _Outgoing:
    """Bytes for the client, their due time, and the release they wait for."""

    data: bytes
    due: float
    held: int | None = None  # the value of `_released` at which it is still held
    cut: How | None = None  # cut instead


class Control:
    """One control connection. The relay's lock guards `_expected` and `_outgoing`."""

    def __init__(
        self, hub: Hub, client: socket.socket, server: socket.socket, record: Connection
    ) -> None:
        self.hub = hub
        self.client = client
        self.server = server
        self.record = record
        self._expected: deque[_Expected] = deque([_Expected(None)])
        self._outgoing: deque[_Outgoing] = deque()
        self._server_done = False
        self.transfer = ""  # the last command that wants a data connection
        self._told = 0  # how often something was sent to the client; its writer's
        # Set by the server's reader at 234; the client sends nothing between AUTH and that.
        self._raw = hub.raw
        self._cut: How | None = None
        self._users = 3
        self._listener: socket.socket | None = None
        self._link: Link | None = None
        self.forgotten = False

    def cut(self, how: How) -> None:
        """Cut both sides, and the data connection."""
        with self.hub.changed:
            if self._cut is None:
                self._cut = how
            listener, self._listener = self._listener, None
            link = self._link
            self.hub.changed.notify_all()
        for sock in (self.client, self.server):
            cut(sock, how)
        if listener is not None:
            wake(listener)
        if link is not None:
            link.cut(how)

    def _leave(self) -> None:
        """A thread of this connection ends; the last one closes the sockets."""
        hub = self.hub
        with hub.changed:
            self._users -= 1
            if self._users:
                return
            listener, self._listener = self._listener, None
            hub.controls.discard(self)
            hub.note_closed_locked(self.record)
            how = self._cut or "fin"
        for sock in (self.client, self.server):
            close(sock, how)
        if listener is not None:
            wake(listener)

    def link_closed_locked(self, link: Link) -> None:
        if self._link is link:
            self._link = None

    # client -> server

    def read_client(self) -> None:
        try:
            self._read_client()
        except OSError:
            self.cut("rst")
        finally:
            if not self._cut:
                half_close(self.server)
            self._leave()

    def _read_client(self) -> None:
        pending = b""
        while True:
            data = self.client.recv(65536)
            if not data or self._cut:
                return
            if self.forgotten:
                continue
            if self._raw:
                if not send(self.server, data, lambda: self._cut is not None):
                    return
                continue
            *lines, pending = (pending + data).split(b"\n")
            if len(pending) > LINE_LIMIT:
                self.cut("rst")
                return
            heard = self._told
            batch = bytearray()  # commands of one segment are passed on in one segment
            for each in lines:
                verdict = self._take(each + b"\n", heard)
                if verdict == "cut":
                    # Commands before it in the same segment did reach the server.
                    send(self.server, batch, lambda: False)
                    self.cut(self._cut_how)
                    return
                if isinstance(verdict, bytes):
                    batch += verdict
            if batch and not send(self.server, batch, lambda: self._cut is not None):
                return

    _cut_how: How = "rst"

    def _take(self, sent: bytes, heard: int) -> bytes | Literal["refuse", "cut"]:
        """Record a command, decide about it, and note which reply it waits for.

        Returns what the server is to receive, if anything.
        """
        # An ABOR may come with Telnet's interrupt in front.
        verb, _, arg = _IAC.sub(b"", sent.rstrip(b"\r\n")).partition(b" ")
        hub = self.hub
        command = Command(
            self.record.number,
            verb.decode("ascii", "replace").upper(),
            sent.rstrip(b"\r\n")[len(verb) + 1 :].decode("utf-8", "surrogateescape") if arg else "",
            time.monotonic(),
            heard,
        )
        with hub.changed:
            if command.verb in _TRANSFERS:
                self.transfer = command.verb
            hub.note_command_locked(command)
            rule = hub.match_locked(command)
            if command.verb == "PASS" and rule is None:
                full = hub.turn_away_locked("login", hub.logged_in_locked())
                if full is not None:
                    rule = Rule("PASS", "refuse", full)
            if rule is not None and rule.action == "cut" and rule.when == "before":
                self._cut_how = rule.how
                return "cut"
            self._expected.append(_Expected(command, rule, hub.released))
            if rule is not None and rule.action == "refuse":
                self._answer_locked()
                return "refuse"
        return line(rule.instead) if rule is not None and rule.instead else sent

    def _answer_locked(self) -> None:
        """Send the relay's own answers whose turn has come."""
        while self._expected:
            rule = self._expected[0].rule
            if rule is None or rule.action != "refuse":
                return
            self._expected.popleft()
            self._queue_locked(line(rule.reply))

    # server -> client

    def read_server(self) -> None:
        try:
            for reply in replies(self.server, lambda: self._raw):
                if self._cut:
                    break
                if self._raw:
                    with self.hub.changed:
                        self._queue_locked(reply)
                else:
                    self._raw = reply.startswith(b"234")
                    self._pass_on(reply)
        except OSError:
            pass
        finally:
            with self.hub.changed:
                self._server_done = True
                self.hub.changed.notify_all()
            self._leave()

    def _pass_on(self, reply: bytes) -> None:
        code = reply[:3]
        if code == b"227" or code == b"229":
            reply = self._redirect(reply)
        with self.hub.changed:
            expected = self._expected[0] if self._expected else None
            if expected is not None and code.startswith(b"1"):
                expected.preliminary += 1
            # pure-ftpd ends a transfer that the client closed early with a second 150.
            final = not code.startswith(b"1") or (
                expected is not None
                and expected.preliminary > 1
                and expected.command is not None
                and expected.command.verb in _TRANSFERS
            )
            if final and expected is not None:
                self._expected.popleft()
                command = expected.command
                if command is not None and command.verb == "PASS" and code == b"230":
                    self.record.logged_in = True
            self._deliver_locked(reply, expected, final)
            if final:
                self._answer_locked()

    def _deliver_locked(self, reply: bytes, expected: _Expected | None, final: bool) -> None:
        rule = expected.rule if expected else None
        if expected is None or rule is None or rule.action == "refuse":
            self._queue_locked(reply)
        elif rule.action == "cut":
            if final or rule.when == "after":
                self._queue_locked(b"", cut=rule.how)
            else:
                self._queue_locked(reply)
        elif not final:
            self._queue_locked(reply)
        elif rule.action == "replace":
            self._queue_locked(line(rule.reply))
        elif rule.action == "hold":
            self._queue_locked(reply, held=expected.released)
        # "drop": nothing is passed on.

    def _queue_locked(
        self, data: bytes, *, held: int | None = None, cut: How | None = None
    ) -> None:
        hub = self.hub
        due = time.monotonic() + hub.latency
        self._outgoing.append(_Outgoing(data, due, held, cut))
        hub.changed.notify_all()

    def write_client(self) -> None:
        try:
            while True:
                item = self._next()
                if item is None:
                    break
                if item.cut:
                    self.cut(item.cut)
                    break
                self._told += 1
                if self.forgotten:
                    continue
                if not send(self.client, item.data, lambda: self._cut is not None):
                    break
        except OSError:
            # The client is gone; let the server know:
            self.cut("rst")
        finally:
            if not self._cut:
                half_close(self.client)
            self._leave()

    def _next(self) -> _Outgoing | None:
        """The next bytes to send, when their time has come; None at the end."""
        hub = self.hub
        with hub.changed:
            while True:
                if self._cut:
                    return None
                item = self._outgoing[0] if self._outgoing else None
                wait: float | None = None
                if item is None:
                    if self._server_done:
                        return None
                elif not hub.hold_replies and item.held != hub.released:
                    wait = item.due - time.monotonic()
                    if wait <= 0:
                        # All bytes that are due leave at once, as the server sent them.
                        data = bytearray()
                        now = time.monotonic()
                        while self._outgoing:
                            item = self._outgoing[0]
                            if item.due > now or item.held == hub.released:
                                break
                            if item.cut:
                                if not data:
                                    return self._outgoing.popleft()
                                break
                            data += self._outgoing.popleft().data
                        return _Outgoing(bytes(data), now)
                hub.changed.wait(wait)

    # data connections

    def _redirect(self, reply: bytes) -> bytes:
        """Open a port for the data connection and put it into a 227 or 229."""
        if reply.startswith(b"227"):
            match = re.search(rb"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)", reply)
            port = int(match[5]) * 256 + int(match[6]) if match else 0
        else:
            match = re.search(rb"\((.)\1\1(\d+)\1\)", reply)
            port = int(match[2]) if match else 0
        if not match:
            return reply
        listener = socket.socket()
        listener.bind((self.hub.host, 0))
        listener.listen(1)
        mine = listener.getsockname()[1]
        with self.hub.changed:
            old, self._listener = self._listener, listener
        if old is not None:
            wake(old)
        self.hub.spawn(self.accept_data, listener, port)
        if reply.startswith(b"227"):
            new = b"127,0,0,1,%d,%d" % divmod(mine, 256)
        else:
            new = b"(|||%d|)" % mine
        return reply[: match.start()] + new + reply[match.end() :]

    def accept_data(self, listener: socket.socket, port: int) -> None:
        hub = self.hub
        with listener:
            try:
                client, _ = listener.accept()
            except OSError:
                return
        with hub.changed:
            if self._listener is listener:
                self._listener = None
        try:
            server = socket.create_connection((hub.server[0], port), timeout=10)
        except OSError:
            close(client, "rst")
            return
        client.settimeout(None)
        server.settimeout(None)
        record = DataConnection(self.record.number, time.monotonic())
        link = Link(hub, self, client, server, record)
        with hub.changed:
            hub.links.add(link)
            self._link = link
            gone = self._cut
            hub.note_data_locked(record)
        hub.spawn(link.pump, "up")
        if gone:
            link.cut(gone)
        link.pump("down")
