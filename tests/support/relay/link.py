"""One data connection through a relay."""

from __future__ import annotations

import socket
import time
from typing import Protocol

from tests.support.relay.faults import DataRule
from tests.support.relay.hub import Hub
from tests.support.relay.record import DataConnection, Direction
from tests.support.relay.sockets import How, close, cut, drain, half_close, send

CHUNK = 256 * 1024  # a data thread pays per call: 64 KiB gave half the throughput


class Owner(Protocol):
    """The control connection that a data connection belongs to."""

    transfer: str  # the last command that wants a data connection

    def cut(self, how: How) -> None: ...

    def link_closed_locked(self, link: Link) -> None: ...


class Link:
    """One data connection."""

    def __init__(
        self,
        hub: Hub,
        control: Owner,
        client: socket.socket,
        server: socket.socket,
        record: DataConnection,
    ) -> None:
        self.hub = hub
        self.control = control
        self.client = client
        self.server = server
        self.record = record
        self._cut: How | None = None
        self._users = 2
        self.forgotten = False

    def cut(self, how: How) -> None:
        with self.hub.changed:
            if self._cut is None:
                self._cut = how
            self.hub.changed.notify_all()
        cut(self.client, how)
        cut(self.server, how)

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
                half_close(sink)
            self._leave()

    def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        hub = self.hub
        buffer = memoryview(bytearray(CHUNK))
        passed = 0
        spent: set[DataRule] = set()  # a rule affects a connection once
        while True:
            rate = hub.data_rate
            n = source.recv_into(buffer, min(CHUNK, max(1, rate // 20)) if rate else CHUNK)
            if not n or self._cut:
                return
            if self.forgotten:
                self._stall()
                return
            done = 0
            while done < n:
                # Rules may come while data flows; the lock is cheap beside 256 KiB.
                end = passed + n - done
                rule = hub.next_data_rule(direction, self.control.transfer, end, spent)
                limit = n - done if rule is None else max(0, rule.after - passed)
                part = buffer[done : done + limit]
                if limit and not send(sink, part, lambda: self._cut is not None):
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
                        drain(sink)
                        (self.control if rule.control else self).cut(rule.how)
                    if self._cut:
                        return
            if rate:
                time.sleep(n / rate)

    def _stall(self) -> None:
        hub = self.hub
        with hub.changed:
            seen = hub.released
            while hub.released == seen and not self._cut:
                hub.changed.wait()

    def _leave(self) -> None:
        hub = self.hub
        with hub.changed:
            self._users -= 1
            if self._users:
                return
        close(self.client, self._cut or "fin")
        close(self.server, self._cut or "fin")
        with hub.changed:
            hub.links.discard(self)
            self.control.link_closed_locked(self)
            hub.note_closed_locked(self.record)
