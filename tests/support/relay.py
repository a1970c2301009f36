"""A counting, fault-injecting FTP relay: client <-> Relay <-> a real server, all on loopback.

Owns: the record of every command and data connection, and the faults a test asks for. It knows
just enough FTP: lines, replies of one or many lines, which reply belongs to which command (also
when commands are pipelined), and 227/229, which it rewrites so that data passes through it too.
Active mode (PORT, EPRT) passes through unchanged. From AUTH TLS on (or from the start with
`raw=True`, for implicit TLS) the control connection is bytes, and data goes past the relay; only
the faults on the whole work then.

Threads: one takes connections; per control connection one reads the client, one reads the
server, one writes to the client (so that a delay holds up nothing behind it); per data connection
two. One lock guards all state, `Relay._changed`; nothing blocks under it.

    with Relay(server.host, server.port) as relay:
        ... a client on relay.host, relay.port ...
        relay.refuse("MLSD", "502 no")
        relay.cut_data("down", after=1 << 20)
        assert relay.count("MLSD") == 1
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.support.stoppable import Stoppable

Direction = Literal["down", "up"]  # down: from the server to the client
How = Literal["rst", "fin"]
When = Literal["before", "after", "final"]

CHUNK = 256 * 1024  # a data thread pays per call: 64 KiB gave half the throughput
LINE_LIMIT = 1 << 20
_TRANSFERS = {"RETR", "STOR", "APPE", "STOU", "LIST", "NLST", "MLSD"}
_IAC = re.compile(rb"\xff[\xf0-\xff]")


@dataclass(frozen=True)
class Command:
    """One line a client sent. `t` is time.monotonic() at its arrival, `heard` how often its
    connection had sent the client something by then: what it wrote in one go has heard the same,
    however late it was read."""

    conn: int
    verb: str
    arg: str  # UTF-8 with surrogateescape
    t: float
    heard: int


@dataclass
class Connection:
    """One control connection, numbered from 1. Times are time.monotonic()."""

    number: int
    opened: float
    closed: float | None = None
    logged_in: bool = False


@dataclass
class DataConnection:
    """One data connection that a client made, and the bytes that passed it."""

    conn: int
    opened: float
    down: int = 0
    up: int = 0
    closed: float | None = None


@dataclass(eq=False)
class Rule:
    """A standing order about commands. `hits` counts how often it was followed."""

    verb: str | None
    skip: int
    times: int | None
    action: Literal["refuse", "replace", "drop", "cut", "hold"]
    reply: str = ""
    instead: str = ""  # what the server hears
    when: When = "before"
    how: How = "rst"
    where: Callable[[Command], bool] | None = None
    hits: int = 0
    _relay: Relay | None = None

    def remove(self) -> None:
        assert self._relay is not None
        self._relay._remove(self)


@dataclass(eq=False)
class DataRule:
    """A standing order about data connections."""

    direction: Direction
    after: int
    times: int | None
    action: Literal["cut", "stall"]
    how: How = "rst"
    control: bool = False
    verb: str | None = None  # only data of such a command
    hits: int = 0
    _relay: Relay | None = None

    def remove(self) -> None:
        assert self._relay is not None
        self._relay._remove(self)


class Relay(Stoppable):
    """Listens on `host`:`port`; everything may be set and read at any time, from any thread."""

    host = "127.0.0.1"

    def __init__(self, server_host: str, server_port: int, *, raw: bool = False) -> None:
        self.server = (server_host, server_port)
        self.raw = raw
        # Keeps the port, on which nobody listens while the server is gone: another process on this
        # machine might be given it.
        self._place = _bound(self.host, 0)
        self.port: int = self._place.getsockname()[1]
        # Guarded by _changed, which is notified when a waiting thread should look again.
        self._changed = threading.Condition()
        self._commands: list[Command] = []
        self._connections: list[Connection] = []
        self._data: list[DataConnection] = []
        self._peak = 0
        self._numbers = 0
        self._rules: list[Rule] = []
        self._data_rules: list[DataRule] = []
        self._latency = 0.0
        self._data_rate: int | None = None
        self._hold_replies = False
        self._released = 0
        self._limit: tuple[int, str, Literal["greeting", "login"]] | None = None
        self._refuse_connections: How | None = None
        self._controls: set[_Control] = set()
        self._links: set[_Link] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._stopped = False

    # The record.

    @property
    def commands(self) -> list[Command]:
        with self._changed:
            return list(self._commands)

    @property
    def connections(self) -> list[Connection]:
        with self._changed:
            return list(self._connections)

    @property
    def data(self) -> list[DataConnection]:
        with self._changed:
            return list(self._data)

    @property
    def verbs(self) -> list[str]:
        return [command.verb for command in self.commands]

    @property
    def open_connections(self) -> int:
        with self._changed:
            return len(self._controls)

    @property
    def peak_connections(self) -> int:
        """The most control connections open at one time since the start or `reset()`."""
        with self._changed:
            return self._peak

    def count(self, *verbs: str) -> int:
        """How many commands with one of these verbs came, or how many in all."""
        return sum(not verbs or verb in verbs for verb in self.verbs)

    def data_bytes(self, direction: Direction) -> int:
        return sum(link.down if direction == "down" else link.up for link in self.data)

    def reset(self) -> None:
        """Forget the record; faults and open connections stay."""
        with self._changed:
            self._commands.clear()
            self._connections = [c for c in self._connections if c.closed is None]
            self._data = [d for d in self._data if d.closed is None]
            self._peak = len(self._controls)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Wait until `condition()`, looked at again at every command and data connection."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                self._changed.wait(min(left, 0.05))
        return True

    # Faults on commands. `skip` lets so many matching commands pass first, `times=None` is for
    # ever, `verb=None` is any command, `where` looks closer. The first rule that matches counts.

    def refuse(
        self,
        verb: str,
        reply: str = "502 not here",
        *,
        skip: int = 0,
        times: int | None = None,
        where: Callable[[Command], bool] | None = None,
    ) -> Rule:
        """Answer `verb` with `reply`; the server never hears of it. The order is kept."""
        return self._add(Rule(verb, skip, times, "refuse", reply, where=where))

    def replace_reply(
        self,
        verb: str,
        reply: str,
        *,
        skip: int = 0,
        times: int | None = None,
        where: Callable[[Command], bool] | None = None,
    ) -> Rule:
        """The server does it; the client reads `reply` where the final reply was."""
        return self._add(Rule(verb, skip, times, "replace", reply, where=where))

    def do_instead(
        self, verb: str, command: str, reply: str, *, skip: int = 0, times: int | None = None
    ) -> Rule:
        """The server hears `command` where the client said `verb`; the client reads `reply`.

        Unlike `refuse` it does not leave the server waiting for an RNTO.
        """
        return self._add(Rule(verb, skip, times, "replace", reply, instead=command))

    def drop_reply(
        self,
        verb: str,
        *,
        skip: int = 0,
        times: int | None = 1,
        where: Callable[[Command], bool] | None = None,
    ) -> Rule:
        """The server does it; its final reply (the 226 of a STOR) never arrives."""
        return self._add(Rule(verb, skip, times, "drop", where=where))

    def hold_reply(self, verb: str, *, skip: int = 0, times: int | None = 1) -> Rule:
        """Like `drop_reply`, but it and all behind it arrive after `release()`."""
        return self._add(Rule(verb, skip, times, "hold"))

    def cut_control(
        self,
        verb: str | None = None,
        *,
        skip: int = 0,
        times: int | None = 1,
        when: When = "before",
        how: How = "rst",
        where: Callable[[Command], bool] | None = None,
    ) -> Rule:
        """Cut the control connection, and its data connection with it, at a command.

        "before": the server never hears of the command. "after": it does, and the connection is
        cut in place of its first reply. "final": in place of its final reply (after the 150 and
        all the data).
        """
        return self._add(Rule(verb, skip, times, "cut", when=when, how=how, where=where))

    # Faults on data.

    def cut_data(
        self,
        direction: Direction,
        *,
        after: int,
        how: How = "rst",
        times: int | None = 1,
        control: bool = False,
        verb: str | None = None,
    ) -> DataRule:
        """Let `after` bytes pass, then cut the data connection on both sides.

        "fin" looks like a proper end of the data to both. `control` cuts the session as well.
        A connection that carries no more than `after` bytes is not touched, and with `verb` none
        that is for another command.
        """
        return self._add_data(DataRule(direction, after, times, "cut", how, control, verb))

    def stall_data(self, direction: Direction, *, after: int, times: int | None = 1) -> DataRule:
        """Let `after` bytes pass, then nothing until `release()`; nothing is closed."""
        return self._add_data(DataRule(direction, after, times, "stall"))

    # Faults on the whole.

    @property
    def latency(self) -> float:
        """Seconds by which every reply comes later; pipelined replies overlap."""
        return self._latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        with self._changed:
            self._latency = seconds

    @property
    def data_rate(self) -> int | None:
        """Bytes a second that each data connection may carry; None is no limit."""
        return self._data_rate

    @data_rate.setter
    def data_rate(self, rate: int | None) -> None:
        with self._changed:
            self._data_rate = rate

    def stall_replies(self, stalled: bool = True) -> None:
        """Hold back everything the server says on control connections, greetings too."""
        with self._changed:
            self._hold_replies = stalled
            self._changed.notify_all()

    def release(self) -> None:
        """Let go on what is stalled or held back."""
        with self._changed:
            self._hold_replies = False
            self._released += 1
            self._changed.notify_all()

    def limit_connections(
        self,
        most: int | None,
        reply: str = "421 There are too many connections from your internet address.",
        at: Literal["greeting", "login"] = "greeting",
    ) -> None:
        """Turn away connections beyond `most`: by the greeting, or by the answer to PASS."""
        with self._changed:
            self._limit = None if most is None else (most, reply, at)

    def refuse_connections(self, how: How | None = "rst") -> None:
        """Close new connections as soon as they are made (None: take them again)."""
        with self._changed:
            self._refuse_connections = how

    def cut_all(self, how: How = "rst") -> None:
        """Cut every control and data connection there is now; new ones are welcome."""
        with self._changed:
            links: list[_Link | _Control] = [*self._links, *self._controls]
        for link in links:
            link.cut(how)

    def vanish(self) -> None:
        """The server is gone: everything cut, connecting is refused. `come_back()` undoes it."""
        with self._changed:
            listener, self._listener = self._listener, None
        if listener is not None:
            _wake(listener)
        self.cut_all()
        # A connection may have been taken while the listener closed.
        self.wait_for(lambda: self._quiet(), 2)

    def come_back(self) -> None:
        """Listen again, on the same port."""
        if self._listener is None:
            self._listen()

    def clear(self) -> None:
        """Take back every fault; release what is held."""
        with self._changed:
            self._rules.clear()
            self._data_rules.clear()
            self._latency = 0.0
            self._data_rate = None
            self._limit = None
            self._refuse_connections = None
        self.release()
        if not self._stopped:
            self.come_back()

    # Life.

    def start(self) -> Relay:
        self._listen()
        return self

    def stop(self) -> None:
        """Cut everything and wait for the threads. May be called twice."""
        with self._changed:
            self._stopped = True
        self.release()
        self.vanish()
        self._place.close()
        with self._changed:
            threads = list(self._threads)
        deadline = time.monotonic() + 5
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = [thread.name for thread in threads if thread.is_alive()]
        if left:
            raise RuntimeError(f"relay threads did not end: {left}")

    def __enter__(self) -> Relay:
        return self.start()

    # Within.

    def _listen(self) -> None:
        listener = _bound(self.host, self.port)
        listener.listen(256)
        with self._changed:
            self._listener = listener
        self._spawn(self._accept, listener)

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(
            target=target, args=args, name=f"relay-{self.port}-{target.__name__}", daemon=True
        )
        with self._changed:
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
            # Started under the lock, which costs nothing here: one not yet started is not alive.
            thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with self._changed:
                    current = self._listener is listener
                    refusal = self._refuse_connections
                    full = self._turn_away_locked("greeting", len(self._controls))
                if not current or refusal:
                    _close(client, refusal or "rst")
                elif full is not None:
                    with contextlib.suppress(OSError):
                        client.sendall(_line(full))
                    _close(client, "fin")
                else:
                    self._open(client)

    def _open(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.server, timeout=10)
        except OSError:
            _close(client, "rst")
            return
        for sock in (client, server):
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # ftplib sends ABOR as urgent data; out of line its last byte would be lost.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        with self._changed:
            self._numbers += 1
            record = Connection(self._numbers, time.monotonic())
            control = _Control(self, client, server, record)
            self._connections.append(record)
            self._controls.add(control)
            self._peak = max(self._peak, len(self._controls))
            gone = self._listener is None
            self._changed.notify_all()
        self._spawn(control.read_server)
        self._spawn(control.write_client)
        self._spawn(control.read_client)
        if gone:
            control.cut("rst")

    def _quiet(self) -> bool:
        with self._changed:
            return not self._controls and not self._links

    def _turn_away_locked(self, at: Literal["greeting", "login"], now: int) -> str | None:
        if self._limit is None:
            return None
        most, reply, where = self._limit
        return reply if where == at and now >= most else None

    def _add(self, rule: Rule) -> Rule:
        rule._relay = self
        with self._changed:
            self._rules.append(rule)
        return rule

    def _add_data(self, rule: DataRule) -> DataRule:
        rule._relay = self
        with self._changed:
            self._data_rules.append(rule)
        return rule

    def _remove(self, rule: Rule | DataRule) -> None:
        with self._changed, contextlib.suppress(ValueError):
            if isinstance(rule, Rule):
                self._rules.remove(rule)
            else:
                self._data_rules.remove(rule)

    def _match_locked(self, command: Command) -> Rule | None:
        for rule in self._rules:
            if rule.verb not in (None, command.verb):
                continue
            if rule.where is not None and not rule.where(command):
                continue
            if rule.times is not None and rule.hits >= rule.times:
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            rule.hits += 1
            return rule
        return None


@dataclass(eq=False)
class _Expected:
    """A command whose final reply has not come, or one that the relay answers itself."""

    command: Command | None  # None: the greeting
    rule: Rule | None = None
    # The value of `_released` when it came: `release` lets its reply go even before that is here.
    released: int = 0
    preliminary: int = 0


@dataclass(eq=False)
class _Outgoing:
    """Bytes for the client, when they are due, and the release they wait for."""

    data: bytes
    due: float
    held: int | None = None  # the value of `_released` that does not let it go yet
    cut: How | None = None  # cut instead


class _Control:
    """One control connection. `_expected` and `_outgoing` are guarded by the relay's lock."""

    def __init__(
        self, relay: Relay, client: socket.socket, server: socket.socket, record: Connection
    ) -> None:
        self.relay = relay
        self.client = client
        self.server = server
        self.record = record
        self._expected: deque[_Expected] = deque([_Expected(None)])
        self._outgoing: deque[_Outgoing] = deque()
        self._server_done = False
        self.transfer = ""  # the last command that wants a data connection
        self._told = 0  # how often something was sent to the client; its writer's
        # Set by the server's reader at 234; the client says nothing between AUTH and that.
        self._raw = relay.raw
        self._cut: How | None = None
        self._users = 3
        self._listener: socket.socket | None = None
        self._link: _Link | None = None

    def cut(self, how: How) -> None:
        """Cut both sides, and the data connection."""
        with self.relay._changed:
            if self._cut is None:
                self._cut = how
            listener, self._listener = self._listener, None
            link = self._link
            self.relay._changed.notify_all()
        for sock in (self.client, self.server):
            _cut(sock, how)
        if listener is not None:
            _wake(listener)
        if link is not None:
            link.cut(how)

    def _leave(self) -> None:
        """A thread of this connection ends; the last one closes the sockets."""
        relay = self.relay
        with relay._changed:
            self._users -= 1
            if self._users:
                return
            listener, self._listener = self._listener, None
            relay._controls.discard(self)
            self.record.closed = time.monotonic()
            how = self._cut or "fin"
        for sock in (self.client, self.server):
            _close(sock, how)
        if listener is not None:
            _wake(listener)
        with relay._changed:
            relay._changed.notify_all()

    # client -> server

    def read_client(self) -> None:
        try:
            self._read_client()
        except OSError:
            self.cut("rst")
        finally:
            if not self._cut:
                _half_close(self.server)
            self._leave()

    def _read_client(self) -> None:
        pending = b""
        while True:
            data = self.client.recv(65536)
            if not data or self._cut:
                return
            if self._raw:
                if not _send(self.server, data, lambda: self._cut is not None):
                    return
                continue
            *lines, pending = (pending + data).split(b"\n")
            if len(pending) > LINE_LIMIT:
                self.cut("rst")
                return
            heard = self._told
            batch = bytearray()  # commands of one segment go on in one segment
            for line in lines:
                verdict = self._take(line + b"\n", heard)
                if verdict == "cut":
                    # What stood before it in the same segment did reach the server.
                    _send(self.server, batch, lambda: False)
                    self.cut(self._cut_how)
                    return
                if isinstance(verdict, bytes):
                    batch += verdict
            if batch and not _send(self.server, batch, lambda: self._cut is not None):
                return

    _cut_how: How = "rst"

    def _take(self, line: bytes, heard: int) -> bytes | Literal["refuse", "cut"]:
        """Record a command, decide about it, and note which reply it waits for.

        What the server is to hear, if anything.
        """
        # An ABOR may come with Telnet's interrupt in front.
        verb, _, arg = _IAC.sub(b"", line.rstrip(b"\r\n")).partition(b" ")
        relay = self.relay
        command = Command(
            self.record.number,
            verb.decode("ascii", "replace").upper(),
            line.rstrip(b"\r\n")[len(verb) + 1 :].decode("utf-8", "surrogateescape") if arg else "",
            time.monotonic(),
            heard,
        )
        with relay._changed:
            relay._commands.append(command)
            if command.verb in _TRANSFERS:
                self.transfer = command.verb
            relay._changed.notify_all()
            rule = relay._match_locked(command)
            if command.verb == "PASS" and rule is None:
                now = sum(c.logged_in for c in relay._connections if c.closed is None)
                full = relay._turn_away_locked("login", now)
                if full is not None:
                    rule = Rule("PASS", 0, 1, "refuse", full)
            if rule is not None and rule.action == "cut" and rule.when == "before":
                self._cut_how = rule.how
                return "cut"
            self._expected.append(_Expected(command, rule, relay._released))
            if rule is not None and rule.action == "refuse":
                self._answer_locked()
                return "refuse"
        return _line(rule.instead) if rule is not None and rule.instead else line

    def _answer_locked(self) -> None:
        """Give the relay's own answers whose turn has come."""
        while self._expected:
            rule = self._expected[0].rule
            if rule is None or rule.action != "refuse":
                return
            self._expected.popleft()
            self._queue_locked(_line(rule.reply))

    # server -> client

    def read_server(self) -> None:
        try:
            for reply in _replies(self.server, lambda: self._raw):
                if self._cut:
                    break
                if self._raw:
                    with self.relay._changed:
                        self._queue_locked(reply)
                else:
                    self._raw = reply.startswith(b"234")
                    self._pass_on(reply)
        except OSError:
            pass
        finally:
            with self.relay._changed:
                self._server_done = True
                self.relay._changed.notify_all()
            self._leave()

    def _pass_on(self, reply: bytes) -> None:
        code = reply[:3]
        if code == b"227" or code == b"229":
            reply = self._redirect(reply)
        with self.relay._changed:
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
            self._queue_locked(_line(rule.reply))
        elif rule.action == "hold":
            self._queue_locked(reply, held=expected.released)
        # "drop": nothing goes on.

    def _queue_locked(
        self, data: bytes, *, held: int | None = None, cut: How | None = None
    ) -> None:
        relay = self.relay
        due = time.monotonic() + relay._latency
        self._outgoing.append(_Outgoing(data, due, held, cut))
        relay._changed.notify_all()

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
                if not _send(self.client, item.data, lambda: self._cut is not None):
                    break
        except OSError:
            # The client is gone; so that the server learns of it too:
            self.cut("rst")
        finally:
            if not self._cut:
                _half_close(self.client)
            self._leave()

    def _next(self) -> _Outgoing | None:
        """The next thing to send, when its time has come; None at the end."""
        relay = self.relay
        with relay._changed:
            while True:
                if self._cut:
                    return None
                item = self._outgoing[0] if self._outgoing else None
                wait: float | None = None
                if item is None:
                    if self._server_done:
                        return None
                elif not relay._hold_replies and item.held != relay._released:
                    wait = item.due - time.monotonic()
                    if wait <= 0:
                        # All that is due goes out at once, as the server sent it.
                        data = bytearray()
                        now = time.monotonic()
                        while self._outgoing:
                            item = self._outgoing[0]
                            if item.due > now or item.held == relay._released:
                                break
                            if item.cut:
                                if not data:
                                    return self._outgoing.popleft()
                                break
                            data += self._outgoing.popleft().data
                        return _Outgoing(bytes(data), now)
                relay._changed.wait(wait)

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
        listener.bind((self.relay.host, 0))
        listener.listen(1)
        mine = listener.getsockname()[1]
        with self.relay._changed:
            old, self._listener = self._listener, listener
        if old is not None:
            _wake(old)
        self.relay._spawn(self.accept_data, listener, port)
        if reply.startswith(b"227"):
            new = b"127,0,0,1,%d,%d" % divmod(mine, 256)
        else:
            new = b"(|||%d|)" % mine
        return reply[: match.start()] + new + reply[match.end() :]

    def accept_data(self, listener: socket.socket, port: int) -> None:
        relay = self.relay
        with listener:
            try:
                client, _ = listener.accept()
            except OSError:
                return
        with relay._changed:
            if self._listener is listener:
                self._listener = None
        try:
            server = socket.create_connection((relay.server[0], port), timeout=10)
        except OSError:
            _close(client, "rst")
            return
        client.settimeout(None)
        server.settimeout(None)
        record = DataConnection(self.record.number, time.monotonic())
        link = _Link(relay, self, client, server, record)
        with relay._changed:
            relay._data.append(record)
            relay._links.add(link)
            self._link = link
            gone = self._cut
            relay._changed.notify_all()
        relay._spawn(link.pump, "up")
        if gone:
            link.cut(gone)
        link.pump("down")


class _Link:
    """One data connection."""

    def __init__(
        self,
        relay: Relay,
        control: _Control,
        client: socket.socket,
        server: socket.socket,
        record: DataConnection,
    ) -> None:
        self.relay = relay
        self.control = control
        self.client = client
        self.server = server
        self.record = record
        self._cut: How | None = None
        self._users = 2

    def cut(self, how: How) -> None:
        with self.relay._changed:
            if self._cut is None:
                self._cut = how
            self.relay._changed.notify_all()
        _cut(self.client, how)
        _cut(self.server, how)

    def pump(self, direction: Direction) -> None:
        source, sink = self.server, self.client
        if direction == "up":
            source, sink = sink, source
        try:
            self._pump(direction, source, sink)
        except OSError:
            self.cut("rst")
        finally:
            if not self._cut:
                _half_close(sink)
            self._leave()

    def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        relay = self.relay
        buffer = memoryview(bytearray(CHUNK))
        passed = 0
        spent: set[DataRule] = set()  # a rule touches a connection once
        while True:
            rate = relay._data_rate
            n = source.recv_into(buffer, min(CHUNK, max(1, rate // 20)) if rate else CHUNK)
            if not n or self._cut:
                return
            done = 0
            while done < n:
                # Rules may come while data flows; the lock is cheap beside 256 KiB.
                rule, limit = self._next_rule(direction, passed, n - done, spent)
                part = buffer[done : done + limit]
                if limit and not _send(sink, part, lambda: self._cut is not None):
                    return
                passed += limit
                done += limit
                if direction == "down":
                    self.record.down = passed
                else:
                    self.record.up = passed
                if rule is not None:
                    spent.add(rule)
                    if rule.action == "stall":
                        self._stall()
                    else:
                        _drain(sink)
                        (self.control if rule.control else self).cut(rule.how)
                    if self._cut:
                        return
            if rate:
                time.sleep(n / rate)

    def _next_rule(
        self, direction: Direction, passed: int, ready: int, spent: set[DataRule]
    ) -> tuple[DataRule | None, int]:
        """The first rule that strikes within the next `ready` bytes, and the bytes before it."""
        with self.relay._changed:
            rules = [
                rule
                for rule in self.relay._data_rules
                if rule.direction == direction
                and rule not in spent
                and (rule.times is None or rule.hits < rule.times)
                and rule.verb in (None, self.control.transfer)
                and rule.after < passed + ready
            ]
            if not rules:
                return None, ready
            rule = min(rules, key=lambda rule: rule.after)
            rule.hits += 1
            return rule, max(0, rule.after - passed)

    def _stall(self) -> None:
        relay = self.relay
        with relay._changed:
            seen = relay._released
            while relay._released == seen and not self._cut:
                relay._changed.wait()

    def _leave(self) -> None:
        relay = self.relay
        with relay._changed:
            self._users -= 1
            if self._users:
                return
        _close(self.client, self._cut or "fin")
        _close(self.server, self._cut or "fin")
        with relay._changed:
            self.record.closed = time.monotonic()
            relay._links.discard(self)
            if self.control._link is self:
                self.control._link = None
            relay._changed.notify_all()


def _replies(sock: socket.socket, raw: Callable[[], bool]) -> Iterator[bytes]:
    """Whole replies, of one line or many (RFC 959, 4.2); at the end what is left over.

    Once `raw()`, whatever comes as it comes.
    """
    pending = b""
    lines: list[bytes] = []
    while True:
        data = sock.recv(65536)
        if not data:
            break
        if raw():
            yield data
            continue
        *complete, pending = (pending + data).split(b"\n")
        for line in complete:
            lines.append(line + b"\n")
            first = lines[0]
            opened = len(first) > 3 and first[:3].isdigit() and first[3:4] == b"-"
            if not opened or (len(lines) > 1 and line.startswith(first[:3] + b" ")):
                yield b"".join(lines)
                lines = []
    rest = b"".join(lines) + pending
    if rest:
        yield rest


def _line(reply: str) -> bytes:
    return reply.encode("utf-8", "surrogateescape").rstrip(b"\r\n") + b"\r\n"


def _send(
    sock: socket.socket, data: bytes | bytearray | memoryview, given_up: Callable[[], bool]
) -> bool:
    """Send it all, unless `given_up()`. A plain sendall would sit in a full buffer for ever."""
    view = memoryview(data)
    while view:
        if given_up():
            return False
        try:
            sent = sock.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            poller = select.poll()
            poller.register(sock, select.POLLOUT)
            poller.poll(50)
            continue
        view = view[sent:]
    return True


def _drain(sock: socket.socket, timeout: float = 2.0) -> None:
    """Wait until the other side has all that was sent: a reset throws the rest away.

    Only for so long, because a peer that does not read never takes it.
    """
    left = bytearray(4)
    deadline = time.monotonic() + timeout
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            fcntl.ioctl(sock, termios.TIOCOUTQ, left)
            if not any(left):
                return
            time.sleep(0.001)


_LINGER_OFF = struct.pack("ii", 1, 0)  # close() then resets the connection


def _cut(sock: socket.socket, how: How) -> None:
    """End `sock` while other threads are in recv() on it: they wake up, and the last closes it.

    close() itself would wake nobody. A reset must not be preceded by a FIN, so only the reading
    side is shut for it, which sends nothing; closing sends the RST.
    """
    with contextlib.suppress(OSError):
        if how == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
            sock.shutdown(socket.SHUT_RD)
        else:
            sock.shutdown(socket.SHUT_RDWR)


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address that it may share, as long as only one of them listens."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


def _wake(listener: socket.socket) -> None:
    """Make accept() in another thread fail; that thread closes the socket."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def _half_close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def _close(sock: socket.socket, how: How) -> None:
    with contextlib.suppress(OSError):
        if how == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        sock.close()
